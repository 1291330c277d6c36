"""`jaxadv reproduce`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jaxadv.cli.app import app
from jaxadv.cli.options import DataDir, Fresh, Json, Output, option, parse_number
from jaxadv.cli.progress import Bars
from jaxadv.cli.run import command
from jaxadv.cli.setting import check_page, forget, write_json
from jaxadv.cli.subject import Subject, folder_name, loaded_model, split_of

if TYPE_CHECKING:
    from jaxadv.data import Dataset
    from jaxadv.data.texts import Texts
    from jaxadv.studies import Findings, Given, Setting

SEEDS, EXAMPLES = 3, 500
QUICK_SEEDS, QUICK_EXAMPLES = 2, 100


@app.command()
def reproduce(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="An experiment, or a family of them: szegedy, ..."),
    ] = None,
    show: Annotated[bool, option("--list", help="Name the experiments, a line each.")] = False,
    data: Annotated[
        str | None,
        option(
            "--data",
            help="As in `jaxadv evaluate`; by default mnist or mnist5k. Of texts: a folder of .txt "
            "files by class, or a .csv or .tsv file with the columns label and text.",
        ),
    ] = None,
    data_dir: DataDir = None,
    model: Annotated[
        list[str] | None,
        option(
            "--model",
            help="A network in place of each experiment's own, as in `jaxadv evaluate`; may be "
            "repeated.",
        ),
    ] = None,
    epsilon: Annotated[
        str | None,
        option("--epsilon", help="Linf radius in place of each experiment's own, such as 10/255."),
    ] = None,
    seeds: Annotated[
        int | None,
        option("--seeds", help=f"Networks of each kind: {SEEDS}, quick {QUICK_SEEDS}.", min=1),
    ] = None,
    examples: Annotated[
        int | None,
        option("--examples", help=f"Images: {EXAMPLES}, quick {QUICK_EXAMPLES}.", min=1),
    ] = None,
    quick: Annotated[bool, option("--quick", help="Less of everything: a few minutes.")] = False,
    output: Output = Path("jaxadv-results"),
    json_file: Json = None,
    fresh: Fresh = False,
) -> None:
    """Repeat the experiments of a paper, and show its figures beside those measured here.

    Writes OUTPUT/NAME.html and OUTPUT/NAME.json. After Ctrl-C, the same command continues where it
    stopped.
    """
    with command(None if show else output, json_file, fresh=fresh, pages=False) as run:
        from jaxadv.core.optional_dependency import extra
        from jaxadv.studies import (
            EXPERIMENTS,
            NEED_SKLEARN,
            Setting,
            as_data,
            check_networks,
            find,
        )

        if name is None and not show:
            raise ValueError(f"pass the NAME of an experiment: {', '.join(EXPERIMENTS)}")
        names = list(EXPERIMENTS) if name is None else find(name)
        if show:
            _print_list(names, json_file)
            return
        check_page()
        radius = None if epsilon is None else parse_number(epsilon)
        if radius is not None and not 0 < radius < float("inf"):
            raise ValueError(f"--epsilon {epsilon}: pass a radius above 0, such as 10/255")
        if NEED_SKLEARN.intersection(names):
            with extra("sklearn", str(name)):
                import sklearn  # noqa: F401
        from jaxadv.data import load_data
        from jaxadv.report import print_study, write_study

        texts = texts_of(data, names)
        chosen = choose_data(data if texts is None else "digits", data_dir, quick)
        source, split = split_of(chosen[0])
        train, test = (
            mixed(load_data(source, part, data_dir=data_dir)) for part in ("train", split)
        )
        networks = given_networks(model or [], train, test)
        if any(given.model is not None for given in networks):
            if seeds is not None and seeds > 1:
                raise ValueError(
                    f"--seeds {seeds} is for networks trained here, and a model that exists is one "
                    "network: leave --seeds out"
                )
            seeds = 1
        data, why = chosen if texts is None else (str(data), "as asked for")
        kind = "images" if texts is None else "texts"
        sizes = f"{len(train.labels):,} training and {len(test.labels):,} test images"
        if texts is not None:
            sizes = f"{len(texts.texts):,} texts of {len(texts.classes)} classes"
        print(f"data: {data}, {sizes} ({why})", flush=True)
        folder = run.state / (folder_name(data) + "-quick" * quick)
        if run.fresh:
            forget(folder)
        setting = Setting(
            train,
            test,
            folder,
            seeds or (QUICK_SEEDS if quick else SEEDS),
            min(examples or (QUICK_EXAMPLES if quick else EXAMPLES), len(test.labels)),
            quick,
            networks=networks,
            epsilon=radius,
            texts=texts,
        )
        check_networks(names, setting)
        findings = conduct_all(str(name), names, setting)
        about = {"data": data, "seeds": setting.seeds, "examples": setting.examples, "quick": quick}
        if networks:
            about["models"] = ", ".join(given.name for given in networks)
        if epsilon is not None:
            about["epsilon"] = epsilon
        run.console.print()
        print_study(findings, run.console)
        studies = [as_data(study) for study in findings]
        run.write({"name": name, **about, "experiments": studies}, f"{name}.json")
        title = findings[0].title if len(findings) == 1 else f"{name}: the experiments, run again"
        page = write_study(findings, output / f"{name}.html", title, {**about, kind: sizes})
    print(f"report: {page}\ndata:   {page.with_suffix('.json')}")


def texts_of(data: str | None, names: list[str]) -> "Texts | None":
    """Return the texts that `--data` names, for experiments of texts; None for all others."""
    from jaxadv.data.texts import is_text, load_texts
    from jaxadv.studies import OF_TEXTS

    if data is None or not set(names) <= set(OF_TEXTS) or not is_text(data):
        return None
    return load_texts(data)


def choose_data(data: str | None, data_dir: Path | None, quick: bool) -> tuple[str, str]:
    """Choose the data set: the one given, else MNIST, else the 5,000 embedded digits.

    Args:
        data: Name of a data set, or None.
        data_dir: Folder of MNIST, or None.
        quick: Whether embedded digits suffice.

    Returns:
        The name of the data set, and the reason for the choice.

    Example:
        >>> from jaxadv.cli.reproduce import choose_data
        >>> choose_data("digits", None, quick=True), choose_data(None, None, quick=True)
        (('digits', 'as asked for'), ('mnist5k', 'embedded digits, for --quick'))
    """
    if data is not None:
        return data, "as asked for"
    if data_dir is not None:
        return "mnist", f"in {data_dir}"
    if quick:
        return "mnist5k", "embedded digits, for --quick"
    from jaxadv.data import load_data

    try:
        load_data("mnist", count=1)
    except FileNotFoundError:
        return "mnist5k", "embedded digits, as MNIST is not here: --data-dir says where it is"
    return "mnist", "found here"


def given_networks(specs: list[str], train: "Dataset", test: "Dataset") -> "tuple[Given, ...]":
    """Return the networks of `--model`: models that exist, definitions and recipes to train.

    Args:
        specs: What `--model` was given.
        train: The training images.
        test: The test images.

    Returns:
        The networks, in this order.

    Raises:
        ValueError: A network is not known, is named twice or does not take these images.
    """
    from jaxadv.engine.checks import check_problem
    from jaxadv.models import get_definition
    from jaxadv.models.named import FORMS, is_loaded
    from jaxadv.models.train import Recipe, check_training
    from jaxadv.studies import Given
    from jaxadv.studies.networks import RECIPES

    networks = []
    for spec in specs:
        if spec in RECIPES:
            networks.append(Given(spec))
        elif is_loaded(spec):
            network, name = loaded_model(Subject(model=spec), test.images.shape[1:])
            check_problem(network, test.images[:1], test.labels[:1], test.ids[:1])
            networks.append(Given(name, network))
        else:
            try:
                definition = get_definition(spec)
            except ValueError as error:
                raise ValueError(f"--model: {error}; or {FORMS}") from None
            check_training(definition(classes=len(train.classes)), train, Recipe(1, batch_size=1))
            networks.append(Given(definition.__name__))
    names = [given.name for given in networks]
    if len(set(names)) < len(names):
        raise ValueError(f"--model names {', '.join(names)}: pass each network once")
    return tuple(networks)


def mixed(data: "Dataset") -> "Dataset":
    """Shuffle a data set that is sorted by class, so that every part of it has all classes."""
    import numpy as np

    if (np.diff(data.labels) < 0).any():
        return data
    return data.take(np.random.default_rng(0).permutation(len(data.labels)))


def conduct_all(title: str, names: list[str], setting: "Setting") -> "list[Findings]":
    """Run the experiments, with one bar for all of them and one for the current stage."""
    from jaxadv.studies import conduct, stored
    from jaxadv.studies.times import expected

    results: list[Findings] = []
    with Bars() as bars:

        def progress(stage: str, done: int, total: int) -> None:
            bars.show_alone(stage, done, total, title)

        for experiment in names:
            bars.show(title, len(results), len(names), experiment)
            bars.interrupts.check()
            if stored(experiment, setting) is None:
                time = expected(experiment, setting)
                bars.say(f"{experiment}: {time}; Ctrl-C keeps what is finished")
            results.append(conduct(experiment, setting._replace(progress=progress)))
        bars.show_alone(title, len(results), len(names))
    return results


def _print_list(names: list[str], json_file: Path | None) -> None:
    from jaxadv.studies import study

    def title(experiment: str) -> str:
        """Return the first paragraph of the experiment's docstring."""
        return " ".join((study(experiment).__doc__ or "").split("\n\n")[0].split())

    lines = {experiment: title(experiment) for experiment in names}
    width = max(map(len, lines), default=0)
    for experiment, line in lines.items():
        print(f"{experiment:<{width}}  {line}")
    write_json(json_file, lines)
