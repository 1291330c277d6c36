"""How images are proved: the effort and its limits, and whether a model can be proved at all."""

import dataclasses

from jaxadv.core.model import Model
from jaxadv.engine import checks
from jaxadv.proofs.balls import NORMS
from jaxadv.proofs.lines import LINES
from jaxadv.proofs.network import Network
from jaxadv.proofs.replay import UNITS
from jaxadv.proofs.rules import UnsupportedPrimitive

EFFORTS = ("fast", "standard", "strong")
INNER_STEPS, LAST_STEPS = 20, 100  # steps of Adam for nonlinearities' inputs, and for margins
SUBPROBLEMS = 2000  # of an image, with "strong"
CHUNKS = {"fast": 64, "standard": 64, "strong": 16}  # images that are bounded, and kept, together
CHUNK_BYTES = 2**28  # of their bounds


@dataclasses.dataclass(frozen=True)
class Prover:
    """How images are proved.

    Attributes:
        effort: "fast" (CROWN), "standard" (optimised slopes too) or "strong" (branch and bound
            too).
        budget: The most subproblems an image in branch and bound.
        arithmetic: "float32" or "real".
    """

    effort: str = "standard"
    budget: int = SUBPROBLEMS
    arithmetic: str = "float32"

    @property
    def name(self) -> str:
        """Its name among the attacks of an evaluation."""
        return "proof"

    @property
    def needs_epsilon(self) -> bool:
        """Whether it works within a radius, as most attacks do."""
        return True

    def chunk(self, network: Network) -> int:
        """Return how many images are bounded together."""
        fit = CHUNK_BYTES // (16 * max(network.size, 1))
        return max(1, min(CHUNKS[self.effort], fit))

    def check(self, model: Model, shape: tuple[int, ...], norm: str) -> Network:
        """Return the network of a model that can be proved.

        Args:
            model: The model.
            shape: [H, W, C].
            norm: Name of the norm.

        Returns:
            Its trace.

        Raises:
            ValueError: A setting or the norm is unknown, the model draws at random, or it has a
                step of which no bound is known; the message names the step and its line.
        """
        for name, value, known in (
            ("effort", self.effort, EFFORTS),
            ("norm", norm, NORMS),
            ("arithmetic", self.arithmetic, tuple(UNITS)),
        ):
            if value not in known:
                raise ValueError(f"{name}={value!r}: proofs know {', '.join(known)}; pass one")
        checks.check_options(None, budget=self.budget)
        if model.random:
            raise ValueError("model draws at random: its smoothed classifier has ja.certify")
        network = Network.of(model, shape)
        missing = {node.kind for node in network.nodes} - set(LINES)
        if missing:
            raise UnsupportedPrimitive(
                f"model: no line below {', '.join(sorted(missing))} is known: ja.bounds gives "
                "intervals"
            )
        return network
