"""Small classifiers: fully connected networks, and convolutions followed by dense layers."""

import flax.linen as nn

from jaxadv.models.definitions.layers import Images, Logits, flat, pool


class FC(nn.Module):
    """A fully connected network.

    The default, 100-100-10, is of the kind that Szegedy et al. (2013) used on MNIST.

    Attributes:
        widths: Widths of the hidden layers.
        classes: Number of classes.
        activation: Name of a function of `jax.nn`.
    """

    widths: tuple[int, ...] = (100, 100)
    classes: int = 10
    activation: str = "relu"

    @nn.compact
    def __call__(self, images: Images) -> Logits:
        x = flat(images)
        for number, width in enumerate(self.widths, 1):
            x = getattr(nn, self.activation)(nn.Dense(width, name=f"fc{number}")(x))
        return nn.Dense(self.classes, name=f"fc{len(self.widths) + 1}")(x)


class LeNet(nn.Module):
    """LeNet after LeCun et al. (1998), wider, ReLU and max-pooling; 28 x 28: 212,542 parameters."""

    classes: int = 10

    @nn.compact
    def __call__(self, images: Images) -> Logits:
        x = pool(nn.relu(nn.Conv(16, (5, 5), name="conv1")(images)))
        x = pool(nn.relu(nn.Conv(32, (5, 5), name="conv2")(x)))
        x = nn.relu(nn.Dense(120, name="fc1")(flat(x)))
        x = nn.relu(nn.Dense(84, name="fc2")(x))
        return nn.Dense(self.classes, name="fc3")(x)


class MadryCNN(nn.Module):
    """The MNIST network of Madry et al. (2018): conv5x5-32, conv5x5-64, each pooled, fc 1024."""

    classes: int = 10

    @nn.compact
    def __call__(self, images: Images) -> Logits:
        x = pool(nn.relu(nn.Conv(32, (5, 5), name="conv1")(images)))
        x = pool(nn.relu(nn.Conv(64, (5, 5), name="conv2")(x)))
        x = nn.relu(nn.Dense(1024, name="fc1")(flat(x)))
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
                x = pool(x)
        x = nn.relu(nn.Dense(200, name="fc1")(flat(x)))
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
        x = nn.relu(nn.Dense(100, name="fc1")(flat(x)))
        return nn.Dense(self.classes, name="fc2")(x)


class AlexNet(nn.Module):
    """AlexNet for images of 224 x 224 in torchvision's layout: 61,100,840 parameters.

    Krizhevsky 2014, "One weird trick for parallelizing convolutional neural networks" (arXiv
    1404.5997), without dropout, in evaluation mode.

    Attributes:
        channels: Channels of the convolutions (the 2012 paper's: 96, 256, 384, 384, 256).
        width: Width of the hidden dense layers.
        classes: Number of classes.

    Raises:
        ValueError: When called on images whose last feature map is not 6 x 6.
    """

    channels: tuple[int, ...] = (64, 192, 384, 256, 256)
    width: int = 4096
    classes: int = 1000

    @nn.compact
    def __call__(self, images: Images) -> Logits:
        x = images
        kernels = ((0, 11, 4, 2), (3, 5, 1, 2), (6, 3, 1, 1), (8, 3, 1, 1), (10, 3, 1, 1))
        for wide, (place, size, stride, edge) in zip(self.channels, kernels, strict=True):
            name = f"features_{place}"
            x = nn.relu(nn.Conv(wide, (size, size), stride, padding=edge, name=name)(x))
            if place in (0, 3, 10):
                x = nn.max_pool(x, (3, 3), (2, 2))
        if x.shape[1:3] != (6, 6):
            raise ValueError(f"images of {images.shape[1:3]}: pass 224 x 224, or 223 to 254 a side")
        x = nn.relu(nn.Dense(self.width, name="classifier_1")(flat(x)))
        x = nn.relu(nn.Dense(self.width, name="classifier_4")(x))
        return nn.Dense(self.classes, name="classifier_6")(x)
