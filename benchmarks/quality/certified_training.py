"""`python -m benchmarks.quality.certified_training`: what training makes provable.

A network of one hidden layer is trained on MNIST plainly, against PGD, and with the two certified
losses, at Linf 0.1: on the first 8,000 images, for as many epochs each. Of the first test images:
accuracy, what `"fast"` and `"standard"` prove, and what `attacks="fast"` leaves, in per cent.

Needs the shared data (JAXADV_SHARED, or ../shared).
"""

import jax
import numpy as np

import jaxadv as ja
from benchmarks.common import SHARED, arguments, processor_seconds, show
from jaxadv.data import Dataset

EPSILON = 0.1
WAYS = {
    "plainly": {},
    "against PGD": {"attack": ja.PGD(steps=7, step_size=0.25), "epsilon": EPSILON},
    "ibp": {"bound": "ibp", "epsilon": EPSILON},
    "crown-ibp": {"bound": "crown-ibp", "epsilon": EPSILON},
}


def first(data: Dataset, count: int) -> Dataset:
    """The first images of a data set."""
    return Dataset(
        data.images[:count], data.labels[:count], data.ids[:count], data.name, data.classes
    )


def main() -> None:
    parser = arguments(__doc__, count=100)
    parser.add_argument("--images", type=int, default=8_000, help="to train on")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--widths", type=int, nargs="+", default=[64], help="of hidden layers")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    ja.use_cpu_cores()
    train = first(ja.load_data("mnist", "train", data_dir=SHARED / "mnist"), options.images)
    test = first(ja.load_data("mnist", data_dir=SHARED / "mnist"), options.count)
    module = ja.models.get_definition("FC")(widths=tuple(options.widths))
    rows = []
    for name, way in WAYS.items():
        shares, begin = [], processor_seconds()
        for seed in range(options.seeds):
            key = jax.random.key(seed)
            variables = ja.train(
                module, train, epochs=options.epochs, batch_size=100, key=key, **way
            )
            model = ja.from_linen(module, variables)
            right = np.asarray(model(test.images)).argmax(1) == test.labels
            shares.append(
                [right.mean()]
                + [
                    ja.prove(
                        model, test.images, test.labels, EPSILON, effort=effort, attacks={}
                    ).proved.mean()
                    for effort in ("fast", "standard")
                ]
                + [
                    ja.evaluate(
                        model,
                        test.images,
                        test.labels,
                        epsilons=[EPSILON],
                        attacks="fast",
                        distances=False,
                    ).robust_accuracy[0]
                ]
            )
        spent = (processor_seconds() - begin) / options.seeds
        mean, spread = 100 * np.mean(shares, 0), 100 * np.std(shares, 0)
        rows.append(
            [
                name,
                *(f"{m:.1f} ± {s:.1f}" for m, s in zip(mean, spread, strict=True)),
                f"{spent:.0f}",
            ]
        )
    show(
        f"FC{options.widths}, MNIST, Linf {EPSILON}, {options.count} images, "
        f"{options.seeds} seeds: mean and standard deviation",
        ["trained", "clean %", "proved, fast %", "proved, standard %", "not broken %", "CPU s"],
        rows,
    )


if __name__ == "__main__":
    main()
