"""Every attack, through one test: what all of them owe, whatever they do inside."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxadv as ja
from jaxadv.attacks import ATTACKS
from jaxadv.core.norms import distance64

KEY = jax.random.key(7)
EPSILON = {"linf": 0.15, "l2": 1.2, "l1": 5.0, "l0": 12.0}
INNER = {
    "Repeated": lambda norm: ja.Repeated(ja.PGD(norm=norm, steps=8), 2),
    "EachTarget": lambda norm: ja.EachTarget(ja.PGD(norm=norm, steps=8, loss="margin"), 2),
    "MinimalEpsilon": lambda norm: ja.MinimalEpsilon(ja.PGD(norm=norm, steps=8), rounds=5),
}
SETTINGS = {"NIFGSM", "SIFGSM", "SINIFGSM", "TIFGSM", "VMIFGSM", "Transfer"}  # as MIFGSM, ...
STEPS = {"CW": 100, "NES": 20, "OnePixel": 10, "SPSA": 20, "SimBA": 200, "SparseRS": 300,
         "Square": 300, "ZOO": 40}  # fmt: skip
CASES = [  # of each attack one norm, all of them with -m slow
    pytest.param(name, norm, marks=pytest.mark.slow if number or name in SETTINGS else [])
    for name, attack in sorted(ATTACKS.items())
    for number, norm in enumerate(attack.norms)
]


def make(name: str, norm: str, images: np.ndarray | None = None) -> ja.Attack:
    images = IMAGES if images is None else images
    if name == "Masked":
        mask = np.arange(images[0].size).reshape(images.shape[1:]) % 5 > 0
        return ja.Masked(ja.PGD(norm=norm, steps=8, loss="margin"), mask)
    if name == "AdversarialPatch":
        return ja.AdversarialPatch(size=images.shape[1] - 1)
    if name in INNER:
        return INNER[name](norm)
    if name == "LBFGS":
        return ja.LBFGS()
    if name == "Admix":
        return ja.Admix(norm=norm, mixed_images=images[:5], mixed_labels=np.arange(5) % 4)
    if name == "ILA":
        return ja.ILA(norm=norm, classes=3)  # whatever the network answers behind is a feature
    if name == "EAD":
        return ja.EAD(steps=100)
    if name in STEPS:
        return ATTACKS[name](norm=norm, steps=STEPS[name])  # type: ignore[call-arg]
    return ATTACKS[name](norm=norm)  # type: ignore[call-arg]


def network(seed: int = 0, classes: int = 4) -> ja.Model:
    """A smooth random network on 6 x 6 images: its own answers are the labels."""
    a, b = jax.random.split(jax.random.key(seed))
    params = {"a": jax.random.normal(a, (36, 24)) / 3, "b": jax.random.normal(b, (24, classes)) / 3}
    return ja.Model(lambda p, x: jnp.tanh((x.reshape(len(x), -1) - 0.5) @ p["a"]) @ p["b"], params)


IMAGES = np.asarray(jax.random.uniform(jax.random.key(1), (21, 6, 6, 1)))
MODEL = network()
LABELS = np.asarray(MODEL(IMAGES).argmax(-1)).copy()
LABELS[3] = (LABELS[3] + 1) % 4  # one image is misclassified from the start
GOAL = ja.Untargeted(LABELS)


@pytest.mark.parametrize(("name", "norm"), CASES)
def test_what_every_attack_owes(name: str, norm: str) -> None:
    attack = make(name, norm).prepared(GOAL, 4)
    epsilon = EPSILON[norm] if attack.needs_epsilon else None
    keep = "first" if attack.keep == "last" else attack.keep  # "last" is made for another judge
    start = np.clip(IMAGES + 0.03, 0, 1) if name == "ILA" else None
    result = ja.run(attack, MODEL, IMAGES, GOAL, epsilon, key=KEY, lanes=8, keep=keep, start=start)

    # Recomputed here with numpy from the images alone.
    distance = distance64(norm, result.images, IMAGES)
    np.testing.assert_array_equal(result.distance, distance)
    assert result.images.min() >= 0
    assert result.images.max() <= 1
    if epsilon is not None:
        assert (distance <= epsilon).all()
    logits = np.asarray(MODEL(result.images))
    np.testing.assert_array_equal(result.success, logits.argmax(1) != LABELS)
    assert not result.rejected

    assert result.status[3] == ja.Status.MISCLASSIFIED
    assert (result.distance[3], result.forward[3], result.backward[3]) == (0, 1, 0)
    # Never more than the attack says that it may take.
    most = attack.ticks * attack.entries
    assert (result.forward <= 1 + most * attack.queries).all()
    assert (result.backward <= most * attack.queries * attack.pullbacks).all()
    assert (result.backward < max(attack.pullbacks, 1) * result.forward).all()
    assert (result.computed >= result.forward).all()
    if attack.pullbacks == 0:
        assert not result.backward.any()
    elif name in ("APGD", "PGD", "Diverse", "MinimalEpsilon", "BIM", "FAB", "LBFGS"):
        assert result.success.sum() > 10

    # No result depends on order, company, lane or device (test_run.py: on the devices).
    order = np.random.default_rng(0).permutation(21)[:11]
    part = ja.run(attack, MODEL, IMAGES[order], ja.Untargeted(LABELS[order]), epsilon, key=KEY,
                  ids=order, lanes=8, keep=keep,
                  start=None if start is None else start[order])  # fmt: skip
    for whole, piece in zip(result[:-1], part[:-1], strict=True):
        np.testing.assert_array_equal(whole[order], piece)


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


def test_minimal_epsilon_of_a_minimal_attack_is_refused() -> None:
    with pytest.raises(ValueError, match="takes an epsilon"):
        ja.MinimalEpsilon(ja.MinimalEpsilon(ja.PGD()))
