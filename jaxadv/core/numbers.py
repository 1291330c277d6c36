"""Numbers as people write them."""

import math


def parse_number(text: str, name: str = "--epsilon") -> float:
    """A number or a fraction such as 8/255, which is not negative. Raises ValueError.

    >>> from jaxadv.core.numbers import parse_number
    >>> parse_number("0.1"), parse_number("51/255")
    (0.1, 0.2)
    """
    numerator, slash, denominator = text.partition("/")
    try:
        value = float(numerator) / (float(denominator) if slash else 1.0)
    except (ValueError, ZeroDivisionError):
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{name} {text!r} is not a number: pass one like 0.1 or 8/255")
    return value
