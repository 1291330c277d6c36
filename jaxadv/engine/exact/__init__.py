"""Proved minimal distances: the truth that attacks can be held against.

Linear classifiers in closed form, decision trees by their leaves, ensembles of trees and ReLU
networks with one hidden layer by mixed-integer programming (SciPy's HiGHS).
"""

import math
import time
from typing import Any

import numpy as np

from jaxadv.core.norms import diameter
from jaxadv.engine.exact import linear, relu, trees
from jaxadv.engine.exact.answer import ExactDistance, Question, check_settings, checked_image
from jaxadv.engine.exact.linear import LinearClassifier, linear_classifier
from jaxadv.engine.exact.relu import ReLUNetwork, relu_network
from jaxadv.engine.exact.trees import TreeEnsemble, tree_ensemble

__all__ = [
    "ExactDistance", "LinearClassifier", "ReLUNetwork", "TreeEnsemble", "exact_distance",
    "linear_classifier", "relu_network", "tree_ensemble",
]  # fmt: skip


METHODS: dict[type, Any] = {LinearClassifier: linear, TreeEnsemble: trees, ReLUNetwork: relu}


def exact_distance(
    classifier: LinearClassifier | TreeEnsemble | ReLUNetwork,
    image: Any,
    label: int,
    norm: str = "linf",
    *,
    upper: float | None = None,
    bounds: tuple[float, float] = (0.0, 1.0),
    seconds: float = math.inf,
    gap: float = 1e-5,
) -> ExactDistance:
    """The smallest distance at which a classifier errs, with proof.

    classifier: a `LinearClassifier` (all norms, also with infinite bounds), a `TreeEnsemble` (all
    norms) or a `ReLUNetwork` (Linf and L1; HiGHS has no quadratic objective with integers); see
    `linear_classifier`, `tree_ensemble`, `relu_network`. image: [...] in row order; label: its
    class; norm: "linf", "l2", "l1" or "l0". upper: a distance at which an adversarial image is
    known, say of an attack; nothing beyond is looked for. bounds: the box. seconds: in all, after
    which what is known is returned, `proved` False. gap: the relative gap of each program. All is
    computed in float64.

    Linear classifiers and networks: the infimum, at which another score is equal to the label's
    (networks: to HiGHS's 1e-7 or so). Trees: inputs are compared as float32, as scikit-learn does,
    and another score must exceed the label's by 1e-5 of the largest, so that a tie is no mistake.
    One tree and linear classifiers take milliseconds; forests of ten shallow trees a second; a
    784-40-10 network seconds to minutes, all growing fast with the distance. An image that is
    misclassified is at distance 0. Where nothing adversarial lies within `upper`, the distance is
    infinite, `lower` is `upper`, and that is not called proved unless the box ends there.

    Raises ValueError for what does not fit together, for a norm that the classifier's method does
    not have, and for settings that cannot be meant.

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
        found = question.answer(0.0, x, 0.0)
    else:
        found = method.nearest(classifier, question)
    witness = None if found.witness is None else found.witness.reshape(np.shape(image))
    return found._replace(witness=witness, seconds=time.monotonic() - begun)
