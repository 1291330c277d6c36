"""`python -m benchmarks.peers.lbfgs`: the attack of Szegedy et al. against SciPy's L-BFGS-B.

SciPy's side is a loop over images: `scipy.optimize.minimize` (its defaults) on a jitted value and
gradient of one image, with the same first c, the same search for c and the same end of it; each c
begins at the image, as implementations have it, and once more where the last c ended. The sides
take turns on the same images; the first table compares image by image, the second tries all nine
targets. Networks are trained on MNIST where JAXADV_SHARED (or ../shared) has its files, else on the
5,000 embedded digits.
"""

import statistics
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import platformdirs
from scipy.optimize import minimize

import jaxadv as ja
from benchmarks.common import SHARED, arguments, ratio, show
from jaxadv.attacks.common.penalty_bracket import Bracket
from jaxadv.core.attack import Problem
from jaxadv.engine.devices import cpu_cores
from jaxadv.models.train import train
from jaxadv.studies import Setting, networks

NETWORKS = {  # beside the six of the paper, which have weight decay
    "FC10": ("FC", {"widths": ()}, 5),
    "FC100-100-10 (relu)": ("FC", {"widths": (100, 100)}, 6),
    "LeNet": ("LeNet", {}, 3),
}


def trained(name: str) -> tuple[ja.Model, np.ndarray, np.ndarray]:
    """A network, of `NETWORKS` or of the paper, and the test images and labels."""
    folder = SHARED / "mnist"
    source, options = ("mnist", {"data_dir": folder}) if folder.is_dir() else ("mnist5k", {})
    data, test = (ja.load_data(source, split, **options) for split in ("train", "test"))
    cache = Path(platformdirs.user_cache_dir("jaxadv")) / "benchmarks"
    if name in networks.SIX:
        setting = Setting(data, test, cache / source)
        return networks.trained(setting, name).model, test.images, test.labels
    definition, fields, epochs = NETWORKS[name]
    module = ja.models.get_definition(definition)(**fields)
    kept = cache / f"{name}-{source}.safetensors"
    variables = train(
        module,
        data,
        epochs=epochs,
        batch_size=100,
        learning_rate=2e-3,
        key=jax.random.key(0),
        checkpoint=kept,
    )
    return ja.from_linen(module, variables), test.images, test.labels


class Found(NamedTuple):
    """Of one image: whether any c succeeded, the distance of the largest one's minimiser, that of
    the nearest adversarial image asked, and the number of values and gradients."""

    success: bool
    distance: float
    nearest: float
    gradients: int


class SciPy:
    """The attack of one image after the other."""

    def __init__(self, model: ja.Model, attack: ja.LBFGS, warm: bool) -> None:
        self.attack, self.warm = attack, warm

        def evaluate(x: Any, image: Any, goal: Any, c: Any) -> Any:
            """Gradient, value and margin in one array: one way to the host."""

            def objective(x: Any) -> Any:
                logits = model(x.reshape(1, *image.shape))[0]
                penalty = c * jnp.square(x - image.ravel()).sum()
                return penalty - attack.objective(goal, logits), goal.margin(logits)

            (value, margin), gradient = jax.value_and_grad(objective, has_aux=True)(x)
            return jnp.concatenate([gradient, jnp.stack([value, margin])])

        def begin(image: Any, goal: Any) -> Any:
            def gap(x: Any) -> Any:
                logits = model(x.reshape(1, *image.shape))[0]
                return attack.gap(goal, logits), goal.margin(logits)

            slope, margin = jax.grad(gap, has_aux=True)(image.ravel())
            inf, low, high = jnp.float32(jnp.inf), jnp.float32(0), jnp.float32(1)
            problem = Problem(image, goal, inf, low, high, jnp.zeros(2), jnp.int32(0))
            return Bracket.begin(attack.linear(problem, slope, margin)[0])

        self.evaluate, self.begin = jax.jit(evaluate), jax.jit(begin)
        self.after = jax.jit(Bracket.after)

    def __call__(self, image: np.ndarray, goal: Any) -> Found:
        flat, image, goal = (
            image.ravel().astype(np.float64),
            jnp.asarray(image),
            jax.device_put(goal),
        )
        gradients, nearest, distance, start = 1, np.inf, np.inf, flat
        bracket = self.begin(image, goal)
        for _ in range(self.attack.rounds):
            seen = {}

            def objective(x: np.ndarray, c: Any = bracket.c, seen: dict = seen) -> Any:
                nonlocal gradients, nearest
                found = np.asarray(self.evaluate(x.astype(np.float32), image, goal, c), np.float64)
                gradients += 1
                seen[x.tobytes()] = found[-1]
                if found[-1] < 0:
                    nearest = min(nearest, float(np.linalg.norm(x - flat)))
                return found[-2], found[:-2]

            x = minimize(
                objective, start, jac=True, method="L-BFGS-B", bounds=[(0.0, 1.0)] * len(flat)
            ).x
            margin, length = seen[x.tobytes()], float(np.linalg.norm(x - flat))
            distance = length if margin < 0 else distance
            start = x if self.warm else flat
            bracket = self.after(bracket, margin < 0, margin, length)
            if bracket.settled(self.attack.tolerance):
                break
        return Found(np.isfinite(distance), distance, nearest, gradients)


def compare(
    name: str, targeted: bool, count: int, rounds: int, tolerance: float
) -> list[list[Any]]:
    """The rows of one network and goal."""
    model, images, labels = trained(name)
    right = np.flatnonzero(np.asarray(model(images[: 2 * count])).argmax(1) == labels[: 2 * count])
    images, labels = images[right[:count]], labels[right[:count]]
    goal = ja.Targeted(labels, (labels + 1) % 10) if targeted else ja.Untargeted(labels)
    attack = ja.LBFGS(tolerance=tolerance)

    def ours(keep: str) -> ja.Result:
        return ja.run(attack, model, images, goal, key=jax.random.key(0), keep=keep)

    sides = {
        "SciPy": SciPy(model, attack, warm=False),
        "SciPy, from the last point": SciPy(model, attack, warm=True),
    }
    goals = [jax.tree.map(lambda leaf, i=i: np.int32(leaf[i]), goal) for i in range(len(labels))]
    for side in sides.values():
        side(images[0], goals[0])
    paper, nearest = ours("last"), ours("distance")
    seconds: dict[str, list[float]] = {name: [] for name in ("jaxadv", *sides)}
    found: dict[str, list[Found]] = {name: [] for name in sides}
    for part in np.array_split(np.arange(len(labels)), rounds):
        begin = time.perf_counter()
        ours("distance")
        seconds["jaxadv"].append((time.perf_counter() - begin) / len(labels))
        for key, side in sides.items():
            begin = time.perf_counter()
            found[key] += [side(images[i], goals[i]) for i in part]
            seconds[key].append((time.perf_counter() - begin) / len(part))

    pixels, rows = images[0].size, []
    title = f"{name}, {'targeted' if targeted else 'untargeted'}"
    reference = np.array([f.distance for f in found["SciPy"]])
    lines = {
        "jaxadv": (nearest.success, nearest.distance, nearest.backward),
        "jaxadv, largest c": (paper.success, paper.distance, paper.backward),
    }
    for key, side in found.items():
        success, distance, least, gradients = map(np.array, zip(*side, strict=True))
        lines[key] = (success, distance, gradients)
        lines[f"{key}, nearest asked"] = (np.isfinite(least), least, gradients)
    for key, (success, distance, gradients) in lines.items():
        shares = distance / reference
        timed = seconds.get(key)
        rows.append(
            [
                title,
                key,
                f"{100 * success.mean():.1f} %",
                f"{distance.mean() / pixels**0.5:.4f}",
                f"{np.median(shares):.4f}",
                f"{np.percentile(shares, 95):.4f}",
                f"{shares.max():.4f}",
                f"{gradients.mean():.0f}",
                f"{1e3 * statistics.median(timed):.2f}" if timed else "",
                f"{ratio(timed, seconds['jaxadv']):.0f}" if timed else "",
            ]
        )
        title = ""
    return rows


def nine_targets(name: str, count: int) -> list[Any]:
    """The row of one network: every wrong class of each image."""
    model, images, labels = trained(name)
    images, labels = np.repeat(images[:count], 9, 0), np.repeat(labels[:count], 9)
    targets = (labels + np.tile(np.arange(1, 10), count)) % 10
    result = ja.run(ja.LBFGS(), model, images, ja.Targeted(labels, targets), key=jax.random.key(0))
    distortion = result.distance.mean() / images[0].size ** 0.5
    return [
        name,
        len(labels),
        f"{100 * result.success.mean():.2f} %",
        f"{distortion:.4f}",
        f"{result.backward.mean():.0f}",
        int(result.backward.max()),
    ]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--count", type=int, default=200, help="images that SciPy attacks")
    parser.add_argument("--rounds", type=int, default=5, help="turns that the sides take")
    parser.add_argument(
        "--networks", nargs="*", default=("FC10", "FC100-100-10", "FC100-100-10 (relu)")
    )
    parser.add_argument("--targets", nargs="*", default=networks.SIX, help="of the second table")
    parser.add_argument("--tolerance", type=float, default=1e-3, help="of the search for c")
    options = parser.parse_args()
    ja.use_cpu_cores()
    rows = [
        row
        for name in options.networks
        for targeted in (True, False)
        for row in compare(name, targeted, options.count, options.rounds, options.tolerance)
    ]
    header = [
        "network",
        "side",
        "success",
        "distortion",
        "ratio, median",
        "95 %",
        "max",
        "gradients",
        "ms/image",
        "times ours",
    ]
    show(
        f"min c |r|^2 + loss in the box, largest c, {options.count} images, {cpu_cores()} cores, "
        f"jax {jax.__version__} (ratio: the distance over that of SciPy's largest c)",
        header,
        rows,
    )
    show(
        "all nine targets of 200 images",
        ["network", "runs", "success", "distortion", "gradients", "most"],
        [nine_targets(name, 200) for name in options.targets],
    )


if __name__ == "__main__":
    main()
