"""The structural similarity of two images (Wang, Bovik, Sheikh and Simoncelli 2004).

Z. Wang et al., "Image quality assessment: from error visibility to structural similarity", IEEE
Transactions on Image Processing 13(4).
"""

import numpy as np
from jaxtyping import Float
from scipy.ndimage import correlate1d

WINDOW, SIGMA = 11, 1.5  # side and standard deviation of the Gaussian window, in pixels
STABLE = (0.01**2, 0.03**2)  # for values of 0 to 1


def ssim(
    images: Float[np.ndarray, "N H W C"], originals: Float[np.ndarray, "N H W C"]
) -> Float[np.ndarray, " N"]:
    """Return the mean structural similarity of each image with its original.

    Means, variances and the covariance are those under a Gaussian window of 11 x 11 pixels, at each
    place where it fits into the image; the similarity is their mean over places and channels. In an
    image with a side of fewer than 11 pixels the window ends at the largest odd size that fits.

    Args:
        images: Images with values of 0 to 1.
        originals: Their originals.

    Returns:
        The similarities, at most 1, which equal images have.

    Example:
        >>> import numpy as np
        >>> from jaxadv.core.ssim import ssim
        >>> image = np.random.default_rng(0).random((1, 16, 16, 1))
        >>> ssim(image, image), ssim(1 - image, image).round(1)
        (array([1.]), array([-1.]))
    """
    side = min(WINDOW, *images.shape[1:3])
    half = (side - 1) // 2
    window = np.exp(-np.square(np.arange(-half, half + 1) / SIGMA) / 2)
    window /= window.sum()
    inside = slice(half, -half or None)

    def mean(image: np.ndarray) -> np.ndarray:
        for axis in (0, 1):
            image = correlate1d(image, window, axis)
        return image[inside, inside]

    def similarity(x: np.ndarray, y: np.ndarray) -> float:
        x_mean, y_mean = mean(x), mean(y)
        x_variance, y_variance = mean(x * x) - x_mean**2, mean(y * y) - y_mean**2
        covariance = mean(x * y) - x_mean * y_mean
        first, second = STABLE
        light = (2 * x_mean * y_mean + first) / (x_mean**2 + y_mean**2 + first)
        rest = (2 * covariance + second) / (x_variance + y_variance + second)
        return float((light * rest).mean())

    pairs = zip(images.astype(np.float64), originals.astype(np.float64), strict=True)
    return np.array([similarity(x, y) for x, y in pairs])
