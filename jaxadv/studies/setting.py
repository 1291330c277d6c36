"""The setting of a study: data, seeds, sizes, and a folder for stored networks and results."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxadv.core.attack import Attack
from jaxadv.core.model import Model
from jaxadv.core.result import Result, Status
from jaxadv.data import Dataset
from jaxadv.engine.run import run
from jaxadv.engine.stage import describe
from jaxadv.engine.store import Store, fingerprint


def _silent(stage: str, done: int, total: int) -> None:
    pass


class Setting(NamedTuple):
    """The setting of a study.

    Attributes:
        train: Training set, images [N, H, W, C] in [0, 1].
        test: Test set, images of the same shape.
        folder: Folder in which networks and results are stored and found again.
        seeds: Number of networks of each kind, trained from different seeds.
        examples: Number of images to attack.
        quick: Reduce every study to a few minutes.
        progress: Called with (stage, done, total).
    """

    train: Dataset
    test: Dataset
    folder: Path
    seeds: int = 3
    examples: int = 500
    quick: bool = False
    progress: Callable[[str, int, int], None] = _silent

    def run(
        self, name: str, attack: Attack, model: Model, images: Any, goal: Any,
        epsilon: Any = None, *, key: Any = None, **settings: Any,
    ) -> Result:  # fmt: skip
        """Run an attack as `ja.run`, and store the result under `name`.

        Equal arguments load the stored result. An interrupted run is not stored: KeyboardInterrupt
        is raised.
        """
        key = jax.random.key(0) if key is None else key
        mark = fingerprint(
            describe(attack), model.params, np.asarray(images), goal,
            np.asarray(epsilon, np.float64), jax.random.key_data(key), sorted(settings),
            [settings[name] for name in sorted(settings)],
        )  # fmt: skip
        store = Store(self.folder / "runs")
        found = store.load(name, mark)
        if found is None:
            found = run(
                attack, model, images, goal, epsilon, key=key,
                progress=lambda done, total, _: self.progress(name, done, total), **settings,
            )  # fmt: skip
            if "budget" not in settings and (found.status == Status.NOT_RUN).any():
                raise KeyboardInterrupt  # a study needs complete results
            store.save(name, mark, found)
        return found
