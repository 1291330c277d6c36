"""The shortest steps to a hyperplane within the box, held against SciPy and the dual's root."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import brentq, linprog

from jaxadv.attacks.common.hyperplane import hyperplane_step, smallest

SIZE, LOWER, UPPER = 9, -0.5, 2.0
NORMS = ["linf", "l2", "l1"]


@functools.cache
def cases():
    """images, normals [N, SIZE] and gaps [N]: random ones, and all that is degenerate."""
    rng = np.random.default_rng(5)
    images = rng.uniform(LOWER, UPPER, (120, SIZE))
    normals = rng.normal(size=(120, SIZE)) * 10.0 ** rng.uniform(-2, 2, (120, SIZE))
    share = rng.uniform(-1, 1, 120)
    images[20:40] = rng.choice([LOWER, UPPER], (20, SIZE))  # in corners
    images[40:60] = rng.choice([LOWER, 0.3, UPPER], (20, SIZE))
    normals[30:70] *= rng.random((40, SIZE)) < 0.5  # weights of 0
    normals[60:80] = rng.choice([-1.0, 1.0], (20, SIZE))  # all equal
    normals[70:75] *= 1e-22  # squares that float32 cannot hold
    normals[75:80] *= 1e22
    share[80:90] *= 1e-6  # next to the hyperplane
    share[90:93] = 0  # on it
    share[93:99] *= 10  # out of reach
    normals[99] = 0
    images, normals = images.astype(np.float32), normals.astype(np.float32)
    gaps = (share * limit(images, normals, share)).astype(np.float32)
    gaps[99] = 1
    return images, normals, gaps


def limit(images, normals, gap):
    """How far <normal, d> can go within the box, in the direction of the sign of `gap`."""
    up = np.float64(normals) * np.sign(gap)[:, None] > 0
    return (np.abs(np.float64(normals)) * np.where(up, UPPER - images, images - LOWER)).sum(1)


def shortest(norm, image, normal, gap):
    """The least norm of d with <normal, d> = gap in the box, in float64."""
    x, w = image.astype(np.float64), normal.astype(np.float64)
    scale = np.abs(w).max()
    w, gap = w / scale, float(gap) / scale
    box = np.stack([LOWER - x, UPPER - x], 1)
    if norm == "l2":  # d = clip(s w), s the root of a growing function

        def step(s):
            return np.clip(s * w, box[:, 0], box[:, 1])

        most = 10 / np.abs(w[w != 0]).min()
        s = brentq(lambda s: w @ step(s) - gap, -most, most, xtol=1e-300, rtol=1e-14)
        return np.linalg.norm(step(s))
    if norm == "linf":  # variables d, t
        eye, ones = np.eye(SIZE), np.ones((SIZE, 1))
        found = linprog(
            np.r_[np.zeros(SIZE), 1.0],
            A_ub=np.vstack([np.hstack([eye, -ones]), np.hstack([-eye, -ones])]),
            b_ub=np.zeros(2 * SIZE),
            A_eq=np.r_[w, 0.0][None],
            b_eq=[gap],
            bounds=[*box, (0, None)],
        )
    else:  # variables p, q with d = p - q
        rooms = np.maximum(np.r_[box[:, 1], -box[:, 0]], 0)
        found = linprog(
            np.ones(2 * SIZE),
            A_eq=np.r_[w, -w][None],
            b_eq=[gap],
            bounds=[(0, room) for room in rooms],
        )
    assert found.success
    return found.fun


@functools.cache
def steps(norm):
    step = jax.vmap(lambda x, w, gap: hyperplane_step(norm, x, w, gap, LOWER, UPPER))
    return np.asarray(jax.jit(step)(*cases()))


@pytest.mark.parametrize("norm", NORMS)
def test_steps_are_as_short_as_scipy_finds_them(norm):
    images, normals, gaps = cases()
    found = steps(norm)
    order = {"linf": np.inf, "l2": 2, "l1": 1}[norm]
    lengths = np.linalg.norm(found.astype(np.float64), order, axis=1)
    reachable = np.abs(gaps) < limit(images, normals, gaps) * (1 - 1e-6)
    checked = np.flatnonzero(reachable & (gaps != 0))
    assert len(checked) > 100
    for i in checked:
        expected = shortest(norm, images[i], normals[i], gaps[i])
        assert lengths[i] == pytest.approx(expected, rel=3e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_steps_reach_the_hyperplane_and_stay_in_the_box(norm):
    images, normals, gaps = cases()
    found, far = steps(norm), limit(images, normals, gaps)
    assert np.isfinite(found).all()
    assert (found[normals == 0] == 0).all()
    assert (found[gaps == 0] == 0).all()
    after = images.astype(np.float64) + found
    assert after.min() >= LOWER - 1e-6 and after.max() <= UPPER + 1e-6
    given = (normals.astype(np.float64) * found).sum(1)
    wanted = np.sign(gaps) * np.minimum(np.abs(gaps), far)
    np.testing.assert_allclose(given[:99], wanted[:99], rtol=1e-6)
    # Out of reach: the corner that comes nearest.
    beyond = np.abs(gaps[:99]) > far[:99]
    assert beyond.sum() > 3
    up = np.sign(gaps)[:, None] * normals > 0
    corner = np.where(up, UPPER - images, LOWER - images)
    moves = (normals != 0) & np.r_[beyond, np.zeros(21, bool)][:, None]
    np.testing.assert_allclose(found[moves], corner[moves], rtol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_as_exact_on_large_images(norm):
    rng = np.random.default_rng(0)
    image, normal = np.float32(rng.random(40000)), np.float32(rng.normal(size=40000))
    reach = (np.abs(normal) * np.where(normal > 0, 1 - image, image)).sum()
    for share in (1e-5, 0.3, 0.999):
        gap = np.float32(share * reach)
        step = hyperplane_step(norm, jnp.asarray(image), jnp.asarray(normal), gap, 0.0, 1.0)
        found = np.asarray(step, np.float64)
        assert normal.astype(np.float64) @ found == pytest.approx(gap, rel=1e-6)


@pytest.mark.parametrize("threshold", [0.0, 1e-30, 0.7, 3e38])
def test_the_smallest_float_that_will_do(threshold):
    threshold = np.float32(threshold)
    assert smallest(lambda s: s >= threshold) == threshold
    if threshold > 0:
        assert smallest(lambda s: s > threshold) == np.nextafter(threshold, np.float32(np.inf))
    assert smallest(lambda s: jnp.isnan(s) | (s < 0)) == np.finfo(np.float32).max
