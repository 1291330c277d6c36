"""What is known of each image while it is proved, and its form in a store."""

import dataclasses
from typing import Any

import numpy as np

from jaxadv.engine.result_store import Store
from jaxadv.engine.session import Session
from jaxadv.proofs.certificates import Certificate, as_arrays, certificates_of
from jaxadv.protocols.verdicts import Proofs, Verdict

PER_IMAGE = ("status", "images", "lower", "upper", "subproblems", "forward", "backward")


@dataclasses.dataclass
class Ledger:
    """What is known of N images so far, as in `Proofs`; it is written into while they are proved.

    Attributes:
        status: Integers [N], the `Verdict`; NOT_RUN where nothing is decided.
        images: Floats [N, H, W, C], the adversarial images.
        lower: Floats [N].
        upper: Floats [N].
        subproblems: Integers [N].
        forward: Integers [N].
        backward: Integers [N].
        certificates: What proves each image, or None.
    """

    status: np.ndarray
    images: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    subproblems: np.ndarray
    forward: np.ndarray
    backward: np.ndarray
    certificates: list[Certificate | None]

    @classmethod
    def open(cls, images: np.ndarray, margin: np.ndarray) -> "Ledger":
        """Return the ledger of images of which only the margins are known."""
        count = len(images)
        wrong = ~(margin >= 0)
        return cls(
            status=np.where(wrong, Verdict.MISCLASSIFIED, Verdict.NOT_RUN).astype(np.int8),
            images=images.copy(),
            lower=np.full(count, -np.inf),
            upper=margin.astype(np.float64),
            subproblems=np.zeros(count, int),
            forward=np.ones(count, int),
            backward=np.zeros(count, int),
            certificates=[None] * count,
        )

    @property
    def undecided(self) -> np.ndarray:
        """Booleans [N], the images that a dearer effort may still decide."""
        return np.isin(self.status, (Verdict.NOT_RUN, Verdict.LOOSE, Verdict.UNCONFIRMED))

    def proofs(self, session: Session, **more: Any) -> Proofs:
        """Return the result for the session's images; more: what all of them have in common."""
        return Proofs(
            **{field.name: getattr(self, field.name) for field in dataclasses.fields(self)},
            originals=session.images,
            labels=np.asarray(session.goal.labels),
            ids=session.ids,
            proved=self.status == Verdict.PROVED,
            broken=np.isin(self.status, (Verdict.BROKEN, Verdict.MISCLASSIFIED)),
            **more,
        )


@dataclasses.dataclass
class Chunk:
    """Some images of a ledger, and where what is known of them is kept.

    Attributes:
        ledger: The ledger.
        rows: Integers [R], the images.
        store: The store, or None.
        same: Fingerprint of everything on which the result depends.
        seconds: What the work on them took.
    """

    ledger: Ledger
    rows: np.ndarray
    store: Store | None
    same: str
    seconds: float = 0.0

    def save(self, name: str) -> None:
        """Keep what is known of the images under this name."""
        if self.store is None:
            return
        proofs = as_arrays([self.ledger.certificates[row] for row in self.rows])
        self.store.save_arrays(
            name,
            self.same,
            seconds=np.float64(self.seconds),
            **{field: getattr(self.ledger, field)[self.rows] for field in PER_IMAGE},
            **{f"proof_{field}": array for field, array in proofs.items()},
        )

    def load(self, name: str) -> bool:
        """Take over what was kept of the images; return whether there was anything."""
        kept = None if self.store is None else self.store.load_arrays(name, self.same)
        if kept is None:
            return False
        for field in PER_IMAGE:
            getattr(self.ledger, field)[self.rows] = kept[field]
        proofs = {
            field.removeprefix("proof_"): array
            for field, array in kept.items()
            if field.startswith("proof_")
        }
        for row, proof in zip(self.rows, certificates_of(proofs), strict=True):
            self.ledger.certificates[row] = proof
        self.seconds = float(kept["seconds"])
        return True
