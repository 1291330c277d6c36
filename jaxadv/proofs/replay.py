"""Certificates, and their replay in float64 by another routine than the one that found them.

A certificate holds choices only: slopes, splits and multipliers. The replay computes bounds from
them, in float64 (`wide_bounds`).
"""

import numpy as np
from jax.sharding import Mesh

from jaxadv.core.model import Model
from jaxadv.core.precision import x64
from jaxadv.core.pytree import take
from jaxadv.proofs.backward import Parameters
from jaxadv.proofs.certificates import Certificate, Slopes, covers
from jaxadv.proofs.network import Network
from jaxadv.proofs.programs import MOST_ROWS, everywhere, mesh_of, width_of
from jaxadv.proofs.roots import Balls, balls, undecided
from jaxadv.proofs.slopes import LEVELS
from jaxadv.proofs.wide_bounds import Known, bounds, survey

UNITS = {"float32": 2.0**-24, "real": 0.0}  # half the machine epsilon of each arithmetic
LARGEST = 1e30  # no value of a float32 network may come near an overflow


class Replayer:
    """The replay for one model and one kind of region.

    Attributes:
        model: The model.
        norm: Name of the norm.
        unit: Half the machine epsilon of the arithmetic for which proofs hold, 0 for exact.
        mesh: The devices (default: all local ones), which share the rows.
    """

    def __init__(
        self,
        model: Model,
        shape: tuple[int, ...],
        norm: str,
        arithmetic: str,
        mesh: Mesh | None = None,
    ):
        self.model, self.norm, self.unit = model, norm, UNITS[arithmetic]
        self.mesh = mesh_of() if mesh is None else mesh
        self.network = Network.of(model, shape)

    def lower(self, image: np.ndarray, epsilon: float, label: int, proof: Certificate) -> float:
        """Return the least margin that a certificate proves for one image; -inf if none.

        Args:
            image: Floats [...].
            epsilon: Radius of the ball.
            label: The class of the image.
            proof: The certificate. Nothing in it is believed: any slopes, and any multipliers that
                are not negative, give valid bounds, and the parts must cover the region.

        Returns:
            The bound, over all images of the region and all other classes.
        """
        return float(self.parts(image, epsilon, label, proof).min())

    def parts(
        self, image: np.ndarray, epsilon: float, label: int, proof: Certificate
    ) -> np.ndarray:
        """Return the bound of each leaf, of which `lower` is the least; -inf where there is none.

        Args:
            image: Floats [...].
            epsilon: Radius of the ball.
            label: The class of the image.
            proof: The certificate.

        Returns:
            Floats, one for each leaf; [1] without leaves, and all -inf if these do not cover the
            region.
        """
        with x64():
            known, ends = self._roots(image, epsilon, proof)
            nothing = np.full(max(1, len(proof.leaves)), -np.inf)
            if known is None:
                return nothing
            others = [target for target in range(ends.shape[1]) if target != label]
            if not proof.leaves:
                return np.array([ends[0, label] - max(ends[1, target] for target in others)])
            for target in others:
                own = [leaf for leaf in proof.leaves if leaf.target == target]
                if not covers([(leaf.entry, np.sign(leaf.sign)) for leaf in own]):
                    return nothing
            return self._leaves(known, label, proof)

    def _roots(
        self, image: np.ndarray, epsilon: float, proof: Certificate
    ) -> tuple[Known | None, np.ndarray]:
        """Return the bounds of all nonlinearities' inputs, and the interval of the logits."""
        ball = balls(image[None], np.array([epsilon]), self.model.bounds, np.float64)
        size = self.network.size
        known = Known(
            Balls(*(part[0] for part in ball)),
            np.full(size, -np.inf),
            np.full(size, np.inf),
            np.zeros(size),
            np.zeros(self.network.classes),
        )
        known, ends, largest = survey(self.model, known, unit=self.unit)
        passes: list[Slopes | int] = [*range(len(self.network.nodes))] if proof.backward else []
        for step in [*passes, *proof.slopes]:
            number = step if isinstance(step, int) else step.node
            if number == 0 and self.norm == "linf" and isinstance(step, int):
                continue
            known = self._narrowed(known, number, None if isinstance(step, int) else step)
            known, ends, largest = survey(self.model, known, unit=self.unit)
        fine = bool(np.asarray(largest) < LARGEST) or self.unit == 0
        return (known if fine else None), np.asarray(ends)

    def _narrowed(self, known: Known, number: int, chosen: Slopes | None) -> Known:
        """Return the bounds, with some inputs of one nonlinearity bounded backward."""
        place = self.network.nodes[number].place
        lower, upper = np.array(known.lower), np.array(known.upper)
        alpha = (upper > -lower).astype(float)[: place.start]
        if chosen is None:
            (entry,) = np.nonzero(undecided(self.network, lower[None], upper[None], number)[0])
            rows = np.tile(entry, 2), np.repeat([1.0, -1.0], len(entry))
            alpha = np.broadcast_to(alpha, (2 * len(entry), place.start))
            none = np.zeros_like(alpha)
            found = self._rows(known, rows, Parameters(alpha, none, none), number)
        else:
            rows = chosen.entry, np.sign(chosen.side)
            found = self._rows(known, rows, _parameters(alpha, chosen), number)
            rows, found = _least(rows, found, chosen)
        at, low = rows[0] + place.start, rows[1] > 0
        np.maximum.at(lower, at[low], np.where(np.isnan(found[low]), -np.inf, found[low]))
        np.minimum.at(upper, at[~low], np.where(np.isnan(found[~low]), np.inf, -found[~low]))
        return known._replace(lower=lower, upper=upper)

    def _leaves(self, known: Known, label: int, proof: Certificate) -> np.ndarray:
        """Return the bounds of all parts."""
        lower, upper, pieces = np.asarray(known.lower), np.asarray(known.upper), []
        usual = (upper > -lower).astype(float)
        for begin in range(0, len(proof.leaves), MOST_ROWS):
            leaves = proof.leaves[begin : begin + MOST_ROWS]
            alpha = np.repeat(usual[None], len(leaves), axis=0)
            split, beta = np.zeros_like(alpha), np.zeros_like(alpha)
            for row, leaf in enumerate(leaves):
                alpha[row, proof.columns] = leaf.alpha / LEVELS
                split[row, leaf.entry] = np.sign(leaf.sign)
                beta[row, leaf.entry] = np.abs(leaf.beta)
            rows = np.full(len(leaves), label), np.array([leaf.target for leaf in leaves])
            found = self._rows(known, rows, Parameters(alpha, split, beta), None)
            pieces.append(np.where(np.isnan(found), -np.inf, found))
        return np.concatenate(pieces)

    def _rows(
        self,
        known: Known,
        rows: tuple[np.ndarray, np.ndarray],
        chosen: Parameters,
        node: int | None,
    ) -> np.ndarray:
        """Return the bounds of all rows, in portions."""
        count = len(rows[0])
        width = width_of(2 * self.network.size, count, self.mesh)
        model, known = everywhere((self.model, known), self.mesh)
        pieces = [np.zeros(0)]
        for begin in range(0, count, width):
            index = np.minimum(np.arange(begin, begin + width), count - 1)
            which, part = take((rows, chosen), index)
            found = bounds(model, known, which, part, norm=self.norm, node=node, mesh=self.mesh)
            pieces.append(np.asarray(found)[: count - begin])
        return np.concatenate(pieces)


def _parameters(usual: np.ndarray, chosen: Slopes) -> Parameters:
    """Return the slopes, splits and multipliers [R, m] of the parts on which inputs were bounded.

    usual: Floats [m], the slopes of the inputs of which none is given.
    """
    alpha = np.repeat(usual[None], len(chosen.entry), axis=0)
    alpha[:, chosen.columns] = chosen.alpha / LEVELS
    split, beta = np.zeros_like(alpha), np.zeros_like(alpha)
    at = np.repeat(np.arange(len(alpha)), chosen.splits), chosen.split
    split[at], beta[at] = np.sign(chosen.sign), np.abs(chosen.beta)
    return Parameters(alpha, split, beta)


def _least(
    rows: tuple[np.ndarray, np.ndarray], found: np.ndarray, chosen: Slopes
) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
    """Return one row for each input and side, with the least bound of its parts.

    It is -inf where these do not cover the region.
    """
    ends = np.cumsum(chosen.splits)[:-1]
    parts = list(
        zip(np.split(chosen.split, ends), np.split(np.sign(chosen.sign), ends), strict=True)
    )
    keys, group = np.unique(np.stack(rows, 1), axis=0, return_inverse=True)
    least = np.full(len(keys), np.inf)
    np.minimum.at(least, group, np.where(np.isnan(found), -np.inf, found))
    order = np.argsort(group, kind="stable")
    members = np.split(order, np.cumsum(np.bincount(group, minlength=len(keys)))[:-1])
    whole = [covers([parts[row] for row in own]) for own in members]
    return (keys[:, 0].astype(int), keys[:, 1]), np.where(whole, least, -np.inf)
