"""Residual networks (He, Zhang, Ren, Sun 2016, "Deep residual learning", arXiv 1512.03385)."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array

from jaxadv.models.definitions.layers import Images, Logits, batch_norm, conv, flat


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions and a shortcut, with the activation after the sum.

    Attributes:
        channels: Channels of the output.
        stride: Stride of the first convolution.
        shortcut: Where the shape changes, "projection" (1 x 1 convolution) or "pad" (option A:
            every second pixel, zero channels on both sides).
        norm: Whether the block has batch normalisation; else biases.
    """

    channels: int
    stride: int = 1
    shortcut: str = "projection"
    norm: bool = True

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        def layer(x: Array, size: int, stride: int, names: tuple[str, str]) -> Array:
            x = conv(self.channels, size, stride, names[0], bias=not self.norm)(x)
            return batch_norm(names[1], train)(x) if self.norm else x

        y = nn.relu(layer(x, 3, self.stride, ("conv1", "bn1")))
        y = layer(y, 3, 1, ("conv2", "bn2"))
        if x.shape != y.shape and self.shortcut == "projection":
            x = layer(x, 1, self.stride, ("shortcut_0", "shortcut_1"))
        elif x.shape != y.shape:
            x = x[:, :: self.stride, :: self.stride]
            more = self.channels - x.shape[-1]
            x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (more // 2, more - more // 2)))
        return nn.relu(x + y)


class ResNet(nn.Module):
    """A ResNet for images of 32 x 32: stages of `blocks` basic blocks each."""

    widths: tuple[int, ...] = (64, 128, 256, 512)
    blocks: int = 2
    shortcut: str = "projection"
    classes: int = 10

    @nn.compact
    def __call__(self, images: Images, train: bool = False) -> Logits:
        x = nn.relu(batch_norm("bn1", train)(conv(self.widths[0], 3, 1, "conv1")(images)))
        for stage, channels in enumerate(self.widths, 1):
            for block in range(self.blocks):
                stride = 2 if stage > 1 and block == 0 else 1
                name = f"layer{stage}_{block}"
                x = BasicBlock(channels, stride, self.shortcut, name=name)(x, train)
        return nn.Dense(self.classes, name="linear")(x.mean((1, 2)))


class ResNet18(ResNet):
    """The ResNet-18 that CIFAR-10 robustness papers use: 11,173,962 parameters."""


class ResNet32(ResNet):
    """The ResNet-32 of the paper for CIFAR-10, with shortcuts of option A: 464,154 parameters."""

    widths: tuple[int, ...] = (16, 32, 64)
    blocks: int = 5
    shortcut: str = "pad"


class ResNet2b(nn.Module):
    """The two-block ResNet of the verification competition, without batch normalisation."""

    classes: int = 10

    @nn.compact
    def __call__(self, images: Images) -> Logits:
        x = nn.relu(conv(8, 3, 2, "conv1", bias=True)(images))
        x = BasicBlock(16, 2, norm=False, name="layer1_0")(x)
        x = BasicBlock(16, 1, norm=False, name="layer1_1")(x)
        x = nn.relu(nn.Dense(100, name="linear1")(flat(x)))
        return nn.Dense(self.classes, name="linear2")(x)


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 (with the stride) and 1 x 1 convolutions, the last four times as wide."""

    channels: int
    stride: int = 1

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        def layer(x: Array, width: int, size: int, stride: int, names: tuple[str, str]) -> Array:
            return batch_norm(names[1], train)(conv(width, size, stride, names[0])(x))

        wide = 4 * self.channels
        y = nn.relu(layer(x, self.channels, 1, 1, ("conv1", "bn1")))
        y = nn.relu(layer(y, self.channels, 3, self.stride, ("conv2", "bn2")))
        y = layer(y, wide, 1, 1, ("conv3", "bn3"))
        if x.shape != y.shape:
            x = layer(x, wide, 1, self.stride, ("downsample_0", "downsample_1"))
        return nn.relu(x + y)


class ResNet50(nn.Module):
    """The ResNet-50 of ImageNet in torchvision's layout: 25,557,032 parameters.

    The stride is in the 3 x 3 convolution ("v1.5"); in the paper it is in the 1 x 1 before it.

    Attributes:
        blocks: Number of bottlenecks in each stage.
        classes: Number of classes.
    """

    blocks: tuple[int, ...] = (3, 4, 6, 3)
    classes: int = 1000

    @nn.compact
    def __call__(self, images: Images, train: bool = False) -> Logits:
        x = nn.relu(batch_norm("bn1", train)(conv(64, 7, 2, "conv1")(images)))
        x = nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))  # type: ignore[arg-type]
        for stage, blocks in enumerate(self.blocks, 1):
            for block in range(blocks):
                stride = 2 if stage > 1 and block == 0 else 1
                name = f"layer{stage}_{block}"
                x = Bottleneck(32 * 2**stage, stride, name=name)(x, train)
        return nn.Dense(self.classes, name="fc")(x.mean((1, 2)))
