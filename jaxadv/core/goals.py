"""What an attack wants: a wrong answer, or a certain one.

A goal is a pytree. With a leading axis it holds the goals of a batch; an attack sees one image's.
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxadv.core.pytree import pytree, static


def others(logits: Float[Array, " K"], label: Any) -> Float[Array, " K"]:
    """The logits of the other classes: that of `label` is minus infinity."""
    return jnp.where(jnp.arange(logits.shape[-1]) == label, -jnp.inf, logits)


def _merged(logits: Float[Array, " K"], label: Any, rejected: int) -> Float[Array, " K"]:
    """The label's logit is the larger of its own and the rejecting one, which is taken away."""
    either = jnp.maximum(logits[label], logits[rejected])
    return others(jnp.where(jnp.arange(logits.shape[-1]) == label, either, logits), rejected)


def _margin(logits: Float[Array, " K"], label: Any) -> Float[Array, ""]:
    return logits[label] - others(logits, label).max()


@pytree
class Untargeted:
    """Any class but the right one.

    labels: integers [N] (one image: a scalar), the true classes.
    """

    labels: Any
    targeted = False

    def margin(self, logits: Float[Array, " K"]) -> Float[Array, ""]:
        """The label's logit less the largest other one: negative when the image is adversarial."""
        return _margin(logits, self.labels)

    def ways(self, classes: int) -> int:
        """How many of so many classes would do."""
        return classes - 1

    def left(self, logits: Float[Array, " K"]) -> Int[Array, ""]:
        """The class to be left: the one whose logit the margin compares with those that would
        do."""
        return jnp.asarray(self.labels)

    def merged(self, logits: Float[Array, " K"]) -> Float[Array, " K"]:
        """The logits in which this goal is to leave (or, targeted, to reach) a single class."""
        return logits

    def towards(self, target: Any) -> "Targeted":
        """The goal of reaching this one of the classes that would do."""
        return Targeted(self.labels, target)


@pytree
class Evading(Untargeted):
    """Any natural class but the right one: misclassified, and not rejected.

    For classifiers that can refuse an image: with a class more for what is tampered with or not
    natural, or with a detector (`ja.with_detector` makes it a class). Against them every attack is
    to be run with this goal: with `Untargeted`, to be found out would count as a success.

    labels: integers [N], the true classes, none of them `rejected`; rejected: the class that means
    that the image is refused. Adversarial is what the model takes for one of the K - 2 others.

    After Carlini and Wagner (2017, arXiv 1705.07263), who broke ten detectors so.

    >>> import jax.numpy as jnp, jaxadv as ja
    >>> goal = ja.Evading(jnp.int32(0), rejected=2)  # one image, of class 0
    >>> [bool(goal.margin(jnp.array(z)) < 0) for z in ([0.0, 1, 2], [0.0, 2, 1], [2.0, 1, 0])]
    [False, True, False]
    """

    rejected: Any = static()  # an integer, the same for all images

    def margin(self, logits: Float[Array, " K"]) -> Float[Array, ""]:
        """The larger of the label's and the rejecting logit less the largest other one: negative
        when the image is adversarial."""
        return _margin(self.merged(logits), self.labels)

    def ways(self, classes: int) -> int:
        return classes - 2

    def left(self, logits: Float[Array, " K"]) -> Int[Array, ""]:
        refused = logits[self.rejected] > logits[self.labels]
        return jnp.where(refused, self.rejected, self.labels)

    def merged(self, logits: Float[Array, " K"]) -> Float[Array, " K"]:
        return _merged(logits, self.labels, self.rejected)

    def towards(self, target: Any) -> "Targeted":
        return Targeted(self.labels, target, self.rejected)


@pytree
class Targeted:
    """One chosen wrong class.

    labels: integers [N], the true classes; targets: integers [N], the classes wanted. rejected: the
    class that means that the image is refused, if there is one: no target, and for a loss that
    compares the target with the label alone (DLR) to be left as the label is.
    """

    labels: Any
    targets: Any
    rejected: Any = static(default=None)
    targeted = True

    def margin(self, logits: Float[Array, " K"]) -> Float[Array, ""]:
        """The largest other logit less the target's: negative when the image is adversarial."""
        return -_margin(logits, self.targets)

    def ways(self, classes: int) -> int:
        """How many of so many classes would do: one."""
        return 1

    def left(self, logits: Float[Array, " K"]) -> Int[Array, ""]:
        """The class to be left: the one of the largest other logit."""
        return others(logits, self.targets).argmax()

    def merged(self, logits: Float[Array, " K"]) -> Float[Array, " K"]:
        """The logits in which the label and the class that rejects are one."""
        if self.rejected is None:
            return logits
        return _merged(logits, self.labels, self.rejected)

    def towards(self, target: Any) -> "Targeted":
        """The goal itself: it names its target."""
        return self


Goal = Untargeted | Targeted
