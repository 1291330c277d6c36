"""`prove_property`: decide a property of VNN-LIB about a network: satisfied, or proved not to be.

A case of a property becomes a classifier: its inputs are the unit cube, stretched to the case's
box; class 0 has the logit 0, and one more class for each conjunction has the logit by which the
outputs fulfil its worst constraint. An input that fulfils a conjunction is an adversarial image of
that classifier, and a proof that there is none is a proof that the case is not satisfied.
"""

import math
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxadv.core.model import Model
from jaxadv.core.pytree import pytree, static
from jaxadv.engine.session import StageProgress
from jaxadv.proofs.intervals import bounds
from jaxadv.proofs.vnnlib import Case, Property
from jaxadv.protocols.cascades import Cascade
from jaxadv.protocols.prove import prove
from jaxadv.protocols.verdicts import Proofs

TINY = 1e-14  # relative rounding of numbers in a property, with room


class Decision(NamedTuple):
    """What is known about a property.

    Attributes:
        answer: "sat" (an input fulfils it), "unsat" (none does) or "unknown".
        inputs: Floats [D], the input that fulfils it, or None.
        outputs: Floats [K], the network's outputs there, or None.
        proofs: What is known of each case that was worked on.
    """

    answer: str
    inputs: np.ndarray | None
    outputs: np.ndarray | None
    proofs: list[Proofs]

    def text(self) -> str:
        """Return the answer, and the witness, in the form of the verification competition."""
        if self.inputs is None or self.outputs is None:
            return f"{self.answer}\n"
        values = {"X": self.inputs.ravel(), "Y": self.outputs.ravel()}
        lines = [f"({side}_{i} {v!s})" for side, own in values.items() for i, v in enumerate(own)]
        return f"{self.answer}\n(" + "\n".join(lines) + ")\n"


@pytree
class _Classifier:
    """The classifier of a case.

    Attributes:
        apply: The network: weights and inputs [N, ...] to outputs [N, K].
        shape: Shape of one input.
        sizes: The numbers of constraints of the conjunctions.
    """

    apply: Any = static()
    shape: tuple[int, ...] = static()
    sizes: tuple[int, ...] = static()

    def __call__(self, params: Any, units: Array) -> Array:
        weights, low, width, coefficients, most = params
        inputs = (low + width * units).reshape(-1, *self.shape)
        excess = self.apply(weights, inputs) @ coefficients.T - most
        begins = np.cumsum((0, *self.sizes))
        worst = [
            excess[:, begin : begin + size].max(1, keepdims=True)
            for begin, size in zip(begins, self.sizes, strict=False)
        ]
        margins = excess if set(self.sizes) == {1} else jnp.concatenate(worst, 1)
        return jnp.concatenate([jnp.zeros_like(margins[:, :1]), -margins], 1)


def prove_property(
    model: Model,
    wanted: Property,
    shape: tuple[int, ...] | None = None,
    *,
    effort: str = "strong",
    budget: int | None = None,
    seconds: float = math.inf,
    arithmetic: str = "float32",
    attacks: str | Cascade = "quick",
    key: Array | None = None,
    store: str | Path | None = None,
    progress: StageProgress | None = None,
) -> Decision:
    """Decide whether any input fulfils a property.

    Each case is attacked, bounded and branched on as by `ja.prove`; "unsat" needs a proof of every
    case, replayed in float64. A witness is a float32 input within the property's box; the network's
    own float32 outputs there fulfil the constraints in float64.

    Args:
        model: The network; its bounds are not used. X_i is the i-th entry of its input in the order
            of memory: for a graph of ONNX pass `ja.from_onnx(file, layout="NHWC")`.
        wanted: The property, from `ja.read_vnnlib`.
        shape: Shape of one input of the network (default: a vector).
        effort: As in `ja.prove`.
        budget: As in `ja.prove`, for each case.
        seconds: As in `ja.prove`, for all cases together.
        arithmetic: As in `ja.prove`; the competition's properties are of "real" arithmetic.
        attacks: As in `ja.prove`.
        key: A JAX random key of the attacks (default: seed 0).
        store: As in `ja.prove`.
        progress: Called with (stage, cases done, cases in all, cases proved), for each case anew.

    Returns:
        The answer, and a witness if there is one.

    Raises:
        ValueError: The network does not fit the property, or as `ja.prove`.

    Example:
        >>> import jax.numpy as jnp, jaxadv as ja
        >>> from jaxadv.proofs.vnnlib import parse_vnnlib
        >>> model = ja.Model(lambda w, x: jnp.maximum(x @ w, 0), jnp.eye(2))
        >>> text = '''(declare-const X_1 Real) (declare-const Y_1 Real)
        ... (assert (and (>= X_0 0) (<= X_0 0.5) (>= X_1 0) (<= X_1 1)))'''
        >>> for most in ("(assert (>= Y_0 0.6))", "(assert (>= Y_0 Y_1))"):
        ...     print(ja.prove_property(model, parse_vnnlib(text + most)).answer)
        unsat
        sat
    """
    shape = (wanted.inputs,) if shape is None else tuple(shape)
    if math.prod(shape) != wanted.inputs:
        raise ValueError(f"shape={shape}: the property has {wanted.inputs} inputs")
    until, found = time.monotonic() + seconds, []
    for number, case in enumerate(wanted.cases):
        if not seconds > 0 or (found and time.monotonic() > until):
            return Decision("unknown", None, None, found)
        if any(not len(one.most) for one in case.wanted):  # every input of the box fulfils it
            return _decided(model, case, case.low, shape, found) or _open(found)
        proof = prove(
            classifier_of(model, case, wanted.outputs, shape),
            np.full((1, *shape), 0.5, np.float32),
            np.zeros(1, int),
            0.5,
            effort=effort,
            budget=budget,
            seconds=max(until - time.monotonic(), 1e-3),
            arithmetic=arithmetic,
            attacks=attacks,
            key=key,
            store=None if store is None else Path(store) / f"case-{number}",
            progress=progress,
        )
        found.append(proof)
        if proof.broken[0]:
            inputs = case.low + (case.high - case.low) * proof.images[0].ravel().astype(float)
            decision = _decided(model, case, inputs, shape, found)
            if decision is not None:
                return decision
    proved = len(found) == len(wanted.cases) and all(proof.proved[0] for proof in found)
    return Decision("unsat", None, None, found) if proved else _open(found)


def _open(found: list[Proofs]) -> Decision:
    return Decision("unknown", None, None, found)


def _decided(
    model: Model, case: Case, inputs: np.ndarray, shape: tuple[int, ...], found: list[Proofs]
) -> Decision | None:
    """Return "sat" if float32 inputs near these are in the box and fulfil a conjunction."""
    low, high = rounded_inwards(case.low, case.high)
    inputs = np.clip(inputs.astype(np.float32), low, high)
    outputs = np.asarray(model.apply(model.params, jnp.asarray(inputs.reshape(1, *shape))))[0]
    inside = (inputs >= case.low) & (inputs <= case.high)
    fulfilled = any(one.holds(outputs) for one in case.wanted) and np.isfinite(outputs).all()
    return Decision("sat", inputs, outputs, found) if inside.all() and fulfilled else None


def rounded_inwards(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the least and the largest float32 numbers in intervals."""
    least, most = low.astype(np.float32), high.astype(np.float32)
    least = np.where(least < low, np.nextafter(least, np.float32(np.inf)), least)
    return least, np.where(most > high, np.nextafter(most, np.float32(-np.inf)), most)


def classifier_of(model: Model, case: Case, outputs: int, shape: tuple[int, ...]) -> Model:
    """Return the classifier of a case, on the unit cube; class 0 is that no conjunction holds.

    Its box covers that of the case, and its constraints are weaker than those of the case by what
    their float32 form may change, so that what is proved about it holds for the case.

    Args:
        model: The network.
        case: The case.
        outputs: The number of outputs that the property knows.
        shape: Shape of one input.

    Returns:
        The classifier, of inputs of this shape.
    """
    low, width = _covering(case)
    first = jnp.asarray(low.reshape(shape))
    last = jnp.asarray(np.nextafter(low + width, np.float32(np.inf)).reshape(shape))
    ends = bounds(lambda x: model.apply(model.params, x[None])[0], first, last)
    size = np.max(np.abs(np.asarray(ends, np.float64)), 0)
    if len(size) < outputs:
        raise ValueError(f"model has {len(size)} outputs, and the property {outputs}")
    exact = np.concatenate([one.coefficients for one in case.wanted])
    exact = np.pad(exact, ((0, 0), (0, len(size) - outputs)))
    most = np.concatenate([one.most for one in case.wanted])
    coefficients = exact.astype(np.float32)
    lost = np.abs(coefficients - exact) + TINY * np.abs(exact)
    with np.errstate(invalid="ignore"):
        room = np.where(lost > 0, lost * size, 0).sum(1) + TINY * np.abs(most)
    up = np.nextafter((most + room).astype(np.float32), np.float32(np.inf))
    sizes = tuple(len(one.most) for one in case.wanted)
    params = (
        model.params,
        first,
        jnp.asarray(width.reshape(shape)),
        jnp.asarray(coefficients),
        jnp.asarray(up),
    )
    return Model(_Classifier(model.apply, shape, sizes), params)


def _covering(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Return float32 low and width [D]: low + [0, 1] width covers the box in exact arithmetic."""
    begin, end = np.nextafter(case.low, -np.inf), np.nextafter(case.high, np.inf)
    low = np.nextafter(begin.astype(np.float32), np.float32(-np.inf))
    gap = np.nextafter(end - low.astype(np.float64), np.inf)
    return low, np.nextafter(gap.astype(np.float32), np.float32(np.inf))
