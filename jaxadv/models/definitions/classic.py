"""Small classifiers: fully connected, and convolutions that are followed by dense layers."""

import flax.linen as nn

from jaxadv.models.definitions.layers import Images, Logits, flat, pool


class FC(nn.Module):
    """A fully connected network: hidden layers of `widths`, `activation` a function of `jax.nn`.

    The default, 100-100-10, is of the kind that Szegedy et al. (2013) used on MNIST.
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
    """After LeCun et al. (1998), wider, with ReLU and max-pooling; 28 x 28: 212,542 parameters."""

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
