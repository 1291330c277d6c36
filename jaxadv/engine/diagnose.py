"""`check`: whether the numbers that attacks give about a model can be believed.

Every check is cheap, runs on a few images, and fails with one message that says what to do. The
list follows Croce et al. 2022 (AutoAttack's flags), Carlini et al. 2019 (arXiv 1902.06705) and
Pintor et al. 2022 (indicators of attack failure, arXiv 2106.09947).
"""

from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr
from jaxtyping import Array

from jaxadv.attacks import FGM, FGSM, PGD, UniformNoise
from jaxadv.core.attack import Attack
from jaxadv.core.goals import Untargeted
from jaxadv.core.model import Model
from jaxadv.core.norms import diameter
from jaxadv.engine import checks
from jaxadv.engine.devices import APPLY, choose_devices, choose_lanes
from jaxadv.engine.run import run_rows
from jaxadv.engine.verify import margins, predict

FEW = 0.02  # the share of the images that chance may account for
WITHOUT_SLOPE = {"round", "floor", "ceil", "round_nearest_even"}
CALLBACKS = {"pure_callback", "io_callback"}


class Finding(NamedTuple):
    """One check: its name, whether it passed, and what it has to say (empty if nothing)."""

    name: str
    passed: bool
    message: str


def check(
    model: Model,
    images: Any,
    labels: Any,
    *,
    epsilon: float,
    norm: str = "linf",
    steps: int = 40,
    key: Array | None = None,
    devices: Any = None,
    lanes: int | None = None,
) -> list[Finding]:
    """Look for what makes attacks seem weaker, or numbers firmer, than they are.

    images: [N, H, W, C] floats within `model.bounds`, 100 are plenty; labels: integers [N];
    epsilon, norm: the threat model of the evaluation; steps: those that its PGD takes; key: default
    seed 0. Checked are: the answers (logits and not probabilities, finite, equal when asked twice
    and in batches of another size), the gradients (finite, not zero; operations on the way that
    have none), and a few attacks (noise, one step, PGD at a quarter, a half and the whole of
    epsilon, with twice the steps, and without a bound): whether the stronger one is stronger, and
    whether adversarial images survive rounding to 8 bits.

    Per image at most 7 * steps forward and backward passes. Raises ValueError for arguments that
    cannot be meant so.

    >>> import jax.numpy as jnp, jaxadv as ja
    >>> model = ja.Model(lambda w, x: x.reshape(len(x), -1) @ w, 3 * jnp.eye(4))
    >>> images = jnp.eye(4).reshape(4, 2, 2, 1)
    >>> [f.name for f in ja.check(model, images, jnp.arange(4), epsilon=0.6) if not f.passed]
    []
    """
    images = checks.check_images(images, model.bounds)
    shape = images.shape[1:]
    goal = checks.check_goal(Untargeted(labels), len(images), checks.count_classes(model, shape))
    attack = PGD(norm=norm, steps=steps, step_size=0.1)
    checks.check_epsilon(attack, epsilon, 1, shape, model.bounds)
    key = jax.random.key(0) if key is None else key
    chosen = choose_devices(devices)

    logits = predict(model, images, chosen)
    found = [
        _first("logits", checks.logit_messages(logits)),
        _repeats(logits, [predict(model, images, chosen) for _ in range(3)]),
        _batches(logits, predict(model, images, chosen, width=7)),
        _path(model, shape),
    ]
    right = np.flatnonzero(logits.argmax(1) == goal.labels)
    if len(right) == 0:
        message = f"none of the {len(images)} images is classified as labelled: pass the true "
        return [*found, Finding("labels", False, message + "labels, or a model that is trained")]
    kept, labels = images[right], np.asarray(goal.labels)[right]
    goal = Untargeted(labels)
    found.append(_first("gradients", checks.check_gradients(model, kept[:256], goal)))

    def broken(
        attack: Attack, radii: list[float], keep: str = "first"
    ) -> tuple[np.ndarray, np.ndarray]:
        """Success [radii, images], and the images."""
        rows = np.tile(np.arange(len(kept)), len(radii))
        width = lanes or choose_lanes(model, 1, shape, len(rows), chosen[0])
        result = run_rows(
            attack, model, kept, goal, rows, np.repeat(radii, len(kept)), key=key, keep=keep,
            ids=right, devices=chosen, lanes=width, clean_logits=logits[right],
        )  # fmt: skip
        return result.success.reshape(len(radii), -1), result.images

    whole = diameter(norm, int(np.prod(shape)), model.bounds[1] - model.bounds[0])
    radii = [epsilon / 4, epsilon / 2, float(epsilon), whole]
    iterated, _ = broken(attack, radii)
    one_step = FGSM() if norm == "linf" else FGM(norm=norm)
    control, single = (
        broken(other, [epsilon])[0][0] for other in (UniformNoise(norm=norm, draws=10), one_step)
    )
    # The highest loss lies well inside: first successes lie at the boundary, where rounding flips.
    patient = PGD(norm=norm, steps=2 * steps, step_size=0.1)
    (longer,), deepest = broken(patient, [epsilon], keep="loss")
    found += [
        _steps(iterated[2], longer, steps),
        _monotone(iterated[:3], radii),
        _order(control, single, iterated[2], one_step.name),
        _unbounded(iterated[3], norm, whole),
        _rounding(model, deepest, longer, goal, chosen),
    ]
    return found


def _first(name: str, messages: list[str]) -> Finding:
    return Finding(name, not messages, "; ".join(messages))


def _repeats(logits: np.ndarray, others: list[np.ndarray]) -> Finding:
    scale = max(float(np.abs(logits).max()), 1e-12)
    change = max(float(np.abs(other - logits).max()) for other in others) / scale
    changed = max(int((other.argmax(1) != logits.argmax(1)).sum()) for other in others)
    return Finding(
        "same answers",
        bool(change <= 1e-4),
        f"logits change by {100 * change:.2g} % between identical calls ({changed} of "
        f"{len(logits)} predictions differ): the model draws at random; average over its draws"
        if change > 1e-4
        else "",
    )


def _batches(logits: np.ndarray, others: np.ndarray) -> Finding:
    change = float(np.abs(logits - others).max()) / max(float(np.abs(logits).max()), 1e-12)
    flipped = np.flatnonzero(logits.argmax(1) != others.argmax(1))
    return Finding(
        "batch size",
        bool(change <= 1e-3),
        f"logits change by {100 * change:.2g} % when images come in batches of 7 "
        f"({len(flipped)} predictions flip): an image's answer depends on its neighbours; put "
        "batch normalisation into evaluation mode"
        if change > 1e-3
        else "",
    )


def _primitives(jaxpr: Any, depends: set[Any] | None = None) -> set[str]:
    """The primitives through which the last argument (the images) passes."""
    jaxpr = jaxpr.jaxpr if isinstance(jaxpr, ClosedJaxpr) else jaxpr
    depends = {jaxpr.invars[-1]} if depends is None else depends
    names = set()
    for eqn in jaxpr.eqns:
        inputs = [v for v in eqn.invars if not hasattr(v, "val") and v in depends]
        if not inputs:
            continue
        depends.update(eqn.outvars)
        names.add(eqn.primitive.name)
        for inner in jax.tree.leaves(
            eqn.params, is_leaf=lambda v: isinstance(v, ClosedJaxpr | Jaxpr)
        ):
            if isinstance(inner, ClosedJaxpr | Jaxpr):
                body = inner.jaxpr if isinstance(inner, ClosedJaxpr) else inner
                given = eqn.invars[max(len(eqn.invars) - len(body.invars), 0) :]
                pairs = zip(body.invars, given, strict=False)
                reached = {own for own, outer in pairs if outer in inputs} or set(body.invars)
                names |= _primitives(body, reached)
    return names


def _path(model: Model, shape: tuple[int, ...]) -> Finding:
    image = jax.ShapeDtypeStruct((2, *shape), np.float32)
    names = _primitives(APPLY.trace(model, image).jaxpr)
    callbacks = sorted(names & CALLBACKS)
    flat = sorted(names & WITHOUT_SLOPE)
    message = ""
    if callbacks:
        message = f"the model leaves JAX ({', '.join(callbacks)}): gradients stop there; pass "
        message += "attacks that only ask"
    elif flat:
        message = f"{', '.join(flat)} lies between image and logits and has no gradient: replace "
        message += "it by the identity in the backward pass, or pass attacks that only ask"
    return Finding("operations", not message, message)


def _steps(now: np.ndarray, longer: np.ndarray, steps: int) -> Finding:
    more = int((longer & ~now).sum())
    return Finding(
        "enough steps",
        bool(more <= FEW * len(now)),
        f"{2 * steps} steps break {more} more of {len(now)} images than {steps}: pass more steps"
        if more > FEW * len(now)
        else "",
    )


def _monotone(broken: np.ndarray, radii: list[float]) -> Finding:
    for small in range(len(broken)):
        for large in range(small + 1, len(broken)):
            lost = broken[small] & ~broken[large]
            if lost.sum() > FEW * broken.shape[1]:
                message = (
                    f"{lost.sum()} of {broken.shape[1]} images fall at epsilon {radii[small]:g} "
                    f"but not at {radii[large]:g}: gradients mislead; pass more restarts, "
                    "another loss or attacks that only ask"
                )
                return Finding("larger epsilon, more success", False, message)
    return Finding("larger epsilon, more success", True, "")


def _order(noise: np.ndarray, single: np.ndarray, iterated: np.ndarray, name: str) -> Finding:
    for weaker, stronger, weak, strong in (
        ("noise", "PGD", noise, iterated), (name, "PGD", single, iterated),
    ):  # fmt: skip
        lost = weak & ~strong
        if lost.sum() > FEW * len(lost):
            message = (
                f"{weaker} breaks {lost.sum()} of {len(lost)} images that {stronger} does not: "
                "gradients mislead (masking); pass another loss or attacks that only ask"
            )
            return Finding("weaker attacks are weaker", False, message)
    return Finding("weaker attacks are weaker", True, "")


def _unbounded(broken: np.ndarray, norm: str, whole: float) -> Finding:
    left = int((~broken).sum())
    return Finding(
        "nothing withstands all",
        bool(left <= FEW * len(broken)),
        f"{left} of {len(broken)} images withstand PGD in the whole box ({norm} {whole:g}), where "
        "every image may become any other: gradients are masked, or the model ignores its input"
        if left > FEW * len(broken)
        else "",
    )


def _rounding(
    model: Model, images: np.ndarray, success: np.ndarray, goal: Untargeted, devices: Any
) -> Finding:
    if not success.any():
        return Finding("8 bits", True, "")
    lower, upper = model.bounds
    bits = np.round((images[success] - lower) / (upper - lower) * 255) / 255
    rounded = (bits * (upper - lower) + lower).astype(np.float32)
    kept = Untargeted(np.asarray(goal.labels)[success])
    lost = int((margins(kept, predict(model, rounded, devices)) >= 0).sum())
    before, after = 1 - success.mean(), 1 - (success.sum() - lost) / len(success)
    return Finding(
        "8 bits",
        bool(lost <= max(FEW * len(success), 1)),
        f"{lost} of {success.sum()} adversarial images are none after rounding to 8 bits: robust "
        f"accuracy (of correctly classified images) {100 * before:.1f} %, rounded "
        f"{100 * after:.1f} %; round in the attack if images are stored so"
        if lost > max(FEW * len(success), 1)
        else "",
    )
