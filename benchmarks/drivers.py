"""The drivers beside `ja.run`, compiled for chips: training, certificates, universals."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec

import jaxadv as ja
from benchmarks.topology import Facts, Problem, classes_of, first, lowers, shapes_of
from jaxadv.certification.smoothing import vote_program
from jaxadv.core.losses import cross_entropy
from jaxadv.engine.verify import mesh_of
from jaxadv.models.train import Recipe, training_epoch
from jaxadv.universal.method import Method, MethodState, Rows, Task, epoch_program, lanes_for

ATTACK = ja.PGD(steps=10, step_size=0.25)
EPSILON = 0.1
TRAINING = 8192  # images of the training set, which every chip holds
Call = tuple[Callable[..., Any], tuple[Any, ...]]
"""A jitted function and its arguments."""


def _inputs(problem: Problem, count: int) -> tuple[Any, Any]:
    image = jax.ShapeDtypeStruct((count, *problem.shape), np.float32)
    return image, jax.ShapeDtypeStruct((count,), np.int32)


def _batch(problem: Problem) -> int:
    return problem.lanes * len(problem.devices)


def perturb_first(problem: Problem) -> Call:
    """`ja.perturb` that returns the first success."""

    def call(model: Any, images: Any, labels: Any) -> Any:
        goal, key = ja.Untargeted(labels), jax.random.key(0)
        return ja.perturb(ATTACK, model, images, goal, EPSILON, key=key, keep="first")

    return jax.jit(call), (problem.model, *_inputs(problem, _batch(problem)))


def descent(model: ja.Model, images: Any, labels: Any, axis: str | None = None) -> Any:
    """One step of adversarial training: the attacked images, and a descent on their loss."""
    goal, key = ja.Untargeted(labels), jax.random.key(0)
    moved = ja.perturb(ATTACK, model, images, goal, EPSILON, key=key, keep="last")

    def loss(params: Any) -> Any:
        logits = dataclasses.replace(model, params=params)(moved)
        return jax.vmap(lambda z, y: cross_entropy(ja.Untargeted(y), z))(logits, labels).mean()

    slope = jax.grad(loss)(model.params)
    slope = slope if axis is None else jax.lax.pmean(slope, axis)
    return jax.tree.map(lambda p, d: p - 0.1 * d, model.params, slope)


def step(problem: Problem) -> Call:
    """A step of training, as `jit` alone sees it."""
    return jax.jit(descent), (problem.model, *_inputs(problem, _batch(problem)))


def step_jit(problem: Problem) -> Call:
    """The same, where the batch is split over the chips and the compiler does the rest."""
    mesh = mesh_of(problem.devices)
    split, whole = (NamedSharding(mesh, PartitionSpec(*s)) for s in (("devices",), ()))
    jitted = jax.jit(descent, in_shardings=(whole, split, split), out_shardings=whole)
    return jitted, (problem.model, *_inputs(problem, _batch(problem)))


def step_shard_map(problem: Problem) -> Call:
    """The same in `shard_map`: every chip attacks its own images, gradients are averaged."""
    if len(problem.devices) == 1:
        return step(problem)
    split, whole = PartitionSpec("devices"), PartitionSpec()
    call = jax.shard_map(
        lambda *args: descent(*args, axis="devices"),
        mesh=mesh_of(problem.devices),
        in_specs=(whole, split, split),
        out_specs=whole,
        check_vma=False,
    )
    return jax.jit(call), (problem.model, *_inputs(problem, _batch(problem)))


def train(problem: Problem) -> Call:
    """An epoch of `ja.train`, adversarial, on all chips."""
    count = _batch(problem)
    image, _ = _inputs(problem, 1)
    variables = jax.eval_shape(problem.definition.init, jax.random.key(0), image)
    state = variables, jax.eval_shape(optax.scale_by_adam().init, variables["params"])
    recipe = Recipe(2, count, 1e-3, ATTACK, jnp.float32(EPSILON))
    args = (state, *_inputs(problem, TRAINING), jax.random.key(0), recipe)
    settings = {"definition": problem.definition, "devices": problem.devices}
    return jax.jit(lambda *args: training_epoch(*args, **settings, rewrite_cpu=False)), args


def certify(problem: Problem) -> Call:
    """The votes of `ja.certify`."""
    parts, images = len(problem.devices), _inputs(problem, 4)
    votes = jax.ShapeDtypeStruct((parts, 4, 2, classes_of(problem)), np.int32)
    one = jnp.int32(1)
    numbers = (jax.random.key(0), jnp.float32(0.5), (one, one, one), (one, one))
    return vote_program(problem.lanes, problem.devices), (problem.model, *images, *numbers, votes)


def _universal(method: Method, problem: Problem) -> Call:
    count = _batch(problem)
    task = Task(problem.model, np.float32(EPSILON), "linf", problem.shape)
    state = jax.eval_shape(method.init, task)
    now = MethodState(*state, jnp.int32(0), jnp.float32(4))
    images, _ = _inputs(problem, 4 * count)
    weights = jnp.ones(4 * count, jnp.float32)
    rows = Rows(images, first(4 * count), weights, jax.random.split(jax.random.key(0), 4 * count))
    program = epoch_program(count, lanes_for(count, problem.devices), problem.devices)
    return program, (method, task, now, rows, jax.random.key(0))


def ascent(problem: Problem) -> Call:
    """An epoch of `ja.universal_perturbation`."""
    return _universal(ja.UniversalAscent(epochs=1), problem)


def aggregation(problem: Problem) -> Call:
    """An epoch of Moosavi-Dezfooli's algorithm."""
    return _universal(ja.UniversalAggregation(epochs=1), problem)


DRIVERS: dict[str, tuple[Callable[[Problem], Call], int | None]] = {
    "perturb": (perturb_first, 1),
    "step": (step, 1),
    "step-jit": (step_jit, None),
    "step-shard_map": (step_shard_map, None),
    "train": (train, None),
    "certify": (certify, None),
    "universal-ascent": (ascent, None),
    "universal-aggregation": (aggregation, None),
}
"""The drivers by name, and on how many chips each is compiled (None: on all)."""


def facts(name: str, problem: Problem) -> Facts:
    """What the program of a driver says, compiled for as many chips as it takes."""
    make, chips = DRIVERS[name]
    return compiled(make, problem._replace(devices=problem.devices[:chips]))


def lowers_driver(platform: str, name: str, problem: Problem) -> str:
    """Whether a driver on one device is lowered for a platform, or why not."""
    alone = problem._replace(devices=problem.devices[:1])
    return lowers(platform, lambda: DRIVERS[name][0](alone))


def compiled(make: Callable[[Problem], Call], problem: Problem) -> Facts:
    """Compile a driver for its chips."""
    mesh, (jitted, args) = mesh_of(problem.devices), make(problem)
    with jax.set_mesh(mesh):  # from here on nothing is computed, for nothing can run there
        if len(problem.devices) == 1:  # nothing in it names the chip
            place = NamedSharding(mesh, PartitionSpec())
            jitted = jax.jit(jitted, in_shardings=place)
        return Facts.of(jitted.lower(*shapes_of(args)).compile())
