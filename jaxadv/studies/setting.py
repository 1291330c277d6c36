"""What every study is given: data, seeds, sizes, and a folder that keeps what was computed."""

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

    def run(
        self, name: str, attack: Attack, model: Model, images: Any, goal: Any,
        epsilon: Any = None, *, key: Any = None, **settings: Any,
    ) -> Result:  # fmt: skip
        """`ja.run`, whose result is kept under `name`; equal arguments find it there.

        What Ctrl-C cut short is not kept: KeyboardInterrupt goes on to the caller.
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
                raise KeyboardInterrupt  # a study must not take a part for the whole
            store.save(name, mark, found)
        return found
