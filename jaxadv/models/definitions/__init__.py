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
    """The class of that name, in any case, or of the only name that begins so; its fields are the
    settings.

    Raises ValueError, with the known names, for any other.

    >>> from jaxadv.models import get_definition
    >>> get_definition("FC")(widths=(32,)).classes, get_definition("lenet").__name__
    (10, 'LeNet')
    """
    names = [known for known in DEFINITIONS if known.lower().startswith(name.lower()) and name]
    found = [known for known in names if known.lower() == name.lower()] or names
    if len(found) != 1:
        raise ValueError(f"definition {name!r} is not known: pass one of {sorted(DEFINITIONS)}")
    return DEFINITIONS[found[0]]
