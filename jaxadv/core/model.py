"""The model as the engine sees it: a pure function and its parameters."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from jaxadv.core.host import HostFunction
from jaxadv.core.images import as_floats
from jaxadv.core.pytree import pytree, static

MEANS = ("logits", "probabilities", "log-probabilities")
SWITCHED_OFF = 100.0  # so far below the least finite logit a class has no probability in float32


@pytree
class Model:
    """A classifier: `apply(params, images[N, H, W, C]) -> logits[N, K]`.

    apply: a pure function, part of the compiled program (compared by value); params: a pytree,
    passed as an argument (new weights never recompile); bounds: the least and the largest value
    that an image may take, in the scale in which epsilon is stated too. Preprocessing
    (normalisation) belongs into `apply`.

    random: the model draws at random: `apply(params, images, key)`, one key for all it is given.
    Each image is then asked alone, with a key made of `seed` and of its own pixels: an image always
    gets the same answer, whatever its company, and another image another draw. Claimed successes
    are judged on draws that the attack has not seen (`fresh`). samples: forward passes that one
    answer takes, as they are counted (see `EOT`).

    >>> import jax.numpy as jnp, jaxadv as ja
    >>> model = ja.Model(lambda w, x: x.reshape(len(x), -1) @ w, jnp.eye(4))
    >>> model(jnp.ones((2, 2, 2, 1))).shape
    (2, 4)
    """

    apply: Callable[..., Any] = static()
    params: Any
    bounds: tuple[float, float] = static(default=(0.0, 1.0))
    random: bool = static(default=False)
    seed: Any = None
    samples: int = static(default=1)

    def __post_init__(self) -> None:
        lower, upper = map(float, self.bounds)
        if not lower < upper:
            raise ValueError(f"bounds={self.bounds}: pass (least, largest) value of the images")
        object.__setattr__(self, "bounds", (lower, upper))
        if self.random and (self.seed is None or isinstance(self.seed, np.floating)):
            object.__setattr__(self, "seed", np.int32(self.seed or 0))

    def __call__(self, images: Float[Array, "N ..."]) -> Float[Array, "N K"]:
        return as_logits(self.raw(images))

    def raw(self, images: Float[Array, "N ..."]) -> Any:
        """What `apply` returns for images [N, H, W, C], as it is."""
        if not self.random:
            return self.apply(self.params, images)

        def one(image: Array) -> Array:
            return self.apply(self.params, image[None], _own_key(self.seed, image))[0]

        return jax.vmap(one)(images)

    def fresh(self) -> "Model":
        """The same model with other draws, in a mean ten times as many; itself if it draws none."""
        if not self.random:
            return self
        apply = _Tenfold(self.apply) if isinstance(self.apply, _Mean) else self.apply
        return dataclasses.replace(self, seed=self.seed + 1, apply=apply)


def as_logits(answer: Any) -> Any:
    """Logits [N, K] in floats of 32 bits or more; a class at minus infinity becomes finite.

    A class that is switched off never wins, but minus infinity would make gradients and scales NaN:
    it is put `SWITCHED_OFF` below the least finite logit of its image. A row with NaN, with plus
    infinity, or without a finite logit stays as it is. What is no array is returned unchanged.
    """
    if not hasattr(answer, "dtype") or answer.ndim == 0:
        return answer
    wide = jnp.issubdtype(answer.dtype, jnp.floating) and answer.dtype.itemsize >= 4
    logits = jnp.asarray(answer) if wide else jnp.asarray(answer, jnp.float32)
    off = jnp.isneginf(logits)
    least = lax.stop_gradient(jnp.where(off, jnp.inf, logits).min(-1, keepdims=True))
    return jnp.where(off & jnp.isfinite(least), least - SWITCHED_OFF, logits)


def EOT(model: Model, samples: int = 20) -> Model:
    """A random model's mean logits over so many draws: expectation over transformations.

    Athalye et al. (2017, arXiv 1707.07397). Attacks then follow the gradient of the mean, and
    success is judged on the mean of ten times as many fresh draws. One answer costs `samples`
    forward passes, one gradient as many backward passes, and they are counted so. Raises ValueError
    for a model that is not random, and for samples below 1.

    >>> import jax, jax.numpy as jnp, jaxadv as ja
    >>> def noisy(weights, images, key):
    ...     images += 0.1 * jax.random.normal(key, images.shape)
    ...     return images.reshape(len(images), -1) @ weights
    >>> model = ja.EOT(ja.Model(noisy, jnp.eye(4), random=True), samples=50)
    >>> model(jnp.eye(4).reshape(4, 2, 2, 1)).argmax(-1)
    Array([0, 1, 2, 3], dtype=int32)
    """
    if not model.random:
        raise ValueError("model draws nothing at random: pass Model(apply, params, random=True)")
    if samples < 1:
        raise ValueError(f"samples={samples}: pass 1 or more")
    return dataclasses.replace(
        model, apply=_Mean(model.apply, samples), samples=samples * model.samples
    )


def check_no_mean(model: Model) -> None:
    """ValueError for a model that `EOT` made: it knows its own draws only as the outermost."""
    if isinstance(model.apply, _Mean):
        raise ValueError("model is a mean of draws: pass the model inside, and put EOT around it")


@pytree
class _Mean:
    apply: Callable[..., Any] = static()
    samples: int = static()

    def __call__(self, params: Any, images: Array, key: Array) -> Array:
        draws = jax.vmap(lambda k: self.apply(params, images, k))
        return draws(jax.random.split(key, self.samples)).mean(0)


@pytree
class _Tenfold:
    apply: Callable[..., Any] = static()

    def __call__(self, params: Any, images: Array, key: Array) -> Array:
        # One after the other: all draws at once may not fit the memory.
        draws = lax.map(lambda k: self.apply(params, images, k), jax.random.split(key, 10))
        return draws.mean(0)


def ensemble(models: Sequence[Model], weights: Any = None, of: str = "logits") -> Model:
    """One model of several: the weighted mean of what they answer, as surrogates of another.

    After Dong et al. (2017, arXiv 1710.06081). models: of one image shape, bounds and number of
    classes, none of them random; weights: numbers [M], scaled to sum 1 (None: equal); of: the mean
    of their "logits", of their "probabilities" (the answer is its logarithm), or of their
    "log-probabilities": with `loss="logit"` an attack then follows the mean of their losses. (With
    "cross_entropy" it follows that of the mean logits: the two differ by what each label gets.)
    One answer costs as many forward passes as there are models, and is counted so. Raises
    ValueError for arguments that are not of this form.

    >>> import jax.numpy as jnp, jaxadv as ja
    >>> one = ja.Model(lambda w, x: x.reshape(len(x), -1) @ w, jnp.eye(4))
    >>> two = ja.Model(one.apply, 2 * jnp.eye(4))
    >>> ja.ensemble([one, two])(jnp.ones((1, 2, 2, 1)))
    Array([[1.5, 1.5, 1.5, 1.5]], dtype=float32)
    """
    models = tuple(models)
    if not models:
        raise ValueError("models is empty: pass one model or more")
    if of not in MEANS:
        raise ValueError(f"of={of!r}: pass one of {MEANS}")
    if any(model.random for model in models):
        raise ValueError("models has one that draws at random: its mean over draws is `ja.EOT`")
    bounds = sorted({model.bounds for model in models})
    if len(bounds) > 1:
        raise ValueError(f"models have different bounds {bounds}: pass equal ones")
    shares = np.ones(len(models)) if weights is None else np.asarray(weights, np.float64)
    if shares.shape != (len(models),) or not (shares >= 0).all() or not 0 < shares.sum() < np.inf:
        raise ValueError(f"weights={weights}: pass {len(models)} numbers of 0 or more")
    shares = np.asarray(shares / shares.sum(), np.float32)
    samples = sum(model.samples for model in models)
    return Model(_Ensemble(of), (models, shares), models[0].bounds, samples=samples)


@pytree
class _Ensemble:
    of: str = static()

    def __call__(self, params: Any, images: Array) -> Array:
        models, shares = params
        several = [model(images) for model in models]
        if len({answer.shape for answer in several}) > 1:
            classes = [answer.shape[-1] for answer in several]
            raise ValueError(f"models have {classes} classes: pass models of the same classes")
        answers = jnp.stack(several)
        if self.of == "logits":
            return jnp.einsum("m,mnk->nk", shares, answers, precision=lax.Precision.HIGHEST)
        logs = jax.nn.log_softmax(answers)
        if self.of == "probabilities":
            return jax.nn.logsumexp(logs, 0, b=shares[:, None, None])
        return jnp.einsum("m,mnk->nk", shares, logs, precision=lax.Precision.HIGHEST)


def from_features(
    features: Callable[..., Any],
    head: Callable[..., Any],
    params: Any,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Model:
    """A model that also shows the features of a hidden layer, for attacks on them (`ja.ILA`).

    features(params, images [N, H, W, C]) -> an array [N, ...]; head(params, features) -> logits
    [N, K]. The model answers [N, K + 1 + F]: the logits, then 0 and the F features, all moved down
    below the least logit. So they never win, and every margin, label and success is that of the
    logits; the features are what comes after column K, less column K. Attacks on the cross-entropy
    should be run on the plain model: here the features are in its sum over classes.

    >>> import jax, jax.numpy as jnp, jaxadv as ja
    >>> model = ja.from_features(lambda w, x: jax.nn.relu(x.reshape(len(x), -1) - 0.5),
    ...                          lambda w, f: f @ w, jnp.eye(4)[:, :2])
    >>> answer = model(jnp.ones((1, 2, 2, 1)))
    >>> answer[0, :2], answer[0, 3:] - answer[0, 2]
    (Array([0.5, 0.5], dtype=float32), Array([0.5, 0.5, 0.5, 0.5], dtype=float32))
    """
    return Model(_Shown(features, head), params, bounds)


@pytree
class _Shown:
    features: Callable[..., Any] = static()
    head: Callable[..., Any] = static()

    def __call__(self, params: Any, images: Array) -> Array:
        features = self.features(params, images)
        logits = self.head(params, features)
        shown = jnp.pad(features.reshape(len(images), -1), ((0, 0), (1, 0)))
        below = logits.min(1, keepdims=True) - shown.max(1, keepdims=True) - 1
        return jnp.concatenate([logits, shown + lax.stop_gradient(below)], 1)


def with_detector(model: Model, detector: Model, threshold: float = 0.0) -> Model:
    """A classifier and a detector as one model: a class more means that the image is refused.

    model: answers [N, K]; detector: answers [N, 2], natural and tampered with. The joint model's
    answer is [N, K + 1]: the logits, then their largest plus the detector's log-odds that the image
    was tampered with, less `threshold` (0: refused where that is likelier than not). So class K
    wins exactly where the detector refuses, and `ja.Evading(labels, rejected=K)` is the goal of an
    attack that must get past both. One answer costs a forward pass of each, and is counted as two.

    After Carlini and Wagner (2017, arXiv 1705.07263, section 2.4), whose last logit is the product
    (D(x) + 1) * max F(x): it means the contrary where all logits are negative, the sum here does
    not. Raises ValueError for random models, and for bounds that differ.

    >>> import jax.numpy as jnp, jaxadv as ja
    >>> model = ja.Model(lambda w, x: x.reshape(len(x), -1) @ w, jnp.eye(4)[:, :2])
    >>> detector = ja.Model(lambda w, x: x.reshape(len(x), -1) @ w, jnp.eye(4)[:, 2:])
    >>> images = jnp.array([[3.0, 1, 2, 0], [3, 1, 0, 2]]).reshape(2, 2, 2, 1)
    >>> ja.with_detector(model, detector)(images)
    Array([[3., 1., 1.],
           [3., 1., 5.]], dtype=float32)
    """
    if model.random or detector.random:
        raise ValueError("model or detector draws at random: pass those that do not")
    if model.bounds != detector.bounds:
        raise ValueError(f"detector has bounds {detector.bounds}, but the model {model.bounds}")
    params = (model, detector, np.float32(threshold))
    return Model(_Guarded(), params, model.bounds, samples=model.samples + detector.samples)


@pytree
class _Guarded:
    def __call__(self, params: Any, images: Array) -> Array:
        model, detector, threshold = params
        logits, odds = model(images), detector(images)
        if odds.shape[-1] != 2:
            raise ValueError(
                f"detector has {odds.shape[-1]} classes: pass two, the second tampered"
            )
        refusal = logits.max(1) + odds[:, 1] - odds[:, 0] - threshold
        return jnp.concatenate([logits, refusal[:, None]], 1)


def _own_key(seed: Any, image: Array) -> Array:
    """A key that depends on the seed and on every bit of the image."""
    bits = lax.bitcast_convert_type(image.astype(jnp.float32), jnp.uint32).ravel()
    odd = (2 * jnp.arange(bits.size, dtype=jnp.uint32) + 1) * np.uint32(2654435761)
    mixed = bits ^ (bits >> 15)
    return jax.random.fold_in(jax.random.key(seed), (mixed * odd).sum(dtype=jnp.uint32))


def from_function(
    function: Callable[..., Any],
    bounds: tuple[float, float] = (0.0, 1.0),
    *,
    differentiable: bool = True,
    classes: int | None = None,
) -> Model:
    """A model of a function `images[N, H, W, C] -> logits[N, K]`; what it closes over is constant.

    Weights inside the function become constants of the compiled program: to change them without
    recompiling, use `Model(apply, params)`.

    differentiable: False for a function that is no JAX: it is called on the host with a numpy
    float32 array of its own, and returns scores [N, K] (the largest wins: logits, probabilities,
    votes) or, if `classes` says how many there are, labels [N], integers from 0 to classes - 1. It
    must answer equal images equally whatever their company, and bear to be called by several
    threads, one for each device of a run. Attacks that ask for gradients refuse such a model.

    Raises ValueError for `classes` that cannot be meant; when the model is asked, for labels
    without `classes` or outside them, for scores of another shape or that are not finite, and for
    whatever the function raises itself.

    >>> import numpy as np, jaxadv as ja
    >>> model = ja.from_function(lambda x: x.reshape(len(x), -1)[:, :10])
    >>> def bright(images):
    ...     return (images.mean((1, 2, 3)) > 0.5).astype(int)
    >>> asked = ja.from_function(bright, differentiable=False, classes=2)
    >>> asked(np.ones((1, 4, 4, 1), np.float32))
    Array([[0., 1.]], dtype=float32)
    """
    if not callable(function):
        raise ValueError(f"function is {type(function).__name__}: pass one that can be called")
    function = function if _has_hash(function) else function.__call__  # compared by identity
    if differentiable:
        if classes is not None:
            raise ValueError(
                f"classes={classes} is for functions that return labels, which have no gradient: "
                "pass differentiable=False too"
            )
        return Model(apply=_Closed(function), params=(), bounds=bounds)
    if classes is not None and (not isinstance(classes, int | np.integer) or classes < 2):
        raise ValueError(f"classes={classes!r}: pass the number of classes, 2 or more")
    return Model(HostFunction(function, classes), params=(), bounds=bounds)


def _has_hash(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


@pytree
class _Closed:
    function: Callable[..., Any] = static()

    def __call__(self, params: Any, images: Array) -> Array:
        return self.function(as_floats(images))
