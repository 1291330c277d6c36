"""Which values of a traced program are multiples or signs of others, and so which are ReLUs."""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.extend.core import JaxprEqn

from jaxadv.core.jaxprs import bind

KEEPS_ZERO = {"broadcast_in_dim", "convert_element_type", "reshape", "copy"}
COMPARISONS = {"gt", "ge", "lt", "le"}


class Atom(NamedTuple):
    """A value on the walk through a traced program.

    Attributes:
        value: An array, or what stands for one that moves.
        moves: Whether it depends on the image.
        origin: (number of the value x that this is a multiple of, x, factor), or None.
        sign_of: For a comparison of a moving x with 0, or its conversion to 0 and 1: (number of x,
            x, whether it is x > 0).
        zero: Whether it is 0 in every entry, by the text of the program.
    """

    value: Any
    moves: bool = False
    origin: tuple[int, Any, Any] | None = None
    sign_of: tuple[int, Any, bool] | None = None
    zero: bool = False

    def numbered(self, numbers: "itertools.count[int]") -> "Atom":
        """Return the atom; one that moves and of which nothing is known is its own origin."""
        if not self.moves or self.origin is not None or self.sign_of is not None:
            return self
        return self._replace(origin=(next(numbers), self.value, 1.0))


class Rectifier(NamedTuple):
    """A function `above` x where x > 0 and `below` x elsewhere.

    Attributes:
        x: Its input.
        below: The factor below 0, a number or an array.
        above: The factor above 0.
    """

    x: Any
    below: Any
    above: Any


def literal(value: Any) -> Atom:
    """Return the atom of a number in the text of a program."""
    return Atom(value, zero=not np.any(value))


def at_rest(eqn: JaxprEqn, atoms: Sequence[Atom]) -> list[Atom]:
    """Return the outputs of an equation whose inputs do not move."""
    zero = eqn.primitive.name in KEEPS_ZERO and atoms[0].zero
    return [Atom(x, zero=zero) for x in bind(eqn, [atom.value for atom in atoms])]


def multiple(eqn: JaxprEqn, atoms: Sequence[Atom]) -> tuple[int, Any, Any] | None:
    """Return of which value the output is a multiple (see `Atom.origin`); None if not known."""
    name = eqn.primitive.name
    moving = next(atom for atom in atoms if atom.moves)
    if moving.origin is None:
        return None
    number, base, factor = moving.origin
    if name == "neg":
        return number, base, -factor
    if name == "mul" and len(atoms) == 2 and sum(atom.moves for atom in atoms) == 1:
        (other,) = (atom for atom in atoms if not atom.moves)
        return number, base, factor * other.value
    return moving.origin if name == "copy" else None


def sign(eqn: JaxprEqn, atoms: Sequence[Atom]) -> tuple[int, Any, bool] | None:
    """Return of which value an equation tells the sign (see `Atom.sign_of`); None if of none.

    It is a comparison with the literal 0, or converts one to 0 and 1.
    """
    name = eqn.primitive.name
    if name == "convert_element_type":
        return atoms[0].sign_of
    if name not in COMPARISONS:
        return None
    place = 0 if atoms[0].moves else 1
    moving, other = atoms[place], atoms[1 - place]
    plain = moving.origin is not None and isinstance(moving.origin[2], float)
    if not other.zero or not plain or moving.origin is None or moving.origin[2] != 1.0:
        return None
    return *moving.origin[:2], (name in ("gt", "ge")) == (place == 0)


def rectifier(eqn: JaxprEqn, atoms: Sequence[Atom]) -> Rectifier | None:
    """Return which ReLU, leaky or not, an equation is: where(x > 0, a x, b x) or x (x > 0)."""
    name = eqn.primitive.name
    if name == "select_n" and len(atoms) == 3:
        chooses, factors = atoms[0].sign_of, [_factor(atoms[0], atom) for atom in atoms[1:]]
    elif name == "mul" and (atoms[0].sign_of is None) != (atoms[1].sign_of is None):
        mask, other = atoms if atoms[0].sign_of else atoms[::-1]
        chooses, factors = mask.sign_of, [0.0, None if other.zero else _factor(mask, other)]
    else:
        return None
    if chooses is None or any(factor is None for factor in factors):
        return None
    _, x, greater = chooses
    return Rectifier(x, *(factors if greater else factors[::-1]))


def _factor(mask: Atom, atom: Atom) -> Any:
    """Return how many times the value whose sign `mask` tells an atom is; None if not known."""
    if mask.sign_of and atom.moves and atom.origin and atom.origin[0] == mask.sign_of[0]:
        return atom.origin[2]
    return 0.0 if atom.zero else None
