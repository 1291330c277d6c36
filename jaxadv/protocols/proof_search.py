"""The search for proofs and counterexamples of many images, from cheap bounds to dear ones."""

import contextlib
import functools
import math
import time
from collections.abc import Sequence

import numpy as np

from jaxadv.core.jaxprs import describe_program
from jaxadv.core.result import Cost
from jaxadv.engine.devices import choose_devices
from jaxadv.engine.result_store import fingerprint
from jaxadv.engine.session import Session
from jaxadv.engine.verify import bucket, margins
from jaxadv.proofs.backward import Region
from jaxadv.proofs.certificates import Certificate, Leaf
from jaxadv.proofs.network import Network
from jaxadv.proofs.pieces import Pieces
from jaxadv.proofs.programs import mesh_of
from jaxadv.proofs.replay import UNITS, Replayer
from jaxadv.proofs.roots import Balls, Roots, balls, refine, undecided_columns
from jaxadv.proofs.slopes import Answers, Entries, Settings, Stopped, bound_all
from jaxadv.proofs.subproblems import BACKWARD, FORWARD, Subproblem
from jaxadv.protocols.proof_branching import branch
from jaxadv.protocols.proof_candidates import try_candidates
from jaxadv.protocols.proof_ledger import Chunk, Ledger
from jaxadv.protocols.prover import INNER_STEPS, LAST_STEPS, Prover
from jaxadv.protocols.verdicts import Proofs, Verdict


class Search:
    """The search on N images.

    Attributes:
        ledger: What is known of them so far.
        complete: Whether nothing ended the search early.
        seconds: What bounding took, also where that is from the store.
    """

    def __init__(
        self,
        session: Session,
        network: Network,
        norm: str,
        prover: Prover,
        radii: np.ndarray,
        until: float = math.inf,
    ):
        self.session, self.network, self.norm = session, network, norm
        self.prover, self.radii, self.until = prover, radii, until
        self.labels = np.asarray(session.goal.labels)
        assert session.clean_logits is not None
        self.ledger = Ledger.open(session.images, margins(session.goal, session.clean_logits))
        shape = session.images.shape[1:]
        self.mesh = mesh_of(choose_devices(session.devices))
        self.replayer = Replayer(session.model, shape, norm, prover.arithmetic, self.mesh)
        self.complete, self.seconds = True, 0.0

    @functools.cached_property
    def pieces(self) -> Pieces | None:
        """The affine pieces of the model; None if it is not piecewise linear."""
        if any(node.kind != "relu" for node in self.network.nodes):
            return None
        return Pieces(self.session.model, self.session.images.shape[1:])

    def late(self) -> bool:
        """Return whether to stop: Ctrl-C, or the seconds are spent."""
        stopped = self.session.stopped() or time.monotonic() > self.until
        self.complete &= not stopped
        return stopped

    def try_corners(self, rows: np.ndarray, corners: np.ndarray) -> np.ndarray:
        """Verify candidates [R, ...] for images [R]; return which of them are adversarial."""
        return try_candidates(self.session, self.ledger, self.norm, self.radii[rows], rows, corners)

    def bound_all(self, file: str = "proof") -> None:
        """Bound all images of which nothing is known, a chunk at a time.

        A chunk that came to its end is kept in the session's store under a name that begins with
        `file`, and taken from there.
        """
        rows = np.flatnonzero(self.ledger.status == Verdict.NOT_RUN)
        size = self.prover.chunk(self.network)
        for begin in range(0, len(rows), size):
            chunk, name = self.chunk(rows[begin : begin + size]), f"{file}-{begin:06d}"
            if not chunk.load(name):
                begun = time.monotonic()
                self.bound(chunk.rows)
                chunk.seconds = time.monotonic() - begun
                if self.complete:
                    chunk.save(name)
            self.seconds += chunk.seconds
            if not self.complete:
                break
        self.report("proof")

    def chunk(self, rows: np.ndarray) -> Chunk:
        """Return some images with the fingerprint of all that their bounds depend on."""
        session, ledger = self.session, self.ledger
        if session.store is None:
            return Chunk(ledger, rows, None, "")
        before = [ledger.upper[rows], ledger.forward[rows], ledger.backward[rows]]
        same = fingerprint(
            session.fingerprint,
            describe_program(self.network.traced),
            [repr(self.prover), self.norm, list(session.model.bounds)],
            [session.images[rows], self.labels[rows], self.radii[rows], *before],
        )
        return Chunk(ledger, rows, session.store, same)

    def bound(self, rows: np.ndarray) -> None:
        """Bound the margins of some images, from cheap to dear, until it is late."""
        with contextlib.suppress(Stopped):
            self._bound(rows)

    def _bound(self, rows: np.ndarray) -> None:
        self.report("CROWN")
        effort, model = self.prover.effort, self.session.model
        # Filled up with the first image to one of few sizes, so that few programs are compiled.
        filled = np.concatenate([rows, np.repeat(rows[:1], bucket(len(rows), 4) - len(rows))])
        ball = balls(self.session.images[filled], self.radii[filled], model.bounds)
        left = np.arange(len(rows))
        roots = self.roots(rows, ball, self.settings(0), left, None)
        answers = self.margins(rows, roots, 0, left)
        left = self.conclude(rows, roots, answers)
        if effort == "fast" or not len(left) or self.late():
            return
        self.report("alpha-CROWN")
        roots = self.roots(rows, ball, self.settings(INNER_STEPS), left, roots.regions)
        answers = self.margins(rows, roots, LAST_STEPS, left)
        left = self.conclude(rows, roots, answers)
        splits = effort == "strong" and self.network.nodes
        if splits and len(left) and not self.late():
            branch(self, rows, roots, answers, left)

    def settings(self, steps: int, parts: int = 0) -> Settings:
        """Return how rows are bounded, with this number of steps, and subproblems of inputs."""
        unit = UNITS[self.prover.arithmetic]
        return Settings(self.norm, steps, unit, self.mesh, self.late, parts)

    def roots(
        self,
        rows: np.ndarray,
        ball: Balls,
        settings: Settings,
        left: np.ndarray,
        start: Region | None,
    ) -> Roots:
        """Bound the inputs of all nonlinearities of the images at the places that are left."""
        active = np.isin(np.arange(len(ball.image)), left)
        ledger, steps = self.ledger, settings.steps
        roots = refine(self.session.model, self.network, ball, settings, active, start)
        passes, parts = roots.backward[: len(rows)], roots.subproblems[: len(rows)]
        ledger.subproblems[rows] += parts
        ledger.backward[rows] += passes + BACKWARD * parts
        ledger.forward[rows] += steps * passes // (1 + steps) + FORWARD * parts
        ledger.forward[rows[left]] += 3 * (1 + len(self.network.nodes))
        return roots

    def margins(
        self, rows: np.ndarray, roots: Roots, steps: int, left: np.ndarray
    ) -> tuple[Entries, Answers]:
        """Bound the margins to all other classes of the images at the places that are left."""
        others = roots.regions.output.shape[-1] - 1
        labels = self.labels[rows[left]]
        targets = (labels[:, None] + np.arange(1, others + 1)) % (others + 1)
        entries = Entries(np.repeat(left, others), np.repeat(labels, others), targets.ravel())
        self.ledger.backward[rows[left]] += others * (1 + steps)
        self.ledger.forward[rows[left]] += others * steps
        return entries, bound_all(
            self.session.model, roots.regions, entries, None, self.settings(steps)
        )

    def conclude(
        self, rows: np.ndarray, roots: Roots, answers: tuple[Entries, Answers]
    ) -> np.ndarray:
        """Confirm what is proved, try the corners of the rest; return the places undecided."""
        entries, found = answers
        least = np.full(len(rows), np.inf)
        bound = np.where(np.isnan(found.bound), -np.inf, found.bound)
        np.minimum.at(least, entries.image, bound)
        places = np.unique(entries.image)
        own, least, ledger = rows[places], least[places], self.ledger
        ledger.lower[own] = np.maximum(ledger.lower[own], least)
        ledger.status[own] = np.where(np.isfinite(least), Verdict.LOOSE, Verdict.NONFINITE)
        for place in places[least > 0].tolist():
            subs = [
                Subproblem(1.0, int(entries.side[row]), found.alpha[row])
                for row in np.flatnonzero(entries.image == place)
            ]
            self.confirm(int(rows[place]), place, roots, subs)
        below = np.flatnonzero(bound <= 0)
        if len(below):
            self.try_corners(rows[entries.image[below]], found.corner[below])
        return places[ledger.undecided[own]]

    def confirm(
        self, row: int, place: int, roots: Roots, parts: Sequence[Subproblem]
    ) -> np.ndarray:
        """Replay a proof in float64; the image is proved if that confirms it.

        Args:
            row: The image.
            place: Its place among the roots.
            roots: The bounds of all nonlinearities' inputs.
            parts: Parts that cover its region.

        Returns:
            The bounds of the parts that the replay computed.
        """
        lower, upper = (np.asarray(x)[place][None] for x in roots.regions[5:7])
        columns = np.flatnonzero(
            undecided_columns(self.network, lower, upper, len(self.network.nodes))[0]
        )
        leaves = [
            Leaf(
                part.target,
                np.array(part.entry, np.int32),
                np.array(part.sign, np.int8),
                np.array(part.beta, np.float32),
                part.alpha[columns],
            )
            for part in parts
        ]
        proof = Certificate(True, roots.slopes[place], columns, leaves)
        image, radius = self.session.images[row], float(self.radii[row])
        confirmed = self.replayer.parts(image, radius, int(self.labels[row]), proof)
        if confirmed.min() > 0:
            self.ledger.lower[row], self.ledger.status[row] = confirmed.min(), Verdict.PROVED
            self.ledger.certificates[row] = proof
        else:
            self.ledger.status[row] = Verdict.UNCONFIRMED
        return confirmed

    def report(self, stage: str) -> None:
        """Tell the caller how many images are decided."""
        if self.session.progress is not None:
            status = self.ledger.status
            done = int((~self.ledger.undecided).sum())
            proved = int((status == Verdict.PROVED).sum())
            self.session.progress(stage, done, len(status), proved)

    def result(self, seconds: float) -> Proofs:
        """Return what is known."""
        return self.ledger.proofs(
            self.session,
            norm=self.norm,
            arithmetic=self.prover.arithmetic,
            epsilon=self.radii,
            complete=self.complete,
            cost=Cost(0, seconds),
        )
