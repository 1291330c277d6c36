"""The nearest adversarial image: against closed forms, proved distances, and its own promises."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxadv as ja
from jaxadv.core.norms import distance64
from jaxadv.core.result import Status
from jaxadv.protocols.cached_run import attack_of, describe
from jaxadv.protocols.portfolios import EFFORTS, get_portfolio, members_of
from tests.common import IMAGES, KEY, LABELS, MODEL

ONE = jax.devices()[:1]
COARSE = ja.MinimalEpsilon(ja.PGD(steps=5, loss="margin"), rounds=4)
TWO = {"PGD": COARSE, "FAB": ja.Refine(ja.FAB(steps=10))}
SETTINGS = {"devices": ONE, "lanes": 8, "key": KEY}


@pytest.mark.slow
def test_what_is_returned_is_what_it_says() -> None:
    found = ja.minimal_distance(MODEL, IMAGES, LABELS, effort=TWO, **SETTINGS)
    right = np.arange(21) != 3
    np.testing.assert_array_equal(
        found.success, np.asarray(MODEL(found.images)).argmax(1) != LABELS
    )
    np.testing.assert_array_equal(
        found.distance[found.success],
        distance64("linf", found.images, IMAGES)[found.success],
    )
    assert (found.distance[3], found.member[3], found.forward[3]) == (0, -1, 1)
    assert found.success[right].all() and (found.member[right] >= 0).all()
    # The path only falls, and ends where the image is; who is named is who made the last step.
    assert (np.diff(found.path, axis=0) <= 0).all()
    np.testing.assert_array_equal(found.path[-1], found.distance)
    moved = (found.path[1] < found.path[0])[right]
    np.testing.assert_array_equal(found.member[right], moved.astype(int))
    assert moved.sum() > 0  # the second does go on from the first
    curve = found.robust_accuracy([0.0, *np.sort(found.distance)])
    assert curve[0] == 20 / 21
    np.testing.assert_allclose(curve[1:], 1 - np.arange(1, 22) / 21)


@pytest.mark.slow
def test_an_image_does_not_depend_on_its_company() -> None:
    whole = ja.minimal_distance(MODEL, IMAGES, LABELS, effort=TWO, **SETTINGS)
    order = np.array([17, 3, 8, 0, 12])
    part = ja.minimal_distance(
        MODEL, IMAGES[order], LABELS[order], effort=TWO, ids=order, **SETTINGS
    )
    for field in ("images", "distance", "member", "forward", "backward", "status"):
        np.testing.assert_array_equal(getattr(whole, field)[order], getattr(part, field))


def test_a_budget_is_kept_and_a_stopped_run_goes_on(tmp_path) -> None:
    most = 1 + TWO["PGD"].specialize(ja.Untargeted(LABELS), 4).passes
    found = ja.minimal_distance(MODEL, IMAGES, LABELS, effort=TWO, passes=most, **SETTINGS)
    assert (found.forward + found.backward).max() <= most
    assert (found.member <= 0).all()  # the second would not fit
    seen: list[str] = []

    def stop(name: str, done: int, total: int, successes: int) -> None:
        seen.append(name)
        if name == "FAB":
            raise KeyboardInterrupt

    kept = {"store": tmp_path, **SETTINGS}
    with pytest.raises(KeyboardInterrupt):
        ja.minimal_distance(MODEL, IMAGES, LABELS, effort=TWO, progress=stop, **kept)
    again = ja.minimal_distance(
        MODEL,
        IMAGES,
        LABELS,
        effort=TWO,
        progress=lambda name, done, total, _: seen.append(f"{name} {done < total}"),
        **kept,
    )
    assert "PGD True" not in seen and "FAB True" in seen
    straight = ja.minimal_distance(MODEL, IMAGES, LABELS, effort=TWO, **SETTINGS)
    np.testing.assert_array_equal(again.images, straight.images)
    np.testing.assert_array_equal(again.forward, straight.forward)


@pytest.mark.slow
def test_targets_are_reached() -> None:
    targets = (LABELS + 1) % 4
    found = ja.minimal_distance(
        MODEL, IMAGES, ja.Targeted(LABELS, targets), effort={"FAB": ja.FAB(steps=10)}, **SETTINGS
    )
    reached = np.asarray(MODEL(found.images)).argmax(1) == targets
    np.testing.assert_array_equal(found.success, reached)
    assert reached.mean() > 0.9


def test_a_bound_that_is_broken_is_no_bound() -> None:
    lower = np.full(21, np.nan)
    found = ja.minimal_distance(MODEL, IMAGES, LABELS, effort=TWO, lower=lower, **SETTINGS)
    assert found.certified_accuracy([0.01]) == 0
    lower[5] = 2 * found.distance[5]
    with pytest.warns(ja.CheckWarning, match=r"lower: images 5"):
        again = ja.minimal_distance(MODEL, IMAGES, LABELS, effort=TWO, lower=lower, **SETTINGS)
    np.testing.assert_array_equal(again.distance, found.distance)  # nothing is lost


def test_a_budget_that_no_member_fits_is_not_run() -> None:
    found = ja.minimal_distance(MODEL, IMAGES, LABELS, effort=TWO, passes=5, **SETTINGS)
    right = np.arange(21) != 3
    assert (found.status[right] == Status.NOT_RUN).all() and found.status[3] == Status.MISCLASSIFIED


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"effort": "best"}, "effort='best'"),
        ({"norm": "l3"}, "norm='l3'"),
        ({"effort": {"a": ja.FAB(norm="l2")}}, "works in l2"),
        ({"lower": [1.0]}, "lower has shape"),
        ({"ids": [1]}, "ids has shape"),
    ],
)
def test_what_cannot_be_meant(arguments: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ja.minimal_distance(MODEL, IMAGES, LABELS, **arguments)


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("norm", ["linf", "l2", "l1", "l0"])
def test_a_stronger_effort_begins_with_the_weaker_one(norm: str, targeted: bool) -> None:
    efforts = [get_portfolio(effort, norm, targeted) for effort in EFFORTS]
    goal = ja.Targeted(LABELS, LABELS + 1) if targeted else ja.Untargeted(LABELS)
    for weaker, stronger in itertools.pairwise(efforts):
        begun = stronger[: len(weaker)]
        for one, same in zip(weaker, begun, strict=True):
            # The number of a member is part of its random key, its budget decides whether it runs.
            assert [*one.members] == [*same.members]
            assert (one.passes, one.searched) == (same.passes, same.searched)
            for entry, other in zip(one.members.values(), same.members.values(), strict=True):
                assert type(entry) is type(other)
                assert describe(attack_of(entry)) == describe(attack_of(other))
        assert stronger[-1].passes > weaker[-1].passes
    names = [name for phase in efforts[-1] for name in phase.members]
    assert len(names) == len(set(names))
    # One width of lanes for all members, since results are equal bits only at equal widths.
    attacks = [attack_of(entry) for entry in members_of(efforts[-1]).values()]
    assert {attack.specialize(goal, 10).queries for attack in attacks} == {1}


NETWORK = ja.Model(
    lambda w, x: jnp.tanh(x.reshape(len(x), -1) @ w[0] - 1) @ w[1],
    (
        np.random.default_rng(1).normal(size=(9, 12)).astype(np.float32),
        np.random.default_rng(2).normal(size=(12, 4)).astype(np.float32),
    ),
)


@pytest.mark.parametrize(
    "norm", ["linf", *(pytest.param(norm, marks=pytest.mark.slow) for norm in ("l2", "l1", "l0"))]
)
def test_more_effort_never_answers_worse(norm: str) -> None:
    images = np.random.default_rng(0).uniform(size=(40, 3, 3, 1)).astype(np.float32)
    labels = np.asarray(NETWORK(images)).argmax(1)
    weak, more = (
        ja.minimal_distance(NETWORK, images, labels, norm, effort=effort, **SETTINGS)
        for effort in ("fast", "standard")
    )
    assert weak.success.sum() > 30 and (more.distance <= weak.distance).all()
    # By construction: the same members find the same images before others go on.
    np.testing.assert_array_equal(more.path[: len(weak.path)], weak.path)
    for found, most in ((weak, 400), (more, 2_000)):
        assert (found.forward + found.backward).max() <= most
