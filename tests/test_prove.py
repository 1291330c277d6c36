"""Proofs, against closed forms, exact distances, samples, and what must never be proved."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from scipy import special

import jaxadv as ja
from jaxadv.models import from_torch_arrays
from jaxadv.models.definitions import get_definition
from jaxadv.models.published import load_published
from jaxadv.proofs.certificates import covers
from jaxadv.proofs.lines import LINES
from jaxadv.proofs.replay import Replayer
from jaxadv.proofs.rules import UnsupportedPrimitive
from jaxadv.protocols.proof_search import Search
from jaxadv.protocols.prover import CHUNKS
from tests.common import dense, slow

RNG = np.random.default_rng(0)


def data(model, count=6, shape=(2, 3, 1)):
    images = np.random.default_rng(1).uniform(size=(count, *shape)).astype(np.float32)
    return images, np.asarray(model(images).argmax(1))


def samples(model, images, labels, epsilon, count=2000):
    """The least margin of random corners and points of each Linf ball."""
    rng = np.random.default_rng(2)
    least = []
    for image, label in zip(images, labels, strict=True):
        noise = rng.uniform(-epsilon, epsilon, size=(count, *image.shape))
        noise[::2] = epsilon * np.sign(noise[::2])
        logits = np.array(model(np.clip(image + noise, 0, 1).astype(np.float32)))
        own = logits[:, label].copy()
        logits[:, label] = -np.inf
        least.append((own - logits.max(1)).min())
    return np.array(least)


@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2), ("l1", np.inf)])
def test_linear_models_have_a_closed_form(norm, dual):
    weight = RNG.normal(size=(6, 3))
    model = ja.Model(
        lambda w, x: x.reshape(len(x), -1) @ w, jnp.asarray(weight, jnp.float32), (-9.0, 9.0)
    )
    images, labels = data(model)
    proof = ja.prove(model, images, labels, 0.05, norm, effort="fast", attacks={})
    logits = images.reshape(6, -1).astype(float) @ weight
    slope = weight[:, labels].T[:, :, None] - weight[None]
    exact = logits[np.arange(6), labels][:, None] - logits
    exact = exact - 0.05 * np.linalg.norm(slope, dual, axis=1)
    exact[np.arange(6), labels] = np.inf
    exact = exact.min(1)
    np.testing.assert_allclose(proof.lower, exact, atol=1e-4)
    assert (proof.lower[proof.proved] <= exact[proof.proved]).all()
    assert (proof.proved == (exact > 1e-5)).all() and proof.proved.any()


@pytest.mark.parametrize("norm", [slow("linf"), slow("l1")])
def test_proofs_end_at_the_exact_distance(shared, norm):
    """A hair below it all is proved, a hair above a mistake is found in every case."""
    place = shared / "data" / "exact" / "mlp40_standard"
    network = get_definition("FC")(widths=(40,))
    model = from_torch_arrays(network, place / "weights.npz", image_shape=(28, 28, 1))
    with np.load(place / f"{norm}.npz") as file:
        index, distance = file["index"][:8], file["distance"][:8]
    every = ja.load_data("mnist", data_dir=shared / "data" / "mnist")
    images, labels = every.images[index], every.labels[index]

    def prove(share, arithmetic, budget):
        return ja.prove(
            model,
            images,
            labels,
            share * distance,
            norm,
            effort="strong",
            attacks={},
            arithmetic=arithmetic,
            budget=budget,
        )

    below = prove(0.9999, "real", 3000)
    assert below.proved.all()
    assert (below.replay(model) == below.lower).all()
    if norm == "linf":
        assert prove(0.99, "float32", 3000).proved.all()
    above = prove(1.001, "real", 3000)
    assert above.broken.all() and (above.upper < 0).all()
    moved = (above.images.astype(float) - images).reshape(len(images), -1)
    length = np.linalg.norm(moved, np.inf if norm == "linf" else 1, axis=1)
    assert (length <= 1.001 * distance).all()


EXACT_FUNCTIONS = {
    "square": np.square,
    "exp": np.exp,
    "reciprocal": lambda z: 1 / z,
    "rsqrt": lambda z: 1 / np.sqrt(z),
    "sqrt": np.sqrt,
    "log": np.log,
    "tanh": np.tanh,
    "logistic": special.expit,
    "erf": special.erf,
}


def cut(z):
    """Each nonlinearity that is a ReLU in other words, on a few of the entries."""
    a, b, h, c, d, e, f, g = jnp.split(z, [2, 3, 4, 6, 8, 10, 12], axis=1)
    parts = [
        jax.nn.leaky_relu(a, 0.1),
        jnp.where(b > 0, b, 0.0),
        h * (h > 0),
        jnp.clip(c, -0.2, 0.5),
        jax.nn.relu6(d),
        jnp.abs(e),
        jnp.minimum(f, 0.3 * f),
        g.max(-1, keepdims=True),
    ]
    return jnp.concatenate(parts, 1)


def curved(z):
    """A softmax, squares and functions of the shape of an S."""
    parts = [0.5 * z[:, :5] ** 2, jax.nn.softmax(z[:, 5:8]), jnp.tanh(z[:, 8:10]), z[:, 10:]]
    return jnp.concatenate([*parts[:3], jax.nn.sigmoid(parts[3])], 1)


ACTIVATIONS = {"cut": (cut, 13), "curved": (curved, 15)}


@pytest.mark.parametrize("kind", LINES)
def test_lines_are_on_their_sides(kind):
    rng = np.random.default_rng(6)
    ends = np.sort(rng.normal(size=(400, 2)) * rng.choice([0.01, 0.3, 3], size=(400, 1)), 1)
    ends[::5] *= 0.1
    if kind in ("reciprocal", "rsqrt", "sqrt", "log"):
        ends = np.sort(np.abs(ends) + 1e-2, 1)
    low, high = ends.astype(np.float32).T
    alpha = rng.uniform(size=400).astype(np.float32)
    found = [np.asarray(x, float) for x in jax.jit(LINES[kind])(low, high, alpha)]
    below, under, above, over = (np.broadcast_to(x, 400)[:, None] for x in found)
    z = low[:, None] + (high - low)[:, None] * np.linspace(0, 1, 201, dtype=np.float32)
    z = np.clip(z, low[:, None], high[:, None])
    functions = {**EXACT_FUNCTIONS, "relu": lambda z: np.maximum(z, 0)}
    value = functions[kind](z.astype(float))
    room = 1e-6 * (1 + np.abs(value).max(1, keepdims=True))
    assert (below * z + under <= value + room).all()
    assert (above * z + over >= value - room).all()
    width = (high - low)[:, None]
    loss = (above - below) * z + over - under
    steepest = np.abs(np.gradient(value, axis=1) * 200 / np.maximum(width, 1e-9)).max(1)
    assert (loss <= 2 * steepest[:, None] * width + 1e-4 * (1 + np.abs(value))).all()


@pytest.mark.parametrize("name", [slow("cut"), slow("curved")])
def test_no_sample_leaves_the_bounds(name):
    activation, width = ACTIVATIONS[name]
    rng = np.random.default_rng(5)
    shapes = (6, 15), (width, 3)
    weights = [jnp.asarray(rng.normal(size=s) / s[0] ** 0.5, jnp.float32) for s in shapes]

    def apply(weights, x):
        x = x.reshape(len(x), -1)
        for weight in weights[:-1]:
            x = activation(x @ weight + 0.1)
        return x @ weights[-1]

    model = ja.Model(apply, weights)
    images, labels = data(model)
    proof = ja.prove(model, images, labels, 0.05, effort="fast", attacks={})
    seen = samples(model, images, labels, 0.05)
    computed = np.isfinite(proof.lower)
    assert computed.all() and (proof.lower <= seen + 1e-5).all()
    assert (proof.lower > seen - 1.0).all()  # not far below either
    box = jax.jit(jax.vmap(lambda a, b: ja.bounds(lambda x: model(x[None])[0], a, b)))
    low, high = box(jnp.asarray(images - 0.05), jnp.asarray(images + 0.05))
    logits = model(images)
    assert (low <= logits).all() and (logits <= high).all()


def pooled(window, stride, padding):
    rng = np.random.default_rng(3)
    kernel = jnp.asarray(rng.normal(size=(2, 2, 1, 3)) / 2, jnp.float32)

    def features(kernel, x):
        x = lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        x = lax.reduce_window(
            x, -jnp.inf, lax.max, (1, window, window, 1), (1, stride, stride, 1), padding
        )
        return x.reshape(len(x), -1)

    width = jax.eval_shape(features, kernel, jax.ShapeDtypeStruct((1, 6, 6, 1), jnp.float32))
    last = jnp.asarray(rng.normal(size=(width.shape[1], 3)) / 4, jnp.float32)
    return ja.Model(lambda p, x: features(p[0], x) @ p[1], (kernel, last))


@pytest.mark.parametrize(
    ("window", "stride", "padding"), [slow(2, 2, "VALID"), (3, 2, "SAME"), slow(3, 1, "SAME")]
)
def test_max_pooling_padded_and_overlapping(window, stride, padding):
    model = pooled(window, stride, padding)
    images, labels = data(model, 4, (6, 6, 1))
    proof = ja.prove(model, images, labels, 0.03, effort="fast", attacks={})
    seen = samples(model, images, labels, 0.03, 500)
    assert (proof.lower <= seen + 1e-5).all() and (proof.lower > seen - 1.0).all()
    point = jnp.asarray(images[0])
    low, high = jax.jit(lambda a: ja.bounds(lambda x: model(x[None])[0], a, a))(point)
    np.testing.assert_allclose(low, model(images[:1])[0], atol=1e-3)
    np.testing.assert_allclose(high, model(images[:1])[0], atol=1e-3)


def test_bounds_under_jit_and_grad():
    model = dense((6, 8, 3))
    image = jnp.full((2, 3, 1), 0.5)

    def width(weights, epsilon):
        low, high = ja.bounds(
            lambda x: model.apply(weights, x[None])[0], image - epsilon, image + epsilon
        )
        return (high - low).sum()

    value, gradient = jax.jit(jax.value_and_grad(width))(model.params, 0.1)
    np.testing.assert_allclose(value, width(model.params, 0.1), rtol=1e-5)
    step = jax.tree.map(lambda w, g: w - 0.01 * g, model.params, gradient)
    assert width(step, 0.1) < value and width(model.params, 0.0) < 1e-3


@pytest.mark.parametrize("place", [0, 1])
def test_nan_never_proves(place):
    model = dense((6, 8, 8, 3))
    images, labels = data(model)
    clean = ja.prove(model, images, labels, 1e-3, effort="strong", attacks={})
    assert clean.proved.any()
    weights = list(model.params)
    weights[place] = weights[place].at[0, 0].set(jnp.nan)
    spoilt = ja.Model(model.apply, weights)
    with pytest.warns(ja.CheckWarning):
        proof = ja.prove(spoilt, images, labels, 1e-3, effort="strong", attacks={})
    assert not proof.proved.any()
    assert not (clean.replay(spoilt) > 0).any()


def test_infinite_bounds_never_prove():
    model = dense((6, 8, 3), activation=lambda z: jnp.exp(300 * z))
    images = np.full((1, 2, 3, 1), 0.5, np.float32)
    with pytest.warns(ja.CheckWarning):
        proof = ja.prove(model, images, np.zeros(1, int), 0.4, effort="standard", attacks={})
    assert not proof.proved.any()


def test_branch_and_bound_proves_what_slopes_do_not():
    model = dense((6, 12, 12, 3), seed=4)
    images, labels = data(model, 12)
    settings = {"attacks": {}, "arithmetic": "real"}
    efforts = [
        ja.prove(model, images, labels, 0.12, effort=effort, **settings)
        for effort in ("fast", "standard", "strong")
    ]
    proved = [found.proved for found in efforts]
    assert (proved[0] <= proved[1]).all() and (proved[1] <= proved[2]).all()
    assert proved[2].sum() > proved[1].sum()
    strong = efforts[2]
    assert (strong.proved ^ strong.broken).all()  # every image is decided
    seen = samples(model, images, labels, 0.12)
    assert not (strong.proved & (seen < 0)).any()
    assert (strong.lower <= strong.upper).all()
    alone = ja.prove(model, images[3:5], labels[3:5], 0.12, effort="strong", **settings)
    assert (alone.status == strong.status[3:5]).all()
    assert (alone.subproblems == strong.subproblems[3:5]).all()
    few = ja.prove(model, images, labels, 0.12, effort="strong", budget=1, **settings)
    assert (few.status == ja.Verdict.BUDGET).any() and few.complete


@pytest.mark.devices
def test_devices_share_the_rows():
    """Equal results on two and on eight; on one alone, sums may be rounded differently."""
    model = dense((6, 40, 40, 3), seed=2)
    images, labels = data(model, 12)

    def prove(count):
        return ja.prove(
            model,
            images,
            labels,
            0.17,
            effort="strong",
            attacks={},
            devices=jax.local_devices()[:count],
        )

    one, two, eight = map(prove, (1, 2, 8))
    for field in ("status", "lower", "upper", "subproblems", "images"):
        np.testing.assert_array_equal(getattr(two, field), getattr(eight, field))
    assert (one.proved == two.proved).all() and (one.broken == two.broken).all()
    assert one.subproblems.max() > 100
    np.testing.assert_array_equal(two.replay(model)[two.proved], two.lower[two.proved])


def test_a_certificate_is_not_believed():
    model = dense((6, 12, 12, 3), seed=4)
    images, labels = data(model, 12)
    proof = ja.prove(model, images, labels, 0.12, effort="strong", attacks={}, arithmetic="real")
    np.testing.assert_array_equal(proof.replay(model)[proof.proved], proof.lower[proof.proved])
    split = [c for c in proof.certificates if c is not None and len(c.leaves) > 2]
    place = proof.certificates.index(split[0])

    def lower(leaves):
        others = list(proof.certificates)
        others[place] = split[0]._replace(leaves=leaves)
        return dataclasses.replace(proof, certificates=others).replay(model)[place]

    leaves = split[0].leaves
    assert lower(leaves) > 0
    parted = next(i for i, leaf in enumerate(leaves) if len(leaf.entry))
    assert lower(leaves[:parted] + leaves[parted + 1 :]) == -np.inf  # a part is missing
    wrong = [leaf._replace(beta=-leaf.beta - 1) for leaf in leaves]
    assert lower(wrong) < 0 or (lower(wrong) <= samples(model, images, labels, 0.12)[place])
    other = dense((6, 12, 12, 3), seed=5)
    again = proof.replay(other)
    seen = samples(other, images, labels, 0.12)
    assert (again <= seen + 1e-6).all()


def test_parts_must_cover_the_region():
    def leaf(*splits):
        return np.array([abs(s) for s in splits], int), np.sign(splits).astype(int)

    assert covers([leaf()])
    assert covers([leaf(1), leaf(-1)])
    assert covers([leaf(1, 2), leaf(1, -2), leaf(-1)])
    assert covers([leaf(1, 2), leaf(1, -2), leaf(-1, 3), leaf(-1, -3)])
    assert not covers([])
    assert not covers([leaf(1)])
    assert not covers([leaf(1, 2), leaf(1, -2), leaf(-1, 3)])
    assert not covers([leaf(1), leaf(-2)])


def test_what_cannot_be_bounded_is_named_at_once():
    model = dense((6, 8, 3), activation=lambda z: jnp.sin(z))
    images, labels = data(model)
    with pytest.raises(UnsupportedPrimitive, match=r"'sin' at .*test_prove.py:\d+"):
        ja.prove(model, images, labels, 0.1)
    with pytest.raises(ValueError, match="'sin'"):
        ja.bounds(jnp.sin, 0.0, 1.0)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"epsilon": 0.0}, "epsilon=0.0"),
        ({"epsilon": [0.1, 0.2]}, "epsilon="),
        ({"norm": "l0"}, "norm='l0'"),
        ({"effort": "most"}, "effort='most'"),
        ({"arithmetic": "bfloat16"}, "arithmetic='bfloat16'"),
        ({"budget": 0}, "budget=0"),
        ({"seconds": 0}, "seconds=0"),
        ({"labels": [7] * 6}, "labels"),
    ],
)
def test_wrong_arguments_are_named(changed, message):
    model = dense((6, 8, 3))
    images, labels = data(model)
    settings = {"labels": labels, "epsilon": 0.1, "attacks": {}, **changed}
    with pytest.raises(ValueError, match=message):
        ja.prove(model, images, **settings)


def test_seconds_end_a_call():
    model = dense((6, 8, 3))
    images, labels = data(model)
    proof = ja.prove(model, images, labels, 0.1, attacks={}, seconds=1e-9)
    assert not proof.complete and (proof.status == ja.Verdict.NOT_RUN).all()


@pytest.mark.parametrize("calls", [1, 2, 4, 6])
def test_a_call_ends_between_any_two_steps(monkeypatch, calls):
    """Also while a network's many inputs are bounded: what is known by then is true."""
    model = dense((6, 8, 8, 3))
    images, labels = data(model)
    whole = ja.prove(model, images, labels, 0.1, attacks={})
    count = itertools.count()

    def late(search):
        search.complete &= (stopped := next(count) >= calls) is False
        return stopped

    monkeypatch.setattr(Search, "late", late)
    proof = ja.prove(model, images, labels, 0.1, attacks={})
    assert whole.complete and not proof.complete and next(count) <= calls + 3
    assert not (proof.proved & ~whole.proved).any() and (proof.lower <= whole.lower).all()


def test_a_model_without_nonlinearities_has_nothing_to_split():
    weight = jnp.asarray([[1.0, 0], [0, 1], [0, 0], [0, 0], [0, 0], [0, 0]])
    model = ja.Model(lambda w, x: x.reshape(len(x), -1) @ w, weight)
    images = np.full((1, 2, 3, 1), 0.5, np.float32)
    images[0, 0, 0] += 0.2  # at its distance of 0.1 the margin is 0: neither proved nor broken
    how = {"attacks": {}, "effort": "strong"}
    proof = ja.prove(model, images, np.zeros(1, int), 0.1, **how)
    assert proof.status[0] == ja.Verdict.LOOSE and abs(proof.lower[0]) < 1e-5


def test_attacks_run_first():
    model = dense((6, 12, 12, 3), seed=4)
    images, labels = data(model, 12)
    attacks = {"PGD": ja.PGD(steps=10, loss="margin")}
    proof = ja.prove(model, images, labels, 0.12, effort="fast", attacks=attacks)
    assert proof.broken.any() and (proof.forward[proof.broken] > 1).all()
    margin = np.asarray(model(proof.images[proof.broken]))
    assert (margin.argmax(1) != labels[proof.broken]).all()
    assert (np.abs(proof.images - images).max((1, 2, 3)) <= 0.12).all()


@pytest.mark.slow
def test_distances_from_both_sides(shared):
    place = shared / "data" / "exact" / "mlp40_standard"
    network = get_definition("FC")(widths=(40,))
    model = from_torch_arrays(network, place / "weights.npz", image_shape=(28, 28, 1))
    with np.load(place / "linf.npz") as file:
        index, distance = file["index"][:6], file["distance"][:6]
    every = ja.load_data("mnist", data_dir=shared / "data" / "mnist")
    found = ja.minimal_distance(
        model, every.images[index], every.labels[index], effort="fast", prove="strong"
    )
    assert (found.lower <= distance).all() and (distance <= found.distance * (1 + 1e-4)).all()
    assert (found.lower > 0.98 * distance).all()
    exact = found.distance < 1.001 * distance
    assert exact.sum() > 3 and (found.lower > 0.998 * distance)[exact].all()
    with pytest.raises(ValueError, match="prove='most'|effort='most'"):
        ja.minimal_distance(model, every.images[index], every.labels[index], prove="most")


@pytest.mark.slow
def test_published_certified_accuracy(shared):
    """Wong and Kolter's network has at most 5.8 % certified error at 0.1, by weaker bounds."""
    model = load_published(shared / "data" / "models" / "mnist_wong_kolter_linf0.1")
    every = ja.load_data("mnist", data_dir=shared / "data" / "mnist")
    images, labels = every.images[:40], every.labels[:40]
    proof = ja.prove(model, images, labels, 0.1, effort="fast")
    assert proof.proved.mean() >= 0.9
    report = ja.evaluate(
        model,
        images[proof.proved],
        labels[proof.proved],
        epsilons=[0.1],
        attacks="strong",
        distances=False,
    )
    assert report.robust_accuracy[0] == 1


def kept_equal(one, other):
    """Whether two results agree bit for bit, certificates included, seconds apart."""
    fields = [f.name for f in dataclasses.fields(one) if f.name not in ("certificates", "cost")]
    same = [np.array_equal(getattr(one, name), getattr(other, name)) for name in fields]
    leaves = [jax.tree.flatten(found.certificates) for found in (one, other)]
    arrays = zip(leaves[0][0], leaves[1][0], strict=True)
    return all(same) and leaves[0][1] == leaves[1][1] and all(np.array_equal(*x) for x in arrays)


class Killed(BaseException):
    pass


def test_a_killed_proof_goes_on_with_equal_results(tmp_path, monkeypatch):
    monkeypatch.setitem(CHUNKS, "strong", 4)
    model = dense((6, 12, 12, 3), seed=4)
    images, labels = data(model, 12)
    how = {"epsilon": 0.12, "effort": "strong", "attacks": {"PGD": ja.PGD(steps=3)}}
    whole = ja.prove(model, images, labels, **how)
    assert whole.proved.any() and any(
        c is not None and len(c.leaves) > 2 for c in whole.certificates
    )
    bound, begun = Search.bound, []

    def counted(self, rows):
        begun.append(rows)
        if len(begun) == 2:
            raise Killed
        bound(self, rows)

    monkeypatch.setattr(Search, "bound", counted)
    with pytest.raises(Killed):
        ja.prove(model, images, labels, store=tmp_path, **how)
    again = ja.prove(model, images, labels, store=tmp_path, **how)
    assert kept_equal(again, whole)
    assert [len(rows) for rows in begun[:2]] == [4, 4] and (begun[1] == begun[2]).all()
    count = len(begun)
    assert kept_equal(ja.prove(model, images, labels, store=tmp_path, **how), whole)
    assert len(begun) == count  # nothing was left to do
    np.testing.assert_array_equal(again.replay(model)[again.proved], again.lower[again.proved])
    (tmp_path / "proof-000004.npz").write_bytes(b"cut off")
    assert kept_equal(ja.prove(model, images, labels, store=tmp_path, **how), whole)
    assert len(begun) == count + 1


def test_kept_proofs_are_of_one_program_and_one_setting(tmp_path):
    """A program that agrees at the images, and differs between them, takes no proof of another."""
    weight = jnp.asarray(RNG.normal(size=(6, 3)), jnp.float32)

    def plain(w, x):
        return x.reshape(len(x), -1) @ w

    def fooled(w, x):  # one pixel beyond its value in all images changes the class
        far = jnp.maximum(x[:, 0, 0, 0] - 0.5, 0)[:, None]
        return plain(w, x) - 1e4 * far * jnp.array([1.0, 2.0, 3.0])

    images, labels = data(ja.Model(plain, weight))
    images[:, 0, 0, 0] = 0.5
    labels = np.asarray(plain(weight, images).argmax(1))
    how = {"attacks": {}, "effort": "fast", "store": tmp_path}
    first = ja.prove(ja.Model(plain, weight), images, labels, 1e-3, **how)
    assert first.proved.all()
    other = ja.prove(ja.Model(fooled, weight), images, labels, 1e-3, **how)
    assert not other.proved[labels != 0].any()
    farther = ja.prove(ja.Model(plain, weight), images, labels, 3.0, **how)
    assert not farther.proved.any()


def test_unconfirmed_proofs_are_split_further(monkeypatch):
    """A replay that finds less, as by coarser rounding, is met with more subproblems."""
    model = dense((6, 12, 12, 3), seed=4)
    images, labels = data(model, 12)
    how = {"attacks": {}, "arithmetic": "real"}
    plain = ja.prove(model, images, labels, 0.12, effort="strong", **how)
    parts = Replayer.parts
    monkeypatch.setattr(Replayer, "parts", lambda self, *args: parts(self, *args) - 0.02)
    strict = ja.prove(model, images, labels, 0.12, effort="strong", **how)
    assert (strict.lower[strict.proved] > 0).all()
    assert not (strict.proved & ~plain.proved).any()
    margin = samples(model, images, labels, 0.12)
    assert strict.proved[plain.proved & (plain.lower > 0.05) & (margin > 0.1)].all()
    assert strict.proved.sum() > 2
    assert strict.subproblems[plain.proved].sum() > plain.subproblems[plain.proved].sum()
    fast = ja.prove(model, images, labels, 0.03, effort="fast", **how)
    standard = ja.prove(model, images, labels, 0.03, effort="standard", **how)
    unconfirmed = fast.status == ja.Verdict.UNCONFIRMED
    assert (standard.lower[unconfirmed] >= fast.lower[unconfirmed]).all()
    monkeypatch.setattr(Replayer, "parts", lambda self, *args: parts(self, *args) - np.inf)
    never = ja.prove(model, images, labels, 0.12, effort="strong", **how)
    assert not never.proved.any()
