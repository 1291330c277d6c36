"""SmoothAdv, an attack on the smoothed classifier that `certify` makes statements about.

The prediction of the smoothed classifier is a count of votes and has no gradient. The mean softmax
over draws of the noise has one, and PGD follows its logarithm: Salman et al. 2019, "Provably Robust
Deep Learning via Adversarially Trained Smoothed Classifiers" (arXiv 1906.04584). The adversarial
images are judged by votes.
"""

import time
from pathlib import Path
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxadv.attacks import PGD
from jaxadv.certification.smoothing import ABSTAIN, Certificates, noise, smoothed_predict
from jaxadv.core.goals import Untargeted
from jaxadv.core.model import Model
from jaxadv.core.norms import diameter, distance64
from jaxadv.core.pytree import pytree
from jaxadv.core.result import Status
from jaxadv.core.typing import ArrayLike, Devices, Numbers, Params
from jaxadv.engine import checks
from jaxadv.engine.devices import choose_devices, choose_lanes
from jaxadv.engine.interrupt import interruptible
from jaxadv.engine.result_store import Store, fingerprint
from jaxadv.engine.run import run_rows
from jaxadv.engine.session import Rows, Session
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
    count, shape = len(images), images.shape[1:]
    checks.check_counts(steps=steps, rounds=rounds, samples=samples)
    if len(found.prediction) != count:
        raise ValueError(
            f"found has {len(found.prediction)} certificates for {count} images: pass those images "
            "that were certified"
        )
    right = (found.forward > 0) & (found.prediction != ABSTAIN)
    if found.labels is not None:
        right &= found.prediction == found.labels
    rows, chosen = np.flatnonzero(right), choose_devices(devices)
    attack = PGD(norm="l2", steps=steps, step_size=0.1)
    first = soft_smoothed(model, found.sigma, draws, key, shape)
    width = lanes or choose_lanes(first, 1, shape, len(rows), chosen[0])
    most = diameter("l2", int(np.prod(shape)), model.bounds[1] - model.bounds[0])
    held, broke = found.radius.copy(), np.full(count, np.inf)
    nearest, prediction = images.copy(), found.prediction.copy()
    abstained, forward, backward = (np.zeros(count, int) for _ in range(3))
    done, seconds, folder, same = 0, 0.0, Store.or_none(store), ""
    name = f"smoothed-attack-{found.sigma:g}-{draws}-{steps}-{rounds}-{samples}"
    if folder is not None:
        same = fingerprint(
            model.params,
            images,
            found.ids,
            found.radius,
            right,
            found.alpha,
            found.sigma,
            width,
            jax.random.key_data(key),
            np.round(predict(model, images, chosen), 2),
        )
        saved = folder.load_arrays(name, same)
        if saved is not None:
            held, broke, nearest = saved["held"], saved["broke"], saved["nearest"]
            prediction, abstained = saved["prediction"], saved["abstained"]
            forward, backward = saved["forward"], saved["backward"]
            done, seconds = int(saved["done"]), float(saved["seconds"])

    goal, before = Untargeted(found.prediction[rows]), seconds
    with interruptible() as interrupted:
        for turn in range(done, rounds if len(rows) else done):
            further = held[rows] + found.sigma / 2 * 2.0**turn
            between = (held[rows] + broke[rows]) / 2
            radius = np.where(np.isfinite(broke[rows]), between, np.minimum(further, most))
            own, judging = jax.random.split(jax.random.fold_in(key, turn))

            def report(finished: int, _: int, __: int, turn: int = turn) -> None:
                if progress is not None:
                    progress(
                        turn * len(rows) + finished,
                        rounds * len(rows),
                        int(np.isfinite(broke).sum()),
                    )

            soft = soft_smoothed(model, found.sigma, draws, own, shape)
            session = Session(
                soft,
                images[rows],
                goal,
                found.ids[rows],
                own,
                chosen,
                width,
                interrupted=interrupted,
            )
            target = Rows(np.arange(len(rows)), radius)
            pushed = run_rows(session, attack, target, keep="loss", progress=report)
            if interrupted():
                break
            judged = smoothed_predict(
                model,
                pushed.images,
                sigma=found.sigma,
                samples=samples,
                alpha=found.alpha,
                key=judging,
                ids=found.ids[rows],
                devices=chosen,
            )
            if interrupted() or not (judged.forward > 0).all():
                break
            sound = ~np.isin(pushed.status, [Status.REJECTED_BOX, Status.REJECTED_DISTANCE])
            sure = sound & (judged.prediction != ABSTAIN)
            wrong = sure & (judged.prediction != found.prediction[rows])
            distance = distance64("l2", pushed.images, images[rows])
            nearer = wrong & (distance < broke[rows])
            held[rows] = np.where(wrong, held[rows], np.maximum(held[rows], radius))
            abstained[rows] += judged.prediction == ABSTAIN
            forward[rows] += pushed.forward + judged.forward
            backward[rows] += pushed.backward
            better = rows[nearer]
            broke[better], nearest[better] = distance[nearer], pushed.images[nearer]
            prediction[better] = judged.prediction[nearer]
            done, seconds = turn + 1, before + time.perf_counter() - began
            if folder is not None:
                folder.save_arrays(
                    name,
                    same,
                    held=held,
                    broke=broke,
                    nearest=nearest,
                    prediction=prediction,
                    abstained=abstained,
                    forward=forward,
                    backward=backward,
                    done=done,
                    seconds=seconds,
                )
            report(len(rows), 0, 0)
    return AttackedSmoothed(
        distance=np.where(right, broke, 0.0),
        images=nearest,
        prediction=prediction,
        abstained=abstained,
        forward=forward,
        backward=backward,
        rounds=done,
        complete=done == rounds or len(rows) == 0,
        seconds=seconds,
    )
