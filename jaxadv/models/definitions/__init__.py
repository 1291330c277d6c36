"""Classifiers in Flax linen: images [N, H, W, C] in, logits [N, classes] out.

Layers have the names of their publications' torch code (conv1, fc1, bn1, ...), with "_" in place of
dots. All are in evaluation mode unless called with `train=True`. Flattening is in H, W, C order.
"""

from typing import Any

from jaxadv.models.definitions.classic import CNNA, FC, AlexNet, LeNet, MadryCNN, SmallCNN
from jaxadv.models.definitions.preact_resnet import PreActResNet18, WideResNet
from jaxadv.models.definitions.resnet import ResNet2b, ResNet18, ResNet32, ResNet50
from jaxadv.models.definitions.vit import ViT

DEFINITIONS: dict[str, Any] = {
    cls.__name__: cls
    for cls in (
        FC,
        LeNet,
        MadryCNN,
        SmallCNN,
        CNNA,
        ResNet2b,
        ResNet18,
        ResNet32,
        PreActResNet18,
        WideResNet,
        ResNet50,
        ViT,
        AlexNet,
    )
}


def get_definition(name: str) -> Any:
    """Return the definition of this name, or the only one whose name begins with it.

    Args:
        name: A name of `DEFINITIONS`, in upper or lower case, or the beginning of one.

    Returns:
        The class; its fields are the settings.

    Raises:
        ValueError: If no definition or several have this name; the message lists all names.

    >>> from jaxadv.models import get_definition
    >>> get_definition("FC")(widths=(32,)).classes, get_definition("lenet").__name__
    (10, 'LeNet')
    """
    names = [known for known in DEFINITIONS if known.lower().startswith(name.lower()) and name]
    found = [known for known in names if known.lower() == name.lower()] or names
    if len(found) != 1:
        raise ValueError(f"definition {name!r} is not known: pass one of {sorted(DEFINITIONS)}")
    return DEFINITIONS[found[0]]
