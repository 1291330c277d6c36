"""Properties of networks in the form of the verification competition, VNN-LIB 1.0.

A property is a set of SMT-LIB assertions about inputs X_i and outputs Y_j (Demarchi, Guidotti,
Pulina, Tacchella 2023, "Supporting standardization of neural networks verification with VNN-LIB and
CoCoNet"). It is satisfied by an input that fulfils all of them, which is a counterexample to what
the author hopes for.
"""

import gzip
import itertools
import math
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxadv.proofs.assertions import MOST, Linear, expressions, shown, variable, ways_of


class Conjunction(NamedTuple):
    """Linear constraints on the outputs y: all of coefficients @ y <= most.

    Attributes:
        coefficients: Floats [J, K].
        most: Floats [J].
    """

    coefficients: np.ndarray
    most: np.ndarray

    def holds(self, outputs: np.ndarray) -> bool:
        """Return whether outputs [K] fulfil all constraints, in float64."""
        left = self.coefficients @ np.asarray(outputs, np.float64)
        return bool((left <= self.most).all())


class Case(NamedTuple):
    """A box of inputs, and what outputs are looked for in it.

    Attributes:
        low: Floats [D], the least inputs.
        high: Floats [D], the largest inputs.
        wanted: The conjunctions, of which one is to hold.
    """

    low: np.ndarray
    high: np.ndarray
    wanted: tuple[Conjunction, ...]


class Property(NamedTuple):
    """A property: it is satisfied if that is so in any of its cases.

    Attributes:
        inputs: The number D of inputs.
        outputs: The number K of outputs.
        cases: The cases; none if no input is in any box.
    """

    inputs: int
    outputs: int
    cases: tuple[Case, ...]


def read_vnnlib(path: str | os.PathLike[str]) -> Property:
    """Read a property in VNN-LIB 1.0: a box of inputs, and constraints on the outputs.

    Assertions are (<= a b) and (>= a b) of sums, differences and multiples of variables, and `and`
    and `or` of these. Inputs may be compared with numbers only.

    Args:
        path: A .vnnlib file, or one compressed by gzip (.gz).

    Returns:
        The property.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file has another form; the message names the assertion.

    Example:
        >>> import pathlib, tempfile
        >>> import jaxadv as ja
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "property.vnnlib"
        >>> _ = file.write_text('''
        ... (declare-const X_0 Real) (declare-const Y_0 Real) (declare-const Y_1 Real)
        ... (assert (<= X_0 0.5)) (assert (>= X_0 0.25)) (assert (or (and (<= Y_0 Y_1))))
        ... ''')
        >>> (case,) = ja.read_vnnlib(file).cases
        >>> case.low, case.high, case.wanted[0].coefficients
        (array([0.25]), array([0.5]), array([[ 1., -1.]]))
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: pass a .vnnlib file")
    content = path.read_bytes()
    try:
        text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode()
        return parse_vnnlib(text)
    except (UnicodeDecodeError, gzip.BadGzipFile, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None


def parse_vnnlib(text: str) -> Property:
    """Return the property of a text, as `read_vnnlib` does."""
    declared: dict[str, int] = {"X": 0, "Y": 0}
    always: list[Linear] = []
    choices: list[list[list[Linear]]] = []
    for command in expressions(text):
        head = command[0] if isinstance(command, list) and command else command
        if head == "declare-const" and len(command) == 3:
            side, number = variable(command[1])
            declared[side] = max(declared[side], number + 1)
        elif head == "assert" and len(command) == 2:
            ways = ways_of(command[1])
            always.extend(ways[0]) if len(ways) == 1 else choices.append(ways)
        else:
            raise ValueError(f"{shown(command)} is not of VNN-LIB 1.0")
    if not declared["X"] or not declared["Y"]:
        raise ValueError("no X_0, ... and Y_0, ... are declared: pass a property of a network")
    if math.prod(map(len, choices)) > MOST:
        raise ValueError(f"the assertions have more than {MOST:,} alternatives")
    whole = _box(always, declared["X"]), _outputs(always, declared["Y"])
    boxes: dict[bytes, tuple[np.ndarray, list[Conjunction]]] = {}
    for chosen in itertools.product(*choices):
        parts = [one for way in chosen for one in way]
        ends, own = _box(parts, declared["X"]), _outputs(parts, declared["Y"])
        box = np.stack([np.maximum(whole[0][0], ends[0]), np.minimum(whole[0][1], ends[1])])
        missing = np.flatnonzero(~np.isfinite(box).all(0))
        if len(missing):
            raise ValueError(f"X_{missing[0]} is not bounded from both sides")
        if (box[0] <= box[1]).all():
            joined = (np.concatenate(pair) for pair in zip(whole[1], own, strict=True))
            boxes.setdefault(box.tobytes(), (box, []))[1].append(Conjunction(*joined))
    cases = tuple(Case(low, high, tuple(wanted)) for (low, high), wanted in boxes.values())
    return Property(declared["X"], declared["Y"], cases)


def _box(parts: list[Linear], count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the least and largest inputs that the constraints on single inputs leave."""
    low, high = np.full(count, -np.inf), np.full(count, np.inf)
    for part in parts:
        sides = {variable(name)[0] for name in part.terms}
        if sides == {"Y"}:
            continue
        if sides != {"X"} or len(part.terms) > 1:
            raise ValueError(f"{part}: inputs may be compared with numbers only")
        ((name, factor),) = part.terms.items()
        number = variable(name)[1]
        if number >= count:
            raise ValueError(f"{name} is not declared")
        if abs(factor) != 1:
            raise ValueError(f"{part}: compare {name} itself, not a multiple")
        if factor > 0:
            high[number] = min(high[number], -part.constant)
        else:
            low[number] = max(low[number], part.constant)
    return low, high


def _outputs(parts: list[Linear], count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the coefficients [J, K] and the bounds [J] of the constraints on outputs."""
    own = [part for part in parts if any(name[0] == "Y" for name in part.terms)]
    coefficients = np.zeros((len(own), count))
    for row, part in enumerate(own):
        for name, value in part.terms.items():
            number = variable(name)[1]
            if number >= count:
                raise ValueError(f"{name} is not declared")
            coefficients[row, number] = value
    return coefficients, np.array([-part.constant for part in own])
