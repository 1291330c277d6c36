"""Nothing is believed before it is checked: every returned image is judged anew."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxadv.core.goals import Evading, Goal, Targeted
from jaxadv.core.host import host_errors
from jaxadv.core.model import Model
from jaxadv.core.norms import distance64
from jaxadv.core.result import Status
from jaxadv.cpu.rewrite import rewrite_for_cpu
from jaxadv.engine.devices import choose_devices

VERIFICATION_BATCH = 100  # no power of two: never the batch that the attack ran in


@functools.lru_cache
def mesh_of(devices: tuple[Any, ...]) -> jax.sharding.Mesh:
    """The devices in a row, as the axis "devices"."""
    return jax.sharding.Mesh(np.array(devices), ("devices",), axis_types=(AxisType.Auto,))


def sharded(devices: tuple[Any, ...]) -> NamedSharding:
    """Arrays [D, ...], one part a device."""
    return NamedSharding(mesh_of(devices), PartitionSpec("devices"))


@functools.lru_cache
def _forward(width: int, devices: tuple[Any, ...]) -> Any:
    """Jitted (model, images [D, N, ...]) -> logits [D, N, K], in batches of `width`."""

    def one(model: Model, images: Any) -> Any:
        images = images[0].reshape(-1, width, *images.shape[2:])
        apply = (
            rewrite_for_cpu(lambda m, x: m(x))
            if devices[0].platform == "cpu"
            else lambda m, x: m(x)
        )
        logits = jax.lax.map(lambda batch: apply(model, batch), images)
        return logits.reshape(1, -1, logits.shape[-1]).astype(jnp.float32)

    if len(devices) > 1:
        split, whole = PartitionSpec("devices"), PartitionSpec()
        one = jax.shard_map(
            one, mesh=mesh_of(devices), in_specs=(whole, split), out_specs=split, check_vma=False
        )
    return jax.jit(one)


def bucket(count: int, unit: int) -> int:
    """At least `count`, a multiple of `unit` and one of few sizes: so few programs are compiled."""
    units = max(1, -(-count // unit))
    step = 2 ** max(0, units.bit_length() - 3)
    return unit * step * -(-units // step)


def forward_sharded(model: Model, images: Any, width: int, devices: tuple[Any, ...]) -> Any:
    """Logits [D, N, K] of images [D, N, H, W, C]; N is a multiple of `width`."""
    return _forward(width, devices)(model, images)


@host_errors()
def predict(
    model: Model, images: Any, devices: tuple[Any, ...] | None = None,
    width: int = VERIFICATION_BATCH,
) -> np.ndarray:  # fmt: skip
    """Logits [N, K] float32 of images [N, H, W, C], in batches of `width` on every device (None:
    all local ones)."""
    images = np.asarray(images, np.float32)
    devices = choose_devices(devices)
    count, parts = len(images), len(devices)
    block = width * parts
    pieces = []
    for begin in range(0, count, 64 * block):
        piece = images[begin : begin + 64 * block]
        size = bucket(len(piece), block)
        padded = np.concatenate(
            [piece, np.zeros((size - len(piece), *images.shape[1:]), np.float32)]
        )
        split = jax.device_put(padded.reshape(parts, -1, *images.shape[1:]), sharded(devices))
        logits = np.asarray(forward_sharded(model, split, width, devices))
        pieces.append(logits.reshape(size, -1)[: len(piece)])
    return np.concatenate(pieces)


def margins(goal: Goal, logits: np.ndarray) -> np.ndarray:
    """Signed margins [N] float32: negative where the goal holds. numpy, in float64."""
    wanted = np.asarray(goal.targets if isinstance(goal, Targeted) else goal.labels)
    rows = np.arange(len(logits))
    own = logits[rows, wanted].astype(np.float64)
    others = logits.astype(np.float64).copy()
    others[rows, wanted] = -np.inf
    if isinstance(goal, Evading):
        own = np.maximum(own, logits[:, goal.rejected])
        others[:, goal.rejected] = -np.inf
    gap = own - others.max(1)
    return (-gap if goal.targeted else gap).astype(np.float32)


def verify(
    model: Model,
    norm: str,
    images: np.ndarray,
    originals: np.ndarray,
    goal: Goal,
    epsilon: np.ndarray,
    devices: tuple[Any, ...],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Status, distance (float64) and margin of each returned image, from the image alone.

    SUCCESS: adversarial in a fresh float32 batch, within epsilon by float64, inside the box. Else
    the first reason that holds: REJECTED_BOX, REJECTED_DISTANCE, REJECTED_LABEL.
    """
    distance = distance64(norm, images, originals)
    margin = margins(goal, predict(model, images, devices))
    lower, upper = model.bounds
    flat = images.reshape(len(images), -1)
    boxed = (np.isfinite(flat) & (flat >= lower) & (flat <= upper)).all(1)
    status = np.full(len(images), Status.SUCCESS, np.int8)
    status[~(margin < 0)] = Status.REJECTED_LABEL
    status[~(distance <= epsilon)] = Status.REJECTED_DISTANCE
    status[~boxed] = Status.REJECTED_BOX
    return status, distance, margin
