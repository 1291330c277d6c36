"""Checks of arguments: one message that names the argument, its value and what to do."""

import dataclasses
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxadv.core.attack import KEEPS, WIDE, Attack
from jaxadv.core.bounds import Bounds, Ends, bounds_text, fitted, sides_of
from jaxadv.core.contract import check_pytree
from jaxadv.core.files import check_folder
from jaxadv.core.goals import Evading, Goal, Targeted, Untargeted
from jaxadv.core.model import Model
from jaxadv.core.norms import ROUNDING, diameter, get_norm
from jaxadv.core.random import threefry
from jaxadv.core.typing import ArrayLike, Number, Numbers
from jaxadv.engine.devices import APPLY, PULLED_BACK

TRAINING_ERRORS = {  # names of Flax errors: other models must not import Flax
    "ModifyScopeVariableError": "update batch statistics",
    "InvalidRngError": "draw a dropout mask",
}
NO_JAX_ERRORS = (  # raised where a function computes with values that are not known yet
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.ConcretizationTypeError,
)
Images = ArrayLike | Sequence
BATCH = 7  # batch size of the trial: unlikely to be one a model is fixed to
TOLERANCE = 1e-6  # rounding error at the bounds, clipped without a message


class CheckWarning(UserWarning):
    """The run continues, but its results may be unreliable."""


def some(indices: Iterable[int]) -> str:
    """Return the first five of a list of indices as text."""
    indices = list(map(int, indices))
    return ", ".join(map(str, indices[:5])) + (", ..." if len(indices) > 5 else "")


def check_attack(attack: object, name: str = "attack") -> None:
    """Raise ValueError if this is no attack (but a class or a name), or cannot be compiled."""
    if isinstance(attack, type) and issubclass(attack, Attack):
        raise ValueError(f"{name} is the class {attack.__name__}: pass ja.{attack.__name__}(...)")
    if not isinstance(attack, Attack):
        raise ValueError(f"{name} is {attack!r}: pass an attack, such as ja.PGD(steps=40)")
    check_pytree(attack)


def check_model(model: object, name: str = "model") -> None:
    """Raise ValueError if this is no `Model` (but a module, a function or an estimator)."""
    if not isinstance(model, Model):
        raise ValueError(
            f"{name} is of type {type(model).__name__}: pass a ja.Model, made by ja.from_linen, "
            "ja.from_nnx, ja.from_function, ja.from_keras, ja.from_onnx, ja.from_sklearn, "
            "ja.from_torch, ja.from_torch_arrays or ja.Model(apply, params)"
        )


def check_key(key: Array) -> Array:
    """Return the key for threefry; ValueError if it is no JAX random key, nor an array of them."""
    dtype = getattr(key, "dtype", None)
    is_typed = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
    if is_typed or (dtype == np.uint32 and np.ndim(key) > 0):
        return threefry(key)
    raise ValueError(f"key={key!r}: pass a JAX random key, such as jax.random.key(0)")


def key_or_first(key: Array | None) -> Array:
    """Return the checked key; key 0 if it is None."""
    return check_key(jax.random.key(0) if key is None else key)


def some_images(images: Images, name: str = "images") -> Any:
    """Return the array, without a copy; ValueError if it does not hold at least one image."""
    if not hasattr(images, "shape"):
        try:
            images = np.asarray(images)
        except ValueError:
            raise ValueError(f"{name} have different shapes: pass one array [N, ...]") from None
    shape = tuple(np.shape(images))
    if len(shape) < 2 or shape[0] == 0:
        raise ValueError(
            f"{name} has shape {shape}: pass at least one image "
            "[N, height, width, channels], or one vector [N, D]"
        )
    return images


def check_images(images: Images, bounds: Bounds, name: str = "images") -> np.ndarray:
    """Return float32 images [N, H, W, C] within the bounds; ValueError says what is wrong."""
    images = np.asarray(some_images(images, name))
    if not np.issubdtype(images.dtype, np.floating) and images.dtype != jnp.bfloat16:
        raise ValueError(
            f"{name} has dtype {images.dtype}: pass floats within {bounds_text(bounds)}, "
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
    bounds = fitted(bounds, images.shape[1:])
    lower, upper = bounds
    if isinstance(lower, Ends) or isinstance(upper, Ends):
        return _within_ranges(images, np.asarray(lower), np.asarray(upper), name)
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


def _within_ranges(
    images: np.ndarray, lower: np.ndarray, upper: np.ndarray, name: str
) -> np.ndarray:
    """Return images clipped to the range of each feature; ValueError where one lies outside."""
    tolerance = np.where(np.isfinite(upper - lower), TOLERANCE * (upper - lower), 0)
    out = (images < lower - tolerance) | (images > upper + tolerance)
    if out.any():
        place = tuple(np.argwhere(out.any(0))[0])
        values, feature = images[:, *place], ", ".join(map(str, place))
        raise ValueError(
            f"{name} reach from {values.min():g} to {values.max():g} in feature [{feature}], "
            f"outside its bounds ({lower[place]:g}, {upper[place]:g}), and leave theirs in "
            f"{out.any(0).sum()} features of {out.any(0).size}: give the model the ranges in which "
            "its inputs lie"
        )
    return np.clip(images, lower, upper)


def check_epsilon(
    attack: Attack,
    epsilon: Numbers | None,
    rows: int,
    shape: Sequence[int],
    bounds: Bounds,
) -> np.ndarray:
    """Return epsilon [rows] in float64, in the norm's unit and the scale of the bounds."""
    if epsilon is None:
        if attack.needs_epsilon:
            raise ValueError(
                f"epsilon=None: {attack.name} needs one; pass the radius of the {attack.norm} "
                f"ball, in the scale of images in {bounds_text(bounds)}, or wrap it: "
                f"MinimalEpsilon({attack.name}(...))"
            )
        return np.full(rows, np.inf)
    if attack.bounded_by:
        raise ValueError(
            f"epsilon={epsilon!r}: {attack.name} is bounded by its {attack.bounded_by}, not by a "
            "ball; pass epsilon=None, and the bounds to the attack"
        )
    try:
        given = np.asarray(epsilon, np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"epsilon={epsilon!r}: pass a number, or one for each image") from None
    if given.shape not in ((), (rows,)):
        raise ValueError(
            f"epsilon has shape {given.shape}: pass one number, or one for each of {rows} images"
        )
    refused = given[~(given >= 0)]
    if len(refused):
        raise ValueError(f"epsilon={refused[0]:g}: pass a number that is not negative")
    span = sides_of(bounds, tuple(shape))
    largest = diameter(attack.norm, int(np.prod(shape)), span)
    if given.max() > largest and np.isfinite(given).all():
        pixels = attack.norm == "linf" and np.all(span == 1) and given.max() <= 255
        hint = f": did you mean {given.max():g}/255?" if pixels else ""
        raise ValueError(
            f"epsilon={given.max():g} exceeds {largest:g}, the largest {attack.norm} distance "
            f"between two images in {bounds_text(bounds)}"
            f"{hint or ': pass it in the scale of the images'}"
        )
    return np.broadcast_to(given, (rows,)).copy()


def check_box(
    attack: Attack,
    epsilon: np.ndarray,
    bounds: Bounds,
    images: np.ndarray | None = None,
) -> None:
    """Raise ValueError if the attack searches the whole box and the box is unbounded or too wide.

    It is too wide if it is more than `WIDE` times as wide as the range of the values in `images`;
    stated ranges of single features are not.
    """
    span = np.max(bounds[1] - bounds[0])
    searched = attack.needs_box and not np.isfinite(epsilon).all()
    spread = np.inf if images is None else np.ptp(images)
    each = isinstance(bounds[0], Ends)
    wide = np.isinf(span) or (not each and span > max(WIDE, WIDE * spread))
    if not (searched and wide) and not (attack.norm == "l0" and np.isinf(span)):
        return
    remedy = "give the model the bounds in which its inputs lie"
    if attack.norm != "l0" and not attack.bounded_by:
        remedy += ", or pass an epsilon"
    said = "" if images is None else f", and the values lie within {spread:g} of each other"
    raise ValueError(
        f"bounds={bounds_text(bounds)}: {attack.name} searches the whole box{said}: {remedy}"
    )


def warn_about_rounding(images: np.ndarray, epsilon: np.ndarray) -> None:
    """Warn where float32 cannot move a value of an image within epsilon (both [rows, ...]).

    Warns where a step of float32 is over a hundredth of epsilon for some values, and raises
    ValueError where an image has no value that can move at all.
    """
    steps = ROUNDING * np.abs(images.reshape(len(images), -1))
    balls = np.where(epsilon > 0, epsilon, np.inf)[:, None]
    coarse = np.flatnonzero((steps > balls / 100).any(1))
    if len(coarse) == 0:
        return
    worst = coarse[steps[coarse].max(1).argmax()]
    said = (
        f"epsilon={epsilon[worst]:g} is small against values as large as "
        f"{np.abs(images[worst]).max():g}, which float32 cannot move by less than "
        f"{steps[worst].max():.2g} ({len(coarse)} of {len(images)} images): subtract an offset, or "
        "rescale the features, and let the model undo it"
    )
    if (steps >= balls).all(1).any():
        raise ValueError(said)
    warnings.warn(said + "; attacks look weaker than they are", CheckWarning, stacklevel=4)


def check_named(attacks: Mapping[str, Attack], argument: str) -> None:
    """Raise ValueError if this argument is no dict, or one of its entries is no attack."""
    if not isinstance(attacks, Mapping):
        raise ValueError(f"{argument}={attacks!r}: pass a dict of attacks by name")
    for name, attack in attacks.items():
        check_attack(attack, f"{argument}[{name!r}]")


def check_norms(attacks: Mapping[str, Attack], norm: str, argument: str) -> None:
    """Raise ValueError if one of several attacks, named by this argument, works in another norm."""
    get_norm(norm)
    check_named(attacks, argument)
    for name, attack in attacks.items():
        if attack.bounded_by:
            raise ValueError(
                f"{argument}[{name!r}]: {attack.name} is bounded by its {attack.bounded_by}, in no "
                "norm: run it alone, with ja.run"
            )
        if attack.norm != norm:
            raise ValueError(
                f"{argument}[{name!r}] works in {attack.norm}, but norm={norm!r}: give both the "
                "same"
            )


def check_goal(goal: Goal, count: int, classes: int) -> Goal:
    """Return the goal with int32 numpy leaves [N]; ValueError if a label or target is no class."""
    if not isinstance(goal, Untargeted | Targeted):
        raise ValueError(
            f"goal is {type(goal).__name__}: pass ja.Untargeted(labels), "
            "ja.Evading(labels, rejected) or ja.Targeted(labels, targets)"
        )
    rejected = _check_rejected(goal, classes)
    leaves = {}
    for name in ("labels", "targets") if isinstance(goal, Targeted) else ("labels",):
        values = np.asarray(getattr(goal, name))
        if values.shape != (count,) or not np.issubdtype(values.dtype, np.integer):
            raise ValueError(
                f"{name} has shape {values.shape} and dtype {values.dtype}: pass {count} integers, "
                f"one class for each image{_as_integers(name, values, count)}"
            )
        wrong = np.flatnonzero((values < 0) | (values >= classes))
        if len(wrong):
            raise ValueError(
                f"{name} reach from {values.min()} to {values.max()}, but the model has {classes} "
                f"classes, 0 to {classes - 1} ({len(wrong)} out of range: {some(wrong)})"
            )
        if rejected is not None and (values == rejected).any():
            raise ValueError(
                f"{name} are {rejected} for {(values == rejected).sum()} images, but rejected="
                f"{rejected} means that an image is refused: pass natural classes"
            )
        leaves[name] = values.astype(np.int32)
    if isinstance(goal, Targeted):
        same = np.flatnonzero(leaves["labels"] == leaves["targets"])
        if len(same):
            raise ValueError(
                f"targets equal the labels of {len(same)} images ({some(same)}): a target must be "
                "a wrong class"
            )
    return dataclasses.replace(goal, **leaves)


def _as_integers(name: str, values: np.ndarray, count: int) -> str:
    """Return how values that are meant as classes become integers; "" where that is not clear."""
    if values.ndim == 2 and len(values) == count and values.shape[1] > 1:
        return f" (for one row of {values.shape[1]} numbers each, {name}.argmax(1))"
    if values.shape == (count, 1):
        return f" ({name}.ravel())"
    if values.shape == (count,) and values.dtype.kind in "bf":
        return f" ({name}.astype(int))"
    return ""


def _check_rejected(goal: Goal, classes: int) -> int | None:
    """Return the rejection class, None for a goal without one."""
    rejected = getattr(goal, "rejected", None)
    if rejected is None and not isinstance(goal, Evading):
        return None
    if not isinstance(rejected, int | np.integer) or not 0 <= rejected < classes:
        raise ValueError(
            f"rejected={rejected!r}: pass one of the model's {classes} classes, 0 to {classes - 1}"
        )
    if classes < 3:
        raise ValueError(
            f"rejected={rejected}: the model has {classes} classes, and no natural one is left "
            "that would be wrong"
        )
    return int(rejected)


def check_ids(ids: Numbers | None, count: int) -> np.ndarray:
    """Return the ids [count] that identify the images in random keys (None: 0 to count - 1)."""
    ids = np.arange(count) if ids is None else np.asarray(ids)
    if ids.shape != (count,) or not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(f"ids has shape {ids.shape} and dtype {ids.dtype}: pass {count} integers")
    return ids


def is_number(value: Number) -> bool:
    """Return whether an argument is one real number."""
    return np.ndim(value) == 0 and np.asarray(value).dtype.kind in "iuf"


def check_counts(**numbers: int) -> None:
    """Raise ValueError unless each of these arguments is an integer from 1 to 2**30 - 1."""
    for name, number in numbers.items():
        integer = isinstance(number, int | np.integer) and not isinstance(number, bool)
        if not integer or not 1 <= number < 2**30:
            raise ValueError(f"{name}={number}: pass a whole number from 1 to 2**30 - 1")


def check_options(store: str | Path | None = None, **numbers: int | None) -> None:
    """Check options that are None by default.

    Args:
        store: A folder for results, or None.
        numbers: Counts by name, each an integer or None.

    Raises:
        OSError: If the store's folder cannot be written to.
        ValueError: If one of the numbers is no integer from 1 to 2**30 - 1.
    """
    check_counts(**{name: number for name, number in numbers.items() if number is not None})
    if store is not None:
        check_folder(store)


def check_problem(
    model: Model, images: Images, goal: Goal | Numbers, ids: Numbers | None
) -> tuple[np.ndarray, Goal, np.ndarray, int]:
    """Return checked images [N, ...], goal, ids [N] and the number of classes of a run.

    goal: a goal, or labels for an untargeted goal.
    """
    check_model(model)
    images = check_images(images, model.bounds)
    classes = count_classes(model, images.shape[1:])
    goal = goal if isinstance(goal, Untargeted | Targeted) else Untargeted(goal)
    goal = check_goal(goal, len(images), classes)
    return images, goal, check_ids(ids, len(images)), classes


def count_classes(model: Model, shape: tuple[int, ...]) -> int:
    """Return the number of the model's classes; ValueError if it cannot take such images."""
    images = jax.ShapeDtypeStruct((BATCH, *shape), np.float32)
    try:
        logits = APPLY.eval_shape(model, images)
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
        if isinstance(error, NO_JAX_ERRORS):
            raise ValueError(
                f"model is no function of JAX ({said}): write it with jax.numpy, without control "
                "flow that depends on the images, or let it be called on the host, "
                "ja.from_function(function, differentiable=False), for attacks without gradients"
            ) from error
        raise ValueError(
            f"model cannot be called on images of shape [N, {', '.join(map(str, shape))}]{hint}: "
            f"{said}; it was tried with {BATCH} images, and must accept a batch of any size"
        ) from error
    if getattr(logits, "ndim", 0) != 2 or logits.shape[0] != BATCH or logits.shape[1] < 2:
        several = (
            "; choose one part by its key or index, on the command line with --logits-of, in "
            "Python with jaxadv.models.selected(model, part); a detector's score is "
            "no class: return the logits alone, or make it one with "
            "ja.with_detector(model, detector) and pass ja.Evading(labels, rejected) as the goal"
        )
        labels = "; labels have no gradient: ja.from_function(..., differentiable=False, classes=K)"
        whole = hasattr(logits, "dtype") and logits.shape in ((BATCH,), (BATCH, 1))
        raise ValueError(
            f"model returns {jax.tree.map(lambda a: a.shape, logits)} for {BATCH} images: it must "
            f"return logits [N, K] for a batch of any size N and K >= 2 classes, or one logit [N] "
            f"of two classes{labels if whole else '' if hasattr(logits, 'ndim') else several}"
        )
    return logits.shape[1]


def prepare_attack(
    attack: Attack,
    model: Model,
    goal: Goal,
    classes: int,
    epsilon: Numbers | None,
    rows: int,
    shape: tuple[int, ...],
) -> tuple[Attack, np.ndarray]:
    """Return the attack specialized for the goal, and its epsilon [rows]. Nothing is computed.

    Raises:
        ValueError: If attack, model, goal and epsilon do not fit each other.
    """
    attack = attack.specialize(goal, classes)
    check_pullbacks(attack, model, shape)
    radii = check_epsilon(attack, epsilon, rows, shape, model.bounds)
    check_box(attack, radii, model.bounds)
    return attack, radii


def check_attacks(
    attacks: Iterable[Attack],
    model: Model,
    goal: Goal,
    classes: int,
    epsilons: Numbers | None,
    shape: tuple[int, ...],
) -> None:
    """Run `prepare_attack` for several attacks before the first is run.

    epsilons: radii; an attack that needs no epsilon is given none.
    """
    for attack in attacks:
        radii, rows = (epsilons, np.asarray(epsilons).size) if attack.needs_epsilon else (None, 1)
        prepare_attack(attack, model, goal, classes, radii, rows, shape)


def check_keep(keep: str | None, attack: Attack) -> str:
    """Return `keep`, or the attack's own if it is None."""
    keep = attack.keep if keep is None else keep
    if keep not in KEEPS:
        raise ValueError(f"keep={keep!r}: pass one of {KEEPS}")
    return keep


def missing_derivative(model: Model, shape: tuple[int, ...]) -> str:
    """Return why the model has no gradient, empty if it has one. Nothing is computed."""
    image = jax.ShapeDtypeStruct((BATCH, *shape), np.float32)
    dtype = APPLY.eval_shape(model, image).dtype
    if not jnp.issubdtype(dtype, jnp.floating):
        return (
            f"the model returns {dtype}, whose gradient is 0 everywhere: return floating-point "
            "logits, or pass attacks without gradients"
        )
    try:
        PULLED_BACK.eval_shape(model, image)
    except Exception as error:
        said = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
        return f"the model cannot be differentiated ({said}): pass attacks without gradients"
    return ""


def check_pullbacks(attack: Attack, model: Model, shape: tuple[int, ...]) -> None:
    """Raise ValueError if the attack needs gradients and the model has none."""
    if attack.pullbacks and (missing := missing_derivative(model, shape)):
        raise ValueError(
            f"attack: {attack.name} needs gradients, but {missing}, such as ja.Square(), or a "
            "differentiable surrogate as `model` and this one as `judge`"
        )
