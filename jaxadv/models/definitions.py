"""Small and classic classifiers in Flax linen: images [N, H, W, C] in, logits [N, classes] out.

Layers carry the names that their publications' torch code gave them (conv1, fc1, bn1, ...). All are
in evaluation mode unless called with `train=True`. Flattening is in H, W, C order.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

Images = Float[Array, "N H W C"]
Logits = Float[Array, "N K"]


def _flat(x: Array) -> Array:
    return x.reshape(len(x), -1)


def _pool(x: Array) -> Array:
    return nn.max_pool(x, (2, 2), (2, 2))


class FC(nn.Module):
    """A fully connected network: hidden layers of `widths`, `activation` a function of `jax.nn`.

    The default, 100-100-10, is of the kind that Szegedy et al. (2013) used on MNIST.
    """

    widths: tuple[int, ...] = (100, 100)
    classes: int = 10
    activation: str = "relu"

    @nn.compact
    def __call__(self, images: Images) -> Logits:
        x = _flat(images)
        for number, width in enumerate(self.widths, 1):
            x = getattr(nn, self.activation)(nn.Dense(width, name=f"fc{number}")(x))
        return nn.Dense(self.classes, name=f"fc{len(self.widths) + 1}")(x)


class LeNet(nn.Module):
    """After LeCun et al. (1998), wider, with ReLU and max-pooling; 28 x 28: 212,542 parameters."""

    classes: int = 10

    @nn.compact
    def __call__(self, images: Images) -> Logits:
        x = _pool(nn.relu(nn.Conv(16, (5, 5), name="conv1")(images)))
        x = _pool(nn.relu(nn.Conv(32, (5, 5), name="conv2")(x)))
        x = nn.relu(nn.Dense(120, name="fc1")(_flat(x)))
        x = nn.relu(nn.Dense(84, name="fc2")(x))
        return nn.Dense(self.classes, name="fc3")(x)


class MadryCNN(nn.Module):
    """The MNIST network of Madry et al. (2018): conv5x5-32, conv5x5-64, each pooled, fc 1024."""

    classes: int = 10

    @nn.compact
    def __call__(self, images: Images) -> Logits:
        x = _pool(nn.relu(nn.Conv(32, (5, 5), name="conv1")(images)))
        x = _pool(nn.relu(nn.Conv(64, (5, 5), name="conv2")(x)))
        x = nn.relu(nn.Dense(1024, name="fc1")(_flat(x)))
        return nn.Dense(self.classes, name="fc2")(x)


class SmallCNN(nn.Module):
    """The MNIST network of TRADES (Zhang et al., 2019), after Carlini and Wagner (2017)."""

    classes: int = 10

    @nn.compact
    def __call__(self, images: Images) -> Logits:
        x = images
        for number, channels in enumerate((32, 32, 64, 64), 1):
            x = nn.relu(nn.Conv(channels, (3, 3), padding="VALID", name=f"conv{number}")(x))
            if number % 2 == 0:
                x = _pool(x)
        x = nn.relu(nn.Dense(200, name="fc1")(_flat(x)))
        x = nn.relu(nn.Dense(200, name="fc2")(x))
        return nn.Dense(self.classes, name="fc3")(x)


class CNNA(nn.Module):
    """ "CNN-A" of the verification papers (Wong and Kolter, 2018; Dathathri et al., 2020)."""

    classes: int = 10

    @nn.compact
    def __call__(self, images: Images) -> Logits:
        x = images
        for number, channels in enumerate((16, 32), 1):
            x = nn.relu(nn.Conv(channels, (4, 4), 2, padding=1, name=f"conv{number}")(x))
        x = nn.relu(nn.Dense(100, name="fc1")(_flat(x)))
        return nn.Dense(self.classes, name="fc2")(x)


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions and a shortcut, activated after the sum (He et al., 2016).

    shortcut: where the shape changes, "projection" (1 x 1 convolution) or "pad" (option A: every
    second pixel, zero channels around); norm: batch normalisation, else biases.
    """

    channels: int
    stride: int = 1
    shortcut: str = "projection"
    norm: bool = True

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        def layer(x: Array, size: int, stride: int, names: tuple[str, str]) -> Array:
            padding = size // 2
            x = nn.Conv(self.channels, (size, size), stride, padding=padding,
                        use_bias=not self.norm, name=names[0])(x)  # fmt: skip
            return _batch_norm(names[1], train)(x) if self.norm else x

        y = nn.relu(layer(x, 3, self.stride, ("conv1", "bn1")))
        y = layer(y, 3, 1, ("conv2", "bn2"))
        if x.shape != y.shape and self.shortcut == "projection":
            x = layer(x, 1, self.stride, ("shortcut_0", "shortcut_1"))
        elif x.shape != y.shape:
            x = x[:, :: self.stride, :: self.stride]
            more = self.channels - x.shape[-1]
            x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (more // 2, more - more // 2)))
        return nn.relu(x + y)


def _batch_norm(name: str, train: bool) -> nn.Module:
    return nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5, name=name)


class ResNet(nn.Module):
    """A ResNet for images of 32 x 32 (He et al., 2016): stages of `blocks` basic blocks each."""

    widths: tuple[int, ...] = (64, 128, 256, 512)
    blocks: int = 2
    shortcut: str = "projection"
    classes: int = 10

    @nn.compact
    def __call__(self, images: Images, train: bool = False) -> Logits:
        x = nn.Conv(self.widths[0], (3, 3), padding=1, use_bias=False, name="conv1")(images)
        x = nn.relu(_batch_norm("bn1", train)(x))
        for stage, channels in enumerate(self.widths, 1):
            for block in range(self.blocks):
                stride = 2 if stage > 1 and block == 0 else 1
                name = f"layer{stage}_{block}"
                x = BasicBlock(channels, stride, self.shortcut, name=name)(x, train)
        return nn.Dense(self.classes, name="linear")(x.mean((1, 2)))


class ResNet18(ResNet):
    """The ResNet-18 that CIFAR-10 robustness papers use: 11,173,962 parameters."""


class ResNet32(ResNet):
    """The ResNet-32 of He et al. (2016) for CIFAR-10, with shortcuts of option A."""

    widths: tuple[int, ...] = (16, 32, 64)
    blocks: int = 5
    shortcut: str = "pad"


class ResNet2b(nn.Module):
    """The two-block ResNet of the verification competition, without batch normalisation."""

    classes: int = 10

    @nn.compact
    def __call__(self, images: Images) -> Logits:
        x = nn.relu(nn.Conv(8, (3, 3), 2, padding=1, name="conv1")(images))
        x = BasicBlock(16, 2, norm=False, name="layer1_0")(x)
        x = BasicBlock(16, 1, norm=False, name="layer1_1")(x)
        x = nn.relu(nn.Dense(100, name="linear1")(_flat(x)))
        return nn.Dense(self.classes, name="linear2")(x)


DEFINITIONS: dict[str, Any] = {
    cls.__name__: cls for cls in (FC, LeNet, MadryCNN, SmallCNN, CNNA, ResNet18, ResNet32, ResNet2b)
}


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
