"""Windows that advance along a stream of frames, which meets faults of the sensor and attacks.

The scene moves; some frames are occluded, blank, corrupted or attacked; the window slides over
them. Then the scene changes, and the window lags behind.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxadv.attacks import PGD, Masked
from jaxadv.core.attack import Attack
from jaxadv.core.goals import Untargeted
from jaxadv.core.model import Model
from jaxadv.core.result import Result
from jaxadv.core.typing import ArrayLike, Key, Numbers
from jaxadv.core.window import DEFENCES, far_out, slid, windowed
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
from jaxadv.protocols.streams import EPSILON, FRAMES, SHIFT, SIGMA

FAULTS = ("occluded", "blank", "corrupted")
EVENTS = (*FAULTS, "attacked alone", "attacked through the defence")


class Sliding(NamedTuple):
    """What D defences answer while a window of w frames slides over an event of k frames.

    All accuracies are fractions of scenes. An event's frames are at places w to w + k - 1; windows
    are numbered by their last frame, from w - 1 on.

    Attributes:
        frames: Number w of frames in a window.
        lengths: The numbers k of consecutive frames of an event.
        defences: Names of the D defences.
        count: Number N of scenes.
        epsilon: Radius of the attacker's perturbations, in Linf.
        single: Accuracy on one frame without an event.
        calm: Accuracy without an event, of each window, [D, W].
        accuracy: Accuracy with each of `EVENTS`, [E, C, D, W].
        thrown: Of the event's frames and of the other frames in windows that hold both, the
            fraction that "outliers" throws out, [E, C, 2].
        lag: For each scene the windows after a change of scene until the first right answer, 0 for
            the first window with a new frame; nan if none of 2 w is right, [D, N].
        clips: Frames of the first scene for each event of the longest length, and before all these
            without one, [1 + E, T, H, W, C].
    """

    frames: int
    lengths: tuple[int, ...]
    defences: tuple[str, ...]
    count: int
    epsilon: float
    single: float
    calm: Float[np.ndarray, "D W"]
    accuracy: Float[np.ndarray, "E C D W"]
    thrown: Float[np.ndarray, "E C 2"]
    lag: Float[np.ndarray, "D N"]
    clips: Float[np.ndarray, "E1 T H W C"]

    def touched(self, length: int) -> slice:
        """Return the windows that hold at least one frame of an event of `length` frames."""
        return slice(1, length + self.frames)


def moving(
    images: ArrayLike, length: int, sigma: float = SIGMA, shift: int = SHIFT, *, key: Key
) -> Float[np.ndarray, "N T H W C"]:
    """Film each image while it moves on a circle, with noise of its own in every frame.

    Args:
        images: Images [N, H, W, C] with values in [0, 1].
        length: Number T of frames.
        sigma: Standard deviation of the Gaussian noise.
        shift: Radius of the circle, in pixels; pixels that enter repeat the border.
        key: Random key.

    Returns:
        The frames [N, T, H, W, C].

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxadv.protocols.sliding import moving
        >>> moving(jnp.full((2, 4, 4, 1), 0.5), 7, key=jax.random.key(0)).shape
        (2, 7, 4, 4, 1)
    """
    images = np.asarray(images)
    angle = 2 * np.pi * np.arange(length) / 8
    steps = np.rint(shift * np.stack([np.sin(angle), np.cos(angle)], 1)).astype(int)
    wide = np.pad(images, ((0, 0), (shift, shift), (shift, shift), (0, 0)), mode="edge")
    height, width = images.shape[1:3]
    still = np.stack(
        [wide[:, shift + i :, shift + j :][:, :height, :width] for i, j in steps], axis=1
    )
    noise = sigma * np.asarray(jax.random.normal(key, still.shape))
    return np.clip(still + noise, 0, 1).astype(np.float32)


def faulty(frames: np.ndarray, fault: str, seed: int = 0) -> np.ndarray:
    """Return frames [N, k, H, W, C] with a fault of the sensor.

    Args:
        frames: The frames, with values in [0, 1].
        fault: "occluded" (a black square of half the side that moves by a pixel a frame), "blank"
            (all zero) or "corrupted" (every pixel drawn uniformly).
        seed: Seed of what is drawn.

    Returns:
        The faulty frames.

    Raises:
        ValueError: `fault` is not known.
    """
    rng = np.random.default_rng(seed)
    if fault == "blank":
        return np.zeros_like(frames)
    if fault == "corrupted":
        return rng.random(frames.shape, np.float32)
    if fault != "occluded":
        raise ValueError(f"fault={fault!r} is not known: pass one of {', '.join(FAULTS)}")
    out, (height, width) = frames.copy(), frames.shape[2:4]
    for scene in out:
        row, column = rng.integers(height // 2 + 1), rng.integers(width // 2 + 1)
        for k, frame in enumerate(scene):
            frame[row : row + height // 2, column + k : column + k + width // 2] = 0
    return out


def sliding(
    model: Model,
    images: ArrayLike,
    labels: Numbers,
    epsilon: float = EPSILON,
    *,
    frames: int = FRAMES,
    lengths: Sequence[int] = (1, 2),
    defences: Sequence[str] = DEFENCES,
    sigma: float = SIGMA,
    shift: int = SHIFT,
    attack: Attack | None = None,
    key: Key | None = None,
    ids: Numbers | None = None,
    lanes: int | None = None,
    store: str | Path | None = None,
    progress: StageProgress | None = None,
) -> Sliding:
    """Slide a window over streams of frames, of which k in a row are faulty or attacked.

    The ordinary attack attacks each frame alone, on the undefended model. The adaptive attack goes
    through the defence, on the mean answer of all windows that hold one of the k frames; in a scene
    in which it turns no more windows, the frames of the ordinary one are used. Every window of the
    stream is then answered by the defence as it is, and trimmed means leave out one value at each
    end.

    Args:
        model: The undefended model, with bounds (0, 1).
        images: Images [N, H, W, C] with values in [0, 1], which `moving` films.
        labels: Classes, integers [N], of two kinds at least.
        epsilon: Radius of every attacked frame in Linf.
        frames: Number w of frames in a window.
        lengths: Numbers k of frames of an event, from 1 to w.
        defences: Names of the defences, as in `ja.windowed`.
        sigma: Standard deviation of the sensor's noise.
        shift: How far the scene moves, in pixels.
        attack: An attack in Linf (default: PGD on the margin, 40 steps).
        key: Random key (default: key 0).
        ids: Example ids [N] (default: 0 to N - 1).
        lanes: Lanes per device (default: chosen by the engine).
        store: Folder in which results are kept (None: none).
        progress: Called with (attack, readings done, readings in all, successes).

    Returns:
        The accuracies of every window, what was thrown out, and the lag.

    Raises:
        ValueError: `model` has other bounds than (0, 1); `lengths` or `defences` is empty or holds
            what is not known; or `images` or `labels` do not fit the model.

    Example:
        >>> import jax.numpy as jnp, jaxadv as ja
        >>> model = ja.Model(lambda w, x: x.mean((1, 2, 3))[:, None] @ w + jnp.array([0.5, 0.0]),
        ...                  jnp.array([[-1.0, 0.0]]))  # is it darker than a half?
        >>> images = jnp.stack([jnp.full((2, 2, 1), 0.3), jnp.full((2, 2, 1), 0.9)])
        >>> film = ja.sliding(model, images, jnp.array([0, 1]), frames=3, lengths=[1], sigma=0.0,
        ...                   defences=["majority"], attack=ja.PGD(steps=5))
        >>> film.lag  # two of three frames must show the new scene
        array([[1., 1.]])
    """
    if model.bounds != (0.0, 1.0):
        raise ValueError(f"model has bounds {model.bounds}: the sensor gives values of 0 to 1")
    lengths = tuple(lengths)
    if not lengths or not all(1 <= k <= frames for k in lengths):
        raise ValueError(f"lengths={lengths}: pass numbers from 1 to frames={frames}")
    if not defences:
        raise ValueError("defences is empty: pass one or more")
    check_model(model)
    images = check_images(images, model.bounds)
    count = len(images)
    goal = check_goal(Untargeted(np.asarray(labels)), count, count_classes(model, images.shape[1:]))
    labels = np.asarray(goal.labels)
    if len(np.unique(labels)) < 2:
        raise ValueError("labels are of one class: the scene cannot change; pass two or more")
    key = key_or_first(key)
    film, change, draw = jax.random.split(key, 3)
    clip = moving(images, 2 * frames + max(lengths), sigma, shift, key=film)
    fused = {name: windowed(model, frames, name) for name in defences}
    camera = _Camera(
        model,
        fused,
        frames,
        labels,
        PGD(loss="margin") if attack is None else attack,
        float(epsilon),
        draw,
        np.arange(count) if ids is None else np.asarray(ids),
        lanes,
        Runs(Store.or_none(store), progress),
    )
    steps = clip.shape[1] - frames + 1
    accuracy = np.zeros((len(EVENTS), len(lengths), len(fused), steps))
    thrown = np.zeros((len(EVENTS), len(lengths), 2))
    shown = [clip[0]]
    for c, k in enumerate(lengths):
        made = camera.attacked_alone(clip, k)
        for e, event in enumerate(EVENTS):
            for d, name in enumerate(fused):
                film = camera.event(clip, made, event, k, name)
                accuracy[e, c, d] = camera.right(film, name).mean(0)
            thrown[e, c] = camera.thrown(film, k)
            if k == max(lengths):
                shown.append(film[0])
    return Sliding(
        frames,
        lengths,
        tuple(fused),
        count,
        float(epsilon),
        float((predict(model, clip[:, 0]).argmax(1) == labels).mean()),
        np.stack([camera.right(clip, name).mean(0) for name in fused]),
        accuracy,
        thrown,
        camera.lag(images, sigma, shift, change),
        np.stack(shown),
    )


class _Camera(NamedTuple):
    """A model, its defences, and the attack on what they see."""

    model: Model
    fused: dict[str, Model]
    frames: int
    labels: np.ndarray
    attack: Attack
    epsilon: float
    key: Key
    ids: np.ndarray
    lanes: int | None
    runs: Runs

    def right(self, clip: np.ndarray, name: str, labels: np.ndarray | None = None) -> np.ndarray:
        """Return whether a defence answers each window of clips [N, T, ...] right, [N, W]."""
        w, labels = self.frames, self.labels if labels is None else labels
        starts = range(clip.shape[1] - w + 1)
        answers = [
            predict(self.fused[name], _tall(clip[:, start : start + w])).argmax(1)
            for start in starts
        ]
        return np.stack(answers, 1) == labels[:, None]

    def attacked_alone(self, clip: np.ndarray, k: int) -> np.ndarray:
        """Return the k frames of the event [N, k, ...], each attacked on the undefended model."""
        part = clip[:, self.frames : self.frames + k]
        flat = part.reshape(-1, *part.shape[2:])
        ids = (self.ids[:, None] * k + np.arange(k)).ravel()
        title, goal = f"{k} frames alone", Untargeted(np.repeat(self.labels, k))
        found = self._run(title, self.attack, self.model, flat, goal, ids)
        return found.images.reshape(part.shape)

    def event(
        self, clip: np.ndarray, made: np.ndarray, event: str, k: int, name: str
    ) -> np.ndarray:
        """Return the clips with an event of k frames; `made` are the frames attacked alone."""
        w, out = self.frames, clip.copy()
        inside = slice(w, w + k)
        if event in FAULTS:
            out[:, inside] = faulty(clip[:, inside], event)
            return out
        out[:, inside] = made
        if event == EVENTS[-1]:
            strip = clip[:, 1 : 2 * w + k - 1]  # all windows that hold one of the frames
            place = np.isin(np.arange(strip.shape[1]), np.arange(w - 1, w - 1 + k))
            mask = np.repeat(place, clip.shape[2]).reshape(-1, 1, 1)
            title, attack = f"{name}, {k} frames through", Masked(self.attack, mask)
            model, goal = slid(self.fused[name], w, k + w - 1), Untargeted(self.labels)
            found = self._run(title, attack, model, _tall(strip), goal, self.ids)
            other = out.copy()
            other[:, inside] = found.images.reshape(strip.shape)[:, place]
            ordinary, adaptive = (self.right(c, name)[:, 1 : k + w].sum(1) for c in (out, other))
            out = np.where((adaptive < ordinary).reshape(-1, 1, 1, 1, 1), other, out)
        return out

    def thrown(self, clip: np.ndarray, k: int) -> list[float]:
        """Return which fractions of the event's frames and of the others are thrown out."""
        w, event, others = self.frames, [], []
        for start in range(1, k + w):
            place = np.isin(np.arange(start, start + w), np.arange(w, w + k))
            far = np.asarray(far_out(jnp.asarray(clip[:, start : start + w])))
            event.append(far[place].ravel())
            others.append(far[~place].ravel())
        fractions = [np.concatenate(part) for part in (event, others)]
        return [float(part.mean()) if len(part) else np.nan for part in fractions]

    def lag(self, images: np.ndarray, sigma: float, shift: int, key: Key) -> np.ndarray:
        """Return the windows until the first right answer after the scene has changed, [D, N]."""
        w = self.frames
        after = _next_scene(self.labels)
        one, two = jax.random.split(key)
        before = moving(images, w, sigma, shift, key=one)
        then = moving(images, 2 * w, sigma, shift, key=two)[after]
        clip, lags = np.concatenate([before, then], 1), []
        for name in self.fused:
            right = self.right(clip, name, self.labels[after])[:, 1:]
            lags.append(np.where(right.any(1), right.argmax(1), np.nan))
        return np.stack(lags)

    def _run(
        self,
        title: str,
        attack: Attack,
        model: Model,
        images: np.ndarray,
        goal: Untargeted,
        ids: np.ndarray,
    ) -> Result:
        # The last iterate, as more than one window is to be turned.
        settings = {"key": self.key, "ids": ids, "lanes": self.lanes, "keep": "last"}
        name = f"sliding, {title}"
        return self.runs.run(name, attack, model, images, goal, self.epsilon, **settings)


def _next_scene(labels: np.ndarray) -> np.ndarray:
    """Return for each scene the next one, around the end, that is of another class."""
    count = len(labels)
    order = (np.arange(count)[:, None] + np.arange(count)) % count
    return order[np.arange(count), (labels[order] != labels[:, None]).argmax(1)]


def _tall(windows: np.ndarray) -> np.ndarray:
    """Return windows [N, w, H, W, C] as images [N, w * H, W, C]."""
    count, w, height, *rest = windows.shape
    return windows.reshape(count, w * height, *rest)
