"""Two defences that can reject an image: an extra class, and a detector beside the classifier."""

import dataclasses

import numpy as np

from jaxadv.core.model import Model, with_detector
from jaxadv.data import Dataset
from jaxadv.engine.verify import predict
from jaxadv.studies.fooling_retraining import with_negatives
from jaxadv.studies.networks import names_of, network_of
from jaxadv.studies.setting import Setting


def trained(setting: Setting, data: Dataset, seed: int = 0) -> Model:
    """Return a network trained on these images: a LeNet (`quick`: FC), or the one that is given."""
    name = names_of(setting, ("FC" if setting.quick else "LeNet",))[0]
    return network_of(setting, name, seed, data).model


@dataclasses.dataclass(frozen=True)
class Defence:
    """A model that can reject an image.

    Attributes:
        name: What the defence was trained on.
        kind: "class" or "detector".
        model: Model with logits [N, K + 1].
        rejected: Index of the class that means rejection.
    """

    name: str
    kind: str
    model: Model
    rejected: int

    def on_natural(self, data: Dataset) -> tuple[float, float]:
        """Return the accuracy and the fraction of false rejections on natural images."""
        predicted = predict(self.model, data.images).argmax(1)
        return float((predicted == data.labels).mean()), float((predicted == self.rejected).mean())


def extra_class(setting: Setting, name: str, negatives: np.ndarray, seed: int = 0) -> Defence:
    """Train a network with an extra class, which holds the negatives [M, H, W, C].

    The negatives are repeated until they are about as many as the images of one other class.
    """
    model = trained(setting, with_negatives(setting.train, negatives), seed)
    return Defence(name, "class", model, len(setting.train.classes))


def detector_defence(
    setting: Setting, name: str, plain: Model, negatives: np.ndarray, seed: int = 0
) -> Defence:
    """Train a detector of negatives [M, H, W, C] and put it beside the plain network.

    Natural images and negatives are equally many, the negatives repeated where they are fewer.
    """
    data, half = setting.train, len(setting.train.labels)
    order = np.random.default_rng(seed).permutation(2 * half)
    images = np.concatenate([data.images, np.resize(negatives, data.images.shape)])[order]
    labels = np.repeat(np.arange(2, dtype=np.int32), half)[order]
    both = data._replace(
        images=images,
        labels=labels,
        ids=np.arange(2 * half, dtype=np.int32),
        classes=("natural", "tampered"),
    )
    detector = trained(setting, both, seed)
    return Defence(name, "detector", with_detector(plain, detector), len(data.classes))
