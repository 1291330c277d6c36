"""The setting of a study: data, seeds, sizes, and a folder for stored networks and results."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from jaxadv.core.attack import Attack
from jaxadv.core.model import Model
from jaxadv.core.result import Result
from jaxadv.data import Dataset
from jaxadv.engine.result_store import Store
from jaxadv.protocols.runs import Runs


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

    @property
    def store(self) -> Path:
        """The folder in which the results of attacks are kept."""
        return self.folder / "runs"

    def report(self, name: str, done: int, total: int, successes: int) -> None:
        """The progress of one attack."""
        self.progress(name, done, total)

    @property
    def kept(self) -> Runs:
        """Runs of attacks that are kept in the store."""
        return Runs(Store(self.store), self.report)

    def run(self, name: str, attack: Attack, model: Model, *arguments: Any, **how: Any) -> Result:
        """`Runs.run`, of those that are kept in the store."""
        return self.kept.run(name, attack, model, *arguments, **how)
