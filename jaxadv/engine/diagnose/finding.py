"""The result of a check."""

from typing import NamedTuple

FEW = 0.02  # fraction of the images that chance may account for


class Finding(NamedTuple):
    """The result of one check.

    Attributes:
        name: Name of the check.
        passed: Whether it passed.
        message: What was found and what to do; empty if it passed.
    """

    name: str
    passed: bool
    message: str


def verdict(name: str, message: str) -> Finding:
    """Return a finding that passes if `message` is empty."""
    return Finding(name, not message, message)
