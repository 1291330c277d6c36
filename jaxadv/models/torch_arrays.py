"""`from_torch_arrays`: the weights of a torch network, as plain arrays, in a Flax definition.

A torch state dict saved with safetensors or as npz contains convolutions O, I, H, W, dense layers
(out, in) over features flattened in C, H, W order, and batch normalisation as weight, bias,
running_mean, running_var. Here the Flax layers are described in the same terms, paired with the
torch layers by their names, and their arrays transposed. The order of the arrays in a file or dict
is not used, since safetensors sorts them.
"""

import itertools
import math
import os
import re
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core
from jaxtyping import Array

from jaxadv.core.bounds import Bounds
from jaxadv.core.model import Model
from jaxadv.core.typing import Params
from jaxadv.models.weights import unflatten

if TYPE_CHECKING:
    from flax import linen as nn

_KINDS = ("weight", "bias", "running_mean", "running_var")
_TORCH_KIND = {
    "kernel": "weight",
    "scale": "weight",
    "embedding": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
_COUNTERS = ("num_batches_tracked", "n_averaged")  # of training; no call of a model reads them

Shape = tuple[int, ...]


class Given(NamedTuple):
    """One array of the torch network.

    Attributes:
        name: Its whole name.
        array: Its value.
    """

    name: str
    array: np.ndarray

    @property
    def shape(self) -> Shape:
        return self.array.shape


class Slot(NamedTuple):
    """One array of the Flax module.

    Attributes:
        name: Its path in the variables.
        shape: Its shape in torch's layout.
    """

    name: str
    shape: Shape


Layers = dict[str, dict[str, Any]]  # {layer: {torch's kind of array: Given or Slot}}


def from_torch_arrays(
    module: "nn.Module | str",
    arrays: str | os.PathLike[str] | Mapping[str, Any],
    *,
    image_shape: Sequence[int],
    names: Mapping[str, str] = {},
    bounds: Bounds = (0.0, 1.0),
    **apply_kwargs: object,
) -> Model:
    """Load the weights of a torch network into a Flax linen module.

    Layers are paired by name: "layer1.0.bn1" is "layer1_0/bn1" or "layer1/0/bn1". A prefix of all
    names of one side ("module.", "_orig_mod.model.", "backbone.0.") is ignored. Where the names
    differ, a layer is paired if no other has its shapes; among several with equal shapes, the torch
    layers that are numbered ("0", "2", "10", or "layer1.0.conv2", "layer10.1.conv1") are paired, in
    the order of their numbers, with the Flax layers in the order of their calls, unless those are
    numbered in another order. Everything else is refused: pass `names`. The order in which a dict
    or a file lists its arrays is never used.

    Convolutions and dense layers are transposed, and the columns behind a flattened [N, H, W, C]
    map are permuted from C, H, W order (where the module flattens is read from its own trace).
    Counters (num_batches_tracked) are left out. A normalisation that is not in the arrays is added
    with `jaxadv.models.normalized`. The model is not called.

    Args:
        module: Maps images [N, H, W, C] to logits [N, K], or a name of `DEFINITIONS`.
        arrays: The state dict, {"conv1.weight": array or tensor, ...}, or a file of it,
            .safetensors or .npz (never a pickle).
        image_shape: [H, W, C].
        names: {torch name: Flax name}, of layers, of modules, whose layers are then paired among
            themselves, or of single arrays: {"0": "conv1", "features.3": "block_1/conv",
            "layer1.0": "BasicBlock_0", "attn.in_proj_weight": "qkv/kernel"}. Layers without an
            entry are paired as above.
        bounds: Least and largest pixel value, numbers, or arrays that broadcast to one input.
        **apply_kwargs: As in `from_linen`.

    Returns:
        The model; every array of either side is used.

    Raises:
        ValueError: If the arrays do not fit or their names do not decide, with a table of both
            sides; if the file is of another kind.
        FileNotFoundError: If the file does not exist.

    >>> import jax.numpy as jnp, numpy as np
    >>> from jaxadv.models import from_torch_arrays
    >>> draw = np.random.default_rng(0).standard_normal
    >>> state = {"0.weight": draw((100, 12)), "0.bias": draw(100), "2.weight": draw((100, 100)),
    ...          "2.bias": draw(100), "4.weight": draw((10, 100)), "4.bias": draw(10)}
    >>> from_torch_arrays("FC", state, image_shape=(2, 2, 3))(jnp.zeros((5, 2, 2, 3))).shape
    (5, 10)
    """
    import flax.linen as nn

    from jaxadv.models.adapters import from_linen
    from jaxadv.models.definitions import get_definition

    module = get_definition(module)() if isinstance(module, str) else module
    if not isinstance(module, nn.Module):
        raise ValueError(f"module={module!r}: pass an instance of a Flax linen module, or its name")
    where = "arrays" if isinstance(arrays, Mapping) else str(arrays)
    given = _layers(arrays if isinstance(arrays, Mapping) else read_torch_file(arrays))
    slots, flattened = _slots(module, image_shape, apply_kwargs)
    pairs, problems = _pair(given, slots, names)
    problems += [
        f"{own.name} {own.shape}: {slot.name} takes {slot.shape}"
        for own, slot in pairs
        if own.shape != slot.shape
    ]
    paired = {entry.name for pair in pairs for entry in pair}
    left = [_filtered(side, lambda entry: entry.name not in paired) for side in (given, slots)]
    problems += _table(*left)
    if problems:
        raise ValueError(
            f"{where} do not fit {type(module).__name__} for images {tuple(image_shape)}:\n  "
            + "\n  ".join(problems)
            + "\ncheck the definition's settings and image_shape; where names and shapes do not "
            "decide, pair the layers with names={torch layer: Flax layer}"
        )
    flat = {slot.name: _convert(own.array, slot, flattened.get(slot.name)) for own, slot in pairs}
    return from_linen(module, unflatten(flat), bounds, **apply_kwargs)


def read_torch_file(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read the arrays of a .safetensors or .npz file."""
    import safetensors
    import safetensors.numpy

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: pass a .safetensors or .npz file")
    try:
        if path.suffix == ".safetensors":
            return safetensors.numpy.load_file(path)
        if path.suffix == ".npz":
            with np.load(path) as arrays:
                return dict(arrays)
    except (safetensors.SafetensorError, zipfile.BadZipFile, ValueError, OSError) as error:
        raise ValueError(f"{path} is damaged or holds no plain arrays ({error})") from None
    raise ValueError(
        f"{path} is neither .safetensors nor .npz: in torch, write it with "
        "safetensors.torch.save_file(model.state_dict(), path); pickles are not read"
    )


def _layers(arrays: Mapping[str, Any]) -> Layers:
    """Return the arrays by layer and kind; a single parameter is a layer with the kind ""."""
    layers: Layers = defaultdict(dict)
    for name, array in arrays.items():
        if isinstance(array, Mapping):
            raise ValueError(
                f"arrays[{name!r}] is a dict: pass the state dict itself, no nested one"
            )
        layer, _, kind = name.rpartition(".")
        if kind in _COUNTERS or name in _COUNTERS:
            continue
        if kind not in _KINDS:
            layer, kind = name, ""
        layers[layer][kind] = Given(name, _array(array))
    return dict(layers)


def _array(array: Any) -> np.ndarray:
    if hasattr(array, "detach"):  # a tensor of torch: maybe with gradients, or in bfloat16
        array = array.detach().cpu().float()
    return np.asarray(array, np.float32)


def _slots(
    module: "nn.Module", image_shape: Sequence[int], kwargs: Mapping[str, Any]
) -> tuple[Layers, dict[str, dict[int, int]]]:
    """Return the module's arrays by layer and torch's kind, in call order; and `_flattened`.

    Flax layers are named by their path without the collection.
    """
    import flax.linen as nn

    layers: Layers = defaultdict(dict)
    calls: dict[str, int] = {}  # when a module was first called

    def note(
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        context: nn.module.InterceptorContext,
    ) -> object:
        calls.setdefault("/".join(context.module.path), len(calls))
        if isinstance(context.module, nn.ConvTranspose):
            raise ValueError(
                f"{type(module).__name__} has a transposed convolution, "
                f"{'/'.join(context.module.path)}: torch's kernels of these are not converted; "
                "pass variables of your own to from_linen"
            )
        return function(*args, **kwargs)

    def visit(tree: Mapping[str, Any], path: tuple[str, ...]) -> None:
        for name, leaf in tree.items():
            if hasattr(leaf, "items"):
                visit(leaf, (*path, name))
                continue
            layer, kind = "/".join(path[1:]), _TORCH_KIND.get(name, "")
            if not kind or kind in layers[layer]:
                layer, kind = "/".join((*path[1:], name)), ""
            shape = leaf.shape
            if name == "kernel":
                shape = (shape[-1], shape[-2], *shape[:-2])
            layers[layer][kind] = Slot("/".join((*path, name)), shape)

    def init(image: Array) -> Params:
        with nn.intercept_methods(note):
            variables = module.init(jax.random.key(0), image, **kwargs)
        visit(variables, ())  # here, because a dict that leaves a trace has lost its order
        return variables

    image = jax.ShapeDtypeStruct((2, *image_shape), jnp.float32)
    variables = jax.eval_shape(init, image)
    apply = jax.make_jaxpr(lambda v, x: module.apply(v, x, **kwargs))(variables, image)
    paths = [
        "/".join(str(entry.key) for entry in path)
        for path, _ in jax.tree_util.tree_leaves_with_path(variables)
    ]

    def called(layer: str) -> int:  # a lone parameter: with its module
        return calls.get(layer, calls.get(layer.rpartition("/")[0], len(calls)))

    ordered = {layer: layers[layer] for layer in sorted(layers, key=called)}
    return ordered, _flattened(apply.jaxpr, paths)


def _pair(
    given: Layers, slots: Layers, names: Mapping[str, str]
) -> tuple[list[tuple[Given, Slot]], list[str]]:
    """Pair torch and Flax arrays by `names`, then by `_decide`; return the errors in `names` too.

    Arrays without a partner are in no pair.
    """
    pairs: list[tuple[Given, Slot]] = []
    problems = []
    shared = _shared(given)
    free, places = given, slots
    for theirs, ours in sorted(names.items(), key=lambda item: -len(_parts(item[0]))):
        arrays, others = _split(free, theirs, shared)
        chosen, elsewhere = _split(places, ours, 1)
        if arrays and chosen:
            pairs += _joined(arrays, chosen)
            free, places = others, elsewhere
        elif not _split(given, theirs, shared)[0]:
            problems.append(f"names: there is no torch layer {theirs!r}")
        elif not _split(slots, ours, 1)[0]:
            problems.append(f"names: there is no layer {ours!r}")
        else:
            problems.append(f"names: {theirs!r} or {ours!r} has been given before")
    return pairs + _joined(free, places, told=False), problems


def _joined(given: Layers, slots: Layers, told: bool = True) -> list[tuple[Given, Slot]]:
    """Return pairs of arrays; told: whether `names` pairs the two sides."""
    if told and len(given) == len(slots) == 1:
        (arrays,), (places,) = given.values(), slots.values()
        if len(arrays) == len(places) == 1:  # of whatever kind
            return [*zip(arrays.values(), places.values(), strict=True)]
        layers = [*zip(given, slots, strict=True)]
    else:
        layers = _decide(given, slots)
    return [
        (array, slots[ours][kind])
        for theirs, ours in layers
        for kind, array in given[theirs].items()
        if kind in slots[ours]
    ]


def _decide(given: Layers, slots: Layers) -> list[tuple[str, str]]:
    """Return pairs of (torch layer, Flax layer): by name, else among those of equal shapes."""
    pairs = _by_name(given, slots)
    if len(pairs) == min(len(given), len(slots)):
        return pairs
    return [pair for theirs, ours in _by_shapes(given, slots) for pair in _match(theirs, ours)]


def _by_shapes(given: Layers, slots: Layers) -> list[tuple[list[str], list[str]]]:
    """Torch layers and Flax layers of equal kinds and shapes, in the order of the calls."""
    groups: dict[Any, tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
    for side, layers in ((1, slots), (0, given)):
        for layer, arrays in layers.items():
            shapes = frozenset((kind, entry.shape) for kind, entry in arrays.items())
            groups[shapes][side].append(layer)
    return list(groups.values())


def _match(theirs: Sequence[str], ours: Sequence[str]) -> list[tuple[str, str]]:
    """Pair all these layers, which have equal shapes; return [] where names do not decide."""
    if len(theirs) != len(ours):
        return []
    pairs = _by_name(theirs, ours)
    if len(pairs) == len(theirs):
        return pairs
    theirs = sorted(theirs, key=_numbered)
    counted = all(_precedes(*pair) for pair in itertools.pairwise(theirs))
    against = any(_precedes(later, first) for first, later in itertools.combinations(ours, 2))
    return [*zip(theirs, ours, strict=True)] if counted and not against else []


def _by_name(theirs: Iterable[str], ours: Iterable[str]) -> list[tuple[str, str]]:
    """Return pairs of layers with one name, regardless of a common prefix of either side."""
    both = itertools.product(_forms(theirs), _forms(ours))
    return max(([(a[n], b[n]) for n in a.keys() & b.keys()] for a, b in both), key=len)


def _forms(layers: Iterable[str]) -> list[dict[str, str]]:
    """{name: layer}, with the whole name, without the first common part, and so on."""
    parts = {layer: _parts(layer) for layer in layers}
    return [
        {"_".join(own[skip:]): layer for layer, own in parts.items()}
        for skip in range(_shared(parts) + 1)
    ]


def _parts(name: str) -> list[str]:
    return re.split(r"[./]", name)


def _shared(layers: Iterable[str]) -> int:
    """Return the number of leading parts common to all names, without the last part of each."""
    columns = zip(*(_parts(layer)[:-1] for layer in layers), strict=False)
    return sum(1 for _ in itertools.takewhile(lambda column: len(set(column)) == 1, columns))


def _numbered(layer: str) -> list[tuple[str, int]]:
    """Return the words of a name with the number at the end of each, or -1.

    Other numbers, as in "branch3x3dbl_1", are sizes and belong to the word.
    """
    words = [word for word in re.split(r"[._/]", layer) if word]
    stems = [word.rstrip("0123456789") for word in words]
    return [(stem, int(word[len(stem) :] or -1)) for stem, word in zip(stems, words, strict=True)]


def _precedes(first: str, second: str) -> bool:
    """Return whether the names first differ in the number of a word, smaller in `first`."""
    for (word, number), (other, later) in zip(_numbered(first), _numbered(second), strict=False):
        if (word, number) != (other, later):
            return word == other and 0 <= number < later
    return False


def _split(layers: Layers, name: str, skipped: int) -> tuple[Layers, Layers]:
    """Return the arrays of this name, or of the layer or module of this name; and all others.

    Up to `skipped` leading parts of their names may be left out.
    """
    wanted = _parts(name)

    def fits(entry: Given | Slot) -> bool:
        parts = _parts(entry.name)
        return any(parts[skip:][: len(wanted)] == wanted for skip in range(skipped + 1))

    return _filtered(layers, fits), _filtered(layers, lambda entry: not fits(entry))


def _filtered(layers: Layers, condition: Callable[[Any], bool]) -> Layers:
    """Return the arrays for which the condition holds, and the layers that have any."""
    filtered = {
        layer: {kind: entry for kind, entry in arrays.items() if condition(entry)}
        for layer, arrays in layers.items()
    }
    return {layer: arrays for layer, arrays in filtered.items() if arrays}


def _table(given: Layers, slots: Layers) -> list[str]:
    """Return a table of all these arrays, Flax's beside torch's of equal shapes."""
    rows = [("left in Flax, in torch's layout", "left in torch, beside it if of equal shapes")]
    for theirs, ours in _by_shapes(given, slots):
        sides = [
            [
                f"{layers[layer][kind].name} {layers[layer][kind].shape}"
                for layer in names
                for kind in sorted(layers[layer])
            ]
            for layers, names in ((slots, ours), (given, sorted(theirs, key=_numbered)))
        ]
        rows += [*itertools.zip_longest(sides[0], sides[1], fillvalue="-")]
    width = max(len(ours) for ours, _ in rows)
    return [f"{ours:{width}} | {theirs}" for ours, theirs in rows] if len(rows) > 1 else []


def _convert(array: np.ndarray, slot: Slot, sizes: dict[int, int] | None) -> Array:
    """Convert a torch array; sizes: of the flattened map before it, by its NHWC axis."""
    if sizes is not None and array.shape[-1:] == (math.prod(sizes.values()),):
        # The axis that was flattened is the last one: columns of a dense layer, or a vector.
        split = array.reshape(*array.shape[:-1], sizes[3], sizes[1], sizes[2])
        first = array.ndim - 1
        order = [first + (3, 1, 2).index(axis) for axis in sizes]
        array = split.transpose(*range(first), *order).reshape(array.shape)
    if slot.name.endswith("/kernel"):
        array = array.transpose(*range(2, array.ndim), 1, 0)
    return jnp.asarray(array)


class _Traced(NamedTuple):
    """Properties of a value of the trace.

    Attributes:
        weights: Paths of the weights it is computed from, if from nothing else.
        image: Whether it depends on the images.
        axes: Of a map: which of N, H, W, C each of its four axes is.
        flat: Of a flattened map: {axis: size} in their order.
    """

    weights: frozenset[str] = frozenset()
    image: bool = False
    axes: tuple[int, ...] = ()
    flat: dict[int, int] | None = None


def _flattened(jaxpr: core.Jaxpr, paths: Sequence[str]) -> dict[str, dict[int, int]]:
    """Return for each weight that is applied to a flattened map the sizes of that map.

    The sizes are {NHWC axis: size}, in the order of the flattened axes.
    """
    sizes: dict[str, dict[int, int]] = {}

    def walk(jaxpr: Any, values: Sequence[_Traced]) -> list[_Traced]:
        known = dict(zip(jaxpr.invars, values, strict=True))

        def read(var: core.Var | core.Literal) -> _Traced:
            return _Traced() if isinstance(var, core.Literal) else known.get(var, _Traced())

        for eqn in jaxpr.eqns:
            values = [read(var) for var in eqn.invars]
            inner = next((v for k, v in eqn.params.items() if k.endswith("jaxpr")), None)
            inner = getattr(inner, "jaxpr", inner)
            if inner is not None and len(inner.invars) == len(values):
                outs = walk(inner, values)
            else:
                outs = [_step(eqn, values, out.aval.shape, sizes) for out in eqn.outvars]
            known.update(zip(eqn.outvars, outs, strict=True))
        return [read(var) for var in jaxpr.outvars]

    walk(jaxpr, [*(_Traced(frozenset([path])) for path in paths), _Traced(image=True)])
    return sizes


def _step(
    eqn: Any, values: Sequence[_Traced], shape: Shape, sizes: dict[str, dict[int, int]]
) -> _Traced:
    """Return the outcome of one equation, and add weights applied to a flattened map to `sizes`."""
    kind, weights = eqn.primitive.name, frozenset().union(*(value.weights for value in values))
    if not any(value.image for value in values):
        return _Traced(weights)
    flat = next((value.flat for value in values if value.flat), None)
    if flat is not None:
        sizes.update(dict.fromkeys(weights, flat))
    if kind in ("dot_general", "conv_general_dilated"):
        return _Traced(image=True)
    before = eqn.invars[0].aval.shape
    axes = next((value.axes for value in values if value.axes), (0, 1, 2, 3))
    if kind == "transpose" and len(before) == 4:
        axes = tuple(axes[i] for i in eqn.params["permutation"])
    if kind == "reshape" and len(before) == 4 and shape == (before[0], math.prod(before[1:])):
        return _Traced(image=True, flat=dict(zip(axes[1:], before[1:], strict=True)))
    same = flat is not None and shape[-1:] == (math.prod(flat.values()),)
    return _Traced(image=True, axes=axes if len(shape) == 4 else (), flat=flat if same else None)
