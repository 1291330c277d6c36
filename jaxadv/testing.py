"""Checks that every attack must pass, which anyone can run on an attack of their own.

All checks share one small network, one shape and one number of lanes: an attack is compiled once
for all of them, and most of their time is that compilation.
"""

import functools
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxadv.core.attack import Attack
from jaxadv.core.contract import check_contract
from jaxadv.core.goals import Goal, Untargeted
from jaxadv.core.model import Model
from jaxadv.core.norms import distance64
from jaxadv.core.precision import x64
from jaxadv.core.result import Result, Status
from jaxadv.core.typing import Devices, Number, Params
from jaxadv.engine.batch import make_table
from jaxadv.engine.checks import CheckWarning, some
from jaxadv.engine.checks import check_attack as check_is_attack
from jaxadv.engine.execute import Budget
from jaxadv.engine.lanes import drive_lanes
from jaxadv.engine.run import run

COUNT, SHAPE, CLASSES = 21, (6, 6, 1), 4
EPSILON = {"linf": 0.15, "l2": 1.2, "l1": 5.0, "l0": 12.0}
LANES = 8
MISCLASSIFIED = 3  # the image whose label the network does not predict
SATURATION = 1e6  # the factor of the first layer at which every gradient is exactly 0


class Check(NamedTuple):
    """One check of an attack: a call raises AssertionError if the attack does not pass.

    Attributes:
        name: Name of the check, such as "stays_in_ball".
        run: The check itself, without arguments.
    """

    name: str
    run: Callable[[], None]

    def __call__(self) -> None:
        self.run()


class _Network:
    """Logits of a network with one hidden layer; counts how often it is traced."""

    traces = 0

    def __call__(self, params: Params, images: Array) -> Array:
        self.traces += 1
        flat = images.reshape(len(images), -1)
        return jnp.tanh((flat - 0.5) @ params["a"]) @ params["b"]


_NETWORK = _Network()  # one for all: another one would be another program


def network(seed: int = 0, classes: int = CLASSES) -> Model:
    """Make a smooth random network on images [6, 6, 1] between 0 and 1.

    Args:
        seed: Seed of the weights. Networks of the same number of classes share compiled programs.
        classes: Number of classes.

    Returns:
        The model; its params are `a` [36, 24] and `b` [24, classes].
    """
    a, b = jax.random.split(jax.random.key(seed))
    size = int(np.prod(SHAPE))
    params = {
        "a": jax.random.normal(a, (size, 24)) / 3,
        "b": jax.random.normal(b, (24, classes)) / 3,
    }
    return Model(_NETWORK, params)


def images_and_labels(model: Model) -> tuple[np.ndarray, np.ndarray]:
    """Make the images of the checks, with the model's own predictions as labels.

    Args:
        model: A model of `network`.

    Returns:
        Images [21, 6, 6, 1] and labels [21]. The label of image 3 is not the prediction.
    """
    images = np.asarray(jax.random.uniform(jax.random.key(1), (COUNT, *SHAPE)))
    labels = _predict(model, images)
    classes = model.params["b"].shape[1]
    labels[MISCLASSIFIED] = (labels[MISCLASSIFIED] + 1) % classes
    return images, labels


def check_attack(
    attack: Attack,
    *,
    epsilon: float | None = None,
    start: Callable[[np.ndarray], np.ndarray] | None = None,
    devices: Devices = None,
) -> Iterator[Check]:
    """Yield the checks that every attack must pass, one at a time.

    Each is a call that raises AssertionError; in pytest, parametrise over them with
    `ids=lambda check: check.name`. They attack 21 images [6, 6, 1] between 0 and 1 of 4 classes.

    Args:
        attack: Any attack, with few steps.
        epsilon: Radius of the ball; default: one for the attack's norm, if it needs any.
        start: Function from images [N, 6, 6, 1] to those that the attack begins from, for attacks
            that need them.
        devices: The devices to run on; default: all.

    Yields:
        The checks, the contract first: without it none of the others can run.

    >>> import jaxadv as ja
    >>> [check.name for check in ja.testing.check_attack(ja.FGSM())][:3]
    ['follows_the_contract', 'stays_in_box', 'stays_in_ball']
    """
    trial = _Trial(attack, epsilon, start, devices)
    for check in CHECKS:
        yield Check(check.__name__, functools.partial(check, trial))


def assert_attack(attack: Attack, **settings: Any) -> None:
    """Run all checks of an attack.

    Args:
        attack: Any attack, with few steps.
        settings: `epsilon`, `start` and `devices`, as `check_attack` takes them.

    Raises:
        AssertionError: Some checks fail; the message names each of them and says why.

    >>> import jaxadv as ja
    >>> ja.testing.assert_attack(ja.FGSM())
    """
    failed = {}
    for check in check_attack(attack, **settings):
        try:
            check()
        except Exception as error:  # an attack may fail in any way
            failed[check.name] = f"{type(error).__name__}: {error}"
            if check.name == CHECKS[0].__name__:
                break
    if failed:
        name = attack.name if isinstance(attack, Attack) else repr(attack)
        lines = [f"{check}: {reason}" for check, reason in failed.items()]
        raise AssertionError(f"{name} fails {', '.join(failed)}\n" + "\n".join(lines))


class _Trial:
    """One attack, the problem that it is given and the runs that several checks look at."""

    def __init__(
        self,
        attack: Attack,
        epsilon: float | None,
        start: Callable[[np.ndarray], np.ndarray] | None,
        devices: Devices,
    ) -> None:
        self.attack, self.start, self.devices, self.given = attack, start, devices, epsilon
        self.key = jax.random.key(7)
        self.model = network()
        self.images, self.labels = images_and_labels(self.model)

    @property
    def specialize(self) -> Attack:
        return self.attack.specialize(Untargeted(self.labels), CLASSES)

    @property
    def epsilon(self) -> float | None:
        if self.given is None and self.attack.needs_epsilon:
            return EPSILON[self.attack.norm]
        return self.given

    @property
    def keep(self) -> str:
        return "distance" if self.attack.keep == "distance" else "first"

    def begin(self, images: np.ndarray) -> np.ndarray | None:
        return None if self.start is None else self.start(images)

    def run(self, model: Model, images: np.ndarray, labels: np.ndarray, **changes: Any) -> Result:
        """Run the attack; the program is the same regardless of the arguments."""
        settings = {"attack": self.attack, "epsilon": self.epsilon, "key": self.key, **changes}
        return run(
            settings.pop("attack"),
            model,
            images,
            Untargeted(labels),
            settings.pop("epsilon"),
            keep=self.keep,
            lanes=LANES,
            devices=self.devices,
            start=self.begin(images),
            **settings,
        )

    def run_part(self, index: np.ndarray) -> Result:
        """The attack on some images under their own ids."""
        return self.run(self.model, self.images[index], self.labels[index], ids=index)

    @functools.cached_property
    def result(self) -> Result:
        return self.run(self.model, self.images, self.labels)


def follows_the_contract(trial: _Trial) -> None:
    """Every method returns the shapes and types that the engine needs."""
    check_is_attack(trial.attack)
    goal, start = Untargeted(trial.labels), trial.start is not None
    check_contract(trial.specialize, goal, SHAPE, CLASSES, trial.key, start)


def stays_in_box(trial: _Trial) -> None:
    """Images lie within the bounds of the model."""
    _require_box(trial.result)


def stays_in_ball(trial: _Trial) -> None:
    """Images lie within epsilon, and their distance is what float64 arithmetic says."""
    _require_ball(trial, trial.result, trial.images)


def success_is_verified(trial: _Trial) -> None:
    """What counts as a success is misclassified, and verification rejects none of it."""
    _require_verified(trial.result, trial.model, trial.labels)


def misclassified_is_not_attacked(trial: _Trial) -> None:
    """An image that is misclassified already is a success at distance 0 after one forward pass."""
    one = trial.result.rows(MISCLASSIFIED)
    _require(one.status == Status.MISCLASSIFIED, f"its status is {Status(one.status).name}")
    spent = float(one.distance), int(one.forward), int(one.backward)
    _require(spent == (0, 1, 0), f"its distance and passes are {spent}, not (0, 1, 0)")


def counts_bounded(trial: _Trial) -> None:
    """No image takes more passes than the attack says that it may take."""
    attack, result = trial.specialize, trial.result
    most = attack.ticks * attack.entries * attack.queries
    _require(result.forward <= 1 + most, f"more than 1 + {most} forward passes")
    most *= attack.pullbacks
    _require(result.backward <= most, f"more than {most} backward passes")
    passes = result.forward - 1 + result.backward
    _require(passes <= attack.passes, f"more passes than attack.passes = {attack.passes}")


def counts_sequential(trial: _Trial) -> None:
    """Counts are those of one image after the other: a success is not pulled back."""
    pullbacks, result = trial.specialize.pullbacks, trial.result
    most = max(pullbacks, 1) * result.forward
    _require(result.backward < most, "a gradient for every query, the last success included")
    _require(result.computed >= result.forward, "counted more forward passes than were computed")
    _require(result.forward == 1 + result.queries, "forward passes are not 1 + queries")
    _require((result.backward == 0) | (pullbacks > 0), "backward passes without pullbacks")


def independent_of_order(trial: _Trial) -> None:
    """The same images in another order give equal bits."""
    order = np.random.default_rng(0).permutation(COUNT)
    _require_equal(trial.run_part(order), trial.result.rows(order))


def independent_of_batch(trial: _Trial) -> None:
    """Some of the images alone give equal bits."""
    part = np.random.default_rng(1).permutation(COUNT)[: COUNT - 4]
    _require_equal(trial.run_part(part), trial.result.rows(part))


def resumable(trial: _Trial) -> None:
    """A run that is ended by its budget and taken up again gives equal bits."""
    attack = trial.specialize
    passes = trial.result.cost.lane_ticks * attack.queries * (1 + attack.pullbacks) // 2
    begun = trial.run(trial.model, trial.images, trial.labels, budget=Budget(passes=passes))
    is_open = begun.status == Status.NOT_RUN
    finished, rest = np.flatnonzero(~is_open), np.flatnonzero(is_open)
    _require_equal(begun.rows(finished), trial.result.rows(finished))
    together = np.concatenate([rest, finished])  # as many as before, so that nothing is compiled
    _require_equal(trial.run_part(together).rows(slice(len(rest))), trial.result.rows(rest))


def zero_gradient_is_finite(trial: _Trial) -> None:
    """Where every gradient is 0 (a saturated network), images and outputs stay finite."""
    model = trial.model
    saturated = Model(model.apply, {**model.params, "a": model.params["a"] * SATURATION})
    labels = _predict(saturated, trial.images)
    # Success is not judged anew: at a jump of the network another batch rounds to another class.
    _require_finite(trial, trial.run(saturated, trial.images, labels), trial.images)


def constant_image(trial: _Trial) -> None:
    """Images of a single value, black and white among them, are attacked as others are."""
    values = np.linspace(0, 1, COUNT, dtype=np.float32)
    images = np.broadcast_to(values[:, None, None, None], (COUNT, *SHAPE)).copy()
    labels = _predict(trial.model, images)
    result = trial.run(trial.model, images, labels)
    _require_finite(trial, result, images)
    _require_verified(result, trial.model, labels)


def zero_epsilon_changes_nothing(trial: _Trial) -> None:
    """With epsilon 0 every image stays what it is."""
    if trial.epsilon is None:
        return
    result = trial.run(trial.model, trial.images, trial.labels, epsilon=0.0)
    _require(_flat(result.images == trial.images), "changed with epsilon=0")


def nonfinite_answers_never_count(trial: _Trial) -> None:
    """With a model that outputs NaN no image is a success, and no image becomes NaN."""
    model = trial.model
    broken = Model(model.apply, {**model.params, "b": model.params["b"] * np.nan})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CheckWarning)
        result = trial.run(broken, trial.images, trial.labels)
    _require_box(result)
    _require(~result.success, "successful though the model outputs NaN")


def nothing_recompiles(trial: _Trial) -> None:
    """Other weights, images, labels, epsilons, keys and settings of floats: the same program."""
    before = trial.result and _NETWORK.traces
    params = jax.tree.map(lambda leaf: leaf * 0.9, trial.model.params)
    trial.run(
        Model(trial.model.apply, params),
        1 - trial.images,
        (trial.labels + 1) % CLASSES,
        attack=jax.tree.map(_slightly_less, trial.attack),
        epsilon=None if trial.epsilon is None else 0.9 * trial.epsilon,
        key=jax.random.key(3),
        ids=np.arange(100, 100 + COUNT),
    )
    again = _NETWORK.traces - before
    _require(again == 0, f"the network was traced {again} times more")


def works_with_64_bit_types(trial: _Trial) -> None:
    """With `jax_enable_x64` the loop can be traced, and images are float32 as ever."""

    def drive(
        attack: Attack, model: Model, images: Array, goal: Goal, start: Array | None
    ) -> Array:
        table = make_table(attack, model, images, goal, trial.epsilon, keep=trial.keep)
        table = table._replace(start=start)
        return drive_lanes(
            attack, model, table, trial.key, keep=trial.keep, lanes=LANES, rewrite=False
        ).best.image

    with x64():
        goal, start = Untargeted(trial.labels), trial.begin(trial.images)
        image = jax.eval_shape(drive, trial.attack, trial.model, trial.images, goal, start)
    _require(image.dtype == np.float32, f"the images are {image.dtype}")


CHECKS = (
    follows_the_contract,
    stays_in_box,
    stays_in_ball,
    success_is_verified,
    misclassified_is_not_attacked,
    counts_bounded,
    counts_sequential,
    independent_of_order,
    independent_of_batch,
    resumable,
    zero_gradient_is_finite,
    constant_image,
    zero_epsilon_changes_nothing,
    nonfinite_answers_never_count,
    nothing_recompiles,
    works_with_64_bit_types,
)


def _require(holds: bool | np.ndarray, message: str) -> None:
    """Raise AssertionError with the message and the images [N] for which this does not hold."""
    passed = np.asarray(holds)
    failed = np.flatnonzero(~passed)
    if len(failed):
        where = f" ({len(failed)} of {passed.size} images: {some(failed)})" if passed.ndim else ""
        raise AssertionError(message + where)


def _require_box(result: Result) -> None:
    _require(_flat(np.isfinite(result.images)), "NaN or infinite values")
    _require(_flat((result.images >= 0) & (result.images <= 1)), "outside the box from 0 to 1")


def _require_ball(trial: _Trial, result: Result, images: np.ndarray) -> None:
    distance = distance64(trial.attack.norm, result.images, images)
    _require(result.distance == distance, "another distance than that of the image returned")
    if trial.epsilon is not None:
        _require(distance <= trial.epsilon, f"farther than epsilon={trial.epsilon}")


def _require_verified(result: Result, model: Model, labels: np.ndarray) -> None:
    wrong = _predict(model, result.images) != labels
    _require(result.success == wrong, "success is not what the model says of the image")
    _require(not result.rejected, f"verification rejected {result.rejected}")


def _require_finite(trial: _Trial, result: Result, images: np.ndarray) -> None:
    _require_box(result)
    _require_ball(trial, result, images)
    _require(result.status != Status.NONFINITE, "queried images with NaN or infinite values")


def _require_equal(result: Result, expected: Result) -> None:
    for name, given, wanted in zip(result._fields[:-1], result[:-1], expected[:-1], strict=True):
        same = (given == wanted) | (np.isnan(given) & np.isnan(wanted))
        _require(_flat(same), f"{name} differs")


def _flat(holds: np.ndarray) -> np.ndarray:
    """Whether it holds for all values of each image [N]."""
    return np.asarray(holds.reshape(len(holds), int(np.prod(holds.shape[1:]))).all(1))


def _predict(model: Model, images: np.ndarray) -> np.ndarray:
    """The most likely class of each image [N]."""
    return np.array(model(jnp.asarray(images))).argmax(1)


def _slightly_less(leaf: Number) -> Number:
    is_float = jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
    return leaf * np.float32(0.999) if is_float else leaf
