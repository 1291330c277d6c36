"""`check`: find out whether the results of attacks on a model can be trusted.

Every check is cheap, runs on a few images, and on failure gives one message that says what to do.
The list follows Croce et al. 2022 (AutoAttack's flags), Carlini et al. 2019 (arXiv 1902.06705),
Pintor et al. 2022 (indicators of attack failure, arXiv 2106.09947) and Zimmermann et al. 2022
(planted problems, arXiv 2206.13991).
"""

import functools

import jax
import numpy as np
from jaxtyping import Array

from jaxadv.attacks import PGD, Square
from jaxadv.core.attack import Attack, safe_epsilon
from jaxadv.core.goals import Goal, Untargeted
from jaxadv.core.model import Model
from jaxadv.core.norms import diameter, get_norm
from jaxadv.core.result import Result
from jaxadv.core.typing import ArrayLike, Devices, Numbers
from jaxadv.engine import checks
from jaxadv.engine.diagnose import answers, attacks, gradients, planted, program
from jaxadv.engine.diagnose.finding import Finding, verdict
from jaxadv.engine.run import run_rows
from jaxadv.engine.session import Rows, Session
from jaxadv.engine.verify import margins, predict

__all__ = ["Finding", "check"]


def check(
    model: Model,
    images: ArrayLike,
    labels: Numbers,
    *,
    epsilon: float,
    norm: str = "linf",
    steps: int = 40,
    key: Array | None = None,
    devices: Devices = None,
    lanes: int | None = None,
) -> list[Finding]:
    """Check a model and an evaluation for what makes attacks look weaker than they are.

    The checks are about:

    - the outputs: they are finite logits and not probabilities, equal in repeated queries and in
      batches of another size, agree with the labels, and are smooth (they hardly change within a
      hundredth of epsilon);
    - the program: operations without a gradient, gradients that the model computes itself (a
      defence that optimises at inference), and epsilon compared with the range of the images;
    - the gradients, at the images and inside the ball: they are finite and not zero (and for which
      loss), and agree with the change of the margin;
    - a few attacks (noise, one step, PGD at a quarter, a half and the whole of epsilon, with twice
      the steps, without a bound, and on planted problems; and the score-based Square): the stronger
      attack is stronger and has converged, planted adversarial images are found, and successes are
      verified, survive rounding to 8 bits, and are not what a detector rejects.

    A model that is never right or has no derivative gets only the first of these. The cost per
    image is about 7 * steps forward and backward passes, and 60 + 6 * steps forward passes.

    Args:
        model: The model to check.
        images: Floats [N, H, W, C] within `model.bounds`; 100 images are enough.
        labels: Integers [N].
        epsilon: Radius of the evaluation's threat model.
        norm: Norm of the evaluation's threat model.
        steps: Steps of the evaluation's PGD.
        key: A JAX random key (default: seed 0).
        devices: The devices to use (default: all local devices).
        lanes: Number of images attacked at the same time on each device (default: chosen by the
            number of images and the memory).

    Returns:
        One finding a check, with its name, whether it passed, and a message.

    Raises:
        ValueError: If an argument has the wrong type, shape, dtype or range.

    Example:
        >>> import jax.numpy as jnp, jaxadv as ja
        >>> model = ja.Model(lambda w, x: x.reshape(len(x), -1) @ w, 3 * jnp.eye(4))
        >>> images = jnp.eye(4).reshape(4, 2, 2, 1)
        >>> [f.name for f in ja.check(model, images, jnp.arange(4), epsilon=0.4) if not f.passed]
        []
    """
    session = Session.open(model, images, Untargeted(labels), key=key, devices=devices, lanes=lanes)
    images, key, labels = session.images, session.key, np.asarray(session.goal.labels)
    shape, bounds = images.shape[1:], model.bounds
    size = int(np.prod(shape))
    checks.check_epsilon(PGD(norm=norm, steps=steps), epsilon, 1, shape, bounds)

    def query(images: np.ndarray) -> np.ndarray:
        """Return the logits [N, K]."""
        return predict(model, images, session.devices)

    logits = query(images)
    scan = program.read_program(model, shape)
    findings = [
        verdict("logits", "; ".join(checks.logit_messages(logits))),
        answers.same_answers(logits, [query(images) for _ in range(4)]),
        answers.batch_size(logits, predict(model, images, session.devices, width=7)),
        answers.meant_labels(logits, labels),
        answers.meant_radius(float(epsilon), norm, size, bounds),
        program.operations(scan),
        program.no_gradients_inside(scan),
    ]
    right = np.flatnonzero(logits.argmax(1) == labels)
    correct, labels, clean = images[right], labels[right], logits[right]
    if len(right) == 0:
        return findings
    missing = checks.missing_derivative(model, shape)
    if missing:
        return [*findings, verdict("gradients", missing)]

    goal = Untargeted(labels)
    clean_margin = margins(goal, clean)

    def draw(radius: float, count: int) -> np.ndarray:
        """Draw points [count, N, H, W, C] from the balls of this radius."""
        inner, keys = safe_epsilon(norm, radius), jax.random.split(key, count)
        return np.stack([np.asarray(_point(norm, correct, inner, bounds, k)) for k in keys])

    def margin_of(points: np.ndarray) -> np.ndarray:
        """Return the margins [D, N] of points [D, N, H, W, C]; equal batches compile once."""
        return np.stack([margins(goal, query(piece)) for piece in points])

    near, aside, inside = draw(epsilon / 100, 8), draw(epsilon / 20, 4), draw(epsilon, 16)
    noisy = np.stack([query(piece) for piece in inside])
    slopes = checks.loss_gradients(model, correct, goal)
    away = checks.loss_gradients(model, inside[0], goal)
    pairs = np.stack([aside, (2 * correct - aside).clip(*bounds)])
    floor = 4 * scan.rounding * float(np.abs(clean).max())
    inner = safe_epsilon(norm, epsilon)
    step = np.asarray(_one_step(norm, correct, slopes["cross_entropy"], inner, bounds))
    weaker = {
        "noise": np.stack([margins(goal, one) for one in noisy]).min(0) < 0,
        "one step": margins(goal, query(step)) < 0,
    }

    def run(
        attack: Attack, places: np.ndarray, radii: np.ndarray, goal: Goal, keep: str = "first"
    ) -> Result:
        """Attack image places[i] of `correct`, or of `correct` twice, at radii[i] in row i."""
        copies = len(goal.labels) // len(correct)
        own = session._replace(
            images=np.concatenate([correct] * copies),
            goal=goal,
            ids=np.tile(right, copies),
            lanes=session.width(1, len(places)),
            clean_logits=np.concatenate([clean] * copies),
        )
        return run_rows(own, attack, Rows(places, radii), keep=keep)

    largest = diameter(norm, size, bounds[1] - bounds[0])
    hidden, posed = planted.plant(labels, clean, noisy)
    radii, one = [epsilon / 4, epsilon / 2, epsilon, largest, epsilon], np.arange(len(correct))
    places = np.concatenate([one, one, one, one, one + len(correct)])
    attack = PGD(norm=norm, steps=steps, step_size=0.1, loss=planted.either_loss)
    each = run(attack, places, np.repeat(radii, len(correct)), planted.with_plain(hidden))
    quarter, half, full, everywhere, sought = (each.rows(i * len(correct) + one) for i in range(5))
    # The highest loss lies well inside: first successes lie at the boundary, where rounding flips.
    patient = PGD(norm=norm, steps=2 * steps, step_size=0.1)
    longer = run(patient, one, np.repeat(epsilon, len(correct)), goal, keep="loss")
    queries = 6 * steps  # forward and backward passes of both PGD runs at epsilon
    score_based = None
    if norm in Square.norms:  # in L0, score-based attacks beat PGD on sound models too
        search = Square(norm=norm, steps=queries - 1, rescale=True)
        score_based = run(search, one, np.repeat(epsilon, len(correct)), goal)
    stored = margins(goal, query(attacks.to_8_bits(longer.images, bounds)))
    pair_margins = np.stack([margin_of(side) for side in pairs])
    return [
        *findings,
        answers.smooth(clean_margin, margin_of(near), epsilon),
        gradients.some_gradient(slopes, away),
        gradients.true_gradient(-slopes["margin"], pairs, pair_margins, floor, scan.cuts),
        attacks.enough_steps(full, longer, clean_margin, steps),
        attacks.monotone(np.stack([r.success for r in (quarter, half, full)]), radii),
        attacks.order(weaker, full.success),
        *([] if score_based is None else [attacks.asking(score_based, full, longer, queries)]),
        attacks.unbounded(everywhere.success, norm, largest),
        planted.planted_problems(hidden, query(sought.images), posed),
        attacks.verified([quarter, half, full, everywhere, longer]),
        attacks.rounding(longer.success, stored),
        attacks.reject_class(labels, query(longer.images)[longer.success]),
    ]


@functools.partial(jax.jit, static_argnums=(0, 3))
def _point(
    norm: str, images: Array, radius: Array, bounds: tuple[float, float], key: Array
) -> Array:
    """Draw a point [N, H, W, C] uniformly from each image's ball."""

    def one(image: Array, key: Array) -> Array:
        point = get_norm(norm).random(key, image, radius, *bounds)
        return get_norm(norm).project(point, image, radius, *bounds)

    return jax.vmap(one)(images, jax.random.split(key, len(images)))


@functools.partial(jax.jit, static_argnums=(0, 4))
def _one_step(
    norm: str, images: Array, gradient: Array, radius: Array, bounds: tuple[float, float]
) -> Array:
    """Return images [N, H, W, C] of the fast gradient method: one step as long as the radius."""

    def one(image: Array, gradient: Array) -> Array:
        direction = get_norm(norm).steepest(gradient, image, *bounds, 0.01)
        return get_norm(norm).project(image + radius * direction, image, radius, *bounds)

    return jax.vmap(one)(images, gradient)
