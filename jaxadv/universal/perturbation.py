"""`universal_perturbation`: computes one perturbation that fools a model on most images."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from jaxadv.attacks import PGD
from jaxadv.core.attack import safe_epsilon
from jaxadv.core.bounds import two_numbers
from jaxadv.core.goals import Targeted, Untargeted
from jaxadv.core.model import Model
from jaxadv.core.norms import distance64
from jaxadv.core.typing import ArrayLike, ChosenDevices, Devices, Numbers
from jaxadv.engine import checks
from jaxadv.engine.devices import choose_devices
from jaxadv.engine.verify import mesh_of, predict
from jaxadv.universal.aggregation import UniversalAggregation
from jaxadv.universal.ascent import UniversalAscent
from jaxadv.universal.fooling import Fooling, judge
from jaxadv.universal.method import (
    NORMS,
    Aim,
    Method,
    MethodState,
    Rows,
    Task,
    epoch_program,
    lanes_for,
)

METHODS: dict[str, Callable[[], Method]] = {
    "ascent": UniversalAscent,
    "aggregation": UniversalAggregation,
}


class Universal(NamedTuple):
    """A universal perturbation and its fooling rates.

    Attributes:
        perturbation: float32 [H, W, C].
        norm: "linf" or "l2".
        epsilon: Radius that was stated.
        distance: Length of the perturbation, in float64.
        given: `Fooling` of the images that the perturbation was made from.
        held_out: `Fooling` of the held-out images (None: no others).
        history: Fooling rate after each epoch with a `delta`, else the running rate of each epoch.
        forward: Forward passes, verification left out.
        backward: Backward passes.
        seconds: Wall time, compilation included.
    """

    perturbation: np.ndarray
    norm: str
    epsilon: float
    distance: float
    given: Fooling
    held_out: Fooling | None
    history: np.ndarray
    forward: int
    backward: int
    seconds: float

    @property
    def fooling_rate(self) -> float:
        """Fooling rate on the held-out images if there are any, else on those given."""
        return (self.given if self.held_out is None else self.held_out).rate


def universal_perturbation(
    model: Model,
    images: ArrayLike,
    epsilon: float,
    norm: str = "linf",
    method: str | Method = "ascent",
    *,
    key: Array,
    target: int | None = None,
    classes: Sequence[int] | None = None,
    held_out: ArrayLike | None = None,
    start: Numbers | None = None,
    devices: Devices = None,
    lanes: int | None = None,
    progress: Callable[[int, int, float], None] | None = None,
) -> Universal:
    """Compute one perturbation v within epsilon that changes the model's prediction of most images.

    No labels are used: an image is fooled if the prediction for clip(x + v) differs from that for x
    (Moosavi-Dezfooli et al. 2016, arXiv 1610.08401).

    Args:
        model: The model, which must be differentiable.
        images: Images [N, H, W, C], floats within `model.bounds`.
        epsilon: Radius in the norm and in the scale of the images.
        norm: "linf" or "l2".
        method: "ascent" (SGD-UAP, Shafahi et al. 2018, arXiv 1811.11304), "aggregation" (the
            algorithm of Moosavi-Dezfooli et al.), or a `UniversalAscent` or `UniversalAggregation`
            with other settings.
        key: JAX random key.
        target: Class that all images are to move to (None: any other than the clean prediction).
        classes: Fool only images of these classes and let all others keep theirs
            (class-discriminative; "ascent" only).
        held_out: Other images, on which the perturbation is evaluated too.
        start: Perturbation [H, W, C] to begin from.
        devices: JAX devices (None: all local ones).
        lanes: Images in one call of the model. With equal lanes any number of devices gives equal
            bits (CPU).
        progress: Called after each epoch with (epochs done, epochs, running fooling rate).

    Returns:
        The perturbation with its fooling rates, passes and wall time.

    Raises:
        ValueError: `method` or `norm` is unknown, `epsilon` is not one positive number, `target` or
            `classes` are not classes of the model, `classes` is used with "aggregation", `lanes` is
            below 1, the model cannot be differentiated, or the images are outside the bounds or of
            another shape than `held_out`.

    >>> import jax, jax.numpy as jnp, jaxadv as ja
    >>> model = ja.Model(lambda w, x: (x.reshape(len(x), -1) - 0.5) @ w, jnp.eye(4)[:, :2])
    >>> images = 0.5 + 0.1 * jax.random.uniform(jax.random.key(1), (32, 2, 2, 1))
    >>> found = ja.universal_perturbation(model, images, 0.2, key=jax.random.key(0), target=1)
    >>> found.given.rate_to(1), bool(found.distance <= 0.2), found.perturbation[0].ravel().round(2)
    (1.0, True, array([-0.2,  0.2], dtype=float32))
    """
    began = time.perf_counter()
    if isinstance(method, str):
        if method not in METHODS:
            raise ValueError(f"method={method!r} is not known: pass one of {sorted(METHODS)}")
        method = METHODS[method]()
    images, others = check_given(model, images, held_out, target, classes)
    shape = images.shape[1:]
    check_ball(norm, epsilon, shape, two_numbers(model.bounds, "ja.universal_perturbation"))
    if classes is not None and isinstance(method, UniversalAggregation):
        raise ValueError("classes: only method='ascent' can keep the other classes as they are")

    chosen = choose_devices(devices)
    aim = aim_of(model, images, chosen, target, classes)._replace(start=start)
    task = Task(model, safe_epsilon(norm, epsilon), norm, tuple(shape))

    def rate(variable: Array) -> float:
        fooling = judge(model, images, variable, norm, epsilon, devices=chosen)
        return fooling.rate if target is None else fooling.rate_to(target)

    fit = fit_variable(
        method, task, aim, key=key, devices=chosen, lanes=lanes, progress=progress, rate=rate
    )
    perturbation = np.asarray(fit.variable)
    judged = [
        None if some is None else judge(model, some, perturbation, norm, epsilon, devices=chosen)
        for some in (images, others)
    ]
    assert judged[0] is not None
    return Universal(
        perturbation,
        norm,
        float(epsilon),
        length(norm, perturbation),
        judged[0],
        judged[1],
        fit.history,
        fit.forward + len(images),
        fit.backward,
        time.perf_counter() - began,
    )


class Fit(NamedTuple):
    """The result of `fit_variable`.

    Attributes:
        variable: The perturbation or patch after the last epoch, or the best one with a `delta`.
        history: Fooling rate of each epoch.
        forward: Forward passes.
        backward: Backward passes.
    """

    variable: Float[Array, "..."]
    history: np.ndarray
    forward: int
    backward: int


def fit_variable(
    method: Method,
    task: Task,
    aim: Aim,
    *,
    key: Array,
    devices: ChosenDevices,
    lanes: int | None = None,
    progress: Callable[[int, int, float], None] | None = None,
    rate: Callable[[Array], float] | None = None,
) -> Fit:
    """Run a method on the images for its epochs, each one compiled scan on all devices.

    With a `delta`, `rate` (variable -> fraction of all images that is fooled, a forward pass each)
    decides after each epoch whether to stop, and the variable of the highest rate is returned.
    """
    images, goal, weights, start = aim
    batch = min(method.batch_size, len(images))
    width = lanes_for(batch, devices) if lanes is None else min(lanes, batch)
    if width < 1:
        raise ValueError(f"lanes={lanes}: pass 1 or more")
    devices = devices[: -(-batch // width)]  # one image at a time keeps one device busy
    program = epoch_program(batch, width, devices)
    one = dataclasses.replace(method, epochs=1, delta=None)  # more rounds do not recompile
    variable, memory = jax.jit(lambda method, task: method.init(task))(method, task)
    if start is not None:
        variable = method.project(task, jnp.asarray(start, jnp.float32).reshape(variable.shape))
    steps = method.epochs * -(-len(images) // batch)
    now = MethodState(variable, memory, jnp.int32(0), jnp.float32(steps))
    key = checks.check_key(key)
    names = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(len(images)))
    everywhere = NamedSharding(mesh_of(devices), PartitionSpec())
    rows = Rows(*jax.device_put((images, goal, weights, names), everywhere))
    history, passes, best = [], np.zeros(2), (-1.0, variable)
    for number in range(method.epochs):
        now, tallies = program(one, task, now, rows, jax.random.fold_in(key, number))
        tallies = np.asarray(tallies, np.float64)
        history.append(tallies[0] / max((weights > 0).sum(), 1))
        passes += tallies[2:]
        if method.delta is not None and rate is not None:
            history[-1] = rate(now.variable)
            passes[0] += len(images)
            best = max(best, (history[-1], now.variable), key=lambda pair: pair[0])
        if progress is not None:
            progress(number + 1, method.epochs, history[-1])
        if method.delta is not None and history[-1] >= 1 - method.delta:
            break
    last = now.variable if best[0] < 0 else best[1]
    return Fit(last, np.array(history), int(passes[0]), int(passes[1]))


def length(norm: str, perturbation: np.ndarray) -> float:
    """Return the norm of a perturbation [H, W, C] in float64."""
    return float(distance64(norm, perturbation[None], np.zeros_like(perturbation)[None])[0])


def aim_of(
    model: Model,
    images: np.ndarray,
    devices: ChosenDevices,
    target: int | None = None,
    classes: Sequence[int] | None = None,
) -> Aim:
    """Return the goal (untargeted, or the target) and the weight of each image.

    The weight is 0 where the image is of the target class already, -1 where it is of none of the
    `classes` and is to keep its class, else 1. Costs one forward pass an image.
    """
    before = predict(model, images, devices).argmax(1).astype(np.int32)
    weights = np.ones(len(images), np.float32)
    if classes is not None:
        weights[~np.isin(before, classes)] = -1
    if target is None:
        return Aim(images, Untargeted(before), weights)
    weights[before == target] = 0
    return Aim(images, Targeted(before, np.full_like(before, target)), weights)


def check_given(
    model: Model,
    images: ArrayLike,
    held_out: ArrayLike | None,
    target: int | None,
    classes: Sequence[int] | None = None,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the images and the held-out images as float32, after checking them.

    Raises ValueError where the images are outside the bounds, where the shapes differ, where the
    model does not have the classes, and where it cannot be differentiated.
    """
    checks.check_model(model)
    images = checks.check_images(images, model.bounds)
    shape = images.shape[1:]
    count = checks.count_classes(model, shape)
    if checks.missing_derivative(model, shape):
        raise ValueError("model cannot be differentiated: pass a differentiable surrogate of it")
    for name, given in (
        ("target", () if target is None else (target,)),
        ("classes", classes or ()),
    ):
        if wrong := [one for one in given if not 0 <= one < count]:
            raise ValueError(f"{name}: {wrong} is none of the model's classes 0 to {count - 1}")
    others = None if held_out is None else checks.check_images(held_out, model.bounds, "held_out")
    if others is not None and others.shape[1:] != shape:
        raise ValueError(f"held_out has images {others.shape[1:]}, images has {shape}")
    return images, others


def check_norm(norm: str) -> None:
    """Raise ValueError unless the norm is "linf" or "l2"."""
    if norm not in NORMS:
        raise ValueError(f"norm={norm!r}: universal perturbations know {', '.join(NORMS)}")


def check_ball(
    norm: str, epsilon: float, shape: Sequence[int], bounds: tuple[float, float]
) -> None:
    """Raise ValueError unless the norm is "linf" or "l2" and epsilon is one positive number."""
    check_norm(norm)
    if np.ndim(epsilon) or not checks.check_epsilon(PGD(norm=norm), epsilon, 1, shape, bounds) > 0:
        raise ValueError(f"epsilon={epsilon}: pass one radius above 0")
