"""`jaxadv certify`."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
from jaxadv.cli.subject import Loaded, Subject

if TYPE_CHECKING:
    from jaxadv.certification.smoothadv import AttackedSmoothed
    from jaxadv.certification.smoothing import Certificates


@dataclass(frozen=True)
class Smoothing:
    """The options of randomised smoothing, and of the attacks on what it certifies.

    Attributes:
        noise: Noise in the training, as text, or None for the largest `sigma`.
        sigma: Standard deviations of the noise, as texts, or None.
        samples: Noisy images that certify.
        samples0: Noisy images that choose the class.
        alpha: Probability that a certificate is wrong, as text.
        radius: L2 radii to state, as texts, or None.
        attack: Whether the smoothed classifier and the network are attacked.
        draws: Draws of the noise that an attack averages.
        rounds: Radii at which each image is attacked.
    """

    noise: Annotated[
        str | None,
        option("--noise", help="Noise in the training of a network made here (largest --sigma)."),
    ] = None
    sigma: Annotated[
        list[str] | None,
        option(
            "--sigma", help="Standard deviation of the noise, 0.25; repeatable, or with commas."
        ),
    ] = None
    samples: Annotated[
        int, option("--samples", help="Noisy images that certify.", min=1, max=MOST)
    ] = 10_000
    samples0: Annotated[
        int, option("--samples0", help="That choose the class.", min=1, max=MOST)
    ] = 100
    alpha: Annotated[
        str, option("--alpha", help="Probability that an image's certificate is wrong.")
    ] = "0.001"
    radius: Annotated[
        list[str] | None, option("--radius", help="L2 radii to state; repeatable, or with commas.")
    ] = None
    attack: Annotated[
        bool,
        option(
            "--attack/--no-attack",
            help="Attack the smoothed classifier and the network itself, too.",
        ),
    ] = True
    draws: Annotated[
        int,
        option(
            "--draws",
            help="Of the noise, that an attack on the smoothed averages.",
            min=1,
            max=MOST,
        ),
    ] = 16
    rounds: Annotated[
        int, option("--rounds", help="Radii at which each image is attacked so.", min=1, max=MOST)
    ] = 6

    def sigmas(self) -> list[float]:
        """Return the standard deviations of the noise, ascending."""
        sigmas = parse_epsilons(self.sigma, "--sigma") if self.sigma else [0.25]
        if sigmas[0] == 0:
            raise ValueError("--sigma 0 is no noise: pass one like 0.25")
        return sigmas

    def level(self) -> float:
        """Return the probability of error."""
        level = parse_number(self.alpha, "--alpha")
        if not 0 < level < 1:
            raise ValueError(
                f"--alpha {self.alpha} is no probability of error: pass one like 0.001"
            )
        return level

    def training_noise(self) -> float:
        """Return the noise in the training of a network made here."""
        return self.sigmas()[-1] if self.noise is None else parse_number(self.noise, "--noise")


@app.command()
@grouped
def certify(
    subject: Subject,
    smoothing: Smoothing,
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
    sigmas, level = smoothing.sigmas(), smoothing.level()
    if smoothing.noise is not None and not subject.is_trained_here:
        raise ValueError("--noise is for a network trained here: pass it to `jaxadv train`")
    noise = smoothing.training_noise()
    radii = parse_epsilons(smoothing.radius, "--radius") if smoothing.radius else None
    with command(output, json_file, fresh=fresh) as run:
        import jaxadv as ja
        from jaxadv.core.bounds import hull
        from jaxadv.report import Page
        from jaxadv.report.certify import (
            CertifiedRun,
            certified_data,
            print_certified,
            round_radii,
            write_certified,
        )

        loaded = run.load(subject, suffix=f"-noise-{noise:g}", noise=noise)
        images = loaded.data
        radii = radii or round_radii(sigmas[-1], smoothing.samples, level)
        attacked, smoothed = None, []
        with Bars() as bars:
            certified = _certify(loaded, smoothing, run.state, bars)
            if smoothing.attack and certified[-1].complete:
                smoothed = _attack(loaded, certified, smoothing, run.state, bars)
            if smoothed and smoothed[-1].complete:
                attacked = ja.minimal_distance(
                    loaded.model,
                    images.images,
                    images.labels,
                    "l2",
                    effort="fast",
                    key=loaded.key,
                    ids=images.ids,
                    store=run.state,
                    progress=bars.attack,
                )
            outcome = CertifiedRun(certified, radii, attacked, smoothed)
            results = certified_data(outcome, loaded.total)
            if results["complete"]:
                bars.interrupts.check()
        about = loaded.about
        if subject.is_trained_here:
            about["noise in training"] = noise
        data = {**about, **results}
        run.print_title(loaded)
        print_certified(data, run.console)
        run.write(data)
        write_certified(
            outcome,
            images.images,
            output / "report.html",
            Page(
                f"What can be proved about {loaded.name} on {images.name}?",
                images.classes,
                about,
                loaded.total,
            ),
            key=loaded.key,
            bounds=hull(loaded.model.bounds),
        )
        run.conclude(bars, data["complete"])


def _certify(loaded: Loaded, smoothing: Smoothing, store: Path, bars: Bars) -> "list[Certificates]":
    """Return the certificates at every sigma, up to the first that Ctrl-C ended."""
    import jaxadv as ja

    return while_complete(
        ja.certify(
            loaded.model,
            loaded.data.images,
            loaded.data.labels,
            sigma=sigma,
            samples0=smoothing.samples0,
            samples=smoothing.samples,
            alpha=smoothing.level(),
            key=loaded.key,
            ids=loaded.data.ids,
            store=store,
            progress=partial(bars.work, f"certify σ = {sigma:g}", note="noisy images"),
        )
        for sigma in smoothing.sigmas()
    )


def _attack(
    loaded: Loaded,
    certified: "list[Certificates]",
    smoothing: Smoothing,
    store: Path,
    bars: Bars,
) -> "list[AttackedSmoothed]":
    """Return the attacks on every smoothed classifier, up to the first that Ctrl-C ended."""
    import jaxadv as ja

    return while_complete(
        ja.attack_smoothed(
            loaded.model,
            loaded.data.images,
            certificates,
            draws=smoothing.draws,
            rounds=smoothing.rounds,
            key=loaded.key,
            samples=min(smoothing.samples, 1000),
            store=store,
            progress=partial(bars.attack, f"attack σ = {certificates.sigma:g}"),
        )
        for certificates in certified
    )
