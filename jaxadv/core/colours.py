"""CIEDE2000, the difference of two colours as it is seen (Sharma, Wu and Dalal 2005).

G. Sharma, W. Wu, E. N. Dalal, "The CIEDE2000 color-difference formula", Color Research and
Application 30(1).
"""

from typing import Any

import numpy as np
from jaxtyping import Float

XYZ = np.array(  # of linear red, green and blue (IEC 61966-2-1)
    [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
)
KNEE = 8.0  # lightness below which the scale is linear
SLOPE = (29 / 3) ** 3  # of the linear part
POWER = 25.0**7  # chroma at which the corrections of a* and of the rotation take hold


def to_lab(image: np.ndarray) -> Float[np.ndarray, "*N 3"]:
    """Convert sRGB colours to CIELAB, with the white of sRGB as the reference.

    Args:
        image: sRGB in [0, 1]; the last axis is the colour.

    Returns:
        L* (0 to 100), a* and b*, in float64.

    >>> to_lab(np.array([1.0, 1.0, 1.0])).round(6) + 0.0
    array([100.,   0.,   0.])
    """
    image = np.asarray(image, np.float64)
    curved = ((np.maximum(image, 0.04045) + 0.055) / 1.055) ** 2.4
    linear = np.where(image <= 0.04045, image / 12.92, curved)
    relative = linear @ XYZ.T / XYZ.sum(1)
    root = np.where(relative * SLOPE > KNEE, np.cbrt(relative), (relative * SLOPE + 16) / 116)
    x, y, z = np.moveaxis(root, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)


def ciede2000(
    one: Float[np.ndarray, "*N 3"], other: Float[np.ndarray, "*N 3"]
) -> Float[np.ndarray, "*N"]:
    """Return the CIEDE2000 differences of CIELAB colours; about 1 can just be seen.

    Args:
        one: Colours in CIELAB.
        other: Colours in CIELAB.

    Returns:
        The differences, with all three weights at 1.

    >>> ciede2000(np.array([[50.0, 2.5, 0.0]]), np.array([[73.0, 25.0, -18.0]])).round(4)
    array([27.1492])
    """
    (l1, a1, b1), (l2, a2, b2) = (np.moveaxis(x, -1, 0) for x in (one, other))
    stretch = 1.5 - 0.5 * _saturation((np.hypot(a1, b1) + np.hypot(a2, b2)) / 2)
    c1, c2 = np.hypot(stretch * a1, b1), np.hypot(stretch * a2, b2)
    h1, h2 = (np.arctan2(b, stretch * a) % (2 * np.pi) for a, b in ((a1, b1), (a2, b2)))
    grey = c1 * c2 == 0
    apart = (h2 - h1 + np.pi) % (2 * np.pi) - np.pi  # the shorter way round
    hue = 2 * np.sqrt(c1 * c2) * np.sin(apart / 2)
    lightness, chroma = (l1 + l2) / 2, (c1 + c2) / 2
    # The mean on the shorter side; where one colour has no hue (0), the hue of the other.
    mean = (h1 + h2) / 2 + np.where(np.abs(h1 - h2) > np.pi, np.pi, 0)
    mean = np.where(grey, h1 + h2, mean)
    weight = 1 - 0.17 * np.cos(mean - np.pi / 6) + 0.24 * np.cos(2 * mean)
    weight += 0.32 * np.cos(3 * mean + np.pi / 30) - 0.20 * np.cos(4 * mean - np.radians(63))
    from_50 = (lightness - 50) ** 2
    scaled_l = (l2 - l1) / (1 + 0.015 * from_50 / np.sqrt(20 + from_50))
    scaled_c = (c2 - c1) / (1 + 0.045 * chroma)
    scaled_h = hue / (1 + 0.015 * chroma * weight)
    from_275 = (np.degrees(mean) % 360 - 275) / 25
    turn = np.radians(60) * np.exp(-np.square(from_275))
    rotation = -2 * _saturation(chroma) * np.sin(turn)
    squares = scaled_l**2 + scaled_c**2 + scaled_h**2 + rotation * scaled_c * scaled_h
    return np.sqrt(np.maximum(squares, 0))


def _saturation(chroma: Any) -> Any:
    return np.sqrt(chroma**7 / (chroma**7 + POWER))
