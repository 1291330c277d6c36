"""Goals of attacks: untargeted, targeted, and past a detector.

A goal is a pytree. With a leading axis it holds the goals of a batch; an attack sees one image's.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from jaxadv.core.pytree import pytree, static
from jaxadv.core.typing import ArrayLike, Number

Classes = PyTree[int | np.integer | ArrayLike]
"""The number of one class, or those of N images in a list or an array [N]."""


def logit_of(logits: Float[Array, " K"], label: Classes) -> Float[Array, ""]:
    """Return the logit of a class; XLA compiles a masked sum faster than an index of its own."""
    return jnp.where(jnp.arange(logits.shape[-1]) == label, logits, 0).sum()


def others(logits: Float[Array, " K"], label: Classes) -> Float[Array, " K"]:
    """Return the logits with that of `label` set to minus infinity."""
    return jnp.where(jnp.arange(logits.shape[-1]) == label, -jnp.inf, logits)


def _merged(logits: Float[Array, " K"], label: Classes, rejected: Number) -> Float[Array, " K"]:
    """Give the label the larger of its own and the rejection logit; mask the rejection class."""
    either = jnp.maximum(logit_of(logits, label), logit_of(logits, rejected))
    return others(jnp.where(jnp.arange(logits.shape[-1]) == label, either, logits), rejected)


def _margin(logits: Float[Array, " K"], label: Classes) -> Float[Array, ""]:
    return logit_of(logits, label) - others(logits, label).max()


@pytree
class Untargeted:
    """Any class but the true one.

    Attributes:
        labels: The true classes, integers [N] (a scalar for one image).
    """

    labels: Classes
    targeted = False

    def margin(self, logits: Float[Array, " K"]) -> Float[Array, ""]:
        """Return the label's logit minus the largest other one; it is negative if adversarial."""
        return _margin(logits, self.labels)

    def ways(self, classes: int) -> int:
        """Return the number of classes, out of `classes`, that count as success."""
        return classes - 1

    def left(self, logits: Float[Array, " K"]) -> Int[Array, ""]:
        """Return the source class: the class from which the margin is measured."""
        return jnp.asarray(self.labels)

    def merged(self, logits: Float[Array, " K"]) -> Float[Array, " K"]:
        """Return the logits in which the goal is to leave (targeted: to reach) one single class."""
        return logits

    def towards(self, target: Classes) -> "Targeted":
        """Return the goal of reaching `target`, one of the classes that count as success."""
        return Targeted(self.labels, target)


@pytree
class Evading(Untargeted):
    """Any class but the true one and the rejection class: misclassified, and not rejected.

    This is the goal for classifiers that can reject an image: with an additional class for images
    that are tampered with or not natural, or with a detector (`ja.with_detector` turns it into a
    class). Every attack on them should be run with this goal, because with `Untargeted` a detected
    image would count as a success. An image is adversarial if the model assigns it to one of the
    other K - 2 classes. After Carlini and Wagner (2017, arXiv 1705.07263), who broke ten detectors
    in this way.

    Attributes:
        labels: The true classes, integers [N], none of them equal to `rejected`.
        rejected: The class that means that the image is rejected, an integer, the same for all
            images.

    >>> import jax.numpy as jnp, jaxadv as ja
    >>> goal = ja.Evading(jnp.int32(0), rejected=2)  # one image, of class 0
    >>> [bool(goal.margin(jnp.array(z)) < 0) for z in ([0.0, 1, 2], [0.0, 2, 1], [2.0, 1, 0])]
    [False, True, False]
    """

    rejected: Number = static()  # an integer, which `check_goal` checks

    def margin(self, logits: Float[Array, " K"]) -> Float[Array, ""]:
        """Return the margin of the goal.

        It is the larger of the label's and the rejection class's logit, minus the largest other
        one, and negative if the image is adversarial.
        """
        return _margin(self.merged(logits), self.labels)

    def ways(self, classes: int) -> int:
        return classes - 2

    def left(self, logits: Float[Array, " K"]) -> Int[Array, ""]:
        refused = logit_of(logits, self.rejected) > logit_of(logits, self.labels)
        return jnp.where(refused, self.rejected, self.labels)

    def merged(self, logits: Float[Array, " K"]) -> Float[Array, " K"]:
        return _merged(logits, self.labels, self.rejected)

    def towards(self, target: Classes) -> "Targeted":
        return Targeted(self.labels, target, self.rejected)


@pytree
class Targeted:
    """One chosen wrong class.

    Attributes:
        labels: The true classes, integers [N] (a scalar for one image).
        targets: The target classes, integers [N].
        rejected: The class that means that the image is rejected, or None. It is not a target; a
            loss that compares the target with the label alone (DLR) treats it as it treats the
            label.
    """

    labels: Classes
    targets: Classes
    rejected: Number | None = static(default=None)
    targeted = True

    def margin(self, logits: Float[Array, " K"]) -> Float[Array, ""]:
        """Return the largest other logit minus that of the target; negative if adversarial."""
        return -_margin(logits, self.targets)

    def ways(self, classes: int) -> int:
        """Return the number of classes that count as success, which is one."""
        return 1

    def left(self, logits: Float[Array, " K"]) -> Int[Array, ""]:
        """Return the source class: the one with the largest logit apart from the target's."""
        return others(logits, self.targets).argmax()

    def merged(self, logits: Float[Array, " K"]) -> Float[Array, " K"]:
        """Return the logits in which the label and the rejection class are one class."""
        if self.rejected is None:
            return logits
        return _merged(logits, self.labels, self.rejected)

    def towards(self, target: Classes) -> "Targeted":
        """Return the goal itself, which already names its target."""
        return self


Goal = Untargeted | Targeted
