"""Traced programs: their evaluation, the programs that they call, and their text."""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
from jax import lax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var

CALLS = {  # the name of the parameter that is the program
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "custom_vjp_call_jaxpr": "fun_jaxpr",
    "remat": "jaxpr",
    "remat2": "jaxpr",
    "checkpoint": "jaxpr",
}
CHECKPOINTS = {"remat", "remat2", "checkpoint"}
OWN_DERIVATIVE = {"custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"}


class Called(NamedTuple):
    """A program that an equation calls with its own inputs.

    Attributes:
        jaxpr: The program.
        consts: Its constants.
    """

    jaxpr: Jaxpr
    consts: Sequence[Any]


def called(eqn: JaxprEqn) -> Called | None:
    """Return the program that an equation only calls: jit, custom derivatives, remat; else None."""
    name = CALLS.get(eqn.primitive.name)
    if name is None:
        return None
    return opened(eqn.params[name])


def opened(program: Any) -> Called:
    """Return a program and its constants; before jax 0.12 a plain `Jaxpr` had none of its own."""
    return Called(getattr(program, "jaxpr", program), getattr(program, "consts", ()))


def bind(eqn: JaxprEqn, inputs: Sequence[Any], params: dict[str, Any] | None = None) -> list[Any]:
    """Return the outputs of an equation.

    Args:
        eqn: The equation.
        inputs: Its inputs.
        params: Parameters in place of its own.
    """
    bound: Any = eqn.primitive.get_bind_params(eqn.params if params is None else params)
    outputs = eqn.primitive.bind(*inputs, **bound)
    return list(outputs) if eqn.primitive.multiple_results else [outputs]


def walk(
    jaxpr: Jaxpr,
    consts: Sequence[Any],
    inputs: Sequence[Any],
    outputs_of: Callable[[JaxprEqn, list[Any]], Sequence[Any]] = bind,
    literal: Callable[[Any], Any] = lambda value: value,
) -> list[Any]:
    """Evaluate a program, equation by equation.

    Args:
        jaxpr: The program.
        consts: Its constants.
        inputs: Its inputs, arrays or whatever `outputs_of` takes in their place.
        outputs_of: Returns the outputs of an equation, from the equation and its inputs.
        literal: Returns what stands for a number in the text of the program.

    Returns:
        The outputs of the program.

    Example:
        >>> import jax
        >>> from jaxadv.core.jaxprs import walk
        >>> traced = jax.make_jaxpr(lambda x: 2 * x + 1)(0.0)
        >>> [float(value) for value in walk(traced.jaxpr, traced.consts, [3.0])]
        [7.0]
    """
    known: dict[Var, Any] = dict(zip(jaxpr.constvars, consts, strict=True))
    known.update(zip(jaxpr.invars, inputs, strict=True))

    def read(atom: Var | Literal) -> Any:
        return literal(atom.val) if isinstance(atom, Literal) else known[atom]

    for eqn in jaxpr.eqns:
        outputs = outputs_of(eqn, [read(atom) for atom in eqn.invars])
        known.update(zip(eqn.outvars, outputs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def call_again(
    eqn: JaxprEqn,
    inputs: Sequence[Any],
    evaluate: Callable[[Jaxpr, Sequence[Any], Sequence[Any]], Sequence[Any]],
) -> list[Any] | None:
    """Return the outputs of a loop, a branch or a checkpoint, whose programs `evaluate` evaluates.

    Args:
        eqn: The equation.
        inputs: Its inputs.
        evaluate: A function (program, its constants, its inputs) -> its outputs, which JAX traces.
            It may use values of the surrounding trace.

    Returns:
        The outputs; None for any other equation.
    """
    name, p = eqn.primitive.name, eqn.params
    if name == "scan":
        body = p["jaxpr"]
        # Their numbers have other names in other releases of jax; only rows have one axis more.
        rows = sum(out.aval.ndim > v.aval.ndim for out, v in _pairs(eqn.invars, body.jaxpr.invars))
        carried = sum(
            out.aval.ndim == v.aval.ndim for out, v in _pairs(eqn.outvars, body.jaxpr.outvars)
        )
        last = len(inputs) - rows
        first = last - carried

        def step(carry: list[Any], x: list[Any]) -> tuple[list[Any], list[Any]]:
            outputs = list(evaluate(body.jaxpr, body.consts, [*inputs[:first], *carry, *x]))
            return outputs[: last - first], outputs[last - first :]

        carry, rows = lax.scan(
            step,
            list(inputs[first:last]),
            list(inputs[last:]),
            length=p["length"],
            reverse=p["reverse"],
            unroll=p["unroll"],
        )
        return [*carry, *rows]
    if name == "while":
        test, body = p["cond_jaxpr"], p["body_jaxpr"]
        first, last = p["cond_nconsts"], p["cond_nconsts"] + p["body_nconsts"]
        return lax.while_loop(
            lambda carry: evaluate(test.jaxpr, test.consts, [*inputs[:first], *carry])[0],
            lambda carry: list(evaluate(body.jaxpr, body.consts, [*inputs[first:last], *carry])),
            list(inputs[last:]),
        )
    if name == "cond":
        branches = [
            lambda *operands, branch=branch: list(evaluate(branch.jaxpr, branch.consts, operands))
            for branch in p["branches"]
        ]
        return lax.switch(inputs[0], branches, *inputs[1:])
    if name in CHECKPOINTS:
        again = jax.checkpoint(
            lambda *operands: list(evaluate(*opened(p["jaxpr"]), operands)),
            prevent_cse=p["prevent_cse"],
            policy=p["policy"],
        )
        return again(*inputs)
    return None


def _pairs(outer: Sequence[Any], inner: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
    return zip(outer, inner, strict=True)


def describe_program(traced: ClosedJaxpr) -> list[Any]:
    """Return a traced program as its text, without what differs between processes, and its arrays.

    Args:
        traced: The program.

    Returns:
        The text and all constants, for a fingerprint.

    Example:
        >>> import jax
        >>> from jaxadv.core.jaxprs import describe_program
        >>> one, other = (jax.make_jaxpr(lambda x: jax.nn.relu(x) + 1)(0.5) for _ in range(2))
        >>> describe_program(one) == describe_program(other)
        True
    """

    def constants(jaxpr: Jaxpr) -> list[Any]:
        inner = [found for eqn in jaxpr.eqns if (found := called(eqn)) is not None]
        return [each for one in inner for each in (*one.consts, *constants(one.jaxpr))]

    return [without_addresses(str(traced.jaxpr)), *traced.consts, *constants(traced.jaxpr)]


def without_addresses(program: str) -> str:
    """Return the text of a program without what differs between processes."""
    return re.sub(r"0x[0-9a-f]+", "", program)
