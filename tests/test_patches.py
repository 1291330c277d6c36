"""Patches and masks: places and values by brute force, what may not change, and real networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxadv as ja
from jaxadv.data import load_data
from jaxadv.models import load_published
from tests.common import slow
from tests.random_state import restored

KEY = jax.random.key(0)
RNG = np.random.default_rng(3)
restored_before_each_test = restored(RNG)
IMAGES = RNG.random((12, 6, 7, 2)).astype(np.float32)
WEIGHTS = RNG.normal(size=(84, 2)).astype(np.float32)
LINEAR = ja.Model(lambda w, x: x.reshape(len(x), -1) @ w, jnp.asarray(WEIGHTS))
LABELS = np.asarray(LINEAR(IMAGES)).argmax(1)


def best_patches(image: np.ndarray, label: int, size: int) -> dict[tuple[int, int], float]:
    """The least margin of a linear model for a patch at each place: every entry on a face."""
    slope = ((WEIGHTS[:, 1] - WEIGHTS[:, 0]) * (1 if label == 0 else -1)).reshape(image.shape)
    slope = slope.astype(np.float64)
    found = {}
    for row in range(image.shape[0] - size + 1):
        for column in range(image.shape[1] - size + 1):
            patched = image.astype(np.float64)
            part = np.s_[row : row + size, column : column + size]
            patched[part] = np.where(slope[part] > 0, 1, 0)
            found[row, column] = -float((slope * patched).sum())
    return found


def attacked(attack: ja.Attack, model: ja.Model = LINEAR) -> ja.Result:
    goal = ja.Untargeted(LABELS)
    return ja.run(attack, model, IMAGES, goal, key=KEY, keep="loss", lanes=4)


def place_of(change: np.ndarray) -> tuple[int, int]:
    rows, columns = np.nonzero(change.any(-1))
    return int(rows.min()), int(columns.min())


@pytest.mark.parametrize("size", [slow(1), 3])
def test_on_a_linear_model_place_and_values_are_the_best(size: int) -> None:
    result = attacked(ja.AdversarialPatch(size=size, steps=3, loss="margin"))
    for image, found, label, margin in zip(
        IMAGES, result.images, LABELS, result.margin, strict=True
    ):
        best = best_patches(image, int(label), size)
        assert margin == pytest.approx(min(best.values()), abs=2e-5)
        assert place_of(found != image) == min(best, key=best.__getitem__)
        assert (found != image).any(-1).sum() == size**2


def test_a_given_place_is_kept_and_its_values_are_the_best() -> None:
    result = attacked(ja.AdversarialPatch(size=2, place=(3, 5), steps=3, loss="margin"))
    changed = (result.images != IMAGES).any(-1)
    inside = np.zeros((6, 7), bool)
    inside[3:5, 5:7] = True
    assert (changed == inside).all()
    for image, label, margin in zip(IMAGES, LABELS, result.margin, strict=True):
        assert margin == pytest.approx(best_patches(image, int(label), 2)[3, 5], abs=2e-5)


def test_restarts_take_the_next_best_places() -> None:
    far = ja.Model(lambda w, x: LINEAR(x) + jnp.array([1e3, 0.0]), ())  # out of reach: all run
    attack = ja.AdversarialPatch(size=3, steps=2, restarts=3)
    result = ja.run(attack, far, IMAGES, ja.Untargeted(np.zeros(12, int)), key=KEY, lanes=4)
    assert (result.backward == 6).all() and (result.forward == 10).all()

    slope = jnp.asarray((WEIGHTS[:, 1] - WEIGHTS[:, 0]).reshape(6, 7, 2))
    faces = jnp.where(slope > 0, 1.0, 0.0)

    @jax.jit
    @jax.vmap
    def masks(image, rank):
        radius, zero, one = jnp.float32(jnp.inf), jnp.float32(0), jnp.float32(1)
        problem = ja.Problem(image, ja.Untargeted(0), radius, zero, one, jnp.zeros(2), rank)
        return attack.chosen(problem, attack.init(problem, KEY), slope, faces)

    gain = np.asarray(slope * (faces - IMAGES)).sum(-1)
    for number in range(12):
        sums = {
            (r, c): gain[number, r : r + 3, c : c + 3].sum() for r in range(4) for c in range(5)
        }
        order = []
        while sums:
            order.append(max(sums, key=sums.__getitem__))
            sums = {
                p: v
                for p, v in sums.items()
                if max(abs(p[0] - order[-1][0]), abs(p[1] - order[-1][1])) >= 2
            }
        found = np.asarray(masks(IMAGES[[number] * 3], np.arange(3)))
        assert [place_of(mask[..., None]) for mask in found][: len(order)] == order[:3]


@pytest.mark.slow
def test_nothing_outside_a_patch_or_a_mask_moves() -> None:
    hidden = jnp.asarray(RNG.normal(size=(84, 20)).astype(np.float32)) / 4
    top = jnp.asarray(RNG.normal(size=(20, 2)).astype(np.float32))
    model = ja.Model(lambda p, x: jnp.tanh(x.reshape(len(x), -1) @ p[0]) @ p[1], (hidden, top))
    random = attacked(ja.AdversarialPatch(size=3, place="random", steps=10), model)
    places = {place_of(found != image) for image, found in zip(IMAGES, random.images, strict=True)}
    assert ((random.images != IMAGES).any(-1).sum((1, 2)) <= 9).all()
    assert len(places) > 3
    mask = RNG.random((6, 7, 2)) < 0.3
    goal = ja.Untargeted(np.asarray(model(IMAGES)).argmax(1))
    for attack, epsilon in (
        (ja.PGD(restarts=2), 0.7),
        (ja.PGD(norm="l1"), 9.0),
        (ja.Square(steps=50), 0.7),
        (ja.DDN(steps=20), None),
    ):
        found = ja.run(ja.Masked(attack, mask), model, IMAGES, goal, epsilon, key=KEY, lanes=4)
        assert (found.images == IMAGES)[:, ~mask].all()
        assert (found.images != IMAGES)[:, mask].any()
        assert not found.rejected
        if epsilon is not None:
            assert (found.distance <= epsilon).all()


def test_in_linf_a_masked_attack_reaches_the_best_of_the_mask() -> None:
    mask = np.zeros((6, 7, 1), bool)
    mask[1:3, 2:6] = True
    slope = ((WEIGHTS[:, 1] - WEIGHTS[:, 0]).reshape(6, 7, 2)) * np.where(LABELS, -1, 1).reshape(
        -1, 1, 1, 1
    )
    moved = np.clip(IMAGES + 0.2 * np.sign(slope), 0, 1)
    best = -(slope * np.where(mask, moved, IMAGES)).sum((1, 2, 3))
    goal = ja.Untargeted(LABELS)
    found = ja.run(
        ja.Masked(ja.PGD(steps=30), mask), LINEAR, IMAGES, goal, 0.2, key=KEY, keep="loss", lanes=4
    )
    np.testing.assert_allclose(found.margin, best, atol=1e-4)


@pytest.mark.slow
def test_one_perturbation_for_all_frames_is_the_best_one() -> None:
    """Of a linear model: the sign of the frames' summed slopes; unequal frames, none clipped."""
    images = 0.4 + 0.2 * IMAGES
    slope = (WEIGHTS[:, 1] - WEIGHTS[:, 0]).reshape(2, 3, 7, 2)
    labels = np.asarray(LINEAR(images)).argmax(1)
    sign = np.sign(slope.sum(0))[None] * np.where(labels, -1, 1).reshape(-1, 1, 1, 1)
    best = images + 0.1 * np.tile(sign, (1, 2, 1, 1))
    found = ja.run(
        ja.Repeated(ja.PGD(steps=30), frames=2),
        LINEAR,
        images,
        ja.Untargeted(labels),
        0.1,
        key=KEY,
        keep="loss",
        lanes=4,
    )
    np.testing.assert_allclose(found.images, best, atol=1e-5)
    half = np.repeat([True, False], 3).reshape(6, 1, 1)
    first = ja.run(
        ja.Masked(ja.Repeated(ja.PGD(steps=30), frames=2), half),
        LINEAR,
        images,
        ja.Untargeted(labels),
        0.1,
        key=KEY,
        keep="loss",
        lanes=4,
    )
    sign = np.sign(slope[0])[None] * np.where(labels, -1, 1).reshape(-1, 1, 1, 1)
    np.testing.assert_allclose(first.images[:, :3], images[:, :3] + 0.1 * sign, atol=1e-5)
    assert (first.images[:, 3:] == images[:, 3:]).all()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ja.AdversarialPatch(size=0), "size=0"),
        (lambda: ja.AdversarialPatch(place="somewhere"), "place='somewhere'"),
        (lambda: ja.AdversarialPatch(place=(-1, 0)), "place="),
        (lambda: ja.AdversarialPatch(norm="linf"), "norm='linf'"),
        (lambda: attacked(ja.AdversarialPatch(size=7)), "size=7"),
        (lambda: attacked(ja.AdversarialPatch(size=2, place=(5, 0))), r"place=\(5, 0\)"),
        (lambda: ja.Masked(ja.PGD(), np.zeros((6, 7, 2), bool)), "mask is False"),
        (lambda: ja.Repeated(ja.PGD(norm="l2"), frames=2), "in l2"),
        (lambda: ja.Repeated(ja.PGD(), frames=0), "frames=0"),
    ],
)
def test_what_cannot_be_meant_is_said(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.slow
def test_a_searched_place_beats_a_random_one_on_a_real_network(shared) -> None:
    model = load_published(shared / "data/models/mnist_smallcnn_ddn_l2")
    data = load_data("mnist", count=50, data_dir=shared / "data/mnist")
    goal, rates = ja.Untargeted(data.labels), {}
    for place in ("searched", "random"):
        attack = ja.AdversarialPatch(size=7, place=place, steps=20)
        found = ja.run(attack, model, data.images, goal, key=KEY)
        assert (found.distance <= 49).all() and not found.rejected
        rates[place] = found.success.mean()
    assert rates["searched"] > rates["random"] + 0.1
