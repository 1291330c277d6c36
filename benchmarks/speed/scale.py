"""`python -m benchmarks.speed.scale`: how near the hardware we run.

peak: the fastest large matrix product, per dtype, that everything else is held against;
lanes: WRN-28-10 and ResNet-50, float32 and bfloat16: the bare jitted gradient at its best batch,
    and `ja.run` (PGD-40, all steps, verified) at several lanes: images x steps a second, the wall
    over the bare gradient's, the share of the measured peak (FLOPs by the compiler's cost
    analysis), and the most lanes that fit the memory, as the compiler says;
sizes: the same for one network on images of 28 to 224 pixels; devices: on 1, 2, 4, ... devices;
half: how much weaker a search in bfloat16 is than one in float32, on published networks (needs the
    shared data; only where it is named).

Weights are drawn at random but for the last: they do not change the arithmetic. Prints tables in
Markdown. `--quick` takes small networks, for CPUs.
"""

import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxadv as ja
from benchmarks.common import alternate, arguments, load
from benchmarks.topology import Facts, Problem, compile_run
from jaxadv.core.losses import cross_entropy
from jaxadv.cpu.rewrite import rewrite_for_cpu
from jaxadv.engine.devices import memory_of
from jaxadv.engine.verify import margins, predict
from jaxadv.models import get_definition, in_bfloat16

PUBLISHED_NETWORKS = (
    ("mnist_cnn_a_adv", 0.3),
    ("cifar_cnn_a_adv", 2 / 255),
)
STEPS, ROUNDS = 40, 3
DTYPES = ("float32", "bfloat16")


class Setting(NamedTuple):
    """networks: name, settings and image shape; dtypes: of the search; batches: tried for the bare
    gradient; lanes: for `run`; sizes: pixels of an image's side; sized: the network for them, and
    its settings; matrix: sides of the matrix product.
    """

    networks: tuple[tuple[str, dict[str, Any], tuple[int, int, int]], ...]
    dtypes: tuple[str, ...]
    batches: tuple[int, ...]
    lanes: tuple[int, ...]
    sizes: tuple[int, ...]
    sized: tuple[str, dict[str, Any]]
    matrix: tuple[int, ...]


FULL = Setting(
    (("WideResNet", {}, (32, 32, 3)), ("ResNet50", {}, (224, 224, 3))),
    DTYPES,
    (32, 64, 128, 256, 512, 1024),
    (64, 128, 256, 512, 1024),
    (28, 32, 64, 112, 224),
    ("ResNet50", {}),
    (4096, 8192, 16384),
)
QUICK = Setting(  # CPUs only emulate half precision
    (("FC", {}, (28, 28, 1)), ("LeNet", {}, (28, 28, 1))),
    DTYPES[:1],
    (32, 128),
    (32, 128),
    (28, 56),
    ("LeNet", {}),
    (512, 1024),
)


def network(name: str, settings: dict[str, Any], shape: tuple[int, ...], dtype: str) -> ja.Model:
    """A network with random weights, which searches in that dtype."""
    module = get_definition(name)(**settings)
    variables = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, *shape)))
    model = ja.from_linen(module, variables)
    return in_bfloat16(model) if dtype == "bfloat16" else model


def draw(count: int, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels that nobody has seen."""
    images = np.random.default_rng(0).random((count, *shape), np.float32)
    return images, np.zeros(count, np.int32)


def gradient(model: ja.Model, images: Any, labels: Any) -> Any:
    """The input gradients of the cross-entropy: all that a step of PGD has to pay."""
    logits, pull_back = jax.vjp(model, images)
    slope = jax.vmap(jax.grad(lambda z, y: cross_entropy(ja.Untargeted(y), z)))(logits, labels)
    return pull_back(slope)[0]


class Bare(NamedTuple):
    """The bare gradient at its best batch: images a second, and FLOPs for an image."""

    batch: int
    rate: float
    flops: float
    call: Callable[[], Any]


def best_bare(model: ja.Model, shape: tuple[int, ...], batches: Iterable[int]) -> Bare:
    """The fastest batch of the bare jitted gradient; those that do not fit are left out."""
    found = []
    for batch in batches:
        images, labels = map(jnp.asarray, draw(batch, shape))
        function = rewrite_for_cpu(gradient) if jax.default_backend() == "cpu" else gradient
        try:
            compiled = jax.jit(function).lower(model, images, labels).compile()
            call = lambda c=compiled, i=images, y=labels: c(model, i, y)  # noqa: E731
            seconds = statistics.median(alternate({"bare": call}, ROUNDS)["bare"])
        except Exception as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            break
        cost = compiled.cost_analysis() or {}
        found.append(Bare(batch, batch / seconds, cost.get("flops", 0.0) / batch, call))
    return max(found, key=lambda bare: bare.rate)


def bytes_of(attack: Any, model: ja.Model, shape: tuple[int, ...], lanes: int) -> int:
    """What the compiled loop of so many lanes holds in memory, as the compiler says."""
    problem = Problem(model, shape, lanes, tuple(jax.local_devices()[:1]))
    return Facts.of(compile_run(attack, problem)[-1]).memory


def most_lanes(attack: Any, model: ja.Model, shape: tuple[int, ...], longest: int) -> int:
    """The largest power of two up to `longest` whose program fits the memory."""
    memory, lanes = memory_of(jax.local_devices()[0]), longest
    while lanes > 1:
        try:
            if bytes_of(attack, model, shape, lanes) <= memory:
                return lanes
        except Exception as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
        lanes //= 2
    return 1


def table(title: str, header: list[str], rows: list[list[Any]]) -> None:
    """Print a table in Markdown."""
    print(f"\n{title}\n\n| {' | '.join(header)} |\n|{'---|' * len(header)}", flush=True)
    for row in rows:
        cells = (f"{cell:,.3g}" if isinstance(cell, float) else str(cell) for cell in row)
        print(f"| {' | '.join(cells)} |", flush=True)


def peak(setting: Setting) -> dict[str, float]:
    """FLOP/s of the fastest matrix product on one device."""
    found, rows = {}, []
    for dtype in DTYPES:
        rates = {}
        for side in setting.matrix:
            a = jnp.ones((side, side), dtype)
            product = jax.jit(lambda a: jnp.dot(a, a))
            seconds = statistics.median(alternate({"dot": lambda a=a: product(a)}, 5)["dot"])
            rates[side] = 2 * side**3 / seconds
        found[dtype] = max(rates.values())
        rows.append([dtype, max(rates, key=lambda side: rates[side]), found[dtype] / 1e12])
    table("Matrix products on one device", ["dtype", "side", "TFLOP/s"], rows)
    return found


def attacked(model: ja.Model, shape: tuple[int, ...], lanes: int, devices: Any) -> Any:
    """A call of `run`: four times as many images as there are lanes, all steps."""
    images, labels = draw(4 * lanes * len(devices), shape)
    attack, goal = ja.PGD(steps=STEPS, step_size=0.05), ja.Untargeted(labels)
    return lambda: (
        ja.run(
            attack,
            model,
            images,
            goal,
            8 / 255,
            key=jax.random.key(0),
            keep="last",
            lanes=lanes,
            devices=devices,
        ).cost.lane_ticks
    )


def compare(
    title: str, settings: tuple[Any, ...], dtype: str, setting: Setting, peaks: dict[str, float]
) -> list[list[Any]]:
    """Rows of one network: `run` at every number of lanes against the bare gradient."""
    name, more, shape = settings
    model, device = network(name, more, shape, dtype), jax.local_devices()[:1]
    bare = best_bare(model, shape, setting.batches)
    attack = ja.PGD(steps=STEPS, step_size=0.05)
    fitting = most_lanes(attack, model, shape, setting.lanes[-1])
    rows = []
    for lanes in (lanes for lanes in setting.lanes if lanes <= fitting):
        call = attacked(model, shape, lanes, device)
        seconds = alternate({"run": call, "bare": bare.call}, ROUNDS)
        passes = 4 * lanes * STEPS
        walls = [
            (run / passes) / (one / bare.batch)
            for run, one in zip(seconds["run"], seconds["bare"], strict=True)
        ]
        rate = passes / statistics.median(seconds["run"])
        share = [f"{100 * r * bare.flops / peaks[dtype]:.0f} %" for r in (rate, bare.rate)]
        rows.append(
            [
                title,
                dtype,
                lanes,
                rate,
                f"{bare.rate:,.3g} at {bare.batch}",
                f"{statistics.median(walls):.3f}",
                *share,
                fitting,
            ]
        )
    return rows


HEADER = [
    "network",
    "dtype",
    "lanes",
    "images x steps / s",
    "bare gradient, images / s",
    "wall over bare",
    "share of peak",
    "bare",
    "lanes that fit",
]


def lanes(setting: Setting, peaks: dict[str, float]) -> None:
    """The networks of the setting."""
    rows = []
    for settings in setting.networks:
        for dtype in setting.dtypes:
            rows += compare(f"{settings[0]} {settings[2][0]} px", settings, dtype, setting, peaks)
    table(f"PGD-{STEPS}, all steps, one device", HEADER, rows)


def sizes(setting: Setting, peaks: dict[str, float]) -> None:
    """Images of several sizes."""
    rows = []
    for side in setting.sizes:
        settings = (*setting.sized, (side, side, setting.networks[-1][2][2]))
        few = setting._replace(lanes=setting.lanes[-1:], batches=setting.batches[-2:])
        rows += compare(f"{settings[0]} {side} px", settings, "float32", few, peaks)
    table(f"PGD-{STEPS} against image size, one device", HEADER, rows)


def devices(setting: Setting, peaks: dict[str, float]) -> None:
    """1, 2, 4, ... devices, with images in proportion."""
    every, rows = jax.local_devices(), []
    name, more, shape = setting.networks[0]
    model = network(name, more, shape, "float32")
    counts = [2**i for i in range(len(every).bit_length()) if 2**i <= len(every)]
    first = 0.0
    for count in counts:
        call = attacked(model, shape, setting.lanes[0], every[:count])
        seconds = statistics.median(alternate({"run": call}, ROUNDS)["run"])
        rate = 4 * setting.lanes[0] * count * STEPS / seconds
        first = first or rate
        rows.append([name, count, rate, f"{rate / first / count:.2f}"])
    table(
        f"PGD-{STEPS} against devices, {setting.lanes[0]} lanes each",
        ["network", "devices", "images x steps / s", "of perfect"],
        rows,
    )


def half(setting: Setting, peaks: dict[str, float]) -> None:
    """Robust accuracy under one attack that searches in float32 and in bfloat16."""
    rows = []
    for name, epsilon in PUBLISHED_NETWORKS:
        model, _, examples = load(name, 100)
        goal, attack = ja.Untargeted(examples.labels), ja.PGD(steps=20, step_size=0.125)
        for search, more in (
            (model, {}),
            (in_bfloat16(model), {"judge": model}),
            (in_bfloat16(model), {"judge": model, "again": True}),
        ):
            result = ja.run(
                attack,
                search,
                examples.images,
                goal,
                epsilon,
                key=jax.random.key(0),
                lanes=32,
                **more,
            )
            title = "float32" if not more else "bfloat16" + ", again" * ("again" in more)
            unverified = (
                margins(goal, predict(model, result.images, tuple(jax.local_devices()))) >= 0
            ) & result.success
            rows.append(
                [
                    name,
                    title,
                    f"{100 * (1 - result.success.mean()):.1f} %",
                    int(unverified.sum()),
                    float(result.forward.mean()),
                ]
            )
    table(
        "PGD-20 on 100 images: the dtype of the search",
        ["network", "searches in", "robust", "unverified", "passes forward"],
        rows,
    )


PARTS = {"lanes": lanes, "sizes": sizes, "devices": devices, "half": half}

if __name__ == "__main__":
    parser = arguments(__doc__, names=f"of ['peak', {str(list(PARTS))[1:]} (default: all but half)")
    parser.add_argument("--quick", action="store_true", help="small networks, for CPUs")
    options = parser.parse_args()
    ja.use_cpu_cores()
    began, chosen = time.perf_counter(), QUICK if options.quick else FULL
    where = jax.local_devices()
    print(f"jax {jax.__version__}, {len(where)} x {where[0].device_kind}")
    measured = peak(chosen)
    for part in options.names or ("lanes", "sizes", "devices"):
        if part != "peak":
            PARTS[part](chosen, measured)
    print(f"\n{time.perf_counter() - began:.0f} s in all")
