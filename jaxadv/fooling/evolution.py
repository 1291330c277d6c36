"""Fooling images by evolution: MAP-Elites with one elite for every class.

As in Nguyen, Yosinski and Clune (2014, arXiv 1412.1897): every child competes for the place of
every class, with the probability of the class as its fitness.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, PyTree
from scipy.special import softmax

from jaxadv.core.bounds import two_numbers
from jaxadv.core.host import host_errors
from jaxadv.core.model import Model
from jaxadv.core.pytree import take
from jaxadv.engine.checks import count_classes, key_or_first
from jaxadv.engine.verify import predict
from jaxadv.fooling.ascent import ascend
from jaxadv.fooling.encodings import CPPN, Direct, Encoding
from jaxadv.fooling.resemblance import Resemblance

ENCODINGS = {"direct": Direct, "cppn": CPPN}
OFFSPRING = 200  # of a generation, and as many to begin with
PENALTY = 1e3  # on the log probability, below every image that does not resemble its class


class FoolingImages(NamedTuple):
    """One fooling image for each class.

    Attributes:
        images: float32 [K, H, W, C] within the bounds.
        confidence: [K], probability of the image's class, recomputed in another batch.
        answers: [K], class that the model predicts.
        history: [G, K], confidence after each generation (gradient ascent: after each step).
        forward: Forward passes.
        backward: Backward passes.
    """

    images: np.ndarray
    confidence: np.ndarray
    answers: np.ndarray
    history: np.ndarray
    forward: int
    backward: int


@host_errors()
def fooling_images(
    model: Model,
    shape: tuple[int, int, int],
    method: str | Encoding = "cppn",
    *,
    generations: int = 200,
    classes: int | None = None,
    key: Array | None = None,
    until: float = np.inf,
    resemblance: Resemblance | None = None,
) -> FoolingImages:
    """Compute a meaningless image for each class that the model assigns to that class.

    Nguyen, Yosinski and Clune 2014, arXiv 1412.1897. Evolution is score-based and queries 200
    images initially and in every generation. Gradient ascent costs one forward and one backward
    pass for each class and step.

    Args:
        model: The model.
        shape: Shape (H, W, C) of the images.
        method: "direct" or "cppn" (evolution), "gradient" (gradient ascent from noise), or an
            `Encoding`.
        generations: Generations of the evolution, or steps of the gradient ascent, at most.
        classes: Number of classes, the first ones of the model (None: all). For a model with a
            rejection class, pass the number of classes before it.
        key: JAX random key (None: seed 0).
        until: Median confidence at which evolution ends.
        resemblance: Says which images resemble their class; in evolution any other image is fitter.

    Returns:
        The images with their confidence and the passes.

    Raises:
        ValueError: `method` is unknown, `generations` is below 1, `classes` is not between 1 and
            the number of the model's classes, or gradient ascent is given what evolution takes.

    Example:
        >>> import jax.numpy as jnp, jaxadv as ja
        >>> model = ja.Model(lambda w, x: 9 * x.reshape(len(x), -1) @ w, jnp.eye(4))
        >>> found = ja.fooling_images(model, (2, 2, 1), "direct", generations=30)
        >>> found.answers.tolist(), bool((found.confidence > 0.9).all())
        ([0, 1, 2, 3], True)
    """
    if generations < 1:
        raise ValueError(f"generations={generations}: pass 1 or more")
    known = count_classes(model, shape)
    classes = known if classes is None else classes
    if not 1 <= classes <= known:
        raise ValueError(f"classes={classes}: the model has {known}")
    key = key_or_first(key)
    if method == "gradient" and (resemblance is not None or until < np.inf):
        raise ValueError('until and resemblance are for evolution: pass method "direct" or "cppn"')
    if method == "gradient":
        pictures, history = ascend(model, shape, key, generations, classes)
        forward, backward = classes * (generations + 1), classes * generations
    else:
        encoding = _encoding(method, shape)
        lower, upper = two_numbers(model.bounds, "a fooling image")
        task = _Task(model, key, np.float32(until), resemblance)
        genomes, history, number = _evolve(encoding, task, generations, classes)
        history = history[: int(number)]
        pictures = lower + (upper - lower) * jax.vmap(encoding.image)(genomes)
        forward, backward = OFFSPRING * (int(number) + 1), 0
    images = np.asarray(pictures)
    logits = predict(model, images).astype(np.float64)
    confidence = softmax(logits, 1)[np.arange(classes), np.arange(classes)]
    return FoolingImages(
        images, confidence, logits.argmax(1), np.asarray(history), forward, backward
    )


def _encoding(method: str | Encoding, shape: tuple[int, int, int]) -> Encoding:
    if not isinstance(method, str):
        return method
    if method not in ENCODINGS:
        raise ValueError(f"method={method!r}: pass direct, cppn, gradient or an encoding")
    return ENCODINGS[method](shape)


class _Task(NamedTuple):
    """What an evolution is about: `model`, `until` and `resemblance` are those of its caller."""

    model: Model
    key: Array
    until: np.float32
    resemblance: Resemblance | None


class _Archive(NamedTuple):
    """The elites.

    Attributes:
        genomes: [K, ...], genome of each class.
        fitness: [K], log probability of each, less the penalty.
    """

    genomes: PyTree
    fitness: Float[Array, " K"]


@functools.partial(jax.jit, static_argnums=(0, 2, 3))
def _evolve(
    encoding: Encoding, task: _Task, generations: int, classes: int
) -> tuple[PyTree, Float[Array, "G K"], Array]:
    """Run all generations as one program.

    Returns:
        The genomes [K, ...], the confidence [G, K] after each generation (0 for an image that
        resembles its class), and the number of generations that ran.
    """
    model, key, until, resemblance = task
    lower, upper = two_numbers(model.bounds, "a fooling image")

    def judge(genomes: PyTree) -> Float[Array, "P K"]:
        images = lower + (upper - lower) * jax.vmap(encoding.image)(genomes)
        fitness = jax.nn.log_softmax(model(images))[:, :classes]
        if resemblance is not None:
            fitness -= PENALTY * resemblance(images)[:, :classes]
        return fitness

    def compete(archive: _Archive, genomes: PyTree) -> _Archive:
        """Compare every child with the elite of every class, which only a better child replaces."""
        fitness = judge(genomes)
        best = fitness.argmax(0)
        wins = fitness.max(0) > archive.fitness
        old, new = archive.genomes, take(genomes, best)

        def choose(a: Array, b: Array) -> Array:
            return jnp.where(wins.reshape(-1, *(1,) * (a.ndim - 1)), b, a)

        fitness = jnp.maximum(archive.fitness, fitness.max(0))
        return _Archive(jax.tree.map(choose, old, new), fitness)

    def generation(
        state: tuple[_Archive, Array, Array],
    ) -> tuple[_Archive, Array, Array]:
        archive, history, number = state
        own = jax.random.fold_in(key, number + 1)
        mothers, fathers, births = jax.random.split(own, 3)
        mother = take(archive.genomes, jax.random.randint(mothers, (OFFSPRING,), 0, classes))
        father = take(archive.genomes, jax.random.randint(fathers, (OFFSPRING,), 0, classes))
        births = jax.random.split(births, OFFSPRING)
        children = jax.vmap(encoding.offspring, (0, 0, 0, None))(births, mother, father, number)
        archive = compete(archive, children)
        return archive, history.at[number].set(jnp.exp(archive.fitness)), number + 1

    def goes_on(state: tuple[_Archive, Array, Array]) -> Array:
        archive, _, number = state
        unsure = jnp.median(jnp.exp(archive.fitness)) < until
        return (number == 0) | ((number < generations) & unsure)

    first = jax.vmap(encoding.random)(jax.random.split(key, OFFSPRING))
    nothing = _Archive(take(first, jnp.zeros(classes, int)), jnp.full(classes, -jnp.inf))
    archive = compete(nothing, first)
    state = archive, jnp.zeros((generations, classes)), jnp.zeros((), jnp.int32)
    archive, history, number = lax.while_loop(goes_on, generation, state)
    return archive.genomes, history, number
