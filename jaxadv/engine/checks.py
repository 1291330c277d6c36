"""The first checks: one clear message that names the argument, what was given and what to do."""

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxadv.core.attack import KEEPS, Attack
from jaxadv.core.goals import Goal, Targeted, Untargeted
from jaxadv.core.losses import get_loss
from jaxadv.core.model import Model
from jaxadv.core.norms import diameter
from jaxadv.core.pytree import take
from jaxadv.engine.cure import cured
from jaxadv.engine.devices import APPLY

TRAINING_ERRORS = {  # Flax's, by name: it must not be imported for other models
    "ModifyScopeVariableError": "update batch statistics",
    "InvalidRngError": "draw a dropout mask",
}
TOLERANCE = 1e-6  # rounding error at the bounds, clipped and not complained about


class CheckWarning(UserWarning):
    """The run goes on, but its numbers may mean less than they seem to."""


def some(indices: Any) -> str:
    """The first few of a list of indices."""
    indices = list(map(int, indices))
    return ", ".join(map(str, indices[:5])) + (", ..." if len(indices) > 5 else "")


def check_images(images: Any, bounds: tuple[float, float], name: str = "images") -> np.ndarray:
    """Float32 images [N, H, W, C] within the bounds; ValueError says what is wrong with them."""
    images = np.asarray(images)
    if images.ndim < 2 or len(images) == 0:
        raise ValueError(
            f"{name} has shape {images.shape}: pass at least one image [N, height, width, channels]"
        )
    if not np.issubdtype(images.dtype, np.floating) and images.dtype != jnp.bfloat16:
        raise ValueError(
            f"{name} has dtype {images.dtype}: pass floats from {bounds[0]:g} to {bounds[1]:g}, "
            f"for 8-bit images {name}.astype('float32') / 255"
        )
    images = images.astype(np.float32)
    flat = images.reshape(len(images), -1)
    broken = np.flatnonzero(~np.isfinite(flat).all(1))
    if len(broken):
        raise ValueError(
            f"{name} has NaN or infinite values in {len(broken)} of {len(images)} images "
            f"({some(broken)}): remove or repair them"
        )
    lower, upper = bounds
    least, greatest, tolerance = flat.min(), flat.max(), TOLERANCE * (upper - lower)
    if least < lower - tolerance or greatest > upper + tolerance:
        if greatest > 2 * upper and least >= 0:
            remedy = "divide 8-bit images by 255"
        elif least < lower:
            remedy = (
                "they look normalised: pass images before normalisation and put it into the model, "
                "so that epsilon is in the scale of the image"
            )
        else:
            remedy = "rescale them"
        raise ValueError(
            f"{name} reach from {least:g} to {greatest:g}, outside the model's bounds "
            f"({lower:g}, {upper:g}): {remedy}, or give the model other bounds"
        )
    return np.clip(images, np.float32(lower), np.float32(upper))


def check_epsilon(attack: Attack, epsilon: Any, rows: int, shape: Any, bounds: Any) -> np.ndarray:
    """Epsilon [rows] in float64, in the norm's unit and the scale of the bounds."""
    if epsilon is None:
        if attack.needs_epsilon:
            raise ValueError(
                f"epsilon=None: {attack.name} needs one; pass the radius of the {attack.norm} "
                f"ball, in the scale of images in {bounds}, or wrap it: "
                f"MinimalEpsilon({attack.name}(...))"
            )
        return np.full(rows, np.inf)
    given = np.asarray(epsilon, np.float64)
    if given.shape not in ((), (rows,)):
        raise ValueError(
            f"epsilon has shape {given.shape}: pass one number, or one for each of {rows} images"
        )
    if not (given >= 0).all():
        raise ValueError(f"epsilon={epsilon!r}: pass a number that is not negative")
    span = bounds[1] - bounds[0]
    largest = diameter(attack.norm, int(np.prod(shape)), span)
    if given.max() > largest and np.isfinite(given).all():
        hint = f": did you mean {given.max():g}/255?" if attack.norm == "linf" and span == 1 else ""
        raise ValueError(
            f"epsilon={given.max():g} in {attack.norm} exceeds {largest:g}, the largest distance "
            f"between two images in {bounds}{hint or ': pass it in the scale of the images'}"
        )
    return np.broadcast_to(given, (rows,)).copy()


def check_goal(goal: Goal, count: int, classes: int) -> Goal:
    """The goal with int32 numpy leaves [N], its labels and targets within the classes."""
    if not isinstance(goal, Untargeted | Targeted):
        raise ValueError(
            f"goal is {type(goal).__name__}: pass ja.Untargeted(labels) or "
            "ja.Targeted(labels, targets)"
        )
    leaves = {}
    for name in ("labels", "targets") if isinstance(goal, Targeted) else ("labels",):
        values = np.asarray(getattr(goal, name))
        if values.shape != (count,) or not np.issubdtype(values.dtype, np.integer):
            raise ValueError(
                f"{name} has shape {values.shape} and dtype {values.dtype}: pass {count} integers, "
                "one class for each image"
            )
        wrong = np.flatnonzero((values < 0) | (values >= classes))
        if len(wrong):
            raise ValueError(
                f"{name} reach from {values.min()} to {values.max()}, but the model has {classes} "
                f"classes, 0 to {classes - 1} ({len(wrong)} out of range: {some(wrong)})"
            )
        leaves[name] = values.astype(np.int32)
    if isinstance(goal, Targeted):
        same = np.flatnonzero(leaves["labels"] == leaves["targets"])
        if len(same):
            raise ValueError(
                f"targets equal the labels of {len(same)} images ({some(same)}): a target must be "
                "a wrong class"
            )
    return type(goal)(**leaves)


def check_ids(ids: Any, count: int) -> np.ndarray:
    """The ids [count] that name the images in random keys; 0 to count - 1 where None is given."""
    ids = np.arange(count) if ids is None else np.asarray(ids)
    if ids.shape != (count,) or not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(f"ids has shape {ids.shape} and dtype {ids.dtype}: pass {count} integers")
    return ids


def count_classes(model: Model, shape: tuple[int, ...]) -> int:
    """The number of the model's classes, and that it takes such images at all."""
    image = jax.ShapeDtypeStruct((2, *shape), np.float32)
    try:
        logits = APPLY.eval_shape(model, image)
    except Exception as error:
        said = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
        if type(error).__name__ in TRAINING_ERRORS:
            raise ValueError(
                f"model is in training mode (it wants to {TRAINING_ERRORS[type(error).__name__]}): "
                "pass it in evaluation mode, e.g. from_linen(module, variables, train=False), "
                "deterministic=True or use_running_average=True"
            ) from error
        channels_first = len(shape) == 3 and shape[0] in (1, 3) and shape[-1] not in (1, 3)
        hint = " (they look like NCHW: transpose to [N, H, W, C])" if channels_first else ""
        raise ValueError(
            f"model cannot be called on images of shape [N, {', '.join(map(str, shape))}]{hint}: "
            f"{said}"
        ) from error
    if getattr(logits, "ndim", 0) != 2 or logits.shape[0] != 2 or logits.shape[1] < 2:
        raise ValueError(
            f"model returns {jax.tree.map(lambda a: a.shape, logits)} for 2 images: it must return "
            "logits [N, K] for K >= 2 classes"
        )
    return logits.shape[1]


def check_keep(keep: str | None, attack: Attack) -> str:
    """The attack's own `keep` where None is given."""
    keep = attack.keep if keep is None else keep
    if keep not in KEEPS:
        raise ValueError(f"keep={keep!r}: pass one of {KEEPS}")
    return keep


def logit_messages(logits: np.ndarray) -> list[str]:
    """What is wrong with the logits [N, K] of clean images: an empty list is a pass."""
    broken = np.flatnonzero(~np.isfinite(logits).all(1))
    if len(broken):
        return [
            f"model returns NaN or infinite logits for {len(broken)} of {len(logits)} clean images "
            f"({some(broken)}): they can never count as adversarial"
        ]
    if logits.min() >= 0 and logits.max() <= 1 and np.abs(logits.sum(1) - 1).max() < 1e-4:
        return [
            "model returns probabilities (each row between 0 and 1, with sum 1): return the logits "
            "before the softmax, else gradients vanish and attacks look weaker than they are"
        ]
    return []


def warn_about_logits(logits: np.ndarray) -> None:
    """Warn of probabilities in place of logits, and of outputs that are not finite."""
    for message in logit_messages(logits):
        warnings.warn(message, CheckWarning, stacklevel=4)


def warn_about_targets(goal: Goal, clean_margin: np.ndarray) -> None:
    """Warn where most targets are what the model says already: the truth, passed as target."""
    met = int((clean_margin < 0).sum())
    if goal.targeted and len(clean_margin) > 1 and met > 0.5 * len(clean_margin):
        warnings.warn(
            f"targets equal the current prediction for {met} of {len(clean_margin)} images: pass "
            "the true classes as labels and wrong ones as targets",
            CheckWarning,
            stacklevel=4,
        )


def check_gradients(model: Model, images: Any, goal: Goal, width: int = 50) -> list[str]:
    """Messages about zero or non-finite gradients of two losses at the clean images.

    images: [N, H, W, C]; one forward and two backward passes per image. An empty list is a pass.
    """
    messages = []
    losses = {name: get_loss(name) for name in ("cross_entropy", "margin")}

    def gradients(images: Any, goal: Goal) -> Any:
        logits, pull_back = jax.vjp(model, images)
        found = {}
        for name, loss in losses.items():
            cotangent = jax.vmap(jax.grad(lambda z, g, loss=loss: loss(g, z)))(logits, goal)
            (gradient,) = pull_back(cotangent)
            flat = gradient.reshape(len(gradient), -1)
            found[name] = (~jnp.isfinite(flat).all(1), (flat == 0).all(1))
        return found

    program = jax.jit(cured(gradients) if jax.default_backend() == "cpu" else gradients)
    collected: dict[str, list[Any]] = {name: [] for name in losses}
    for begin in range(0, len(images), width):
        part = np.arange(begin, begin + width).clip(max=len(images) - 1)
        out = program(np.asarray(images[part]), take(jax.tree.map(np.asarray, goal), part))
        for name in losses:
            collected[name].append(np.stack([np.asarray(mask) for mask in out[name]]))
    for name in losses:
        broken, zero = np.concatenate(collected[name], 1)[:, : len(images)]
        if broken.any():
            messages.append(
                f"{broken.sum()} of {len(images)} images have NaN or infinite {name} gradients "
                f"({some(np.flatnonzero(broken))}): look for a division, log or sqrt at 0"
            )
        if (zero & ~broken).any():
            other = "margin" if name == "cross_entropy" else "cross_entropy"
            messages.append(
                f"{(zero & ~broken).sum()} of {len(images)} images have a zero {name} gradient "
                f"({some(np.flatnonzero(zero & ~broken))}): saturated logits, rounding or another "
                f"step without a gradient in the model; try loss='{other}' or attacks that only ask"
            )
    return messages
