"""Linear models with two classes, whose exact distance is known in every norm, with the box too."""

import functools

import numpy as np
import pytest
from scipy.optimize import linprog, minimize

COUNT, SHAPE, SIZE = 16, (4, 3, 1), 12


def logits(params, images):
    weights, bias = params
    return images.reshape(len(images), -1) @ weights + bias


@functools.cache
def problem(box):
    """(weights, bias, images, labels); box: whether it stands in the way."""
    rng = np.random.default_rng(11)
    weights = rng.normal(size=(SIZE, 2)).astype(np.float32)
    if box:
        bias = np.float32([0.1, -0.1])
        images = rng.choice([0.0, 0.05, 0.5, 0.95, 1.0], (COUNT, SIZE)).astype(np.float32)
    else:  # about the middle, which lies on the boundary; not so near that float32 counts
        bias = (weights.sum(0).mean() / 2 - weights.sum(0) / 2).astype(np.float32)
        images = rng.uniform(0.45, 0.55, (20 * COUNT, SIZE)).astype(np.float32)
        clear = np.abs((images - 0.5) @ (weights[:, 0] - weights[:, 1])) > 0.2
        images = images[clear][:COUNT]
        assert len(images) == COUNT
    scores = images.astype(np.float64) @ weights.astype(np.float64) + bias
    return weights, bias, images, scores.argmax(1).astype(np.int32)


def line(weights, bias, label):
    """w, b: the margin is w @ x + b."""
    w = weights.astype(np.float64)
    b = bias.astype(np.float64)
    return w[:, label] - w[:, 1 - label], b[label] - b[1 - label]


def free_distance(norm, w, margin):
    if norm == "l0":  # each entry at best runs into the box, half a unit away
        return np.searchsorted(np.cumsum(np.sort(np.abs(w) / 2)[::-1]), margin) + 1
    dual = {"linf": np.abs(w).sum(), "l2": np.linalg.norm(w), "l1": np.abs(w).max()}[norm]
    return margin / dual


def boxed_distance(norm, w, margin, x):
    """min |d| with w @ d <= -margin and 0 <= x + d <= 1 (inf where there is none)."""
    x = x.astype(np.float64)
    gains = np.where(w > 0, w * x, -w * (1 - x))  # what each entry can give at most
    if gains.sum() <= margin:
        return np.inf
    if norm == "l0":
        return np.searchsorted(np.cumsum(np.sort(gains)[::-1]), margin) + 1
    if norm == "linf":  # variables d, t
        eye, ones = np.eye(SIZE), np.ones((SIZE, 1))
        found = linprog(
            np.r_[np.zeros(SIZE), 1.0],
            A_ub=np.vstack([np.hstack([eye, -ones]), np.hstack([-eye, -ones]), np.r_[w, 0.0]]),
            b_ub=np.r_[np.zeros(2 * SIZE), -margin],
            bounds=[*zip(-x, 1 - x, strict=True), (0, None)],
        )
        return found.fun
    if norm == "l1":  # variables p, q with d = p - q
        found = linprog(
            np.ones(2 * SIZE),
            A_ub=np.r_[w, -w][None],
            b_ub=[-margin],
            bounds=[(0, r) for r in np.r_[1 - x, x]],
        )
        return found.fun
    found = minimize(
        lambda d: d @ d,
        -np.where(w > 0, x, x - 1.0),  # a corner of the box that is adversarial
        jac=lambda d: 2 * d,
        bounds=list(zip(-x, 1 - x, strict=True)),
        constraints={"type": "ineq", "fun": lambda d: -margin - w @ d, "jac": lambda d: -w},
        method="SLSQP",
        options={"ftol": 1e-15, "maxiter": 1000},
    )
    assert w @ found.x <= -margin + 1e-9
    return np.sqrt(found.fun)


@functools.cache
def exact(norm, box):
    weights, bias, images, labels = problem(box)
    distances = []
    for x, label in zip(images, labels, strict=True):
        w, b = line(weights, bias, label)
        margin = w @ x.astype(np.float64) + b
        assert margin > 0
        boxed = boxed_distance(norm, w, margin, x)
        if not box:  # the solver and the formula agree
            distances.append(free_distance(norm, w, margin))
            if norm != "l0":
                assert boxed == pytest.approx(distances[-1], rel=1e-6)
        else:
            distances.append(boxed)
    return np.array(distances)
