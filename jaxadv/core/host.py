"""Host functions as models: their outputs are checked, and their errors reach the caller."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array

from jaxadv.core.images import as_floats
from jaxadv.core.pytree import pytree, static
from jaxadv.core.typing import ArrayLike, Params

# JAX copies what it hands to a callback. More than 100 kB is copied by the threads that run the
# programs, all of which may be inside a callback and wait for it; less by the callback's own one.
PIECE = 2**16  # bytes


class _Caller:
    """A caller that waits for a compiled program, and the errors of host functions meanwhile."""

    def __init__(self) -> None:
        self.errors: list[ValueError] = []


_callers: list[_Caller] = []


@contextmanager
def host_errors() -> Iterator[Callable[[], bool]]:
    """Raise the first error of a host function at the end, without the wrapping that JAX adds.

    After the first error the function is not called again, and its outputs are NaN.

    Yields:
        A function () -> bool that returns whether an error has occurred.

    >>> import jax, numpy as np, jaxadv as ja
    >>> from jaxadv.core.host import host_errors
    >>> model = ja.from_function(lambda x: np.array([3]), differentiable=False, classes=3)
    >>> with host_errors():
    ...     jax.jit(model)(np.zeros((1, 2, 2, 1))).block_until_ready()
    Traceback (most recent call last):
    ValueError: function returned the label 3, but classes=3: labels are counted from 0, so ...
    """
    caller = _Caller()
    _callers.append(caller)
    try:
        yield lambda: bool(caller.errors)
    finally:
        _callers.remove(caller)
        if caller.errors:
            raise caller.errors[0].with_traceback(None)


@pytree
class HostFunction:
    """A function on the host, called through `jax.pure_callback`.

    Attributes:
        function: A function of float32 images [N, H, W, C] that returns scores [N, K] or labels
            [N].
        classes: The number of classes; None to find it by a call with one black image.
    """

    function: Callable[..., Any] = static()
    classes: int | None = static()

    def __call__(self, params: Params, images: ArrayLike) -> Array:
        images = as_floats(images)
        if not isinstance(images, Tracer):
            return jnp.asarray(self.scores(images))
        known = self
        if self.classes is None:
            with jax.ensure_compile_time_eval():
                black = self.scores(np.zeros((1, *images.shape[1:]), np.float32))
            known = dataclasses.replace(self, classes=black.shape[1])
        shape = jax.ShapeDtypeStruct((len(images), known.classes), jnp.float32)
        flat = images.ravel()
        size = PIECE // flat.dtype.itemsize
        pieces = [flat[begin : begin + size] for begin in range(0, max(1, flat.size), size)]
        return jax.pure_callback(_Callback(known, images.shape), shape, pieces)

    def callback(self, images: np.ndarray) -> np.ndarray:
        """Return `scores` to a compiled program; errors go to the callers inside `host_errors`."""
        if not any(caller.errors for caller in _callers):
            try:
                return self.scores(images)
            except ValueError as error:
                if not _callers:
                    raise
                for caller in _callers:
                    caller.errors.append(error)
        return np.full((len(images), self.classes), np.nan, np.float32)  # type: ignore[arg-type]

    def scores(self, images: ArrayLike) -> np.ndarray:
        """Return scores [N, K] float32; raise ValueError if the function's output is malformed."""
        # A copy: JAX's arrays are read-only, and many functions normalise in place.
        images = np.array(images, np.float32)
        count = len(images)
        output = self._call(images)
        kinds = (np.bool_, np.integer, np.floating)
        if not any(jnp.issubdtype(output.dtype, kind) for kind in kinds):
            raise ValueError(
                f"function returned dtype {output.dtype}: return numbers, in place of names of "
                "classes their places, 0 and up"
            )
        if output.shape in ((count,), (count, 1)):
            return _one_hot(output.ravel(), self.classes)
        if output.ndim != 2 or output.shape != (count, self.classes or max(2, output.shape[1])):
            given = "" if self.classes is None else f", but classes={self.classes}"
            raise ValueError(
                f"function returned shape {output.shape} and dtype {output.dtype} for {count} "
                f"images{given}: return scores [{count}, {self.classes or 'classes'}], or integer "
                f"labels [{count}] and pass classes"
            )
        return _in_float32(output)

    def _call(self, images: np.ndarray) -> np.ndarray:
        """Return the output of the function as a new array."""
        try:
            output = self.function(images)
        except Exception as error:
            raise ValueError(
                f"function raised {type(error).__name__} when called with images of shape "
                f"{images.shape}: {error}"
            ) from error
        try:
            return np.array(output)
        except Exception as error:
            raise ValueError(
                f"function returned {type(output).__name__}, which is no array ({error}): return "
                "scores [N, classes], or labels [N] and pass classes"
            ) from error


@dataclasses.dataclass(frozen=True)
class _Callback:
    """What a compiled program calls, with the images [N, H, W, C] in pieces."""

    function: HostFunction
    shape: tuple[int, ...]

    def __call__(self, pieces: Sequence[ArrayLike]) -> np.ndarray:
        images = np.concatenate([np.asarray(piece) for piece in pieces]).reshape(self.shape)
        return self.function.callback(images)


def _one_hot(labels: np.ndarray, classes: int | None) -> np.ndarray:
    labels = labels.astype(np.float64)
    integer = labels == np.round(labels)
    if not integer.all():
        raise ValueError(
            f"function returned one number for each image, such as {labels[~integer][0]}, which is "
            "no label: return scores [N, classes], for probabilities p of the second of two "
            "classes np.stack([1 - p, p], 1)"
        )
    if classes is None:
        raise ValueError("function returns labels: pass classes, the number of classes")
    wrong = np.unique(labels[(labels < 0) | (labels >= classes)])
    if len(wrong):
        named = ", ".join(f"{label:.0f}" for label in wrong[:5]) + ", ..." * (len(wrong) > 5)
        raise ValueError(
            f"function returned the label{'s' * (len(wrong) > 1)} {named}, but classes={classes}: "
            f"labels are counted from 0, so return 0 to {classes - 1}, or pass more classes"
        )
    return (labels[:, None] == np.arange(classes)).astype(np.float32)


def _in_float32(output: np.ndarray) -> np.ndarray:
    """Return the scores in float32, with the same largest class in each row."""
    with np.errstate(over="ignore"):
        scores = output.astype(np.float32)
    broken = np.isnan(scores).any(1) | (scores == np.inf).any(1) | (scores == -np.inf).all(1)
    if broken.any():
        raise ValueError(
            f"function returned NaN or infinite scores for {broken.sum()} of {len(scores)} images: "
            "return finite ones, or minus infinity for a class that is never predicted"
        )
    best = output.argmax(1)
    tied = scores.argmax(1) != best  # the order changed by rounding alone
    scores[tied, best[tied]] = np.nextafter(scores[tied].max(1), np.float32(np.inf))
    return scores
