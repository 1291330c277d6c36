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
import torch.utils._pytree
from torch.export import ExportedProgram


class Entrance(NamedTuple):
    """The input of an exported program.

    Attributes:
        name: Its name.
        batch: Size of its batch, 1; None: any.
        shape: [C, H, W], None: any.
        dtype: Its type.
    """

    name: str
    batch: int | None
    shape: tuple[int | None, ...]
    dtype: torch.dtype


class Source(NamedTuple):
    """A network of torch, and how to export it.

    Attributes:
        call: Maps a batch of images [N, C, H, W] to what the network returns.
        example: An image [1, C, H, W] in the type and on the device of the network.
        exports: Ways to export it, the best one first.
    """

    call: Callable[[torch.Tensor], Any]
    example: torch.Tensor
    exports: tuple[Callable[[], ExportedProgram], ...]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        _, channels, height, width = self.example.shape
        return height, width, channels

    def logits(self, images: np.ndarray, leaf: int) -> np.ndarray:
        """Return the logits [N, K] of images [N, H, W, C], each of them alone."""
        rows = []
        for image in images.transpose(0, 3, 1, 2):
            given = torch.tensor(image[None]).to(self.example)
            with torch.no_grad():
                output = torch.utils._pytree.tree_leaves(self.call(given))[leaf]
            rows.append(output.float().cpu().numpy())
        return np.concatenate(rows)


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
    if module.training:
        raise ValueError("module is in training mode: call module.eval()")
    if image_shape is None or len(image_shape) != 3 or min(image_shape) < 1:
        raise ValueError(f"image_shape={image_shape}: pass [H, W, C] of one image")
    height, width, channels = map(int, image_shape)
    weight = next((p for p in module.parameters() if p.is_floating_point()), torch.zeros(()))
    _check_precision(weight.dtype)
    example = torch.zeros(1, channels, height, width, dtype=weight.dtype, device=weight.device)
    try:
        with torch.no_grad():
            module(example)
    except Exception as error:
        raise ValueError(
            f"module fails on an image [1, {channels}, {height}, {width}] "
            f"(image_shape={tuple(image_shape)} is [H, W, C]): {_brief(error)}"
        ) from error
    # Of a batch of 1, torch would make a constant.
    pair, any_batch = torch.cat([example, example]), ({0: torch.export.Dim("batch")},)
    exports = [
        lambda: _export(module, pair, any_batch),
        lambda: _export(module, example, None),
    ]
    if any(tensor.numel() == 1 for tensor in _tensors(module)):
        exports.append(lambda: _export(_with_fixed_numbers(module), pair, any_batch))
    return Source(module, example, tuple(exports))


def _check_precision(dtype: torch.dtype) -> None:
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"module computes in {dtype}: pass module.float()")


def _tensors(module: torch.nn.Module) -> Iterator[torch.Tensor]:
    return itertools.chain(module.parameters(), module.buffers())


def _with_fixed_numbers(module: torch.nn.Module) -> torch.nn.Module:
    """Return a copy whose single numbers are constants, so that control flow may depend on them.

    All other tensors are those of the module itself.
    """
    copied = copy.deepcopy(module, {id(tensor): tensor for tensor in _tensors(module)})
    for part in copied.modules():
        fixed = {}
        for held in (part._parameters, part._buffers):
            numbers = [name for name, t in held.items() if t is not None and t.numel() == 1]
            fixed |= {name: held.pop(name) for name in numbers}
        kind = type(part)
        part.__class__ = type(kind.__name__, (kind,), {n: _fixed(t) for n, t in fixed.items()})
    return copied


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
    channels, height, width = declared.shape
    if image_shape is None and None not in declared.shape:
        image_shape = height, width, channels  # type: ignore[assignment]
    fits = (
        image_shape is not None
        and len(image_shape) == 3
        and all(
            size in (None, given)
            for size, given in zip((height, width, channels), image_shape, strict=True)
        )
    )
    if not fits or image_shape is None:
        text = str([n or "any" for n in (height, width, channels)]).replace("'", "")
        raise ValueError(f"image_shape={image_shape}: the program takes images [H, W, C] = {text}")
    height, width, channels = map(int, image_shape)
    weight = next(iter(program.state_dict.values()), torch.zeros(()))
    shape = (1, channels, height, width)
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
    if len(values) != 1 or len(shapes[0]) != 4:
        text = ", ".join(map(str, shapes))
        raise ValueError(f"module takes inputs {text}: export one that takes images [N, C, H, W]")
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
