"""DDN, FMN, sigma-zero and ALMA: closed forms, proved distances, their count, others' defects."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxadv as ja
from jaxadv.attacks.minimum_norm.ddn import direction
from jaxadv.core.norms import distance64
from jaxadv.data import load_data
from jaxadv.models import from_torch_arrays
from jaxadv.models.definitions import get_definition
from tests.common import IMAGES, KEY, LABELS, MODEL, QUICK, slow
from tests.linear import SHAPE, SIZE, boxed_distance, logits

FAMILY = [ja.DDN, ja.FMN, ja.SigmaZero, ja.ALMA]


@functools.partial(jax.jit, compiler_options=QUICK)
def drive(attack, model, images, goal, start=None):
    """Images, whether they are adversarial, and the counts."""
    table = ja.make_table(attack, model, images, goal, None)
    table = table._replace(start=start)
    found = ja.drive_batch(attack, model, table, KEY, keep="distance")
    return found.best.image, found.best.tier, found.totals("distance")[0]


@pytest.mark.parametrize(
    ("attack", "most"),
    [
        slow(ja.DDN(steps=200), 1.0405),
        (ja.FMN(norm="linf"), 1.002),
        (ja.FMN(norm="l2"), 1.002),
        (ja.FMN(norm="l1"), 1.002),
        (ja.FMN(norm="l0"), 1),
        (ja.SigmaZero(steps=100), 1),
        (ja.ALMA(steps=300), 1.03),
        (ja.ALMA(norm="l1"), 1.03),
    ],
)
def test_several_linear_classes(attack, most):
    """The distance is the least of those to the single classes, the box taken into account.

    adv-lib's FMN finds no adversarial image here in L2: its iterates stay on the near side. DDN's
    sphere always moves by 5 %, and ALMA ends now and then at another class than the nearest: so do
    theirs, at the same ratios (the median of adv-lib 0.2.8's DDN on these images is 1.0400).
    """
    rng = np.random.default_rng(2)
    weights = rng.normal(size=(SIZE, 4)).astype(np.float32)
    images = rng.choice([0.0, 0.3, 0.6, 1.0], (40, SIZE)).astype(np.float32)
    labels = (images @ weights).argmax(1)
    expected = np.array(
        [
            min(
                boxed_distance(attack.norm, w, w @ x.astype(float), x)
                for w in (weights[:, [y]] - np.delete(weights, y, 1)).T.astype(float)
            )
            for x, y in zip(images, labels, strict=True)
        ]
    )
    model = ja.Model(logits, (jnp.asarray(weights), jnp.zeros(4)))
    images = images.reshape(40, *SHAPE)
    found, success, _ = drive(attack, model, images, ja.Untargeted(labels))
    ratio = distance64(attack.norm, np.asarray(found), images) / expected
    print(attack.name, attack.norm, ratio.round(4))
    assert success.all()
    assert ratio.min() > 1 - 1e-5
    assert np.median(ratio) <= most


@pytest.mark.slow
@pytest.mark.parametrize(
    ("attack", "most"),
    [(ja.FMN(norm="linf"), 1.005), (ja.FMN(norm="l1"), 1.03)],
)
def test_never_below_a_proved_distance(shared, attack, most):
    folder = shared / "data/exact/mlp40_standard"
    model = from_torch_arrays(
        get_definition("FC")(widths=(40,)), folder / "weights.npz", image_shape=(28, 28, 1)
    )
    with np.load(folder / f"{attack.norm}.npz") as exact:
        index, distance = exact["index"], exact["distance"]
    data = load_data("mnist", data_dir=shared / "data/mnist")
    images = data.images[index]
    found, success, _ = drive(attack, model, images, ja.Untargeted(data.labels[index]))
    assert success.all()
    ratio = distance64(attack.norm, np.asarray(found), images) / distance
    print(attack.name, attack.norm, f"{ratio.min():.6f}, {np.median(ratio):.4f}, {ratio.max():.3f}")
    assert ratio.min() > 1 - 1e-4
    assert np.median(ratio) < most


@pytest.mark.parametrize("kind", [slow(ja.DDN), slow(ja.FMN), ja.SigmaZero, slow(ja.ALMA)])
def test_targets_are_reached_and_passes_counted(kind):
    towards = ja.Targeted(LABELS, (LABELS + 2) % 4)
    images, success, counts = drive(kind(steps=60), MODEL, IMAGES, towards)
    reached = np.asarray(MODEL(images)).argmax(1) == (LABELS + 2) % 4
    np.testing.assert_array_equal(reached[success], True)
    assert success.mean() > 0.9
    active = np.asarray(MODEL(IMAGES)).argmax(1) != (LABELS + 2) % 4
    np.testing.assert_array_equal(counts.forward, 61 * active)
    np.testing.assert_array_equal(counts.backward, 60 * active)


@pytest.mark.slow
def test_a_start_is_brought_to_the_boundary_before_the_first_step():
    # The farthest corner of each image; some of them are adversarial.
    start = np.where(IMAGES < 0.5, 1.0, 0.0).astype(np.float32)
    across = np.asarray(MODEL(start)).argmax(1) != LABELS
    assert 5 < across.sum() < 21
    attack = ja.FMN(norm="l2", steps=1, search=12, gamma=1e-6, last_gamma=1e-6)
    images, success, counts = drive(attack, MODEL, IMAGES, ja.Untargeted(LABELS), start)
    np.testing.assert_array_equal(counts.forward, 14 * (np.arange(21) != 3))
    np.testing.assert_array_equal(counts.backward, 1 * (np.arange(21) != 3))
    np.testing.assert_array_equal(success[across], True)
    for image, x, s, y in zip(
        *(np.asarray(a)[across] for a in (images, IMAGES, start, LABELS)), strict=True
    ):
        way = np.linspace(0, 1, 2001)[:, None, None, None]
        labels = np.asarray(MODEL((x + way * (s - x)).astype(np.float32))).argmax(1)
        changes = np.flatnonzero(np.diff(labels != y)) / 2000
        share = np.linalg.norm(image - x) / np.linalg.norm(s - x)
        # At a change of the class on the way (to both resolutions), or nearer after the one step.
        assert share < changes.max(initial=0) + 1 / 2000 + 1 / 4096 + 1e-6


# ---- one step by hand: what others get wrong ----------------------------------------------------


def problem(image):
    zero, one = jnp.float32(0), jnp.float32(1)
    goal = ja.Untargeted(jnp.int32(0))
    return ja.Problem(image, goal, jnp.float32(np.inf), zero, one, jnp.zeros(2), jnp.int32(0))


@functools.partial(jax.jit, compiler_options=QUICK)
def told(attack, where, state, gradient, margin):
    answer = ja.Answer(
        jnp.stack([margin, 0.0])[None], gradient[None, None], margin[None] < 0, jnp.ones(1, bool)
    )
    return attack.tell(where, state, answer)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1", "l0"])
def test_fmn_projects(norm):
    """Foolbox's L2 attack never does; adv-lib's L2 projection always stretches."""
    rng = np.random.default_rng(0)
    image = jnp.asarray(rng.uniform(size=(6, 6, 1)), jnp.float32)
    gradient = jnp.asarray(rng.normal(size=(6, 6, 1)), jnp.float32)
    attack, where = ja.FMN(norm=norm), problem(image)
    state = attack.init(where, KEY)
    for margin in (0.5, 0.3, -0.1, -0.2, 0.1, -0.3, -0.1, -0.1):
        # A linear model of this gradient, and whatever margin.
        state = told(attack, where, state, gradient, jnp.float32(margin))
        distance = distance64(norm, np.asarray(state.image)[None], np.asarray(image)[None])[0]
        assert distance <= state.radius * (1 + 1e-6)
        assert state.image.min() >= 0 and state.image.max() <= 1
        if norm != "l0":  # the step of 1 leads out of the ball, and is brought back to its surface
            assert distance > state.radius * (1 - 1e-5)
    # From inside a larger ball a step that stays inside is taken as it is.
    big = image.size if norm == "l0" else 20.0
    inside = state._replace(
        image=image, radius=jnp.float32(big), step=0 * state.step, closest=jnp.float32(big)
    )
    small = dataclasses.replace(attack, step_size=1e-3, sphere=False)
    moved = told(small, where, inside, gradient, jnp.float32(0.1)).image
    wanted = jnp.clip(image + 1e-3 * gradient / jnp.linalg.norm(gradient), 0, 1)
    np.testing.assert_allclose(moved, wanted, atol=1e-7)


def test_sigma_zero_adapts_its_threshold():
    """The authors' code writes it into a copy, and keeps 0.3."""
    image, attack = jnp.full((6, 6, 1), 0.5), ja.SigmaZero(threshold=0.4)
    gradient = jnp.zeros((6, 6, 1)).at[0, 0].set(1.0).at[1, 0].set(1e-3)
    start = attack.init(problem(image), KEY)
    fell = told(attack, problem(image), start, gradient, jnp.float32(0.5))
    rose = told(attack, problem(image), start, gradient, jnp.float32(-0.5))
    assert (start.threshold, fell.threshold, rose.threshold) == pytest.approx((0.4, 0.39, 0.41))
    # Changes below the threshold are undone to the bit.
    step = told(
        dataclasses.replace(attack, step_size=0.4),
        problem(image),
        start,
        gradient,
        jnp.float32(0.5),
    )
    np.testing.assert_array_equal(np.asarray(step.image)[2:], 0.5)
    assert step.image[0, 0, 0] == pytest.approx(0.9, abs=1e-5)


@pytest.mark.parametrize("kind", FAMILY)
def test_no_gradient_and_none_that_float32_can_square(kind):
    image = jnp.full((6, 6, 1), 0.5)
    attack = kind(steps=5)
    for gradient in (jnp.zeros_like(image), jnp.zeros_like(image).at[2, 2].set(1e-25)):
        state = attack.init(problem(image), KEY)
        for _ in range(3):
            state = told(attack, problem(image), state, gradient, jnp.float32(0.5))
            assert jnp.isfinite(state.image).all()
            assert state.image.min() >= 0 and state.image.max() <= 1
        if kind in (ja.DDN, ja.FMN) or (kind is ja.ALMA and not gradient.any()):
            assert (state.image != image).any()  # a walk out of the flat region
    assert direction(gradient, image)[2, 2, 0] == pytest.approx(1)


def test_ddn_rounds_to_grey_values():
    images = np.round(IMAGES * 255).astype(np.float32) / 255
    attack, goal = ja.DDN(steps=40, levels=256), ja.Untargeted(LABELS)
    found, success, _ = drive(attack, MODEL, images, goal)
    assert success.sum() >= 20
    values = np.asarray(found, np.float64) * 255
    assert np.abs(values - values.round()).max() < 1e-4


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        (ja.DDN, {"norm": "linf"}),
        (ja.DDN, {"steps": 0}),
        (ja.DDN, {"levels": 1}),
        (ja.DDN, {"gamma": 0.0}),
        (ja.DDN, {"radius": -1.0}),
        (ja.FMN, {"norm": "l3"}),
        (ja.FMN, {"search": -1}),
        (ja.FMN, {"last_gamma": 2.0}),
        (ja.FMN, {"step_size": 0.0}),
        (ja.SigmaZero, {"norm": "l1"}),
        (ja.SigmaZero, {"sigma": 0.0}),
        (ja.SigmaZero, {"threshold": 1.5}),
        (ja.ALMA, {"norm": "linf"}),
        (ja.ALMA, {"check": 0}),
        (ja.ALMA, {"growth": 0.5}),
        (ja.ALMA, {"smoothing": float("nan")}),
    ],
)
def test_settings_that_cannot_be_meant(kind, arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        kind(**arguments)
