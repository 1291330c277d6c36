"""`evaluate`: run a cascade of attacks on the surviving images, at several epsilons at once."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Array

from jaxadv.attacks import PGD, MinimalEpsilon
from jaxadv.core.goals import Goal, Untargeted
from jaxadv.core.model import Model
from jaxadv.core.result import Status
from jaxadv.core.typing import ArrayLike, Devices, Numbers
from jaxadv.engine import checks, clean_answers
from jaxadv.engine.diagnose import answers, program
from jaxadv.engine.session import Rows, Session, StageProgress
from jaxadv.protocols.cached_run import attack_of
from jaxadv.protocols.cascades import Cascade, broken_rows, get_cascade, run_cascade
from jaxadv.protocols.epsilons import check_epsilons
from jaxadv.protocols.evaluation import MISCLASSIFIED, SURVIVED, Report, Stage
from jaxadv.protocols.proof_stage import prove_survivors
from jaxadv.protocols.prover import Prover


def evaluate(
    model: Model,
    images: ArrayLike,
    labels: Goal | Numbers,
    norm: str = "linf",
    epsilons: Sequence[Numbers] | ArrayLike = (0.1,),
    attacks: str | Cascade = "quick",
    *,
    key: Array | None = None,
    ids: Numbers | None = None,
    devices: Devices = None,
    lanes: int | None = None,
    distances: bool = True,
    prove: str | None = None,
    store: str | Path | None = None,
    progress: StageProgress | None = None,
) -> Report:
    """Evaluate a classifier: its clean accuracy and its accuracy under attack at each epsilon.

    The attacks run in order, each on the images that survived those before it, at every epsilon
    separately. An image that is broken at one epsilon counts as broken at every larger one of its
    own. For a model that draws random numbers, an attack runs all its steps, and its image is
    verified on new draws. Each image costs one forward pass and the passes that the stages count.
    Ctrl-C returns an incomplete report.

    Args:
        model: The model to evaluate.
        images: Floats [N, H, W, C] within `model.bounds`.
        labels: Integers [N], or `ja.Evading(labels, rejected)` for a model that can reject an
            image. Then only an image that is misclassified and accepted is a success, and a clean
            image that is rejected counts as misclassified (`false_rejections`). Or
            `ja.Targeted(labels, targets)`: then only an image classified as its target is a
            success, and all that are not yet are attacked.
        norm: "linf", "l2", "l1" or "l0".
        epsilons: Radii in the norm's unit and the scale of the images. Each is a number for all
            images, or an array [N] of one radius for each image.
        attacks: The name of a cascade ("quick"; AutoAttack's "standard", "plus" and "rand"; our
            "fast" and "strong"; see `protocols.cascades`), or a dict of named attacks in the order
            of their runs. An entry can be `ja.Hardest(attack, share)`, which attacks the images of
            least margin, `ja.Nearly(attack, left)`, which attacks those with at most the fraction
            `left` of their clean margin, or `ja.Refine(attack)`, alone or in one of these, which
            begins at the image of least margin so far, or `ja.Softened(attack, width)`, likewise,
            which follows a softened derivative (`ja.softened`), or `ja.Branching(norm)`, alone or
            in `Hardest` or `Nearly`, which searches by branch and bound.
        key: A JAX random key (default: seed 0).
        ids: Integers [N] that identify the images in the random keys (default 0 to N - 1).
        devices: The devices to use (default: all local devices).
        lanes: Number of images attacked at the same time on each device (default: chosen for each
            attack).
        distances: Whether to search the smallest epsilon of every image (MinimalEpsilon of PGD).
            This is the last attack, and its successes count too.
        prove: An effort of `ja.prove`, "fast", "standard" or "strong": after the attacks, images
            that none of them broke are proved at each epsilon, and robust accuracy lies between
            the two (`robust_bounds`). A counterexample found on the way is a success of the stage
            "proof". None for no proofs. Not in L0.
        store: A folder in which every finished part is kept. A call with the same arguments
            continues from there.
        progress: Called with (stage, rows done, rows in all, successes).

    Returns:
        The report, with every attack's result.

    Raises:
        ValueError: If an argument has the wrong type, shape, dtype or range, if a cascade is
            unknown, if an attack works in another norm than `norm`, if a targeted goal is to be
            proved, if an attack needs gradients of a model that has none, or if the model has a
            step that cannot be proved: before any attack begins, and the message names the step.
        OSError: If the store's folder cannot be written to.

    Example:
        >>> import jax.numpy as jnp, jaxadv as ja
        >>> model = ja.Model(lambda w, x: x.reshape(len(x), -1) @ w, 2 * jnp.eye(4))
        >>> images, labels = jnp.eye(4).reshape(4, 2, 2, 1), jnp.arange(4)
        >>> report = ja.evaluate(model, images, labels, epsilons=[0.1, 0.6], distances=False)
        >>> report.clean_accuracy, report.robust_accuracy
        (1.0, array([1., 0.]))
    """
    entries = get_cascade(attacks, norm)
    checks.check_norms({name: attack_of(one) for name, one in entries.items()}, norm, "attacks")
    session = Session.open(
        model, images, labels, ids=ids, key=key, devices=devices, lanes=lanes, store=store
    )
    images, goal, ids = session.images, session.goal, session.ids
    count, shape = len(images), images.shape[1:]
    rejected, targets = getattr(goal, "rejected", None), getattr(goal, "targets", None)
    prover = None if prove is None else _prover(prove, goal)
    network = None if prover is None else prover.check(model, shape, norm)
    if distances:
        shortest = PGD(norm=norm, steps=20, step_size=0.125)
        entries = {**entries, "minimal epsilon": MinimalEpsilon(shortest, rounds=8)}
    missing = checks.missing_derivative(model, shape)
    blind = [name for name, entry in entries.items() if attack_of(entry).pullbacks]
    if missing and blind:
        raise ValueError(f"attacks {blind} need gradients, but {missing} (and distances=False)")
    levels = check_epsilons(epsilons, count, norm, shape, model.bounds)
    radii = np.broadcast_to(levels.reshape(len(levels), -1), (len(levels), count))
    classes, distinct = checks.count_classes(model, shape), np.unique(levels)
    checks.check_attacks(map(attack_of, entries.values()), model, goal, classes, distinct, shape)
    labels = np.asarray(goal.labels)

    session = session.answered()
    logits = session.clean_logits
    assert logits is not None
    predictions = np.where(np.isnan(logits).any(1), -1, logits.argmax(1))  # NaN: no prediction
    right = predictions == labels
    messages = _noticed(session, right, norm, levels.max(), differentiable=not missing)
    attacked = right if targets is None else predictions != targets
    broken_by = np.tile(np.where(attacked, SURVIVED, MISCLASSIFIED), len(levels))
    adversarial = np.tile(images, (len(levels), *[1] * len(shape)))
    distance = np.where(attacked, np.inf, 0.0)
    rows = Rows(np.tile(np.arange(count), len(levels)), radii.ravel())
    stages: list[Stage] = []
    with session.watched(progress) as session:
        for one in run_cascade(session, entries, rows, distance, nested=True):
            level, source = np.divmod(one.rows, count)
            stages.append(Stage(one.name, one.attack, one.result, source, level))
            broken_by[one.broken] = one.number
            adversarial[one.broken] = one.result.images[one.by]
            distance = one.distance
        complete = len(stages) == len(entries) and not any(
            (stage.result.status == Status.NOT_RUN).any() for stage in stages
        )
        proved = None
        if prover is not None and network is not None:
            standing = (broken_by == SURVIVED) & complete  # no proofs after an interruption
            grid = standing.reshape(len(levels), count)
            found = prove_survivors(session, network, norm, prover, radii, grid)
            result, source, proved = found.result, found.source, found.proved
            stages.append(Stage(prover.name, prover, result, source, found.level))
            broken, by = broken_rows(result, source, result.distance, radii, standing)
            broken_by[broken] = len(stages) - 1
            adversarial[broken] = result.images[by]
            np.minimum.at(distance, source[result.success], result.distance[result.success])
            complete &= found.complete
    lost = sum(int((stage.result.status == Status.NONFINITE).sum()) for stage in stages)
    if lost:
        messages.append(f"{lost} attacks met NaN or infinities and found nothing: see `ja.check`")
    return Report(
        norm=norm,
        epsilons=levels,
        ids=ids,
        labels=labels,
        predictions=predictions,
        logits=logits,
        images=images,
        bounds=model.bounds,
        stages=stages,
        broken_by=broken_by.reshape(len(levels), count),
        adversarial=adversarial.reshape(len(levels), *images.shape),
        distance=distance,
        messages=messages,
        complete=complete,
        rejected=None if rejected is None else int(rejected),
        targets=None if targets is None else np.asarray(targets),
        proved=proved,
    )


def _prover(prove: str, goal: Goal) -> Prover:
    """Return how images are proved; ValueError for goals that are not."""
    if type(goal) is not Untargeted:
        name = type(goal).__name__
        raise ValueError(f"prove={prove!r} is for plain labels, not for ja.{name}: leave it out")
    return Prover(prove)


def _noticed(
    session: Session, right: np.ndarray, norm: str, largest: float, *, differentiable: bool
) -> list[str]:
    """Return what a first look at the model, the labels and the epsilons makes doubtful."""
    model, images, labels = session.model, session.images, np.asarray(session.goal.labels)
    assert session.clean_logits is not None
    shape, probe = images.shape[1:], np.flatnonzero(right)[:64]
    scan = program.read_program(model, shape)
    looks = [
        answers.meant_labels(session.clean_logits, labels),
        answers.meant_radius(largest, norm, shape, model.bounds),
        program.operations(scan),
        program.no_gradients_inside(scan),
    ]
    messages = [look.message for look in looks if not look.passed]
    if len(probe) and differentiable:
        messages += clean_answers.check_gradients(model, images[probe], Untargeted(labels[probe]))
    return messages
