"""A tampered class: no number without its adaptive counterpart, and each number by brute force."""

import dataclasses
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxadv as ja
from jaxadv.core.norms import distance64
from jaxadv.data import Dataset
from jaxadv.studies import EXPERIMENTS, Curves, Gallery, Setting, Table, Text, conduct
from jaxadv.studies.tampered import (
    Confrontation,
    Defence,
    Fooling,
    Made,
    Noise,
    Outcome,
    Perturbed,
    Universal,
    confront,
    detector_defence,
    extra_class,
)
from jaxadv.studies.tampered.defences import trained
from jaxadv.studies.tampered.families import fools
from jaxadv.studies.tampered.study import verdict

KEY = jax.random.key(0)
GOOD = Outcome("PGD", "noise", "class", 1.0, 0.9, 0.1, 0.8, 0.3, 0.3, 50)


def quadrants(count: int, seed: int) -> Dataset:
    """Images 8 x 8 of four classes: one quadrant is bright."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, count).astype(np.int32)
    images = rng.uniform(0, 0.25, (count, 8, 8, 1))
    for image, label in zip(images, labels, strict=True):
        top, left = 4 * (label // 2), 4 * (label % 2)
        image[top : top + 4, left : left + 4] += 0.5
    return Dataset(
        images.astype(np.float32),
        labels,
        np.arange(count, dtype=np.int32),
        "quadrants",
        tuple("abcd"),
    )


TRAIN, TEST = quadrants(600, 0), quadrants(120, 1)


@pytest.fixture(scope="module")
def setting(tmp_path_factory) -> Setting:
    return Setting(TRAIN, TEST, tmp_path_factory.mktemp("state"), examples=40, quick=True)


# A network by hand: the mean of each quadrant; and a detector of what is far from two levels.
PARTS = np.zeros((64, 4), np.float32)
for k in range(4):
    part = np.zeros((8, 8))
    part[4 * (k // 2) : 4 * (k // 2) + 4, 4 * (k % 2) : 4 * (k % 2) + 4] = 1 / 16
    PARTS[:, k] = part.ravel()
PLAIN = ja.Model(lambda w, x: x.reshape(len(x), -1) @ w, PARTS)
BRIGHT = ja.Model(
    lambda t, x: 20 * (x.mean((1, 2, 3)) - t)[:, None] * jnp.array([0.0, 1.0]), np.float32(0.29)
)
ATTACK = ja.PGD(loss="margin", steps=20)
GUARDED = Defence("bright", "detector", ja.with_detector(PLAIN, BRIGHT), rejected=4)


def brute_force(made: Made, kind: str) -> np.ndarray:
    """What the guarded network says of images, in float64."""
    flat = made.images.reshape(len(made.images), -1).astype(np.float64)
    refused = flat.mean(1) > 0.29
    return np.where(refused & (kind == "guarded"), 4, (flat @ PARTS).argmax(1))


@pytest.mark.slow
def test_every_share_by_brute_force():
    data = TEST.take(np.arange(40))
    family = Perturbed("PGD", ATTACK, 0.35)
    found = confront(family, PLAIN, [GUARDED], TRAIN, data, key=KEY)
    (outcome,), (made,), ordinary = found.outcomes, found.adaptive, found.ordinary
    assert found.right.all() and outcome.count == 40
    plain = brute_force(ordinary, "plain") != data.labels
    answers = brute_force(ordinary, "guarded")
    refused, missed = answers == 4, (answers != 4) & (answers != data.labels)
    evaded = np.isin(brute_force(made, "guarded"), range(4))
    evaded &= brute_force(made, "guarded") != data.labels
    assert outcome.plain == plain.mean()
    assert outcome.rejected == refused[plain].mean()
    assert outcome.missed == missed[plain].mean()
    assert outcome.adaptive == (evaded | missed).mean()
    for one in (ordinary, made):
        distance = distance64("linf", one.images, data.images)
        np.testing.assert_array_equal(one.distance, distance)
        assert (distance <= 0.35).all()
    # The attack that knows does better than the one that does not: images get darker, not brighter.
    assert outcome.adaptive > outcome.missed
    assert made.images.mean() <= ordinary.images.mean()


def test_no_number_without_its_adaptive_counterpart():
    """All fields are needed, none may be nan, and what confronts returns outcomes alone."""
    assert all(field.default is dataclasses.MISSING for field in dataclasses.fields(Outcome))
    for name in ("plain", "adaptive"):
        for value in (np.nan, None, -0.1, 1.5):
            with pytest.raises((ValueError, TypeError), match=f"{name}=|not supported"):
                dataclasses.replace(GOOD, **{name: value})
    hints = typing.get_type_hints(confront)
    assert hints["return"] is Confrontation
    assert typing.get_type_hints(Confrontation)["outcomes"] == tuple[Outcome, ...]
    with pytest.raises(TypeError, match="adaptive"):
        Outcome("PGD", "noise", "class", plain=1.0, rejected=0.9, missed=0.1, count=50)  # type: ignore[call-arg]


def test_an_attacker_may_use_what_the_defence_misses():
    """A defence that refuses nothing: the image made for the plain network serves, if any does."""
    never = ja.Model(BRIGHT.apply, np.float32(9.0))
    open_door = Defence("none", "detector", ja.with_detector(PLAIN, never), rejected=4)
    family = Perturbed("PGD", ATTACK, 0.35)
    data = TEST.take(np.arange(40))
    (outcome,) = confront(family, PLAIN, [open_door], TRAIN, data, key=KEY).outcomes
    assert outcome.rejected == 0 and outcome.missed == 1
    assert outcome.adaptive >= outcome.plain
    assert 0 < outcome.adaptive_distance <= outcome.plain_distance + 1e-6


def test_images_that_the_plain_network_gets_wrong_do_not_count():
    data = TEST.take(np.arange(40))
    wrong = data._replace(labels=np.where(np.arange(40) < 5, (data.labels + 1) % 4, data.labels))
    family = Perturbed("PGD", ATTACK, 0.01)
    found = confront(family, PLAIN, [GUARDED], TRAIN, wrong, key=KEY)
    assert found.outcomes[0].count == 35 and found.outcomes[0].plain == 0
    assert np.isnan(found.outcomes[0].rejected)
    with pytest.raises(ValueError, match="no image that the plain network gets right"):
        confront(
            family, PLAIN, [GUARDED], TRAIN, data._replace(labels=(data.labels + 1) % 4), key=KEY
        )


@pytest.mark.slow
def test_families_keep_their_promises():
    data = TEST.take(np.arange(12))
    universal = Universal("universal", 0.3, epochs=3, count=2)
    made = universal.make(PLAIN, TRAIN.take(np.arange(60)), data, None, KEY)
    assert (made.distance <= 0.3).all() and made.allowed.all()
    change = made.images - data.images
    for first in (0, 1):  # equal for all its images where the box does not cut
        free = ((made.images > 0) & (made.images < 1))[first::2]
        spread = np.where(free, change[first::2], np.nan)
        assert np.nanmax(np.nanmax(spread, 0) - np.nanmin(spread, 0)) < 1e-6
    minimal = Perturbed("DDN", ja.DDN(steps=30), 1.0).make(PLAIN, TRAIN, data, None, KEY)
    np.testing.assert_array_equal(minimal.allowed, minimal.distance <= 1.0)


def test_noise_is_drawn_until_it_is_not_refused():
    data, family = TEST.take(np.arange(30)), Noise(draws=10)
    ordinary = family.make(PLAIN, TRAIN, data, None, KEY)
    assert 0.48 < ordinary.images.mean() < 0.52
    assert fools(family, PLAIN, ordinary, None).all()  # whatever it is taken for
    assert not fools(family, GUARDED.model, ordinary, 4).any()  # brighter than what is natural
    made = family.make(GUARDED.model, TRAIN, data, 4, KEY)
    assert fools(family, GUARDED.model, made, 4).mean() > 0.9
    assert made.images.min() >= 0 and made.images.max() <= 1


@pytest.mark.slow
def test_a_class_learns_to_refuse_noise_and_pays_little(setting):
    noise = np.random.default_rng(3).random((200, 8, 8, 1)).astype(np.float32)
    plain = trained(setting, TRAIN)
    unseen = np.random.default_rng(4).random((200, 8, 8, 1)).astype(np.float32)
    for defence in (
        extra_class(setting, "noise", noise),
        detector_defence(setting, "noise", plain, noise),
    ):
        assert defence.rejected == 4
        right, refused = defence.on_natural(TEST)
        assert right > 0.95 and refused < 0.05
        assert (np.asarray(defence.model(unseen)).argmax(1) == 4).mean() > 0.95
        answers = np.asarray(defence.model(TEST.images)).argmax(1)
        assert right == pytest.approx((answers == TEST.labels).mean())


@pytest.mark.slow
def test_fooling_images_are_sought_among_natural_classes():
    family = Fooling("direct", "direct", generations=15, runs=2)
    made = family.make(GUARDED.model, TRAIN, TEST, 4, KEY)
    np.testing.assert_array_equal(made.labels, [0, 1, 2, 3] * 2)
    answers = np.asarray(GUARDED.model(made.images)).argmax(1)
    np.testing.assert_array_equal(fools(family, GUARDED.model, made, 4), answers == made.labels)


def test_the_verdict_says_both_numbers():
    detector = dataclasses.replace(GOOD, kind="detector", rejected=1.0, adaptive=0.2)
    said = verdict([GOOD, detector])
    assert "The class rejects 90 % of PGD images that do not know of it; 80 % evade it" in said
    assert "The detector rejects 100 % of PGD images that do not know of it; 20 % evade it" in said
    assert "none is evaded by less than 20 %" in said and "at least 11 %" in said


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in EXPERIMENTS if name.startswith("tampered.")])
def test_the_experiments_run_and_report_both(name, setting):
    findings = conduct(name, setting)
    tables = [part for part in findings.parts if isinstance(part, Table)]
    attacks = [table for table in tables if table.title.startswith(("Attack", "Rounds"))]
    assert attacks and {type(p) for p in findings.parts} <= {Table, Curves, Gallery, Text}
    for table in attacks:
        rejects = [c for c in table.columns if "rejects" in c and "negatives" not in c]
        evaded = [c for c in table.columns if "evaded" in c]
        assert len(rejects) == len(evaded) > 0
        for column in evaded:
            shares = table.values[:, table.columns.index(column)]
            assert ((shares >= 0) & (shares <= 100)).all()
    assert "evade it on purpose" in findings.parts[-1].text
