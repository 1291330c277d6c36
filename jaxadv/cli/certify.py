"""`jaxadv certify`."""

from functools import partial
from pathlib import Path
from typing import Annotated

from jaxadv.cli.app import app
from jaxadv.cli.options import (
    MOST,
    Fresh,
    Json,
    Output,
    grouped,
    option,
    parse_epsilons,
    parse_number,
)
from jaxadv.cli.progress import Bars
from jaxadv.cli.run import command, while_complete
from jaxadv.cli.subject import Subject


@app.command()
@grouped
def certify(
    subject: Subject,
    noise: Annotated[
        str | None,
        option("--noise", help="Noise in the training of a network made here (largest --sigma)."),
    ] = None,
    sigma: Annotated[
        list[str] | None,
        option(
            "--sigma", help="Standard deviation of the noise, 0.25; repeatable, or with commas."
        ),
    ] = None,
    samples: Annotated[
        int, option("--samples", help="Noisy images that certify.", min=1, max=MOST)
    ] = 10_000,
    samples0: Annotated[
        int, option("--samples0", help="That choose the class.", min=1, max=MOST)
    ] = 100,
    alpha: Annotated[
        str, option("--alpha", help="Probability that an image's certificate is wrong.")
    ] = "0.001",
    radius: Annotated[
        list[str] | None, option("--radius", help="L2 radii to state; repeatable, or with commas.")
    ] = None,
    attack: Annotated[
        bool,
        option(
            "--attack/--no-attack",
            help="Attack the smoothed classifier and the network itself, too.",
        ),
    ] = True,
    draws: Annotated[
        int,
        option(
            "--draws",
            help="Of the noise, that an attack on the smoothed averages.",
            min=1,
            max=MOST,
        ),
    ] = 16,
    rounds: Annotated[
        int, option("--rounds", help="Radii at which each image is attacked so.", min=1, max=MOST)
    ] = 6,
    *,
    output: Output = Path("jaxadv-results/certify"),
    json_file: Json = None,
    fresh: Fresh = False,
) -> None:
    """Certify by randomised smoothing that no perturbation within a radius changes a prediction.

    The certified classifier is the smoothed one: the majority vote of the network under Gaussian
    noise. It is attacked as well, so its accuracy is bounded from both sides. Writes
    OUTPUT/report.html and report.json. After Ctrl-C, the same command continues where it stopped.
    """
    sigmas = parse_epsilons(sigma, "--sigma") if sigma else [0.25]
    if sigmas[0] == 0:
        raise ValueError("--sigma 0 is no noise: pass one like 0.25")
    level = parse_number(alpha, "--alpha")
    if not 0 < level < 1:
        raise ValueError(f"--alpha {alpha} is no probability of error: pass one like 0.001")
    if noise is not None and not subject.is_trained_here:
        raise ValueError("--noise is for a network trained here: pass it to `jaxadv train`")
    trained = sigmas[-1] if noise is None else parse_number(noise, "--noise")
    radii = parse_epsilons(radius, "--radius") if radius else None
    with command(output, json_file, fresh=fresh) as run:
        import jaxadv as ja
        from jaxadv.report.certify import (
            certified_data,
            print_certified,
            round_radii,
            write_certified,
        )

        suffix = f"-noise-{trained:g}"
        loaded = run.load(subject, suffix=suffix, noise=trained)
        model, images = loaded.model, loaded.data
        radii = radii or round_radii(sigmas[-1], samples, level)
        with Bars() as bars:
            certified = while_complete(
                ja.certify(
                    model,
                    images.images,
                    images.labels,
                    sigma=size,
                    samples0=samples0,
                    samples=samples,
                    alpha=level,
                    key=loaded.key,
                    ids=images.ids,
                    store=run.state,
                    progress=partial(bars.work, f"certify σ = {size:g}", note="noisy images"),
                )
                for size in sigmas
            )
            attack = attack and certified[-1].complete
            smoothed = while_complete(
                ja.attack_smoothed(
                    model,
                    images.images,
                    each,
                    draws=draws,
                    rounds=rounds,
                    key=loaded.key,
                    samples=min(samples, 1000),
                    store=run.state,
                    progress=partial(bars.attack, f"attack σ = {each.sigma:g}"),
                )
                for each in (certified if attack else [])
            )
            attacked = None
            if attack and smoothed[-1].complete:
                attacked = ja.minimal_distance(
                    model,
                    images.images,
                    images.labels,
                    "l2",
                    effort="fast",
                    key=loaded.key,
                    ids=images.ids,
                    store=run.state,
                    progress=bars.attack,
                )
            results = certified_data(certified, radii, attacked, loaded.total, smoothed)
            if results["complete"]:
                bars.interrupts.check()
        about = loaded.about
        if subject.is_trained_here:
            about["noise in training"] = trained
        data = {**about, **results}
        run.print_title(loaded)
        print_certified(data, run.console)
        run.write(data)
        write_certified(
            certified,
            images.images,
            output / "report.html",
            radii,
            images.classes,
            f"What can be proved about {loaded.name} on {images.name}?",
            key=loaded.key,
            attacked=attacked,
            smoothed=smoothed,
            bounds=model.bounds,
            settings=about,
            total=loaded.total,
        )
        run.conclude(bars, data["complete"])
