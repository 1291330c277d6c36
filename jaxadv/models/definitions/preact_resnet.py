"""Residual networks with normalisation and activation before each convolution.

He, Zhang, Ren, Sun 2016, "Identity mappings in deep residual networks" (arXiv 1603.05027);
Zagoruyko, Komodakis 2016, "Wide residual networks" (arXiv 1605.07146).
"""

import flax.linen as nn
from jaxtyping import Array

from jaxadv.models.definitions.layers import Images, Logits, batch_norm, conv


class PreActBlock(nn.Module):
    """Two times batch normalisation, ReLU and 3 x 3 convolution, with a shortcut around them.

    Attributes:
        channels: Channels of the output.
        stride: Stride of the first convolution.
        projection: Name of the 1 x 1 convolution of the shortcut, where the shape changes.
        activated: Whether that convolution starts after the first ReLU (as in the papers); else
            before the first normalisation.
    """

    channels: int
    stride: int = 1
    projection: str = "shortcut_0"
    activated: bool = True

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        active = nn.relu(batch_norm("bn1", train)(x))
        y = conv(self.channels, 3, self.stride, "conv1")(active)
        y = conv(self.channels, 3, 1, "conv2")(nn.relu(batch_norm("bn2", train)(y)))
        if x.shape != y.shape:
            begin = active if self.activated else x
            x = conv(self.channels, 1, self.stride, self.projection)(begin)
        return x + y


class PreActResNet18(nn.Module):
    """The pre-activation ResNet-18 of CIFAR-10 robustness papers: 11,171,146 parameters.

    Published weights come in three forms, which `activated` and `final_norm` tell apart.

    Attributes:
        widths: Channels of the stages.
        blocks: Blocks per stage.
        activated: See `PreActBlock`.
        final_norm: Whether a batch normalisation and a ReLU follow the last block, as in the paper
            (11,172,170 parameters).
        classes: Number of classes.
    """

    widths: tuple[int, ...] = (64, 128, 256, 512)
    blocks: int = 2
    activated: bool = True
    final_norm: bool = False
    classes: int = 10

    @nn.compact
    def __call__(self, images: Images, train: bool = False) -> Logits:
        x = conv(self.widths[0], 3, 1, "conv1")(images)
        for stage, channels in enumerate(self.widths, 1):
            for block in range(self.blocks):
                stride = 2 if stage > 1 and block == 0 else 1
                name = f"layer{stage}_{block}"
                x = PreActBlock(channels, stride, activated=self.activated, name=name)(x, train)
        if self.final_norm:
            x = nn.relu(batch_norm("bn", train)(x))
        return nn.Dense(self.classes, name="linear")(x.mean((1, 2)))


class WideResNet(nn.Module):
    """WRN-`depth`-`width` for images of 32 x 32, without dropout.

    WRN-28-10 has 36,479,194 parameters; WRN-34-10, the network of TRADES, has 46,160,474.

    Attributes:
        depth: Number of layers, 6 n + 4 for n blocks per stage.
        width: Factor of the channels.
        classes: Number of classes.

    Raises:
        ValueError: When called, if depth is not 6 n + 4.
    """

    depth: int = 28
    width: int = 10
    classes: int = 10

    @nn.compact
    def __call__(self, images: Images, train: bool = False) -> Logits:
        blocks, rest = divmod(self.depth - 4, 6)
        if rest or blocks < 1:
            raise ValueError(f"depth={self.depth}: pass 6 n + 4, such as 16, 28, 34 or 70")
        x = conv(16, 3, 1, "conv1")(images)
        for stage, channels in enumerate((16, 32, 64), 1):
            for block in range(blocks):
                stride = 2 if stage > 1 and block == 0 else 1
                name = f"block{stage}_layer_{block}"
                x = PreActBlock(self.width * channels, stride, "convShortcut", name=name)(x, train)
        x = nn.relu(batch_norm("bn1", train)(x))
        return nn.Dense(self.classes, name="fc")(x.mean((1, 2)))
