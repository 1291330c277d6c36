"""The sentences of every study follow its table: planted tables point one way and the other."""

from collections.abc import Callable

import numpy as np
import pytest

from jaxadv.protocols.sliding import Sliding
from jaxadv.protocols.streams import Streams
from jaxadv.protocols.survival import Survival
from jaxadv.studies import (
    EXPERIMENTS,
    blind_spots,
    causes_words,
    classifiers,
    fooling_words,
    forests,
    halves,
    invariance,
    layers,
    networks,
    one_feature,
    pool,
    rarity,
    safety,
    similarity,
    sliding,
    spam,
    streams,
    survival,
    topics,
    transfer,
    units,
    universal_words,
)
from jaxadv.studies.directions import Comparison
from jaxadv.studies.tampered import retraining as rounds_of_retraining
from jaxadv.studies.tampered import study as tampered
from jaxadv.studies.tampered.outcome import Outcome
from jaxadv.studies.wording import fit_in_words, interval, side, tally

COUNT = 500  # images behind each rate
DIAGONAL = np.eye(6, dtype=bool)


def distortion(better: bool) -> str:
    audit = blind_spots.audit_in_words([] if better else ["FC10(1): image 3"], 600)
    training, _, published = np.array([networks.PUBLISHED[name] for name in networks.SIX]).T
    errors = np.array([6.7, 10, 21, 0, 0, 0.5 if better else 3.5])
    measured, known = published * (0.8 if better else -1.2), np.stack([published, training], 1)
    order = blind_spots.order_in_words(networks.SIX, measured, errors, known)
    most = [0.8, 0.9, 90] if better else [0.9, 0.8, 10]
    row = [COUNT, 0.06, *most, np.nan, np.nan, 0.2 if better else 0.05, 0.1]
    seen = blind_spots.seen_in_words(networks.SIX, np.array([row] * 6))
    return f"{audit} {order} {seen}"


def noise(better: bool) -> str:
    table = np.full((6, 9), 5.0)
    table[:, 0] = 100
    table[:, -2:] = 5 if better else 100
    return blind_spots.noise_in_words(networks.SIX, table, COUNT)


def between_networks(better: bool) -> str:
    errors = np.full((8, 6), 4.0)
    errors[6, :3] = 2.0 if better else 60.0
    errors[:6, :3] = 90.0 if better else 62.0
    errors[:6][DIAGONAL] = 100
    return transfer.transfer_in_words(networks.SIX, errors, COUNT)


def between_halves(better: bool) -> str:
    crossed = np.full((14, 3), 10.0)
    crossed[:3] = 60 if better else 10
    crossed[3:12] = np.repeat([80.0, 56, 20] if better else [56.0, 80, 90], 3)[:, None]
    errors = np.zeros((3, 4)) if better else np.full((3, 4), 6.0)
    factors = np.full((3, 3), 2.0)
    return halves.halves_in_words(halves.HALVES, errors, crossed, factors, COUNT, is_papers=True)


def directions(better: bool) -> str:
    test = Comparison(0.8 if better else -0.8, 0.7, 0.9, 1e-9)
    flipped = test._replace(effect=-test.effect)  # less entropy is more in common
    words = units.units_in_words(
        {("units", "random directions"): {"FC layer 1": [test, flipped, test, test]}}
    )
    return " ".join([*words, invariance.invariance_in_words({"A": [test] * 3, "B": [test] * 3})])


def norms(better: bool) -> str:
    exact = np.array([3.0, 2.0, 1.0])
    paper = exact / [1, 2, 4] if better else exact
    formulas = np.stack([exact, exact if better else 2 * exact, paper], 1)
    last = {
        "one": layers.LastLayer(1, 2.0, 2.0, 0.5),
        "two": layers.LastLayer(
            3,
            2.0,
            4.0 if better else 0.5,
            0.1 if better else 0.9,
            (2.0, 3.0, 4.0) if better else (2.0, 3.0, 0.5),
            (1, 1) if better else (1, -1),
        ),
    }
    words = layers.layers_in_words(last, 0 if better else 2)
    return f"{layers.factor_in_words(formulas)} {words}"


def pools(better: bool) -> str:
    mean = np.zeros((len(pool.METHODS), 3))
    mean[:, 1] = 1.5
    mean[5:, 1] = 0.8 if better else 2.1
    mean[:, 0] = 0 if better else 9
    return pool.pool_in_words(mean, np.zeros_like(mean), 10_000)


def rare(better: bool) -> str:
    low, high = np.full((2, 4), 1e-12), np.full((2, 4), 0.5)
    free, boxed = (low, high) if better else (high, low)
    measured = rarity.Measured(np.ones(4), np.array([1.0, 2]), np.ones((2, 4)), free, low)
    return rarity.rarity_in_words("FC", measured, measured._replace(probability=boxed))


def reasons(better: bool) -> str:
    fit = similarity.Fit(0.9, 0.8, 0.95, 0.001 if better else 0.6, 1.0, 0.0)
    values = np.array([[10.0, 1.0], [2.0, 2.0 if better else 1.0]])
    slope = (1.0, 0.9, 1.1) if better else (0.0, -0.1, 0.1)
    size = (0.5, 0.4, 0.6) if better else (0.1, -0.1, 0.2)
    return " ".join(
        [
            causes_words.dimension_in_words(size, {"7x7": 30.0, "28x28": 20.0 if better else 30.0}),
            causes_words.amount_in_words((1000, 5000), values, slope),
            causes_words.reasons_in_words({"gradient cosine": fit}, 0.1),
        ]
    )


def families(better: bool) -> str:
    names = ("tree", "network, 100-100", "forest")
    rows = np.zeros((3, 6))
    rows[:, 1] = (80, 81, 82) if better else (60, 81, 82)
    rows[:, 3] = (0.1, 0.2, 0.9) if better else (0.8, 0.2, 0.9)
    hows = ("proved", classifiers.GRADIENTS, classifiers.QUERY_BASED)
    rows[:, 0] = 4000 if better else 100
    same = classifiers.equal_data_in_words(names, rows)
    pushed = np.tile([60.0, 0.2, 100, 3] if better else [10.0, 0.2, 40, 3], (3, 1))
    push = one_feature.one_feature_in_words(names, pushed)
    proved = np.array([[100.0, 1, 1, 100], [100 if better else 50, 1, 1, 100]])
    forest = forests.forest_in_words(("l1", "l2"), proved)
    corner = classifiers.corners_in_words(*((1.0, 0.9) if better else (0.8, 0.9)), 20.0, 5.0)
    words = classifiers.classifiers_in_words(names, rows, hows)
    return f"{words} {same} {push} {forest} {corner}"


def nonsense(better: bool) -> str:
    errors, controls = np.full(5, 0.01 if better else 0.7), (np.full(5, 0.6), np.full(5, 0.5))
    return topics.topics_in_words("NMF", "“A text …”", ("word",), errors, controls)


def fooling(better: bool) -> str:
    made = {"direct": 0.9999 if better else 0.3}
    words = fooling_words.fooling_in_words(0.99, made, {"direct": 1.0 if better else 0.0}, 0.0)
    values = np.zeros((2, len(fooling_words.NOTHING)))
    values[:, 0], values[0, 8:] = 40, 100 if better else 10
    return f"{words} {fooling_words.nothing_in_words(('direct',), values)}"


def retrained(better: bool) -> str:
    rows = np.array([[1.0, np.nan, 99, 100, 0], [1.0, 100, 20, 10 if better else 98, 200]])
    return fooling_words.retraining_in_words(rows, 40)


def defences(better: bool) -> str:
    one = Outcome("PGD", "all", "class", 1.0, 0.99 if better else 0.1, 0.0, 0.1, 0.3, 0.3, 100)
    return tampered.verdict([one])


def rounds(better: bool) -> str:
    rows = np.zeros((2, 9))
    rows[0, [5, 7]], rows[1, [5, 7]] = (90, 20) if better else (90, 92)
    one = Outcome("PGD", "all", "class", 1.0, 0.9, 0.0, 0.9, 0.3, 0.3, 100)
    return rounds_of_retraining.helped_in_words("class", rows, [one, one])


def transferred(better: bool) -> str:
    rates = np.array([[100.0, 20, 30], [100, 60, 80]]) if better else np.full((2, 3), 20.0)
    return transfer.attacks_in_words(("BIM", "MI"), rates, COUNT)


def words_added(better: bool) -> str:
    values = np.full((5, 5), 50.0)
    values[-2] = 10 if better else 90
    values[-1] = 5 if better else 50
    return spam.spam_in_words(np.array([80.0, 90, 95]), values, COUNT)


def windows(better: bool) -> str:
    accuracy = np.full((4, 2, 1), 0.9 if better else 0.1)
    nothing = np.zeros((0,))
    film = Sliding(
        5,
        (1,),
        ("mean", "majority"),
        COUNT,
        0.1,
        0.9,
        np.full((2, 7), 0.9),
        np.full((5, 1, 2, 7), 0.9 if better else 0.1),
        np.full((5, 1, 2), [0.9 if better else 0.1, 0.2]),
        np.array([[1.0], [3]] if better else [[3.0], [1]]),
        nothing,
    )
    return sliding.sliding_in_words(film) + streams.streams_in_words(
        Streams(
            5,
            (2,),
            ("mean", "majority"),
            COUNT,
            0.1,
            0.9,
            np.full(2, 0.9),
            accuracy,
            nothing,
            nothing,
        )
    )


def transforms(better: bool) -> str:
    one = np.ones((1, 1))
    ordinary, adaptive = 0.9 * one, (0.1 if better else 0.9) * one
    rates = Survival(
        kinds=("blur",),
        strengths=(2.0,),
        attacks=("PGD",),
        count=COUNT,
        plain=0.9,
        success=one[0],
        distance=one[0],
        clean=one[0],
        survived=one,
        ordinary=ordinary,
        adaptive=adaptive,
        reach=one,
        found=one,
        through=one,
    )
    return survival.survival_in_words(rates)


def around(better: bool) -> str:
    local, robust = np.ones(3), np.full(3, 0.5 if better else 1.0)
    return safety.local_in_words("l2", np.array([0.1, 0.2, 0.3]), local, robust, COUNT)


def universal_rates(better: bool) -> str:
    return universal_words.rates_in_words(
        ("LeNet", "FC"), np.tile([60.0 if better else 21.0, 20.0], (2, 4)), COUNT
    )


def universal_across(better: bool) -> str:
    rates = np.array([[60.0, 40], [50, 60], [20, 20]])
    rates[0, 1] = 40 if better else 10
    return universal_words.across_in_words(rates, np.full((2, 2), 50.0), COUNT)


def universal_images(better: bool) -> str:
    rates = np.array([[33.5 if better else 18.5, 60, 28 - 15 * better]])
    return universal_words.images_in_words(("LeNet",), (10, 100), rates, COUNT)


def universal_radius(better: bool) -> str:
    ours = [21.0, 60, 80] if better else [21.0, 21, 40]
    rates = np.array([[ours, [20.0, 21, 45]]])
    return universal_words.radii_in_words(("LeNet",), np.array([0.1, 0.2, 0.4]), rates, COUNT)


def universal_diversity(better: bool) -> str:
    rows = np.array([[60.0, 1, 20, 0.05]]) if better else np.array([[21.0, 1, 20, 0.9]])
    return universal_words.diversity_in_words(("in batches",), rows, COUNT)


def universal_labels(better: bool) -> str:
    rows = np.array([[60.0, 2, 20, 5]]) if better else np.array([[21.0, 8, 20, 5]])
    return universal_words.labels_in_words(("LeNet",), rows, 10, COUNT)


def universal_geometry(better: bool) -> str:
    rates = np.array([40.0, 10, 12]) if better else np.array([11.0, 10, 12])
    return universal_words.geometry_in_words((20 if better else 90, 80), 100, rates, COUNT)


def universal_controls(better: bool) -> str:
    rates = {"universal": 60.0 if better else 20.0, "random": 5.0, "random signs": 20.0}
    return universal_words.lengths_in_words(3.0, rates, COUNT)


def universal_data_free(better: bool) -> str:
    rates = np.array([[20.0, 50 if better else 21]])
    return universal_words.data_free_in_words(("LeNet",), ("random signs", "GD-UAP"), rates, COUNT)


Planted = tuple[Callable[[bool], str], tuple[str, ...], tuple[str, ...]]
PLANTED: dict[str, Planted] = {  # sentences, what they say of the one table, and of the other
    "szegedy.distortion": (
        distortion,
        (
            "holds here: all 600",
            "correlation 1.00",
            "all 6 networks",
            "within 1 % of the published",
            "the noise is more similar in all 6 networks, the mistake in none",
            "than the noise in all 6",
        ),
        (
            "is not shown: 1 of 600",
            "correlation -1.00",
            "Of AE400-10 the page shows no property",
            "the noise is more similar in none of 6 networks, the mistake in all 6",
            "than the noise in none",
        ),
    ),
    "szegedy.transfer": (
        between_networks,
        ("in 15 of 30 pairs", "more often fooled", "and not mostly by what noise"),
        ("in 0 of 30 pairs", "and mostly by what noise"),
    ),
    "szegedy.halves": (
        between_halves,
        ("in 6 of 6 pairs", "reading is 'one factor for all, mean 0.1'", "at most 1 %"),
        ("in 0 of 6 pairs", "reading is 'each image to 0.1'", "shows no property"),
    ),
    "szegedy.noise": (
        noise,
        ("a random search with as many passes as the attack in none", "directions miss them"),
        ("a random search with as many passes as the attack in all 6", "directions find others"),
    ),
    "szegedy.units": (
        directions,
        (
            "those of units have more in common in 4",
            "more invariance to rotation in all 2 layers, less in none",
        ),
        (
            "those of random directions have more in common in 4",
            "more invariance to rotation in none of 2 layers, less in all",
        ),
    ),
    "szegedy.layers": (
        norms,
        (
            "by a factor of 4.00",
            "instability in two",
            "looser in 1 of 1",
            "No adversarial image",
            "rises in 2 of 2 steps",
            "is shown for two.",
        ),
        (
            "with s^-2 at all 3",
            "instability in none",
            "looser in 0 of 1",
            "please report it",
            "falls in 1, ",
            "is shown for none of 1",
        ),
    ),
    "szegedy.pool": (
        pools,
        ("is below the paper's", "overlap, are all 4 pools", "at most 1 %"),
        ("is not below the paper's", "overlap, are none of 4 pools", "shows no property"),
    ),
    "szegedy.rarity": (rare, ("fools more often", "100 %"), ("fools less often", "in 0 %")),
    "szegedy.causes": (
        reasons,
        (
            "is compatible with 1/2",
            "not compatible with 0",
            "nearer in",
            "lie farther",
            "for gradient",
        ),
        ("not compatible with 1/2", "is compatible with 0", "no nearer in", "neither", "for none"),
    ),
    "classifiers.distance": (
        families,
        (
            "in 1 of 2 other classifiers (tree)",
            "not the network's alone",
            "is shown to be more",
            "all 2 other classifiers come within 5 %",
            "in all 3 classifiers; pushed as far as it takes, in all 3",
            "for every image, in all 2 norms.",
        ),
        (
            "in none",
            "are the network's alone",
            "which is not equal",
            "is not shown to be more",
            "1 of 2 other classifiers (forest) come within 5 %",
            "saw 100 images only",
            "in none of 3 classifiers; pushed as far as it takes, in none",
            "in 1 of 2 norms (L1); for some, in L2 (50 %)",
        ),
    ),
    "classifiers.topics": (nonsense, ("Nonsense has the",), ("It is not shown that nonsense has",)),
    "fooling.images": (
        fooling,
        (
            "at least as high for direct",
            "same class for direct",
            "of nothing for 100.0 % (91.2 to 100.0) (direct)",
            "measure for none of 1 ways",
            "test image for direct",
        ),
        (
            "at least as high for none",
            "same class for none",
            "of nothing for 10.0 %",
            "measure for direct",
            "test image for none of 1 ways",
        ),
    ),
    "fooling.retraining": (retrained, ("kept some out",), ("did not save it",)),
    "universal.rates": (
        universal_rates,
        ("shown in all 2 rows",),
        ("shown in none of 2 rows",),
    ),
    "universal.across": (
        universal_across,
        ("in 2 of 2 pairs", "whatever the network is shown"),
        ("in 1 of 2 pairs", "whatever the network is refuted here: in 1 of 2 pairs"),
    ),
    "universal.images": (
        universal_images,
        ("is shown for LeNet (LeNet from 10 images)", "fools less, for none"),
        ("is shown for none of 1 networks (LeNet from 100 images)", "fools less, for LeNet"),
    ),
    "universal.radius": (
        universal_radius,
        (
            "are fooled from 0.2 on; half of the images by the perturbation from 0.2 on",
            "at 0.2: 60",
        ),
        ("are fooled at no radius from which", "the perturbation at no radius", "at 0.1: 21.0 %"),
    ),
    "universal.diversity": (
        universal_diversity,
        ("0.1 for in batches", "shown for in batches"),
        ("0.1 for none", "shown for none"),
    ),
    "universal.labels": (
        universal_labels,
        ("classes in LeNet", "send theirs to in LeNet", "signs in LeNet"),
        ("classes in none", "send theirs to in none", "signs in none"),
    ),
    "universal.geometry": (
        universal_geometry,
        ("normals lie closer", "fools more is shown"),
        ("normals do not lie closer", "fools more is not shown"),
    ),
    "universal.controls": (
        universal_controls,
        ("more than all 2 controls",),
        ("more than 1 of 2 controls (random)",),
    ),
    "universal.data_free": (
        universal_data_free,
        ("more than random signs in LeNet",),
        ("more than random signs in none",),
    ),
    "tampered.defences": (defences, ("rejects 99 %",), ("rejects 10 %",)),
    "tampered.retraining": (rounds, ("kept out part",), ("no help is shown",)),
    "transfer.attacks": (
        transferred,
        ("transfer of MI, less of none", "adds to all 2"),
        ("transfer of none", "adds to none"),
    ),
    "transfer.spam": (
        words_added,
        ("in all 5 columns; more than word frequencies in all 5 columns, less in none",),
        ("in none of 5 columns; more than word frequencies in none of 5 columns, less in all",),
    ),
    "survival": (transforms, ("In 1 of 1 cells", "can look"), ("In 0 of 1 cells", "is not shown")),
    "streams": (
        windows,
        (
            "in all 2 defences where the attack",
            "in all 2 defences if blank",
            "event's frames in all 5 events",
            "1.00 windows (mean) to 3.00 (majority)",
        ),
        (
            "in none of 2 defences where the",
            "in none of 2 defences if blank",
            "event's frames in none of 5 events",
            "1.00 windows (majority) to 3.00 (mean)",
        ),
    ),
    "safety": (around, ("at all 3 radii",), ("at none of 3 radii",)),
}


def test_every_study_has_its_sentences_planted():
    assert set(PLANTED) == {*EXPERIMENTS, "safety"}


@pytest.mark.parametrize("name", PLANTED)
def test_sentences_turn_with_the_table(name):
    sentences, one, other = PLANTED[name]
    for words, expected, wrong in (
        (sentences(True), one, other),
        (sentences(False), other, one),
    ):
        for part in expected:
            assert part in words
        assert any(part not in words for part in wrong)
        assert "nan" not in words


def test_a_difference_within_the_intervals_is_not_claimed():
    """The intervals of 79/300 and 84/300 overlap; those of 237/300 and 84/300 do not."""
    assert side(100 * 79 / 300, 28.0, 300) == 0
    assert side(79.0, 28.0, 300) == 1 and side(28.0, 79.0, 300) == -1
    low, high = interval(90.0, 100)
    assert (round(low, 1), round(high, 1)) == (82.6, 94.5)  # the figures of Wilson's interval
    assert tally(("A",), [True]) == "A"


def test_a_network_trained_as_the_paper_says_is_no_exception():
    words = fit_in_words({"FC10(1)": 21.0, "FC100-100-10": 0.0}, {"FC10(1)": 21.2})
    assert "FC10(1) (21.00 %, published 21.2)" in words and "no property" not in words
