"""Programs inside traced programs, and the text of a program."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn

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
    inner: Any = eqn.params[name]
    return Called(getattr(inner, "jaxpr", inner), getattr(inner, "consts", ()))


def describe_program(traced: ClosedJaxpr) -> list[Any]:
    """Return a traced program as its text, without what differs between processes, and its arrays.

    Args:
        traced: The program.

    Returns:
        The text and all constants, for a fingerprint.

    Example:
        >>> import jax
        >>> from jaxadv.core.calls import describe_program
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
