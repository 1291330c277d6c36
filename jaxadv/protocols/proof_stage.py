"""The last stage of an evaluation: proofs for the images that no attack broke, at each epsilon."""

from typing import NamedTuple

import numpy as np

from jaxadv.core.norms import distance64
from jaxadv.core.result import Cost, Result, Status, empty_result
from jaxadv.engine.session import Session
from jaxadv.proofs.network import Network
from jaxadv.protocols.proof_search import Search
from jaxadv.protocols.prover import Prover
from jaxadv.protocols.verdicts import Verdict

STATUS = {
    Verdict.BROKEN: Status.SUCCESS,
    Verdict.PROVED: Status.PROVED,
    Verdict.NOT_RUN: Status.NOT_RUN,
    Verdict.NONFINITE: Status.NONFINITE,
}


class Proved(NamedTuple):
    """What the proofs said about N images at E epsilons.

    Attributes:
        result: Of the M rows that were given to the prover; its successes are the counterexamples.
        source: Integers [M], the image of each row.
        level: Integers [M], the index of its epsilon.
        proved: Booleans [E, N]; a proof counts at every smaller epsilon of its image too.
        complete: False if the proofs were interrupted.
    """

    result: Result
    source: np.ndarray
    level: np.ndarray
    proved: np.ndarray
    complete: bool


def prove_survivors(
    session: Session,
    network: Network,
    norm: str,
    prover: Prover,
    radii: np.ndarray,
    standing: np.ndarray,
) -> Proved:
    """Prove the images that stand, from the largest epsilon of each to its smallest.

    An image that is proved at one epsilon needs no proof at a smaller one, nor one whose
    counterexample is within that. Finished chunks are kept in the session's store.

    Args:
        session: The session, with the clean logits.
        network: The traced model.
        norm: Name of the norm.
        prover: How images are proved.
        radii: Floats [E, N], the radius of each image at each epsilon.
        standing: Booleans [E, N], the images that no attack broke.

    Returns:
        What was proved, and the counterexamples that were found and verified.
    """
    levels, count = standing.shape
    proved, nearest = np.full(count, -np.inf), np.full(count, np.inf)
    complete, images = True, np.arange(count)
    shape = session.images.shape[1:]
    results, rows = [empty_result(0, shape, np.zeros(0), session.ids[:0])], [np.zeros(0, int)]
    order = np.argsort(radii, axis=0, kind="stable")  # of each image by itself
    for number in reversed(range(levels)):
        level = order[number]
        radius = radii[level, images]
        own = np.flatnonzero(standing[level, images] & (proved < radius) & (nearest > radius))
        if not len(own) or not complete:
            continue
        found, complete = prove_rows(
            session.of(own), network, norm, prover, radius[own], f"proof-{number:02d}"
        )
        certain = own[found.status == Status.PROVED]
        proved[certain] = radius[certain]
        nearest[own] = np.minimum(nearest[own], found.distance)
        results.append(found)
        rows.append(level[own] * count + own)
    fields = zip(*(result[:-1] for result in results), strict=True)
    seconds = sum(result.cost.seconds for result in results)
    whole = Result(*map(np.concatenate, fields), cost=Cost(0, seconds))
    level, source = np.divmod(np.concatenate(rows), count)
    return Proved(whole, source, level, radii <= proved, complete)


def prove_rows(
    session: Session,
    network: Network,
    norm: str,
    prover: Prover,
    radii: np.ndarray,
    file: str = "proof",
) -> tuple[Result, bool]:
    """Prove each image within a radius of its own, or find a counterexample.

    Args:
        session: The session, with the clean logits.
        network: The traced model.
        norm: Name of the norm.
        prover: How images are proved.
        radii: Floats [N].
        file: Beginning of the names of finished chunks in the session's store.

    Returns:
        The result, with the statuses `PROVED` and `UNDECIDED` among others; its successes are
            verified. And whether nothing interrupted the proofs.
    """
    search = Search(session, network, norm, prover, radii)
    search.bound_all(file)
    ledger = search.ledger
    status = [STATUS.get(Verdict(one), Status.UNDECIDED) for one in ledger.status]
    status = np.array(status, np.int8)
    success = status == Status.SUCCESS
    result = Result(
        images=ledger.images,
        success=success,
        distance=np.where(success, distance64(norm, ledger.images, session.images), np.inf),
        margin=ledger.upper.astype(np.float32),
        forward=ledger.forward,
        backward=ledger.backward,
        queries=np.zeros_like(ledger.forward),
        computed=ledger.forward,
        status=status,
        ids=session.ids,
        epsilon=radii,
        cost=Cost(0, search.seconds),
    )
    return result, search.complete
