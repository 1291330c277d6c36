"""`check`: find out whether the results of attacks on a model can be trusted.

Every check is cheap, runs on a few images, and on failure gives one message that says what to do.
The list follows Croce et al. 2022 (AutoAttack's flags), Carlini et al. 2019 (arXiv 1902.06705),
Pintor et al. 2022 (indicators of attack failure, arXiv 2106.09947) and Zimmermann et al. 2022
(planted problems, arXiv 2206.13991).
"""

import numpy as np
from jaxtyping import Array

from jaxadv.attacks import PGD, Square
from jaxadv.core.bounds import sides_of
from jaxadv.core.goals import Untargeted
from jaxadv.core.model import Model
from jaxadv.core.norms import diameter
from jaxadv.core.typing import ArrayLike, Devices, Numbers
from jaxadv.engine import checks, clean_answers
from jaxadv.engine.diagnose import answers, attacks, gradients, planted, program
from jaxadv.engine.diagnose.finding import Finding, verdict
from jaxadv.engine.diagnose.subject import Subject
from jaxadv.engine.session import Session
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
    shape, labels = session.images.shape[1:], np.asarray(session.goal.labels)
    checks.check_epsilon(PGD(norm=norm, steps=steps), epsilon, 1, shape, model.bounds)
    logits = predict(model, session.images, session.devices)
    scan = program.read_program(model, shape)
    findings = [
        *_check_outputs(session, logits, labels),
        answers.meant_radius(float(epsilon), norm, shape, model.bounds),
        program.operations(scan),
        program.no_gradients_inside(scan),
    ]
    right = np.flatnonzero(logits.argmax(1) == labels)
    if len(right) == 0:
        return findings
    missing = checks.missing_derivative(model, shape)
    if missing:
        return [*findings, verdict("gradients", missing)]
    subject = Subject.of(session, right, logits, norm, epsilon)
    inside = subject.draw(epsilon, 16)
    slopes = clean_answers.loss_gradients(model, subject.session.images, subject.session.goal)
    return [
        *findings,
        *_check_gradients(subject, scan, inside, slopes),
        *_check_attacks(subject, steps, inside, slopes),
    ]


def _check_outputs(session: Session, logits: np.ndarray, labels: np.ndarray) -> list[Finding]:
    """Check the logits of all images."""
    model, images, devices = session.model, session.images, session.devices
    return [
        verdict("logits", "; ".join(clean_answers.logit_messages(logits))),
        answers.same_answers(logits, [predict(model, images, devices) for _ in range(4)]),
        answers.batch_size(logits, predict(model, images, devices, width=7)),
        answers.meant_labels(logits, labels),
    ]


def _check_gradients(
    subject: Subject, scan: program.Program, inside: np.ndarray, slopes: dict[str, np.ndarray]
) -> list[Finding]:
    """Check the margin and its gradient near the images, and the gradients inside the ball."""
    model, images, goal = subject.session.model, subject.session.images, subject.session.goal
    epsilon = subject.epsilon
    near, aside = subject.draw(epsilon / 100, 8), subject.draw(epsilon / 20, 4)
    pairs = np.stack([aside, (2 * images - aside).clip(*model.bounds)])
    pair_margins = np.stack([subject.margins(side) for side in pairs])
    floor = 4 * scan.rounding * float(np.abs(subject.clean).max())
    away = clean_answers.loss_gradients(model, inside[0], goal)
    return [
        answers.smooth(margins(goal, subject.clean), subject.margins(near), epsilon),
        gradients.some_gradient(slopes, away),
        gradients.true_gradient(-slopes["margin"], pairs, pair_margins, floor, scan.cuts),
    ]


def _check_attacks(
    subject: Subject, steps: int, inside: np.ndarray, slopes: dict[str, np.ndarray]
) -> list[Finding]:
    """Compare attacks of different strength, and judge what they find."""
    norm, epsilon, bounds = subject.norm, subject.epsilon, subject.session.model.bounds
    images, goal = subject.session.images, subject.session.goal
    one = np.arange(len(images))
    noisy = np.stack([subject.query(piece) for piece in inside])
    weaker = {
        "noise": np.stack([margins(goal, piece) for piece in noisy]).min(0) < 0,
        "one step": subject.margin(subject.one_step(slopes["cross_entropy"])) < 0,
    }
    largest = diameter(norm, images[0].size, sides_of(bounds, images.shape[1:]))
    hidden, posed = planted.plant(subject.labels, subject.clean, noisy)
    radii = [epsilon / 4, epsilon / 2, epsilon, largest, epsilon]
    places = np.concatenate([one, one, one, one, one + len(one)])
    attack = PGD(norm=norm, steps=steps, step_size=0.1, loss=planted.either_loss)
    both = planted.with_plain(hidden)
    each = subject.attack(attack, places, np.repeat(radii, len(one)), both)
    quarter, half, full, everywhere, sought = (each.rows(i * len(one) + one) for i in range(5))
    # The highest loss lies well inside: first successes lie at the boundary, where rounding flips.
    patient, everyone = PGD(norm=norm, steps=2 * steps, step_size=0.1), np.repeat(epsilon, len(one))
    longer = subject.attack(patient, one, everyone, keep="loss")
    queries = 6 * steps  # forward and backward passes of both PGD runs at epsilon
    by_queries = []
    if norm in Square.norms:  # in L0, score-based attacks beat PGD on sound models too
        search = Square(norm=norm, steps=queries - 1, rescale=True)
        found = subject.attack(search, one, everyone)
        by_queries = [attacks.asking(found, full, longer, queries)]
    stored = subject.margin(attacks.to_8_bits(longer.images, bounds))
    return [
        attacks.enough_steps(full, longer, margins(goal, subject.clean), steps),
        attacks.monotone(np.stack([r.success for r in (quarter, half, full)]), radii),
        attacks.order(weaker, full.success),
        *by_queries,
        attacks.unbounded(everywhere.success, norm, largest),
        planted.planted_problems(hidden, subject.query(sought.images), posed),
        attacks.verified([quarter, half, full, everywhere, longer]),
        attacks.rounding(longer.success, stored),
        attacks.reject_class(subject.labels, subject.query(longer.images)[longer.success]),
    ]
