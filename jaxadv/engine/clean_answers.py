"""What is wrong with a model's logits and gradients at clean images."""

import functools
import warnings
from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import Array

from jaxadv.core.goals import Goal
from jaxadv.core.losses import get_loss
from jaxadv.core.model import Model
from jaxadv.core.pytree import take
from jaxadv.cpu.rewrite import rewrite_for_cpu
from jaxadv.engine.checks import CheckWarning, some

PROBED = ("cross_entropy", "margin")  # losses whose gradients are checked


def logit_messages(logits: np.ndarray) -> list[str]:
    """Return what is wrong with the logits [N, K] of clean images; an empty list is a pass."""
    broken = np.flatnonzero(~np.isfinite(logits).all(1))
    if len(broken):
        return [
            f"model returns NaN or infinite logits for {len(broken)} of {len(logits)} clean images "
            f"({some(broken)}): they can never count as adversarial"
        ]
    votes = np.isin(logits, (0, 1)).all()  # one-hot outputs of a function that returns classes only
    if (
        not votes
        and logits.min() >= 0
        and logits.max() <= 1
        and (np.abs(logits.sum(1) - 1).max() < 1e-4)
    ):
        return [
            "model returns probabilities (each row between 0 and 1, with sum 1): return the logits "
            "before the softmax, else gradients vanish and attacks look weaker than they are"
        ]
    alone = logits.shape[1] == 2 and len(logits) > 1 and not logits[:, 0].any()
    if alone and not votes and logits.min() >= 0 and logits.max() <= 1:
        return [
            "model returns one value between 0 and 1 for each image, read as a logit, for which "
            "class 1 wins above 0: for a probability p return log(p / (1 - p)), before the sigmoid"
        ]
    return []


def warn_about_logits(logits: np.ndarray) -> None:
    """Warn of probabilities in place of logits, and of outputs that are not finite."""
    for message in logit_messages(logits):
        warnings.warn(message, CheckWarning, stacklevel=4)


def warn_about_targets(goal: Goal, clean_margin: np.ndarray) -> None:
    """Warn if most targets are already predicted: true labels were passed as targets."""
    met = int((clean_margin < 0).sum())
    if goal.targeted and len(clean_margin) > 1 and met > 0.5 * len(clean_margin):
        warnings.warn(
            f"targets equal the current prediction for {met} of {len(clean_margin)} images: pass "
            "the true classes as labels and wrong ones as targets",
            CheckWarning,
            stacklevel=4,
        )


@functools.lru_cache
def _gradients(rewrite: bool) -> Callable[..., dict[str, Array]]:
    """Return the jitted (model, images [N, H, W, C], goal) -> gradients of each loss of PROBED."""

    def gradients(model: Model, images: Array, goal: Goal) -> dict[str, Array]:
        logits, pull_back = jax.vjp(model, images)
        slopes = {}
        for name in PROBED:
            cotangent = jax.vmap(jax.grad(lambda z, g, name=name: get_loss(name)(g, z)))
            (slopes[name],) = pull_back(cotangent(logits, goal))
        return slopes

    return jax.jit(rewrite_for_cpu(gradients) if rewrite else gradients)


def loss_gradients(
    model: Model, images: np.ndarray, goal: Goal, width: int = 50
) -> dict[str, np.ndarray]:
    """Return the gradients [N, H, W, C] of two losses at the images: "cross_entropy" and "margin".

    This costs one forward and two backward passes an image.

    Args:
        model: The model under attack.
        images: Floats [N, H, W, C].
        goal: The goal, with integers [N].
        width: Batch size.

    Returns:
        The gradients under the names of the losses.
    """
    program = _gradients(jax.default_backend() == "cpu")
    pieces = []
    for begin in range(0, len(images), width):
        part = np.arange(begin, begin + width).clip(max=len(images) - 1)
        out = program(model, np.asarray(images[part]), take(jax.tree.map(np.asarray, goal), part))
        pieces.append(jax.device_get(out))
    return {name: np.concatenate([p[name] for p in pieces])[: len(images)] for name in PROBED}


def gradient_messages(gradients: dict[str, np.ndarray]) -> list[str]:
    """Return what is wrong with the gradients of `loss_gradients`; an empty list is a pass."""
    messages = []
    flat = {name: values.reshape(len(values), -1) for name, values in gradients.items()}
    broken = {name: ~np.isfinite(values).all(1) for name, values in flat.items()}
    zero = {name: (values == 0).all(1) for name, values in flat.items()}
    for name in gradients:
        (other,) = set(PROBED) - {name}
        if broken[name].any():
            messages.append(
                f"{broken[name].sum()} of {len(zero[name])} images have NaN or infinite {name} "
                f"gradients ({some(np.flatnonzero(broken[name]))}): look for a division, log or "
                "sqrt at 0"
            )
        if zero[name].any():
            spared = int((zero[name] & ~zero[other] & ~broken[other]).sum())
            messages.append(
                f"{zero[name].sum()} of {len(zero[name])} images have a zero {name} gradient "
                f"({some(np.flatnonzero(zero[name]))}): "
                + (
                    f"saturated logits; the {other} has a gradient for {spared} of them, pass "
                    f"loss='{other}'"
                    if spared
                    else f"nor has the {other} one; look for rounding or another step without a "
                    "gradient in the model, or pass attacks without gradients"
                )
            )
    return messages


def check_gradients(model: Model, images: np.ndarray, goal: Goal) -> list[str]:
    """Return messages about zero or non-finite gradients of two losses at the clean images.

    An empty list is a pass. This costs one forward and two backward passes an image [N, H, W, C].
    """
    return gradient_messages(loss_gradients(model, images, goal))
