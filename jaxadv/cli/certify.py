"""`jaxadv certify`."""

from pathlib import Path
from typing import Annotated, Any

from jaxadv.cli.app import app
from jaxadv.cli.options import (
    MOST,
    Data,
    DataDir,
    Epochs,
    Examples,
    Fresh,
    Json,
    ModelName,
    Output,
    Published,
    Seed,
    Weights,
    option,
    parse_epsilons,
    parse_number,
)
from jaxadv.cli.progress import Bars
from jaxadv.cli.setting import (
    check_outputs,
    check_page,
    conclude,
    console,
    forget,
    plain_messages,
    prepare_jax,
    write_json,
)
from jaxadv.cli.subject import find_subject


@app.command()
def certify(
    data: Data = "mnist5k",
    data_dir: DataDir = None,
    weights: Weights = None,
    published: Published = None,
    model: ModelName = None,
    epochs: Epochs = None,
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
    examples: Examples = 100,
    seed: Seed = 0,
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
    if noise is not None and (weights is not None or published is not None):
        raise ValueError("--noise is for a network trained here: pass it to `jaxadv train`")
    trained = sigmas[-1] if noise is None else parse_number(noise, "--noise")
    radii = parse_epsilons(radius, "--radius") if radius else None
    check_outputs(json_file, folder=output)
    state = output / "state"
    with plain_messages():
        check_page()
        prepare_jax()
        import jax

        import jaxadv as ja
        from jaxadv.report import Page
        from jaxadv.report.certify import (
            CertifiedRun,
            certified_data,
            print_certified,
            round_radii,
            write_certified,
        )

        if fresh:
            forget(state)
        subject = find_subject(
            data,
            data_dir,
            examples,
            weights,
            published,
            model,
            epochs,
            seed,
            lambda name: state / f"{name}-noise-{trained:g}.safetensors",
            noise=trained,
        )
        images, key = subject.data, jax.random.key(seed)
        radii = radii or round_radii(sigmas[-1], samples, level)
        found: list[Any] = []
        smoothed: list[Any] = []
        attacked = None
        with Bars() as bars:
            for size in sigmas:
                name = f"certify σ = {size:g}"

                def progress(done: int, total: int, name: str = name) -> None:
                    bars.worked |= done < total
                    bars.show(name, done, total, "noisy images")

                one = ja.certify(
                    subject.model,
                    images.images,
                    images.labels,
                    sigma=size,
                    samples0=samples0,
                    samples=samples,
                    alpha=level,
                    key=key,
                    ids=images.ids,
                    store=state,
                    progress=progress,
                )
                found.append(one)
                if not one.complete:
                    break
            for one in found if attack and found[-1].complete else []:
                name = f"attack σ = {one.sigma:g}"

                def pushing(done: int, total: int, broken: int, name: str = name) -> None:
                    bars.attack(name, done, total, broken)

                smoothed.append(
                    ja.attack_smoothed(
                        subject.model,
                        images.images,
                        one,
                        draws=draws,
                        rounds=rounds,
                        key=key,
                        samples=min(samples, 1000),
                        store=state,
                        progress=pushing,
                    )
                )
                if not smoothed[-1].complete:
                    break
            if attack and all(one.complete for one in (*found, *smoothed)):
                attacked = ja.minimal_distance(
                    subject.model,
                    images.images,
                    images.labels,
                    "l2",
                    effort="fast",
                    key=key,
                    ids=images.ids,
                    store=state,
                    progress=bars.attack,
                )
            run = CertifiedRun(found, radii, attacked, smoothed)
            written = certified_data(run, subject.total)
            if written["complete"]:
                bars.interrupts.check()
        about = {"model": subject.name, "data": images.name, "seed": seed}
        if weights is None and published is None:
            about["noise in training"] = trained
        written = {**about, **written}
        out = console()
        out.print(f"\n[bold]{subject.name}[/] on {images.name}, seed {seed}\n", highlight=False)
        print_certified(written, out)
        write_json(output / "report.json", written)
        write_json(json_file, written)
        write_certified(
            run,
            images.images,
            output / "report.html",
            Page(
                f"What can be proved about {subject.name} on {images.name}?",
                images.classes,
                about,
                subject.total,
            ),
            key=key,
            bounds=subject.model.bounds,
        )
    conclude(out, output, bars.worked, written["complete"])
