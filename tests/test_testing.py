"""An attack's author: each mistake is one line that names it, and a sound attack passes all."""

import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxadv as ja
from jaxadv.attacks import Attack, GradientAttack
from jaxadv.attacks.common.gradient import GradientState, steepest_ascent
from jaxadv.core.contract import check_contract
from jaxadv.engine.checks import check_attack
from tests.common import GOAL, IMAGES, KEY, MODEL

SHAPE = IMAGES.shape[1:]


@ja.pytree
class Cosine(GradientAttack):
    """Momentum with steps that shrink, in six lines."""

    decay: Any = 0.9

    def transformation(self, problem):
        cosine = optax.cosine_decay_schedule(1.0, self.steps)
        ascent = steepest_ascent(self, problem)
        return optax.chain(optax.trace(self.decay), ascent, optax.scale_by_schedule(cosine))


class MomentumState(NamedTuple):
    image: Any  # [H, W, C]
    momentum: Any  # [H, W, C]
    step: Any  # gradients taken


@ja.pytree
class MIPGD(Attack):
    """The same without a base that helps: every method of the contract."""

    norm: str = ja.static("linf")
    steps: int = ja.static(8)
    decay: Any = 0.9

    @property
    def ticks(self):
        return self.steps + 1

    def init(self, problem, key):
        return MomentumState(problem.image, jnp.zeros_like(problem.image), jnp.int32(0))

    def ask(self, problem, state):
        return state.image[None]

    def needs(self, problem, state):
        return ja.Needs(jnp.ones(1, bool), (state.step < self.steps)[None])

    def tell(self, problem, state, answer):
        gradient = answer.gradients[0, 0]
        momentum = self.decay * state.momentum + gradient / jnp.maximum(
            jnp.abs(gradient).mean(), 1e-12
        )
        step = 0.2 * (1 + jnp.cos(jnp.pi * state.step / self.steps)) / 2
        image = state.image + step * problem.epsilon * jnp.sign(momentum)
        return MomentumState(self.project(problem, image), momentum, state.step + 1)

    def done(self, problem, state):
        return state.step > self.steps


def changed(**body: Any) -> Attack:
    """MIPGD with other methods or class attributes."""
    return ja.pytree(type("MIPGD", (MIPGD,), body))()


def without(name: str) -> Attack:
    """MIPGD that leaves a method to the base."""
    return changed(**{name: vars(Attack)[name]})


def told(change: Any) -> Attack:
    """MIPGD whose `tell` returns something else."""
    return changed(tell=lambda self, problem, state, answer: change(state))


def check(attack: Attack) -> None:
    check_attack(attack)
    check_contract(attack, GOAL, SHAPE, 4, KEY, False)


class Undecorated(MIPGD):
    pass


@ja.pytree
class Text(MIPGD):
    mode: str = "fast"


@ja.pytree
class Static(MIPGD):
    layers: Any = ja.static(default=())


@ja.pytree
class Unannotated(MIPGD):
    steps = 3


MISTAKES = {
    "no pytree": (
        Undecorated,
        "Undecorated is not decorated: decorate Undecorated with @ja.pytree",
    ),
    "none inside": (
        lambda: ja.MinimalEpsilon(Undecorated()),
        "Undecorated is not decorated: decorate Undecorated with @ja.pytree",
    ),
    "a text as a leaf": (
        Text,
        "Text.mode is 'fast' (str), which is no array: declare the field with ja.static(...)",
    ),
    "a static array": (
        lambda: Static(layers=np.ones(2)),
        "Static.layers is an array and static: declare it without ja.static",
    ),
    "a default without annotation": (
        Unannotated,
        "Unannotated.steps = 3 has no annotation and would be ignored: write steps: int = ...",
    ),
    "no ticks": (lambda: without("ticks"), "MIPGD defines no ticks"),
    "no init": (lambda: without("init"), "MIPGD defines no init(problem, key)"),
    "no ask": (lambda: without("ask"), "MIPGD defines no ask(problem, state)"),
    "no tell": (lambda: without("tell"), "MIPGD defines no tell(problem, state, answer)"),
    "no done": (lambda: without("done"), "MIPGD defines no done(problem, state)"),
    "no done inside": (
        lambda: ja.MinimalEpsilon(without("done")),
        "MIPGD defines no done(problem, state)",
    ),
    "ticks of another type": (
        lambda: changed(ticks=9.0),
        "MIPGD.ticks is 9.0: make it an integer, 1 or more",
    ),
    "labels and gradients": (
        lambda: changed(label_only=True),
        "MIPGD is label_only but needs gradients: set pullbacks = 0",
    ),
    "a norm that it does not know": (
        lambda: changed(norms=("l2",)),
        "norm='linf': MIPGD knows l2",
    ),
    "no query axis": (
        lambda: changed(ask=lambda self, problem, state: state.image),
        "MIPGD.ask returned float32[6, 6, 1]: return [queries, H, W, C], here [1, 6, 6, 1]",
    ),
    "images of integers": (
        lambda: changed(ask=lambda self, problem, state: state.image[None].astype(int)),
        "MIPGD.ask returned int32[1, 6, 6, 1]: return float[1, 6, 6, 1]",
    ),
    "nothing asked": (
        lambda: changed(ask=lambda self, problem, state: None),
        "MIPGD.ask returned None (NoneType): return [queries, H, W, C], here [1, 6, 6, 1]",
    ),
    "needs that are no Needs": (
        lambda: changed(needs=lambda self, problem, state: jnp.ones(1, bool)),
        "MIPGD.needs returned bool[1]: return ja.Needs(answers, gradients)",
    ),
    "needs that are no masks": (
        lambda: changed(
            needs=lambda self, problem, state: ja.Needs(jnp.ones(1), jnp.ones(1, bool))
        ),
        "MIPGD.needs, answers: returned float32[1]: return bool[1]",
    ),
    "needs without an axis": (
        lambda: changed(
            needs=lambda self, problem, state: ja.Needs(jnp.ones(1, bool), state.step < 3)
        ),
        "MIPGD.needs, gradients: returned bool[]: return [queries], here [1]",
    ),
    "used that is no mask": (
        lambda: changed(used=lambda self, problem, state, logits, read: logits),
        "MIPGD.used returned float32[1, 4]: return [queries], here [1]",
    ),
    "an objective for each class": (
        lambda: changed(objective=lambda self, goal, logits: logits),
        "MIPGD.objective returned float32[4]: return [], a single one",
    ),
    "cotangents without the axis of pullbacks": (
        lambda: changed(cotangents=lambda self, problem, state, logits: logits),
        "MIPGD.cotangents returned float32[1, 4]: return [queries, pullbacks, classes], here "
        "[1, 1, 4]",
    ),
    "done for each query": (
        lambda: changed(done=lambda self, problem, state: (state.step > 3)[None]),
        "MIPGD.done returned bool[1]: return [], a single one",
    ),
    "a number for done": (
        lambda: changed(done=lambda self, problem, state: state.step),
        "MIPGD.done returned int32[]: return bool[]",
    ),
    "a type that drifts": (
        lambda: told(lambda state: state._replace(step=state.step + 1.0)),
        "MIPGD: the leaf .step is int32[] from init and float32[] from tell: keep its shape and "
        "type",
    ),
    "a shape that drifts": (
        lambda: told(lambda state: state._replace(image=state.image[None])),
        "MIPGD: the leaf .image is float32[6, 6, 1] from init and float32[1, 6, 6, 1] from tell: "
        "keep its shape and type",
    ),
    "a state that is a text": (
        lambda: changed(init=lambda self, problem, key: (problem.image, "start")),
        "MIPGD.init returned a state whose leaf [1] is 'start' (str): a state holds arrays only; "
        "settings are fields of the attack",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line(mistake: str) -> None:
    make, said = MISTAKES[mistake]
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        check(make())


def test_a_state_of_another_structure_is_one_line() -> None:
    with pytest.raises(ValueError, match="MIPGD.tell returned a state of another structure") as one:
        check(told(lambda state: tuple(state)))
    assert "\n" not in str(one.value)


def test_what_fails_inside_a_method_names_it_and_keeps_the_cause() -> None:
    attack = told(lambda state: state.image @ state.image)
    with pytest.raises(ValueError, match=r"^MIPGD\.tell: TypeError: dot_general") as raised:
        check(attack)
    assert isinstance(raised.value.__cause__, TypeError)
    assert "\n" not in str(raised.value)


def test_python_branches_on_the_state_are_found() -> None:
    """What `init` knows at once is known to the loop no more."""

    def ask(self, problem, state):
        return state.image[None] if state.step == 0 else problem.image[None]

    with pytest.raises(ValueError, match=r"^MIPGD\.ask: TracerBoolConversionError"):
        check(changed(ask=ask))


def test_a_run_says_so_before_anything_is_compiled() -> None:
    traces = []

    def apply(weights, images):
        traces.append(1)
        return MODEL.apply(weights, images)

    attack = changed(done=lambda self, problem, state: state.step)
    with pytest.raises(ValueError, match=r"MIPGD.done returned int32\[\]"):
        ja.run(attack, ja.Model(apply, MODEL.params), IMAGES, GOAL, 0.1, key=KEY)
    assert len(traces) <= 2  # for the number of classes, and whether it has a gradient


@pytest.mark.parametrize("attack", [Cosine(steps=8), MIPGD()], ids=["short", "long"])
def test_a_sound_attack_passes(attack: Attack) -> None:
    ja.testing.assert_attack(attack, devices=jax.local_devices()[:2])


@ja.pytree
class Careless(GradientAttack):
    """Leaves the ball, divides by a gradient of 0 and counts on the order of images."""

    steps: int = ja.static(3)

    def climb(self, problem, state, gradient):
        image = state.image + 0.1 * gradient / jnp.abs(gradient).mean()
        return GradientState(image, state.optimizer, state.step + 1)


def test_what_an_attack_breaks_is_named() -> None:
    with pytest.raises(AssertionError) as raised:
        ja.testing.assert_attack(Careless(), devices=jax.local_devices()[:2])
    first, *reasons = str(raised.value).splitlines()
    assert first.startswith("Careless fails ")
    failed = first.removeprefix("Careless fails ").split(", ")
    assert [line.split(":")[0] for line in reasons] == failed
    assert {"stays_in_ball", "zero_gradient_is_finite"} <= set(failed)
    assert not {"follows_the_contract", "counts_bounded", "nothing_recompiles"} & set(failed)


def test_of_an_attack_without_a_contract_nothing_else_is_checked() -> None:
    with pytest.raises(AssertionError, match="MIPGD fails follows_the_contract\n.*no done") as one:
        ja.testing.assert_attack(without("done"))
    assert len(str(one.value).splitlines()) == 2


def test_the_gradients_of_a_saturated_network_are_zero() -> None:
    """On which `zero_gradient_is_finite` relies."""
    params = {**MODEL.params, "a": MODEL.params["a"] * ja.testing.SATURATION}
    for k in range(4):
        gradient = jax.grad(lambda x, k=k: MODEL.apply(params, x)[:, k].sum())(jnp.asarray(IMAGES))
        assert not np.asarray(gradient).any()
