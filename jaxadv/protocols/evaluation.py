"""The result of an evaluation: its stages, and what they say about each image at each epsilon."""

import dataclasses

import numpy as np

from jaxadv.core.attack import Attack
from jaxadv.core.bounds import Bounds
from jaxadv.core.result import Result, Status
from jaxadv.protocols.prover import Prover
from jaxadv.protocols.visibility import Visibility

MISCLASSIFIED, SURVIVED = -2, -1


@dataclasses.dataclass(frozen=True)
class Stage:
    """One attack of an evaluation.

    Attributes:
        name: Name of the attack in the cascade.
        attack: The attack with its settings, or how images were proved.
        result: The result of its M rows.
        source: Integers [M], the image that each row attacked.
        level: Integers [M], the index of the epsilon at which each row attacked.
    """

    name: str
    attack: Attack | Prover
    result: Result
    source: np.ndarray
    level: np.ndarray


@dataclasses.dataclass(frozen=True)
class Report:
    """Result of `evaluate`: robustness of a classifier at E epsilons on N images.

    Attributes:
        norm: Name of the norm.
        epsilons: Floats [E], ascending; with a radius for each image among them [E, N], by their
            means ascending.
        ids: Integers [N] that identify the images in the random keys.
        labels: Integers [N].
        predictions: Integers [N], the class of highest clean logit (-1 where a logit is NaN).
        logits: Floats [N, K], the logits of the clean images.
        images: Floats [N, H, W, C], the clean images.
        bounds: The bounds of the model: the least and the largest pixel value, or the ranges of the
            features.
        stages: Every attack with all its rows, in the order of their runs; last the proofs, whose
            successes are the counterexamples that they found.
        broken_by: Integers [E, N], the number of the stage that broke the image at this epsilon or
            a smaller one of its own; -1 where the image survived, -2 where it was misclassified
            from the start (with targets: where it is in its target class).
        adversarial: Floats [E, N, H, W, C], the adversarial image of that stage, else the clean
            image.
        distance: Floats [N], the smallest adversarial distance that any stage found; 0 where the
            clean image is misclassified (with targets: in its target class), infinite where none
            was found.
        messages: Warnings of the checks.
        complete: False if the evaluation was interrupted.
        certified: Floats [N] or None, certified radii in the same norm (NaN: not certified); they
            are put in with `dataclasses.replace`.
        rejected: The rejection class of the model, None if it has none.
        targets: Integers [N], the class that each image was to be turned into; None where any wrong
            one counts.
        proved: Booleans [E, N], whether no image within this epsilon is adversarial, with
            certainty; None if nothing was to be proved.
        visibility: How visible the adversarial images are, [E, N] (NaN where no attack broke the
            image), or None; it is put in with `dataclasses.replace` (see `report_visibility`).
    """

    norm: str
    epsilons: np.ndarray
    ids: np.ndarray
    labels: np.ndarray
    predictions: np.ndarray
    logits: np.ndarray
    images: np.ndarray
    bounds: Bounds
    stages: list[Stage]
    broken_by: np.ndarray
    adversarial: np.ndarray
    distance: np.ndarray
    messages: list[str]
    complete: bool
    certified: np.ndarray | None = None
    rejected: int | None = None
    targets: np.ndarray | None = None
    proved: np.ndarray | None = None
    visibility: Visibility | None = None

    @property
    def radii(self) -> np.ndarray:
        """Floats [E, N], the radius of each image at each epsilon."""
        shape = len(self.epsilons), len(self.labels)
        return np.broadcast_to(self.epsilons.reshape(len(self.epsilons), -1), shape)

    @property
    def clean_accuracy(self) -> float:
        """The fraction of images that are classified correctly."""
        return float((self.predictions == self.labels).mean())

    @property
    def false_rejections(self) -> float | None:
        """The fraction of clean images that are rejected; None without a rejection class."""
        return None if self.rejected is None else float((self.predictions == self.rejected).mean())

    @property
    def attacked(self) -> np.ndarray:
        """Booleans [N], the images that were attacked: those that were not adversarial already.

        They are those classified correctly; with targets, those not in their target class.
        """
        return self.broken_by[0] != MISCLASSIFIED

    @property
    def robust_accuracy(self) -> np.ndarray:
        """The fraction [E] of images that no attack broke, for each epsilon.

        With targets, the fraction that no attack turned into their target.
        """
        return (self.broken_by == SURVIVED).mean(1)

    @property
    def robust_bounds(self) -> np.ndarray | None:
        """The true robust accuracy lies between these [E, 2]: images proved, images not broken.

        None if nothing was to be proved.
        """
        if self.proved is None:
            return None
        return np.stack([self.proved.mean(1), self.robust_accuracy], 1)

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
        """Return the accuracy at given epsilons, from the smallest distance of each image.

        Here and in `certified_curve`, epsilons are floats [E], or [E, N] for radii of each image.
        """
        broken = self.distance <= _columns(epsilons)
        return 1 - (broken | ~self.attacked).mean(1)

    def certified_curve(self, epsilons: np.ndarray) -> np.ndarray | None:
        """Return the certified accuracy, at most the accuracy; None without certificates.

        Without certified radii, those of the proofs: the largest epsilon at which each is proved.
        """
        radii = self.certified
        if radii is None and self.proved is not None:
            right = np.where(self.predictions == self.labels, 0.0, np.nan)
            radii = np.fmax.reduce(np.where(self.proved, self.radii, right))
        if radii is None:
            return None
        return (radii >= _columns(epsilons)).mean(1)


def _columns(epsilons: np.ndarray) -> np.ndarray:
    """Return epsilons [E] as [E, 1]; those of each image [E, N] as they are."""
    return np.atleast_2d(np.asarray(epsilons).T).T
