"""Imports of optional dependencies."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def extra(name: str, needed_by: str, more: str = "") -> Iterator[None]:
    """Turn an ImportError inside the context into one that names the pip extra to install.

    Args:
        name: The extra of jaxadv that has the package.
        needed_by: What needs the package, for the message.
        more: Text to add to the message.

    Yields:
        Nothing.

    Raises:
        ImportError: If a package cannot be imported inside the context.

    >>> from jaxadv.core.optional_dependency import extra
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
