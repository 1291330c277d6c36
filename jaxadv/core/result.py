"""The result of a run, with the status of each image."""

import enum
from typing import NamedTuple

import numpy as np

Places = int | slice | list | np.integer | np.ndarray  # without jax, which a report does not load


class Status(enum.IntEnum):
    """The outcome of a run on one image."""

    NOT_RUN = 0  # interrupted, or the budget ran out first
    SUCCESS = 1  # an adversarial image was found, and verified
    MISCLASSIFIED = 2  # the goal held for the clean image: success at distance 0
    FAILED = 3  # the attack ended without success
    NONFINITE = 4  # failed, with NaN or infinite logits or gradients on the way
    REJECTED_LABEL = 5  # claimed, but not adversarial when classified again in another batch
    REJECTED_DISTANCE = 6  # claimed, but farther than epsilon in float64
    REJECTED_BOX = 7  # claimed, but outside the bounds or not finite
    PROVED = 8  # no adversarial image exists within epsilon
    UNDECIDED = 9  # neither an adversarial image nor a proof was found

    @property
    def success(self) -> bool:
        """Whether the image counts as adversarial."""
        return self in (Status.SUCCESS, Status.MISCLASSIFIED)


class Cost(NamedTuple):
    """The cost of a whole run on the hardware.

    Attributes:
        lane_ticks: Lanes times loop iterations, idle lanes included; each sends one image forward
            per query, and back for attacks with gradients.
        seconds: Wall time of the attack, including verification and compilation.
    """

    lane_ticks: int
    seconds: float


class Result(NamedTuple):
    """The verified outcome of `run`; every array has a leading axis N and lives on the host.

    The counts `forward` and `backward` are those that a sequential run would have paid.

    Attributes:
        images: float32 [N, H, W, C]; the image kept or, without a success, the query that came
            closest.
        success: bool; whether the image counts as adversarial.
        distance: float64; the distance from the original, in the norm of the attack.
        margin: float32; the margin of the verified image under the model (or the judge), negative
            if adversarial.
        forward: Number of images sent through the network, the clean image included.
        backward: Number of gradients pulled back.
        queries: Number of outputs that the attack used.
        computed: Number of images that the hardware sent forward for this one.
        status: The `Status` as an integer.
        ids: The example ids.
        epsilon: float64; the radius of the ball (infinite for minimum-norm attacks).
        cost: The cost of the whole run.
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
        """The number of claimed successes that verification rejected, by reason."""
        return {
            status.name: int((self.status == status).sum())
            for status in Status
            if status.name.startswith("REJECTED") and (self.status == status).any()
        }

    def rows(self, index: Places) -> "Result":
        """Return the result of the images at `index`."""
        return Result(*(leaf[index] for leaf in self[:-1]), cost=self.cost)

    def put(self, index: Places, part: "Result") -> None:
        """Write the rows of `part` in the place of these."""
        for old, new in zip(self[:-1], part[:-1], strict=True):
            old[index] = new


def empty_result(rows: int, shape: tuple[int, ...], epsilon: np.ndarray, ids: np.ndarray) -> Result:
    """Return the result of a run that has not begun (status `NOT_RUN`, margins NaN)."""

    def zeros(dtype: type = np.int32) -> np.ndarray:
        return np.zeros(rows, dtype)

    return Result(
        images=np.zeros((rows, *shape), np.float32),
        success=zeros(bool),
        distance=zeros(np.float64),
        margin=np.full(rows, np.nan, np.float32),
        forward=zeros(),
        backward=zeros(),
        queries=zeros(),
        computed=zeros(),
        status=zeros(np.int8),
        ids=ids,
        epsilon=epsilon,
    )
