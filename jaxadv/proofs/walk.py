"""The walk through a traced network: affine maps between nonlinearities, each told by its name.

A function of one image is traced, and its equations are evaluated in order by a set of `Rules`:
plain arithmetic, intervals, or arithmetic with another derivative at the nonlinearities. Values
that depend on the image are called moving. All that moves must be affine in the moving values,
except at a few nonlinearities (`equations`).
"""

import itertools
from collections.abc import Sequence
from typing import Any

from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn

from jaxadv.core.jaxprs import called, walk
from jaxadv.core.rectifiers import Atom, at_rest, literal
from jaxadv.proofs.equations import equation
from jaxadv.proofs.rules import Rules


def evaluate(closed: ClosedJaxpr, inputs: Sequence[Any], moving: Sequence[bool], rules: Rules):
    """Evaluate a traced function by the rules.

    Args:
        closed: The traced function.
        inputs: Its flat inputs.
        moving: Which of them depend on the image.
        rules: The rules.

    Returns:
        Its flat outputs, as `Atom`s.

    Raises:
        UnsupportedPrimitive: An equation is not affine in the moving values, and no nonlinearity of
            which bounds are known.
    """
    numbers = itertools.count()
    atoms = [Atom(x, m).numbered(numbers) for x, m in zip(inputs, moving, strict=True)]
    return _walk(closed.jaxpr, closed.consts, atoms, rules, numbers)


def _walk(
    jaxpr: Jaxpr,
    consts: Sequence[Any],
    inputs: Sequence[Atom],
    rules: Rules,
    numbers: "itertools.count[int]",
) -> list[Atom]:
    def outputs_of(eqn: JaxprEqn, atoms: list[Atom]) -> list[Atom]:
        if (inner := called(eqn)) is not None:
            return _walk(inner.jaxpr, inner.consts, atoms, rules, numbers)
        if not any(atom.moves for atom in atoms):
            return at_rest(eqn, atoms)
        return [out.numbered(numbers) for out in equation(eqn, atoms, rules)]

    return walk(jaxpr, [Atom(value) for value in consts], inputs, outputs_of, literal)
