"""What a run returns."""

import enum
from typing import Any, NamedTuple

import numpy as np


class Status(enum.IntEnum):
    """How one image's run ended."""

    NOT_RUN = 0  # interrupted, or the budget ran out first
    SUCCESS = 1  # an adversarial image was found, and verified
    MISCLASSIFIED = 2  # the goal held for the clean image: success at distance 0
    FAILED = 3  # the attack ended without success
    NONFINITE = 4  # failed, and the model gave NaN or infinite logits or gradients on the way
    REJECTED_LABEL = 5  # claimed, but classified again in another batch it was not adversarial
    REJECTED_DISTANCE = 6  # claimed, but further than epsilon in float64
    REJECTED_BOX = 7  # claimed, but outside the bounds or not finite

    @property
    def success(self) -> bool:
        """Whether the image counts as adversarial."""
        return self in (Status.SUCCESS, Status.MISCLASSIFIED)


class Cost(NamedTuple):
    """What the hardware did for a whole run.

    lane_ticks: lanes times loop iterations, idle lanes included (each is one image sent forward
    per query, and back); seconds: wall time of the attack, verification and compilation included.
    """

    lane_ticks: int
    seconds: float


class Result(NamedTuple):
    """The verified outcome of `run`; every array has leading axis N and lives on the host.

    images: [N, H, W, C] float32, the image kept (where none succeeded, the one asked that came
    closest); success: bool; distance: float64, from the original, in the attack's norm; margin:
    float32, of the verified image under the model (or the judge), negative when adversarial;
    forward, backward: images sent through the network and gradients pulled back, as a sequential
    run would have paid them (the clean image's forward pass included); queries: answers that the
    attack read; computed: images that the hardware sent forward for this one; status: `Status`;
    ids: example ids; epsilon: float64, the ball's radius (infinite for minimum-norm attacks).
    """

    images: np.ndarray
    success: np.ndarray
    distance: np.ndarray
    margin: np.ndarray
    forward: np.ndarray
    backward: np.ndarray
    queries: np.ndarray
    computed: np.ndarray
    status: np.ndarray
    ids: np.ndarray
    epsilon: np.ndarray
    cost: Cost = Cost(0, 0.0)

    @property
    def rejected(self) -> dict[str, int]:
        """How many claimed successes verification refused, by reason."""
        return {
            status.name: int((self.status == status).sum())
            for status in Status
            if status.name.startswith("REJECTED") and (self.status == status).any()
        }

    def rows(self, index: Any) -> "Result":
        """The result of some images only."""
        return Result(*(leaf[index] for leaf in self[:-1]), cost=self.cost)

    def put(self, index: Any, part: "Result") -> None:
        """Write the rows of `part` in the place of these."""
        for whole, rows in zip(self[:-1], part[:-1], strict=True):
            whole[index] = rows


def empty_result(rows: int, shape: tuple[int, ...], epsilon: np.ndarray, ids: np.ndarray) -> Result:
    """A result of which nothing has been run."""

    def zeros(dtype: Any = np.int32) -> np.ndarray:
        return np.zeros(rows, dtype)

    return Result(
        images=np.zeros((rows, *shape), np.float32), success=zeros(bool),
        distance=zeros(np.float64),
        margin=np.full(rows, np.nan, np.float32), forward=zeros(), backward=zeros(),
        queries=zeros(), computed=zeros(), status=zeros(np.int8), ids=ids, epsilon=epsilon,
    )  # fmt: skip
