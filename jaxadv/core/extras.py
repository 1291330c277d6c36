"""Packages that are installed on request."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def extra(name: str, needed_by: str, more: str = "") -> Iterator[None]:
    """What cannot be imported within it raises an ImportError that says which extra has it.

    >>> from jaxadv.core.extras import extra
    >>> with extra("demo", "the page"):
    ...     import nowhere
    Traceback (most recent call last):
    ImportError: the page needs the package nowhere: pip install "jaxadv[demo]"
    """
    try:
        yield
    except ImportError as error:
        raise ImportError(
            f'{needed_by} needs the package {error.name}: pip install "jaxadv[{name}]"{more}',
            name=error.name,
        ) from error
