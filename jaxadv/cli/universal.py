"""`jaxadv universal`."""

import dataclasses
import io
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from jaxadv.cli.app import app
from jaxadv.cli.options import MOST, Json, Output, grouped, option, parse_number
from jaxadv.cli.progress import Bars
from jaxadv.cli.run import command
from jaxadv.cli.subject import Subject, split_of

if TYPE_CHECKING:
    import numpy as np

    from jaxadv.core.model import Model
    from jaxadv.data import Dataset
    from jaxadv.studies import Findings
    from jaxadv.universal import Universal
    from jaxadv.universal.method import Method

SHOWN = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judged(Subject):
    """The options of a `Subject` whose test images judge what other images made."""

    examples: Annotated[
        int, option("--examples", help="Test images that it is judged on, evenly chosen.", min=1)
    ] = 1000


@app.command()
@grouped
def universal(
    subject: Judged,
    epsilon: Annotated[str, option("--epsilon", help="The length: 0.2 or 10/255.")] = "0.2",
    norm: Annotated[str, option("--norm", help="linf or l2.")] = "linf",
    method: Annotated[str, option("--method", help="ascent or aggregation.")] = "ascent",
    target: Annotated[
        int | None, option("--target", help="The class (a number) that all are to move to.")
    ] = None,
    rounds: Annotated[
        int | None, option("--rounds", help="Rounds over the images.", min=1, max=MOST)
    ] = None,
    given: Annotated[
        int, option("--given", help="Training images that it is made from, evenly chosen.", min=1)
    ] = 500,
    *,
    output: Output = Path("jaxadv-results"),
    save: Annotated[Path | None, option("--save", help="Save the perturbation as .npz.")] = None,
    json_file: Json = None,
) -> None:
    """Find one perturbation that changes the predictions of most images.

    It is made from training images and evaluated on test images. An image counts as fooled if its
    prediction differs from that of the clean image. Writes OUTPUT/universal.html and
    universal.json.
    """
    radius = parse_number(epsilon)
    with command(output, json_file, save) as run:
        import jaxadv as ja
        from jaxadv.core.bounds import two_numbers
        from jaxadv.report import print_study, write_study
        from jaxadv.universal.perturbation import check_ball, check_given, check_norm

        how = _method(method, rounds)
        check_norm(norm)
        source, _ = split_of(subject.data)
        train = ja.load_data(source, "train", given, subject.data_dir)

        def check(model: "Model", data: "Dataset", classes: int) -> None:
            check_given(model, train.images, data.images, target)
            check_ball(
                norm,
                radius,
                data.images.shape[1:],
                two_numbers(model.bounds, "a universal perturbation"),
            )

        loaded = run.load(subject, check)
        with Bars() as bars:

            def progress(done: int, total: int, rate: float) -> None:
                bars.show(method, done, total, f"{100 * rate:.1f} % fooled")
                bars.interrupts.check()

            bars.show(method, 0, how.epochs, "compiling")
            result = ja.universal_perturbation(
                loaded.model,
                train.images,
                radius,
                norm,
                how,
                key=loaded.key,
                target=target,
                held_out=loaded.data.images,
                progress=progress,
            )
        counts = {"given": len(train.labels), "examples": len(loaded.data.labels)}
        about = {**loaded.about, "method": method, **counts}
        data = {**about, **universal_data(result, loaded.data.labels, target)}
        study = as_findings(
            result, data, loaded.data, two_numbers(loaded.model.bounds, "a universal perturbation")
        )
        print_study(study, run.console)
        run.write(data, "universal.json")
        page = write_study([study], output / "universal.html", study.title, about)
        if save is not None:
            _save_perturbation(save, result)
    print(f"report: {page}\ndata:   {output / 'universal.json'}")


def _method(name: str, rounds: int | None) -> "Method":
    """Return the method of this name with this number of rounds; ValueError if it is unknown."""
    from jaxadv.universal.perturbation import METHODS

    if name not in METHODS:
        raise ValueError(f"--method {name!r} is not known: pass one of {', '.join(METHODS)}")
    method = METHODS[name]()
    return method if rounds is None else dataclasses.replace(method, epochs=rounds)


def _save_perturbation(path: Path, result: "Universal") -> None:
    import numpy as np

    from jaxadv.core.files import write_atomically

    out = io.BytesIO()
    np.savez_compressed(
        out, perturbation=result.perturbation, norm=result.norm, epsilon=result.epsilon
    )
    write_atomically(path, out.getvalue())
    print(f"perturbation: {path}")


def universal_data(result: "Universal", labels: "np.ndarray", target: int | None) -> dict[str, Any]:
    """Return what `jaxadv universal` prints, as JSON data."""
    held_out = result.held_out
    assert held_out is not None
    classes = int(max(held_out.before.max(), held_out.after.max(), labels.max())) + 1
    return {
        "norm": result.norm,
        "epsilon": result.epsilon,
        "distance": result.distance,
        "target": target,
        "fooling_rate": {"given": result.given.rate, "held_out": held_out.rate},
        "rate_to_target": None
        if target is None
        else {
            "given": result.given.rate_to(target),
            "held_out": held_out.rate_to(target),
        },
        "accuracy": {
            "clean": float((held_out.before == labels).mean()),
            "perturbed": float((held_out.after == labels).mean()),
        },
        "moves": held_out.moves(classes).tolist(),
        "history": result.history.tolist(),
        "forward": result.forward,
        "backward": result.backward,
        "seconds": result.seconds,
    }


def as_findings(
    result: "Universal", data: dict[str, Any], images: "Dataset", bounds: tuple[float, float]
) -> "Findings":
    """Return the table, the pictures and the classes reached, for the console and the page.

    Args:
        result: The perturbation and its fooling rates.
        data: The figures of `universal_data`.
        images: The test images.
        bounds: The least and the largest value of a pixel.

    Returns:
        The findings.
    """
    import numpy as np

    from jaxadv.report.table import epsilon_text
    from jaxadv.studies import Findings, Gallery, Table, Text
    from jaxadv.studies.universal_paper import picture
    from jaxadv.universal.geometry import dominant

    assert result.held_out is not None
    rates = [data["fooling_rate"]["given"], data["fooling_rate"]["held_out"]]
    rows, values = ["fooling rate"], [rates]
    if data["rate_to_target"] is not None:
        rows.append(f"to class {images.classes[data['target']]}")
        values.append(list(data["rate_to_target"].values()))
    lower, upper = bounds
    some = images.images[:: max(1, len(images.images) // SHOWN)][:SHOWN]
    changed = np.clip(some + result.perturbation, lower, upper)
    shown = np.full((3, len(some), *some.shape[1:]), np.nan)
    shown[0, 0] = picture(result.perturbation)
    shown[1:] = (np.stack([some, changed]) - lower) / (upper - lower)
    step = max(1, len(images.images) // SHOWN)
    reached = [result.held_out.before[::step][:SHOWN], result.held_out.after[::step][:SHOWN]]
    moves = np.array(data["moves"])
    few = ", ".join(images.classes[k] for k in dominant(moves, 0.8))
    accuracy = data["accuracy"]
    parts = [
        Table(
            "Images that change their class, in %",
            tuple(rows),
            (f"{data['given']:,} given", f"{data['examples']:,} held out"),
            100 * np.array(values),
            formats=".1f",
            note=f"{result.norm}, ε = {epsilon_text(result.epsilon)} "
            f"(length {result.distance:.6g}); "
            f"{result.forward:,} forward and {result.backward:,} backward passes, "
            f"{result.seconds:.1f} s.",
        ),
        Text(
            f"Accuracy on the images held out: {100 * accuracy['clean']:.1f} %, and "
            f"{100 * accuracy['perturbed']:.1f} % with the perturbation. "
            + (f"Of the images fooled 80 % go to: {few}." if few else "No image is fooled.")
        ),
        Gallery(
            "The perturbation, and images without and with it",
            shown,
            ("perturbation", "image", "perturbed"),
            captions=(
                tuple("" for _ in some),
                *(tuple(images.classes[k] for k in row) for row in reached),
            ),
            note="Below each image the network's answer. Of the perturbation grey is no change.",
        ),
    ]
    title = f"One perturbation for {data['model']} on {data['data']}"
    return Findings("universal", title, parts, result.seconds)
