"""`jaxadv train`."""

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
    option,
    parse_number,
)
from jaxadv.cli.setting import check_outputs, plain_messages, prepare_jax, write_json
from jaxadv.cli.subject import plan_training, split_of

METHODS = ("standard", "pgd", "trades")


@app.command()
def train(
    model: ModelName = MODEL,
    data: Data = "mnist5k",
    data_dir: DataDir = None,
    epochs: Epochs = EPOCHS,
    method: Annotated[
        str | None, option("--method", help="standard, pgd or trades (pgd if --epsilon is given).")
    ] = None,
    norm: Annotated[
        str | None, option("--norm", help="linf, l2 or l1: of the attacks in training (linf).")
    ] = None,
    epsilon: Annotated[str | None, option("--epsilon", help="Their radius: 0.3 or 8/255.")] = None,
    steps: Annotated[
        int | None, option("--steps", help="Their gradient steps (7).", min=1, max=MOST)
    ] = None,
    step_size: Annotated[
        str | None, option("--step-size", help="Their step, as a share of epsilon (0.25).")
    ] = None,
    beta: Annotated[
        str | None, option("--beta", help="The weight of TRADES' divergence (6).")
    ] = None,
    noise: Annotated[
        str | None, option("--noise", help="Standard deviation of Gaussian noise on the images.")
    ] = None,
    batch_size: Annotated[
        int, option("--batch-size", help="Images per step.", min=1, max=MOST)
    ] = 64,
    learning_rate: Annotated[
        str, option("--learning-rate", help="Adam's at the start; falls along a cosine.")
    ] = "0.002",
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
    check_outputs(file, json_file)
    method = method or ("standard" if epsilon is None else "pgd")
    if method not in METHODS:
        raise ValueError(f"--method {method!r} is not known: pass one of {', '.join(METHODS)}")
    if (method == "standard") != (epsilon is None):
        raise ValueError(
            f"--method {method} {'takes no' if epsilon else 'needs'} --epsilon"
            + (": pass --method pgd or trades" if epsilon else ", such as 0.3 or 8/255")
        )
    if noise is not None and method != "standard":
        raise ValueError(f"--noise excludes --method {method}: pass one of them")
    attacks = {"--norm": norm, "--steps": steps, "--step-size": step_size}
    for name, value in {**attacks, "--beta": beta}.items():
        if value is not None and method not in ("trades", "pgd" if name in attacks else ""):
            raise ValueError(f"{name} {value} is not for --method {method}: leave it out")
    about: dict[str, Any] = {"data": data, "epochs": epochs, "seed": seed, "method": method}
    how: dict[str, Any] = {
        "batch_size": batch_size,
        "learning_rate": parse_number(learning_rate, "--learning-rate"),
    }
    if noise is not None:
        about["noise"] = how["noise"] = parse_number(noise, "--noise")
    if epsilon is not None:
        how["epsilon"] = parse_number(epsilon)
        about |= {
            "norm": norm or "linf",
            "epsilon": how["epsilon"],
            "steps": steps or 7,
            "step_size": parse_number(step_size or "0.25", "--step-size"),
        }
    if method == "trades":
        about["beta"] = how["beta"] = parse_number(beta or "6", "--beta")
    with plain_messages():
        prepare_jax()
        from jaxadv.attacks.gradient_based.pgd import PGD
        from jaxadv.data import load_data
        from jaxadv.engine.checks import check_problem
        from jaxadv.engine.verify import predict
        from jaxadv.models import from_linen, save_weights
        from jaxadv.models.train import TRADESAscent

        if epsilon is not None:
            settings = {name: about[name] for name in ("norm", "steps", "step_size")}
            how["attack"] = (PGD if method == "pgd" else TRADESAscent)(**settings)
        training = plan_training(data, data_dir, model, epochs, seed, **how)
        name_of_data, split = split_of(data)
        test = load_data(name_of_data, split, data_dir=data_dir)
        check_problem(training.untrained, test.images, test.labels, test.ids)
        checkpoint = file.with_name(f".{file.name}.checkpoint")
        name, variables = training.name, training.train(lambda _: checkpoint)
        network = from_linen(training.module, variables)
        logits = predict(network, test.images)
        about["accuracy"] = float((logits.argmax(1) == test.labels).mean())
        save_weights(
            file,
            name,
            {"classes": len(test.classes)},
            variables,
            image_shape=test.images.shape[1:],
            **about,
        )
        checkpoint.unlink(missing_ok=True)
    print(
        f"{name} on {data}: accuracy {100 * about['accuracy']:.1f} % on {len(test.labels):,} test "
        "images"
    )
    print(f"weights: {file}")
    write_json(
        json_file, {"model": name, **about, "examples": len(test.labels), "weights": str(file)}
    )
