"""Layers shared by several definitions."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

Images = Float[Array, "N H W C"]
Logits = Float[Array, "N K"]


def flat(x: Array) -> Array:
    """Reshape [N, H, W, C] to [N, H * W * C]."""
    return x.reshape(len(x), -1)


def pool(x: Array) -> Array:
    """Maximum of every 2 x 2 pixels."""
    return nn.max_pool(x, (2, 2), (2, 2))


def conv(channels: int, size: int, stride: int, name: str, bias: bool = False) -> nn.Conv:
    """A convolution of odd size with zero padding, so that stride 1 keeps the shape."""
    return nn.Conv(channels, (size, size), stride, padding=size // 2, use_bias=bias, name=name)


def batch_norm(name: str, train: bool) -> nn.BatchNorm:
    """Batch normalisation with torch's constants."""
    return nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5, name=name)


class Normalized(nn.Module):
    """A module that sees (images - mean) / std; its variables are those of the module."""

    module: nn.Module
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def setup(self) -> None:
        nn.share_scope(self, self.module)

    def __call__(self, images: Images) -> Logits:
        mean, std = jnp.asarray(self.mean, images.dtype), jnp.asarray(self.std, images.dtype)
        return self.module((images - mean) / std)
