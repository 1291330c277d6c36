"""DeepFool and its kin: exact distances, proved ones, what is counted, and gradients near 0."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxadv as ja
from jaxadv.attacks.minimum_norm.deepfool import DeepFool
from jaxadv.attacks.minimum_norm.newtonfool import NewtonFool
from jaxadv.attacks.minimum_norm.sparsefool import SparseFool
from jaxadv.attacks.minimum_norm.superdeepfool import SuperDeepFool
from jaxadv.attacks.minimum_norm.trust_region import TrustRegion
from jaxadv.core.norms import distance64
from jaxadv.data import load_data
from jaxadv.models import from_torch_arrays
from jaxadv.models.definitions import get_definition
from tests.common import GOAL, IMAGES, KEY, LABELS, MODEL, QUICK, slow
from tests.linear import COUNT, SHAPE, boxed_distance, exact, line, logits, problem


@functools.partial(jax.jit, compiler_options=QUICK)
def drive(attack, model, images, goal):
    """Images, whether they are adversarial, and the counts."""
    table = ja.make_table(attack, model, images, goal, None)
    found = ja.drive_batch(attack, model, table, KEY, keep="distance")
    return found.best.image, found.best.tier, found.totals("distance")[0]


@pytest.mark.parametrize(
    ("attack", "box", "beyond"),
    [
        slow(DeepFool(norm="linf", steps=3), False, 1.02),
        slow(DeepFool(steps=3), False, 1.02),
        (DeepFool(steps=3, search=12), False, 1.0005),
        (DeepFool(norm="linf", boxed=True, steps=3), True, 1.02),
        (DeepFool(boxed=True, steps=3), True, 1.02),
        (DeepFool(norm="l1", steps=14), True, 1.02),  # twelve entries, one a step
        (SuperDeepFool(steps=9, boxed=True), True, 1.02),
        slow(SparseFool(steps=9, boxed=True, reach=1), True, 1.02**2),
        slow(TrustRegion(steps=9, radius=0.1, largest=1), False, 1.02),
    ],
)
def test_two_linear_classes(attack, box, beyond):
    """Every step is exact: none is longer than to a margin as far below 0 as the overshoot says."""
    weights, bias, images, labels = problem(box)
    least, most = exact(attack.norm, box), []
    for x, label in zip(images, labels, strict=True):
        w, b = line(weights, bias, label)
        most.append(boxed_distance(attack.norm, w, beyond * (w @ x.astype(float) + b), x))
    model = ja.Model(logits, (jnp.asarray(weights), jnp.asarray(bias)))
    images = images.reshape(COUNT, *SHAPE)
    found, success, _ = drive(attack, model, images, ja.Untargeted(labels))
    np.testing.assert_array_equal(success, np.isfinite(least))
    distance = distance64(attack.norm, np.asarray(found), images)
    print(f"{attack.name} {attack.norm}: at most {np.max((distance / least)[success]):.4f}")
    assert (distance >= least * (1 - 1e-5))[success].all()
    assert (distance <= np.array(most) * (1 + 1e-4))[success].all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("attack", "most"),
    [
        (DeepFool(norm="linf"), 1.05),
        (SparseFool(reach=1), 1.04),
        (TrustRegion(norm="linf"), 1.03),
    ],
)
def test_never_below_a_proved_distance(shared, attack, most):
    folder = shared / "data/exact/mlp40_standard"
    model = from_torch_arrays(
        get_definition("FC")(widths=(40,)), folder / "weights.npz", image_shape=(28, 28, 1)
    )
    with np.load(folder / f"{attack.norm}.npz") as known:
        index, distance = known["index"], known["distance"]
    data = load_data("mnist", data_dir=shared / "data/mnist")
    images = data.images[index]
    found, success, _ = drive(attack, model, images, ja.Untargeted(data.labels[index]))
    ratio = distance64(attack.norm, np.asarray(found), images) / distance
    print(f"{attack.name}: {ratio.min():.5f}, {np.median(ratio):.4f}, {np.mean(success):.3f}")
    assert np.mean(success) > 0.99
    assert ratio[success].min() > 1 - 1e-4
    assert np.median(ratio) < most


def flat(weights, images):
    """Logits that no image changes: every gradient is 0."""
    return (
        jnp.zeros((len(images), 1)) @ weights[None] + weights + 0 * images.sum((1, 2, 3))[:, None]
    )


@pytest.mark.parametrize(
    ("attack", "backward"),
    [
        slow(DeepFool(steps=5, search=3), 5 * 3),
        (DeepFool(norm="l1", classes=3, steps=5), 5 * 2),
        slow(SuperDeepFool(steps=5), 5 * 3),
        (SparseFool(steps=5), 5 * 3),
        (NewtonFool(steps=5), 5),
        (TrustRegion(steps=5), 2 + 5),
    ],
)
def test_without_a_gradient_nothing_moves_and_every_step_is_counted(attack, backward):
    model = ja.Model(flat, jnp.array([3.0, 0.0, 1.0, 2.0]))
    labels = jnp.zeros(len(IMAGES), jnp.int32)
    found, success, counts = drive(attack, model, IMAGES, ja.Untargeted(labels))
    np.testing.assert_array_equal(found, IMAGES)  # no NaN, no black image
    assert not success.any()
    np.testing.assert_array_equal(counts.backward, np.full(len(IMAGES), backward))
    forward = attack.specialize(ja.Untargeted(labels), 4).ticks - attack.search
    np.testing.assert_array_equal(counts.forward, np.full(len(IMAGES), forward))


@pytest.mark.slow
def test_a_successful_walk_searches_at_its_end():
    plain, success, counts = drive(DeepFool(), MODEL, IMAGES, GOAL)
    assert np.asarray(success)[np.arange(21) != 3].all()
    assert (counts.backward == 3 * np.maximum(counts.forward, 0)).all()  # the last is read as well
    nearer, _, more = drive(DeepFool(search=8), MODEL, IMAGES, GOAL)
    np.testing.assert_array_equal(more.backward, counts.backward)
    active = np.arange(21) != 3
    np.testing.assert_array_equal(more.forward, counts.forward + 8 * active)
    before, after = (distance64("l2", np.asarray(x), IMAGES)[active] for x in (plain, nearer))
    assert (after <= before).all()
    assert (after < before).mean() > 0.5
    turned = distance64("l2", np.asarray(drive(SuperDeepFool(), MODEL, IMAGES, GOAL)[0]), IMAGES)
    assert np.median(turned[active] / before) < 1


@pytest.mark.slow
@pytest.mark.parametrize("attack", [DeepFool(), SparseFool(), TrustRegion(), SuperDeepFool()])
def test_a_target_takes_one_gradient_a_step(attack):
    targets = (LABELS + 2) % 4
    found, success, counts = drive(attack, MODEL, IMAGES, ja.Targeted(LABELS, targets))
    assert np.mean(success) > 0.6
    reached = np.asarray(MODEL(found)).argmax(1)
    np.testing.assert_array_equal(reached[success], targets[success])
    assert (counts.backward <= counts.forward).all()


@pytest.mark.slow
@pytest.mark.parametrize("attack", [DeepFool(), TrustRegion()])
def test_the_scale_of_the_logits_does_not_matter(attack):
    """Gradients of 1e-20, whose squares are 0 in float32."""
    small = ja.Model(lambda p, x: 2.0**-66 * MODEL(x), ())
    whole = ja.Model(lambda p, x: MODEL(x), ())
    one, _, _ = drive(attack, whole, IMAGES, GOAL)
    other, success, _ = drive(attack, small, IMAGES, GOAL)
    assert np.mean(success) > 0.9
    np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.slow
def test_newtonfool_on_a_saturated_softmax():
    """1 - F is 0 in float32, and so is F's gradient: Foolbox returns NaN, ART stands still."""
    hard = ja.Model(lambda p, x: 1000 * MODEL(x), ())
    found, success, _ = drive(NewtonFool(), hard, IMAGES, GOAL)
    assert np.isfinite(found).all()
    assert np.asarray(success)[np.arange(21) != 3].all()
    easy, _, _ = drive(NewtonFool(), MODEL, IMAGES, GOAL)
    assert (distance64("l2", np.asarray(easy), IMAGES) < 6).all()


@pytest.mark.parametrize(
    ("attack", "arguments"),
    [
        (DeepFool, {"norm": "l0"}),
        (DeepFool, {"steps": 0}),
        (DeepFool, {"classes": 1}),
        (DeepFool, {"overshoot": -0.1}),
        (DeepFool, {"search": -1}),
        (SuperDeepFool, {"norm": "linf"}),
        (SparseFool, {"norm": "l2"}),
        (SparseFool, {"reach": 0.5}),
        (NewtonFool, {"eta": 0.0}),
        (TrustRegion, {"norm": "l1"}),
        (TrustRegion, {"classes": 1}),
        (TrustRegion, {"rate": 0.5}),
        (TrustRegion, {"radius": -1.0}),
    ],
)
def test_settings_that_cannot_be_meant(attack, arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        attack(**arguments)


def test_newtonfool_has_no_targets():
    with pytest.raises(ValueError, match="Untargeted"):
        ja.run(NewtonFool(), MODEL, IMAGES, ja.Targeted(LABELS, (LABELS + 1) % 4), key=KEY)
