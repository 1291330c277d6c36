"""How alike two networks are, and whether that explains what fools both.

Gradients (Demontis et al. 2018, arXiv 1809.02861), representations (Kornblith et al. 2019,
"Similarity of neural network representations revisited", arXiv 1905.00414), and correlations over
pairs of networks.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jaxtyping import Array, Float

from jaxadv.core.goals import Untargeted
from jaxadv.core.model import Model
from jaxadv.core.typing import ArrayLike
from jaxadv.data import Dataset
from jaxadv.studies.directions import activations, dense_layers
from jaxadv.studies.networks import Network


def linear_cka(one: Float[Array, "N P"], other: Float[Array, "N Q"]) -> float:
    """Return the linear centred kernel alignment of two representations.

    |Y'X|^2 / (|X'X| |Y'Y|) with centred columns and Frobenius norms, in float64. It is 1 for
    representations that differ by a rotation, a scale and a shift.

    Args:
        one: Representation [N, P] of N images.
        other: Representation [N, Q] of the same images.

    Returns:
        The alignment, in [0, 1].

    Example:
        >>> import numpy as np
        >>> x = np.random.default_rng(0).normal(size=(50, 3))
        >>> round(linear_cka(x, 5 * x[:, ::-1] + 1), 6)
        1.0
    """
    x, y = (np.asarray(a, np.float64) for a in (one, other))
    x, y = x - x.mean(0), y - y.mean(0)
    scale = np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)
    return float(np.square(np.linalg.norm(y.T @ x)) / scale)


def margin_gradients(
    model: Model, images: npt.ArrayLike, labels: npt.ArrayLike
) -> Float[Array, "N D"]:
    """Return the gradient in each image of its label's logit minus the largest other logit.

    Args:
        model: The model.
        images: Images [N, H, W, C].
        labels: Labels [N].

    Returns:
        The gradients, flattened.
    """

    def total(images: Array) -> Float[Array, ""]:
        return jax.vmap(lambda y, z: Untargeted(y).margin(z))(labels, model(images)).sum()

    labels, inputs = jnp.asarray(labels), jnp.asarray(images)
    return jax.grad(total)(inputs).reshape(len(inputs), -1)


def cosines(one: ArrayLike, other: ArrayLike) -> Float[np.ndarray, " N"]:
    """Return the cosine similarities [N] of the rows of two arrays [N, ...]; 0 where a row is 0."""
    x, y = (np.asarray(a, np.float64).reshape(len(a), -1) for a in (one, other))
    lengths = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    return (x * y).sum(1) / np.maximum(lengths, 1e-30)


def features(network: Network, images: np.ndarray) -> Array:
    """Return the input [N, units] of the last dense layer of a linen network.

    This is the last hidden layer's activations, or the pixels if there is no hidden layer.
    """
    inputs = jnp.asarray(images)
    last = list(dense_layers(network.linen, network.variables, inputs))[-1]
    return activations(network.linen, network.variables, inputs, last)


def transfer_explained(
    networks: list[Network], attacked: np.ndarray, nearest: np.ndarray, test: Dataset
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return the transfer rates between networks, and the measures that may explain them.

    Args:
        networks: The M networks.
        attacked: Images made for each network, all of one norm, [M, N, H, W, C].
        nearest: The nearest adversarial images of each network, [M, N, H, W, C].
        test: The N original images.

    Returns:
        The fraction [M, M] of the images made for one network (row) that fool another (column), and
        by name the explanations, each [M, M]. "flat boundaries" is the fraction of images that
        would fool if each network's boundary were the plane through its own nearest adversarial
        image.
    """
    predicted = np.array([[np.asarray(n.model(a)).argmax(1) for n in networks] for a in attacked])
    rate = (predicted != test.labels).mean(2)
    slopes = [margin_gradients(n.model, test.images, test.labels) for n in networks]
    seen = [features(n, test.images) for n in networks]
    moved = (attacked - test.images).reshape(*attacked.shape[:2], -1).astype(np.float64)
    to = (nearest - test.images).reshape(*nearest.shape[:2], -1).astype(np.float64)
    beyond = np.einsum("and,bnd->abn", moved, to) >= np.square(to).sum(2)
    return rate, {
        "gradient cosine": np.array([[cosines(a, b).mean() for b in slopes] for a in slopes]),
        "CKA of features": np.array([[linear_cka(a, b) for b in seen] for a in seen]),
        "flat boundaries": beyond.mean(2),
    }


def moved_to(images: np.ndarray, originals: np.ndarray, norm: float) -> np.ndarray:
    """Return the images moved away from their originals to one L2 distance.

    Args:
        images: Images [N, ...].
        originals: Their originals.
        norm: The distance, before clipping to [0, 1].

    Returns:
        The images, float32; an image equal to its original stays there.
    """
    moved = (images - originals).astype(np.float64)
    lengths = np.sqrt(np.square(moved).sum(tuple(range(1, moved.ndim)), keepdims=True))
    return np.clip(originals + norm * moved / np.maximum(lengths, 1e-30), 0, 1).astype(np.float32)


class Fit(NamedTuple):
    """A linear fit of two samples.

    Attributes:
        correlation: Pearson's correlation coefficient.
        low: Lower end of its 95 % interval.
        high: Upper end of its 95 % interval.
        p_value: Two-sided p-value.
        slope: Slope of the line y = slope x + intercept.
        intercept: Intercept of that line.
    """

    correlation: float
    low: float
    high: float
    p_value: float
    slope: float
    intercept: float


def _pearson(a: np.ndarray, b: np.ndarray) -> float:
    """Return Pearson's correlation; nan where a sample is constant, as a bootstrap's may be."""
    a, b = a - a.mean(), b - b.mean()
    spread = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / spread) if spread > 0 else np.nan


def fit_pairs(x: np.ndarray, y: np.ndarray, draws: int = 2000, seed: int = 0) -> Fit:
    """Correlate two matrices [M, M] over ordered pairs of M networks, without their diagonals.

    The interval is a percentile bootstrap over pairs. Pairs have networks in common and are not
    independent: the two-sided p-value is therefore that of Mantel (1967), "The detection of disease
    clustering", which permutes the networks of one matrix, rows and columns alike.

    Args:
        x: The first matrix.
        y: The second matrix.
        draws: Number of bootstrap samples and of permutations.
        seed: Seed of both.

    Returns:
        The correlation with its interval and p-value, and the linear fit.
    """
    random = np.random.default_rng(seed)
    off = ~np.eye(len(x), dtype=bool)
    a, b = x[off], y[off]
    correlation = _pearson(a, b)
    rows = random.integers(len(a), size=(draws, len(a)))
    resampled = [_pearson(a[r], b[r]) for r in rows]
    orders = (random.permutation(len(x)) for _ in range(draws))
    null = np.array([_pearson(x[np.ix_(o, o)][off], b) for o in orders])
    extreme = (np.abs(null) >= abs(correlation) - 1e-12).sum()
    slope, intercept = np.polyfit(a, b, 1)
    low, high = np.nanpercentile(resampled, [2.5, 97.5])
    return Fit(*map(float, (correlation, low, high, (1 + extreme) / (1 + draws), slope, intercept)))
