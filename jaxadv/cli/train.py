"""`jaxadv train`."""

from pathlib import Path
from typing import Annotated, Any

from jaxadv.cli.app import app
from jaxadv.cli.options import (
    EPOCHS,
    Data,
    DataDir,
    Epochs,
    Json,
    ModelName,
    Seed,
    option,
    parse_number,
)
from jaxadv.cli.setting import check_folder, plain_messages, prepare_jax, write_json
from jaxadv.cli.subject import split_of, train_model

METHODS = ("standard", "pgd", "trades")


@app.command()
def train(
    model: ModelName = "lenet",
    data: Data = "mnist5k",
    data_dir: DataDir = None,
    epochs: Epochs = EPOCHS,
    method: Annotated[
        str | None, option("--method", help="standard, pgd or trades (pgd if --epsilon is given).")
    ] = None,
    norm: Annotated[str, option("--norm", help="linf, l2 or l1: of the attacks in training.")] = (
        "linf"
    ),
    epsilon: Annotated[str | None, option("--epsilon", help="Their radius: 0.3 or 8/255.")] = None,
    steps: Annotated[int, option("--steps", help="Their gradient steps.", min=1)] = 7,
    step_size: Annotated[
        str, option("--step-size", help="Their step, as a share of epsilon.")
    ] = "0.25",
    beta: Annotated[str, option("--beta", help="The weight of TRADES' divergence.")] = "6",
    noise: Annotated[
        str | None, option("--noise", help="Standard deviation of Gaussian noise on the images.")
    ] = None,
    batch_size: Annotated[int, option("--batch-size", help="Images per step.", min=1)] = 64,
    learning_rate: Annotated[
        str, option("--learning-rate", help="Adam's at the start; falls along a cosine.")
    ] = "0.002",
    seed: Seed = 0,
    output: Annotated[
        Path | None, option("--output", help="The weights' file, by default MODEL.safetensors.")
    ] = None,
    json_file: Json = None,
) -> None:
    """Train a classifier, also adversarially or under noise, and save its weights.

    Ctrl-C loses at most one epoch: the same command goes on.
    """
    file = Path(f"{model.lower()}.safetensors") if output is None else output
    check_folder(file, json_file)
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
    with plain_messages():
        prepare_jax()
        from jaxadv.attacks.pgd import PGD
        from jaxadv.data import load_data
        from jaxadv.engine.verify import predict
        from jaxadv.models import from_linen, save_weights
        from jaxadv.models.train import TRADESAscent

        about: dict[str, Any] = {"data": data, "epochs": epochs, "seed": seed, "method": method}
        how: dict[str, Any] = {
            "batch_size": batch_size,
            "learning_rate": parse_number(learning_rate, "--learning-rate"),
        }
        if noise is not None:
            about["noise"] = how["noise"] = parse_number(noise, "--noise")
        if epsilon is not None:
            kind = PGD if method == "pgd" else TRADESAscent
            size = parse_number(step_size, "--step-size")
            how |= {
                "attack": kind(norm=norm, steps=steps, step_size=size),
                "epsilon": parse_number(epsilon),
                "beta": parse_number(beta, "--beta") if method == "trades" else None,
            }
            about |= {"norm": norm, "epsilon": how["epsilon"], "steps": steps, "step_size": size}
        if method == "trades":
            about["beta"] = how["beta"]
        checkpoint = file.with_name(f".{file.name}.checkpoint")
        name, module, variables = train_model(
            data, data_dir, model, epochs, seed, lambda _: checkpoint, **how
        )
        name_of_data, split = split_of(data)
        test = load_data(name_of_data, split, data_dir=data_dir)
        logits = predict(from_linen(module, variables), test.images)
        about["accuracy"] = float((logits.argmax(1) == test.labels).mean())
        save_weights(
            file, name, {"classes": len(test.classes)}, variables,
            image_shape=test.images.shape[1:], **about,
        )  # fmt: skip
        checkpoint.unlink(missing_ok=True)
    print(
        f"{name} on {data}: accuracy {100 * about['accuracy']:.1f} % on {len(test.labels):,} test "
        "images"
    )
    print(f"weights: {file}")
    write_json(
        json_file, {"model": name, **about, "examples": len(test.labels), "weights": str(file)}
    )
