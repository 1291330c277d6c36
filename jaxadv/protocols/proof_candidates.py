"""The candidates for adversarial images that bounds find on their way."""

import numpy as np

from jaxadv.core.goals import Untargeted
from jaxadv.core.norms import distance64
from jaxadv.core.result import Status
from jaxadv.engine.devices import choose_devices
from jaxadv.engine.session import Session
from jaxadv.engine.verify import verify
from jaxadv.protocols.proof_ledger import Ledger
from jaxadv.protocols.verdicts import Verdict

INSIDE = 1 - 1e-7  # what is left of a step, so that float64 finds its length within epsilon


def try_candidates(
    session: Session,
    ledger: Ledger,
    norm: str,
    radii: np.ndarray,
    rows: np.ndarray,
    candidates: np.ndarray,
) -> np.ndarray:
    """Verify candidates at which bounds are attained, and note those that are adversarial.

    Args:
        session: The session of the images.
        ledger: What is known of them, which is written into.
        norm: Name of the norm.
        radii: Floats [R], the radii.
        rows: Integers [R], the images.
        candidates: Floats [R, ...].

    Returns:
        Booleans [R], which are adversarial. Each costs a forward pass.
    """
    originals = session.images[rows]
    images = _inside(norm, np.clip(candidates, *session.model.bounds), originals, radii)
    goal = Untargeted(np.asarray(session.goal.labels)[rows])
    devices = choose_devices(session.devices)
    status, _, margin = verify(session.model, norm, images, originals, goal, radii, devices)
    valid = np.isin(status, (Status.SUCCESS, Status.REJECTED_LABEL)) & ~np.isnan(margin)
    np.minimum.at(ledger.upper, rows[valid], margin[valid])
    ledger.forward += np.bincount(rows, minlength=len(ledger.forward))
    hit = status == Status.SUCCESS
    ledger.images[rows[hit]], ledger.status[rows[hit]] = images[hit], Verdict.BROKEN
    return hit


def _inside(norm: str, images: np.ndarray, originals: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """Return images moved towards the originals until they are within the radii, in float32."""
    length = np.maximum(distance64(norm, images, originals), 1e-30)
    share = INSIDE * np.minimum(1, radii / length).reshape(-1, *[1] * (images.ndim - 1))
    step = share * (images.astype(np.float64) - originals)
    moved = (originals + step).astype(np.float32)
    beyond = np.abs(moved.astype(np.float64) - originals) > np.abs(step)
    return np.where(beyond, np.nextafter(moved, originals), moved)
