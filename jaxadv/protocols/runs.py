"""Single runs with a store: the same attack on the same images is run once."""

from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array

from jaxadv.core.attack import Attack
from jaxadv.core.goals import Goal
from jaxadv.core.model import Model
from jaxadv.core.result import Result, Status
from jaxadv.core.typing import ArrayLike, Numbers
from jaxadv.engine.checks import key_or_first
from jaxadv.engine.result_store import Store, fingerprint
from jaxadv.engine.run import run
from jaxadv.engine.session import StageProgress
from jaxadv.protocols.cached_run import describe


class Runs(NamedTuple):
    """Where results of `run` are kept, and how progress is reported.

    Attributes:
        store: The store, None to keep nothing.
        progress: Called with (name, rows done, rows in all, successes), or None.
    """

    store: Store | None = None
    progress: StageProgress | None = None

    def run(
        self,
        name: str,
        attack: Attack,
        model: Model,
        images: ArrayLike,
        goal: Goal,
        epsilon: Numbers | None = None,
        *,
        key: Array | None = None,
        **settings: Any,
    ) -> Result:
        """Call `ja.run` and keep its result under `name`; equal arguments load it again.

        A run that Ctrl-C ended early is not kept.

        Args:
            name: Name of the result in the store and in progress reports.
            attack: The attack with its settings.
            model: The model under attack.
            images: As in `ja.run`.
            goal: As in `ja.run`.
            epsilon: As in `ja.run`.
            key: A JAX random key (default: seed 0).
            **settings: Further arguments of `ja.run`.

        Returns:
            The result of the run.

        Raises:
            KeyboardInterrupt: If Ctrl-C ended the run and there is a store.
        """
        key, tell = key_or_first(key), self.progress
        progress = None if tell is None else lambda *now: tell(name, *now)
        if self.store is None:
            return run(attack, model, images, goal, epsilon, key=key, progress=progress, **settings)
        same = fingerprint(
            describe(attack),
            model.params,
            np.asarray(images),
            goal,
            np.asarray(epsilon, np.float64),
            jax.random.key_data(key),
            sorted(settings),
            [settings[name] for name in sorted(settings)],
        )
        result = self.store.load(name, same)
        if result is None:
            result = run(
                attack, model, images, goal, epsilon, key=key, progress=progress, **settings
            )
            if "budget" not in settings and (result.status == Status.NOT_RUN).any():
                raise KeyboardInterrupt  # a partial result must not be stored as a complete one
            self.store.save(name, same, result)
        return result
