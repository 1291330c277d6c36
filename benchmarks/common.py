"""What the benchmarks share: command lines, networks, images, alternating timing, tables."""

import argparse
import os
import re
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import platformdirs
from rich.console import Console
from rich.table import Table

import jaxadv as ja
from jaxadv.models.published import load_published
from jaxadv.models.train import train

CONSOLE = Console(width=120)
ROOT = Path(__file__).parents[1]
SHARED = Path(os.environ.get("JAXADV_SHARED", ROOT.parent / "shared")) / "data"


def arguments(
    document: str | None,
    *,
    names: str = "",
    count: int | None = None,
    python: str = "",
    own: bool = False,
) -> argparse.ArgumentParser:
    """The command line of a benchmark, to which its own options are added.

    Args:
        document: The module's docstring, which `--help` prints; it begins with the command.
        names: What the positional arguments name, if there are any.
        count: The default of `--count`, the images of each network, if there is such an option.
        python: What the interpreter of `--python` must have, if there is such an option.
        own: Whether a name may be that of a model that is in no table, for `load_own`.
    """
    text = document or ""
    command = re.match(r"`(python -m [\w.]+)", text)
    parser = argparse.ArgumentParser(
        command[1] if command else None,
        description=text,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if names:
        parser.add_argument("names", nargs="*", metavar="NAME", help=names)
    if count is not None:
        parser.add_argument(
            "--count", type=int, default=count, help=f"images of each network (default: {count})"
        )
    if python:
        parser.add_argument("--python", help=f"an interpreter with {python}")
    if own:
        parser.add_argument("--data", help="of models of your own, as for `jaxadv evaluate`")
        parser.add_argument("--data-dir", type=Path, help="where these data lie")
    return parser


def torch_half(python: str, module: str, *words: object) -> dict[str, Any]:
    """What `subprocess.run` and `Popen` need to start a module of `benchmarks` elsewhere.

    Args:
        python: An interpreter that has torch; it needs nothing of jaxadv.
        module: The module's name below `benchmarks`, such as "peers.pgd_torch".
        *words: Its arguments.
    """
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return {
        "args": [python, "-m", f"benchmarks.{module}", *map(str, words)],
        "env": {**os.environ, "PYTHONPATH": path},
        "text": True,
    }


def hand_over(folder: Path, weights: dict[str, np.ndarray], **arrays: np.ndarray) -> None:
    """Write a network's weights and its images (and labels) for a torch half."""
    if not weights:
        raise SystemExit("--python is for networks with a weights.npz: leave it out")
    np.savez(folder / "weights.npz", **weights)  # type: ignore[arg-type]
    np.savez(folder / "data.npz", **arrays)  # type: ignore[arg-type]


class Published(NamedTuple):
    """A published network, its weights as torch reads them, and test images."""

    model: ja.Model
    weights: dict[str, np.ndarray]
    data: ja.data.Dataset


def torch_results(
    python: str, module: str, network: Published, arrays: dict[str, np.ndarray], *words: object
) -> dict[tuple[str, str], dict[str, np.ndarray]]:
    """What the attacks of other libraries find on a network, in a process of their own.

    Args:
        python: An interpreter that has torch and the libraries.
        module: The module's name below `benchmarks`. It reads what `hand_over` writes, and writes
            a file LIBRARY-NAME.npz for each attack, with the "logits" of the first 8 images.
        network: The network.
        arrays: The images, [N, H, W, C], and the labels if the module wants them.
        *words: Arguments of the module after the folder.

    Returns:
        The arrays of each file, under (library, name).

    Raises:
        AssertionError: The logits of the two networks differ.
    """
    with tempfile.TemporaryDirectory() as path:
        folder, found = Path(path), {}
        hand_over(folder, network.weights, **arrays)
        subprocess.run(**torch_half(python, module, path, *words), check=True)
        for file in sorted(folder.glob("*-*.npz")):
            with np.load(file) as saved:
                one = dict(saved)
            logits = network.model(jax.numpy.asarray(arrays["images"][:8]))
            np.testing.assert_allclose(one["logits"], logits, atol=1e-3)
            library, name = file.stem.rsplit("-", 1)
            found[library, name] = one
        return found


def processor_seconds() -> float:
    """CPU seconds of all threads of this process so far."""
    times = os.times()
    return times.user + times.system


def load_images(name: str, count: int | None = None) -> ja.data.Dataset:
    """The first `count` test images (default: all) of the set that a published network is for."""
    if name.startswith("mnist"):
        return ja.load_data("mnist", "test", count, data_dir=SHARED / "mnist")
    return ja.load_data(SHARED / "cifar10" / "cifar10_test.npz", count=count)


def load(name: str, count: int | None = None) -> Published:
    """A published network of the shared data, and the first `count` test images (default: all)."""
    folder = SHARED / "models" / name
    if Path(name).name != name or not folder.is_dir():
        raise SystemExit(f"{name} is not among the published networks: pass its --data too")
    with np.load(folder / "weights.npz") as file:
        weights = dict(file)
    return Published(load_published(folder), weights, load_images(name, count))


def load_own(spec: str, options: argparse.Namespace, count: int | None = None) -> Published:
    """A model and images as `jaxadv evaluate` takes them with `--model` and `--data`.

    Args:
        spec: The folder of a published network, a file, or file.py:name.
        options: With `--data` and `--data-dir`.
        count: How many test images, chosen as there (default: all).
    """
    from jaxadv.cli.subject import Subject, find_subject

    if options.data is None:
        raise SystemExit(f"{spec} is in no table here: pass its --data too, as to jaxadv evaluate")
    subject = Subject(options.data, options.data_dir, spec, examples=count)  # type: ignore[arg-type]
    try:
        if subject.is_trained_here:
            raise SystemExit(f"{spec} is no file and no folder: pass what exists, as ./{spec}")
        loaded = find_subject(subject, Path())
    except (OSError, ValueError) as error:
        raise SystemExit(str(error)) from None
    weights, file = {}, Path(spec) / "weights.npz"
    if file.is_file():
        with np.load(file) as arrays:
            weights = dict(arrays)
    return Published(loaded.model, weights, loaded.data)


def trained(name: str, epochs: int = 3) -> tuple[ja.Model, np.ndarray, np.ndarray]:
    """A network trained on the embedded digits, and all 5,000 digits (train, then test)."""
    module = ja.models.get_definition(name)()
    data = ja.load_data("mnist5k", "train")
    test = ja.load_data("mnist5k", "test")
    cache = Path(platformdirs.user_cache_dir("jaxadv")) / "benchmarks"
    variables = train(
        module,
        data,
        epochs=epochs,
        batch_size=50,
        learning_rate=1e-3,
        key=jax.random.key(0),
        checkpoint=cache / f"{name}.safetensors",
    )
    images = np.concatenate([data.images, test.images])
    return ja.from_linen(module, variables), images, np.concatenate([data.labels, test.labels])


def minimum_norm_attacks(norm: str, passes: int = 2_000) -> dict[str, ja.Attack]:
    """Our minimum-norm attacks of a norm, with about `passes` passes an image each."""
    steps, each = passes // 2, passes // 18
    wider: dict[str, ja.Attack] = {
        "FMN": ja.FMN(norm=norm, steps=steps),
        "FMN, each target": ja.EachTarget(ja.FMN(norm=norm, steps=each)),
        "PDPGD": ja.PDPGD(norm=norm, steps=steps),
        "BrendelBethge": ja.BrendelBethge(norm=norm, steps=steps),
        "PGD, searched": ja.MinimalEpsilon(
            ja.PGD(norm=norm, steps=steps // 10, step_size=0.05, loss="margin"), rounds=9
        ),
    }
    if norm != "l0":
        wider["APGD, searched"] = ja.MinimalEpsilon(
            ja.APGD(norm=norm, steps=steps // 10, loss="dlr"), rounds=9
        )
        wider["FAB"] = ja.FAB(norm=norm, steps=passes // 21, targets=7)
        wider["DeepFool"] = ja.DeepFool(norm=norm)
    if norm in ja.CW.norms:
        wider["CW"] = ja.CW(norm=norm, steps=steps // 9)
    if norm in ja.TrustRegion.norms:
        wider["TrustRegion"] = ja.TrustRegion(norm=norm)
    if norm in ja.ALMA.norms:
        wider["ALMA"] = ja.ALMA(norm=norm, steps=steps)
    narrow: dict[str, dict[str, ja.Attack]] = {
        "l2": {
            "DDN": ja.DDN(steps=steps),
            "PDGD": ja.PDGD(steps=steps),
            "LBFGS": ja.LBFGS(),
            "SuperDeepFool": ja.SuperDeepFool(),
            "NewtonFool": ja.NewtonFool(),
        },
        "l1": {"EAD": ja.EAD(steps=passes // 27), "SparseFool": ja.SparseFool(norm="l1")},
        "l0": {
            "SigmaZero": ja.SigmaZero(steps=steps),
            "VFGA": ja.VFGA(),
            "FGA": ja.FGA(),
            "JSMA": ja.JSMA(),
            "SparseFool": ja.SparseFool(norm="l0"),
        },
    }
    return wider | narrow.get(norm, {})


def alternate(sides: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each side in every round, after one call of each that is not counted."""
    for call in sides.values():
        jax.block_until_ready(call())
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, call in sides.items():
            begin = time.perf_counter()
            jax.block_until_ready(call())
            seconds[name].append(time.perf_counter() - begin)
    return seconds


def ratio(over: list[float], under: list[float]) -> float:
    """The median of the ratios round by round."""
    return statistics.median(a / b for a, b in zip(over, under, strict=True))


def show(title: str, header: list[str], rows: list[list[Any]]) -> None:
    """Print a table."""
    table = Table(title=title, title_justify="left")
    for name in header:
        table.add_column(name, justify="left" if name == header[0] else "right")
    for row in rows:
        table.add_row(*(f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in row))
    CONSOLE.print(table)
