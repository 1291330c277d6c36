"""Two ways to refuse: one class more, and a detector beside the classifier."""

import dataclasses

import numpy as np

from jaxadv.core.model import Model, with_detector
from jaxadv.data import Dataset
from jaxadv.engine.verify import predict
from jaxadv.studies.fooling.study import with_negatives
from jaxadv.studies.networks import plain
from jaxadv.studies.setting import Setting


def trained(setting: Setting, data: Dataset, seed: int = 0) -> Model:
    """A LeNet trained on these images; where it is to be quick, two layers of 100 units."""
    return plain(setting, data, seed, epochs=12, kind="FC" if setting.quick else "LeNet").model


@dataclasses.dataclass(frozen=True)
class Defence:
    """A model that can refuse: name; kind: "class" or "detector"; model: answers [N, K + 1]; the
    class `rejected` means that the image is refused."""

    name: str
    kind: str
    model: Model
    rejected: int

    def on_natural(self, data: Dataset) -> tuple[float, float]:
        """(accuracy, false rejections) on natural images: the shares of the images that are taken
        for their class, and that are refused."""
        answers = predict(self.model, data.images).argmax(1)
        return float((answers == data.labels).mean()), float((answers == self.rejected).mean())


def extra_class(setting: Setting, name: str, negatives: np.ndarray, seed: int = 0) -> Defence:
    """A network with a class more, trained on negatives [M, H, W, C] too: each so often that
    together they are as many as the images of one other class."""
    model = trained(setting, with_negatives(setting.train, negatives), seed)
    return Defence(name, "class", model, len(setting.train.classes))


def detector_defence(
    setting: Setting, name: str, plain: Model, negatives: np.ndarray, seed: int = 0
) -> Defence:
    """The plain network, and another that was trained to tell natural images from negatives
    [M, H, W, C]: as many of the one as of the other, repeated where they are fewer."""
    data, half = setting.train, len(setting.train.labels)
    order = np.random.default_rng(seed).permutation(2 * half)
    images = np.concatenate([data.images, np.resize(negatives, data.images.shape)])[order]
    labels = np.repeat(np.arange(2, dtype=np.int32), half)[order]
    both = data._replace(
        images=images, labels=labels, ids=np.arange(2 * half, dtype=np.int32),
        classes=("natural", "tampered"),
    )  # fmt: skip
    detector = trained(setting, both, seed)
    return Defence(name, "detector", with_detector(plain, detector), len(data.classes))
