"""Vision transformers (Dosovitskiy et al. 2021, "An image is worth 16x16 words", arXiv 2010.11929).

The small one is that of Touvron et al. 2021 (DeiT, arXiv 2012.12877).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxadv.models.definitions.layers import Images, Logits

Tokens = Float[Array, "N T D"]


class EncoderBlock(nn.Module):
    """Self-attention and a four times wider perceptron, each pre-normalised and residual."""

    heads: int

    @nn.compact
    def __call__(self, x: Tokens) -> Tokens:
        count, tokens, width = x.shape
        y = nn.LayerNorm(epsilon=1e-6, name="norm1")(x)
        y = nn.Dense(3 * width, name="attn_qkv")(y)
        y = y.reshape(count, tokens, 3, self.heads, width // self.heads)
        y = jax.nn.dot_product_attention(y[:, :, 0], y[:, :, 1], y[:, :, 2])
        x = x + nn.Dense(width, name="attn_proj")(y.reshape(x.shape))
        y = nn.LayerNorm(epsilon=1e-6, name="norm2")(x)
        y = nn.gelu(nn.Dense(4 * width, name="mlp_fc1")(y), approximate=False)
        return x + nn.Dense(width, name="mlp_fc2")(y)


class ViT(nn.Module):
    """A vision transformer, by default ViT-S/16: 22,050,664 parameters for images of 224 x 224.

    The logits are computed from a class token.

    Attributes:
        patch: Side of a patch in pixels, a divisor of the image's sides.
        width: Width of a token.
        depth: Number of encoder blocks.
        heads: Attention heads, a divisor of the width.
        classes: Number of classes.

    Raises:
        ValueError: When called on images that cannot be divided into patches.
    """

    patch: int = 16
    width: int = 384
    depth: int = 12
    heads: int = 6
    classes: int = 1000

    @nn.compact
    def __call__(self, images: Images) -> Logits:
        count, height, width, _ = images.shape
        if height % self.patch or width % self.patch:
            raise ValueError(
                f"images of {height} x {width} do not divide into patches of {self.patch}: resize "
                "them, or pass another patch"
            )
        size = (self.patch, self.patch)
        x = nn.Conv(self.width, size, size, padding="VALID", name="patch_embed_proj")(images)
        x = x.reshape(count, -1, self.width)
        first = self.param("cls_token", nn.initializers.zeros, (1, 1, self.width))
        x = jnp.concatenate([jnp.tile(first, (count, 1, 1)), x], 1)
        x = x + self.param("pos_embed", nn.initializers.normal(0.02), (1, *x.shape[1:]))
        for block in range(self.depth):
            x = EncoderBlock(self.heads, name=f"blocks_{block}")(x)
        x = nn.LayerNorm(epsilon=1e-6, name="norm")(x)
        return nn.Dense(self.classes, name="head")(x[:, 0])
