"""`python -m benchmarks.speed.engine`: what the engine costs, and what it saves.

(a) `run`, all steps, over a bare compiled loop of the same gradients, rewritten for CPUs;
(b) lanes: passes used over passes needed, and the wall of stopping early, at three difficulties;
(c) the CPU rewrite against none, per model; (d) one device against a device per core;
(e) the first and the second start of a program, with the compilation cache;
(f) convolutions of one core in the form of the CPU rewrite, in a program with gradients.
"""

import functools
import os
import subprocess
import sys
import tempfile
import textwrap
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxadv as ja
from benchmarks.common import alternate, arguments, ratio, show, trained
from jaxadv.core.losses import cross_entropy
from jaxadv.cpu.convolution import convolve
from jaxadv.models import get_definition

SEED = 0


def bare_loop(
    model: ja.Model,
    images: Any,
    labels: Any,
    epsilon: float,
    steps: int,
    batch: int,
    rewrite: bool = True,
) -> Any:
    """A compiled PGD-Linf loop of gradients and nothing else, in batches: what cannot be beaten."""

    def step(model: ja.Model, image: Any, original: Any, label: Any) -> Any:
        logits, pull_back = jax.vjp(model, image)
        loss = jax.grad(lambda z, y: cross_entropy(ja.Untargeted(y), z))
        (gradient,) = pull_back(jax.vmap(loss)(logits, label))
        moved = image + 0.025 * epsilon * jnp.sign(gradient)
        return jnp.clip(jnp.clip(moved, original - epsilon, original + epsilon), 0, 1)

    def attack(model: ja.Model, part: Any) -> Any:
        original, label = part
        advance = ja.rewrite_for_cpu(step) if rewrite else step
        return jax.lax.fori_loop(
            0, steps, lambda _, x: advance(model, x, original, label), original
        )

    @jax.jit
    def program(model: ja.Model, images: Any, labels: Any) -> Any:
        parts = (images.reshape(-1, batch, *images.shape[1:]), labels.reshape(-1, batch))
        return jax.lax.map(lambda part: attack(model, part), parts)

    images, labels = jnp.asarray(images), jnp.asarray(labels)
    return lambda: program(model, images, labels)


def overhead() -> None:
    """(a)"""
    rows = []
    device = jax.local_devices()[:1]
    for name, rounds in (("MadryCNN", 3), ("FC", 9)):
        model, images, labels = trained(name)
        images, labels = images[-1000:], labels[-1000:]
        attack, goal = ja.PGD(steps=40, step_size=0.025), ja.Untargeted(labels)
        seconds = alternate(
            {
                "run": lambda: (
                    ja.run(
                        attack,
                        model,
                        images,
                        goal,
                        0.3,
                        key=jax.random.key(SEED),
                        keep="last",
                        lanes=125,
                        devices=device,
                    ).cost.lane_ticks
                ),
                "bare": bare_loop(model, images, labels, 0.3, 40, 125),
            },
            rounds,
        )
        rows.append(
            [
                name,
                *(float(np.median(s)) for s in seconds.values()),
                ratio(seconds["run"], seconds["bare"]),
            ]
        )
    show(
        "(a) PGD-40, all steps, 1,000 images, one device: run (verified) over the bare loop",
        ["network", "run s", "bare s", "ratio"],
        rows,
    )


def lanes() -> None:
    """(b)"""
    rows = []
    model, images, labels = trained("FC")
    images, labels = images[:4096], labels[:4096]
    device, goal, attack = (
        jax.local_devices()[:1],
        ja.Untargeted(labels),
        ja.PGD(steps=40, step_size=0.05),
    )
    for difficulty, epsilon in (("easy", 0.3), ("medium", 0.1), ("hard", 0.03)):
        settings: dict[str, dict[str, Any]] = {
            "all steps": {"keep": "last"},
            "early stop": {},
            "early stop, halving": {"halve": True},
        }
        results: dict[str, Any] = {}

        def call(
            name: str, epsilon: float = epsilon, results: Any = results, settings: Any = settings
        ) -> int:
            results[name] = ja.run(
                attack,
                model,
                images,
                goal,
                epsilon,
                key=jax.random.key(SEED),
                lanes=256,
                devices=device,
                **settings[name],
            )
            return 0

        seconds = alternate({name: lambda name=name: call(name) for name in settings}, 3)
        for name in list(settings)[1:]:
            result = results[name]
            needed, used = int(result.queries.sum()), result.cost.lane_ticks
            attacked = int((result.status != ja.Status.MISCLASSIFIED).sum())
            steps = len(images) * attack.ticks / needed
            rows.append(
                [
                    f"{difficulty}, {name}",
                    f"{100 * result.success.mean():.1f} %",
                    needed / attacked,
                    needed,
                    used,
                    used / needed,
                    used <= needed + 256 * attack.steps / 2,
                    gained := ratio(seconds["all steps"], seconds[name]),
                    steps,
                    gained / steps,
                ]
            )
    show(
        "(b) PGD-40, 4,096 images, 256 lanes, FC, one device (bound: needed + L * steps / 2)",
        [
            "setting",
            "success",
            "mean ticks",
            "needed",
            "used",
            "used/needed",
            "within bound",
            "speed-up",
            "steps/needed",
            "reached",
        ],
        rows,
    )


def rewriting() -> None:
    """(c)"""
    rows = []
    shapes = {
        "FC": (28, 28, 1),
        "LeNet": (28, 28, 1),
        "MadryCNN": (28, 28, 1),
        "SmallCNN": (28, 28, 1),
        "CNNA": (28, 28, 1),  # this one and the next have strides
        "ResNet2b": (32, 32, 3),
        "ResNet18": (32, 32, 3),
    }
    for name, shape in shapes.items():
        module, batch = get_definition(name)(), 8 if name == "ResNet18" else 64
        steps = 3 if name == "ResNet18" else 8
        variables = module.init(jax.random.key(SEED), np.zeros((1, *shape), np.float32))
        model = ja.from_linen(module, variables)
        images = np.random.default_rng(SEED).random((batch, *shape), np.float32)
        labels = np.zeros(batch, np.int32)
        seconds = alternate(
            {
                "rewritten": bare_loop(model, images, labels, 0.1, steps, batch),
                "as is": bare_loop(model, images, labels, 0.1, steps, batch, rewrite=False),
            },
            3,
        )
        each = [float(np.median(s)) / steps / batch * 1e6 for s in seconds.values()]
        rows.append([name, *each, ratio(seconds["as is"], seconds["rewritten"])])
    show(
        f"(c) the CPU rewrite, jax {jax.__version__}: microseconds per image and step in a loop",
        ["network", "rewritten", "as is", "speed-up"],
        rows,
    )


def devices() -> None:
    """(d)"""
    rows = []
    for name, rounds in (("MadryCNN", 3), ("FC", 9)):
        model, images, labels = trained(name)
        images, labels = images[-500:], labels[-500:]
        attack, goal = ja.PGD(steps=40, step_size=0.025), ja.Untargeted(labels)

        def call(
            devices: Any,
            attack: Any = attack,
            model: Any = model,
            images: Any = images,
            goal: Any = goal,
        ) -> int:
            return ja.run(
                attack,
                model,
                images,
                goal,
                0.3,
                key=jax.random.key(SEED),
                keep="last",
                lanes=125,
                devices=devices,
            ).cost.lane_ticks

        every = jax.local_devices()
        seconds = alternate({"one": lambda: call(every[:1]), "all": lambda: call(every)}, rounds)
        rows.append(
            [
                name,
                *(float(np.median(s)) for s in seconds.values()),
                ratio(seconds["one"], seconds["all"]),
            ]
        )
    show(
        f"(d) PGD-40, all steps, 500 images: one device against {len(jax.local_devices())}",
        ["network", "one s", "all s", "speed-up"],
        rows,
    )


def starts() -> None:
    """(e)"""
    program = textwrap.dedent("""
        import numpy as np, jax, jaxadv as ja
        from jaxadv.models import get_definition
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        module = get_definition("LeNet")()
        images = np.random.default_rng(0).random((64, 28, 28, 1), np.float32)
        model = ja.from_linen(module, module.init(jax.random.key(0), images[:1]))
        goal = ja.Untargeted(np.zeros(64, int))
        ja.run(ja.PGD(), model, images, goal, 0.1, key=jax.random.key(0))
    """)
    rows = []
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": cache, "PYTHONWARNINGS": "ignore"}
        for name in ("first", "second", "third"):
            begin = time.perf_counter()
            subprocess.run([sys.executable, "-c", program], env=environment, check=True)
            rows.append([name, time.perf_counter() - begin])
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import jaxadv"], check=True)
    rows.append(["import jaxadv alone", time.perf_counter() - begin])
    show(
        "(e) a program that attacks 64 images with PGD-40 (LeNet), whole process",
        ["start", "s"],
        rows,
    )


def forms() -> None:
    """(f)"""
    rows, edge = [], {0: "nothing padded", 1: "padded by 1", 2: "padded by 2"}
    device, size = jax.local_devices()[0], 16
    for side, channels, outputs, padded in (
        (3, 32, 32, 0),
        (3, 64, 64, 0),
        (5, 32, 64, 0),
        (3, 32, 1, 2),
        (3, 64, 3, 1),
        (3, 3, 16, 1),
        (3, 3, 32, 1),
        (5, 1, 6, 0),
        (3, 16, 16, 1),
        (3, 64, 64, 1),
    ):
        rng = np.random.default_rng(SEED)
        image = jax.device_put(rng.random((size, 28, 28, channels), np.float32), device)
        kernel = jax.device_put(rng.random((side, side, channels, outputs), np.float32), device)
        padding = [(padded, padded)] * 2

        def as_is(image: Any, kernel: Any, padding: Any = padding) -> Any:
            numbers = ("NHWC", "HWIO", "NHWC")
            return jax.lax.conv_general_dilated(
                image, kernel, (1, 1), padding, dimension_numbers=numbers
            )

        def rewrite_for_cpu(image: Any, kernel: Any, padding: Any = padding) -> Any:
            return convolve(image, kernel, padding, gradients=True)

        seconds = alternate(
            {
                name: functools.partial(jax.jit(call), image, kernel)
                for name, call in (("rewritten", rewrite_for_cpu), ("as is", as_is))
            },
            25,
        )
        each = [float(np.median(s)) / size * 1e6 for s in seconds.values()]
        rows.append(
            [
                f"{side} x {side}, {channels} to {outputs}, {edge[padded]}",
                *each,
                ratio(seconds["as is"], seconds["rewritten"]),
            ]
        )
    show(
        "(f) a convolution of images of 28 x 28 pixels: microseconds per image",
        ["kernel, channels, padding", "rewritten", "as is", "speed-up"],
        rows,
    )


PARTS = {"a": overhead, "b": lanes, "c": rewriting, "d": devices, "e": starts, "f": forms}

if __name__ == "__main__":
    options = arguments(__doc__, names=f"of {list(PARTS)} (default: all)").parse_args()
    ja.use_cpu_cores()
    for part in options.names or PARTS:
        PARTS[part]()
