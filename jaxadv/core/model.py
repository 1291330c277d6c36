"""Models as the engine sees them: a pure function and its parameters."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, PyTree

from jaxadv.core.bounds import Bounds, as_bounds, bounds_text
from jaxadv.core.host import HostFunction
from jaxadv.core.images import as_floats
from jaxadv.core.pytree import pytree, static
from jaxadv.core.random import IMPLEMENTATION
from jaxadv.core.typing import ArrayLike, Numbers, Params

MEANS = ("logits", "probabilities", "log-probabilities")
SWITCHED_OFF = 100.0  # this far below the least finite logit, a probability is 0 in float32


@pytree
class Model:
    """A classifier: `apply(params, images [N, H, W, C]) -> logits [N, K]`.

    A binary classifier may return one logit z, [N] or [N, 1]: its logits are 0 and z, so that class
    1 is predicted where z > 0 (for a probability p return log(p / (1 - p))). Preprocessing such as
    normalisation belongs into `apply`.

    With `random=True` the signature is `apply(params, images, key)`, with one key for all images of
    the call. The model then evaluates each image alone, with a key made of `seed` and of the
    image's own pixels: an image always gets the same output, regardless of the batch, and another
    image gets another draw. Claimed successes are verified on draws that the attack has not seen
    (`fresh`).

    Attributes:
        apply: A pure function, part of the compiled program (compared by value).
        params: A pytree, passed as an argument, so that new weights do not recompile.
        bounds: The smallest and largest value that an image may take, in the scale in which epsilon
            is stated: two numbers, or arrays that broadcast to one input where features have ranges
            of their own ([D], [T, C], [H, W, C]; kept as float32).
        random: Whether the model draws at random.
        seed: The integer seed of the draws (random models only; default 0).
        samples: The number of forward passes that one output takes, as they are counted (see
            `EOT`).

    >>> import jax.numpy as jnp, jaxadv as ja
    >>> model = ja.Model(lambda w, x: x.reshape(len(x), -1) @ w, jnp.eye(4))
    >>> model(jnp.ones((2, 2, 2, 1))).shape
    (2, 4)
    """

    apply: Callable[..., Any] = static()
    params: Params
    bounds: Bounds = static(default=(0.0, 1.0))
    random: bool = static(default=False)
    seed: int | np.integer | ArrayLike | None = None
    samples: int = static(default=1)

    def __post_init__(self) -> None:
        object.__setattr__(self, "bounds", as_bounds(self.bounds))
        if self.random and (self.seed is None or isinstance(self.seed, np.floating)):
            object.__setattr__(self, "seed", np.int32(self.seed or 0))

    def __call__(self, images: Float[Array, "N ..."]) -> Float[Array, "N K"]:
        return as_logits(self.raw(images))

    def raw(self, images: Float[Array, "N ..."]) -> Any:
        """Return the output of `apply` for images [N, H, W, C]; for one logit z, 0 and z."""
        if not self.random or self.seed is None:
            return both_logits(self.apply(self.params, images), len(images))
        seed = self.seed

        def one(image: Array) -> Array:
            return self.apply(self.params, image[None], _own_key(seed, image))[0]

        return both_logits(jax.vmap(one)(images), len(images))

    def fresh(self) -> "Model":
        """Return the model with other draws, or itself if it draws nothing at random.

        A mean of draws (see `EOT`) takes ten times as many.
        """
        if not self.random or self.seed is None:
            return self
        apply = _Tenfold(self.apply) if isinstance(self.apply, _Mean) else self.apply
        return dataclasses.replace(self, seed=self.seed + 1, apply=apply)


def both_logits(output: PyTree, count: int) -> PyTree:
    """Return the logits [N, 2], 0 and z, of a binary classifier that returns z alone.

    Args:
        output: The output of a model for `count` images.
        count: The number N of images.

    Returns:
        The two logits where `output` is floats [N] or [N, 1]; else `output` itself.
    """
    single = getattr(output, "shape", None) in ((count,), (count, 1))
    if not single or not jnp.issubdtype(output.dtype, jnp.floating):
        return output
    logit = jnp.reshape(output, (count, 1))
    return jnp.concatenate([jnp.zeros_like(logit), logit], 1)


def as_logits(output: PyTree) -> PyTree:
    """Return logits [N, K] in floats of 32 bits or more, with logits of minus infinity made finite.

    A class with a logit of minus infinity never wins, but it would make gradients and scales NaN:
    its logit is set to `SWITCHED_OFF` below the smallest finite logit of its image. A row with NaN,
    with plus infinity, or without a finite logit is left unchanged.

    Args:
        output: The output of a model.

    Returns:
        The logits; `output` itself if it is not an array.
    """
    if not hasattr(output, "dtype") or output.ndim == 0:
        return output
    wide = jnp.issubdtype(output.dtype, jnp.floating) and output.dtype.itemsize >= 4
    logits = jnp.asarray(output) if wide else jnp.asarray(output, jnp.float32)
    off = jnp.isneginf(logits)
    least = lax.stop_gradient(jnp.where(off, jnp.inf, logits).min(-1, keepdims=True))
    return jnp.where(off & jnp.isfinite(least), least - SWITCHED_OFF, logits)


def EOT(model: Model, samples: int = 20) -> Model:
    """Return the mean logits of a random model over several draws (EOT).

    Expectation over transformations, Athalye et al. (2017, arXiv 1707.07397). Attacks follow the
    gradient of the mean, and success is verified on the mean of ten times as many fresh draws. One
    query costs `samples` forward passes, and one gradient as many backward passes; they are counted
    as such.

    Args:
        model: A random model.
        samples: The number of draws in one output.

    Returns:
        The model of mean logits.

    Raises:
        ValueError: If the model is not random, or `samples` is below 1.

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
    """Raise ValueError for a model made by `EOT`, which must be the outermost wrapper."""
    if isinstance(model.apply, _Mean):
        raise ValueError("model is a mean of draws: pass the model inside, and put EOT around it")


@pytree
class _Mean:
    apply: Callable[..., Any] = static()
    samples: int = static()

    def __call__(self, params: Params, images: ArrayLike, key: Array) -> Array:
        draws = jax.vmap(lambda k: self.apply(params, images, k))
        return draws(jax.random.split(key, self.samples)).mean(0)


@pytree
class _Tenfold:
    apply: Callable[..., Any] = static()

    def __call__(self, params: Params, images: ArrayLike, key: Array) -> Array:
        # One after the other, because all draws at once may not fit into memory.
        draws = lax.map(lambda k: self.apply(params, images, k), jax.random.split(key, 10))
        return draws.mean(0)


def ensemble(models: Sequence[Model], weights: Numbers | None = None, of: str = "logits") -> Model:
    """Return the weighted mean of several models, to serve as a surrogate in transfer attacks.

    After Dong et al. (2017, arXiv 1710.06081). With `of="log-probabilities"` and `loss="logit"` an
    attack follows the mean of the members' cross-entropies. (With `loss="cross_entropy"` it follows
    the cross-entropy of the mean logits, which differs by the normalising term of the mean
    log-probabilities.) One query costs as many forward passes as there are models, and is counted
    as such.

    Args:
        models: Models of one image shape, one number of classes and equal bounds, none of them
            random.
        weights: Weights [M] of 0 or more, normalised to sum 1; None for equal weights.
        of: What is averaged: "logits", "probabilities" (the output is the logarithm of their mean)
            or "log-probabilities".

    Returns:
        The joint model.

    Raises:
        ValueError: If `models` is empty, has a random model or models of different bounds, if
            `weights` are not M numbers of 0 or more, or if `of` is unknown; at the first call, if
            the models have different numbers of classes.

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
    bounds = sorted({bounds_text(model.bounds) for model in models})
    if len({model.bounds for model in models}) > 1:
        raise ValueError(f"models have different bounds {', '.join(bounds)}: pass equal ones")
    weighting = np.ones(len(models)) if weights is None else np.asarray(weights, np.float64)
    if (
        weighting.shape != (len(models),)
        or not (weighting >= 0).all()
        or not 0 < weighting.sum() < np.inf
    ):
        raise ValueError(f"weights={weights}: pass {len(models)} numbers of 0 or more")
    weighting = np.asarray(weighting / weighting.sum(), np.float32)
    samples = sum(model.samples for model in models)
    return Model(_Ensemble(of), (models, weighting), models[0].bounds, samples=samples)


@pytree
class _Ensemble:
    of: str = static()

    def __call__(self, params: Params, images: ArrayLike) -> Array:
        models, weighting = params
        outputs = [model(images) for model in models]
        if len({output.shape for output in outputs}) > 1:
            classes = [output.shape[-1] for output in outputs]
            raise ValueError(f"models have {classes} classes: pass models of the same classes")
        logits = jnp.stack(outputs)
        if self.of == "logits":
            return jnp.einsum("m,mnk->nk", weighting, logits, precision=lax.Precision.HIGHEST)
        logs = jax.nn.log_softmax(logits)
        if self.of == "probabilities":
            return jax.nn.logsumexp(logs, 0, b=weighting[:, None, None])
        return jnp.einsum("m,mnk->nk", weighting, logs, precision=lax.Precision.HIGHEST)


def from_features(
    features: Callable[..., Any],
    head: Callable[..., Any],
    params: Params,
    bounds: Bounds = (0.0, 1.0),
) -> Model:
    """Return a model that also outputs the features of a hidden layer, for attacks on them.

    `ja.ILA` is such an attack. The output is [N, K + 1 + F]: the logits, then 0 and the F features,
    all shifted below the smallest logit. They therefore never win, and every margin, label and
    success is that of the logits; the features are the columns after column K, minus column K.
    Attacks on the cross-entropy should be run on the plain model, because here the features enter
    its sum over classes.

    Args:
        features: A function (params, images [N, H, W, C]) -> array [N, ...].
        head: A function (params, features) -> logits [N, K].
        params: The parameters of both, a pytree.
        bounds: The smallest and largest value that an image may take, numbers, or arrays that
            broadcast to one input.

    Returns:
        The model of logits and features.

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

    def __call__(self, params: Params, images: ArrayLike) -> Array:
        features = self.features(params, images)
        logits = self.head(params, features)
        shown = jnp.pad(features.reshape(len(images), -1), ((0, 0), (1, 0)))
        below = logits.min(1, keepdims=True) - shown.max(1, keepdims=True) - 1
        return jnp.concatenate([logits, shown + lax.stop_gradient(below)], 1)


def with_detector(model: Model, detector: Model, threshold: float = 0.0) -> Model:
    """Join a classifier and a detector into one model with an additional class for rejected images.

    The output is [N, K + 1]: the logits, then the largest logit plus the detector's log-odds that
    the image was tampered with, minus `threshold`. Class K wins exactly where the detector rejects
    the image, and `ja.Evading(labels, rejected=K)` is the goal of an attack that must evade both.
    One query costs a forward pass of each, and is counted as two.

    After Carlini and Wagner (2017, arXiv 1705.07263, section 2.4), whose last logit is the product
    (D(x) + 1) * max F(x). The product has the opposite meaning where all logits are negative; the
    sum used here does not.

    Args:
        model: The classifier, with outputs [N, K].
        detector: A model with outputs [N, 2]: natural, and tampered with.
        threshold: The log-odds above which an image is rejected; 0 rejects what is more likely
            tampered with than not.

    Returns:
        The joint model.

    Raises:
        ValueError: If one of the models is random or their bounds differ; at the first call, if the
            detector does not have two classes.

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
        texts = bounds_text(detector.bounds), bounds_text(model.bounds)
        raise ValueError(
            f"detector has bounds {texts[0]}, but the model {texts[1]}: pass equal ones"
        )
    params = (model, detector, np.float32(threshold))
    return Model(_Guarded(), params, model.bounds, samples=model.samples + detector.samples)


@pytree
class _Guarded:
    def __call__(self, params: Params, images: ArrayLike) -> Array:
        model, detector, threshold = params
        logits, odds = model(images), detector(images)
        if odds.shape[-1] != 2:
            raise ValueError(
                f"detector has {odds.shape[-1]} classes: pass two, the second tampered"
            )
        refusal = logits.max(1) + odds[:, 1] - odds[:, 0] - threshold
        return jnp.concatenate([logits, refusal[:, None]], 1)


def _own_key(seed: int | np.integer | ArrayLike, image: Array) -> Array:
    """Return a key that depends on the seed and on every bit of the image."""
    bits = lax.bitcast_convert_type(image.astype(jnp.float32), jnp.uint32).ravel()
    odd = (2 * jnp.arange(bits.size, dtype=jnp.uint32) + 1) * np.uint32(2654435761)
    mixed = bits ^ (bits >> 15)
    key = jax.random.key(seed, impl=IMPLEMENTATION)
    return jax.random.fold_in(key, (mixed * odd).sum(dtype=jnp.uint32))


def from_function(
    function: Callable[..., Any],
    bounds: Bounds = (0.0, 1.0),
    *,
    differentiable: bool = True,
    classes: int | None = None,
) -> Model:
    """Return a model of a function `images [N, H, W, C] -> logits [N, K]`.

    Weights inside a JAX function become constants of the compiled program; use `Model(apply,
    params)` to change them without recompiling.

    With `differentiable=False` the function need not be JAX: it is called on the host with a new
    float32 numpy array. It returns scores [N, K], of which the largest wins (logits, probabilities,
    votes) or, if `classes` is given, integer labels [N] from 0 to classes - 1. Its output for an
    image must not depend on the rest of the batch, and it must be safe to call from several
    threads, one for each device of a run. Attacks that need gradients refuse such a model. At a
    call, the model raises ValueError for labels without `classes` or out of range, for scores that
    have another shape or are not finite, and for any exception of the function itself.

    Args:
        function: The function; its closure is constant.
        bounds: The smallest and largest value that an image may take, numbers, or arrays that
            broadcast to one input.
        differentiable: Whether the function is traceable and differentiable by JAX.
        classes: The number of classes of a host function that returns labels; 2 or more.

    Returns:
        The model.

    Raises:
        ValueError: If `function` is not callable, if `classes` is not an integer of 2 or more, or
            if it is given for a differentiable function.

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


def _has_hash(value: object) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


@pytree
class _Closed:
    function: Callable[..., Any] = static()

    def __call__(self, params: Params, images: ArrayLike) -> Array:
        return self.function(as_floats(images))
