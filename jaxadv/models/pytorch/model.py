"""PyTorch networks as the engine's `Model`: the exported program is a function of its weights.

A program is exported for batches of any size and computed on whole batches. Where a module is
written for one image only, or its logits depend on the other images of a batch, it is exported for
one image and computed under vmap.
"""

import contextlib
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from jaxadv.core.bounds import Bounds
from jaxadv.core.images import as_floats
from jaxadv.core.model import Model
from jaxadv.core.optional_dependency import extra
from jaxadv.core.precision import x64
from jaxadv.core.pytree import pytree, static
from jaxadv.core.typing import ArrayLike
from jaxadv.cpu.compiler import brief_options
from jaxadv.models.pytorch.node import (
    ChannelsLast,
    Node,
    Program,
    Reference,
    Value,
    is_array,
    plain,
)
from jaxadv.models.pytorch.operators import find

if TYPE_CHECKING:
    import torch  # pyright: ignore[reportMissingImports]
    from torch.export import ExportedProgram  # pyright: ignore[reportMissingImports]

    from jaxadv.models.pytorch.export import Source

Weights = Mapping[str, ArrayLike]  # by their names in the module

TOLERANCE = 1e-3  # of the largest logit
EXACT = 1e-9  # the same in float64, where only float32 differs
SAMPLES = 3  # images that both networks classify


def from_torch(
    module: "torch.nn.Module | ExportedProgram | str | os.PathLike[str]",
    image_shape: Sequence[int] | None = None,
    *,
    output: str | int | None = None,
    bounds: Bounds = (0.0, 1.0),
) -> Model:
    """Convert a PyTorch network, as it is, to a `ja.Model` of images [N, H, W, C], or of rows.

    The network is exported by `torch.export`, and its operators become those of JAX: the model
    needs no torch, and it is differentiated, compiled and vectorised as any other. It is never
    changed, and it may be thrown away: the weights are copies. All floats are computed in float32.
    Gradients are those of the operators; where a `torch.autograd.Function` has a derivative of its
    own, that one is lost.

    Three random images within bounds are classified by both networks. The largest difference of
    their logits is `model.apply.difference`; from 1e-3 of the largest logit on it is an error, or a
    warning where both agree in float64 (layers that snap values to others jump where float32
    rounds).

    Args:
        module: A `torch.nn.Module` in evaluation mode that maps float images [N, C, H, W], rows
            [N, D] or series to logits [N, K], or to one logit of two classes, [N] or [N, 1]; or an
            exported program, or the path of a .pt2 file of one.
        image_shape: [H, W, C] of an image; of other inputs the shape of one, as the module takes
            it: [D], [T, C] or [C, T]. Default: that of an exported program.
        output: Which of several outputs holds the logits: the position in a tuple, the key of a
            dict, or the name in a dataclass or named tuple.
        bounds: Least and largest value of the images, numbers, or arrays that broadcast to one
            input.

    Returns:
        The model. `model.params` is a dict of the weights by their names in the module, in their
        shapes there, without those that are not used: new ones of equal shapes never recompile.

    Raises:
        ImportError: If the package torch is not installed.
        FileNotFoundError: If there is no such file.
        ValueError: If module is in training mode or half precision, changes buffers or draws at
            random; if it cannot be exported, as where control flow depends on the pixels; if
            operators are not supported (all are named, with the modules that call them); if it does
            not take images of this shape; or if the logits of both networks differ.

    >>> import jax.numpy as jnp, jaxadv as ja
    >>> import torch  # doctest: +SKIP
    >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 10))  # doctest: +SKIP
    >>> model = ja.from_torch(network.eval(), image_shape=(2, 2, 3))  # doctest: +SKIP
    >>> model(jnp.zeros((5, 2, 2, 3))).shape, list(model.params)  # doctest: +SKIP
    ((5, 10), ['1.weight', '1.bias'])
    """
    with extra("torch", "from_torch"):
        import torch  # noqa: F401  # pyright: ignore[reportMissingImports]
    from jaxadv.models.pytorch.export import load, source
    from jaxadv.models.pytorch.program import read

    network = source(load(module) if isinstance(module, str | os.PathLike) else module, image_shape)
    draw = np.random.default_rng(0).uniform(*_finite(bounds), (SAMPLES, *network.image_shape))
    images = draw.astype(np.float32)
    failures = []
    for export in network.exports:
        try:
            program, weights, place = read(export(), output)
            classifier = _Classifier(program, network.image_shape)
            difference = _difference(classifier, weights, images, network, place)
        except ValueError as error:
            failures.append(error)
        else:
            return Model(replace(classifier, difference=difference), weights, bounds)
    # That of other logits, or of the export for one image, which asks for the least.
    raise next((e for e in failures[::-1] if isinstance(e, _OtherLogitsError)), failures[:2][-1])


class _OtherLogitsError(ValueError):
    """A network was exported, and its program computes something else."""


def _finite(bounds: Bounds) -> tuple[np.ndarray, np.ndarray]:
    """Return ends to draw inputs between: infinite ones are moved to 3 and -3, or 6 apart."""
    lower, upper = (np.asarray(end, np.float64) for end in bounds)
    low = np.where(np.isfinite(lower), lower, np.where(np.isfinite(upper), upper - 6, -3.0))
    return low, np.where(np.isfinite(upper), upper, low + 6)


def _difference(
    classifier: "_Classifier", weights: Weights, images: np.ndarray, network: "Source", place: int
) -> float:
    """Return the largest difference from the logits of torch, or raise ValueError."""
    expected = network.logits(images, place)
    if expected.shape[0] != len(images) or expected.ndim not in (1, 2):
        raise ValueError(
            f"module returns an array {expected.shape} for {len(images)} images, but logits are "
            "[N, K], or [N] of two classes: pass output= the one of its outputs that holds them, "
            "or wrap the module"
        )
    difference, scale = _compared(classifier, weights, images, expected)
    if difference <= TOLERANCE * scale:
        return difference
    exact = network.doubled()
    if exact is not None:  # layers that snap values to others jump where float32 rounds
        with x64():
            wide = {
                name: np.asarray(array, np.float64)
                if jnp.issubdtype(jnp.asarray(array).dtype, jnp.floating)
                else array
                for name, array in weights.items()
            }
            inputs = images.astype(np.float64)
            rest, largest = _compared(classifier, wide, inputs, exact.logits(inputs, place))
        if rest <= EXACT * largest:
            warnings.warn(
                f"logits of module jump where float32 rounds: those of JAX and torch differ by "
                f"{difference:.2g} in float32, of {scale:.2g}, and agree in float64: judge what is "
                "found on the module too",
                stacklevel=3,
            )
            return difference
    raise _OtherLogitsError(
        f"module has other logits in JAX: they differ by {difference:.2g} from those of torch, "
        f"whose largest is {scale:.2g}, on random images within bounds; report it with the "
        "module, and export it to ONNX for ja.from_onnx meanwhile"
    )


def _compared(
    classifier: "_Classifier", weights: Weights, images: np.ndarray, expected: np.ndarray
) -> tuple[float, float]:
    """Return the largest difference from the expected logits, and the largest of these."""
    # Of the hardware's lower precisions nothing is said here.
    with jax.default_matmul_precision("highest"):
        options = brief_options(jax.default_backend())  # it runs once
        logits = jax.jit(classifier, compiler_options=options)(weights, images)
    return float(np.abs(logits - expected).max()), float(np.abs(expected).max())


@pytree
class _Classifier:
    program: Program = static()
    image_shape: tuple[int, ...] = static()
    difference: float = field(default=0.0, compare=False, metadata={"static": True})

    def __call__(self, params: Weights, images: Float[Array, "N ..."]) -> Float[Array, "N K"]:
        images = as_floats(images)
        if images.shape[1:] != self.image_shape:
            raise ValueError(
                f"images are {list(images.shape)}, but the network was converted for images "
                f"[N, {', '.join(map(str, self.image_shape))}]: pass such, or convert it again "
                "with another image_shape"
            )
        if self.program.batch is None:
            return self.classify(params, images)

        def one(image: Array) -> Array:
            logits = self.classify(params, image[None])
            return logits[0] if logits.ndim else logits

        return jax.vmap(one)(images)

    def classify(self, params: Weights, images: Array) -> Array:
        """Return the logits of a batch of the size for which the program was exported."""
        program = self.program
        values: dict[str, Value] = {name: tensor.array() for name, tensor in program.constants}
        values |= {node: jnp.asarray(params[name]) for node, name in program.weights}
        values[program.entrance] = ChannelsLast(images) if images.ndim == 4 else images
        for node in program.nodes:
            values[node.name] = _evaluate(node, values)
        return plain(values[program.exit])


def _evaluate(node: Node, values: Mapping[str, Value]) -> Value:
    """Return the value of a node; one that is computed from known values alone is known too."""
    operator: Any = find(node.operator)
    arguments = _filled(node.arguments, values)
    options = {name: _filled(value, values) for name, value in node.options}
    given = jax.tree.leaves((arguments, options))
    known = not any(isinstance(value, jax.Array | ChannelsLast) for value in given)
    try:
        with jax.ensure_compile_time_eval() if known else contextlib.nullcontext():
            value = operator(*arguments, **options)
    except Exception as error:
        shapes = [list(value.shape) for value in given if is_array(value)]
        raise ValueError(f"{node} failed on arrays of shape {shapes}: {error}") from error
    return jax.tree.map(_concrete, value) if known else value


def _filled(value: Any, values: Mapping[str, Value]) -> Value:
    """Return an argument with values in the place of references."""
    if isinstance(value, Reference):
        return values[value.name]
    return tuple(_filled(v, values) for v in value) if isinstance(value, tuple) else value


def _concrete(value: Value) -> Value:
    concrete = isinstance(value, jax.Array) and not isinstance(value, Tracer)
    return np.asarray(value) if concrete else value
