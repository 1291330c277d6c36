"""An entry of a cascade that searches adversarial images by branch and bound."""

from typing import NamedTuple

import numpy as np

from jaxadv.attacks import Diverse
from jaxadv.core.goals import Untargeted
from jaxadv.core.result import Result, Status
from jaxadv.engine.session import Rows, Session
from jaxadv.engine.verify import margins
from jaxadv.proofs.balls import NORMS
from jaxadv.proofs.network import Network
from jaxadv.protocols.proof_descents import descent
from jaxadv.protocols.proof_stage import prove_rows
from jaxadv.protocols.prover import Prover


class Branching(NamedTuple):
    """A cascade entry that searches where no gradient of the image points.

    Branch and bound (see `ja.prove`) fixes the signs of ReLUs one after the other. The image at
    which the bound of a subproblem is attained is tried, and those of least margin are where
    descents begin, with the true and with softened derivatives. A model that cannot be proved, or
    has too many inputs of nonlinearities, and goals other than `ja.Untargeted` are left out.

    Attributes:
        norm: "linf", "l2" or "l1".
        subproblems: The most subproblems an image; each costs 15 passes. Before the first, every
            neuron whose sign is open is bounded, which can cost more than all of them.
        largest: The most inputs of nonlinearities of a network that is searched.
    """

    norm: str = "linf"
    subproblems: int = 1000
    largest: int = 20_000

    @property
    def attack(self) -> Diverse:
        """The descent that begins at each image where a bound is attained."""
        return descent(self.norm)

    @property
    def prover(self) -> Prover:
        """How the bounds are computed: what they prove is not told, so without rounding."""
        return Prover("strong", self.subproblems, "real")

    def network(self, session: Session) -> Network | None:
        """Return the trace of the model; None if it is not searched."""
        odd = type(session.goal) is not Untargeted or session.judge is not None
        if odd or session.model.random or self.norm not in NORMS:
            return None
        try:
            network = self.prover.check(session.model, session.images.shape[1:], self.norm)
        except ValueError:
            return None
        return network if 0 < network.size <= self.largest else None

    def run(self, session: Session, network: Network, rows: Rows, name: str) -> Result:
        """Search within the radius of each row.

        Args:
            session: What all attacks on the images have in common.
            network: The trace of the model.
            rows: The M rows, with their radii.
            name: Name of the stage, in progress reports and in the store.

        Returns:
            The result of the M rows; where nothing was found, the image is the clean one. All
            passes are counted. If the search is interrupted, rows without a success are NOT_RUN.
        """
        tell, own = session.named(name), session.of(rows.source)
        if tell is not None:  # the search tells how many are proved, in the place of successes
            own = own._replace(progress=lambda _, done, count, __: tell(done, count, 0))
        logits = own.logits()
        own = own._replace(clean_logits=logits)
        radii = np.array(rows.epsilon, np.float64)
        result, complete = prove_rows(own, network, self.norm, self.prover, radii, name)
        other = Status.FAILED if complete else Status.NOT_RUN
        return result._replace(
            margin=np.where(result.success, result.margin, margins(own.goal, logits)),
            status=np.where(result.success, Status.SUCCESS, other).astype(np.int8),
        )
