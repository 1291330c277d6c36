"""Images of nothing that a network is sure of: evolution of one elite for every class.

MAP-Elites as in Nguyen, Yosinski and Clune (2014, arXiv 1412.1897): an archive with a place for
every class; every child competes for all of them, with the probability of the class as its fitness.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float
from scipy.special import softmax

from jaxadv.core.model import Model
from jaxadv.core.pytree import take
from jaxadv.engine.checks import count_classes
from jaxadv.engine.verify import predict
from jaxadv.studies.fooling.ascent import ascend
from jaxadv.studies.fooling.encodings import CPPN, Direct, Encoding

ENCODINGS = {"direct": Direct, "cppn": CPPN}
OFFSPRING = 200  # of a generation, and as many to begin with


class FoolingImages(NamedTuple):
    """One image for each class.

    images [K, H, W, C] float32 within the bounds; confidence [K]: the probability of its class,
    asked again in another batch; answers [K]: the class that the model gives; history [G, K]: the
    confidence after each generation (gradient ascent: after each step); forward, backward: passes.
    """

    images: np.ndarray
    confidence: np.ndarray
    answers: np.ndarray
    history: np.ndarray
    forward: int
    backward: int


def fooling_images(
    model: Model,
    shape: tuple[int, int, int],
    method: str | Encoding = "cppn",
    *,
    generations: int = 200,
    classes: int | None = None,
    key: Array | None = None,
) -> FoolingImages:
    """An image for each class that means nothing and that the model takes for it.

    shape: (H, W, C); method: "direct" or "cppn" (evolution, by answers alone), "gradient" (ascent
    from noise, `generations` steps for each class), or an encoding of your own; classes: the first
    so many (default: all; of a model with a class for what is not natural, those before it); key:
    default seed 0. Evolution asks 200 images to begin with and in every generation; ascent one
    image a class and step, forward and back.

    Nguyen, Yosinski and Clune (2014, arXiv 1412.1897). Raises ValueError for an unknown method and
    for sizes that cannot be meant.

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
    key = jax.random.key(0) if key is None else key
    if method == "gradient":
        pictures, history = ascend(model, shape, key, generations, classes)
        forward, backward = classes * (generations + 1), classes * generations
    else:
        encoding = _encoding(method, shape)
        lower, upper = model.bounds
        genomes, history = _evolve(encoding, model, key, generations, classes)
        pictures = lower + (upper - lower) * jax.vmap(encoding.image)(genomes)
        forward, backward = OFFSPRING * (generations + 1), 0
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


class _Archive(NamedTuple):
    """The elite of each class: genomes [K, ...] and the log of their probability [K]."""

    genomes: Any
    fitness: Any


@functools.partial(jax.jit, static_argnums=(0, 3, 4))
def _evolve(
    encoding: Encoding, model: Model, key: Array, generations: int, classes: int
) -> tuple[Any, Float[Array, "G K"]]:
    """(genomes [K, ...], confidence [G, K]): all generations as one program."""
    lower, upper = model.bounds

    def judge(genomes: Any) -> Float[Array, "P K"]:
        images = lower + (upper - lower) * jax.vmap(encoding.image)(genomes)
        return jax.nn.log_softmax(model(images))[:, :classes]

    def compete(archive: _Archive, genomes: Any) -> _Archive:
        """Every child for every place; who is not strictly better does not move in."""
        fitness = judge(genomes)
        best = fitness.argmax(0)
        wins = fitness.max(0) > archive.fitness
        old, new = archive.genomes, take(genomes, best)

        def choose(a: Array, b: Array) -> Array:
            return jnp.where(wins.reshape(-1, *(1,) * (a.ndim - 1)), b, a)

        fitness = jnp.maximum(archive.fitness, fitness.max(0))
        return _Archive(jax.tree.map(choose, old, new), fitness)

    def generation(archive: _Archive, number: Array) -> tuple[_Archive, Array]:
        own = jax.random.fold_in(key, number + 1)
        mothers, fathers, births = jax.random.split(own, 3)
        mother = take(archive.genomes, jax.random.randint(mothers, (OFFSPRING,), 0, classes))
        father = take(archive.genomes, jax.random.randint(fathers, (OFFSPRING,), 0, classes))
        births = jax.random.split(births, OFFSPRING)
        children = jax.vmap(encoding.offspring, (0, 0, 0, None))(births, mother, father, number)
        archive = compete(archive, children)
        return archive, jnp.exp(archive.fitness)

    first = jax.vmap(encoding.random)(jax.random.split(key, OFFSPRING))
    nothing = _Archive(take(first, jnp.zeros(classes, int)), jnp.full(classes, -jnp.inf))
    archive = compete(nothing, first)
    archive, history = lax.scan(generation, archive, jnp.arange(generations))
    return archive.genomes, history
