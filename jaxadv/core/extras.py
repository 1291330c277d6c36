"""Imports of optional dependencies."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def extra(name: str, needed_by: str, more: str = "") -> Iterator[None]:
    """Raise an ImportError that names the pip extra for any package that cannot be imported within.

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
