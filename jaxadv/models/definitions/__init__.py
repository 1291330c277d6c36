"""Classifiers in Flax linen: images [N, H, W, C] in, logits [N, classes] out.

Layers carry the names that their publications' torch code gave them (conv1, fc1, bn1, ...), with
"_" for its dots. All are in evaluation mode unless called with `train=True`. Flattening is in
H, W, C order.
"""

from typing import Any

from jaxadv.models.definitions.classic import CNNA, FC, AlexNet, LeNet, MadryCNN, SmallCNN
from jaxadv.models.definitions.preact_resnet import PreActResNet18, WideResNet
from jaxadv.models.definitions.resnet import ResNet2b, ResNet18, ResNet32, ResNet50
from jaxadv.models.definitions.vit import ViT

DEFINITIONS: dict[str, Any] = {
    cls.__name__: cls
    for cls in (
        FC, LeNet, MadryCNN, SmallCNN, CNNA, ResNet2b, ResNet18, ResNet32, PreActResNet18,
        WideResNet, ResNet50, ViT, AlexNet,
    )
}  # fmt: skip


def get_definition(name: str) -> Any:
    """The class of that name; its fields are the settings.

    Raises ValueError, with the known names, for any other.

    >>> from jaxadv.models import get_definition
    >>> get_definition("FC")(widths=(32,)).classes
    10
    """
    if name not in DEFINITIONS:
        raise ValueError(f"definition {name!r} is not known: pass one of {sorted(DEFINITIONS)}")
    return DEFINITIONS[name]
