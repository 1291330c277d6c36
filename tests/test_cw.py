"""Carlini and Wagner's attacks and EAD: exact distances, what is counted, defects of the peers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxadv as ja
from jaxadv.attacks.common.penalty_rounds import Weight
from jaxadv.attacks.common.tanh_space import TanhSpace
from jaxadv.core.norms import distance64
from jaxadv.data import load_data
from jaxadv.models import from_torch_arrays
from jaxadv.models.definitions import get_definition
from tests.common import GOAL, IMAGES, KEY, LABELS, MODEL, drive, slow
from tests.linear import COUNT, SHAPE, boxed_distance, exact, logits, problem

ATTACKS = {  # with the largest median ratio to the exact distance, and the largest of all
    "l2": (ja.CW(norm="l2", steps=200, learning_rate=0.03), 1.005, 1.02),
    "linf": (ja.CW(norm="linf", steps=200, learning_rate=0.02), 1.03, 1.08),
    "l0": (ja.CW(norm="l0", steps=100, learning_rate=0.1), 1.0, 1.5),
    "l1": (ja.EAD(steps=100), 1.1, 1.25),
}
CW, EAD = ATTACKS["l2"][0], ATTACKS["l1"][0]


def linear(box):
    weights, bias, images, labels = problem(box)
    model = ja.Model(logits, (jnp.asarray(weights), jnp.asarray(bias)))
    return model, images.reshape(COUNT, *SHAPE), labels


# ---- exact distances --------------------------------------------------------------------------


@pytest.mark.parametrize("norm", [slow("linf"), "l2", "l1", slow("l0")])
def test_two_linear_classes(norm):
    _, median, most = ATTACKS[norm]
    for box in (False, True):
        attack = ATTACKS[norm][0]
        if attack.name == "CW" and not box:  # the distances are a tenth of those in the box
            attack = dataclasses.replace(attack, learning_rate=attack.learning_rate / 5)
        model, images, labels = linear(box)
        distance = exact(norm, box)
        found, success, _ = drive(attack, model, images, ja.Untargeted(labels))
        np.testing.assert_array_equal(success, np.isfinite(distance))
        ratio = distance64(norm, np.asarray(found), images)[success] / distance[success]
        print(
            f"{norm} {box} min {ratio.min():.6f} median {np.median(ratio):.5f} "
            f"max {ratio.max():.4f}"
        )
        assert ratio.min() > 1 - 1e-5
        assert np.median(ratio) <= median
        assert ratio.max() <= most


@pytest.mark.parametrize("norm", ["l2", "linf", "l1"])
def test_pixels_on_the_faces_of_the_box_move(norm):
    """All are 0 or 1: clipped by 1e-6 in front of an arctanh they would stay for 500 steps."""
    model, images, _ = linear(True)
    images = np.float32(images > 0.5)
    weights, bias = (np.asarray(p, np.float64) for p in model.params)
    scores = images.reshape(COUNT, -1) @ weights + bias
    label = scores.argmax(1)
    w = (weights[:, 0] - weights[:, 1])[None] * np.where(label == 0, 1, -1)[:, None]
    margin = np.abs(scores[:, 0] - scores[:, 1])
    distance = np.array(
        [boxed_distance(norm, w[i], margin[i], images[i].ravel()) for i in range(COUNT)]
    )
    found, success, _ = drive(
        ATTACKS[norm][0], model, images, ja.Untargeted(label.astype(np.int32))
    )
    np.testing.assert_array_equal(success, np.isfinite(distance))
    ratio = distance64(norm, np.asarray(found), images)[success] / distance[success]
    print(f"{norm} min {ratio.min():.6f} median {np.median(ratio):.5f} max {ratio.max():.4f}")
    assert ratio.min() > 1 - 1e-5
    assert np.median(ratio) <= ATTACKS[norm][1]


@pytest.mark.slow
@pytest.mark.parametrize(("norm", "count", "median"), [("linf", 10, 1.08), ("l1", 19, 1.2)])
def test_never_below_a_proved_distance(shared, norm, count, median):
    folder = shared / "data/exact/mlp40_standard"
    model = from_torch_arrays(
        get_definition("FC")(widths=(40,)), folder / "weights.npz", image_shape=(28, 28, 1)
    )
    with np.load(folder / f"{norm}.npz") as proved:
        index, distance = proved["index"][:count], proved["distance"][:count]
    data = load_data("mnist", data_dir=shared / "data/mnist")
    goal = ja.Untargeted(data.labels[index])
    result = ja.run(
        ATTACKS[norm][0],
        model,
        data.images[index],
        goal,
        key=KEY,
        devices=jax.devices()[:1],
        lanes=count,
    )
    assert result.success.all()
    ratio = result.distance / distance
    print(f"{norm} min {ratio.min():.6f}, median {np.median(ratio):.4f}, max {ratio.max():.3f}")
    assert ratio.min() > 1 - 1e-4
    assert np.median(ratio) < median


# ---- what is counted --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [slow(ja.CW), ja.EAD])
def test_what_is_counted(kind):
    """Without the early end every round takes all its steps."""
    attack = kind(steps=7, rounds=3, abort_early=False)
    counts = drive(attack, MODEL, IMAGES, GOAL)[2]
    active = np.arange(21) != 3
    np.testing.assert_array_equal(counts.forward, (attack.queries * 21 + 1) * active)
    np.testing.assert_array_equal(counts.backward, 21 * active)


# ---- what peers get wrong ---------------------------------------------------------------------


def shifted(params, images):
    return MODEL.apply(params[0], images) + params[1]


@pytest.mark.parametrize("attack", [slow(CW), EAD], ids=lambda a: a.name)
def test_only_differences_of_logits_count_and_no_image_its_company(attack):
    """All logits negative; and each image with companions that end sooner, or never."""
    goal = ja.Targeted(LABELS, (LABELS + 1) % 4)
    results = []
    for shift, shuffled in ((0, False), (-16, False), (0, True)):
        images, targets = IMAGES.copy(), goal.targets.copy()
        if shuffled:
            images[11:] = 0.5
        model = ja.Model(shifted, (MODEL.params, jnp.float32(shift)))
        found, success, counts = drive(attack, model, images, ja.Targeted(LABELS, targets))
        distance = distance64(attack.norm, np.asarray(found), images)
        results.append((distance[:11], np.asarray(success)[:11], counts.forward[:11]))
    plain, negative, accompanied = results
    assert plain[1].sum() > 8
    np.testing.assert_array_equal(plain[1], negative[1])
    np.testing.assert_allclose(plain[0], negative[0], rtol=0.02)
    for one, other in zip(plain, accompanied, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
@pytest.mark.parametrize("attack", [CW, EAD], ids=lambda a: a.name)
def test_confidence_is_kept_or_the_image_has_failed(attack):
    """No image with less is returned in its place, least of all a black one."""
    confident = dataclasses.replace(attack, confidence=0.3)
    assert (attack.keep, confident.keep) == ("distance", "last")
    near = distance64(attack.norm, np.asarray(drive(attack, MODEL, IMAGES, GOAL)[0]), IMAGES)
    for confidence, count in ((0.3, 21), (2.0, 21), (50.0, 0)):
        confident = dataclasses.replace(attack, confidence=confidence)
        images = np.asarray(drive(confident, MODEL, IMAGES, GOAL, keep="last")[0])
        margin = np.asarray(jax.vmap(ja.Untargeted.margin)(GOAL, MODEL(images)))
        reached = margin < -confidence + 1e-5
        assert reached.sum() == count
        np.testing.assert_array_equal(images[~reached], IMAGES[~reached])
        assert (distance64(attack.norm, images, IMAGES) >= near * (1 - 1e-3))[reached].all()


@pytest.mark.slow
def test_a_confidence_out_of_reach_is_reported_as_failed():
    attack = dataclasses.replace(CW, confidence=50.0)
    result = ja.run(attack, MODEL, IMAGES[:3], ja.Untargeted(LABELS[:3]), key=KEY, lanes=3)
    assert (result.status == ja.Status.FAILED).all()
    np.testing.assert_array_equal(result.images, IMAGES[:3])


@pytest.mark.slow
def test_elastic_net_rule():
    """The elastic-net rule's image has the smaller elastic net, the L1 rule's the smaller L1."""
    l1, elastic = [], []
    for rule in ("l1", "en"):
        attack = dataclasses.replace(EAD, rule=rule)
        delta = np.asarray(drive(attack, MODEL, IMAGES, GOAL, keep=attack.keep)[0]) - IMAGES
        delta = delta.reshape(21, -1).astype(float)
        l1.append(np.abs(delta).sum(1))
        elastic.append(np.square(delta).sum(1) + attack.beta * l1[-1])
    assert (l1[0] <= l1[1] + 1e-5).all() and (l1[0] < l1[1] - 1e-3).any()
    assert (elastic[1] <= elastic[0] + 1e-5).mean() > 0.9


# ---- the parts --------------------------------------------------------------------------------


def test_the_search_finds_the_smallest_c_that_succeeds():
    weight = Weight.begin(1e-3)
    for _ in range(20):
        weight = weight.after(weight.c > 7.7)
    assert weight.low <= 7.7 < weight.high
    assert weight.high - weight.low < 1e-2


@pytest.mark.parametrize(("lower", "upper"), [(0.0, 1.0), (-3.0, 255.0)])
def test_tanh_space_meets_the_image_and_the_faces(lower, upper):
    image = jnp.linspace(lower, upper, 11, dtype=jnp.float32).reshape(11, 1, 1)
    box = jnp.float32(lower), jnp.float32(upper)
    problem = ja.Problem(image, GOAL, jnp.float32(jnp.inf), *box, jnp.zeros(2), jnp.int32(0))
    space = TanhSpace.around(problem)
    np.testing.assert_array_equal(space.leave(problem, space.origin), image)
    side = upper - lower
    flipped = space.leave(problem, space.enter(image[::-1]))
    np.testing.assert_allclose(flipped, image[::-1], atol=1e-5 * side)
    for w in (space.within(space.origin + 100), space.within(space.origin - 100)):
        reached = space.leave(problem, w)
        assert reached.min() >= lower and reached.max() <= upper
    np.testing.assert_allclose(reached, lower, atol=1e-5 * side)
    gradient = jax.grad(lambda w: space.leave(problem, w)[1:-1].sum())(space.origin)
    np.testing.assert_allclose(gradient[1:-1], space.slope(space.origin)[1:-1], rtol=1e-4)
    assert (space.slope(space.origin) > 0.04 * side).all()


def test_another_box_gives_the_same_distances_in_its_scale():
    def scaled(params, images):
        return MODEL.apply(params, images / 200)

    plain, success, _ = drive(CW, MODEL, IMAGES, GOAL)
    model = ja.Model(scaled, MODEL.params, bounds=(0.0, 200.0))
    found, fell, _ = drive(CW, model, IMAGES * 200, GOAL)
    np.testing.assert_array_equal(success, fell)
    expected = distance64("l2", np.asarray(plain), IMAGES)
    distance = distance64("l2", np.asarray(found), IMAGES * 200)
    np.testing.assert_allclose(distance / 200, expected, rtol=0.01)


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        (ja.CW, {"norm": "l1"}),
        (ja.CW, {"steps": 0}),
        (ja.CW, {"rounds": 0}),
        (ja.CW, {"learning_rate": 0.0}),
        (ja.CW, {"initial_c": -1.0}),
        (ja.CW, {"largest_c": 0.0}),
        (ja.CW, {"confidence": -1.0}),
        (ja.CW, {"decrease": 1.0}),
        (ja.CW, {"refinements": -1}),
        (ja.EAD, {"steps": 0}),
        (ja.EAD, {"rounds": 0}),
        (ja.EAD, {"beta": -1.0}),
        (ja.EAD, {"rule": "l2"}),
        (ja.EAD, {"confidence": float("nan")}),
    ],
)
def test_settings_that_cannot_be_meant(kind, arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        kind(**arguments)
