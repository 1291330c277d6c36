"""What every study is given: data, seeds, sizes, and a folder that keeps what was computed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from jaxadv.core.attack import Attack
from jaxadv.core.model import Model
from jaxadv.core.result import Result
from jaxadv.data import Dataset
from jaxadv.engine.runs import Runs
from jaxadv.engine.store import Store


def _silent(stage: str, done: int, total: int) -> None:
    pass


class Setting(NamedTuple):
    """What a study works with.

    train, test: data sets of images [N, H, W, C] in [0, 1]; folder: where networks and results are
    kept and found again; seeds: networks of each kind, trained from different seeds; examples: how
    many images are attacked; quick: a few minutes for everything; progress: called with (stage,
    done, total).
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
