"""The box in which inputs lie: one range for all values, or a range for each feature."""

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from jaxadv.core.typing import ArrayLike
else:
    ArrayLike = Any  # reports read bounds without importing jax

Bounds = tuple[float | ArrayLike, float | ArrayLike]
"""The (least, largest) value of an input: two numbers, or arrays that broadcast to one input.

A model keeps its own as two floats, or as two `Ends` of one shape.
"""


class Ends(np.ndarray):
    """One end of the ranges of all features: read-only float32, compared and hashed as a whole.

    It is a static field of a model, and therefore a part of compiled programs. Arithmetic on it
    gives plain arrays.

    Example:
        >>> import numpy as np
        >>> from jaxadv.core.bounds import Ends
        >>> Ends.of([0, 2]) == Ends.of(np.array([0.0, 2.0])), Ends.of([0, 2]) + 1
        (True, array([1., 3.], dtype=float32))
    """

    @classmethod
    def of(cls, values: Any) -> "Ends":
        """Return an array as an end, by a copy."""
        own = np.array(values, np.float32).view(cls)
        own.flags.writeable = False
        return own

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **settings: Any) -> Any:
        plain = (np.asarray(value) if isinstance(value, Ends) else value for value in inputs)
        return getattr(ufunc, method)(*plain, **settings)

    def __eq__(self, other: object) -> bool:  # type: ignore[override]
        if not isinstance(other, Ends):
            return False
        return self.shape == other.shape and self.tobytes() == other.tobytes()

    def __ne__(self, other: object) -> bool:  # type: ignore[override]
        return not self == other

    def __hash__(self) -> int:  # type: ignore[override]
        return hash((self.shape, self.tobytes()))


def as_bounds(bounds: Bounds) -> Bounds:
    """Return bounds in the form that models keep.

    Args:
        bounds: Two numbers, or arrays that broadcast against each other, one value a feature;
            either may be infinite.

    Returns:
        Two floats, or two `Ends` of one shape.

    Raises:
        ValueError: If these are not two ends, or a least value is not below the largest.
    """
    try:
        given = [np.asarray(end, np.float64) for end in bounds]
        lower, upper = np.broadcast_arrays(*given)
    except (TypeError, ValueError):
        raise ValueError(
            f"bounds={bounds}: pass (least, largest) value of the images, two numbers or two "
            "arrays that broadcast to one input"
        ) from None
    if lower.ndim == 0:
        if not lower < upper:
            raise ValueError(f"bounds={bounds}: pass (least, largest) value of the images")
        return float(lower), float(upper)
    ends = Ends.of(lower), Ends.of(upper)
    empty = np.argwhere(~(np.asarray(ends[0]) < np.asarray(ends[1])))
    if len(empty):
        place = ", ".join(map(str, empty[0]))
        raise ValueError(
            f"bounds: the least value of feature [{place}] is {lower[tuple(empty[0])]:g}, and the "
            f"largest {upper[tuple(empty[0])]:g} ({len(empty)} such features): pass a least value "
            "below the largest, and keep a feature as it is with ja.Masked"
        )
    return ends


def fitted(bounds: Bounds, shape: tuple[int, ...]) -> Bounds:
    """Return bounds that fit inputs of this shape; two numbers fit all.

    Args:
        bounds: The bounds of a model.
        shape: Shape of one input.

    Returns:
        The two numbers as they are, or two `Ends` of this shape.

    Raises:
        ValueError: If an array does not broadcast to the shape.
    """
    if not isinstance(bounds[0], Ends):
        return bounds
    try:
        lower, upper = (Ends.of(np.broadcast_to(np.asarray(end), shape)) for end in bounds)
    except ValueError:
        raise ValueError(
            f"bounds have shape {bounds[0].shape}, which does not broadcast to one input of shape "
            f"{shape}: pass one range for each feature"
        ) from None
    return lower, upper


def sides_of(bounds: Bounds, shape: tuple[int, ...]) -> Any:
    """Return the side of the box, or for arrays the side of each feature of such an input."""
    lower, upper = fitted(bounds, shape)
    return upper - lower


def two_numbers(bounds: Bounds, name: str) -> tuple[float, float]:
    """Return bounds that are two numbers; ValueError, naming what asks for them, for arrays."""
    lower, upper = bounds
    if isinstance(lower, Ends) or isinstance(upper, Ends):
        raise ValueError(
            f"{name} takes one range for all values, but the model's bounds have shape "
            f"{np.shape(lower)}: let the model scale its features itself, so that all of them lie "
            "in (0, 1)"
        )
    return float(lower), float(upper)


def hull(bounds: Bounds) -> tuple[float, float]:
    """Return the least and the largest value that any feature may take."""
    return float(np.min(np.asarray(bounds[0]))), float(np.max(np.asarray(bounds[1])))


def bounds_text(bounds: Bounds) -> str:
    """Return bounds for a message: "(0, 1)", or the hull and that the ranges differ."""
    least, largest = hull(bounds)
    each = "" if not isinstance(bounds[0], Ends) else ", by feature"
    return f"({least:g}, {largest:g}{each})"
