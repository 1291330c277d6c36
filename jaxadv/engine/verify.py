"""Verification: every returned image is judged again, from the image alone."""

import functools
from concurrent.futures import Future
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jaxtyping import Array

from jaxadv.core.goals import Evading, Goal, Targeted
from jaxadv.core.host import host_errors
from jaxadv.core.model import Model
from jaxadv.core.norms import distance64
from jaxadv.core.result import Status
from jaxadv.core.typing import ArrayLike, ChosenDevices, Devices
from jaxadv.cpu.rewrite import rewrite_for_cpu
from jaxadv.engine.compilation import Program
from jaxadv.engine.devices import choose_devices

VERIFICATION_BATCH = 100  # no power of two, so never the batch size of the attack
MANY = 64  # batches that one call of `predict`'s program takes, where at least 64 are left


@functools.lru_cache
def mesh_of(devices: ChosenDevices) -> jax.sharding.Mesh:
    """Return the mesh of the devices, with the one axis "devices"."""
    return jax.sharding.Mesh(np.array(devices), ("devices",), axis_types=(AxisType.Auto,))


def sharded(devices: ChosenDevices) -> NamedSharding:
    """Return the sharding of arrays [D, ...], one part a device."""
    return NamedSharding(mesh_of(devices), PartitionSpec("devices"))


@functools.lru_cache
def _forward(width: int, devices: ChosenDevices) -> Program:
    """Return the program (model, images [D, N, ...]) -> logits [D, N, K], in batches of `width`."""

    def one(model: Model, images: Array) -> Array:
        images = images[0].reshape(-1, width, *images.shape[2:])
        apply = (
            rewrite_for_cpu(lambda m, x: m(x))
            if devices[0].platform == "cpu"
            else lambda m, x: m(x)
        )
        logits = jax.lax.map(lambda batch: apply(model, batch), images)
        return logits.reshape(1, -1, logits.shape[-1]).astype(jnp.float32)

    if len(devices) > 1:
        split, replicated = PartitionSpec("devices"), PartitionSpec()
        one = jax.shard_map(
            one,
            mesh=mesh_of(devices),
            in_specs=(replicated, split),
            out_specs=split,
            check_vma=False,
        )
    place = sharded(devices)
    return Program(jax.jit(one, out_shardings=place))


def bucket(count: int, unit: int) -> int:
    """Round `count` up to a multiple of `unit`, to one of few sizes: few programs are compiled."""
    units = max(1, -(-count // unit))
    step = 2 ** max(0, units.bit_length() - 3)
    return unit * step * -(-units // step)


def forward_sharded(model: Model, images: ArrayLike, width: int, devices: ChosenDevices) -> Array:
    """Return logits [D, N, K] of images [D, N, H, W, C]; N is a multiple of `width`."""
    return _forward(width, devices)(model, images)


@host_errors()
def predict(
    model: Model,
    images: ArrayLike,
    devices: Devices = None,
    width: int = VERIFICATION_BATCH,
) -> np.ndarray:
    """Return float32 logits [N, K] of images [N, H, W, C], in batches of `width` on every device.

    devices: None for all local devices.
    """
    images = np.asarray(images, np.float32)
    devices = choose_devices(devices)
    count, parts = len(images), len(devices)
    pieces, begin = [], 0
    while begin < count:
        # Two sizes for all numbers of images, so that two programs suffice.
        size = width * parts * (MANY if count - begin >= MANY * width * parts else 1)
        piece = images[begin : begin + size]
        padded = np.concatenate(
            [piece, np.zeros((size - len(piece), *images.shape[1:]), np.float32)]
        )
        split = jax.device_put(padded.reshape(parts, -1, *images.shape[1:]), sharded(devices))
        logits = forward_sharded(model, split, width, devices)
        pieces.append((logits, len(piece)))
        begin += size
    return np.concatenate([np.asarray(z).reshape(-1, z.shape[-1])[:own] for z, own in pieces])


def compile_forward(
    model: Model, images: ArrayLike | jax.ShapeDtypeStruct, width: int, devices: ChosenDevices
) -> Future[Any]:
    """Begin to compile, in another thread, the program of `forward_sharded` for such images."""
    return _forward(width, devices).compile(model, images)[0]


def compile_predict(model: Model, shape: tuple[int, ...], devices: ChosenDevices) -> Future[Any]:
    """Begin to compile, in another thread, the program of `predict` for a few images [H, W, C]."""
    whole = (len(devices), VERIFICATION_BATCH, *shape)
    images = jax.ShapeDtypeStruct(whole, np.float32, sharding=sharded(devices))
    return compile_forward(model, images, VERIFICATION_BATCH, devices)


def margins(goal: Goal, logits: np.ndarray) -> np.ndarray:
    """Return signed margins [N], float32, from float64: negative where the goal is fulfilled."""
    wanted = np.asarray(goal.targets if isinstance(goal, Targeted) else goal.labels)
    rows = np.arange(len(logits))
    own = logits[rows, wanted].astype(np.float64)
    others = logits.astype(np.float64).copy()
    others[rows, wanted] = -np.inf
    if isinstance(goal, Evading):
        rejected = int(goal.rejected)
        own = np.maximum(own, logits[:, rejected])
        others[:, rejected] = -np.inf
    gap = own - others.max(1)
    return (-gap if goal.targeted else gap).astype(np.float32)


def verify(
    model: Model,
    norm: str,
    images: np.ndarray,
    originals: np.ndarray,
    goal: Goal,
    epsilon: np.ndarray,
    devices: ChosenDevices,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return status, distance and margin of each returned image, from the image alone.

    Args:
        model: The model that decides, with a fresh float32 batch.
        norm: Name of the norm.
        images: Floats [N, H, W, C], the returned images.
        originals: Floats [N, H, W, C], the clean images.
        goal: The goal, with integers [N].
        epsilon: Floats [N], the stated radii.
        devices: The devices to use.

    Returns:
        Status, distance (float64) and margin, each [N]. The status is SUCCESS for an image that is
        adversarial, within epsilon in float64, and inside the bounds; else the first reason of
        REJECTED_BOX, REJECTED_DISTANCE and REJECTED_LABEL that holds.
    """
    distance = distance64(norm, images, originals)
    margin = margins(goal, predict(model, images, devices))
    lower, upper = model.bounds
    inside = np.isfinite(images) & (images >= lower) & (images <= upper)
    boxed = inside.reshape(len(images), -1).all(1)
    status = np.full(len(images), Status.SUCCESS, np.int8)
    status[~(margin < 0)] = Status.REJECTED_LABEL
    status[~(distance <= epsilon)] = Status.REJECTED_DISTANCE
    status[~boxed] = Status.REJECTED_BOX
    return status, distance, margin
