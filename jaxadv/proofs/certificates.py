"""Certificates: the choices by which an image was proved, and their form on disk."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxadv.proofs.tree import Tree

RAGGED_SLOPES = (
    "entry",
    "side",
    "columns",
    "alpha",
    "splits",
    "split",
    "sign",
    "beta",
)  # arrays whose lengths differ
RAGGED_LEAVES = ("entry", "sign", "beta", "alpha")


class Slopes(NamedTuple):
    """With what entries of the input of one nonlinearity were bounded; of one image.

    A bound of an entry is the least of those of the parts of the region on which it was bounded.

    Attributes:
        node: The number of the nonlinearity.
        entry: Integers [R], of each part.
        side: Numbers [R], 1 for lower bounds, -1 for upper ones.
        columns: Integers [U], the earlier inputs whose sign was not known.
        alpha: Integers [R, U], uint8, the slopes.
        splits: Integers [R], how many earlier inputs are split in each part.
        split: Integers [S], these inputs, part after part.
        sign: Integers [S], 1 where the part is that of z >= 0, -1 of z <= 0.
        beta: Floats [S] of 0 or more, the multipliers.
    """

    node: int
    entry: np.ndarray
    side: np.ndarray
    columns: np.ndarray
    alpha: np.ndarray
    splits: np.ndarray
    split: np.ndarray
    sign: np.ndarray
    beta: np.ndarray

    @classmethod
    def of(cls, node: int, trees: list[Tree], columns: np.ndarray) -> "Slopes":
        """Return those of the parts of the trees of one image."""
        parts = [(tree.label, part) for tree in trees for part in tree.parts]

        def flat(name: str, dtype: Any) -> np.ndarray:
            return np.array([x for _, part in parts for x in getattr(part, name)], dtype)

        return cls(
            node,
            np.array([entry for entry, _ in parts], int),
            np.array([part.target for _, part in parts], np.float32),
            columns,
            np.stack([part.alpha[columns] for _, part in parts]),
            np.array([len(part.entry) for _, part in parts], int),
            flat("entry", int),
            flat("sign", np.int8),
            flat("beta", np.float32),
        )


class Leaf(NamedTuple):
    """A part of the region of one image, on which one margin was bounded.

    Attributes:
        target: The class whose logit is subtracted from that of the label.
        entry: Integers [S], the inputs of nonlinearities that are split.
        sign: Integers [S], 1 where the part is that of z >= 0, -1 of z <= 0.
        beta: Floats [S] of 0 or more, the multipliers.
        alpha: Integers [U], uint8, the slopes of the inputs whose sign is not known.
    """

    target: int
    entry: np.ndarray
    sign: np.ndarray
    beta: np.ndarray
    alpha: np.ndarray


class Certificate(NamedTuple):
    """The choices by which one image was proved.

    Attributes:
        backward: Whether inputs of nonlinearities are bounded backward; else by intervals alone.
        slopes: With which slopes they are bounded once more.
        columns: Integers [U], the inputs to which the slopes of the leaves belong.
        leaves: The parts, which cover the region for every other class.
    """

    backward: bool
    slopes: list[Slopes]
    columns: np.ndarray
    leaves: list[Leaf]


def covers(parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> bool:
    """Return whether parts of a region, each the inputs that are split and their signs, cover it.

    They do if there is one without splits, or if they are the parts of z >= 0 and of z <= 0 of one
    input, each covered by its own.
    """

    def covered(parts: list[dict[int, int]]) -> bool:
        if any(not part for part in parts):
            return True
        shared = set.intersection(*map(set, parts)) if parts else set()
        if not shared:
            return False
        entry = min(shared)
        halves = [
            [{e: s for e, s in part.items() if e != entry} for part in parts if part[entry] == sign]
            for sign in (1, -1)
        ]
        return all(map(covered, halves))

    return covered([dict(zip(e.tolist(), s.tolist(), strict=True)) for e, s in parts])


def as_arrays(certificates: Sequence[Certificate | None]) -> dict[str, np.ndarray]:
    """Return certificates as plain arrays by name, for `certificates_of`."""
    given = [proof for proof in certificates if proof is not None]
    slopes = [one for proof in given for one in proof.slopes]
    leaves = [leaf for proof in given for leaf in proof.leaves]
    arrays = {
        "present": np.array([proof is not None for proof in certificates], bool),
        "backward": np.array([proof.backward for proof in given], bool),
        "slopes": np.array([len(proof.slopes) for proof in given], int),
        "leaves": np.array([len(proof.leaves) for proof in given], int),
        "node": np.array([one.node for one in slopes], int),
        "target": np.array([leaf.target for leaf in leaves], int),
    }
    ragged = {
        "columns": [proof.columns for proof in given],
        **{f"slopes_{name}": [getattr(one, name) for one in slopes] for name in RAGGED_SLOPES},
        **{f"leaf_{name}": [getattr(leaf, name) for leaf in leaves] for name in RAGGED_LEAVES},
    }
    for name, parts in ragged.items():
        flat = [np.ravel(part) for part in parts]
        arrays[name] = np.concatenate(flat) if flat else np.zeros(0)
        arrays[f"{name}_sizes"] = np.array([len(part) for part in flat], int)
    return arrays


def certificates_of(arrays: Mapping[str, np.ndarray]) -> list[Certificate | None]:
    """Return the certificates that `as_arrays` made into arrays."""

    def parts(name: str) -> Iterator[np.ndarray]:
        return iter(np.split(arrays[name], np.cumsum(arrays[f"{name}_sizes"])[:-1]))

    columns, nodes, targets = parts("columns"), iter(arrays["node"]), iter(arrays["target"])
    of_slopes = [parts(f"slopes_{name}") for name in RAGGED_SLOPES]
    of_leaves = [parts(f"leaf_{name}") for name in RAGGED_LEAVES]

    def next_slopes() -> Slopes:
        entry, side, free, alpha, *splits = map(next, of_slopes)
        shaped = alpha.reshape(len(entry), len(free))
        return Slopes(int(next(nodes)), entry, side, free, shaped, *splits)

    def next_leaf() -> Leaf:
        return Leaf(int(next(targets)), *map(next, of_leaves))

    counts = zip(arrays["backward"], arrays["slopes"], arrays["leaves"], strict=True)
    found: list[Certificate | None] = []
    for present in arrays["present"]:
        if not present:
            found.append(None)
            continue
        backward, slopes, leaves = next(counts)
        found.append(
            Certificate(
                bool(backward),
                [next_slopes() for _ in range(slopes)],
                next(columns),
                [next_leaf() for _ in range(leaves)],
            )
        )
    return found
