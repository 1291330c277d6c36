"""A model by the text that names it: a file, a folder, or an object in Python code."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxadv.core.bounds import Bounds
from jaxadv.core.model import Model, from_function
from jaxadv.core.python_objects import called, load_object, names_object, takes_nothing
from jaxadv.models.adapters import from_keras, from_linen, from_nnx, normalized, selected
from jaxadv.models.definitions import get_definition
from jaxadv.models.published import load_published
from jaxadv.models.weights import load_weights

FORMS = (
    "a file (.safetensors, .onnx, .keras, .pt2), a folder of a published network, or "
    "file.py:name or package.module:name"
)
_PICKLE = (
    ", a pickle, which is not read (it could run anything): build the network in Python, "
    "load its weights, and name it as file.py:name, or write a .pt2 file with torch.export.save"
)
_INSTEAD = {
    **dict.fromkeys((".pt", ".pth", ".bin", ".ckpt"), _PICKLE),
    **dict.fromkeys((".pkl", ".joblib"), ", a pickle: load it in Python, and name it"),
    **dict.fromkeys((".h5", ".hdf5"), ": load it with Keras, and save it as a .keras file"),
}
SUFFIXES = (".safetensors", ".onnx", ".keras", ".pt2")


def is_loaded(spec: str | os.PathLike[str]) -> bool:
    """Return whether a text names a model that exists, and not a definition to be trained.

    Args:
        spec: As for `load_model`, or the name of a definition.

    Returns:
        Whether `load_model` is meant.

    Raises:
        FileNotFoundError: If it is a path, and there is nothing.
    """
    text = os.fspath(spec)
    path = Path(text).expanduser()
    if names_object(text):
        return True
    if not path.suffix and os.sep not in text and (_is_definition(text) or not path.exists()):
        return False  # a folder of that name is ./name
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: pass {FORMS}")
    return True


def _is_definition(name: str) -> bool:
    try:
        get_definition(name)
    except ValueError:
        return False
    return True


def name_of(spec: str | os.PathLike[str]) -> str:
    """Return how a model is called in results.

    Args:
        spec: As for `load_model`.

    Returns:
        The name of the object, of the folder, or of the file without its suffix.

    Example:
        >>> from jaxadv.models.named import name_of
        >>> name_of("nets/robust.onnx"), name_of("nets/linf0.3"), name_of("nets.py:robust")
        ('robust', 'linf0.3', 'robust')
    """
    text = os.fspath(spec)
    if names_object(text):
        return text.rpartition(":")[2]
    path = Path(text)
    return path.stem if path.suffix in SUFFIXES else path.name


def load_model(
    spec: str | os.PathLike[str],
    image_shape: Sequence[int] | None = None,
    *,
    bounds: Bounds | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    output: str | int | None = None,
) -> Model:
    """Load a model from a file, a folder or Python code, of whichever library it is.

    What Python code names may be a `ja.Model`, a `torch.nn.Module` or exported program, a Keras
    model, an nnx module, a pair (linen module, variables), a fitted classifier of scikit-learn, a
    function of images, or a function without arguments that returns one of these. The file is run:
    load only what you trust.

    Args:
        spec: A .safetensors file of `jaxadv train` or `ja.save_weights`, an .onnx, .keras or .pt2
            file, a folder of a published network, "file.py:name" or "package.module:name".
        image_shape: [H, W, C] of one image; needed for networks of PyTorch.
        bounds: The least and largest value of an image (default: those of the model, which are 0
            and 1 where it says nothing).
        mean: One number a channel that is subtracted from the images before the model sees them.
        std: One number a channel by which they are divided then.
        output: Which part of the model's output holds the logits, where it returns a dict or a
            tuple: the key or the index.

    Returns:
        The model.

    Raises:
        FileNotFoundError: If there is no such file.
        ImportError: If a package that the model needs is not installed.
        ValueError: If the spec has another form, the code cannot be run, or the object is no model.

    Example:
        >>> import pathlib, tempfile
        >>> import jax.numpy as jnp, jaxadv as ja
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "net.py"
        >>> _ = file.write_text('''
        ... def halves(images):
        ...     rows = images.mean((2, 3))
        ...     return {"scores": rows}
        ... ''')
        >>> model = ja.load_model(f"{file}:halves", output="scores")
        >>> model(jnp.ones((3, 2, 2, 1))).shape
        (3, 2)
    """
    text = os.fspath(spec)
    if (mean is None) != (std is None):
        raise ValueError(f"mean={mean} with std={std}: pass both, or none of them")
    shape = None if image_shape is None else tuple(image_shape)
    if not names_object(text):
        model = _read(Path(text).expanduser(), shape, output)
    else:
        model = convert(load_object(text), text, shape, output)
    if bounds is not None:
        model = dataclasses.replace(model, bounds=bounds)
    return model if mean is None or std is None else normalized(model, mean, std)


def _read(path: Path, shape: tuple[int, ...] | None, output: str | int | None) -> Model:
    """Read the model of a file or folder."""
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: pass {FORMS}")
    if path.suffix == ".onnx":
        from jaxadv.models.onnx import from_onnx

        return from_onnx(path, output=None if output is None else str(output))
    if path.suffix == ".keras":
        return _select(from_keras(_read_keras(path)), output)
    if path.suffix == ".pt2":
        from jaxadv.models.pytorch import from_torch

        return from_torch(path, shape, output=output)
    if path.is_dir():
        return _select(load_published(path), output)
    if path.suffix != ".safetensors":
        hint = _INSTEAD.get(path.suffix, "")
        raise ValueError(f"{path} is a file of another form{hint}: pass {FORMS}")
    return _select(load_weights(path)[0], output)


def _read_keras(path: Path) -> Any:
    from jaxadv.core.optional_dependency import extra

    with extra("keras", str(path), ", and set KERAS_BACKEND=jax in the environment"):
        import keras  # pyright: ignore[reportMissingImports]
    return keras.saving.load_model(path)


def convert(
    value: object, title: str, shape: tuple[int, ...] | None, output: str | int | None = None
) -> Model:
    """Convert an object of any library to a `ja.Model`.

    Args:
        value: What `load_model` lists.
        title: How errors name it.
        shape: [H, W, C] of one image, or None.
        output: As for `load_model`.

    Returns:
        The model.

    Raises:
        ValueError: If the object is none of these.
    """
    if takes_nothing(value):
        value = called(value)
    libraries = {kind.__module__.partition(".")[0] for kind in type(value).__mro__}
    if isinstance(value, Model):
        return _select(value, output)
    if "torch" in libraries:
        from jaxadv.models.pytorch import from_torch

        return from_torch(value, shape, output=output)  # type: ignore[arg-type]
    if "keras" in libraries:
        return _select(from_keras(value), output)
    if "sklearn" in libraries:
        from jaxadv.models.scikit_learn import from_sklearn

        return _select(from_sklearn(value), output)  # type: ignore[arg-type]
    if "flax" in libraries:
        if any(kind.__module__.startswith("flax.nnx") for kind in type(value).__mro__):
            return _select(from_nnx(value), output)  # type: ignore[arg-type]
        raise ValueError(
            f"{title} is a Flax module without its weights: name a function that returns "
            "(module, variables)"
        )
    if isinstance(value, tuple) and len(value) == 2 and hasattr(value[0], "apply"):
        return _select(from_linen(*value), output)
    if callable(value) and not isinstance(value, type):
        return _select(from_function(value), output)
    hint = ""
    if isinstance(value, type):
        hint = f": it is a class, so name an object of it, net = {value.__name__}(...)"
    elif isinstance(value, Mapping):
        hint = ": weights alone do not say whose they are, see ja.from_torch_arrays"
    raise ValueError(
        f"{title} is {type(value).__name__}, and no model{hint}: name a ja.Model, a network of "
        "PyTorch, Keras or Flax, a classifier of scikit-learn, a function of images, or a function "
        "that returns one of these"
    )


def _select(model: Model, output: str | int | None) -> Model:
    return model if output is None else selected(model, output)
