"""Small ReLU networks whose nearest mistakes are known: every pattern is solved by SciPy."""

import itertools

import jax
import numpy as np
from scipy.optimize import linprog, minimize

ORDER = {"linf": np.inf, "l2": 2, "l1": 1}


def logits(params, images):
    h = images.reshape(len(images), -1)
    for weight, bias in params[:-1]:
        h = jax.nn.relu(h @ weight + bias)
    return h @ params[-1][0] + params[-1][1]


def network(seed, widths):
    rng = np.random.default_rng(seed)
    return [
        (rng.normal(size=size).astype(np.float32), rng.normal(size=size[1]).astype(np.float32) / 2)
        for size in itertools.pairwise(widths)
    ]


def shortest(norm, rows, needs, x):
    """The shortest d with rows d >= needs and x + d in [0, 1], by SciPy; infinity if none."""
    size = len(x)
    if norm == "l2":
        guess = linprog(np.zeros(size), -rows, -needs, bounds=np.c_[-x, 1 - x])
        if guess.x is None:
            return np.inf
        within = {"type": "ineq", "fun": lambda d: rows @ d - needs}
        found = minimize(
            lambda d: d @ d, guess.x, constraints=within, bounds=list(zip(-x, 1 - x, strict=True))
        )
        return np.linalg.norm(found.x) if found.success else np.inf
    if norm == "l1":
        cost, ends = np.ones(2 * size), np.c_[np.zeros(2 * size), np.r_[1 - x, x]]
        found = linprog(cost, np.c_[-rows, rows], -needs, bounds=ends)
    else:
        one, edge = np.eye(size), np.ones((size, 1))
        matrix = np.r_[np.c_[-rows, 0 * rows[:, :1]], np.c_[one, -edge], np.c_[-one, -edge]]
        cost, ends = np.r_[np.zeros(size), 1.0], np.c_[np.r_[-x, 0], np.r_[1 - x, 1]]
        found = linprog(cost, matrix, np.r_[-needs, np.zeros(2 * size)], bounds=ends)
    return np.inf if found.x is None else found.fun


def exhaustive(params, x, label, norm):
    """The distance of the nearest mistake: the least over all patterns and classes."""
    layers = [(w.astype(float), b.astype(float)) for w, b in params]
    hidden = [len(b) for _, b in layers[:-1]]
    best = np.inf
    for bits in itertools.product([False, True], repeat=sum(hidden)):
        slope, offset, rows, levels = np.eye(len(x)), np.zeros(len(x)), [], []
        for (weight, bias), on in zip(
            layers, np.split(np.array(bits), np.cumsum(hidden)), strict=True
        ):
            slope, offset = slope @ weight, offset @ weight + bias
            if len(on):
                rows.append((np.where(on, slope, -slope)).T)
                levels.append(np.where(on, offset, -offset))
                slope, offset = slope * on, offset * on
        for other in np.delete(np.arange(len(offset)), label):
            matrix = np.concatenate([*rows, (slope[:, other] - slope[:, label])[None]])
            level = np.concatenate([*levels, [offset[other] - offset[label]]])
            best = min(best, shortest(norm, matrix, -(level + matrix @ x), x))
    return best
