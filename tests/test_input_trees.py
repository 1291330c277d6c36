"""Bounds of inputs by branch and bound: against every pattern of small networks, and faults."""

import dataclasses
import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog

import jaxadv as ja
from jaxadv.proofs.certificates import as_arrays, certificates_of
from jaxadv.proofs.network import Network
from jaxadv.proofs.programs import mesh_of
from jaxadv.proofs.roots import balls, refine
from jaxadv.proofs.slopes import Settings
from jaxadv.protocols import proof_branching
from tests.common import dense
from tests.patterns import logits, network


def least(layers, box, entry, side):
    """The least value of side times an input of the second hidden layer, over all patterns."""
    (first, offset), (second, shift) = ((w.astype(float), b.astype(float)) for w, b in layers[:2])
    best = np.inf
    for bits in itertools.product([0.0, 1.0], repeat=len(offset)):
        on = np.array(bits)
        sign = np.where(on > 0, -1.0, 1.0)
        cost = side * first @ (on * second[:, entry])
        found = linprog(cost, (sign * first).T, -sign * offset, bounds=list(zip(*box, strict=True)))
        if found.x is not None:
            level = offset @ (on * second[:, entry]) + shift[entry]
            best = min(best, found.fun + side * level)
    return best


@pytest.mark.parametrize("seed", [0, 1])
def test_inputs_are_bounded_by_the_truth(seed):
    layers = network(seed, (4, 6, 6, 3))
    model = ja.Model(logits, [(jnp.asarray(w), jnp.asarray(b)) for w, b in layers])
    images = np.random.default_rng(seed).uniform(size=(2, 2, 2, 1)).astype(np.float32)
    traced = Network.of(model, images.shape[1:])
    ball = balls(images, np.full(2, 0.4), model.bounds)

    def ends(parts):
        settings = Settings("linf", 20, 0.0, mesh_of(), parts=parts)
        roots = refine(model, traced, ball, settings, np.ones(2, bool))
        assert (roots.subproblems > 0).any() == (parts > 0)
        return np.asarray(roots.regions.lower)[:, 6:], np.asarray(roots.regions.upper)[:, 6:]

    low, high = ends(10_000)
    loose = ends(0)
    exact = np.empty((2, *low.shape))
    for i, image in enumerate(images.reshape(2, -1).astype(float)):
        box = np.maximum(image - 0.4, 0), np.minimum(image + 0.4, 1)
        for j in range(6):
            exact[:, i, j] = least(layers, box, j, 1.0), -least(layers, box, j, -1.0)
    room = 0.05 * (loose[1] - loose[0]) + 1e-4
    assert (low <= exact[0] + 1e-5).all() and (high >= exact[1] - 1e-5).all()
    both = (exact[0] < 0) & (exact[1] > 0)  # of others one sign is all that is asked for
    assert both.sum() > 1
    assert (exact[0] - low <= room)[both].all() and (high - exact[1] <= room)[both].all()
    assert (high - low)[both].sum() < (loose[1] - loose[0])[both].sum()


@pytest.fixture
def proofs(monkeypatch):
    """A model, and proofs for which inputs were split."""
    monkeypatch.setattr(proof_branching, "SHARPEN", 2)
    model = dense((6, 24, 24, 24, 3), seed=4)
    images = np.random.default_rng(1).uniform(size=(12, 2, 3, 1)).astype(np.float32)
    labels = np.asarray(model(images).argmax(1))
    found = ja.prove(
        model, images, labels, 0.14, effort="strong", attacks={}, arithmetic="real", budget=1000
    )
    return model, found


def test_replays_of_split_inputs_believe_nothing(proofs):
    model, found = proofs
    assert (found.proved ^ found.broken).all()
    np.testing.assert_array_equal(found.replay(model)[found.proved], found.lower[found.proved])
    again = certificates_of(as_arrays(found.certificates))
    kept = dataclasses.replace(found, certificates=again)
    np.testing.assert_array_equal(kept.replay(model), found.replay(model))
    places = [
        (i, number)
        for i, proof in enumerate(found.certificates)
        for number, one in enumerate(proof.slopes if proof is not None else ())
        if one.splits.any()
    ]
    assert places
    for place, number in places[:2]:
        proof = found.certificates[place]
        slopes = proof.slopes[number]
        row = int(np.flatnonzero(slopes.splits)[0])
        same = (slopes.entry == slopes.entry[row]) & (slopes.side == slopes.side[row])

        def replayed(keep, place=place, number=number, proof=proof, slopes=slopes):
            inside = np.repeat(keep, slopes.splits)
            fewer = slopes._replace(
                entry=slopes.entry[keep],
                side=slopes.side[keep],
                alpha=slopes.alpha[keep],
                splits=slopes.splits[keep],
                split=slopes.split[inside],
                sign=slopes.sign[inside],
                beta=slopes.beta[inside],
            )
            changed = [*proof.slopes[:number], fewer, *proof.slopes[number + 1 :]]
            others = [*found.certificates]
            others[place] = proof._replace(slopes=changed)
            return dataclasses.replace(found, certificates=others).replay(model)[place]

        # Without one of its parts a bound counts for nothing, as if it had none.
        one_less = np.arange(len(same)) != row
        assert replayed(one_less) == replayed(~same)
        assert replayed(np.ones(len(same), bool)) == found.lower[place]
