"""Attacks on votes over repeated readings of a scene, of which an attacker controls some.

Ordinary attacks on each reading are compared with adaptive attacks through the vote.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxadv.attacks import PGD, Masked, Repeated
from jaxadv.core.attack import Attack
from jaxadv.core.goals import Untargeted
from jaxadv.core.model import Model
from jaxadv.core.transforms import Noise, Shifting
from jaxadv.core.typing import ArrayLike, Key, Numbers
from jaxadv.core.window import DEFENCES, windowed
from jaxadv.engine.checks import (
    check_goal,
    check_images,
    check_model,
    count_classes,
    key_or_first,
)
from jaxadv.engine.result_store import Store
from jaxadv.engine.session import StageProgress
from jaxadv.engine.verify import predict
from jaxadv.protocols.runs import Runs

ATTACKS = ("ordinary", "adaptive", "same, ordinary", "same, adaptive")
FRAMES, EPSILON, SIGMA, SHIFT = 5, 0.1, 0.1, 1


class Streams(NamedTuple):
    """Accuracy of D defences of a window of w readings, of which an attacker controls k.

    All accuracies are fractions.

    Attributes:
        frames: Number w of readings.
        controlled: The C numbers k of controlled readings.
        defences: Names of the D defences.
        count: Number N of windows.
        epsilon: Radius of the attacker's perturbations, in Linf.
        single: Accuracy on one reading.
        clean: Accuracy on whole windows, [D].
        accuracy: Accuracy under the attacks `ATTACKS`, in this order, [4, D, C].
        readings: Readings of the sensor, [N, w, H, W, C].
        windows: Windows after each attack, for the last defence and the last k, [4, N, w, H, W, C].
    """

    frames: int
    controlled: tuple[int, ...]
    defences: tuple[str, ...]
    count: int
    epsilon: float
    single: float
    clean: Float[np.ndarray, " D"]
    accuracy: Float[np.ndarray, "4 D C"]
    readings: Float[np.ndarray, "N w H W C"]
    windows: Float[np.ndarray, "4 N w H W C"]


def sensor(
    images: ArrayLike, frames: int, sigma: float = SIGMA, shift: int = SHIFT, *, key: Key
) -> Float[np.ndarray, "N w H W C"]:
    """Draw readings of each image, independently shifted and noisy.

    Args:
        images: Images [N, H, W, C] with values in [0, 1].
        frames: Number w of readings of each image.
        sigma: Standard deviation of the Gaussian noise.
        shift: Largest shift, in pixels.
        key: Random key.

    Returns:
        The readings [N, w, H, W, C].

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxadv.protocols.streams import sensor
        >>> readings = sensor(jnp.full((2, 4, 4, 1), 0.5), 3, key=jax.random.key(0))
        >>> readings.shape, bool(0.05 < readings.std() < 0.15)
        ((2, 3, 4, 4, 1), True)
    """

    @jax.jit
    def read(images: Array, key: Key) -> Array:
        def one(image: Array, key: Key) -> Array:
            move, disturb = jax.random.split(key)
            return Noise(sigma)(Shifting(shift)(image, move), disturb)

        keys = jax.random.split(key, (len(images), frames))
        return jax.vmap(jax.vmap(one, in_axes=(None, 0)))(images, keys)

    return np.asarray(read(jnp.asarray(images), key))


def streams(
    model: Model,
    images: ArrayLike,
    labels: Numbers,
    epsilon: float = EPSILON,
    *,
    frames: int = FRAMES,
    controlled: Sequence[int] | None = None,
    defences: Sequence[str] = DEFENCES,
    trim: int = 1,
    sigma: float = SIGMA,
    shift: int = SHIFT,
    attack: Attack | None = None,
    key: Key | None = None,
    ids: Numbers | None = None,
    lanes: int | None = None,
    store: str | Path | None = None,
    progress: StageProgress | None = None,
) -> Streams:
    """Measure the accuracy of median, vote and trimmed mean over readings under attack.

    The ordinary attack attacks every reading alone, on the undefended model. The adaptive attack
    goes through the defence, on the controlled frames only. Each is also run with one perturbation
    for all controlled frames ("same"; for the ordinary attack, the perturbation made for the first
    frame). If the adaptive attack fails, the ordinary window is used. All windows are evaluated by
    the defence as it is.

    Args:
        model: The undefended model, with bounds (0, 1).
        images: Images [N, H, W, C] with values in [0, 1], from which `sensor` makes the readings.
        labels: Classes, integers [N].
        epsilon: Radius of every perturbed reading in Linf (1: arbitrary readings).
        frames: Number w of readings in a window.
        controlled: Numbers of frames that the attacker controls (default: 1 to all). Which frames
            does not matter, as no defence depends on their order.
        defences: Names of the defences, as in `ja.windowed`.
        trim: Trimming of the mean, as in `ja.windowed`.
        sigma: Standard deviation of the sensor's noise.
        shift: Largest shift of a reading, in pixels.
        attack: An attack in Linf (default: PGD on the margin, 40 steps).
        key: Random key (default: key 0).
        ids: Example ids [N] (default: 0 to N - 1).
        lanes: Lanes per device (default: chosen by the engine).
        store: Folder in which results are kept (None: none).
        progress: Called with (attack, readings done, readings in all, successes).

    Returns:
        The accuracies, the readings and some attacked windows.

    Raises:
        ValueError: `model` has other bounds than (0, 1); `controlled` is empty or holds a number
            outside 1 to `frames`; `defences` is empty or holds an unknown name; `trim` leaves
            no reading; `images` or `labels` do not fit the model; or `attack` is in another norm
            than Linf.

    Example:
        >>> import jax.numpy as jnp, jaxadv as ja
        >>> model = ja.Model(lambda w, x: x.mean((1, 2, 3))[:, None] @ w + jnp.array([0.5, 0.0]),
        ...                  jnp.array([[-1.0, 0.0]]))  # is it darker than a half?
        >>> rates = ja.streams(model, jnp.full((2, 2, 2, 1), 0.3), jnp.zeros(2, int), 1.0, frames=3,
        ...                    defences=["majority"], attack=ja.PGD(steps=10), shift=0)
        >>> rates.accuracy[1]  # one, two, and three frames of three
        array([[1., 0., 0.]])
    """
    if model.bounds != (0.0, 1.0):
        raise ValueError(f"model has bounds {model.bounds}: the sensor gives values of 0 to 1")
    controlled = tuple(range(1, frames + 1)) if controlled is None else tuple(controlled)
    if not controlled or not all(1 <= k <= frames for k in controlled):
        raise ValueError(f"controlled={controlled}: pass numbers from 1 to frames={frames}")
    if not defences:
        raise ValueError("defences is empty: pass one or more")
    check_model(model)
    images = check_images(images, model.bounds)
    shape, count = images.shape[1:], len(images)
    labels = check_goal(Untargeted(np.asarray(labels)), count, count_classes(model, shape)).labels
    attack = PGD(loss="margin") if attack is None else attack
    repeated = Repeated(attack, frames)  # refuses an attack in another norm
    key = key_or_first(key)
    seed, draw = jax.random.split(key)
    ids = np.arange(count) if ids is None else np.asarray(ids)
    runs = Runs(Store.or_none(store), progress)
    readings = sensor(images, frames, sigma, shift, key=seed)
    flat = readings.reshape(count * frames, *shape)
    flat_labels = np.repeat(labels, frames)
    single = float((predict(model, flat).argmax(1) == flat_labels).mean())
    alone = runs.run(
        "each reading alone",
        attack,
        model,
        flat,
        Untargeted(flat_labels),
        epsilon,
        key=draw,
        ids=(ids[:, None] * frames + np.arange(frames)).ravel(),
        lanes=lanes,
    )
    made = np.where(alone.success.reshape(-1, 1, 1, 1), alone.images, flat).reshape(readings.shape)
    first = np.clip(readings + (made[:, :1] - readings[:, :1]), 0, 1)
    clean = np.zeros(len(defences))
    accuracy = np.zeros((4, len(defences), len(controlled)))
    windows = np.zeros((4, *readings.shape), np.float32)
    tall = (count, frames * shape[0], *shape[1:])
    for d, defence in enumerate(defences):
        defended = windowed(model, frames, defence, trim)

        def is_correct(readings: np.ndarray) -> Bool[np.ndarray, " N"]:
            return predict(defended, readings.reshape(tall)).argmax(1) == labels

        clean[d] = is_correct(readings).mean()
        for c, k in enumerate(controlled):
            is_controlled = np.arange(frames) < k
            mask = np.repeat(is_controlled, shape[0]).reshape(-1, 1, 1)
            for kind, wrapped, ordinary in ((0, attack, made), (2, repeated, first)):
                title = f"{defence}, {k} of {frames}{', same' if kind else ''}"
                windows[kind] = np.where(is_controlled.reshape(-1, 1, 1, 1), ordinary, readings)
                correct = is_correct(windows[kind])
                result = runs.run(
                    title,
                    Masked(wrapped, mask),
                    defended,
                    readings.reshape(tall),
                    Untargeted(labels),
                    epsilon,
                    key=draw,
                    ids=ids,
                    lanes=lanes,
                )
                better = result.success.reshape(-1, 1, 1, 1, 1)
                windows[kind + 1] = np.where(
                    better, result.images.reshape(readings.shape), windows[kind]
                )
                accuracy[kind, d, c] = correct.mean()
                accuracy[kind + 1, d, c] = (correct & ~result.success).mean()
    return Streams(
        frames,
        controlled,
        tuple(defences),
        count,
        float(epsilon),
        single,
        clean,
        accuracy,
        readings,
        windows,
    )
