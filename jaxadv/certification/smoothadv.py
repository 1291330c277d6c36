"""SmoothAdv, an attack on the smoothed classifier that `certify` makes statements about.

The prediction of the smoothed classifier is a count of votes and has no gradient. The mean softmax
over draws of the noise has one, and PGD follows its logarithm: Salman et al. 2019, "Provably Robust
Deep Learning via Adversarially Trained Smoothed Classifiers" (arXiv 1906.04584). The adversarial
images are judged by votes.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxadv.attacks import PGD
from jaxadv.certification.smoothing import (
    ABSTAIN,
    Certificates,
    Smoothed,
    noise,
    smoothed_predict,
)
from jaxadv.core.bounds import sides_of
from jaxadv.core.goals import Untargeted
from jaxadv.core.model import Model
from jaxadv.core.norms import diameter, distance64
from jaxadv.core.pytree import pytree
from jaxadv.core.result import Result, Status
from jaxadv.core.typing import ArrayLike, ChosenDevices, Devices, Numbers, Params
from jaxadv.engine import checks
from jaxadv.engine.devices import choose_devices, choose_lanes
from jaxadv.engine.interrupt import interruptible
from jaxadv.engine.result_store import Store, fingerprint
from jaxadv.engine.run import run_rows
from jaxadv.engine.session import RowProgress, Rows, Session
from jaxadv.engine.verify import predict


class SmoothedProgress(Protocol):
    """Callback of an attack on a smoothed classifier: images done, total, successes so far."""

    def __call__(self, done: int, total: int, broken: int, /) -> object: ...


class AttackedSmoothed(NamedTuple):
    """Result of `attack_smoothed`; arrays have leading axis N and live on the host.

    Attributes:
        distance: float64 [N], L2 distance of the nearest adversarial image found; 0 where the clean
            image is misclassified or abstained on, infinite where none was found.
        images: float32 [N, H, W, C], the nearest adversarial image, else the clean one.
        prediction: int32 [N], class of the smoothed classifier on that image, -1 where it abstains.
        abstained: int [N], number of attacked images on which it abstained; these are no successes.
        forward: int [N], forward passes, votes included.
        backward: int [N], backward passes.
        rounds: Number of finished rounds.
        complete: Whether all rounds are finished.
        seconds: Wall time.
    """

    distance: np.ndarray
    images: np.ndarray
    prediction: np.ndarray
    abstained: np.ndarray
    forward: np.ndarray
    backward: np.ndarray
    rounds: int
    complete: bool
    seconds: float

    def accuracy(self, radii: Numbers = 0.0) -> np.ndarray:
        """Robust accuracy of the smoothed classifier under this attack.

        At radius 0 it equals `Certificates.accuracy`.

        Args:
            radii: L2 radii [...] in the scale of the images.

        Returns:
            Fraction [...] of the images that are classified correctly and have no adversarial image
            found within that radius.
        """
        return (self.distance > np.asarray(radii, np.float64)[..., None]).mean(-1)


def soft_smoothed(
    model: Model, sigma: float, draws: int, key: Array, shape: tuple[int, ...]
) -> Model:
    """Make the soft smoothed classifier, a model with gradients.

    Its logits are the logarithm of the mean softmax of `model` over draws of Gaussian noise. The
    draws are the same for all images and queries, as Salman et al. keep theirs during an attack;
    another key does not recompile. One query costs `draws` forward passes, and is counted as such.
    After Salman et al. 2019 (arXiv 1906.04584, section 2.2).

    Args:
        model: The base classifier.
        sigma: Standard deviation of the noise, in the scale of the images.
        draws: Number of draws of the noise.
        key: A JAX random key, from which the draws are made.
        shape: Shape (H, W, C) of an image.

    Returns:
        The soft smoothed classifier.

    Raises:
        ValueError: draws is not a positive integer.

    Example:
        >>> import jax, jax.numpy as jnp, jaxadv as ja
        >>> model = ja.Model(lambda w, x: x.reshape(len(x), -1) @ w, jnp.eye(4))
        >>> soft = ja.soft_smoothed(model, 0.5, 8, jax.random.key(0), (2, 2, 1))
        >>> jnp.exp(soft(jnp.ones((1, 2, 2, 1)))).sum().round(3)
        Array(1., dtype=float32)
    """
    checks.check_counts(draws=draws)
    added = np.float32(sigma) * noise(key, 0, jnp.arange(draws), shape)
    return Model(_Smoothed(), (model, added), model.bounds, samples=int(draws) * model.samples)


@pytree
class _Smoothed:
    def __call__(self, params: Params, images: Float[Array, "N ..."]) -> Float[Array, "N K"]:
        model, added = params
        noisy = images[:, None] + added
        logits = model(noisy.reshape(-1, *images.shape[1:]))
        logs = jax.nn.log_softmax(logits).reshape(len(images), len(added), -1)
        return jax.nn.logsumexp(logs, 1) - jnp.log(len(added))


def attack_smoothed(
    model: Model,
    images: ArrayLike,
    found: Certificates,
    *,
    draws: int = 16,
    steps: int = 20,
    rounds: int = 6,
    samples: int = 1000,
    key: Array,
    devices: Devices = None,
    lanes: int | None = None,
    store: str | Path | None = None,
    progress: SmoothedProgress | None = None,
) -> AttackedSmoothed:
    """Find the smallest L2 perturbation that changes the prediction of the smoothed classifier.

    Attacked are the images that the smoothed classifier predicts correctly (without labels: all on
    which it does not abstain). Each round runs PGD in L2 on `soft_smoothed` with new draws, at a
    radius of each image's own: the first is sigma / 2 beyond the certified radius, and the step
    doubles with every round until one succeeds; later rounds bisect between the largest radius that
    failed and the smallest distance that succeeded. `smoothed_predict` judges the image of highest
    loss at the certificates' alpha. Only another class is a success, an abstention is not. The
    distance is therefore never below the certified radius, except with probability alpha for a
    wrong certificate and for each wrong judgement.

    Each image costs rounds * (draws * (steps + 2) + samples) forward and rounds * draws * steps
    backward passes. After Ctrl-C, the finished rounds are returned (`complete` is False). Salman et
    al. 2019 (arXiv 1906.04584).

    Args:
        model: The base classifier.
        images: Floats [N, H, W, C], the images that `certify` was called with.
        found: Certificates of these images and this model; ids, sigma and alpha are taken from it.
        draws: Number of draws of the noise in `soft_smoothed`.
        steps: Number of PGD steps of a round.
        rounds: Number of rounds.
        samples: Number of noisy images that judge each attacked image.
        key: A JAX random key.
        devices: Devices to run on; default: all local devices.
        lanes: Number of lanes; default: chosen from the model and the device.
        store: Folder in which every finished round is kept, or None. A call with the same arguments
            continues from it.
        progress: Callback with (images done, their total, successes so far).

    Returns:
        The nearest adversarial images, their distances and the passes.

    Raises:
        ValueError: `found` has another number of images; draws, steps, rounds or samples is not a
            positive integer; or images, key or devices do not fit the model.

    >>> import jax, jax.numpy as jnp, jaxadv as ja
    >>> model = ja.Model(lambda w, x: x.reshape(len(x), -1) @ w, jnp.eye(4), bounds=(-2, 2))
    >>> images, key = jnp.eye(4)[:1].reshape(1, 2, 2, 1), jax.random.key(0)
    >>> found = ja.certify(model, images, [0], sigma=0.25, samples=1000, key=key)
    >>> attacked = ja.attack_smoothed(model, images, found, samples=300, key=key)
    >>> bool(found.radius[0] < 0.5**0.5 < attacked.distance[0] < 1)  # the plane is at 0.5 ** 0.5
    True
    """
    began = time.perf_counter()
    checks.check_model(model)
    key = checks.check_key(key)
    images = checks.check_images(images, model.bounds)
    checks.check_counts(steps=steps, rounds=rounds, samples=samples)
    rows, chosen = _attacked(found, len(images)), choose_devices(devices)
    first = soft_smoothed(model, found.sigma, draws, key, images.shape[1:])
    width = lanes or choose_lanes(first, 1, images.shape[1:], len(rows), chosen[0])
    attack = PGD(norm="l2", steps=steps, step_size=0.1)
    setting = _Setting(model, images, found, rows, draws, attack, samples, chosen, width)
    search, kept, same = _Search.begin(images, found), Store.or_none(store), ""
    name = f"smoothed-attack-{found.sigma:g}-{draws}-{steps}-{rounds}-{samples}"
    if kept is not None:
        same = setting.fingerprint(key)
        search = _Search.load(kept, name, same) or search
    before, span = search.seconds, sides_of(model.bounds, images.shape[1:])
    largest = diameter("l2", int(np.prod(images.shape[1:])), span)

    def report(finished: int, _: int, __: int) -> None:
        if progress is not None:
            broken = int(np.isfinite(search.broke).sum())
            progress(search.done * len(rows) + finished, rounds * len(rows), broken)

    with interruptible() as interrupted:
        while len(rows) and search.done < rounds:
            attacking, judging = jax.random.split(jax.random.fold_in(key, search.done))
            radius = search.radius(found.sigma, largest)[rows]
            pushed = setting.attack_soft(radius, attacking, interrupted, report)
            if interrupted():
                break
            judged = setting.judge(pushed.images, judging)
            if interrupted() or not (judged.forward > 0).all():
                break
            search = search.after(setting, radius, pushed, judged)
            search = search._replace(seconds=before + time.perf_counter() - began)
            if kept is not None:
                kept.save_arrays(name, same, **search._asdict())
            report(0, 0, 0)
    return AttackedSmoothed(
        distance=np.where(np.isin(np.arange(len(images)), rows), search.broke, 0.0),
        images=search.nearest,
        prediction=search.prediction,
        abstained=search.abstained,
        forward=search.forward,
        backward=search.backward,
        rounds=search.done,
        complete=search.done == rounds or len(rows) == 0,
        seconds=search.seconds,
    )


def _attacked(found: Certificates, count: int) -> np.ndarray:
    """Indices of the images that are attacked: predicted correctly, or without labels at all."""
    if len(found.prediction) != count:
        raise ValueError(
            f"found has {len(found.prediction)} certificates for {count} images: pass those images "
            "that were certified"
        )
    right = (found.forward > 0) & (found.prediction != ABSTAIN)
    if found.labels is not None:
        right &= found.prediction == found.labels
    return np.flatnonzero(right)


class _Setting(NamedTuple):
    """What is the same in every round of `attack_smoothed`.

    Attributes:
        model: The base classifier.
        images: Floats [N, H, W, C], all images.
        found: Their certificates.
        rows: Integers [M], the images that are attacked.
        draws: Number of draws of the noise in `soft_smoothed`.
        attack: PGD in L2.
        samples: Number of noisy images that judge each attacked image.
        devices: The devices.
        lanes: Number of lanes.
    """

    model: Model
    images: np.ndarray
    found: Certificates
    rows: np.ndarray
    draws: int
    attack: PGD
    samples: int
    devices: ChosenDevices
    lanes: int

    def fingerprint(self, key: Array) -> str:
        """Return the fingerprint of all on which the rounds depend, but for the counts."""
        found = self.found
        right = np.isin(np.arange(len(self.images)), self.rows)
        logits = np.round(predict(self.model, self.images, self.devices), 2)
        of_found = (found.ids, found.radius, right, found.alpha, found.sigma)
        seed = jax.random.key_data(key)
        return fingerprint(self.model.params, self.images, *of_found, self.lanes, seed, logits)

    def attack_soft(
        self,
        radius: np.ndarray,
        key: Array,
        interrupted: Callable[[], bool],
        progress: RowProgress,
    ) -> Result:
        """Attack `soft_smoothed` at radii [M], with new draws; the highest loss counts."""
        found, rows = self.found, self.rows
        soft = soft_smoothed(self.model, found.sigma, self.draws, key, self.images.shape[1:])
        session = Session(
            soft,
            self.images[rows],
            Untargeted(found.prediction[rows]),
            found.ids[rows],
            key,
            self.devices,
            self.lanes,
            interrupted=interrupted,
        )
        target = Rows(np.arange(len(rows)), radius)
        return run_rows(session, self.attack, target, keep="loss", progress=progress)

    def judge(self, images: np.ndarray, key: Array) -> Smoothed:
        """Predict the attacked images [M, H, W, C] by votes, at the certificates' alpha."""
        return smoothed_predict(
            self.model,
            images,
            sigma=self.found.sigma,
            samples=self.samples,
            alpha=self.found.alpha,
            key=key,
            ids=self.found.ids[self.rows],
            devices=self.devices,
        )


class _Search(NamedTuple):
    """State of the search for the nearest adversarial images, after some rounds.

    Attributes:
        held: float64 [N], the largest radius at which an attack failed, at first the certified one.
        broke: float64 [N], the smallest distance at which one succeeded, infinite before.
        nearest: float32 [N, H, W, C], the image at that distance, else the clean one.
        prediction: int32 [N], class of the smoothed classifier on `nearest`.
        abstained: int [N], number of attacked images on which it abstained.
        forward: int [N], forward passes, votes included.
        backward: int [N], backward passes.
        done: Number of finished rounds.
        seconds: Wall time of these rounds.
    """

    held: np.ndarray
    broke: np.ndarray
    nearest: np.ndarray
    prediction: np.ndarray
    abstained: np.ndarray
    forward: np.ndarray
    backward: np.ndarray
    done: int = 0
    seconds: float = 0.0

    @classmethod
    def begin(cls, images: np.ndarray, found: Certificates) -> "_Search":
        """Return the state before the first round."""
        broke, none = np.full(len(images), np.inf), np.zeros(len(images), int)
        nearest, prediction = images.copy(), found.prediction.copy()
        return cls(found.radius, broke, nearest, prediction, none, none.copy(), none.copy())

    @classmethod
    def load(cls, store: Store, name: str, fingerprint: str) -> "_Search | None":
        """Return the state that the store keeps under this name and fingerprint, or None."""
        saved = store.load_arrays(name, fingerprint)
        if saved is None:
            return None
        done, seconds = int(saved.pop("done")), float(saved.pop("seconds"))
        return cls(**saved, done=done, seconds=seconds)

    def radius(self, sigma: float, largest: float) -> np.ndarray:
        """Return the radii [N] of the next round: a doubled step, or the middle after a success."""
        further = np.minimum(self.held + sigma / 2 * 2.0**self.done, largest)
        return np.where(np.isfinite(self.broke), (self.held + self.broke) / 2, further)

    def after(
        self, setting: _Setting, radius: np.ndarray, pushed: Result, judged: Smoothed
    ) -> "_Search":
        """Return the state after a round at radii [M], with its attacked images and their votes."""
        rows, before = setting.rows, setting.found.prediction[setting.rows]
        sound = ~np.isin(pushed.status, [Status.REJECTED_BOX, Status.REJECTED_DISTANCE])
        wrong = sound & (judged.prediction != ABSTAIN) & (judged.prediction != before)
        distance = distance64("l2", pushed.images, setting.images[rows])
        nearer = wrong & (distance < self.broke[rows])
        better = rows[nearer]
        return self._replace(
            held=_put(self.held, rows[~wrong], np.maximum(self.held[rows], radius)[~wrong]),
            broke=_put(self.broke, better, distance[nearer]),
            nearest=_put(self.nearest, better, pushed.images[nearer]),
            prediction=_put(self.prediction, better, judged.prediction[nearer]),
            abstained=_add(self.abstained, rows, judged.prediction == ABSTAIN),
            forward=_add(self.forward, rows, pushed.forward + judged.forward),
            backward=_add(self.backward, rows, pushed.backward),
            done=self.done + 1,
        )


def _put(values: np.ndarray, index: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Return a copy of the values with new ones at the index."""
    values = values.copy()
    values[index] = new
    return values


def _add(values: np.ndarray, index: np.ndarray, more: np.ndarray) -> np.ndarray:
    """Return a copy of the values with more added at the index."""
    return _put(values, index, values[index] + more)
