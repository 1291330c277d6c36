"""`python -m benchmarks.speed.accelerators`: what TPUs and GPUs would run, without one.

Every attack's programs are compiled by the TPU's own compiler (`pip install ".[tpu]"`), which needs
no TPU, for the chips of `--topology`: those of `ja.run` on all of them, and one tick on one chip,
beside the passes of the model that this tick cannot do without. So are the other drivers: `perturb`
in a training step, `ja.train`, `ja.certify` and `ja.universal_perturbation`. `--topology h100`
compiles them for an NVIDIA GPU (`pip install ".[cuda]"`, which needs no GPU); for GPUs, too, each
program is lowered, which refuses what has no rule there.

The columns: instructions that exchange data between chips, that call the host, 64-bit floats,
shapes known only at run time; seconds to trace and compile; FLOPs and bytes of a tick over those of
its bare passes (the body of a loop counts once); memory of a chip; for a GPU, the kernels of a tick
and of its bare passes, and no FLOPs. Weights are zero, for no program depends on them. Prints a
table in Markdown; with `--store` rows are kept, and a run that was ended goes on.

Three other tables: `--topology` given several times shows what grows with the number of chips;
`--tick` is the tick alone, for large networks; `--loop` tells how long the loop takes to compile,
beside PGD's loop as one writes it in plain JAX.
"""

import functools
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
from benchmarks.ticks import GPU_TICK, LOOP, TICK, Bare, loop_row, tick_row
from benchmarks.topology import Facts, Problem
from jaxadv.attacks import ATTACKS
from jaxadv.core.typing import ChosenDevices
from jaxadv.engine.compilation import forget_programs
from jaxadv.models import get_definition, in_bfloat16

MODELS: dict[str, tuple[str, tuple[int, int, int]]] = {
    "small": ("LeNet", (28, 28, 1)),
    "madry": ("MadryCNN", (28, 28, 1)),
    "WRN-28-10": ("WideResNet", (32, 32, 3)),
    "ResNet-50": ("ResNet50", (224, 224, 3)),
    "ViT-S": ("ViT", (224, 224, 3)),
}
COUNTED = ("collectives", "host", "float64", "dynamic", "instructions")
HEADER = ("program", *COUNTED, "seconds", "flops", "bytes", "memory", *topology.GPUS)
ONE_GPU = ("program", *COUNTED[1:], "seconds", "bytes", "kernels", "bare kernels", "memory")
PODS = ("program", "chips", *COUNTED, "seconds", "memory", "digest")
UNITS = {
    "memory": (2**20, "MiB"),
    "bare memory": (2**20, "MiB"),
    "tick": (1e9, "GB"),
    "bare": (1e9, "GB"),
}
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
    """A network with weights of zero that searches in that dtype, on these chips."""
    definition, shape = MODELS.get(name, (name, (32, 32, 3)))
    module = get_definition(definition)()
    image = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    variables = jax.eval_shape(module.init, jax.random.key(0), image)
    variables = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), variables)
    model = ja.from_linen(module, variables)
    model = in_bfloat16(model) if dtype == "bfloat16" else model
    return Problem(model, shape, lanes, devices, module)


def programs(name: str, problem: Problem) -> dict[str, Any]:
    """What the programs of an attack or a driver say, compiled for all chips."""
    begun = time.perf_counter()
    if name in drivers.DRIVERS:
        each = [drivers.facts(name, problem)]
    else:
        attack = attack_of(name, problem.shape, topology.classes_of(problem))
        each = [Facts.of(program) for program in topology.compile_run(attack, problem)]
    row = {field: sum(getattr(one, field) for one in each) for field in COUNTED}
    return row | {
        "chips": len(problem.devices),
        "seconds": time.perf_counter() - begun,
        "memory": max(one.memory for one in each),
        "digest": "+".join(one.digest[:4] for one in each),
    }


def everything(
    name: str, problem: Problem, bare: Bare, platforms: tuple[str, ...]
) -> dict[str, Any]:
    """The row of an attack or a driver: its programs, its tick, and which platforms take it."""
    is_driver = name in drivers.DRIVERS
    attack = None if is_driver else attack_of(name, problem.shape, topology.classes_of(problem))

    def compiled() -> dict[str, Any]:
        row = programs(name, problem)
        if attack is None:  # there is no bare pass to hold it against
            return row
        beside = tick_row(attack, problem, bare)
        return row | {
            field: beside[field] for field in ("flops", "bytes", "kernels", "bare kernels")
        }

    row = attempt(compiled)
    for platform in platforms:
        if attack is None:
            row[platform] = drivers.lowers_driver(platform, name, problem)
        else:
            row[platform] = topology.lowers_run(platform, attack, problem)
    return row


def attempt(make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The row that is made, or why there is none."""
    try:
        return make()
    except Exception as error:  # a compiler may refuse a program in any way: that is the finding
        return {"failed": f"{type(error).__name__}: {str(error)[:300]}"}


def cells(row: dict[str, Any], header: tuple[str, ...] = HEADER) -> list[str]:
    """The cells of a row."""
    cells = [_cell(name, row[name]) if name in row else "-" for name in header]
    if "failed" in row:
        cells[1] = "does not compile: " + row["failed"].replace("\n", " ").replace("|", "/")
    return cells


def _cell(name: str, value: Any) -> str:
    if name in UNITS:
        size, unit = UNITS[name]
        return f"{value / size:.1f} {unit}" if size == 2**20 else f"{value / size:.3g} {unit}"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


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
    parser.add_argument(
        "--topology", action="append", help="of TPUs (default: v5e:2x2), or h100; may be repeated"
    )
    parser.add_argument("--model", default="small", help=f"{', '.join(MODELS)} or a definition")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--lanes", type=int, default=8, help="of each chip (default: 8)")
    parser.add_argument("--store", type=Path, help="a JSON file that keeps finished rows")
    alone = parser.add_mutually_exclusive_group()
    alone.add_argument("--tick", action="store_true", help="the tick alone (default: PGD, APGD)")
    alone.add_argument("--loop", action="store_true", help="seconds to compile (default: PGD)")
    options = parser.parse_args()
    every = [*ATTACKS, *([] if options.tick or options.loop else drivers.DRIVERS)]
    unknown = sorted(set(options.names) - set(every))
    if unknown:
        raise SystemExit(f"{', '.join(unknown)}: pass some of {', '.join(every)}")
    jax.config.update("jax_platforms", "cpu")  # an accelerator that is here is left alone
    names = options.topology or ["v5e:2x2"]
    first = [f"jax-{jax.__version__}", *names, options.model, options.dtype]
    print(f"{' '.join(first)}, {options.lanes} lanes a chip\n")
    is_gpu = names == ["h100"]
    header, default = ONE_GPU if is_gpu else HEADER, every
    if options.tick:
        header, default = GPU_TICK if is_gpu else TICK, ["PGD", "APGD"]
    elif options.loop:
        header, default = LOOP, ["PGD"]
    elif len(names) > 1:
        header = PODS
    print(f"| {' | '.join(header)} |\n|{'---|' * len(header)}", flush=True)
    problems = [
        problem_of(options.model, options.dtype, options.lanes, topology.topology(name))
        for name in names
    ]
    bares: list[Bare] = [{} for _ in names]
    for program in options.names or default:
        for name, problem, bare in zip(names, problems, bares, strict=True):
            setting = f"jax-{jax.__version__} {name} {options.model} {options.dtype}"
            kept = Kept(options.store, f"{setting} {options.lanes} {' '.join(header)}")
            made = functools.partial(make_row, header, program, problem, bare)
            row = {"program": program, **kept.get(program, made)}
            print(f"| {' | '.join(cells(row, header))} |", flush=True)
            forget_programs()


def make_row(header: tuple[str, ...], name: str, problem: Problem, bare: Bare) -> dict[str, Any]:
    """The row of the table with that header."""
    if header in (HEADER, ONE_GPU):
        return everything(name, problem, bare, topology.GPUS if header == HEADER else ())
    if header == PODS:
        return attempt(lambda: programs(name, problem))
    attack = attack_of(name, problem.shape, topology.classes_of(problem))
    if header in (TICK, GPU_TICK):
        return attempt(lambda: tick_row(attack, problem, bare))
    return attempt(lambda: loop_row(attack, problem))


if __name__ == "__main__":
    main()
