"""Fooling images by gradient ascent (Nguyen, Yosinski and Clune 2014, arXiv 1412.1897)."""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxadv.core.bounds import two_numbers
from jaxadv.core.model import Model
from jaxadv.cpu.rewrite import rewrite_for_cpu

DECAY = 0.003  # of the image towards the middle of its range, each step (published: 0.01, slower)
PROGRESS = (0.03, 0.1)  # wanted gain of probability a step, and as a fraction of what is missing


@functools.partial(jax.jit, static_argnums=(1, 3, 4))
def ascend(
    model: Model, shape: tuple[int, int, int], key: Array, steps: int, classes: int
) -> tuple[Float[Array, "K H W C"], Float[Array, "S K"]]:
    """Compute one fooling image for each class by gradient ascent.

    The ascent starts at the middle of the range plus Gaussian noise of a hundredth of it. The step
    length is what a linear model needs for the wanted progress; where the gradient of the
    probability vanishes, the step follows the gradient of its logarithm.

    Args:
        model: The model, whose bounds limit the images.
        shape: Shape (H, W, C) of the images.
        key: JAX random key.
        steps: Number S of gradient steps.
        classes: Number K of classes, the first ones of the model.

    Returns:
        The images [K, H, W, C], and the confidence [S, K] after each step.
    """
    lower, upper = two_numbers(model.bounds, "a fooling image")
    middle, span = 0.5 * (lower + upper), upper - lower
    own = jnp.arange(classes)

    def log_probability(model: Model, images: Array) -> tuple[Array, Array]:
        chosen = jax.nn.log_softmax(model(images))[own, own]
        return chosen.sum(), chosen

    def climb(model: Model, images: Array) -> tuple[Array, Array]:
        gradient_of = jax.grad(log_probability, argnums=1, has_aux=True)

        def step(images: Array, _: None) -> tuple[Array, Array]:
            gradient, before = gradient_of(model, images)
            wanted = jnp.minimum(PROGRESS[0], PROGRESS[1] * -jnp.expm1(before))
            # d p = p * d log p: in units of the logarithm the step is longer, and stays finite.
            wanted = jnp.minimum(wanted / jnp.maximum(jnp.exp(before), 1e-6), 1.0)
            length = wanted / jnp.maximum((gradient**2).sum((1, 2, 3)), 1e-12)
            moved = images + length[:, None, None, None] * gradient
            moved = jnp.clip(middle + (1 - DECAY) * (moved - middle), lower, upper)
            return moved, jnp.exp(log_probability(model, moved)[1])

        return lax.scan(step, images, None, length=steps)

    start = middle + 0.01 * span * jax.random.normal(key, (classes, *shape))
    climb = rewrite_for_cpu(climb) if jax.default_backend() == "cpu" else climb
    return climb(model, jnp.clip(start, lower, upper))
