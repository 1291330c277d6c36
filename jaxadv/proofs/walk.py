"""The walk through a traced network: affine maps between nonlinearities, each told by its name.

A function of one image is traced, and its equations are evaluated in order by a set of `Rules`:
plain arithmetic, intervals, or arithmetic with another derivative at the nonlinearities. Values
that depend on the image are called moving. All that moves must be affine in the moving values,
except at a few nonlinearities (`equations`).
"""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, Var

from jaxadv.core.calls import called
from jaxadv.proofs.equations import Atom, equation
from jaxadv.proofs.rules import Rules

KEEPS_ZERO = {"broadcast_in_dim", "convert_element_type", "reshape", "copy"}


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
    atoms = [
        Atom(x, m, (next(numbers), x, 1.0) if m else None)
        for x, m in zip(inputs, moving, strict=True)
    ]
    return _walk(closed.jaxpr, closed.consts, atoms, rules, numbers)


def _walk(
    jaxpr: Jaxpr,
    consts: Sequence[Any],
    inputs: Sequence[Atom],
    rules: Rules,
    numbers: "itertools.count[int]",
) -> list[Atom]:
    known: dict[Var, Atom] = dict(zip(jaxpr.constvars, map(Atom, consts), strict=True))
    known.update(zip(jaxpr.invars, inputs, strict=True))

    def read(atom: Var | Literal) -> Atom:
        if isinstance(atom, Literal):
            return Atom(atom.val, zero=not np.any(atom.val))
        return known[atom]

    for eqn in jaxpr.eqns:
        atoms = [read(atom) for atom in eqn.invars]
        name = eqn.primitive.name
        if (inner := called(eqn)) is not None:
            outs = _walk(inner.jaxpr, inner.consts, atoms, rules, numbers)
        elif not any(atom.moves for atom in atoms):
            zero = name in KEEPS_ZERO and atoms[0].zero
            outs = [Atom(x, zero=zero) for x in Rules().affine(eqn, [a.value for a in atoms], [])]
        else:
            outs = equation(eqn, atoms, rules)
            outs = [
                out._replace(origin=(next(numbers), out.value, 1.0))
                if out.moves and out.origin is None and out.sign_of is None
                else out
                for out in outs
            ]
        known.update(zip(eqn.outvars, outs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]
