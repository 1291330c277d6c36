"""Parsing of numbers and fractions."""

import math


def parse_number(text: str, name: str = "--epsilon") -> float:
    """Parse a number or a fraction such as 8/255, which must be finite and not negative.

    Args:
        text: The text.
        name: The option or setting that the text belongs to, for the message.

    Returns:
        The value.

    Raises:
        ValueError: If the text is empty, not a number, not finite or negative, divides by zero, or
            has more than one slash.

    >>> from jaxadv.core.parse import parse_number
    >>> parse_number("0.1"), parse_number("51/255")
    (0.1, 0.2)
    """
    wrong, value = "is not a number", math.nan
    try:
        numbers = [float(part) for part in text.split("/")]
    except ValueError:
        numbers = [math.nan]
    if not text.strip():
        wrong = "is empty"
    elif len(numbers) > 2:
        wrong = "has more than one slash"
    elif any(map(math.isinf, numbers)):
        wrong = "is not finite"
    elif numbers[1:] == [0]:
        wrong = "divides by zero"
    elif not any(map(math.isnan, numbers)):
        value = numbers[0] / numbers[1] if numbers[1:] else numbers[0]
        wrong = "is negative" if value < 0 else "is not finite" if math.isinf(value) else ""
    if wrong:
        raise ValueError(f"{name} {text!r} {wrong}: pass one like 0.1 or 8/255")
    return abs(value)  # -0 becomes 0
