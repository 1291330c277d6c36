"""Every attack, through one test: what all of them owe, whatever they do inside."""

import dataclasses

import jax
import numpy as np
import optax
import pytest

import jaxadv as ja
from jaxadv.attacks import ATTACKS
from jaxadv.testing import LANES, assert_attack
from tests.common import EPSILON, GOAL, IMAGES, KEY, LABELS, MODEL, SLOW, make, slow

STRONG = {"APGD", "BIM", "Diverse", "FAB", "LBFGS", "MinimalEpsilon", "PGD"}
TWO = jax.local_devices()[:2]  # more images than lanes, and on more than one device
CASES = [  # of each attack one norm, all of them with -m slow
    slow(name, norm) if number or name in SLOW else (name, norm)
    for name, attack in sorted(ATTACKS.items())
    for number, norm in enumerate(attack.norms)
]


@pytest.mark.parametrize(("name", "norm"), CASES)
def test_what_every_attack_owes(name: str, norm: str) -> None:
    attack = make(name, norm)
    start = (lambda images: np.clip(images + 0.03, 0, 1)) if name == "ILA" else None
    assert_attack(attack, start=start, devices=TWO)
    if name in STRONG:  # the program is compiled already
        epsilon = EPSILON[norm] if attack.needs_epsilon else None
        keep = "first" if attack.keep == "last" else attack.keep  # as the checks ran it
        result = ja.run(
            attack, MODEL, IMAGES, GOAL, epsilon, key=KEY, lanes=LANES, devices=TWO, keep=keep
        )
        assert result.success.sum() > 10


@pytest.mark.slow
@pytest.mark.parametrize("name", ["FGSM", "PGD", "MIFGSM"])
def test_targeted_attacks_reach_their_target(name: str) -> None:
    targets = (LABELS + 1) % 4
    result = ja.run(
        ATTACKS[name](), MODEL, IMAGES, ja.Targeted(LABELS, targets), 0.4, key=KEY, lanes=8
    )
    np.testing.assert_array_equal(
        result.success, np.asarray(MODEL(result.images)).argmax(1) == targets
    )
    assert result.success.mean() > 0.5


@pytest.mark.slow
@pytest.mark.parametrize(
    "attack",
    [ja.BrendelBethge(norm="l2", steps=40), ja.LBFGS()],
    ids=["BrendelBethge", "LBFGS"],
)
def test_an_epsilon_does_not_bend_a_search_for_the_least_distance(attack: ja.Attack) -> None:
    """What lies beyond the best distance known so far still tells on which side it is."""
    how = {"key": KEY, "devices": jax.devices()[:1], "lanes": 21}
    free = ja.run(attack, MODEL, IMAGES, GOAL, **how)
    bound = ja.run(attack, MODEL, IMAGES, GOAL, free.distance * (1 + 1e-4), **how)
    np.testing.assert_array_equal(bound.success, free.success)
    np.testing.assert_allclose(bound.distance, free.distance, rtol=1e-5)


@pytest.mark.slow
def test_an_optax_optimiser_takes_the_place_of_steepest_ascent() -> None:
    adam = ja.PGD(optimizer=ja.Optimizer(optax.adam, learning_rate=0.02), loss="margin")
    result = ja.run(adam, MODEL, IMAGES, GOAL, 0.15, key=KEY, lanes=8)
    signs = ja.run(ja.PGD(loss="margin"), MODEL, IMAGES, GOAL, 0.15, key=KEY, lanes=8)
    assert (result.distance <= 0.15).all()
    assert result.success.sum() >= signs.success.sum() - 1


@pytest.mark.parametrize(
    "arguments", [{"steps": 0}, {"restarts": 0}, {"norm": "l3"}, {"loss": "hinge"}]
)
def test_settings_that_cannot_be_meant(arguments: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(arguments))):
        ja.PGD(**arguments)


STEPPING = [name for name, attack in sorted(ATTACKS.items()) if hasattr(attack, "step_size")]


@pytest.mark.parametrize("name", STEPPING)
def test_step_sizes_that_are_not_above_0_are_refused(name: str) -> None:
    attack = make(name, ATTACKS[name].norms[0])
    for step_size in (0, -0.1, float("nan"), float("inf"), np.float64(-1)):
        with pytest.raises(ValueError, match=r"step_size=\S+: pass a number above 0$"):
            dataclasses.replace(attack, step_size=step_size)


def test_a_step_size_may_be_traced() -> None:
    assert jax.jit(lambda size: ja.PGD(step_size=size).step_size)(0.25) == 0.25


@pytest.mark.slow
def test_minimal_epsilon_of_a_minimal_attack_is_refused() -> None:
    with pytest.raises(ValueError, match="takes an epsilon"):
        ja.MinimalEpsilon(ja.MinimalEpsilon(ja.PGD()))
