"""The command line: `jaxadv evaluate`, `attack`, `train` and `attacks`.

Nothing here imports JAX before a command needs it, so that `jaxadv --help` answers at once.
"""

import dataclasses
import io
import json
import math
import os
import signal
import socket
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, Self

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from rich.console import Console

    from jaxadv.core.model import Model
    from jaxadv.core.result import Result
    from jaxadv.data import Dataset

INTERRUPTED = 130  # what a shell calls a program that Ctrl-C ended
EXAMPLES = 200  # a first run of everything stays well below two minutes on two cores
EPOCHS = 8
EPSILONS = {  # for digits: from hardly anything to nearly everything broken
    "linf": [0.02, 0.05, 0.1, 0.15],
    "l2": [0.5, 1.0, 1.5, 2.0],
    "l1": [2.0, 5.0, 10.0, 15.0],
    "l0": [2.0, 5.0, 10.0, 20.0],
}


class _OneLine(TyperGroup):
    """Every mistake is one line on stderr and exit 2; Ctrl-C says how to go on and exits 130."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        kwargs["standalone_mode"] = False
        try:
            code = super().main(*args, **kwargs)
        except (ValueError, ImportError, OSError, NotImplementedError) as error:
            sys.exit(_fail(str(error) or type(error).__name__))
        except Exception as error:
            said = getattr(error, "format_message", None)  # typer's own: a bad option, or none
            if said is None:
                raise
            sys.exit(_fail(said()))
        if code == INTERRUPTED:
            _say("interrupted: what was saved is kept, the same command goes on from there")
        sys.exit(code or 0)


def _fail(message: str) -> int:
    _say(f"error: {' '.join(message.split())}")
    return 2


def _say(text: str) -> None:
    print(text, file=sys.stderr)


app = typer.Typer(
    cls=_OneLine,
    rich_markup_mode=None,
    add_completion=False,
    no_args_is_help=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        try:
            print("jaxadv", metadata.version("jaxadv"))
        except metadata.PackageNotFoundError:  # a checkout that is not installed
            import jaxadv

            print("jaxadv", jaxadv.__version__)
        raise typer.Exit


@app.callback(invoke_without_command=True)
def main(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="The version.")
    ] = False,
) -> None:
    """Find out how a classifier can be fooled, in numbers that can be trusted."""
    if context.invoked_subcommand is None:
        print(context.get_help())


# ---- options --------------------------------------------------------------------------------


def parse_number(text: str, name: str = "--epsilon") -> float:
    """A number or a fraction such as 8/255, which is not negative. Raises ValueError.

    >>> from jaxadv.cli import parse_number
    >>> parse_number("0.1"), parse_number("51/255")
    (0.1, 0.2)
    """
    numerator, slash, denominator = text.partition("/")
    try:
        value = float(numerator) / (float(denominator) if slash else 1.0)
    except (ValueError, ZeroDivisionError):
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{name} {text!r} is not a number: pass one like 0.1 or 8/255")
    return value


def parse_epsilons(texts: list[str]) -> list[float]:
    """Epsilons of options that may be repeated, and lists with commas; ascending, each once.

    >>> from jaxadv.cli import parse_epsilons
    >>> parse_epsilons(["0.5", "51/255,0.1"])
    [0.1, 0.2, 0.5]
    """
    parts = [part.strip() for text in texts for part in text.split(",") if part.strip()]
    if texts and not parts:
        raise ValueError(f"--epsilon {' '.join(texts)!r} is empty: pass one like 0.1 or 8/255")
    return sorted({parse_number(part) for part in parts})


def _option(*names: str, help: str, **more: Any) -> Any:
    return typer.Option(*names, help=help, show_default=more.pop("show_default", True), **more)


Data = Annotated[str, _option("--data", help="mnist5k, digits, mnist or fashion_mnist.")]
DataDir = Annotated[
    Path | None, _option("--data-dir", help="Folder of idx files, or the cache of prepared data.")
]
Weights = Annotated[
    Path | None, _option("--weights", help="A .safetensors file that `jaxadv train` wrote.")
]
Published = Annotated[
    Path | None, _option("--published", help="Folder of a published network (weights.npz).")
]
ModelName = Annotated[
    str, _option("--model", help="The network to train here, if none is given: lenet, fc, ...")
]
Epochs = Annotated[int, _option("--epochs", help="Epochs of training.", min=1)]
NormName = Annotated[str, _option("--norm", help="linf, l2, l1 or l0.")]
Examples = Annotated[int, _option("--examples", help="How many test images, evenly chosen.", min=1)]
Seed = Annotated[int, _option("--seed", help="Seed of training and attacks.", min=0)]
Output = Annotated[Path, _option("--output", help="Folder of reports and of what is kept.")]
Json = Annotated[Path | None, _option("--json", help="Write what is printed as data, too.")]
Lanes = Annotated[int | None, _option("--lanes", help="Images in flight on each device.", min=1)]


# ---- what the commands share ----------------------------------------------------------------


def _compilation_cache() -> str | None:
    import jax

    return getattr(jax.config, "jax_compilation_cache_dir", None)


def prepare_jax() -> None:
    """Make every core a device, and keep compiled programs on disk, unless the user decided."""
    import jax

    import jaxadv as ja

    flags = os.environ.get("XLA_FLAGS", "")
    if "JAX_NUM_CPU_DEVICES" not in os.environ and "host_platform_device_count" not in flags:
        with suppress(RuntimeError):  # JAX runs already: called from within Python
            ja.use_cpu_cores()
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ and not _compilation_cache():
        from jaxadv.data.dataset import cache_dir

        jax.config.update("jax_compilation_cache_dir", str(cache_dir() / "compiled"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


@contextmanager
def _plain_messages() -> Iterator[None]:
    """Warnings are lines of their own; a Ctrl-C that a callback swallowed is not printed."""
    print_it = sys.unraisablehook

    def unless_interrupt(event: Any) -> None:
        if event.exc_type is not KeyboardInterrupt:
            print_it(event)

    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: _say(f"warning: {message}")
        sys.unraisablehook = unless_interrupt
        try:
            yield
        finally:
            sys.unraisablehook = print_it


def _console(stderr: bool = False) -> "Console":
    from rich.console import Console

    return Console(stderr=stderr)


class _Interrupts:
    """Whether Ctrl-C was pressed, also where a callback or the engine caught it."""

    def __init__(self) -> None:
        self.before = -1
        self.ours, self.pythons = socket.socketpair()
        for end in (self.ours, self.pythons):
            end.setblocking(False)

    def __enter__(self) -> Self:
        with suppress(ValueError):  # not in the main thread: signals do not come here
            self.before = signal.set_wakeup_fd(self.pythons.fileno(), warn_on_full_buffer=False)
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(ValueError):
            signal.set_wakeup_fd(self.before)
        self.ours.close()
        self.pythons.close()

    def check(self) -> None:
        """Raise KeyboardInterrupt if it was."""
        with suppress(BlockingIOError):
            if signal.SIGINT in self.ours.recv(64):
                raise KeyboardInterrupt


class _Bars:
    """Progress bars on stderr, one for each task, made when it is first heard of.

    A Ctrl-C that got lost is honoured before a new task begins: what precedes it is saved by then.
    """

    def __init__(self) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
        from rich.progress import TimeElapsedColumn as Elapsed

        self.progress = Progress(
            TextColumn("{task.description:<18}"), BarColumn(), MofNCompleteColumn(),
            Elapsed(), TextColumn("{task.fields[note]}", style="dim"),
            console=_console(stderr=True),
        )  # fmt: skip
        self.tasks: dict[str, Any] = {}
        self.worked = False  # whether anything was not done already
        self.interrupts = _Interrupts()

    def __enter__(self) -> Self:
        self.interrupts.__enter__()
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        for task in self.progress.tasks:
            self.progress.stop_task(task.id)
        self.progress.stop()
        self.interrupts.__exit__()

    def show(self, name: str, done: int, total: int, note: str) -> None:
        """Set the bar `name`."""
        if name not in self.tasks:
            self.interrupts.check()
            self.tasks[name] = self.progress.add_task(name, total=total, note=note)
        self.progress.update(self.tasks[name], completed=done, total=total, note=note)

    def attack(self, name: str, done: int, total: int, successes: int) -> None:
        """The progress of one attack, as `evaluate` reports it."""
        self.worked |= done < total
        self.show(name, done, total, f"{successes} successes")


class _Subject(NamedTuple):
    """A model, what it is called, and the images to attack it with."""

    model: "Model"
    name: str
    data: "Dataset"
    total: int


def _subject(
    data: str, data_dir: Path | None, examples: int | None, weights: Path | None,
    published: Path | None, model: str, epochs: int, seed: int, checkpoint: Callable[[str], Path],
) -> _Subject:  # fmt: skip
    """The model that the options name (trained here if they name none) and the test images."""
    if weights is not None and published is not None:
        raise ValueError("--weights and --published exclude each other: pass one")
    from jaxadv.data import load_data

    whole = load_data(data, "test", data_dir=data_dir)
    total = len(whole.labels)
    images = load_data(data, "test", min(examples or total, total), data_dir)
    shape = images.images.shape[1:]
    if published is not None:
        from jaxadv.models import load_published

        return _Subject(load_published(published), published.name, images, total)
    if weights is not None:
        from jaxadv.models import load_weights

        loaded, about = load_weights(weights)
        if tuple(about["image_shape"]) != shape:
            raise ValueError(
                f"--weights {weights} takes images {tuple(about['image_shape'])}, {data} has "
                f"{shape}: pass the --data that it was trained on"
            )
        return _Subject(loaded, f"{about['definition']} ({weights.name})", images, total)
    from jaxadv.models import from_linen

    name, module, variables = _train(
        data, data_dir, model, epochs, seed, lambda name: checkpoint(f"{data}-{name}")
    )
    return _Subject(from_linen(module, variables), name, images, total)


def _train(
    data: str, data_dir: Path | None, model: str, epochs: int, seed: int,
    checkpoint: Callable[[str], Path],
) -> tuple[str, Any, Any]:  # fmt: skip
    """The definition's name, its module and trained variables."""
    import jax

    from jaxadv.data import load_data
    from jaxadv.models import DEFINITIONS, get_definition
    from jaxadv.models.train import train

    names = {known.lower(): known for known in DEFINITIONS}
    name = names.get(model.lower(), model)
    data_set = load_data(data, "train", data_dir=data_dir)
    module = get_definition(name)(classes=len(data_set.classes))
    with _Bars() as bars:

        def progress(done: int, loss: float) -> None:
            bars.show(f"train {name}", done, epochs, f"loss {loss:.3f}")
            bars.interrupts.check()

        path = checkpoint(f"{name}-{epochs}-{seed}".lower())
        if not path.is_file():
            bars.show(f"train {name}", 0, epochs, "compiling")
        variables = train(
            module, data_set, epochs=epochs, key=jax.random.key(seed), checkpoint=path,
            progress=progress,
        )  # fmt: skip
    return name, module, variables


def _write_json(path: Path | None, data: Mapping[str, Any]) -> None:
    if path is not None:
        from jaxadv.engine.store import write_atomically

        write_atomically(path, json.dumps(data, indent=1, allow_nan=False) + "\n")


def _check_folder(*paths: Path | None) -> None:
    """Complain before the work, not after it."""
    for path in paths:
        if path is not None and path.is_dir():
            raise ValueError(f"{path} is a folder: pass the name of a file")


# ---- the commands ---------------------------------------------------------------------------


@app.command()
def evaluate(
    data: Data = "mnist5k",
    data_dir: DataDir = None,
    weights: Weights = None,
    published: Published = None,
    model: ModelName = "lenet",
    epochs: Epochs = EPOCHS,
    norm: NormName = "linf",
    epsilon: Annotated[
        list[str] | None,
        _option("--epsilon", help="0.1 or 8/255; repeatable, or with commas."),
    ] = None,
    attacks: Annotated[str, _option("--attacks", help="The list of attacks: quick.")] = "quick",
    examples: Examples = EXAMPLES,
    seed: Seed = 0,
    output: Output = Path("jaxadv-results"),
    json_file: Json = None,
    fresh: Annotated[bool, _option("--fresh", help="Start over, use nothing kept.")] = False,
    lanes: Lanes = None,
) -> None:
    """Measure a classifier's robustness; without options: train a small one and attack it.

    Writes OUTPUT/report.html and OUTPUT/report.json. Stopped with Ctrl-C, the same command goes on
    where it was.
    """
    if norm not in EPSILONS:
        raise ValueError(f"--norm {norm!r} is not known: pass one of {list(EPSILONS)}")
    epsilons = parse_epsilons(epsilon) if epsilon else EPSILONS[norm]
    _check_folder(json_file)
    state = output / "state"
    store = state / f"evaluate-{norm}"
    with _plain_messages():
        prepare_jax()
        import jax

        import jaxadv as ja
        from jaxadv.report import as_data, print_report, write_html

        if fresh:
            for kept in [*state.glob("*.safetensors"), *store.glob("*.npz")]:
                kept.unlink()
        subject = _subject(
            data, data_dir, examples, weights, published, model, epochs, seed,
            lambda name: state / f"{name}.safetensors",
        )  # fmt: skip
        images = subject.data
        with _Bars() as bars:
            report = ja.evaluate(
                subject.model, images.images, images.labels, norm, epsilons, attacks,
                key=jax.random.key(seed), ids=images.ids, lanes=lanes, store=store,
                progress=bars.attack,
            )  # fmt: skip
            if report.complete:
                bars.interrupts.check()
        about = {"model": subject.name, "data": images.name, "attacks": attacks, "seed": seed}
        written = {**about, **as_data(report, subject.total)}
        console = _console()
        console.print(f"\n[bold]{subject.name}[/] on {images.name}, seed {seed}\n", highlight=False)
        print_report(written, console)
        _write_json(output / "report.json", written)
        _write_json(json_file, written)
        write_html(
            report, output / "report.html", images.classes,
            f"How robust is {subject.name} on {images.name}?",
            model=subject.model, settings=about, total=subject.total,
        )  # fmt: skip
    if not bars.worked:
        console.print(
            "nothing was left to do: all results are from the store (--fresh starts over)"
        )
    console.print(f"report: {output / 'report.html'}\ndata:   {output / 'report.json'}",
                  highlight=False, soft_wrap=True)  # fmt: skip
    if not report.complete:
        raise typer.Exit(INTERRUPTED)


@app.command()
def attack(
    name: Annotated[str, typer.Argument(metavar="ATTACK", help="See `jaxadv attacks`.")],
    data: Data = "mnist5k",
    data_dir: DataDir = None,
    weights: Weights = None,
    published: Published = None,
    model: ModelName = "lenet",
    epochs: Epochs = EPOCHS,
    norm: Annotated[str | None, _option("--norm", help="linf, l2, l1 or l0.")] = None,
    epsilon: Annotated[str | None, _option("--epsilon", help="The radius: 0.1 or 8/255.")] = None,
    steps: Annotated[int | None, _option("--steps", help="Gradient steps.", min=1)] = None,
    step_size: Annotated[
        str | None, _option("--step-size", help="Step, as a share of epsilon.")
    ] = None,
    loss: Annotated[str | None, _option("--loss", help="cross_entropy, margin or dlr.")] = None,
    restarts: Annotated[
        int | None, _option("--restarts", help="Independent starts.", min=1)
    ] = None,
    targeted: Annotated[bool, _option("--targeted", help="Towards class label + 1.")] = False,
    examples: Examples = EXAMPLES,
    seed: Seed = 0,
    output: Output = Path("jaxadv-results"),
    save: Annotated[Path | None, _option("--save", help="Save the images as .npz.")] = None,
    json_file: Json = None,
    lanes: Lanes = None,
) -> None:
    """Run one attack and print how far it gets."""
    radius = None if epsilon is None else parse_number(epsilon)
    wanted = {
        "norm": norm, "steps": steps, "loss": loss, "restarts": restarts,
        "step_size": None if step_size is None else parse_number(step_size, "--step-size"),
    }  # fmt: skip
    _check_folder(save, json_file)
    with _plain_messages():
        prepare_jax()
        import jax

        import jaxadv as ja

        chosen = build_attack(name, {k: v for k, v in wanted.items() if v is not None})
        if radius is None and chosen.needs_epsilon:
            raise ValueError(f"{chosen.name} needs --epsilon, such as 0.1 or 8/255")
        subject = _subject(
            data, data_dir, examples, weights, published, model, epochs, seed,
            lambda name: output / "state" / f"{name}.safetensors",
        )  # fmt: skip
        images, labels = subject.data.images, subject.data.labels
        goal = ja.Untargeted(labels)
        if targeted:
            goal = ja.Targeted(labels, (labels + 1) % len(subject.data.classes))
        with _Bars() as bars:
            result = ja.run(
                chosen, subject.model, images, goal, radius, key=jax.random.key(seed),
                ids=subject.data.ids, lanes=lanes,
                progress=lambda *now: bars.attack(chosen.name, *now),
            )  # fmt: skip
    about = {"model": subject.name, "data": subject.data.name, "seed": seed, "targeted": targeted}
    written = {**about, **attack_data(chosen, result, radius, labels)}
    _print_attack(written)
    _write_json(json_file, written)
    if save is not None:
        _save_images(save, result, images, labels)
        print(f"images: {save}")
    if not result.status.all():  # NOT_RUN is 0
        _say("interrupted: the images not reached are marked NOT_RUN")
        sys.exit(INTERRUPTED)


def build_attack(name: str, settings: Mapping[str, Any]) -> Any:
    """The attack of that name (in any case) with these settings.

    For an attack around another one, such as MinimalEpsilon, the settings are those of the PGD
    inside. Raises ValueError for an unknown name, norm or loss and for
    settings that the attack does not have.

    >>> from jaxadv.cli import build_attack
    >>> build_attack("pgd", {"steps": 10}).steps
    10
    """
    from jaxadv.attacks import ATTACKS
    from jaxadv.core.losses import get_loss
    from jaxadv.core.norms import get_norm

    get_loss(settings.get("loss", "margin"))
    get_norm(settings.get("norm", "linf"))
    known = {key.lower(): value for key, value in ATTACKS.items()}
    if name.lower() not in known:
        raise ValueError(f"attack {name!r} is not known: pass one of {', '.join(sorted(ATTACKS))}")
    kind: Any = known[name.lower()]
    fields = {field.name for field in dataclasses.fields(kind)}
    if "attack" in fields:
        return kind(build_attack("PGD", settings))
    unknown = sorted(set(settings) - fields)
    if unknown:
        options = ", ".join(f"--{option.replace('_', '-')}" for option in unknown)
        raise ValueError(f"{kind.__name__} does not take {options}")
    return kind(**settings)


def attack_data(
    attack: Any, result: "Result", epsilon: float | None, labels: Any
) -> dict[str, Any]:
    """What `jaxadv attack` prints, and what happened to each image, as json can write it."""
    import numpy as np

    from jaxadv.core.result import Status
    from jaxadv.report.table import settings_of

    ran = result.status != Status.NOT_RUN
    attacked = ran & (result.status != Status.MISCLASSIFIED)
    found = attacked & result.success

    def mean(values: Any) -> float:
        return float(values[attacked].mean()) if attacked.any() else 0.0

    return {
        "attack": attack.name,
        "settings": settings_of(attack),
        "norm": attack.norm,
        "epsilon": epsilon,
        "examples": len(labels),
        "attacked": int(attacked.sum()),
        "success": float(found.sum() / max(attacked.sum(), 1)),
        "median_distance": float(np.median(result.distance[found])) if found.any() else None,
        "forward": mean(result.forward),
        "backward": mean(result.backward),
        "seconds": result.cost.seconds,
        "statuses": {s.name: int((result.status == s).sum()) for s in Status
                     if (result.status == s).any()},
        "images": [
            {
                "id": int(result.ids[i]), "label": int(labels[i]),
                "status": Status(result.status[i]).name, "success": bool(result.success[i]),
                "distance": float(result.distance[i]) if result.success[i] else None,
                "forward": int(result.forward[i]), "backward": int(result.backward[i]),
            }
            for i in range(len(labels))
        ],
    }  # fmt: skip


def _print_attack(data: Mapping[str, Any]) -> None:
    from rich import box
    from rich.table import Table

    from jaxadv.report.table import epsilon_text, number_text

    at = "" if data["epsilon"] is None else f", ε = {epsilon_text(data['epsilon'])}"
    kind = "targeted" if data["targeted"] else "untargeted"
    table = Table(
        title=f"{data['attack']} ({data['norm']}{at}, {kind}) against {data['model']} on "
        f"{data['data']}",
        title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, show_header=False,
    )  # fmt: skip
    table.add_column(no_wrap=True)
    table.add_column(justify="right")
    statuses = ", ".join(f"{count} {name}" for name, count in data["statuses"].items())
    for row in (
        ("images attacked", f"{data['attacked']:,} of {data['examples']:,}"),
        ("success", f"[bold]{100 * data['success']:.1f} %[/]"),
        ("median distance of successes", number_text(data["median_distance"])),
        ("forward passes per image", number_text(data["forward"])),
        ("backward passes per image", number_text(data["backward"])),
        ("seconds", f"{data['seconds']:.1f}"),
        ("statuses", statuses),
    ):
        table.add_row(*row)
    _console().print(table)


def _save_images(path: Path, result: "Result", originals: Any, labels: Any) -> None:
    import numpy as np

    from jaxadv.engine.store import write_atomically

    out = io.BytesIO()
    fields = {k: v for k, v in result._asdict().items() if k != "cost"}
    np.savez_compressed(out, originals=originals, labels=labels, **fields)
    write_atomically(path, out.getvalue())


@app.command()
def train(
    model: ModelName = "lenet",
    data: Data = "mnist5k",
    data_dir: DataDir = None,
    epochs: Epochs = EPOCHS,
    seed: Seed = 0,
    output: Annotated[
        Path | None, _option("--output", help="The weights' file, by default MODEL.safetensors.")
    ] = None,
    json_file: Json = None,
) -> None:
    """Train a classifier and save its weights. Ctrl-C loses at most one epoch."""
    file = Path(f"{model.lower()}.safetensors") if output is None else output
    _check_folder(file, json_file)
    with _plain_messages():
        prepare_jax()
        from jaxadv.data import load_data
        from jaxadv.engine.devices import choose_devices
        from jaxadv.engine.verify import predict
        from jaxadv.models import from_linen, save_weights

        checkpoint = file.with_name(f".{file.name}.checkpoint")
        name, module, variables = _train(data, data_dir, model, epochs, seed, lambda _: checkpoint)
        test = load_data(data, "test", data_dir=data_dir)
        logits = predict(from_linen(module, variables), test.images, choose_devices(None))
        accuracy = float((logits.argmax(1) == test.labels).mean())
        save_weights(
            file, name, {"classes": len(test.classes)}, variables,
            image_shape=test.images.shape[1:], data=data, epochs=epochs, seed=seed,
            accuracy=accuracy,
        )  # fmt: skip
        checkpoint.unlink(missing_ok=True)
    print(f"{name} on {data}: accuracy {100 * accuracy:.1f} % on {len(test.labels):,} test images")
    print(f"weights: {file}")
    _write_json(json_file, {
        "model": name, "data": data, "epochs": epochs, "seed": seed, "accuracy": accuracy,
        "examples": len(test.labels), "weights": str(file),
    })  # fmt: skip


@app.command()
def attacks(json_file: Json = None) -> None:
    """List the attacks, a line each."""
    from jaxadv.attacks import ATTACKS

    lines = {
        name: " ".join((kind.__doc__ or "").split("\n\n")[0].split())
        for name, kind in sorted(ATTACKS.items())
    }
    width = max(map(len, lines))
    for name, line in lines.items():
        print(f"{name:<{width}}  {line}")
    _write_json(json_file, lines)


if __name__ == "__main__":
    app()
