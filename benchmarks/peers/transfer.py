"""`python -m benchmarks.peers.transfer`: how well examples of one network fool another.

The networks of the shared data (JAXADV_SHARED, or ../shared), each as surrogate for the others, and
with `--python` (an interpreter that has torch and torchattacks) the same attacks of torchattacks on
the same weights, images and settings: Linf 8/255, 10 steps of a tenth of it, decay 1. Success: of
the images that surrogate and target both classify right, the share that the target then gets wrong.
"""

import json
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxadv as ja
from benchmarks.common import arguments, hand_over, load, show, torch_half
from jaxadv.engine.verify import predict

NETWORKS = ("cifar10_resnet2b", "cifar_cnn_a_adv", "cifar_cnn_a_mix", "cifar10_resnet32_standard")
EPSILON = 8 / 255
ATTACKS: dict[str, tuple[ja.Attack, str, dict[str, Any]]] = {  # ours; torchattacks', its settings
    "BIM": (ja.BIM(steps=10), "BIM", {}),
    "MI-FGSM": (ja.MIFGSM(), "MIFGSM", {"decay": 1.0}),
    "DI-MI-FGSM": (
        ja.DIFGSM(diversity=0.5, resize=0.9),
        "DIFGSM",
        {"decay": 1.0, "diversity_prob": 0.5, "resize_rate": 0.9},
    ),
    "TI-MI-FGSM": (
        ja.TIFGSM(kernel=7),
        "TIFGSM",
        {"decay": 1.0, "len_kernel": 7, "diversity_prob": 0.0},
    ),
    "SI-NI-FGSM": (ja.SINIFGSM(scales=5), "SINIFGSM", {"decay": 1.0, "m": 5}),
    "VMI-FGSM": (ja.VMIFGSM(neighbours=5), "VMIFGSM", {"decay": 1.0, "N": 5, "beta": 1.5}),
}


def ours(
    model: ja.Model, images: np.ndarray, labels: np.ndarray, seed: int, chosen: list[str]
) -> dict[str, tuple[np.ndarray, float]]:
    """The images of each attack, and the seconds that it took (compilation included)."""
    made = {}
    for name in chosen:
        attack = ATTACKS[name][0]
        begin = time.perf_counter()
        result = ja.run(
            attack,
            model,
            images,
            ja.Untargeted(labels),
            EPSILON,
            key=jax.random.key(seed),
            keep="last",
        )
        made[name] = (result.images, time.perf_counter() - begin)
    return made


def theirs(
    weights: dict[str, np.ndarray],
    images: np.ndarray,
    labels: np.ndarray,
    seed: int,
    chosen: list[str],
    python: str,
) -> dict[str, tuple[np.ndarray, float]]:
    """The same of torchattacks, in a process of its own."""
    with tempfile.TemporaryDirectory() as path:
        folder = Path(path)
        settings = {name: ATTACKS[name][1:] for name in chosen}
        about = {"epsilon": EPSILON, "step": EPSILON / 10, "steps": 10, "seed": seed}
        (folder / "settings.json").write_text(json.dumps({**about, "attacks": settings}))
        hand_over(folder, weights, images=images, labels=labels)
        subprocess.run(**torch_half(python, "peers.transfer_torch", path), check=True)
        made = {}
        for name in chosen:
            with np.load(folder / f"{name}.npz") as file:
                made[name] = (file["images"], float(file["seconds"]))
        return made


def main() -> None:
    parser = arguments(
        __doc__,
        names=f"of these (default: all): {', '.join(NETWORKS)}",
        count=200,
        python="torch and torchattacks",
    )
    parser.add_argument("--surrogate", action="append", help="examples of these only")
    parser.add_argument("--only", default=",".join(ATTACKS), help="attacks, with commas")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the success rates here")
    options = parser.parse_args()
    ja.use_cpu_cores()
    names, chosen = options.names or NETWORKS, options.only.split(",")
    loaded = {name: load(name, options.count) for name in names}
    models = {name: entry.model for name, entry in loaded.items()}
    images, labels = loaded[names[0]].data.images, loaded[names[0]].data.labels
    right = {name: predict(model, images).argmax(1) == labels for name, model in models.items()}
    rates: dict[str, dict[str, list[float]]] = {name: {"jaxadv": []} for name in chosen}
    if options.python:
        rates = {name: {"jaxadv": [], "torchattacks": []} for name in chosen}
    rows: dict[tuple[str, str, str], list[float]] = {}
    seconds: dict[tuple[str, str], float] = {}
    for surrogate in options.surrogate or names:
        for seed in range(options.seeds):
            model, weights, _ = loaded[surrogate]
            sides = {"jaxadv": ours(model, images, labels, seed, chosen)}
            if options.python:
                sides["torchattacks"] = theirs(
                    weights, images, labels, seed, chosen, options.python
                )
            for side, made in sides.items():
                for attack, (changed, spent) in made.items():
                    assert np.abs(changed - images).max() <= EPSILON + 1e-6
                    seconds[side, attack] = seconds.get((side, attack), 0) + spent
                    for target in names:
                        both = right[surrogate] & right[target]
                        answers = predict(models[target], changed[both])
                        fooled = 100 * float((answers.argmax(1) != labels[both]).mean())
                        rows.setdefault((surrogate, attack, side), []).append(fooled)
                        if target != surrogate:
                            rates[attack][side].append(fooled)
        table = []
        for attack in chosen:
            for side in sides:
                each = np.array(rows[surrogate, attack, side]).reshape(options.seeds, -1).mean(0)
                table.append([attack, side, *(f"{value:.1f}" for value in each)])
        show(f"made for {surrogate}: success in % on", ["attack", "side", *names], table)
    table = [
        [attack, side, f"{np.mean(values):.2f}", f"{seconds[side, attack]:.1f}"]
        for attack, each in rates.items()
        for side, values in each.items()
    ]
    show("mean over pairs of different networks, %", ["attack", "side", "success", "s"], table)
    if options.json:
        options.json.write_text(json.dumps({"/".join(key): value for key, value in rows.items()}))


if __name__ == "__main__":
    main()
