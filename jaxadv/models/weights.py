"""Weights on disk: one safetensors file that names the network it belongs to. No pickle.

The arrays are named by their path ("params/conv1/kernel"); definition, settings, image shape,
bounds and preprocessing are JSON strings in the file's metadata.
"""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxadv.core.bounds import Bounds
from jaxadv.core.files import write_atomically
from jaxadv.core.model import Model
from jaxadv.core.typing import ArrayLike, Params

if TYPE_CHECKING:
    from flax import linen as nn

FORMAT = 1
_FIELDS = ("definition", "settings", "image_shape", "bounds", "preprocessing")


def save_weights(
    path: str | os.PathLike[str],
    module_name: str,
    settings: Mapping[str, Any],
    variables: Params,
    *,
    image_shape: Sequence[int],
    bounds: Bounds = (0.0, 1.0),
    preprocessing: Mapping[str, Sequence[float]] | None = None,
    **extra: object,
) -> None:
    """Write a model's weights to a safetensors file.

    An existing file is replaced atomically and is never half written.

    Args:
        path: The file.
        module_name: A name of `DEFINITIONS`.
        settings: Fields of the definition, as JSON values.
        variables: Nested dict of arrays, all collections.
        image_shape: [H, W, C].
        bounds: Least and largest pixel value, numbers, or arrays that broadcast to one input.
        preprocessing: {"mean": [C], "std": [C]} in the scale of the images, or None.
        **extra: Further metadata as JSON values, such as accuracy=0.98.

    Raises:
        ValueError: If the arrays do not fit the definition, or a name in `extra` is reserved.

    >>> import jax, jax.numpy as jnp, tempfile
    >>> from jaxadv.models import get_definition, load_weights, save_weights
    >>> module = get_definition("FC")(widths=(16,))
    >>> variables = module.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
    >>> path = tempfile.mkdtemp() + "/fc.safetensors"
    >>> save_weights(path, "FC", {"widths": [16]}, variables, image_shape=(8, 8, 1), accuracy=0.1)
    >>> model, metadata = load_weights(path)
    >>> model(jnp.zeros((1, 8, 8, 1))).shape, metadata["accuracy"]
    ((1, 10), 0.1)
    """
    reserved = {"format", "definition"} & set(extra)
    if reserved:
        raise ValueError(f"extra metadata {sorted(reserved)} is taken: choose another name")
    arrays = flatten(variables)
    _check_arrays(path, arrays, _make_module(module_name, settings), image_shape)
    ends = [np.asarray(end).tolist() for end in bounds]
    values = (module_name, dict(settings), list(image_shape), ends, preprocessing)
    metadata = {"format": FORMAT} | dict(zip(_FIELDS, values, strict=True)) | extra
    write_arrays(path, arrays, metadata)


def load_weights(path: str | os.PathLike[str]) -> tuple[Model, dict[str, Any]]:
    """Read the model that `save_weights` wrote.

    Args:
        path: The file.

    Returns:
        The model, preprocessing included, and the file's metadata.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not a safetensors file of this package, its format or definition is
            unknown, or arrays are missing, unexpected or of the wrong shape.
    """
    from jaxadv.models.adapters import from_linen, normalized

    arrays, metadata = read_arrays(path)
    missing = [field for field in ("format", *_FIELDS) if field not in metadata]
    if missing:
        raise ValueError(
            f"{path} has {len(arrays)} arrays and no metadata {missing}, so it does not say which "
            "network they belong to: write it with ja.save_weights, or load it onto a module in "
            f"Python, model = ja.from_torch_arrays(module, {Path(path).name!r}, image_shape), and "
            "pass file.py:model"
        )
    if metadata["format"] != FORMAT:
        raise ValueError(
            f"{path} has format {metadata['format']}, this jaxadv reads {FORMAT}: update jaxadv"
        )
    module = _make_module(metadata["definition"], metadata["settings"])
    _check_arrays(path, arrays, module, metadata["image_shape"])
    variables = jax.tree.map(jnp.asarray, unflatten(arrays))
    model = from_linen(module, variables, tuple(metadata["bounds"]))
    if metadata["preprocessing"]:
        model = normalized(model, **metadata["preprocessing"])
    return model, metadata


def _make_module(name: str, settings: Mapping[str, Any]) -> "nn.Module":
    from jaxadv.models.definitions import get_definition

    hashable = {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}
    try:
        return get_definition(name)(**hashable)
    except TypeError as error:
        raise ValueError(f"settings={dict(settings)} do not fit {name}: {error}") from None


def variable_shapes(module: "nn.Module", image_shape: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """Return path and shape of every variable of a linen module for images [H, W, C]."""
    image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), image)
    return {name: leaf.shape for name, leaf in _paths(shapes)}


def _check_arrays(
    path: str | os.PathLike[str],
    arrays: Mapping[str, np.ndarray],
    module: "nn.Module",
    image_shape: Sequence[int],
) -> None:
    expected = variable_shapes(module, image_shape)
    name = type(module).__name__
    missing, unexpected = sorted(set(expected) - set(arrays)), sorted(set(arrays) - set(expected))
    if missing or unexpected:
        raise ValueError(
            f"{path}: arrays missing for {name}: {missing}; unexpected: {unexpected}; "
            "check the definition and its settings"
        )
    for key, shape in expected.items():
        if arrays[key].shape != shape:
            raise ValueError(
                f"{path}: {key} has shape {arrays[key].shape}, {name} for images "
                f"{tuple(image_shape)} needs {shape}: check settings and image_shape"
            )


def _paths(tree: Params) -> list[tuple[str, Any]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [("/".join(str(entry.key) for entry in path), leaf) for path, leaf in leaves]


def flatten(variables: Params) -> dict[str, np.ndarray]:
    """Convert nested dicts of arrays to {"params/conv1/kernel": array}, on the host."""
    return {name: np.asarray(leaf) for name, leaf in _paths(variables)}


def unflatten(arrays: Mapping[str, ArrayLike]) -> dict[str, Any]:
    """Invert `flatten`."""
    tree: dict[str, Any] = {}
    for name, array in arrays.items():
        *path, leaf = name.split("/")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[leaf] = array
    return tree


def write_arrays(
    path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray], metadata: Mapping[str, Any]
) -> None:
    """Write a safetensors file of arrays and JSON metadata atomically."""
    import safetensors.numpy

    packed = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    content = safetensors.numpy.save(packed, {k: json.dumps(v) for k, v in metadata.items()})
    write_atomically(Path(path), content)


def read_arrays(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read the arrays and the metadata that `write_arrays` wrote."""
    with _opened(path) as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return arrays, _metadata(file)


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the metadata that `write_arrays` wrote, and none of the arrays."""
    with _opened(path) as file:
        return _metadata(file)


@contextlib.contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[Any]:
    import safetensors

    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} does not exist: pass a safetensors file")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            yield file
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file of jaxadv: {error}") from None


def _metadata(file: Any) -> dict[str, Any]:
    """Return the metadata as values; those of other programs, which are no JSON, are texts."""
    values: dict[str, Any] = {}
    for name, text in (file.metadata() or {}).items():
        try:
            values[name] = json.loads(text)
        except json.JSONDecodeError:
            values[name] = text
    return values
