"""`jaxadv universal`."""

import io
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from jaxadv.cli.app import app
from jaxadv.cli.options import (
    MOST,
    Data,
    DataDir,
    Epochs,
    Json,
    ModelName,
    Output,
    Published,
    Seed,
    Weights,
    option,
    parse_number,
)
from jaxadv.cli.progress import Bars
from jaxadv.cli.setting import (
    check_outputs,
    check_page,
    console,
    plain_messages,
    prepare_jax,
    write_json,
)
from jaxadv.cli.subject import find_subject, split_of

if TYPE_CHECKING:
    from jaxadv.data import Dataset
    from jaxadv.studies import Findings
    from jaxadv.universal import Universal

SHOWN = 8


@app.command()
def universal(
    data: Data = "mnist5k",
    data_dir: DataDir = None,
    weights: Weights = None,
    published: Published = None,
    model: ModelName = None,
    epochs: Epochs = None,
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
    examples: Annotated[
        int, option("--examples", help="Test images that it is judged on, evenly chosen.", min=1)
    ] = 1000,
    seed: Seed = 0,
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
    check_outputs(save, json_file, folder=output)
    with plain_messages():
        check_page()
        prepare_jax()
        import dataclasses

        import jax
        import numpy as np

        import jaxadv as ja
        from jaxadv.core.files import write_atomically
        from jaxadv.report import print_study, write_study
        from jaxadv.universal.perturbation import (
            METHODS,
            check_ball,
            check_given,
            check_norm,
        )

        if method not in METHODS:
            raise ValueError(f"--method {method!r} is not known: pass one of {', '.join(METHODS)}")
        how: Any = METHODS[method]()
        if rounds is not None:
            how = dataclasses.replace(how, epochs=rounds)
        check_norm(norm)
        source, _ = split_of(data)
        train = ja.load_data(source, "train", given, data_dir)

        def check(network: Any, images: Any, classes: int) -> None:
            check_given(network, train.images, images.images, target)
            check_ball(norm, radius, images.images.shape[1:], network.bounds)

        subject = find_subject(
            data,
            data_dir,
            examples,
            weights,
            published,
            model,
            epochs,
            seed,
            lambda name: output / "state" / f"{name}.safetensors",
            check,
        )
        with Bars() as bars:

            def progress(done: int, total: int, rate: float) -> None:
                bars.show(method, done, total, f"{100 * rate:.1f} % fooled")
                bars.interrupts.check()

            bars.show(method, 0, how.epochs, "compiling")
            found = ja.universal_perturbation(
                subject.model,
                train.images,
                radius,
                norm,
                how,
                key=jax.random.key(seed),
                target=target,
                held_out=subject.data.images,
                progress=progress,
            )
        about = {
            "model": subject.name,
            "data": subject.data.name,
            "seed": seed,
            "method": method,
            "given": len(train.labels),
            "examples": len(subject.data.labels),
        }
        written = {**about, **universal_data(found, subject.data.labels, target)}
        study = as_findings(found, written, subject.data, subject.model.bounds)
        print_study(study, console())
        write_json(output / "universal.json", written)
        write_json(json_file, written)
        page = write_study([study], output / "universal.html", study.title, about)
        if save is not None:
            out = io.BytesIO()
            np.savez_compressed(out, perturbation=found.perturbation, norm=norm, epsilon=radius)
            write_atomically(save, out.getvalue())
            print(f"perturbation: {save}")
    print(f"report: {page}\ndata:   {output / 'universal.json'}")


def universal_data(found: "Universal", labels: Any, target: int | None) -> dict[str, Any]:
    """Return what `jaxadv universal` prints, as JSON data."""
    held_out = found.held_out
    assert held_out is not None
    classes = int(max(held_out.before.max(), held_out.after.max(), labels.max())) + 1
    return {
        "norm": found.norm,
        "epsilon": found.epsilon,
        "distance": found.distance,
        "target": target,
        "fooling_rate": {"given": found.given.rate, "held_out": held_out.rate},
        "rate_to_target": None
        if target is None
        else {
            "given": found.given.rate_to(target),
            "held_out": held_out.rate_to(target),
        },
        "accuracy": {
            "clean": float((held_out.before == labels).mean()),
            "perturbed": float((held_out.after == labels).mean()),
        },
        "moves": held_out.moves(classes).tolist(),
        "history": found.history.tolist(),
        "forward": found.forward,
        "backward": found.backward,
        "seconds": found.seconds,
    }


def as_findings(
    found: "Universal", data: dict[str, Any], images: "Dataset", bounds: tuple[float, float]
) -> "Findings":
    """Return the table, the pictures and the classes reached, for the console and the page.

    Args:
        found: The perturbation and its fooling rates.
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

    assert found.held_out is not None
    rates = [data["fooling_rate"]["given"], data["fooling_rate"]["held_out"]]
    rows, values = ["fooling rate"], [rates]
    if data["rate_to_target"] is not None:
        rows.append(f"to class {images.classes[data['target']]}")
        values.append(list(data["rate_to_target"].values()))
    lower, upper = bounds
    some = images.images[:: max(1, len(images.images) // SHOWN)][:SHOWN]
    changed = np.clip(some + found.perturbation, lower, upper)
    shown = np.full((3, len(some), *some.shape[1:]), np.nan)
    shown[0, 0] = picture(found.perturbation)
    shown[1:] = (np.stack([some, changed]) - lower) / (upper - lower)
    step = max(1, len(images.images) // SHOWN)
    said = [found.held_out.before[::step][:SHOWN], found.held_out.after[::step][:SHOWN]]
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
            note=f"{found.norm}, ε = {epsilon_text(found.epsilon)} (length {found.distance:.6g}); "
            f"{found.forward:,} forward and {found.backward:,} backward passes, "
            f"{found.seconds:.1f} s.",
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
                *(tuple(images.classes[k] for k in row) for row in said),
            ),
            note="Below each image the network's answer. Of the perturbation grey is no change.",
        ),
    ]
    title = f"One perturbation for {data['model']} on {data['data']}"
    return Findings("universal", title, parts, found.seconds)
