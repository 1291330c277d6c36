"""Sensor fusion under attack: models whose one image is a window of frames of one scene."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from jaxadv.core.bpda import surrogate
from jaxadv.core.model import Model, check_no_mean
from jaxadv.core.pytree import pytree, static
from jaxadv.core.typing import ArrayLike, Params

DEFENCES = (
    "mean",
    "median input",
    "trimmed input",
    "median",
    "trimmed",
    "majority",
    "outliers",
)
FAR = 3.0  # outliers are farther than this many median distances from the median reading


def ordered(values: Float[Array, "w ..."]) -> list[Array]:
    """Return the w values of each place in ascending order, by w (w - 1) / 2 exchanges."""
    rows = list(values)
    for last in range(len(rows) - 1, 0, -1):
        for i in range(last):
            rows[i], rows[i + 1] = (
                jnp.minimum(rows[i], rows[i + 1]),
                jnp.maximum(rows[i], rows[i + 1]),
            )
    return rows


def trimmed_mean(values: Float[Array, "w ..."], trim: int) -> Float[Array, "..."]:
    """Return the mean of w values without the `trim` smallest and the `trim` largest.

    With trim = (w - 1) // 2 it is the median. Even if up to `trim` values are arbitrary, it stays
    between the smallest and the largest of the others (Huber and Ronchetti 2009, Robust
    Statistics).

    Args:
        values: The values [w, ...].
        trim: The number of values to drop at each end.

    Returns:
        The trimmed mean [...].

    >>> import jax.numpy as jnp
    >>> from jaxadv.core.window import trimmed_mean
    >>> trimmed_mean(jnp.array([3.0, 900, 1, 2, -900]), 1), trimmed_mean(jnp.arange(4.0), 1)
    (Array(2., dtype=float32), Array(1.5, dtype=float32))
    """
    inner = ordered(values)[trim : len(values) - trim]
    return jnp.stack(inner).mean(0)


def windowed(model: Model, frames: int, defence: str = "majority", trim: int = 1) -> Model:
    """Return a model of windows [N, frames * H, W, C] that fuses all frames of a window.

    The frames of a window lie one below the other; every attack can go through the fusion. The
    model's outputs can be fused by

    - "mean": the mean of the logits (no defence);
    - "median", "trimmed": the median or trimmed mean of each class's logits;
    - "majority": a vote of the labels, one per frame; ties go to the larger mean probability, and
      the output counts the votes;
    - "outliers": the mean logits of the frames that are not farther from the median frame than
      3 times the median distance;

    and the pixels, before the model sees them, by

    - "median input", "trimmed input": the median or trimmed mean of the frames.

    Success is verified on the fusion itself. Its derivative is zero or misleading almost
    everywhere, so gradients are those of a smooth surrogate (BPDA, Athalye et al. 2018, arXiv
    1802.00420): the mean logits, the mean frame, or for votes the mean probability. One query costs
    `frames` forward passes (one for the fusion of pixels), and is counted as such.

    Args:
        model: The model of one frame.
        frames: The number of frames in a window.
        defence: The fusion, one of those above.
        trim: The number of values that a trimmed mean drops at each end.

    Returns:
        The model of windows.

    Raises:
        ValueError: If `frames` is below 1, `defence` is unknown, `trim` leaves no frame, or the
            model was made by `ja.EOT`.

    >>> import jax.numpy as jnp, jaxadv as ja
    >>> model = ja.Model(lambda w, x: x.reshape(len(x), -1) @ w, jnp.array([[-1.0, 1.0]]))
    >>> window = jnp.array([0.2, -0.9, 0.3]).reshape(1, 3, 1, 1)  # the first pixel's sign, thrice
    >>> [ja.windowed(model, 3, how)(window).argmax().item() for how in ("mean", "majority")]
    [0, 1]
    """
    if frames < 1:
        raise ValueError(f"frames={frames}: pass 1 or more")
    if defence not in DEFENCES:
        raise ValueError(f"defence={defence!r} is not known: pass one of {DEFENCES}")
    if not 0 <= 2 * trim < frames and defence.startswith("trimmed"):
        raise ValueError(f"trim={trim}: of {frames} frames nothing is left; pass less than half")
    check_no_mean(model)
    if defence.startswith("median"):
        trim = (frames - 1) // 2
    passes = 1 if defence.endswith("input") else frames
    return dataclasses.replace(
        model, apply=_Windowed(model.apply, frames, defence, trim), samples=passes * model.samples
    )


@pytree
class _Windowed:
    apply: Callable[..., Any] = static()
    frames: int = static()
    defence: str = static()
    trim: int = static()

    def __call__(self, params: Params, windows: ArrayLike, *key: Array) -> Float[Array, "N K"]:
        count, height, *rest = windows.shape
        if height % self.frames:
            raise ValueError(
                f"windows of {self.frames} frames have a multiple of as many rows, not {height}"
            )
        readings = jnp.asarray(windows).reshape(count, self.frames, height // self.frames, *rest)
        if self.defence.endswith("input"):
            fused = trimmed_mean(readings.swapaxes(0, 1), self.trim)
            return self.apply(params, surrogate(fused, readings.mean(1)), *key)
        logits = self.apply(params, readings.reshape(-1, *readings.shape[2:]), *key)
        logits = logits.reshape(count, self.frames, -1).swapaxes(0, 1)
        if self.defence == "mean":
            return logits.mean(0)
        if self.defence == "majority":
            probabilities = jax.nn.softmax(logits).mean(0)
            votes = jax.nn.one_hot(logits.argmax(-1), logits.shape[-1]).sum(0)
            return surrogate(votes + probabilities / 2, self.frames * probabilities)
        if self.defence == "outliers":
            return surrogate(_without_outliers(readings, logits), logits.mean(0))
        return surrogate(trimmed_mean(logits, self.trim), logits.mean(0))


def slid(fused: Model, frames: int, windows: int) -> Model:
    """Return a model of strips of frames: the mean output of the windows that slide over a strip.

    Args:
        fused: A model of windows, as `windowed` returns it.
        frames: Number w of frames in a window.
        windows: Number of windows; a strip has w + windows - 1 frames, one below the other.

    Returns:
        The model of strips [N, (w + windows - 1) * H, W, C].

    >>> import jax.numpy as jnp, jaxadv as ja
    >>> from jaxadv.core.window import slid
    >>> model = ja.Model(lambda w, x: x.reshape(len(x), -1) @ w, jnp.array([[-1.0, 1.0]]))
    >>> strip = slid(ja.windowed(model, 2, "mean"), 2, windows=2)
    >>> strip(jnp.array([0.0, 0.4, 0.8]).reshape(1, 3, 1, 1))  # of the windows' 0.2 and 0.6
    Array([[-0.4,  0.4]], dtype=float32)
    """
    return dataclasses.replace(
        fused, apply=_Slid(fused.apply, frames, windows), samples=windows * fused.samples
    )


@pytree
class _Slid:
    apply: Callable[..., Any] = static()
    frames: int = static()
    windows: int = static()

    def __call__(self, params: Params, strips: ArrayLike, *key: Array) -> Float[Array, "N K"]:
        strips = jnp.asarray(strips)
        height = strips.shape[1] // (self.frames + self.windows - 1)
        tall = self.frames * height
        each = [strips[:, i * height :][:, :tall] for i in range(self.windows)]
        logits = self.apply(params, jnp.concatenate(each), *key)
        return logits.reshape(self.windows, len(strips), -1).mean(0)


def far_out(readings: Float[Array, "N w ..."]) -> Bool[Array, "w N"]:
    """Return which readings "outliers" throws out: those far from their window's median reading.

    Args:
        readings: Windows of readings [N, w, ...].

    Returns:
        Whether each reading is farther from the median reading than 3 times the median distance.

    >>> import jax.numpy as jnp
    >>> from jaxadv.core.window import far_out
    >>> far_out(jnp.array([[[0.1], [0.2], [0.9]]])).ravel()
    Array([False, False,  True], dtype=bool)
    """
    half = (readings.shape[1] - 1) // 2
    middle = trimmed_mean(readings.swapaxes(0, 1), half)
    apart = jnp.square(readings - middle[:, None]).reshape(*readings.shape[:2], -1).sum(-1).T
    return apart > FAR**2 * trimmed_mean(apart, half)


def _without_outliers(readings: Array, logits: Array) -> Float[Array, "N K"]:
    """Return the mean logits [w, N, K] of the readings [N, w, H, W, C] near the median reading."""
    near = ~far_out(readings)
    weights = near / near.sum(0)
    return jnp.einsum("wn,wnk->nk", weights, logits, precision=lax.Precision.HIGHEST)
