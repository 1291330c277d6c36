"""The setting of a study: data, seeds, sizes, and a folder for stored networks and results."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import PyTree

from jaxadv.core.attack import Attack
from jaxadv.core.model import Model
from jaxadv.core.result import Result
from jaxadv.data import Dataset
from jaxadv.data.texts import Texts
from jaxadv.engine.result_store import Store, fingerprint
from jaxadv.protocols.runs import Runs

COLOUR = 10 / 255  # of colour images, the Linf radius of Moosavi-Dezfooli et al. (2016)


def _silent(stage: str, done: int, total: int) -> None:
    pass


class Given(NamedTuple):
    """A network that studies use in place of their own.

    Attributes:
        name: Its name in the tables. Without a model, the name of a definition of
            `jaxadv.models.definitions` or of one of `networks.RECIPES`, which is trained here.
        model: The model, None for a network that is trained here.
    """

    name: str
    model: Model | None = None


class Setting(NamedTuple):
    """The setting of a study.

    Attributes:
        train: Training set, images [N, H, W, C] in [0, 1].
        test: Test set, images of the same shape.
        folder: Folder in which networks and results are stored.
        seeds: Number of networks of each kind, trained from different seeds; of a model that is
            given there is one.
        examples: Number of images to attack.
        quick: Reduce every study to a few minutes.
        progress: Called with (stage, done, total).
        networks: Networks in place of each study's own; none: its own. A study of one network
            takes the first.
        epsilon: Linf radius in place of each study's own.
        texts: The user's texts, for the studies of texts (None: those that are always there).
    """

    train: Dataset
    test: Dataset
    folder: Path
    seeds: int = 3
    examples: int = 500
    quick: bool = False
    progress: Callable[[str, int, int], None] = _silent
    networks: tuple[Given, ...] = ()
    epsilon: float | None = None
    texts: Texts | None = None

    def radius(self, of_digits: float) -> float:
        """Return the Linf radius: the one that is stated, else that of digits or of colour images.

        Args:
            of_digits: The study's radius for images of one channel.

        Returns:
            The radius.
        """
        if self.epsilon is not None:
            return self.epsilon
        return of_digits if self.train.images.shape[-1] == 1 else COLOUR

    @property
    def seeds_in_words(self) -> str:
        """The number of seeds, as notes name it."""
        return "1 seed" if self.seeds == 1 else f"{self.seeds} seeds"

    @property
    def store(self) -> Path:
        """The folder in which the results of attacks are stored."""
        return self.folder / "runs"

    def report(self, name: str, done: int, total: int, successes: int) -> None:
        """Report the progress of one attack, without its successes."""
        self.progress(name, done, total)

    @property
    def runs(self) -> Runs:
        """Runs of attacks whose results are stored in `store`."""
        return Runs(Store(self.store), self.report)

    def run(
        self, name: str, attack: Attack, model: Model, *arguments: Any, **settings: Any
    ) -> Result:
        """Run an attack or load its stored result: `Runs.run` of `runs`."""
        return self.runs.run(name, attack, model, *arguments, **settings)

    def keep(
        self, name: str, same: PyTree, compute: Callable[[], Mapping[str, Any]]
    ) -> dict[str, np.ndarray]:
        """Compute arrays, or load those that an earlier run of the study computed and stored.

        Args:
            name: Name of the arrays in the folder `kept`.
            same: All that they depend on: arrays, and values that JSON can hold.
            compute: Returns the arrays by name.

        Returns:
            The arrays by name.
        """
        store, digest = Store(self.folder / "kept"), fingerprint(same)
        arrays = store.load_arrays(name, digest)
        if arrays is None:
            arrays = {key: np.asarray(value) for key, value in compute().items()}
            store.save_arrays(name, digest, **arrays)
        return arrays
