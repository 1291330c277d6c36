"""Models with the same outputs whose ReLUs and maxima have the derivative of smooth functions."""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.extend.core import Jaxpr, JaxprEqn, Literal, Var
from jaxtyping import PyTree

from jaxadv.core import soft_derivatives as soft
from jaxadv.core.host import HostFunction
from jaxadv.core.jaxprs import CHECKPOINTS, OWN_DERIVATIVE, bind, call_again, called, walk
from jaxadv.core.model import Model
from jaxadv.core.pytree import pytree, static
from jaxadv.core.rectifiers import Atom, at_rest, literal, multiple, rectifier, sign
from jaxadv.core.typing import ArrayLike, Number, Params

RELUS = {"relu", "relu6"}  # those of JAX, which have a custom derivative
CURVED = {"rsqrt", "sqrt", "log", "log1p", "exp", "exp2", "expm1", "pow"}
PASSED_ON = {"neg", "broadcast_in_dim", "convert_element_type", "reshape", "squeeze"}
PASSED_ON |= {"max", "min", "clamp"}
SHIFTED = {"add", "sub", "mul", "div"}  # by a number


def softened(model: Model, width: Number = 0.25) -> Model:
    """Return the model with equal outputs and another derivative at ReLUs, maxima and clipping.

    The derivative of relu(x) is 0 or 1, so a gradient does not see the units that are off, and
    attacks stop where switching one on would help. Here it is sigmoid(x / width), the derivative of
    a smooth surrogate (Athalye et al. 2018, arXiv 1802.00420, section 4.1.2); the forward pass
    remains the model's own, bit for bit, so every success on this model is one on `model`. Attacks
    on it, and then short steps on `model` from where they end, find adversarial images that others
    miss; several widths should be tried.

    - max(a, b) has the derivative of a with weight sigmoid((a - b) / width), else that of b; a
      leaky ReLU mixes its two slopes alike, and min(a, b) and clipping follow.
    - Max-pooling, also with overlaps and padding, and maxima along axes weight the entries by a
      softmax of entry / width.

    Left as they are: smooth functions (GELU, sigmoid, ELU), absolute values, sorting, pooling
    windows of more than 64 entries, maxima that only keep a logarithm, root, division or
    exponential in its range, and functions with a custom derivative (`jax.custom_jvp`) but JAX's
    own ReLUs. Loops and branches are followed. A pass costs what one of `model` does, and a few
    elementwise operations.

    Args:
        model: A model in JAX that draws nothing at random.
        width: How far from its kink, in the units of its input, a function is softened; above 0.
            It is a parameter of the model, so that another width does not recompile, and
            `jax.vmap` can go over several.

    Returns:
        The model. If `model` is softened already, it is softened anew, by this width alone.

    Raises:
        ValueError: If the model is random or a host function, or width is not a number above 0.

    >>> import jax, jax.numpy as jnp, jaxadv as ja
    >>> model = ja.Model(lambda w, x: jax.nn.relu(x.reshape(len(x), -1) @ w - 1), jnp.eye(1))
    >>> images = jnp.full((1, 1, 1, 1), 0.5)
    >>> [jax.grad(lambda x: one(x).sum())(images).item()
    ...  for one in (model, ja.softened(model, 0.5))]
    [0.0, 0.2689414322376251]
    """
    if model.random:
        raise ValueError("model draws at random: pass one that does not")
    if isinstance(model.apply, HostFunction):
        raise ValueError(
            "model is a host function, which has no derivative: pass a model in JAX, or use "
            "attacks without gradients"
        )
    if not isinstance(width, Tracer):
        if np.ndim(width) or not 0 < float(width) < np.inf:
            raise ValueError(f"width={width}: pass a number above 0")
        width = np.float32(width)
    if isinstance(model.apply, _Softened):
        return dataclasses.replace(model, params=(model.params[0], width))
    return dataclasses.replace(model, apply=_Softened(model.apply), params=(model.params, width))


@pytree
class _Softened:
    apply: Callable[..., Any] = static()

    def __call__(self, params: Params, images: ArrayLike) -> PyTree:
        inner, width = params
        traced, shape = jax.make_jaxpr(self.apply, return_shape=True)(inner, images)
        numbers = itertools.count()
        atoms = [Atom(leaf) for leaf in jax.tree.leaves(inner)]
        atoms.append(Atom(images, True).numbered(numbers))
        walker = _Walker(width, numbers)
        outputs = walker.walk(traced.jaxpr, traced.consts, atoms, ())
        return jax.tree.unflatten(jax.tree.structure(shape), [out.value for out in outputs])


class _Walker:
    """The walk through a traced model that softens derivatives by `width`."""

    def __init__(self, width: Any, numbers: "itertools.count[int]") -> None:
        self.width, self.numbers = width, numbers

    def walk(
        self, jaxpr: Jaxpr, consts: Sequence[Any], atoms: Sequence[Atom], guards: Sequence[bool]
    ) -> list[Atom]:
        """Return the outputs of a program; guards: which of them are guards (none if empty)."""
        kept = _guards(jaxpr, guards or [False] * len(jaxpr.outvars))

        def outputs_of(eqn: JaxprEqn, atoms: list[Atom]) -> list[Atom]:
            if not any(atom.moves for atom in atoms):
                return at_rest(eqn, atoms)
            inner = called(eqn)
            if inner is not None and _is_open(eqn, inner.jaxpr):
                guards = [var in kept for var in eqn.outvars]
                return self.walk(inner.jaxpr, inner.consts, atoms, guards)
            again = call_again(eqn, [atom.value for atom in atoms], self.evaluate)
            if again is not None:
                return [self.number(Atom(value, True)) for value in again]
            values = bind(eqn, [atom.value for atom in atoms])
            if len(values) > 1 or eqn.primitive.name in OWN_DERIVATIVE:
                return [self.number(Atom(value, True)) for value in values]
            (value,) = values
            known = sign(eqn, atoms)
            if jnp.issubdtype(value.dtype, jnp.floating) and eqn.outvars[0] not in kept:
                value = self.soften(value, eqn, atoms)
            return [self.number(Atom(value, True, multiple(eqn, atoms), known))]

        return walk(jaxpr, [Atom(value) for value in consts], atoms, outputs_of, literal)

    def number(self, atom: Atom) -> Atom:
        return atom.numbered(self.numbers)

    def evaluate(self, jaxpr: Jaxpr, consts: Sequence[Any], inputs: Sequence[Any]) -> list[Any]:
        """Return the outputs of the program of a loop or branch, all of whose inputs may move."""
        atoms = [self.number(Atom(value, True)) for value in inputs]
        return [out.value for out in self.walk(jaxpr, consts, atoms, ())]

    def soften(self, value: Any, eqn: JaxprEqn, atoms: Sequence[Atom]) -> Any:
        """Return the output of an equation with a softened derivative, where there is one."""
        name, inputs = eqn.primitive.name, [atom.value for atom in atoms]
        if (found := rectifier(eqn, atoms)) is not None:
            return soft.rectified(value, found.x, found.below, found.above, self.width)
        if name in ("max", "min"):
            return soft.larger(value, *inputs, self.width if name == "max" else -self.width)
        if name == "clamp":
            return soft.clipped(value, *inputs, self.width)
        if name in ("reduce_max", "reduce_min"):
            width = self.width if name == "reduce_max" else -self.width
            return soft.largest(tuple(eqn.params["axes"]), value, inputs[0], width)
        if name == "reduce_window_max" and soft.has_slices(eqn.params):
            return soft.pooled(soft.Window.of(eqn.params), value, inputs[0], self.width)
        return value


def _is_open(eqn: JaxprEqn, program: Jaxpr) -> bool:
    """Whether the program that an equation calls is softened within the one around it."""
    if eqn.primitive.name not in OWN_DERIVATIVE:
        return eqn.primitive.name not in CHECKPOINTS
    only = program.eqns[0] if len(program.eqns) == 1 else None
    return only is not None and only.params.get("name") in RELUS


def _guards(jaxpr: Jaxpr, outputs: Sequence[bool]) -> set[Any]:
    """Return the values that only keep a root, logarithm, quotient or exponential in its range.

    Such as the variance in a layer normalisation, which is cut off at 0 and then has a root taken.
    """
    uses: dict[Var, list[bool]] = {}

    def used(atom: Var | Literal, guards: bool) -> None:
        if isinstance(atom, Var):
            uses.setdefault(atom, []).append(guards)

    for atom, guards in zip(jaxpr.outvars, outputs, strict=True):
        used(atom, guards)
    for eqn in reversed(jaxpr.eqns):
        name = eqn.primitive.name
        shifts = name in SHIFTED and () in [_shape(atom) for atom in eqn.invars]
        passes = name in PASSED_ON or shifts
        passes = passes and all(uses.get(eqn.outvars[0], [False]))
        for place, atom in enumerate(eqn.invars):
            used(atom, passes or name in CURVED or (name == "div" and place == 1))
    return {var for var, guards in uses.items() if all(guards)}


def _shape(atom: Var | Literal) -> tuple[int, ...]:
    aval: Any = atom.aval
    return aval.shape
