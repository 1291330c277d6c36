"""Norms of layers against the singular values of their whole matrices; certificates against attacks
and proved distances."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from scipy import optimize

import jaxadv as ja
from jaxadv.certification.lipschitz import certified_distance, layer_outputs, local_norms, spectrum
from jaxadv.certification.operator_norms import (
    circular_norm,
    contrast_norm,
    convolution_bound,
    matrix_norm,
    operator_norm,
    pooling_norm,
    sum_bound,
)
from jaxadv.data import load_data
from jaxadv.models import from_linen, from_torch_arrays, get_definition, load_published
from jaxadv.models.published import PUBLISHED
from jaxadv.studies import EXPERIMENTS, Curves, Setting, Table, conduct
from jaxadv.studies.layer_norms import spectra_table, table_5
from jaxadv.studies.layers import Gains, amplification, ratios_by_layer

RNG = np.random.default_rng(0)
ONE = jax.devices()[:1]
TOLERANCE = 1e-3  # of power iteration, from below


def singular_value(function, shape, at=None):
    """The largest one of a function's whole Jacobian, by NumPy in float64."""
    at = jnp.zeros(shape) if at is None else at
    jacobian = np.asarray(jax.jacrev(function)(at), np.float64)
    return np.linalg.svd(jacobian.reshape(-1, at.size), compute_uv=False)[0]


@pytest.mark.parametrize("shape", [(784, 100), (40, 200), (50, 50), (7, 1)])
def test_dense_layers(shape):
    weight = RNG.standard_normal(shape)
    exact = np.linalg.svd(weight, compute_uv=False)[0]
    found = operator_norm(lambda x: x @ jnp.float32(weight) + 3.0, (shape[0],))
    assert exact * (1 - TOLERANCE) <= found <= exact * (1 + 1e-5)
    np.testing.assert_allclose(matrix_norm(weight), exact, rtol=1e-12)


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding", "dilation", "groups"),
    [
        ((8, 8), (3, 3, 2, 4), (1, 1), "SAME", (1, 1), 1),
        ((9, 7), (3, 3, 2, 4), (2, 2), "SAME", (1, 1), 1),
        ((8, 8), (4, 4, 2, 3), (2, 2), [(1, 1), (1, 1)], (1, 1), 1),
        ((11, 11), (5, 5, 3, 4), (4, 4), [(2, 2), (2, 2)], (1, 1), 1),
        ((9, 8), (5, 2, 1, 4), (1, 3), "VALID", (1, 1), 1),
        ((6, 6), (6, 6, 2, 3), (1, 1), "VALID", (1, 1), 1),  # a dense layer
        ((8, 8), (3, 3, 2, 3), (1, 1), [(2, 2), (2, 2)], (2, 2), 1),
        ((8, 8), (3, 3, 1, 4), (1, 1), [(1, 0), (0, 1)], (1, 1), 2),
    ],
)
def test_convolutions(size, kernel, stride, padding, dilation, groups):
    weight = jnp.asarray(RNG.standard_normal(kernel), jnp.float32)

    def layer(x):
        return lax.conv_general_dilated(
            x,
            weight,
            stride,
            padding,
            rhs_dilation=dilation,
            feature_group_count=groups,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )

    shape = (1, *size, kernel[2] * groups)
    exact = singular_value(layer, shape)
    found = operator_norm(layer, shape, iterations=1000)
    assert exact * (1 - TOLERANCE) <= found <= exact * (1 + 1e-5)
    model = ja.Model(lambda w, x: layer(x).reshape(len(x), -1), ())
    (step,) = spectrum(model, shape[1:], 0).layers
    assert exact * (1 - 1e-6) <= step.norm <= 1.3 * exact


def circular_matrix(kernel, size, stride):
    """y[d, i] = sum w[k, c, d] x[c, (i s + k) mod n], column by column from unit images."""
    reach, channels, wide = kernel.shape[:2], *kernel.shape[2:]
    columns = []
    for place in np.ndindex(*size, channels):
        x = np.zeros((*size, channels))
        x[place] = 1
        y = sum(
            np.roll(x, (-i, -j), (0, 1))[:: stride[0], :: stride[1]] @ kernel[i, j]
            for i, j in np.ndindex(*reach)
        )
        columns.append(np.ravel(y))
    assert len(columns[0]) == np.prod(size) // np.prod(stride) * wide
    return np.array(columns).T


@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (4, 4), (2, 1), (4, 2)])
@pytest.mark.parametrize("channels", [(3, 4), (1, 6), (5, 2)])
def test_fourier_formula(stride, channels):
    kernel = RNG.standard_normal((3, 4, *channels))
    exact = np.linalg.svd(circular_matrix(kernel, (8, 8), stride), compute_uv=False)[0]
    np.testing.assert_allclose(circular_norm(kernel, (8, 8), stride), exact, rtol=1e-10)


def test_fourier_formula_in_one_dimension():
    kernel = RNG.standard_normal((3, 2, 2))
    flat = circular_matrix(kernel[:, None], (6, 1), (2, 1))
    exact = np.linalg.svd(flat, compute_uv=False)[0]
    np.testing.assert_allclose(circular_norm(kernel, (6,), 2), exact, rtol=1e-10)


@pytest.mark.parametrize(
    ("size", "stride", "message"),
    [((9, 8), 2, "multiples of the stride"), ((2, 8), 1, "no smaller"), ((8,), 1, "2 axes")],
)
def test_sizes_that_do_not_fit(size, stride, message):
    with pytest.raises(ValueError, match=message):
        circular_norm(np.ones((3, 3, 1, 1)), size, stride)
    with pytest.raises(ValueError, match="iterations=0"):
        operator_norm(lambda x: x, (2,), iterations=0)


def test_a_layer_that_is_curved_is_linearised_where_it_is_asked_for():
    at = jnp.asarray(RNG.standard_normal(6), jnp.float32)
    found = operator_norm(jnp.tanh, (6,), at=at)
    np.testing.assert_allclose(found, np.max(1 - np.tanh(at) ** 2), rtol=1e-3)
    assert operator_norm(lambda x: 0 * x, (3,)) == 0


@pytest.mark.parametrize(
    ("window", "stride", "padding", "norm"),
    [(2, 2, 0, 1), (2, 3, 0, 1), (3, 2, 0, 2), (3, 1, 1, 3), (3, 2, 1, 2), (2, 1, 0, 2)],
)
def test_pooling(window, stride, padding, norm):
    def pool(x):
        edges = ((padding, padding), (padding, padding))
        return nn.max_pool(x, (window, window), (stride, stride), edges)  # type: ignore[arg-type]

    edges = [(padding, padding)] * 2
    assert pooling_norm((9, 9), (window, window), (stride, stride), edges) == norm
    gains = [
        singular_value(pool, None, at)
        for at in (RNG.standard_normal((1, 9, 9, 1)).astype(np.float32) for _ in range(5))
    ]
    assert max(gains) <= norm + 1e-6
    peaks = [jnp.zeros((1, 9, 9, 1)).at[0, i, j, 0].set(1.0) for i, j in np.ndindex(9, 9)]
    assert max(singular_value(pool, None, at) for at in peaks) == pytest.approx(norm)  # attained


@pytest.mark.parametrize("epsilon", [0.1, 1.0, 3.0])
@pytest.mark.parametrize("exponent", [0.5, 0.75, 1.0])
def test_contrast_normalisation(epsilon, exponent):
    bound = contrast_norm(epsilon, exponent)

    def gain(flat):
        x, y = flat.reshape(2, 3)
        change = [v / (epsilon + v @ v) ** exponent for v in (x, y)]
        return -np.linalg.norm(change[0] - change[1]) / (np.linalg.norm(x - y) + 1e-12)

    starts = RNG.standard_normal((10, 6)) * np.geomspace(0.01, 10, 10)[:, None]
    largest = max(-optimize.minimize(gain, s, method="Nelder-Mead").fun for s in starts)
    assert largest <= bound * (1 + 1e-9)
    assert largest >= bound * 0.99


def test_contrast_normalisation_has_limits():
    for epsilon, exponent in [(0.0, 0.5), (1.0, 1.5), (1.0, -0.5)]:
        with pytest.raises(ValueError, match="exponent"):
            contrast_norm(epsilon, exponent)


@pytest.mark.parametrize(
    ("layer", "norm"),
    [
        (lambda x: x.reshape(-1), 1.0),
        (lambda x: jnp.pad(x[::2], ((1, 1), (0, 0))), 1.0),
        (lambda x: jnp.broadcast_to(x[None], (5, 4, 6)), 5**0.5),
        (lambda x: x[jnp.array([0, 0, 1])], 2**0.5),
        (lambda x: x.sum(0), 2.0),
    ],
)
def test_moves_and_sums(layer, norm):
    assert sum_bound(layer, (4, 6)) == pytest.approx(norm)
    assert singular_value(layer, (4, 6)) == pytest.approx(norm)


def test_branches_add_up():
    weight = jnp.asarray(RNG.random((6, 6)), jnp.float32)
    top = np.linalg.svd(np.asarray(weight, np.float64), compute_uv=False)[0]

    def apply(w, x):
        x = x.reshape(len(x), -1)
        return x + nn.relu(2 * x @ w)

    model = ja.Model(apply, weight)
    found = spectrum(model, (2, 3, 1))
    assert found.constant == pytest.approx(1 + 2 * top)
    assert [step.kind for step in found.layers] == ["scaling", "dense"]
    # A positive symmetric part attains no more, and from the positive image on nearly that.
    steep = local_norms(model, np.ones((1, 2, 3, 1)))[0]
    assert 0.8 * found.constant < steep <= found.constant


class Everything(nn.Module):
    """All that a bound is known for."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(4, (3, 3), 2, name="first")((x - 0.5) / 0.25))
        norm = nn.BatchNorm(use_running_average=True, name="norm")(x)
        x = nn.max_pool(nn.tanh(norm), (3, 3), (2, 2)) + nn.avg_pool(x, (3, 3), (2, 2))
        x = jnp.concatenate([x, nn.Conv(4, (2, 2), padding="CIRCULAR", name="second")(x)], -1)
        x = nn.sigmoid(nn.Dense(7, name="third")(x.mean((1, 2))))
        return nn.Dense(4, name="fourth")(x)


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (Everything(), (12, 12, 3)),
        (get_definition("ResNet32")(widths=(4, 8), blocks=1), (8, 8, 3)),
        (get_definition("PreActResNet18")(widths=(4, 8), blocks=1), (8, 8, 3)),
    ],
)
def test_no_two_images_move_the_logits_by_more(module, shape):
    variables = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, *shape)))
    stretched = jax.tree.map(lambda w: w + 0.3 * RNG.random(w.shape), variables)
    model = from_linen(module, stretched)
    found = spectrum(model, shape, 0)
    images = RNG.random((2, 20, *shape), np.float32)
    near = images[0] + 1e-2 * RNG.standard_normal(images[0].shape).astype(np.float32)
    call = jax.jit(lambda images: model(images))
    logits = np.asarray(call(images[0]))
    for other in (images[1], near):
        moved = np.linalg.norm(np.asarray(call(other)) - logits, axis=1)
        moves = np.linalg.norm((other - images[0]).reshape(20, -1), axis=1)
        assert (moved <= found.constant * moves * (1 + 1e-4)).all()
    assert found.layers[-1].through == pytest.approx(found.constant)


@pytest.mark.parametrize(
    ("function", "step"),
    [
        (lambda x: x.reshape(len(x), -1) ** 2, "square|integer_pow|mul"),
        (lambda x: nn.softmax(x.reshape(len(x), -1)), "exp"),
        (lambda x: jnp.where(x > 0.5, x, 0.0).reshape(len(x), -1), "gt"),
        (lambda x: lax.scan(lambda c, _: (c * c, None), x, None, 2)[0].reshape(len(x), -1), "scan"),
    ],
)
def test_steps_without_a_bound_are_named(function, step):
    with pytest.raises(ValueError, match=step):
        spectrum(ja.from_function(function), (2, 2, 1))
    if step == "scan":
        return
    with pytest.raises(ValueError, match="constant"):
        certified_distance(ja.from_function(function), np.ones((1, 2, 2, 1)), [0], 0.0)


def test_layer_outputs_are_those_of_the_network():
    module = get_definition("LeNet")()
    images = RNG.random((3, 12, 12, 1), np.float32)
    variables = module.init(jax.random.key(0), images)
    outputs = layer_outputs(from_linen(module, variables), images)
    _, state = module.apply(variables, images, capture_intermediates=True)
    assert list(outputs) == ["conv1", "conv2", "fc1", "fc2", "fc3"]
    for name, ours in outputs.items():
        theirs = np.asarray(state["intermediates"][name]["__call__"][0])
        theirs = theirs - np.asarray(variables["params"][name]["bias"])
        np.testing.assert_allclose(ours, theirs.reshape(3, -1), atol=1e-5)


def test_amplification_of_known_directions():
    scales = jnp.array([4.0, 1.0, 0.5, 0.25])
    model = ja.Model(lambda w, x: (x.reshape(len(x), -1) * w) @ jnp.eye(4), scales)
    moves = np.eye(4, dtype=np.float32).reshape(4, 2, 2, 1)
    (gain,) = amplification(model, np.zeros((4, 2, 2, 1)), 0.1 * moves).values()
    np.testing.assert_allclose(gain, scales, rtol=1e-6)
    with pytest.raises(ValueError, match="1 of them 0"):
        amplification(model, np.zeros((1, 2, 2, 1)), np.zeros((1, 2, 2, 1)))


def test_the_certificate_of_two_opposite_classes_is_the_distance():
    """f = (w x, -w x): the boundary is at |w x| / |w|, which is margin / (sqrt(2) L)."""
    rng = np.random.default_rng(1)  # its own: epsilon is rounded down by 1e-5 in so large a box
    w = rng.standard_normal((4, 1))
    model = ja.Model(
        lambda p, x: x.reshape(len(x), -1) @ p, jnp.float32(np.hstack([w, -w])), bounds=(-100, 100)
    )
    images = rng.standard_normal((30, 2, 2, 1)).astype(np.float32)
    projected = images.reshape(30, 4) @ w[:, 0]
    labels = (projected < 0).astype(int)
    constant = spectrum(model, (2, 2, 1)).constant
    certified = certified_distance(model, images, labels, constant)
    np.testing.assert_allclose(certified, np.abs(projected) / np.linalg.norm(w), rtol=1e-4)
    assert (certified_distance(model, images, 1 - labels, constant) == 0).all()
    attack = ja.BIM(norm="l2", steps=5, step_size=0.5)
    goal, key = ja.Untargeted(labels), jax.random.key(0)
    inside = ja.run(attack, model, images, goal, 0.999 * certified, key=key, devices=ONE)
    outside = ja.run(attack, model, images, goal, 1.001 * certified, key=key, devices=ONE)
    assert not inside.success.any()
    assert outside.success.all()


def test_no_attack_succeeds_inside_a_certificate(shared):
    data = load_data("mnist", count=60, data_dir=shared / "data/mnist")
    model = load_published(shared / "data/models/mnist_rsl18a_mlp_linf0.1")
    goal, key = ja.Untargeted(data.labels), jax.random.key(0)
    constant = spectrum(model, (28, 28, 1), 0).constant
    certified = certified_distance(model, data.images, data.labels, constant)
    right = certified > 0
    assert right.sum() > 50
    images, certified = data.images[right], certified[right]
    goal = ja.Untargeted(data.labels[right])
    attack = ja.PGD(norm="l2", steps=30, step_size=0.1, restarts=2)
    assert not ja.run(attack, model, images, goal, certified, key=key, devices=ONE).success.any()
    outside = ja.run(attack, model, images, goal, 40 * certified, key=key, devices=ONE)
    assert outside.success.mean() > 0.5  # the attack is one that can


@pytest.mark.parametrize("name", ["mlp40_standard", "mlp40_linf0.1"])
def test_certificates_stay_below_proved_distances(shared, name):
    folder = shared / "data/exact" / name
    model = from_torch_arrays(
        get_definition("FC")(widths=(40,)), folder / "weights.npz", image_shape=(28, 28, 1)
    )
    data = load_data("mnist", data_dir=shared / "data/mnist")
    constant = spectrum(model, (28, 28, 1), 0).constant
    for norm in ("linf", "l1"):
        if not (folder / f"{norm}.npz").is_file():
            continue
        with np.load(folder / f"{norm}.npz") as exact:
            index, distance, witness = exact["index"], exact["distance"], exact["witness"]
        images, labels = data.images[index], data.labels[index]
        certified = certified_distance(model, images, labels, constant)
        across = np.linalg.norm(witness - images.reshape(len(images), -1), axis=1)
        assert (certified > 0).all()
        assert (certified <= across).all()
        # |r|_1 >= |r|_2, and |r|_2 <= sqrt(784) |r|_inf: the proved distances bound it too
        assert (certified <= distance * (1 if norm == "l1" else 28)).all()
        if norm == "l1":
            assert (certified * 50 > across).any()  # not empty: within two orders of magnitude


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_networks(shared, name):
    model = load_published(shared / "data/models" / name)
    shape = (28, 28, 1) if name.startswith("mnist") else (32, 32, 3)
    found = spectrum(model, shape)
    for step in found.layers:
        if step.kind in ("dense", "convolution"):
            assert 0.85 * step.norm <= step.lower <= step.norm * (1 + 1e-5)
    with np.load(shared / "data/models" / name / "weights.npz") as arrays:
        dense = [w for w in arrays.values() if w.ndim == 2]
    ours = [step.norm for step in found.layers if step.kind == "dense"]
    theirs = [np.linalg.svd(w.astype(np.float64), compute_uv=False)[0] for w in dense]
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    table = spectra_table("Norms", {name: found})
    assert table.values.shape == (len(found.layers) + 1, 3)
    images = RNG.random((2, *shape), np.float32)
    assert (local_norms(model, images) <= found.constant).all()


SMALL = get_definition("AlexNet")(channels=(4, 6, 8, 6, 5), width=16, classes=7)


def small_alexnet():
    """torchvision's names and shapes, of less width."""
    wide = (3, *SMALL.channels)
    shapes = {
        f"features.{place}.weight": (wide[i + 1], wide[i], size, size)
        for i, (place, size) in enumerate([(0, 11), (3, 5), (6, 3), (8, 3), (10, 3)])
    } | {
        "classifier.1.weight": (16, 180),
        "classifier.4.weight": (16, 16),
        "classifier.6.weight": (7, 16),
    }
    arrays = {}
    for name, shape in shapes.items():
        drawn = RNG.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
        arrays[name] = drawn.astype(np.float32)
        arrays[name.replace("weight", "bias")] = np.zeros(shape[0], np.float32)
    return arrays


def test_table_5_of_given_weights():
    arrays = small_alexnet()
    model = from_torch_arrays(SMALL, arrays, image_shape=(224, 224, 3))
    placed = model.params["params"]["features_3"]["kernel"]
    np.testing.assert_array_equal(placed, arrays["features.3.weight"].transpose(2, 3, 1, 0))
    table = table_5(arrays, SMALL)
    dense = [np.linalg.norm(arrays[f"classifier.{i}.weight"], 2) for i in (1, 4, 6)]
    np.testing.assert_allclose(table.values[5:, 1], dense, rtol=1e-5)
    lower, upper = table.values.T
    assert (lower <= upper * (1 + 1e-5)).all()
    assert (lower >= 0.9 * upper).all()
    kernel = arrays["features.6.weight"].transpose(2, 3, 1, 0)
    assert table.values[2, 1] == pytest.approx(convolution_bound(kernel, (13, 13), 1, [(1, 1)] * 2))
    assert table.published is not None
    assert table.published[0, 1] == 2.75
    assert np.isnan(table_5(None).values).all()  # nothing is shown without weights
    with pytest.raises(ValueError, match="223 to 254"):
        from_torch_arrays(SMALL, arrays, image_shape=(128, 128, 3))


@pytest.mark.slow
def test_the_study(tmp_path, monkeypatch):
    assert "szegedy.layers" in EXPERIMENTS
    monkeypatch.setattr("jaxadv.studies.layers.NETWORKS", ("LeNet",))
    train, test = load_data("digits", "train"), load_data("digits", "test")
    found = conduct("szegedy.layers", Setting(train, test, tmp_path, examples=20, quick=True))
    tables = {part.title: part for part in found.parts if isinstance(part, Table)}
    factor = next(iter(tables.values()))
    np.testing.assert_allclose(factor.values[:, 1], factor.values[:, 0], rtol=1e-9)
    np.testing.assert_allclose(factor.values[:, 0] / factor.values[:, 2], [1, 2, 4])
    certificates = tables["What the product of norms certifies"].values
    assert (certificates[:, 6] == 0).all()
    assert (certificates[:, 0] >= certificates[:, 1]).all()  # L is above any local gain
    gains = tables["Gain from image to logits, medians over images"].values
    assert (gains[:, 2] > 1).all()  # adversarial above random
    assert sum(isinstance(part, Curves) for part in found.parts) == 1  # of the LeNet


def test_steps_from_layer_to_layer_are_claimed_where_the_images_agree():
    """Planted: the ratio doubles, then stays within noise, then halves."""
    rng = np.random.default_rng(0)
    noise = np.exp(0.1 * rng.normal(size=(4, 30)))
    ratios = np.array([3.0, 6.0, 6.0, 3.0])[:, None] * noise
    names = ("fc1", "fc2", "fc3", "fc4")
    random = {name: np.full(30, 0.5) for name in names}
    adversarial = {name: 0.5 * ratio for name, ratio in zip(names, ratios, strict=True)}
    nothing = np.zeros((30, 1))
    gains = Gains(nothing, nothing, nothing, adversarial, random, nothing)
    middle, steps = ratios_by_layer(gains)
    np.testing.assert_allclose(middle, [3, 6, 6, 3], rtol=0.1)
    assert steps == (1, 0, -1)
    few = {name: values[:4] for name, values in adversarial.items()}
    less = {name: values[:4] for name, values in random.items()}
    assert ratios_by_layer(gains._replace(adversarial=few, random=less))[1] == (0, 0, 0)
