"""Exact minimal distances with proof, for checking attacks against the true value.

Linear classifiers are solved in closed form, decision trees by their leaves, and ensembles of trees
and ReLU networks with one hidden layer by mixed-integer programming (SciPy's HiGHS).
"""

import math
import time
from types import ModuleType

import numpy as np

from jaxadv.certification.exact import linear, relu, trees
from jaxadv.certification.exact.answer import ExactDistance, Question, check_settings, checked_image
from jaxadv.certification.exact.crossing import Crossing, step_over
from jaxadv.certification.exact.linear import LinearClassifier, linear_classifier
from jaxadv.certification.exact.relu import ReLUNetwork, relu_network
from jaxadv.certification.exact.trees import TreeEnsemble, tree_ensemble
from jaxadv.core.norms import diameter
from jaxadv.core.typing import Numbers

__all__ = [
    "Crossing",
    "ExactDistance",
    "LinearClassifier",
    "ReLUNetwork",
    "TreeEnsemble",
    "exact_distance",
    "linear_classifier",
    "relu_network",
    "step_over",
    "tree_ensemble",
]


METHODS: dict[type, ModuleType] = {LinearClassifier: linear, TreeEnsemble: trees, ReLUNetwork: relu}


def exact_distance(
    classifier: LinearClassifier | TreeEnsemble | ReLUNetwork,
    image: Numbers,
    label: int,
    norm: str = "linf",
    *,
    upper: float | None = None,
    bounds: tuple[float, float] = (0.0, 1.0),
    seconds: float = math.inf,
    gap: float = 1e-5,
) -> ExactDistance:
    """Compute the minimal adversarial distance of one image, with proof.

    All is computed in float64. For linear classifiers and networks the distance is the infimum, at
    which another score equals the label's (networks: to HiGHS's tolerance of about 1e-7). Trees
    compare inputs as float32, as scikit-learn does, and another score must exceed the label's by
    1e-5 of the largest score, so that a tie is no mistake. A misclassified image has distance 0.

    One tree and linear classifiers take milliseconds; forests of ten shallow trees a second; a
    784-40-10 network seconds to minutes. All but the first two grow fast with the distance.

    Args:
        classifier: A `LinearClassifier` (all norms, also with infinite bounds), a `TreeEnsemble`
            (all norms) or a `ReLUNetwork` (Linf and L1; HiGHS has no quadratic objective with
            integers); see `linear_classifier`, `tree_ensemble` and `relu_network`.
        image: The image [...], whose entries in row order are the classifier's inputs.
        label: The class of the image.
        norm: "linf", "l2", "l1" or "l0".
        upper: A distance at which an adversarial image is known, such as one found by an attack;
            the search does not go beyond it.
        bounds: The least and the largest value of a pixel.
        seconds: Time limit of the whole call, after which the best result so far is returned, with
            `proved` False.
        gap: The relative gap of each mixed-integer program.

    Returns:
        The distance, the adversarial image, and what was proved. If no adversarial image lies
        within `upper`, the distance is infinite and `lower` is `upper`; that counts as proved only
        if the box ends there.

    Raises:
        ValueError: `classifier` is of another type or its arrays do not fit together; its method
            does not have `norm`; `image` has another size than the classifier's inputs, is not
            finite or leaves `bounds`; `label` is not a class; or `upper`, `seconds` or `gap` is not
            above 0.

    >>> import numpy as np, jaxadv as ja
    >>> larger = ja.LinearClassifier(np.eye(2), np.zeros(2))  # of two pixels the larger one wins
    >>> found = ja.exact_distance(larger, [0.8, 0.2], 0, norm="l2")
    >>> round(found.distance, 6), found.witness.tolist(), found.proved
    (0.424264, [0.5, 0.5], True)
    >>> network = ja.ReLUNetwork(np.eye(2), np.zeros(2), np.eye(2), np.zeros(2))
    >>> round(ja.exact_distance(network, [0.8, 0.2], 0, norm="linf").distance, 6)
    0.3
    """
    begun = time.monotonic()
    method = METHODS.get(type(classifier))
    if method is None:
        raise ValueError(
            f"classifier is {type(classifier).__name__}: pass ja.linear_classifier(estimator), "
            "ja.tree_ensemble(estimator) or ja.relu_network(model)"
        )
    if norm not in method.NORMS:
        raise ValueError(
            f"norm={norm!r}: for a {type(classifier).__name__} pass one of "
            f"{', '.join(method.NORMS)}"
        )
    check_settings(upper, seconds, gap)
    classifier = classifier.checked()
    inputs, classes = classifier.size
    low, high = map(float, bounds)
    x = checked_image(image, inputs, label, classes, (low, high))
    whole = float(diameter(norm, x.size, high - low))
    limit = whole if upper is None else min(float(upper), whole)
    question = Question(x, label, norm, low, high, limit, whole, seconds, gap)
    scores = classifier.scores(x[None])[0]
    if np.delete(scores, label).max() > scores[label]:
        result = question.answer(0.0, x, 0.0)
    else:
        result = method.nearest(classifier, question)
    witness = None if result.witness is None else result.witness.reshape(np.shape(image))
    return result._replace(witness=witness, seconds=time.monotonic() - begun)
