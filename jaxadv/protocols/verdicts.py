"""What is known of images after an attempt to prove them: a verdict for each, and why no more."""

import dataclasses
import enum

import numpy as np

from jaxadv.core.model import Model
from jaxadv.core.result import Cost
from jaxadv.proofs.certificates import Certificate
from jaxadv.proofs.replay import Replayer


class Verdict(enum.IntEnum):
    """What is known of one image, and why no more."""

    NOT_RUN = 0  # interrupted, or the seconds were spent before
    PROVED = 1  # no image of the region is adversarial
    BROKEN = 2  # an adversarial image was found, and verified
    MISCLASSIFIED = 3  # the clean image is: broken at distance 0
    LOOSE = 4  # unknown: the bounds of this effort are too loose
    BUDGET = 5  # unknown: the budget of subproblems or seconds was spent in branch and bound
    STUCK = 6  # unknown: all ReLUs of a part are split, and its bound is still below 0
    UNCONFIRMED = 7  # unknown: bounds above 0 in float32 were not confirmed in float64
    NONFINITE = 8  # unknown: the bounds are NaN or infinite


@dataclasses.dataclass(frozen=True)
class Proofs:
    """What is proved about N images: neither `proved` nor `broken` means unknown.

    Attributes:
        norm: Name of the norm.
        arithmetic: "float32" or "real", the arithmetic for which the proofs hold.
        epsilon: Floats [N], the radii.
        images: Floats [N, H, W, C], the adversarial images (the clean image where none was found).
        originals: Floats [N, H, W, C], the clean images.
        labels: Integers [N].
        ids: Integers [N] that identify the images in the random keys.
        proved: Booleans [N], whether no image of the region is adversarial.
        broken: Booleans [N], whether an adversarial image was found and verified.
        status: Integers [N], the `Verdict`.
        lower: Floats [N], lower bounds of the margin over the region: from the replay in float64
            where proved, else as computed in float32; -infinity where none was computed.
        upper: Floats [N], the least margin of all images tried.
        subproblems: Integers [N], subproblems of branch and bound, of margins and of inputs.
        forward: Integers [N], forward passes.
        backward: Integers [N], backward passes.
        certificates: What proves each image, or None.
        complete: False if the call was interrupted or its seconds were spent.
        cost: Seconds of the whole call (its lane ticks are 0).
    """

    norm: str
    arithmetic: str
    epsilon: np.ndarray
    images: np.ndarray
    originals: np.ndarray
    labels: np.ndarray
    ids: np.ndarray
    proved: np.ndarray
    broken: np.ndarray
    status: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    subproblems: np.ndarray
    forward: np.ndarray
    backward: np.ndarray
    certificates: list[Certificate | None]
    complete: bool
    cost: Cost

    @property
    def accuracy(self) -> tuple[float, float]:
        """The interval of the robust accuracy: the proved images, and those that are not broken."""
        return float(self.proved.mean()), float(1 - self.broken.mean())

    def replay(self, model: Model) -> np.ndarray:
        """Compute the proved lower bounds again, from the certificates alone, in float64.

        Another routine than the one that found the proofs, without optimisation; nothing in a
        certificate is believed.

        Args:
            model: The model.

        Returns:
            Floats [N], lower bounds of the margin over each region: the image is proved where they
            are above 0. -infinity without a certificate.
        """
        replayer = Replayer(model, self.originals.shape[1:], self.norm, self.arithmetic)
        return np.array(
            [
                -np.inf
                if proof is None
                else replayer.lower(
                    self.originals[i], float(self.epsilon[i]), int(self.labels[i]), proof
                )
                for i, proof in enumerate(self.certificates)
            ]
        )
