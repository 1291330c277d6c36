"""`prove`: prove that no image in a ball is adversarial, or find one that is.

Attacks first, then bounds from cheap to dear: intervals and CROWN, optimised slopes (alpha-CROWN),
and branch and bound with multipliers (beta-CROWN). A proof is a certificate of choices, and every
one is replayed in float64 before the image counts as proved.
"""

import math
import time
from pathlib import Path

import numpy as np
from jaxtyping import Array

from jaxadv.core.goals import Untargeted
from jaxadv.core.model import Model
from jaxadv.core.typing import ArrayLike, Devices, Numbers
from jaxadv.engine import checks
from jaxadv.engine.session import Session, StageProgress
from jaxadv.protocols.cached_run import attack_of
from jaxadv.protocols.cascades import Cascade, get_cascade
from jaxadv.protocols.proof_attacks import attack_first
from jaxadv.protocols.proof_search import Search
from jaxadv.protocols.prover import SUBPROBLEMS, Prover
from jaxadv.protocols.verdicts import Proofs


def prove(
    model: Model,
    images: ArrayLike,
    labels: Numbers | Untargeted,
    epsilon: Numbers,
    norm: str = "linf",
    *,
    effort: str = "standard",
    budget: int | None = None,
    seconds: float = math.inf,
    arithmetic: str = "float32",
    attacks: str | Cascade = "quick",
    key: Array | None = None,
    ids: Numbers | None = None,
    devices: Devices = None,
    store: str | Path | None = None,
    progress: StageProgress | None = None,
) -> Proofs:
    """Prove that no image within epsilon is adversarial, or find one that is.

    Attacks run first. The images that survive are bounded by intervals and backward linear bounds
    (CROWN, Zhang et al. 2018, arXiv 1811.00866), then with optimised slopes (alpha-CROWN, Xu et al.
    2021, arXiv 2011.13824), then by branch and bound over the signs of ReLUs (beta-CROWN, Wang et
    al. 2021, arXiv 2103.06624), whose last parts are decided by linear programs. The region is the
    norm ball within the model's bounds. Where a bound is attained is tried as an attack at every
    step, and after 1,000 subproblems descents of the margin begin there. Each proof is replayed in
    float64, by another routine. Ctrl-C returns what is known.

    The model must be a traced program of affine operations, max, min, clip, abs, (leaky) ReLU and
    max pooling, or, with looser bounds and without branching, of sigmoid, tanh, erf, exp, log,
    roots, squares, products and quotients.

    Args:
        model: The model, without random draws.
        images: Floats [N, H, W, C] within `model.bounds`.
        labels: Integers [N], or `ja.Untargeted(labels)`.
        epsilon: Radius, one number or [N], in the norm's unit and the scale of the images.
        norm: "linf", "l2" or "l1".
        effort: "fast" (attacks, CROWN), "standard" (optimised slopes too) or "strong" (branch and
            bound too).
        budget: The most subproblems of an image's margins in branch and bound (default 2,000);
            those of inputs of nonlinearities, at most twice as many a layer, come on top. Results
            do not depend on the other images.
        seconds: The most wall time of the whole call, compilation included, after which no further
            step is begun. Results then depend on the speed of the machine.
        arithmetic: "float32": the proof holds for the model as it runs in IEEE float32, in whatever
            order sums are added up (not for TF32 or bfloat16 products). "real": for exact
            arithmetic on the same parameters.
        attacks: A cascade of `ja.evaluate`, or a dict of attacks; {} for none.
        key: A JAX random key of the attacks (default: seed 0).
        ids: Integers [N] that identify the images in the random keys (default 0 to N - 1).
        devices: The devices of attacks and bounds (default: all local devices). Results do not
            depend on how many there are, except that one alone may round bounds differently.
        store: A folder in which every finished attack, and every finished chunk of bounds, is kept.
            A call with the same arguments continues from there, with equal results.
        progress: Called with (stage, images done, images in all, images proved).

    Returns:
        For each image whether it is proved or broken, else why it is unknown; bounds of the margin
            from both sides; certificates.

    Raises:
        ValueError: An argument has the wrong type, shape, dtype or range, the model draws at
            random, or it has a step of which no bound is known; the message names the step and
            its line.
        OSError: The store's folder cannot be written to.

    Example:
        >>> import jax.numpy as jnp, jaxadv as ja
        >>> model = ja.Model(lambda w, x: jnp.maximum(x.reshape(len(x), -1) @ w, 0), jnp.eye(4))
        >>> images, labels = jnp.eye(4).reshape(4, 2, 2, 1), jnp.arange(4)
        >>> proof = ja.prove(model, images, labels, jnp.array([0.4, 0.4, 0.6, 0.6]), attacks={})
        >>> proof.proved, proof.broken
        (array([ True,  True, False, False]), array([False, False,  True,  True]))
    """
    begun = time.monotonic()
    session = Session.open(model, images, labels, ids=ids, key=key, devices=devices, store=store)
    prover = Prover(effort, SUBPROBLEMS if budget is None else budget, arithmetic)
    radii = _radii(session, epsilon)
    shape = session.images.shape[1:]
    network = prover.check(model, shape, norm)
    entries = get_cascade(attacks, norm)
    checks.check_norms({name: attack_of(one) for name, one in entries.items()}, norm, "attacks")
    classes = checks.count_classes(model, shape)
    checks.check_attacks(
        map(attack_of, entries.values()), model, session.goal, classes, radii, shape
    )
    if not seconds > 0:
        raise ValueError(f"seconds={seconds}: pass a number above 0")
    with session.answered().watched(progress) as session:
        search = Search(session, network, norm, prover, radii, begun + seconds)
        attack_first(session, search.ledger, radii, entries, search.late)
        search.bound_all()
    return search.result(time.monotonic() - begun)


def _radii(session: Session, epsilon: Numbers) -> np.ndarray:
    """Return the radii [N]; ValueError if they or the labels are wrong."""
    if type(session.goal) is not Untargeted:
        raise ValueError(f"labels is {type(session.goal).__name__}: pass labels, integers [N]")
    radii = np.asarray(epsilon, np.float64)
    count = len(session.images)
    if radii.shape not in ((), (count,)) or not (np.isfinite(radii) & (radii > 0)).all():
        raise ValueError(f"epsilon={epsilon}: pass one finite number above 0, or {count}")
    return np.broadcast_to(radii, count).copy()
