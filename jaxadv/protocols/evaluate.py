"""`evaluate`: run a cascade of attacks on the surviving images, at several epsilons at once."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Array

from jaxadv.attacks import PGD, MinimalEpsilon
from jaxadv.core.attack import Attack
from jaxadv.core.goals import Evading, Goal, Untargeted
from jaxadv.core.model import Model
from jaxadv.core.result import Result, Status
from jaxadv.core.typing import ArrayLike, Devices, Numbers
from jaxadv.engine import checks
from jaxadv.engine.diagnose import answers, program
from jaxadv.engine.session import Rows, Session, StageProgress
from jaxadv.protocols.cached_run import attack_of
from jaxadv.protocols.cascades import Cascade, get_cascade, run_cascade

MISCLASSIFIED, SURVIVED = -2, -1


@dataclasses.dataclass(frozen=True)
class Stage:
    """One attack of an evaluation.

    Attributes:
        name: Name of the attack in the cascade.
        attack: The attack with its settings.
        result: The result of its M rows.
        source: Integers [M], the image that each row attacked.
        level: Integers [M], the index of the epsilon at which each row attacked.
    """

    name: str
    attack: Attack
    result: Result
    source: np.ndarray
    level: np.ndarray


@dataclasses.dataclass(frozen=True)
class Report:
    """Result of `evaluate`: robustness of a classifier at E epsilons on N images.

    Attributes:
        norm: Name of the norm.
        epsilons: Floats [E], ascending.
        ids: Integers [N] that identify the images in the random keys.
        labels: Integers [N].
        predictions: Integers [N], the class of highest clean logit (-1 where a logit is NaN).
        logits: Floats [N, K], the logits of the clean images.
        images: Floats [N, H, W, C], the clean images.
        bounds: Lower and upper bound of the pixel values.
        stages: Every attack with all its rows, in the order of their runs.
        broken_by: Integers [E, N], the number of the stage that broke the image at this epsilon or
            a smaller one; -1 where the image survived, -2 where it was misclassified from the
            start.
        adversarial: Floats [E, N, H, W, C], the adversarial image of that stage, else the clean
            image.
        distance: Floats [N], the smallest adversarial distance that any stage found; 0 where the
            clean image is misclassified, infinite where none was found.
        messages: Warnings of the checks.
        complete: False if the evaluation was interrupted.
        certified: Floats [N] or None, certified radii in the same norm (NaN: not certified); they
            are put in with `dataclasses.replace`.
        rejected: The rejection class of the model, None if it has none.
    """

    norm: str
    epsilons: np.ndarray
    ids: np.ndarray
    labels: np.ndarray
    predictions: np.ndarray
    logits: np.ndarray
    images: np.ndarray
    bounds: tuple[float, float]
    stages: list[Stage]
    broken_by: np.ndarray
    adversarial: np.ndarray
    distance: np.ndarray
    messages: list[str]
    complete: bool
    certified: np.ndarray | None = None
    rejected: int | None = None

    @property
    def clean_accuracy(self) -> float:
        """The fraction of images that are classified correctly."""
        return float((self.predictions == self.labels).mean())

    @property
    def false_rejections(self) -> float | None:
        """The fraction of clean images that are rejected; None without a rejection class."""
        return None if self.rejected is None else float((self.predictions == self.rejected).mean())

    @property
    def robust_accuracy(self) -> np.ndarray:
        """The fraction [E] of images that no attack broke, for each epsilon."""
        return (self.broken_by == SURVIVED).mean(1)

    def left_after(self, stage: int) -> np.ndarray:
        """Return the robust accuracy [E] after this stage and all before it."""
        by = self.broken_by
        return ((by == SURVIVED) | (by > stage)).mean(1)

    def noise_accuracy(self) -> np.ndarray | None:
        """Return the accuracy [E] under the noise control of all images (None without one)."""
        return self.left_after(0) if self.stages and self.stages[0].name == "noise" else None

    @property
    def passes(self) -> tuple[np.ndarray, np.ndarray]:
        """Forward and backward passes of each image [N], summed over all stages."""
        forward, backward = np.zeros(len(self.labels), int), np.zeros(len(self.labels), int)
        for stage in self.stages:
            np.add.at(forward, stage.source, stage.result.forward)
            np.add.at(backward, stage.source, stage.result.backward)
        return forward, backward

    def cost(self, stage: int) -> dict[str, float]:
        """Return rows, mean forward and backward passes a row, and seconds of one stage."""
        result = self.stages[stage].result
        run = result.status != Status.NOT_RUN
        forward, backward = result.forward[run], result.backward[run]
        return {
            "rows": int(run.sum()),
            "forward": float(forward.mean()) if len(forward) else 0.0,
            "backward": float(backward.mean()) if len(backward) else 0.0,
            "seconds": result.cost.seconds,
        }

    def accuracy_curve(self, epsilons: np.ndarray) -> np.ndarray:
        """Return the accuracy at given epsilons, from the smallest distance of each image."""
        broken = self.distance[None] <= np.asarray(epsilons)[:, None]
        return 1 - (broken | (self.predictions != self.labels)).mean(1)

    def certified_curve(self, epsilons: np.ndarray) -> np.ndarray | None:
        """Return the certified accuracy, at most the accuracy; None without certificates."""
        if self.certified is None:
            return None
        return (self.certified >= np.asarray(epsilons)[:, None]).mean(1)


def evaluate(
    model: Model,
    images: ArrayLike,
    labels: Goal | Numbers,
    norm: str = "linf",
    epsilons: Sequence[float] = (0.1,),
    attacks: str | Cascade = "quick",
    *,
    key: Array | None = None,
    ids: Numbers | None = None,
    devices: Devices = None,
    lanes: int | None = None,
    distances: bool = True,
    store: str | Path | None = None,
    progress: StageProgress | None = None,
) -> Report:
    """Evaluate a classifier: its clean accuracy and its accuracy under attack at each epsilon.

    The attacks run in order, each on the images that survived those before it, at every epsilon
    separately. An image that is broken at one epsilon counts as broken at every larger one. For a
    model that draws random numbers, an attack runs all its steps, and its image is verified on new
    draws. Each image costs one forward pass and the passes that the stages count. Ctrl-C returns an
    incomplete report.

    Args:
        model: The model to evaluate.
        images: Floats [N, H, W, C] within `model.bounds`.
        labels: Integers [N], or `ja.Evading(labels, rejected)` for a model that can reject an
            image. Then only an image that is misclassified and accepted is a success, and a clean
            image that is rejected counts as misclassified (`false_rejections`).
        norm: "linf", "l2", "l1" or "l0".
        epsilons: Radii in the norm's unit and the scale of the images.
        attacks: The name of a cascade ("quick"; AutoAttack's "standard", "plus" and "rand"; our
            "fast" and "strong"; see `protocols.cascades`), or a dict of named attacks in the order
            of their runs. An entry can be `ja.Hardest(attack, share)`, which attacks the images of
            least margin, `ja.Nearly(attack, left)`, which attacks those with at most the fraction
            `left` of their clean margin, or `ja.Refine(attack)`, alone or in one of these, which
            begins at the image of least margin so far.
        key: A JAX random key (default: seed 0).
        ids: Integers [N] that identify the images in the random keys (default 0 to N - 1).
        devices: The devices to use (default: all local devices).
        lanes: Number of images attacked at the same time on each device (default: chosen for each
            attack).
        distances: Whether to search the smallest epsilon of every image (MinimalEpsilon of PGD).
            This is the last stage, and its successes count too.
        store: A folder in which every finished part is kept. A call with the same arguments
            continues from there.
        progress: Called with (stage, rows done, rows in all, successes).

    Returns:
        The report, with every attack's result.

    Raises:
        ValueError: If an argument has the wrong type, shape, dtype or range, if a cascade is
            unknown, if an attack works in another norm than `norm`, if `labels` is a targeted goal,
            or if an attack needs gradients of a model that has none.
        OSError: If the store's folder cannot be written to.

    Example:
        >>> import jax.numpy as jnp, jaxadv as ja
        >>> model = ja.Model(lambda w, x: x.reshape(len(x), -1) @ w, 2 * jnp.eye(4))
        >>> images, labels = jnp.eye(4).reshape(4, 2, 2, 1), jnp.arange(4)
        >>> report = ja.evaluate(model, images, labels, epsilons=[0.1, 0.6], distances=False)
        >>> report.clean_accuracy, report.robust_accuracy
        (1.0, array([1., 0.]))
    """
    entries = get_cascade(attacks, norm)
    checks.check_norms({name: attack_of(one) for name, one in entries.items()}, norm, "attacks")
    if np.size(epsilons) == 0 or np.ndim(epsilons) > 1:
        raise ValueError(f"epsilons={epsilons!r}: pass at least one number")
    session = Session.open(
        model, images, labels, ids=ids, key=key, devices=devices, lanes=lanes, store=store
    )
    images, goal, ids = session.images, session.goal, session.ids
    if goal.targeted:
        raise ValueError("labels are a targeted goal: pass labels, or ja.Evading(labels, rejected)")
    count, shape = len(images), images.shape[1:]
    rejected = int(goal.rejected) if isinstance(goal, Evading) else None
    if distances:
        shortest = PGD(norm=norm, steps=20, step_size=0.125)
        entries = {**entries, "minimal epsilon": MinimalEpsilon(shortest, rounds=8)}
    missing = checks.missing_derivative(model, shape)
    blind = [name for name, entry in entries.items() if attack_of(entry).pullbacks]
    if missing and blind:
        raise ValueError(f"attacks {blind} need gradients, but {missing} (and distances=False)")
    given = checks.check_epsilon(PGD(norm=norm), epsilons, np.size(epsilons), shape, model.bounds)
    levels = np.unique(given)
    classes = checks.count_classes(model, shape)
    checks.check_attacks(map(attack_of, entries.values()), model, goal, classes, levels, shape)
    labels = np.asarray(goal.labels)

    session = session.answered()
    logits = session.clean_logits
    assert logits is not None
    predictions = np.where(np.isnan(logits).any(1), -1, logits.argmax(1))  # NaN: no prediction
    right = predictions == labels
    probe = np.flatnonzero(right)[:64]
    scan = program.read_program(model, shape)
    looks = [
        answers.meant_labels(logits, labels),
        answers.meant_radius(levels[-1], norm, int(np.prod(shape)), model.bounds),
        program.operations(scan),
        program.no_gradients_inside(scan),
    ]
    messages = [look.message for look in looks if not look.passed]
    if len(probe) and not missing:
        messages += checks.check_gradients(model, images[probe], Untargeted(labels[probe]))
    broken_by = np.tile(np.where(right, SURVIVED, MISCLASSIFIED), len(levels))
    adversarial = np.tile(images, (len(levels), *[1] * len(shape)))
    distance = np.where(right, np.inf, 0.0)
    rows = Rows(np.tile(np.arange(count), len(levels)), np.repeat(levels, count))
    stages: list[Stage] = []
    with session.watched(progress) as session:
        for one in run_cascade(session, entries, rows, distance, nested=True):
            level, source = np.divmod(one.rows, count)
            stages.append(Stage(one.name, one.attack, one.result, source, level))
            broken_by[one.broken] = one.number
            adversarial[one.broken] = one.result.images[one.by]
            distance = one.distance
    complete = len(stages) == len(entries) and not any(
        (stage.result.status == Status.NOT_RUN).any() for stage in stages
    )
    lost = sum(int((stage.result.status == Status.NONFINITE).sum()) for stage in stages)
    if lost:
        messages.append(f"{lost} attacks met NaN or infinities and found nothing: see `ja.check`")
    return Report(
        norm=norm,
        epsilons=levels,
        ids=ids,
        labels=labels,
        predictions=predictions,
        logits=logits,
        images=images,
        bounds=model.bounds,
        stages=stages,
        broken_by=broken_by.reshape(len(levels), count),
        adversarial=adversarial.reshape(len(levels), *images.shape),
        distance=distance,
        messages=messages,
        complete=complete,
        rejected=rejected,
    )
