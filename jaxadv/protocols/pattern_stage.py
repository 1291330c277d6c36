"""The last stage of `minimal_distance`: a pattern search around each image."""

import time
from typing import NamedTuple

import numpy as np

from jaxadv.core.model import Model
from jaxadv.core.pytree import take
from jaxadv.engine.result_store import fingerprint
from jaxadv.engine.session import Session
from jaxadv.proofs.pieces import Pieces
from jaxadv.protocols.pattern_search import PatternSearch, Settings, pieces_of

NAME = "pattern search"
RESERVED = 10_000  # the most passes an image that are left to the search
FEW_UNITS = 100  # ReLUs of a network whose pieces find more than attacks do
MOST_UNITS = 1_000  # ReLUs of a network whose pieces are searched without being asked for
BETWEEN_SAVES = 16  # images


class Searched(NamedTuple):
    """What the pattern search did on N images.

    Attributes:
        images: Floats [N, ...], the nearest adversarial images.
        programs: Integers [N], linear programs solved.
        forward: Integers [N], forward passes.
        backward: Integers [N], backward passes.
        done: Booleans [N], whether an image was searched.
        seconds: Wall time, that of earlier calls included.
    """

    images: np.ndarray
    programs: np.ndarray
    forward: np.ndarray
    backward: np.ndarray
    done: np.ndarray
    seconds: np.ndarray


def reserved(pieces: Pieces, passes: int) -> int:
    """Return how many of an image's passes are left to the search."""
    return min(RESERVED, 3 * passes // 4 if pieces.size <= FEW_UNITS else passes // 2)


def small_pieces(model: Model, shape: tuple[int, ...], norm: str) -> Pieces | None:
    """Return the affine pieces of a small piecewise-linear model; None for any other."""
    try:
        pieces = pieces_of(model, shape, norm)
    except ValueError:
        return None
    return pieces if pieces.size <= MOST_UNITS else None


def search_patterns(
    session: Session,
    pieces: Pieces,
    starts: np.ndarray,
    passes: np.ndarray,
    norm: str,
    file: str,
) -> Searched:
    """Search around the nearest adversarial images so far; finished ones are kept in the store.

    Args:
        session: The session.
        pieces: The affine pieces of its model.
        starts: Floats [N, ...], the nearest adversarial images so far.
        passes: Integers [N], the most passes of each; 0 for images that are not searched.
        norm: "linf", "l2" or "l1".
        file: Name of the result in the store.

    Returns:
        What was found; images that were not reached, because of Ctrl-C, are not `done`.
    """
    settings, store, count = Settings(), session.store, len(starts)
    same = "" if store is None else fingerprint(session.fingerprint, norm, settings, starts, passes)
    rows = np.flatnonzero(passes > 0)
    saved = None if store is None else store.load_arrays(file, same)
    if saved is None:
        found = Searched(
            starts.copy(),
            np.zeros(count, int),
            np.zeros(count, int),
            np.zeros(count, int),
            np.zeros(count, bool),
            np.zeros(()),
        )
    else:
        found = Searched(**saved)
    left = [row for row in rows if not found.done[row]]
    progress = session.named(NAME)
    for number, row in enumerate(left):
        if session.stopped():
            break
        began = time.perf_counter()
        goal = take(session.goal, np.array([row]))
        own = settings._replace(passes=int(passes[row]))
        one = PatternSearch(pieces, session.images[row], goal, norm, own).run(starts[row])
        found.images[row], found.done[row] = one.image, True
        for counts, more in zip(found[1:4], one[2:], strict=True):
            counts[row] = more
        found.seconds[...] += time.perf_counter() - began
        if store is not None and (number + 1) % BETWEEN_SAVES == 0:
            store.save_arrays(file, same, **found._asdict())
        if progress is not None:
            moved = (found.images != starts).reshape(count, -1).any(1)
            progress(len(rows) - len(left) + number + 1, len(rows), int(moved.sum()))
    if store is not None and left:
        store.save_arrays(file, same, **found._asdict())
    return found
