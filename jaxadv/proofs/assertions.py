"""Assertions of SMT-LIB about inputs X_i and outputs Y_j, as alternatives of linear constraints."""

import itertools
import math
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

MOST = 100_000  # conjunctions that a property may have
TOKEN = re.compile(r"\s*(?:;[^\n]*|([()])|([^\s();]+))")
VARIABLE = re.compile(r"([XY])_(\d+)")


class Linear(NamedTuple):
    """A sum of multiples of variables, and a constant."""

    terms: dict[str, float]
    constant: float = 0.0

    def plus(self, other: "Linear", factor: float = 1.0) -> "Linear":
        """Return this plus a multiple of another."""
        terms = dict(self.terms)
        for name, value in other.terms.items():
            terms[name] = terms.get(name, 0.0) + factor * value
        return Linear(terms, self.constant + factor * other.constant)


def expressions(text: str) -> Iterator[Any]:
    """Yield the outermost expressions: nested lists of words."""
    stack: list[list[Any]] = [[]]
    place, text = 0, text.rstrip()
    while place < len(text):
        found = TOKEN.match(text, place)
        assert found is not None
        place, (bracket, word) = found.end(), found.groups()
        if bracket == "(":
            stack.append([])
        elif bracket == ")":
            if len(stack) == 1:
                raise ValueError("a closing bracket has no opening one")
            done = stack.pop()
            if len(stack) == 1:
                yield done
            else:
                stack[-1].append(done)
        elif word:
            if len(stack) == 1:
                raise ValueError(f"{word!r} is outside of brackets")
            stack[-1].append(word)
    if len(stack) > 1:
        raise ValueError("a bracket is not closed: the file is cut off")


def ways_of(expression: Any) -> list[list[Linear]]:
    """Return an assertion as alternatives, each a list of sums that are to be at most 0."""
    head, parts = expression[0], expression[1:]
    if head == "or" and parts:
        return [way for part in parts for way in ways_of(part)]
    if head == "and" and parts:
        inner = [ways_of(part) for part in parts]
        if math.prod(map(len, inner)) > MOST:
            raise ValueError(f"{shown(expression)} has more than {MOST:,} alternatives")
        return [[one for way in chosen for one in way] for chosen in itertools.product(*inner)]
    if head in ("<=", ">=") and len(parts) == 2:
        less, more = parts if head == "<=" else parts[::-1]
        return [[_sum(less).plus(_sum(more), -1.0)]]
    raise ValueError(f"{shown(expression)}: of comparisons only (<= a b) and (>= a b) are known")


def _sum(expression: Any) -> Linear:
    """Return an expression as a sum of multiples of variables."""
    if isinstance(expression, str):
        if VARIABLE.fullmatch(expression):
            return Linear({expression: 1.0})
        try:
            value = float(expression)
        except ValueError:
            raise ValueError(f"{expression!r} is neither X_i or Y_j nor a number") from None
        if not math.isfinite(value):
            raise ValueError(f"{expression!r} is not finite")
        return Linear({}, value)
    head, parts = (expression[0], [_sum(p) for p in expression[1:]]) if expression else ("", [])
    if head == "+" and parts:
        return _total(parts, 1.0)
    if head == "-" and len(parts) == 1:
        return Linear({}).plus(parts[0], -1.0)
    if head == "-" and parts:
        return _total(parts, -1.0)
    if head == "*" and len(parts) == 2 and not (parts[0].terms and parts[1].terms):
        one, other = parts if parts[1].terms else parts[::-1]
        return Linear({}).plus(other, one.constant)
    raise ValueError(f"{shown(expression)} is no sum or multiple of variables")


def _total(parts: list[Linear], factor: float) -> Linear:
    total = parts[0]
    for part in parts[1:]:
        total = total.plus(part, factor)
    return total


def variable(name: Any) -> tuple[str, int]:
    """Return ("X" or "Y", number) of a variable; ValueError if this is none."""
    found = VARIABLE.fullmatch(name) if isinstance(name, str) else None
    if found is None:
        raise ValueError(f"{name!r} is no variable X_i or Y_j")
    return found[1], int(found[2])


def shown(expression: Any) -> str:
    """Return an expression as it was written, cut to a line."""

    def text(part: Any) -> str:
        return part if isinstance(part, str) else f"({' '.join(map(text, part))})"

    whole = text(expression)
    return whole if len(whole) <= 80 else whole[:77] + "..."
