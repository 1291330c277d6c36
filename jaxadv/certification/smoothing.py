"""Randomised smoothing: certified L2 radii from a classifier's predictions under Gaussian noise.

The smoothed classifier g predicts the class that the network f predicts most often on x + sigma *
N(0, I). If that class has probability at least p > 1/2, g is constant on the open L2 ball of radius
sigma * Phi^-1(p) around x: Cohen, Rosenfeld and Kolter 2019, "Certified Adversarial Robustness via
Randomized Smoothing" (arXiv 1902.02918). Votes of noisy images bound p from below with an exact
confidence (Clopper and Pearson 1934). The proof is about g in exact arithmetic, not about f.
"""

import functools
import math
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec
from jaxtyping import Array
from scipy import special

from jaxadv.core.goals import Untargeted
from jaxadv.core.host import host_errors
from jaxadv.core.model import Model
from jaxadv.core.random import draw
from jaxadv.core.typing import ArrayLike, ChosenDevices, Devices, Number, Numbers
from jaxadv.cpu.rewrite import rewrite_for_cpu
from jaxadv.engine import checks
from jaxadv.engine.devices import choose_devices, choose_lanes, rows_in_memory
from jaxadv.engine.execute import PIECE_SECONDS
from jaxadv.engine.interrupt import interruptible
from jaxadv.engine.result_store import Store, fingerprint
from jaxadv.engine.verify import bucket, mesh_of, predict, sharded

ABSTAIN = -1
SECONDS_BETWEEN_SAVES = 20.0
STREAM = zlib.crc32(b"randomised smoothing")  # keeps the noise apart from other uses of the key


class SampleProgress(Protocol):
    """Callback during the count of votes: noisy images classified, and their total."""

    def __call__(self, done: int, total: int, /) -> object: ...


class Sampling(NamedTuple):
    """Settings of the noise.

    Attributes:
        sigma: Standard deviation of the noise, in the scale of the images.
        samples0: Number of noisy images that choose the class.
        samples: Number of further noisy images that bound its probability.
    """

    sigma: float
    samples0: int
    samples: int


class Certificates(NamedTuple):
    """Result of `certify`; arrays have leading axis N and live on the host.

    Attributes:
        prediction: int32 [N], class of the smoothed classifier, -1 where it abstains.
        radius: float64 [N], certified L2 radius in the scale of the images, 0 where it abstains.
        selected: int32 [N], class that the first `samples0` noisy images chose.
        top_count: int64 [N], number of the `samples` noisy images with class `selected`.
        lower: float64 [N], lower bound of the probability of class `selected`.
        votes: int32 [N, K], votes of the `samples` noisy images for each class.
        forward: int [N], forward passes; 0 if an interruption came before the image.
        ids: int [N], ids of the images.
        labels: int32 [N], or None.
        sigma: Standard deviation of the noise, as given.
        samples0: Number of noisy images that chose the class, as given.
        samples: Number of noisy images that bound its probability, as given.
        alpha: Probability of a wrong certificate for each image, as given.
        seconds: Wall time, compilation included.
    """

    prediction: np.ndarray
    radius: np.ndarray
    selected: np.ndarray
    top_count: np.ndarray
    lower: np.ndarray
    votes: np.ndarray
    forward: np.ndarray
    ids: np.ndarray
    labels: np.ndarray | None
    sigma: float
    samples0: int
    samples: int
    alpha: float
    seconds: float

    @property
    def complete(self) -> bool:
        """Whether every image was processed."""
        return bool((self.forward > 0).all())

    @property
    def certified(self) -> np.ndarray:
        """Radii [N] within which the label is proved; NaN where it is not predicted."""
        if self.labels is None:
            raise ValueError("labels=None: pass labels to certify, or compare the predictions")
        right = (self.forward > 0) & (self.prediction == self.labels)
        return np.where(right, self.radius, np.nan)

    def accuracy(self, radii: Numbers = 0.0) -> np.ndarray:
        """Certified accuracy at some radii.

        Only the images that were processed count. At radius 0 it is the accuracy of the smoothed
        classifier.

        Args:
            radii: L2 radii [...] in the scale of the images.

        Returns:
            Fraction [...] of the images whose label is proved in the whole ball of that radius.

        Raises:
            ValueError: The certificates have no labels.
        """
        proved = self.certified[self.forward > 0] >= np.asarray(radii, np.float64)[..., None]
        return proved.mean(-1) if proved.shape[-1] else np.zeros(proved.shape[:-1])


class Smoothed(NamedTuple):
    """Result of `smoothed_predict`; arrays have leading axis N and live on the host.

    Attributes:
        prediction: int32 [N], class of the smoothed classifier, -1 where it abstains.
        p_value: float64 [N], p-value of the test that the two leading classes are equally likely.
        votes: int32 [N, K], votes of the noisy images for each class.
        forward: int [N], forward passes; 0 if an interruption came before the image.
        ids: int [N], ids of the images.
        seconds: Wall time, compilation included.
    """

    prediction: np.ndarray
    p_value: np.ndarray
    votes: np.ndarray
    forward: np.ndarray
    ids: np.ndarray
    seconds: float


def certify(
    model: Model,
    images: ArrayLike,
    labels: Numbers | None = None,
    *,
    sigma: float,
    samples0: int = 100,
    samples: int = 10_000,
    alpha: float = 0.001,
    key: Array,
    ids: Numbers | None = None,
    devices: Devices = None,
    store: str | Path | None = None,
    progress: SampleProgress | None = None,
) -> Certificates:
    """Predict every image with the smoothed classifier and certify an L2 radius of the prediction.

    Each image costs samples0 + samples forward passes, spread over all devices. Logits with NaN
    vote for no class. After Ctrl-C, the finished images are returned (`complete` is False).
    The algorithm is CERTIFY of Cohen, Rosenfeld and Kolter 2019 (arXiv 1902.02918).

    Args:
        model: The base classifier.
        images: Floats [N, H, W, C] within `model.bounds`.
        labels: Integers [N], or None; used only by `Certificates.accuracy` and `.certified`.
        sigma: Standard deviation of the Gaussian noise, in the scale of the images. Noisy images
            are not clipped to the box.
        samples0: Number of noisy images that choose the class.
        samples: Number of further noisy images that bound its probability (the paper: 100,000).
        alpha: Probability, for each image, that its certificate is wrong.
        key: A JAX random key.
        ids: Integers [N] that name the images; default: 0 to N - 1. The noise is a function of key,
            id and sample number alone, and the votes are the same regardless of the order, the
            batch and the devices.
        devices: Devices to run on; default: all local devices.
        store: Folder in which the votes are kept, or None. A call with the same arguments, or with
            another alpha, continues from the kept votes.
        progress: Callback with (noisy images classified, their total).

    Returns:
        The predictions, radii and votes.

    Raises:
        ValueError: sigma, samples0, samples or alpha is outside its range; the images do not fit
            `model.bounds`; or labels, ids, key or devices do not fit the images or the model.

    Example:
        >>> import jax, jax.numpy as jnp, jaxadv as ja
        >>> model = ja.Model(lambda w, x: x.reshape(len(x), -1) @ w, jnp.eye(4))
        >>> images, labels = jnp.eye(4).reshape(4, 2, 2, 1), jnp.arange(4)
        >>> how = {"sigma": 0.25, "samples": 1000, "key": jax.random.key(0)}
        >>> found = ja.certify(model, images, labels, **how)
        >>> found.prediction, bool((found.radius < 0.5**0.5).all()), found.accuracy([0, 0.2, 0.8])
        (array([0, 1, 2, 3], dtype=int32), True, array([1., 1., 0.]))
    """
    _check(sigma, samples, alpha, samples0)
    checks.check_model(model)
    images = checks.check_images(images, model.bounds)
    if labels is not None:
        classes = checks.count_classes(model, images.shape[1:])
        labels = np.asarray(checks.check_goal(Untargeted(labels), len(images), classes).labels)
    votes, reached, ids, seconds = _vote(
        model, images, Sampling(sigma, samples0, samples), key, ids, devices, store, progress
    )
    selected = votes[:, 0].argmax(1)
    top_count = votes[np.arange(len(votes)), 1, selected].astype(np.int64)
    lower = lower_bound(top_count, samples, alpha)
    proved = reached & (lower > 0.5)
    return Certificates(
        prediction=np.where(proved, selected, ABSTAIN).astype(np.int32),
        radius=np.where(proved, sigma * special.ndtri(np.maximum(lower, 0.5)), 0.0),
        selected=selected.astype(np.int32),
        top_count=top_count,
        lower=lower,
        votes=votes[:, 1],
        forward=reached * (samples0 + samples),
        ids=ids,
        labels=labels,
        sigma=float(sigma),
        samples0=samples0,
        samples=samples,
        alpha=float(alpha),
        seconds=seconds,
    )


def smoothed_predict(
    model: Model,
    images: ArrayLike,
    *,
    sigma: float,
    samples: int = 1000,
    alpha: float = 0.001,
    key: Array,
    ids: Numbers | None = None,
    devices: Devices = None,
    store: str | Path | None = None,
    progress: SampleProgress | None = None,
) -> Smoothed:
    """Predict every image with the smoothed classifier, without a radius.

    The smoothed classifier abstains unless a two-sided binomial test rejects, at level alpha, that
    its two leading classes are equally likely. A prediction is therefore wrong about the smoothed
    classifier with probability at most alpha. Each image costs `samples` forward passes. The
    algorithm is PREDICT of Cohen, Rosenfeld and Kolter 2019 (arXiv 1902.02918).

    Args:
        model: The base classifier.
        images: Floats [N, H, W, C] within `model.bounds`.
        sigma: Standard deviation of the Gaussian noise, in the scale of the images.
        samples: Number of noisy images that vote.
        alpha: Level of the test.
        key: A JAX random key.
        ids: Integers [N] that name the images, as in `certify`; default: 0 to N - 1.
        devices: Devices to run on; default: all local devices.
        store: Folder in which the votes are kept, or None, as in `certify`.
        progress: Callback with (noisy images classified, their total).

    Returns:
        The predictions, p-values and votes.

    Raises:
        ValueError: sigma, samples or alpha is outside its range; the images do not fit
            `model.bounds`; or ids, key or devices do not fit the images.

    Example:
        >>> import jax, jax.numpy as jnp, jaxadv as ja
        >>> model = ja.Model(lambda w, x: x.reshape(len(x), -1) @ w, jnp.eye(4))
        >>> images = jnp.eye(4).reshape(4, 2, 2, 1)
        >>> ja.smoothed_predict(model, images, sigma=0.25, key=jax.random.key(0)).prediction
        array([0, 1, 2, 3], dtype=int32)
    """
    _check(sigma, samples, alpha)
    checks.check_model(model)
    images = checks.check_images(images, model.bounds)
    votes, reached, ids, seconds = _vote(
        model, images, Sampling(sigma, 0, samples), key, ids, devices, store, progress
    )
    votes = votes[:, 1]
    nan = samples * reached - votes.sum(1)  # logits with NaN count as a class of their own
    second, first = np.sort(np.c_[votes, nan], 1)[:, -2:].T
    p_value = binomial_p_value(first, second)
    sure = reached & (p_value <= alpha) & (votes.max(1) > nan)
    return Smoothed(
        prediction=np.where(sure, votes.argmax(1), ABSTAIN).astype(np.int32),
        p_value=p_value,
        votes=votes,
        forward=reached * samples,
        ids=ids,
        seconds=seconds,
    )


def lower_bound(count: Numbers, samples: int, alpha: float) -> np.ndarray:
    """Return Clopper and Pearson's one-sided lower confidence bound of a probability.

    The bound is the p at which `count` or more successes have probability alpha.

    Args:
        count: Number of successes, a number or an array.
        samples: Number of trials.
        alpha: One minus the confidence.

    Returns:
        The bound, float64, in the shape of `count`; 0 without a success.

    Example:
        >>> from jaxadv.certification.smoothing import lower_bound
        >>> lower_bound(100, 100, 0.05).round(4)  # 0.05 ** (1 / 100)
        np.float64(0.9705)
    """
    count = np.asarray(count, np.float64)
    bound = special.betaincinv(np.maximum(count, 1), samples - count + 1, alpha)
    return np.where(count > 0, bound, 0.0)[()]


def binomial_p_value(first: Numbers, second: Numbers) -> np.ndarray:
    """Return the two-sided p-value of a fair coin with the counts first >= second."""
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    tail = special.betainc(np.maximum(first, 1), second + 1, 0.5)  # P(`first` heads or more)
    return np.where(first > second, np.minimum(2 * tail, 1.0), 1.0)


def noise(key: Array, example: Number, numbers: ArrayLike, shape: tuple[int, ...]) -> Array:
    """Return the normal noise [S, *shape] of the samples `numbers` [S] of image id `example`."""
    own = jax.random.fold_in(jax.random.fold_in(key, STREAM), example)
    keys = jax.vmap(lambda number: jax.random.fold_in(own, number))(numbers)
    return jax.vmap(lambda key: draw(jax.random.normal, key, shape))(keys)


def _check(sigma: Number, samples: int, alpha: Number, samples0: int = 1) -> None:
    if not (checks.is_number(sigma) and 0 < sigma < math.inf):
        raise ValueError(
            f"sigma={sigma}: pass a positive number, the noise's standard deviation in the scale "
            "of the images, such as 0.25"
        )
    checks.check_counts(samples0=samples0, samples=samples)
    if not (checks.is_number(alpha) and 0 < alpha < 1):
        raise ValueError(
            f"alpha={alpha}: pass the probability of a wrong answer, between 0 and 1, such as 0.001"
        )


@functools.lru_cache
def vote_program(width: int, devices: ChosenDevices) -> Callable[..., Array]:
    """Return the jitted function that adds the votes of rounds [begin, end) to votes [D, B, 2, K].

    A unit of work is `width` samples of one image, which are a batch of their own; in each round
    every device takes the next unit. A batch therefore never mixes samples of different images.
    """
    parts = len(devices)
    on_cpu = devices[0].platform == "cpu"

    def count(
        model: Model,
        images: Array,
        ids: Array,
        key: Array,
        sigma: Array,
        sizes: tuple[Array, Array, Array],
        rounds: tuple[Array, Array],
        votes: Array,
    ) -> Array:
        rows, samples0, total = sizes  # rows: number of images without the padding
        begin, end = rounds
        chunks = (total + width - 1) // width
        device = lax.axis_index("devices") if parts > 1 else 0
        apply = rewrite_for_cpu(lambda m, x: m(x)) if on_cpu else lambda m, x: m(x)

        def step(turn: Array, votes: Array) -> Array:
            unit = turn * parts + device
            row = jnp.minimum(unit // chunks, rows - 1)
            number = unit % chunks * width + jnp.arange(width)
            draw = noise(key, ids[row], number, images.shape[1:])
            noisy = images[row] + sigma * draw
            # The noise is compiled apart from the network, so that its bits do not depend on it.
            logits = apply(model, lax.optimization_barrier(noisy))
            valid = (unit < rows * chunks) & (number < total) & ~jnp.isnan(logits).any(1)
            estimates = (number >= samples0).astype(jnp.int32)
            return votes.at[row, estimates, logits.argmax(1)].add(valid.astype(jnp.int32))

        return lax.fori_loop(begin, end, step, votes[0])[None]

    if parts > 1:
        split, replicated = PartitionSpec("devices"), PartitionSpec()
        count = jax.shard_map(
            count,
            mesh=mesh_of(devices),
            in_specs=(*[replicated] * 7, split),
            out_specs=split,
            check_vma=False,
        )
    return jax.jit(count, donate_argnums=7)


def _vote(
    model: Model,
    images: np.ndarray,
    sampling: Sampling,
    key: Array,
    ids: Numbers | None,
    devices: Devices,
    store: str | Path | None,
    progress: SampleProgress | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Count the votes of every image, continuing from the store if there is one.

    Returns:
        Votes int32 [N, 2, K] of the choosing and the estimating samples; whether they are complete,
        bool [N]; the ids [N]; and the seconds.
    """
    began = time.perf_counter()
    sigma, samples0, samples = sampling
    key = checks.check_key(key)
    count, shape = len(images), images.shape[1:]
    classes = checks.count_classes(model, shape)
    ids = checks.check_ids(ids, count)
    checks.check_options(store)
    chosen = choose_devices(devices)
    total = samples0 + samples
    width = choose_lanes(model, 1, shape, total, chosen[0])
    chunks = -(-total // width)

    votes, reached, before = np.zeros((count, 2, classes), np.int32), np.zeros(count, bool), 0.0
    folder, name, same = Store.or_none(store), f"smoothed-{sigma:g}-{samples0}-{samples}", ""
    if folder is not None:
        clean = np.round(
            predict(model, images, chosen), 2
        )  # differs between networks of equal weights
        same = fingerprint(model.params, images, ids, jax.random.key_data(key), float(sigma), clean)
        saved = folder.load_arrays(name, same)
        if saved is not None:
            votes, reached, before = saved["votes"], saved["reached"], float(saved["seconds"])

    def save() -> float:
        seconds = before + time.perf_counter() - began
        if folder is not None:
            folder.save_arrays(name, same, votes=votes, reached=reached, seconds=seconds)
        return seconds

    def report(more: int = 0) -> None:
        if progress is not None:
            progress(min(int(reached.sum()) * total + more, count * total), count * total)

    report()
    if reached.all():
        return votes, reached, ids, before
    program, parts = vote_program(width, chosen), len(chosen)
    block = min(1024, rows_in_memory(shape, chosen[0]))
    turns, saved_at = 1, time.perf_counter()
    with host_errors() as failed, interruptible() as interrupted:
        missing = np.flatnonzero(~reached)
        for first in range(0, len(missing), block):
            rows = missing[first : first + block]
            places = np.resize(rows, bucket(len(rows), 1))  # padding is discarded
            part = (jnp.asarray(images[places]), jnp.asarray(ids[places].astype(np.int32)))
            sizes = tuple(map(jnp.int32, (len(rows), samples0, total)))
            tally: Any = np.zeros((parts, len(places), 2, classes), np.int32)
            tally = jax.device_put(tally, sharded(chosen) if parts > 1 else chosen[0])
            turn, last = 0, -(-len(rows) * chunks // parts)
            while turn < last and not interrupted():
                tick = time.perf_counter()
                end = min(turn + turns, last)
                tally = program(
                    model,
                    *part,
                    key,
                    jnp.float32(sigma),
                    sizes,
                    (jnp.int32(turn), jnp.int32(end)),
                    tally,
                )
                tally.block_until_ready()
                if failed():
                    break
                turn = end
                done = min(turn * parts // chunks, len(rows))  # number of finished images
                if done and not reached[rows[done - 1]]:
                    votes[rows[:done]] = np.asarray(tally).sum(0)[:done]
                    reached[rows[:done]] = True
                report((turn * parts - done * chunks) * width)
                now = time.perf_counter()
                turns = int(np.clip(turns * PIECE_SECONDS / max(now - tick, 1e-3), 1, 4 * turns))
                if now - saved_at > SECONDS_BETWEEN_SAVES:
                    save()
                    saved_at = time.perf_counter()
    return votes, reached, ids, save()
