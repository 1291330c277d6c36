"""What torch does: it loads a program or exports a module, and classifies images to compare."""

# pyright: reportMissingImports=false
import copy
import itertools
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.overrides
import torch.utils._pytree
from torch.export import ExportedProgram


class Entrance(NamedTuple):
    """The input of an exported program.

    Attributes:
        name: Its name.
        batch: Size of its batch, 1; None: any.
        shape: [C, H, W], or that of one input that is no image; None: any.
        dtype: Its type.
    """

    name: str
    batch: int | None
    shape: tuple[int | None, ...]
    dtype: torch.dtype


class Source(NamedTuple):
    """A network of torch, and how to export it.

    Attributes:
        call: Maps a batch of inputs, images [N, C, H, W], to what the network returns.
        example: An input, an image [1, C, H, W], in the type and on the device of the network.
        exports: Ways to export it, the best one first.
    """

    call: Callable[[torch.Tensor], Any]
    example: torch.Tensor
    exports: tuple[Callable[[], ExportedProgram], ...]

    @property
    def image_shape(self) -> tuple[int, ...]:
        return _channels_last(tuple(self.example.shape[1:]))

    def logits(self, images: np.ndarray, leaf: int) -> np.ndarray:
        """Return the logits [N, K] or [N] of images [N, H, W, C], each of them alone."""
        rows = []
        for image in images.transpose(0, 3, 1, 2) if images.ndim == 4 else images:
            given = torch.tensor(image[None]).to(self.example)
            # With gradients, as it is exported: some networks ask whether there are any.
            output = torch.utils._pytree.tree_leaves(self.call(given))[leaf]
            rows.append(np.atleast_1d(output.detach().to(self.example.dtype).cpu().numpy()))
        return np.concatenate(rows)

    def doubled(self) -> "Source | None":
        """Return the network in float64, as a copy; None for a program, whose types are fixed."""
        if not isinstance(self.call, torch.nn.Module) or len(self.exports) == 1:
            return None
        return self._replace(call=copy.deepcopy(self.call).double(), example=self.example.double())


def _channels_last(shape: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return [H, W, C] for [C, H, W]; other inputs have the same shape in both."""
    return (*shape[1:], shape[0]) if len(shape) == 3 else shape


def _channels_first(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (shape[2], *shape[:2]) if len(shape) == 3 else shape


def load(path: str | os.PathLike[str]) -> ExportedProgram:
    """Return the program that torch.export.save wrote."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: pass a .pt2 file of torch.export.save")
    if path.suffix != ".pt2":
        raise ValueError(
            f"{path} is no .pt2 file: write it with torch.export.save(torch.export.export(module, "
            "(image,)), path); pickles (.pt, .pth) are not read"
        )
    try:
        with quiet():
            return torch.export.load(path)
    except Exception as error:
        raise ValueError(f"{path} is damaged or of another torch: {_brief(error)}") from error


def source(module: Any, image_shape: Sequence[int] | None) -> Source:
    """Return the network and the ways to export it, after checks of both arguments."""
    if isinstance(module, ExportedProgram):
        return _of_program(module, image_shape)
    if not isinstance(module, torch.nn.Module):
        raise ValueError(
            f"module is {type(module).__name__}: pass a torch.nn.Module, an exported program or "
            "the path of a .pt2 file"
        )
    if isinstance(module, torch.jit.ScriptModule):
        raise ValueError(
            f"module is {type(module).__name__}, which torch.export does not take: pass the module "
            "that was traced or scripted"
        )
    if module.training:
        raise ValueError("module is in training mode: call module.eval()")
    if image_shape is None or len(image_shape) not in (1, 2, 3) or min(image_shape) < 1:
        raise ValueError(
            f"image_shape={image_shape}: pass [H, W, C] of one image, [D] of a row, or the "
            "shape of a series as the module takes it"
        )
    shape = (1, *_channels_first(tuple(map(int, image_shape))))
    weight = next((p for p in module.parameters() if p.is_floating_point()), torch.zeros(()))
    _check_precision(weight.dtype)
    example = torch.zeros(shape, dtype=weight.dtype, device=weight.device)
    try:
        with torch.no_grad():
            module(example)
    except Exception as error:
        kind = "an image" if len(shape) == 4 else "an input"
        raise ValueError(
            f"module fails on {kind} {list(shape)} (image_shape={tuple(image_shape)}, which for an "
            f"image is [H, W, C]): {_brief(error)}"
        ) from error
    # Of a batch of 1, torch would make a constant.
    pair, any_batch = torch.cat([example, example]), ({0: torch.export.Dim("batch")},)
    exports = (
        lambda: _export(module, pair, any_batch),
        lambda: _export(module, example, None),
        lambda: _export(_with_fixed_numbers(module), pair, any_batch),
    )
    return Source(module, example, exports)


def _check_precision(dtype: torch.dtype) -> None:
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"module computes in {dtype}: pass module.float()")


def _tensors(module: torch.nn.Module) -> Iterator[torch.Tensor]:
    return itertools.chain(module.parameters(), module.buffers())


def _with_fixed_numbers(module: torch.nn.Module) -> torch.nn.Module:
    """Return a copy whose single numbers are constants, so that control flow may depend on them.

    It takes no value for NaN, so that assertions of that hold. All other tensors are those of the
    module itself.
    """
    copied = copy.deepcopy(module, {id(tensor): tensor for tensor in _tensors(module)})
    for part in copied.modules():
        fixed = {}
        for held in (part._parameters, part._buffers):
            numbers = [name for name, t in held.items() if t is not None and t.numel() == 1]
            fixed |= {name: held.pop(name) for name in numbers}
        kind = type(part)
        own: dict[str, Any] = {n: _fixed(t) for n, t in fixed.items()}
        if part is copied:
            own["forward"] = lambda self, images, kind=kind: _without_nan(
                kind.forward, self, images
            )
        part.__class__ = type(kind.__name__, (kind,), own)
    return copied


class _NoNaN(torch.overrides.TorchFunctionMode):
    """Where it is asked whether values are NaN, none is."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.isnan, torch.Tensor.isnan):
            return torch.tensor(False)
        return func(*args, **(kwargs or {}))


def _without_nan(forward: Callable[..., Any], module: torch.nn.Module, images: Any) -> Any:
    with _NoNaN():
        return forward(module, images)


def _fixed(tensor: torch.Tensor) -> property:
    """Return an attribute that makes the tensor anew, which the export takes for a constant."""
    value, kind = tensor.tolist(), tensor.dtype
    return property(lambda _: torch.tensor(value, dtype=kind))


def _of_program(program: ExportedProgram, image_shape: Sequence[int] | None) -> Source:
    declared = entrance(program)
    if declared.batch not in (None, 1):
        raise ValueError(
            f"module was exported for a batch of {declared.batch}: export it for one image, or "
            'with dynamic_shapes=({0: torch.export.Dim("batch")},)'
        )
    _check_precision(declared.dtype)
    sizes = _channels_last(declared.shape)
    if image_shape is None and None not in sizes:
        image_shape = sizes
    fits = (
        image_shape is not None
        and len(image_shape) == len(sizes)
        and all(size in (None, given) for size, given in zip(sizes, image_shape, strict=True))
    )
    if not fits or image_shape is None:
        text = str([n or "any" for n in sizes]).replace("'", "")
        kind = "images [H, W, C]" if len(sizes) == 3 else "inputs"
        raise ValueError(f"image_shape={image_shape}: the program takes {kind} = {text}")
    weight = next(iter(program.state_dict.values()), torch.zeros(()))
    shape = (1, *_channels_first(tuple(map(int, image_shape))))
    example = torch.zeros(shape, dtype=declared.dtype, device=weight.device)
    return Source(program.module(), example, (lambda: program,))


def _export(module: torch.nn.Module, example: torch.Tensor, axes: Any) -> ExportedProgram:
    try:
        with quiet():
            return torch.export.export(module, (example,), dynamic_shapes=axes)
    except Exception as error:
        raise ValueError(
            f"torch.export cannot export {type(module).__name__}: {_brief(error)}: control flow "
            "must not depend on the pixels (torch.where instead of if), and outputs must be tensors"
        ) from error


def entrance(program: ExportedProgram) -> Entrance:
    """Return the only input of a program."""
    names = program.graph_signature.user_inputs
    values = [
        n.meta["val"] for n in program.graph.nodes if n.name in names and n.op == "placeholder"
    ]
    shapes = [list(getattr(value, "shape", ())) for value in values]
    if len(values) != 1 or len(shapes[0]) not in (2, 3, 4):
        text = ", ".join(map(str, shapes))
        raise ValueError(
            f"module takes inputs {text}: export one that takes images [N, C, H, W], rows [N, D] "
            "or series alone"
        )
    batch, *shape = (n if isinstance(n, int) else None for n in shapes[0])
    return Entrance(str(names[0]), batch, tuple(shape), values[0].dtype)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep torch from logging and warning of what is an error here anyway."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        # It prints the program at which it fails, too.
        with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _brief(error: Exception) -> str:
    """Return the first paragraph of a message of torch."""
    return " ".join(str(error).strip().split("\n\n")[0].split())[:400]
