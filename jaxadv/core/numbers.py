"""Numbers as people write them."""

import math


def parse_number(text: str, name: str = "--epsilon") -> float:
    """A number or a fraction such as 8/255, finite and not negative.

    Args:
        text: What was written.
        name: The option or setting that it belongs to, for the message.

    Returns:
        Its value.

    Raises:
        ValueError: Says what is wrong with the text: it is empty, no number, negative, ...

    >>> from jaxadv.core.numbers import parse_number
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
    return abs(value)  # of -0, too
