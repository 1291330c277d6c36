"""`from_torch_arrays`: the weights of a torch network, as plain arrays, on a Flax definition.

A torch state dict saved with safetensors or as npz holds convolutions O, I, H, W, dense layers
(out, in) over features flattened in C, H, W order, and batch normalisation as weight, bias,
running_mean, running_var. Here the Flax layers are described in the same terms, paired with the
torch layers, and their arrays turned over.
"""

import math
import os
import re
import zipfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from jaxadv.core.model import Model
from jaxadv.models.weights import unflatten

_KINDS = ("weight", "bias", "running_mean", "running_var")
_TORCH_KIND = {
    "kernel": "weight", "scale": "weight", "embedding": "weight", "bias": "bias",
    "mean": "running_mean", "var": "running_var",
}  # fmt: skip
_WRAPPERS = r"^(module\.|_orig_mod\.)+"  # what DataParallel and compile put before every name

Shape = tuple[int, ...]


class Slot(NamedTuple):
    """One array of the Flax module: its path in the variables and its shape there."""

    path: str
    shape: Shape

    def torch_shape(self) -> Shape:
        if not self.path.endswith("kernel"):
            return self.shape
        return (self.shape[-1], self.shape[-2], *self.shape[:-2])


def from_torch_arrays(
    module: Any,
    arrays: str | os.PathLike[str] | Mapping[str, Any],
    *,
    image_shape: Sequence[int],
    names: Mapping[str, str] = {},
    bounds: tuple[float, float] = (0.0, 1.0),
    **apply_kwargs: Any,
) -> Model:
    """A Flax linen module with the weights of a torch network.

    module: maps images [N, H, W, C] to logits [N, K], or a name of `DEFINITIONS`; arrays: the
    state dict, {"conv1.weight": array or CPU tensor, ...}, or a file of it, .safetensors or .npz
    (never a pickle); image_shape: [H, W, C]; names: {torch layer: Flax layer}, such as
    {"0": "conv1", "features.3": "block_1/conv"}; bounds and apply_kwargs: as in `from_linen`.

    Layers without an entry in `names` are paired by name, if every one has its own ("layer1.0.bn1"
    is "layer1_0/bn1" or "layer1/0/bn1"); if not, by shape, those of equal shape in the order in
    which torch lists them and Flax calls them: give names where these orders differ. Convolutions
    and dense layers are transposed, and the columns behind a flattened [N, H, W, C] map permuted
    from C, H, W order (where the module flattens is read from its own trace). Counters
    (num_batches_tracked) are left out. A normalisation that is not in the arrays is added with
    `jaxadv.models.normalized`. No model call is made.

    Raises one ValueError that lists every array that does not fit, with its shape and what was
    expected; ValueError for a file of another kind; FileNotFoundError.

    >>> import jax.numpy as jnp, numpy as np
    >>> from jaxadv.models import from_torch_arrays
    >>> draw = np.random.default_rng(0).standard_normal
    >>> state = {"0.weight": draw((100, 12)), "0.bias": draw(100), "2.weight": draw((100, 100)),
    ...          "2.bias": draw(100), "4.weight": draw((10, 100)), "4.bias": draw(10)}
    >>> from_torch_arrays("FC", state, image_shape=(2, 2, 3))(jnp.zeros((5, 2, 2, 3))).shape
    (5, 10)
    """
    from jaxadv.models.adapters import from_linen
    from jaxadv.models.definitions import get_definition

    module = get_definition(module)() if isinstance(module, str) else module
    where = "arrays" if isinstance(arrays, Mapping) else str(arrays)
    given = _layers(arrays if isinstance(arrays, Mapping) else read_torch_file(arrays))
    slots, flattened = _slots(module, image_shape, apply_kwargs)
    pairs = _pair(given, slots, names)
    if problems := _problems(given, slots, pairs, names):
        raise ValueError(
            f"{where} do not fit {type(module).__name__} for images {tuple(image_shape)}:\n  "
            + "\n  ".join(problems)
            + "\ncheck the definition's settings and image_shape, or pair the layers with "
            "names={torch layer: Flax layer}"
        )
    flat = {
        slot.path: _convert(given[theirs][kind], slot, flattened.get(slot.path))
        for theirs, ours in pairs.items()
        for kind, slot in slots[ours].items()
    }
    return from_linen(module, unflatten(flat), bounds, **apply_kwargs)


def read_torch_file(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The arrays of a .safetensors or .npz file."""
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


def _layers(arrays: Mapping[str, Any]) -> dict[str, dict[str, np.ndarray]]:
    """The arrays by layer and kind, in order; a lone parameter is a layer with the kind ""."""
    layers: dict[str, dict[str, np.ndarray]] = defaultdict(dict)
    for key, array in arrays.items():
        layer, _, kind = re.sub(_WRAPPERS, "", key).rpartition(".")
        if kind not in _KINDS:
            layer, kind = re.sub(_WRAPPERS, "", key), ""
        if not layer.endswith("num_batches_tracked"):
            layers[layer][kind] = np.asarray(array, np.float32)
    return dict(layers)


def _slots(module: Any, image_shape: Sequence[int], kwargs: Any) -> tuple[Any, dict[str, Any]]:
    """The module's arrays by layer and torch's kind, in the order of the calls; and `_flattened`.

    Flax layers are named by their path without the collection.
    """
    layers: dict[str, dict[str, Slot]] = defaultdict(dict)

    def visit(tree: Any, path: tuple[str, ...]) -> None:
        for name, leaf in tree.items():
            if hasattr(leaf, "items"):
                visit(leaf, (*path, name))
            else:
                kind = _TORCH_KIND.get(name, "")
                layer = "/".join(path[1:] if kind else (*path[1:], name))
                layers[layer][kind] = Slot("/".join((*path, name)), leaf.shape)

    def init(image: Any) -> Any:
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
    return dict(layers), _flattened(apply.jaxpr, paths)


def _pair(given: Any, slots: Any, names: Mapping[str, str]) -> dict[str, str]:
    """{torch layer: Flax layer}: as told, else by name, else by order among equal shapes."""
    pairs = {theirs: names[theirs] for theirs in given if theirs in names}
    rest = [theirs for theirs in given if theirs not in pairs]
    free = [ours for ours in slots if ours not in pairs.values()]
    plain = {_plain(ours): ours for ours in free}
    if all(_plain(theirs) in plain for theirs in rest):
        return pairs | {theirs: plain[_plain(theirs)] for theirs in rest}
    queues = defaultdict(list)
    for ours in free:
        queues[_shapes(slots[ours])].append(ours)
    for theirs in rest:
        if queue := queues[_shapes(given[theirs])]:
            pairs[theirs] = queue.pop(0)
    return pairs


def _plain(layer: str) -> str:
    return re.sub(r"[./]", "_", layer)


def _shapes(layer: Mapping[str, Any]) -> frozenset[tuple[str, Shape]]:
    return frozenset(
        (kind, entry.torch_shape() if isinstance(entry, Slot) else entry.shape)
        for kind, entry in layer.items()
    )


def _problems(given: Any, slots: Any, pairs: Any, names: Mapping[str, str]) -> list[str]:
    """One line for every array without a place and every place without an array."""
    lines = [f"names: there is no torch layer {name!r}" for name in names if name not in given]
    for theirs, layer in given.items():
        ours = pairs.get(theirs)
        for kind, array in layer.items():
            name, slot = _joined(theirs, kind), slots.get(ours, {}).get(kind)
            if ours is None:
                lines.append(f"{name} {array.shape}: no layer of such shapes is left")
            elif ours not in slots:
                lines.append(f"{name} {array.shape}: there is no layer {ours!r}")
            elif slot is None:
                lines.append(f"{name} {array.shape}: {ours!r} has no such array")
            elif slot.torch_shape() != array.shape:
                lines.append(f"{name} {array.shape}: {slot.path} takes {slot.torch_shape()}")
    for ours in slots:
        sources = [theirs for theirs in pairs if pairs[theirs] == ours]
        if len(sources) > 1:
            lines.append(f"{ours}: given by {', '.join(sources)}")
        for kind, slot in slots[ours].items():
            if not sources or kind not in given[sources[0]]:
                lines.append(f"{slot.path}: nothing fits, {slot.torch_shape()} is missing")
    return lines


def _joined(layer: str, kind: str) -> str:
    return ".".join(part for part in (layer, kind) if part)


def _convert(array: np.ndarray, slot: Slot, sizes: Any) -> Any:
    """A torch array as the Flax one; sizes: of the flattened map before it, by its NHWC axis."""
    if sizes is not None and array.shape[-1:] == (math.prod(sizes.values()),):
        # The axis that was flattened is the last one: columns of a dense layer, or a vector.
        split = array.reshape(*array.shape[:-1], sizes[3], sizes[1], sizes[2])
        first = array.ndim - 1
        order = [first + (3, 1, 2).index(axis) for axis in sizes]
        array = split.transpose(*range(first), *order).reshape(array.shape)
    if slot.path.endswith("kernel"):
        array = array.transpose(*range(2, array.ndim), 1, 0)
    return jnp.asarray(array)


class _Traced(NamedTuple):
    """What is known of a value of the trace."""

    weights: frozenset[str] = frozenset()  # what it is made of, if of nothing else
    image: bool = False  # whether it depends on the images
    axes: tuple[int, ...] = ()  # of a map: which of N, H, W, C each of its four axes is
    flat: dict[int, int] | None = None  # of a flattened map: {axis: size} in their order


def _flattened(jaxpr: Any, paths: Sequence[str]) -> dict[str, dict[int, int]]:
    """For every weight that meets a flattened map: the map's sizes, {NHWC axis: size}, in order."""
    found: dict[str, dict[int, int]] = {}

    def walk(jaxpr: Any, values: Sequence[_Traced]) -> list[_Traced]:
        known = dict(zip(jaxpr.invars, values, strict=True))

        def read(var: Any) -> _Traced:
            return _Traced() if isinstance(var, core.Literal) else known.get(var, _Traced())

        for eqn in jaxpr.eqns:
            values = [read(var) for var in eqn.invars]
            inner = next((v for k, v in eqn.params.items() if k.endswith("jaxpr")), None)
            inner = getattr(inner, "jaxpr", inner)
            if inner is not None and len(inner.invars) == len(values):
                outs = walk(inner, values)
            else:
                outs = [_step(eqn, values, out.aval.shape, found) for out in eqn.outvars]
            known.update(zip(eqn.outvars, outs, strict=True))
        return [read(var) for var in jaxpr.outvars]

    walk(jaxpr, [*(_Traced(frozenset([path])) for path in paths), _Traced(image=True)])
    return found


def _step(eqn: Any, values: Sequence[_Traced], shape: Shape, found: dict[str, Any]) -> _Traced:
    """What one equation makes of what is known; weights that meet a flattened map are noted."""
    kind, weights = eqn.primitive.name, frozenset().union(*(value.weights for value in values))
    if not any(value.image for value in values):
        return _Traced(weights)
    flat = next((value.flat for value in values if value.flat), None)
    if flat is not None:
        found.update(dict.fromkeys(weights, flat))
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
