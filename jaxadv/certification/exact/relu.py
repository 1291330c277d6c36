"""Exact minimal distances of ReLU networks with one hidden layer, by mixed-integer programming.

Every ReLU whose sign is not fixed within the best distance known is a binary variable, so the
feasible points of the programs together are exactly the network's adversarial images (Tjeng, Xiao
and Tedrake 2017, arXiv 1711.07356).
"""

import math
import time
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse
from scipy.optimize import Bounds, LinearConstraint, milp

from jaxadv.certification.exact.answer import ExactDistance, Question, length
from jaxadv.core.model import Model

NORMS = ("l1", "linf")
SOLVED, STOPPED, NOTHING = 0, 1, 2  # SciPy's status of a program; NOTHING: infeasible


class ReLUNetwork(NamedTuple):
    """A network with one hidden layer: logits = relu(x @ w1 + b1) @ w2 + b2.

    Attributes:
        w1: Weights of the hidden layer, [D, H].
        b1: Biases of the hidden layer, [H].
        w2: Weights of the output layer, [H, K].
        b2: Biases of the output layer, [K].
    """

    w1: np.ndarray
    b1: np.ndarray
    w2: np.ndarray
    b2: np.ndarray

    def checked(self) -> "ReLUNetwork":
        """Return the network in float64; ValueError if arrays do not fit or are not finite."""
        network = ReLUNetwork(*(np.asarray(array, np.float64) for array in self))
        w1, b1, w2, b2 = network
        shapes = {name: array.shape for name, array in network._asdict().items()}
        if w1.ndim != 2 or w2.ndim != 2 or b1.shape != w1.shape[1:] or b2.shape != w2.shape[1:]:
            raise ValueError(f"{shapes}: pass w1 [D, H], b1 [H], w2 [H, K], b2 [K]")
        if w2.shape[0] != w1.shape[1] or w2.shape[1] < 2:
            raise ValueError(f"{shapes}: pass w1 [D, H] and w2 [H, K] with K of 2 or more")
        for name, array in network._asdict().items():
            if not np.isfinite(array).all():
                raise ValueError(f"{name} holds values that are not finite")
        return network

    @property
    def size(self) -> tuple[int, int]:
        """Number of inputs and of classes."""
        return len(self.w1), len(self.b2)

    def scores(self, x: np.ndarray) -> np.ndarray:
        """Return the logits [..., K] of inputs [..., D]."""
        return np.maximum(x @ self.w1 + self.b1, 0) @ self.w2 + self.b2


def relu_network(model: Model) -> ReLUNetwork:
    """Read the four arrays of a model made of the definition "FC" with one hidden layer.

    Args:
        model: A model made of the definition "FC", with one hidden layer and ReLU.

    Returns:
        The network in float64.

    Raises:
        ValueError: `model` is of another definition, or has another number of hidden layers or
            another activation.

    Example:
        >>> import jax, jax.numpy as jnp, jaxadv as ja
        >>> from jaxadv.models import get_definition
        >>> module = get_definition("FC")(widths=(5,), classes=3)
        >>> variables = module.init(jax.random.key(0), jnp.zeros((1, 2, 2, 1)))
        >>> ja.relu_network(ja.from_linen(module, variables)).w1.shape
        (4, 5)
    """
    module: Any = getattr(model.apply, "module", None)
    if type(module).__name__ != "FC":
        raise ValueError(
            f"model is of {type(module or model.apply).__name__}: pass one of the definition FC, "
            "or its four arrays to exact_distance"
        )
    if len(module.widths) != 1 or module.activation != "relu":
        raise ValueError(
            f"model has widths={module.widths} and activation={module.activation!r}: pass one "
            "hidden layer and 'relu'"
        )
    params = model.params["params"]
    arrays = (params[layer][kind] for layer in ("fc1", "fc2") for kind in ("kernel", "bias"))
    return ReLUNetwork(*(np.asarray(array, np.float64) for array in arrays))


def nearest(network: ReLUNetwork, question: Question) -> ExactDistance:
    """Return the nearest input at which another logit is at least the label's.

    Solves one program for each other class, in the order of the distances that a walk along the
    linearised network reaches. Every ReLU that the best distance so far does not fix is a binary
    variable. The signs that a program finds are then fixed, and the remaining linear program is
    solved; its solution is evaluated by the network.

    Args:
        network: The network, in float64.
        question: The input, the norm and the limits.

    Returns:
        The nearest adversarial input found, and the proved lower bound.
    """
    begun = time.monotonic()
    x, label, norm, low, high, limit, _, seconds, gap = question
    logits = network.scores(x)
    others = [c for c in range(len(logits)) if c != label]
    if logits[others].max() >= logits[label]:
        return question.answer(0.0, x, 0.0)
    starts = {c: _walk(network, x, label, c, norm, low, high) for c in others}
    reached = {c: length(norm, end - x) for c, end in starts.items() if end is not None}
    order = sorted(others, key=lambda c: reached.get(c, math.inf))  # the nearest class first
    best, witness, lower = math.inf, None, math.inf
    if reached and reached[order[0]] <= limit:
        best, witness = reached[order[0]], starts[order[0]]
    for other in order:
        below, end = 0.0, starts[other]
        guess = end is not None
        on = end @ network.w1 + network.b1 > 0 if guess else None
        while (left := seconds - (time.monotonic() - begun)) > 0:
            radius = limit if best == math.inf else min(limit, best * (1 - gap))
            program = _Program(network, x, label, other, norm, radius, low, high)
            if not guess:
                status, on = program.search(left)
                if status == NOTHING:
                    below = radius
                if on is None:
                    break
            assert on is not None
            solution = program.nearest(on, seconds - (time.monotonic() - begun))
            if solution is not None and (distance := length(norm, solution - x)) < best:
                best, witness = distance, solution
            elif not guess:
                break  # the solution meets the program only to its tolerance, or time is up
            guess = False
        lower = min(lower, below)
    return question.answer(best, witness, lower)


class _Program:
    """Find the nearest x' = x + radius * u at which logit `other` is at least the label's.

    Its variables are, in units of the radius, u [D] and its length t (Linf), or the positive and
    the negative part of u [2 D] (L1); the inputs a [H] of the ReLUs, their outputs h [H], and z
    [H], 1 where a ReLU is on. A ReLU is fixed if the interval of its input within the radius fixes
    its sign.
    """

    def __init__(
        self,
        network: ReLUNetwork,
        x: np.ndarray,
        label: int,
        other: int,
        norm: str,
        radius: float,
        low: float,
        high: float,
    ) -> None:
        down, up = np.maximum((low - x) / radius, -1), np.minimum((high - x) / radius, 1)
        centre, scaled = x @ network.w1 + network.b1, radius * network.w1
        hair = 1e-9 * (1 + np.abs(centre) + np.abs(scaled).sum(0))  # for rounding
        least = centre - _reach(norm, -scaled, down, up) - hair
        most = centre + _reach(norm, scaled, down, up) + hair
        dead, linear = most <= 0, least >= 0
        size, width = scaled.shape
        one, far, nought = np.eye(width), np.full(width, np.inf), np.zeros(width)

        if norm == "linf":
            self.parts = sparse.hstack([sparse.eye_array(size), sparse.csr_array((size, 1))])
            self.cost, first = np.r_[np.zeros(size), 1.0], (np.r_[down, 0.0], np.r_[up, 1.0])
            t, some = np.ones((size, 1)), np.full(size, np.inf)
            rest = sparse.csr_array((size, 3 * width))
            length = [  # not needed to search, where t <= 1 suffices
                ([sparse.eye_array(size), -t, rest], -some, np.zeros(size)),
                ([sparse.eye_array(size), t, rest], np.zeros(size), some),
            ]
        else:
            self.parts = sparse.hstack([sparse.eye_array(size), -sparse.eye_array(size)])
            self.cost = np.ones(2 * size)
            first = np.zeros(2 * size), np.r_[np.maximum(up, 0), np.maximum(-down, 0)]
            length = [([self.cost[None], np.zeros((1, 3 * width))], [0.0], [1.0])]
        gain = (network.w2[:, other] - network.w2[:, label])[None]
        wanted = network.b2[label] - network.b2[other]
        none, blank = np.zeros((width, len(self.cost))), np.zeros((1, len(self.cost) + width))
        rows = [  # blocks of one matrix, least and largest value of its product
            ([-(scaled.T @ self.parts), one, 0 * one, 0 * one], centre, centre),  # a
            ([none, -one, one, 0 * one], nought, far),  # h >= a
            ([none, -one, one, -np.diag(least)], -far, -least),  # h <= a where z is 1
            ([none, 0 * one, one, -np.diag(most)], -far, nought),  # h <= 0 where z is 0
            ([blank, gain, np.zeros((1, width))], [wanted], [np.inf]),  # the other logit wins
        ]
        self.within = _constraint(rows + (length if norm == "l1" else []))
        self.measured = _constraint(rows + length)
        self.least = np.r_[first[0], least, nought, 1.0 * linear]
        self.most = np.r_[first[1], most, np.maximum(most, 0), 1.0 - dead]
        self.cost = np.r_[self.cost, np.zeros(3 * width)]
        self.binary = np.r_[np.zeros(len(first[0]) + 2 * width), 1.0 * ~(dead | linear)]
        self.x, self.radius, self.width, self.box = x, radius, width, (low, high)

    def search(self, seconds: float) -> tuple[int, np.ndarray | None]:
        """Return (status, mask [H] of the ReLUs that are on) for some x' within the radius."""
        found = milp(
            0 * self.cost,
            constraints=self.within,
            bounds=Bounds(self.least, self.most),
            integrality=self.binary,
            options={"time_limit": max(min(seconds, 1e7), 0.01)},
        )
        return found.status, None if found.x is None else found.x[-self.width :] > 0.5

    def nearest(self, on: np.ndarray, seconds: float) -> np.ndarray | None:
        """Solve the linear program of the nearest x' at which exactly the ReLUs `on` [H] are on."""
        start = len(self.cost) - 3 * self.width
        least, most = self.least.copy(), self.most.copy()
        least[-self.width :] = most[-self.width :] = on
        inputs = slice(start, start + self.width)
        least[inputs] = np.where(on, np.maximum(least[inputs], 0), least[inputs])
        most[inputs] = np.where(on, most[inputs], np.minimum(most[inputs], 0))
        if (least > most).any():
            return None
        options = {"time_limit": max(min(seconds, 1e7), 0.01)}
        bounds = Bounds(least, most)
        found = milp(self.cost, constraints=self.measured, bounds=bounds, options=options)
        if found.x is None:
            return None
        return np.clip(self.x + self.radius * (self.parts @ found.x[:start]), *self.box)


def _constraint(rows: list[tuple[list[Any], Any, Any]]) -> LinearConstraint:
    blocks = [sparse.hstack([sparse.csr_array(b) for b in row[0]]) for row in rows]
    least, most = (np.concatenate([np.ravel(row[side]) for row in rows]) for side in (1, 2))
    matrix = sparse.csc_array(sparse.vstack(blocks))
    return LinearConstraint(matrix, least, most)  # type: ignore[arg-type]


def _reach(norm: str, weights: np.ndarray, down: np.ndarray, up: np.ndarray) -> np.ndarray:
    """Return the largest <w, u> [H] of weights [D, H]: down <= u <= up; in L1 sum |u| <= 1."""
    room = np.where(weights > 0, up[:, None], -down[:, None])
    steep = np.abs(weights)
    if norm == "linf":
        return (steep * room).sum(0)
    order = np.argsort(-steep, 0)
    room, steep = np.take_along_axis(room, order, 0), np.take_along_axis(steep, order, 0)
    before = np.cumsum(room, 0) - room
    return (steep * np.clip(1 - before, 0, room)).sum(0)


def _walk(
    network: ReLUNetwork, x: np.ndarray, label: int, other: int, norm: str, low: float, high: float
) -> np.ndarray | None:
    """Return an adversarial image on a line from x, by 30 linearisations, or None."""
    point, gain = x, network.w2[:, other] - network.w2[:, label]
    for _ in range(30):
        logits = network.scores(point)
        missing = logits[label] - logits[other]
        if missing <= 0:
            break
        slope = network.w1 @ (gain * (point @ network.w1 + network.b1 > 0))
        slope = np.where(slope > 0, point < high, point > low) * slope
        step = np.sign(slope)
        if norm == "l1":  # a tenth of the entries at a time
            step = step * (np.abs(slope) >= np.quantile(np.abs(slope), 0.9))
        total = np.abs(slope) @ np.abs(step)
        if total <= 0:
            return None
        point = np.clip(point + 1.05 * missing / total * step, low, high)
    least, most = 0.0, 1.0
    for _ in range(50):
        middle = (least + most) / 2
        logits = network.scores(x + middle * (point - x))
        least, most = (least, middle) if logits[label] <= logits[other] else (middle, most)
    found = x + most * (point - x)
    logits = network.scores(found)
    return found if logits[label] <= logits[other] else None
