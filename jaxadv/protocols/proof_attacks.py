"""Attacks before the bounds."""

from collections.abc import Callable

import numpy as np

from jaxadv.core.result import Status
from jaxadv.engine.session import Rows, Session
from jaxadv.protocols.cascades import Cascade, run_cascade
from jaxadv.protocols.proof_ledger import Ledger
from jaxadv.protocols.verdicts import Verdict


def attack_first(
    session: Session,
    ledger: Ledger,
    radii: np.ndarray,
    entries: Cascade,
    late: Callable[[], bool],
) -> None:
    """Run a cascade on all images that are classified correctly.

    Args:
        session: What all attacks have in common.
        ledger: What is known of the images, which is written into.
        radii: Floats [N], the radii.
        entries: The cascade.
        late: Called after each attack; returns whether to stop.
    """
    distance = np.where(ledger.status == Verdict.NOT_RUN, np.inf, 0.0)
    rows = Rows(np.arange(len(distance)), radii)
    for stage in run_cascade(session, entries, rows, distance, nested=False):
        result = stage.result
        ledger.forward[stage.rows] += result.forward
        ledger.backward[stage.rows] += result.backward
        inside = (result.status != Status.NOT_RUN) & (result.distance <= radii[stage.rows])
        least = np.where(inside & ~np.isnan(result.margin), result.margin, np.inf)
        np.minimum.at(ledger.upper, stage.rows, least)
        ledger.images[stage.broken] = result.images[stage.by]
        ledger.status[stage.broken] = Verdict.BROKEN
        if late():
            break
