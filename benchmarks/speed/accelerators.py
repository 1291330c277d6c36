"""`python -m benchmarks.speed.accelerators`: what TPUs and GPUs would run, without one.

Every attack's programs are compiled by the TPU's own compiler (`pip install ".[tpu]"`), which needs
no TPU, for the chips of `--topology`: those of `ja.run` on all of them, and one tick on one chip,
beside the passes of the model that this tick cannot do without. So are the other drivers: `perturb`
in a training step, `ja.train`, `ja.certify` and `ja.universal_perturbation`. For GPUs each program
is lowered, which refuses what has no rule there; it is not compiled.

The columns: instructions that exchange data between chips, that call the host, 64-bit floats,
shapes known only at run time; seconds to trace and compile; FLOPs and bytes of a tick over those of
its bare passes (the body of a loop counts once); memory of a chip. Weights are drawn at random.
Prints a table in Markdown; with `--store` rows are kept, and a run that was ended goes on.
"""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxadv as ja
from benchmarks import drivers, topology
from benchmarks.common import arguments
from benchmarks.topology import Facts, Problem
from jaxadv.attacks import ATTACKS
from jaxadv.core.typing import ChosenDevices
from jaxadv.engine.compilation import forget_programs
from jaxadv.models import get_definition, in_bfloat16

MODELS: dict[str, tuple[str, tuple[int, int, int]]] = {
    "small": ("LeNet", (28, 28, 1)),
    "madry": ("MadryCNN", (28, 28, 1)),
    "WRN-28-10": ("WideResNet", (32, 32, 3)),
}
COUNTED = ("collectives", "host", "float64", "dynamic", "instructions")
HEADER = ("program", *COUNTED, "seconds", "flops", "bytes", "memory", *topology.GPUS)
INNER: dict[str, Callable[[], ja.Attack]] = {
    "AdversarialPatch": lambda: ja.AdversarialPatch(size=5),
    "EachTarget": lambda: ja.EachTarget(ja.PGD(loss="margin"), 2),
    "MinimalEpsilon": lambda: ja.MinimalEpsilon(ja.PGD(), rounds=5),
    "Repeated": lambda: ja.Repeated(ja.PGD(), 2),
}


def attack_of(name: str, shape: tuple[int, ...], classes: int) -> ja.Attack:
    """An attack of the registry in its own settings, around PGD where it needs another."""
    if name in INNER:
        return INNER[name]()
    if name == "Masked":
        return ja.Masked(ja.PGD(), np.arange(np.prod(shape)).reshape(shape) % 5 > 0)
    if name == "Admix":
        return ja.Admix(mixed_images=np.zeros((5, *shape), np.float32), mixed_labels=np.arange(5))
    if name == "ILA":
        return ja.ILA(classes=classes - 1)  # the other logits serve as features
    return ATTACKS[name]()


def problem_of(name: str, dtype: str, lanes: int, devices: ChosenDevices) -> Problem:
    """A network with random weights that searches in that dtype, on these chips."""
    definition, shape = MODELS.get(name, (name, (32, 32, 3)))
    module = get_definition(definition)()
    variables = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, *shape)))
    model = ja.from_linen(module, variables)
    model = in_bfloat16(model) if dtype == "bfloat16" else model
    return Problem(model, shape, lanes, devices, module)


def measure(name: str, problem: Problem, bare: dict[Any, Facts]) -> dict[str, Any]:
    """The row of one attack: its programs for all chips, its tick beside the bare passes."""
    classes = topology.classes_of(problem)
    attack = attack_of(name, problem.shape, classes)
    begun = time.perf_counter()
    row: dict[str, Any] = {"program": name}
    try:
        programs = [Facts.of(each) for each in topology.compile_run(attack, problem)]
        row["seconds"] = time.perf_counter() - begun
        for field in COUNTED:
            row[field] = sum(getattr(each, field) for each in programs)
        row["memory"] = max(each.memory for each in programs)
        of_one = attack.specialize(problem.goal, classes)
        kind = of_one.queries, of_one.pullbacks
        if kind not in bare:
            bare[kind] = Facts.of(topology.compile_pass(*kind, problem))
        ticked = Facts.of(topology.compile_tick(attack, problem))
        row["flops"] = ticked.flops / bare[kind].flops
        row["bytes"] = ticked.bytes / bare[kind].bytes
    except Exception as error:  # a compiler may refuse a program in any way: that is the finding
        row["failed"] = f"{type(error).__name__}: {str(error)[:300]}"
    for platform in topology.GPUS:
        row[platform] = topology.lowers_run(platform, attack, problem)
    return row


def cells(row: dict[str, Any]) -> list[str]:
    """The cells of a row."""
    known = {**row, "memory": f"{row['memory'] / 2**20:.1f} MiB"} if "memory" in row else row
    cells = [known.get(name, "-") for name in HEADER]
    cells = [f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in cells]
    if "failed" in row:
        cells[1] = "does not compile: " + row["failed"].replace("\n", " ").replace("|", "/")
    return cells


class Kept:
    """Rows kept in a JSON file, under what they depend on."""

    def __init__(self, path: Path | None, setting: str) -> None:
        self.path, self.setting = path, setting
        self.rows = json.loads(path.read_text()) if path and path.is_file() else {}

    def get(self, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The row of that name, made where it is not kept."""
        key = f"{self.setting} {name}"
        if key not in self.rows:
            self.rows[key] = make()
            if self.path:
                beside = self.path.with_suffix(".part")
                beside.write_text(json.dumps(self.rows, indent=1))
                os.replace(beside, self.path)
        return self.rows[key]


def main() -> None:
    """Print one row a program."""
    parser = arguments(__doc__, names="attacks and drivers (default: all)")
    parser.add_argument("--topology", default="v5e:2x2", help="of TPUs (default: v5e:2x2)")
    parser.add_argument("--model", default="small", help=f"{', '.join(MODELS)} or a definition")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--lanes", type=int, default=8, help="of each chip (default: 8)")
    parser.add_argument("--store", type=Path, help="a JSON file that keeps finished rows")
    options = parser.parse_args()
    every = [*ATTACKS, *drivers.DRIVERS]
    unknown = sorted(set(options.names) - set(every))
    if unknown:
        raise SystemExit(f"{', '.join(unknown)}: pass some of {', '.join(every)}")
    jax.config.update("jax_platforms", "cpu")  # a TPU that is here is left alone
    devices = topology.topology(options.topology)
    problem = problem_of(options.model, options.dtype, options.lanes, devices)
    bare: dict[Any, Facts] = {}
    setting = f"jax-{jax.__version__} {options.topology} {options.model} {options.dtype}"
    kept = Kept(options.store, f"{setting} {options.lanes}")
    print(f"{setting}, {options.lanes} lanes a chip, {len(devices)} chips\n")
    print(f"| {' | '.join(HEADER)} |\n|{'---|' * len(HEADER)}", flush=True)
    for name in options.names or every:
        make = drivers.measure if name in drivers.DRIVERS else measure
        row = kept.get(name, lambda make=make, name=name: make(name, problem, bare))
        print(f"| {' | '.join(cells(row))} |", flush=True)
        forget_programs()


if __name__ == "__main__":
    main()
