"""`jaxadv train`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from jaxadv.cli.app import app
from jaxadv.cli.options import (
    EPOCHS,
    MODEL,
    MOST,
    Data,
    DataDir,
    Epochs,
    Json,
    ModelName,
    Seed,
    grouped,
    option,
    parse_number,
)
from jaxadv.cli.run import command
from jaxadv.cli.setting import write_json
from jaxadv.cli.subject import Subject, plan_training, split_of

CERTIFIED = ("ibp", "crown-ibp")
METHODS = ("standard", "pgd", "trades", *CERTIFIED)


@dataclass(frozen=True)
class TrainingOptions:
    """The options that say how a network is trained.

    Attributes:
        method: "standard", "pgd", "trades", "ibp" or "crown-ibp", or None for the one that
            `epsilon` implies.
        norm: Norm of the attacks in training.
        epsilon: Their radius, as text.
        steps: Their gradient steps.
        step_size: Their step, as text.
        beta: The weight of TRADES' divergence, as text.
        noise: Standard deviation of Gaussian noise on the images, as text.
        batch_size: Images per step.
        learning_rate: Adam's learning rate at the start, as text.
    """

    method: Annotated[
        str | None,
        option(
            "--method",
            help="standard, pgd, trades, or certified: ibp, crown-ibp (pgd if --epsilon is given).",
        ),
    ] = None
    norm: Annotated[
        str | None, option("--norm", help="linf, l2 or l1: of the attacks in training (linf).")
    ] = None
    epsilon: Annotated[
        str | None, option("--epsilon", help="Their radius, or that to prove: 0.3 or 8/255.")
    ] = None
    steps: Annotated[
        int | None, option("--steps", help="Their gradient steps (7).", min=1, max=MOST)
    ] = None
    step_size: Annotated[
        str | None, option("--step-size", help="Their step, as a fraction of epsilon (0.25).")
    ] = None
    beta: Annotated[str | None, option("--beta", help="The weight of TRADES' divergence (6).")] = (
        None
    )
    noise: Annotated[
        str | None, option("--noise", help="Standard deviation of Gaussian noise on the images.")
    ] = None
    batch_size: Annotated[int, option("--batch-size", help="Images per step.", min=1, max=MOST)] = (
        64
    )
    learning_rate: Annotated[
        str, option("--learning-rate", help="Adam's at the start; falls along a cosine.")
    ] = "0.002"

    def check(self) -> str:
        """Return the method; ValueError if an option does not go with it."""
        method = self.method or ("standard" if self.epsilon is None else "pgd")
        if method not in METHODS:
            raise ValueError(f"--method {method!r} is not known: pass one of {', '.join(METHODS)}")
        if (method == "standard") != (self.epsilon is None):
            raise ValueError(
                f"--method {method} {'takes no' if self.epsilon else 'needs'} --epsilon"
                + (": pass --method pgd or trades" if self.epsilon else ", such as 0.3 or 8/255")
            )
        if self.noise is not None and method != "standard":
            raise ValueError(f"--noise excludes --method {method}: pass one of them")
        attack = {"--norm": self.norm, "--steps": self.steps, "--step-size": self.step_size}
        for name, value in {**attack, "--beta": self.beta}.items():
            if value is not None and method not in ("trades", "pgd" if name in attack else ""):
                raise ValueError(f"{name} {value} is not for --method {method}: leave it out")
        return method

    def settings(self) -> dict[str, Any]:
        """Return the method and its settings with their defaults, as the weights' file names them.

        Raises:
            ValueError: An option does not go with the method, or is no number.
        """
        settings: dict[str, Any] = {"method": self.check()}
        if self.noise is not None:
            settings["noise"] = parse_number(self.noise, "--noise")
        if self.epsilon is not None:
            settings |= {"epsilon": parse_number(self.epsilon)}
        if settings["method"] in ("pgd", "trades"):
            settings |= {
                "norm": self.norm or "linf",
                "steps": self.steps or 7,
                "step_size": parse_number(self.step_size or "0.25", "--step-size"),
            }
        if settings["method"] == "trades":
            settings["beta"] = parse_number(self.beta or "6", "--beta")
        return settings

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of `jaxadv.models.train.train`."""
        from jaxadv.attacks.gradient_based.pgd import PGD
        from jaxadv.models.train import TRADESAscent

        settings = self.settings()
        arguments = {
            name: settings[name] for name in ("epsilon", "beta", "noise") if name in settings
        }
        if settings["method"] in CERTIFIED:
            arguments["bound"] = settings["method"]
        elif self.epsilon is not None:
            attack = PGD if settings["method"] == "pgd" else TRADESAscent
            arguments["attack"] = attack(
                **{name: settings[name] for name in ("norm", "steps", "step_size")}
            )
        rate = parse_number(self.learning_rate, "--learning-rate")
        return {**arguments, "batch_size": self.batch_size, "learning_rate": rate}


@app.command()
@grouped
def train(
    model: ModelName = MODEL,
    data: Data = "mnist5k",
    data_dir: DataDir = None,
    epochs: Epochs = EPOCHS,
    recipe: TrainingOptions = TrainingOptions(),
    *,
    seed: Seed = 0,
    output: Annotated[
        Path | None, option("--output", help="The weights' file, by default MODEL.safetensors.")
    ] = None,
    json_file: Json = None,
) -> None:
    """Train a classifier, optionally adversarially or under noise, and save its weights.

    After Ctrl-C, which loses at most one epoch, the same command continues.
    """
    file = Path(f"{str(model).lower()}.safetensors") if output is None else output
    settings = recipe.settings()
    with command(None, json_file, file, pages=False):
        from jaxadv.data import load_data
        from jaxadv.engine.checks import check_problem
        from jaxadv.engine.verify import predict
        from jaxadv.models import from_linen, save_weights

        subject = Subject(data, data_dir, model=model, epochs=epochs, seed=seed)
        training = plan_training(subject, **recipe.arguments())
        name_of_data, split = split_of(data)
        test = load_data(name_of_data, split, data_dir=data_dir)
        check_problem(training.untrained, test.images, test.labels, test.ids)
        checkpoint = file.with_name(f".{file.name}.checkpoint")
        variables = training.train(checkpoint)
        logits = predict(from_linen(training.module, variables), test.images)
        accuracy = float((logits.argmax(1) == test.labels).mean())
        about = {"data": data, "epochs": epochs, "seed": seed, **settings, "accuracy": accuracy}
        save_weights(
            file,
            training.name,
            {"classes": len(test.classes)},
            variables,
            image_shape=test.images.shape[1:],
            **about,
        )
        checkpoint.unlink(missing_ok=True)
    count = len(test.labels)
    print(f"{training.name} on {data}: accuracy {100 * accuracy:.1f} % on {count:,} test images")
    print(f"weights: {file}")
    about = {"model": training.name, **about, "examples": count, "weights": str(file)}
    write_json(json_file, about)
