"""Programs compiled for accelerators that are not at hand, and what the compiled text says.

A TPU's compiler is a package (`libtpu`) and needs no TPU. JAX's plug-in for NVIDIA's GPUs compiles
without one, too, for a GPU that is described to it. For others a program can be lowered, which
refuses what has no rule there.
"""

import hashlib
import importlib.util
import math
import os
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractDevice, AbstractMesh, AxisType, NamedSharding, PartitionSpec

import jaxadv as ja
from jaxadv.core.losses import cross_entropy
from jaxadv.core.typing import ChosenDevices
from jaxadv.engine.batch import make_table
from jaxadv.engine.lanes import drive_lanes
from jaxadv.engine.run import Plan, compile_ahead
from jaxadv.engine.session import Room, Rows, Session
from jaxadv.engine.tick import tick
from jaxadv.engine.verify import mesh_of

COLLECTIVE = re.compile(
    r" (?:all-gather|all-reduce|all-to-all|collective-broadcast|collective-permute|reduce-scatter)"
    r"(?:-start)?\("
)
HOST = re.compile(r" (?:infeed|outfeed|send|recv)\(|custom_call_target=\"[^\"]*callback")
FLOAT64 = re.compile(r"\bf64\[")
DYNAMIC = re.compile(r"\[<=|PadToStatic|SliceToDynamic")
CHIPS = re.compile(  # what in a text depends on the number of chips, or on where it was traced
    r"num_partitions=\d+|sharding=\{[^}]*\}|replica_groups=\S+|, metadata=\{[^}]*\}"
)
COMPUTATION = re.compile(r"^(ENTRY )?(%[\w.-]+) \(.*?^}", re.MULTILINE | re.DOTALL)
ASSIGNMENT = re.compile(  # a name, its types, the operation, its operands, what it calls
    r"^\s+(?:ROOT )?(%[\w.-]+) = (\(.*?\)|\S+) ([a-z-]+)\((.*?)\)(?:, (.*))?$", re.MULTILINE
)
BRANCHES = re.compile(r"(?:branch_computations=\{([^}]*)\}|(?:true|false)_computation=(%[\w.-]+))")
BODY = re.compile(r"(?:body|to_apply)=(%[\w.-]+)")
NAME = re.compile(r"%[\w.-]+")
ARRAY = re.compile(r"\b([a-z]+)(\d*)\[([\d,]*)\]")
FREE = {"bitcast", "constant", "get-tuple-element", "parameter", "tuple"}
INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?[\w.-]+ = ", re.MULTILINE)
GPUS = ("cuda", "rocm")
# XLA's `GpuTargetConfig` of an H100 with 80 GB, as NVIDIA states it: sizes in bytes and per second.
H100 = """
platform_name: "CUDA" device_description_str: "sm_90" dnn_version_info { major: 9 minor: 10 }
gpu_device_info {
  cuda_compute_capability { major: 9 } core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98
  device_memory_size: 84978434048 memory_bandwidth: 3352320000000 l2_cache_size: 52428800
  threads_per_warp: 32 threads_per_block_limit: 1024 threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  shared_memory_per_core: 233472 shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
}
"""


class Facts(NamedTuple):
    """What a compiled program says about itself.

    Attributes:
        collectives: Instructions that exchange data between chips.
        host: Instructions that call the host.
        float64: Values of 64-bit floats, which a TPU emulates.
        dynamic: Shapes that are known only when the program runs.
        instructions: All instructions.
        memory: Bytes on one chip: arguments, results, temporary values.
        flops: Floating-point operations; the body of each loop counts once. Compilers for GPUs do
            not say: nan.
        bytes: Bytes read and written, likewise; for GPUs all operands and results of the kernels.
        kernels: For GPUs, instructions outside of fusions, each of which is one kernel or more,
            likewise; elsewhere 0.
        digest: Of the text without the number of chips: programs that share it are the same.
    """

    collectives: int
    host: int
    float64: int
    dynamic: int
    instructions: int
    memory: int
    flops: float
    bytes: float
    kernels: int
    digest: str

    @classmethod
    def of(cls, compiled: Any) -> "Facts":
        """Read a compiled program."""
        text, held = compiled.as_text(), compiled.memory_analysis()
        cost = compiled.cost_analysis()
        flops, bytes_, kernels = math.nan, 0.0, 0
        if cost is None:  # as of compilers for GPUs
            kernels, bytes_ = kernels_of(text)
        else:
            flops, bytes_ = cost.get("flops", 0.0), cost.get("bytes accessed", 0.0)
        patterns = COLLECTIVE, HOST, FLOAT64, DYNAMIC, INSTRUCTION
        size = held.argument_size_in_bytes + held.output_size_in_bytes - held.alias_size_in_bytes
        return cls(
            *(len(pattern.findall(text)) for pattern in patterns),
            size + held.temp_size_in_bytes,
            flops,
            bytes_,
            kernels,
            hashlib.sha256(CHIPS.sub("", text).encode()).hexdigest()[:8],
        )


def kernels_of(text: str) -> tuple[int, float]:
    """Count the instructions that a GPU runs as kernels, and the bytes that they read and write.

    The body of a loop counts once, of a condition the dearer side.
    """
    found = list(COMPUTATION.finditer(text))
    (entry,) = (match[2] for match in found if match[1])
    return _kernels(entry, {match[2]: match.group() for match in found})


def _kernels(name: str, bodies: dict[str, str]) -> tuple[int, float]:
    count, traffic = 0, 0.0
    found = ASSIGNMENT.findall(bodies[name])
    sizes = {name: _bytes(types) for name, types, _, _, _ in found}
    for name, _, operation, operands, calls in found:
        if operation == "conditional":
            sides = NAME.findall(" ".join(map("".join, BRANCHES.findall(calls))))
            inside = max(_kernels(each, bodies) for each in sides)
        elif operation in ("while", "call"):
            inside = _kernels(BODY.findall(calls)[0], bodies)
        elif operation in FREE:
            inside = 0, 0.0
        else:
            inside = 1, sizes[name] + sum(sizes.get(each, 0) for each in NAME.findall(operands))
        count, traffic = count + inside[0], traffic + inside[1]
    return count, traffic


def _bytes(types: str) -> int:
    """The size of the arrays that a text names, such as "(f32[8,10]{1,0}, pred[8]{0})"."""
    return sum(
        math.prod(map(int, filter(None, shape.split(",")))) * max(1, int(bits or 8) // 8)
        for _, bits, shape in ARRAY.findall(types)
    )


def topology(name: str) -> ChosenDevices:
    """The chips of a TPU topology such as "v5e:2x2", or the one GPU "h100", to compile for.

    Raises:
        SystemExit: The compiler is not installed, or knows no such topology.
    """
    from jax.experimental import topologies

    if name == "h100":
        return _h100()
    if not importlib.util.find_spec("libtpu"):
        raise SystemExit('the TPU compiler is missing: pip install ".[tpu]"')
    # Without these the compiler asks the network for the machine that it is on; the last lets more
    # than one process have it, since none of them has a TPU.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    try:
        return tuple(topologies.get_topology_desc(platform="tpu", topology_name=name).devices)
    except Exception as error:
        raise SystemExit(f"--topology {name}: {error}") from None


def _h100() -> ChosenDevices:
    from jax.experimental import topologies

    if not importlib.util.find_spec("jax_cuda12_plugin"):
        raise SystemExit('the compiler for GPUs is missing: pip install ".[cuda]"')
    settings = {"platform": "cuda", "target_config": H100, "topology": "1x1x1"}
    try:
        return tuple(topologies.get_topology_desc("h100", **settings).devices)
    except NotImplementedError as error:  # the plug-in looked for NVIDIA's own libraries
        raise SystemExit(f"--topology h100: {error}; set JAX_PLATFORMS=cpu") from None


class Problem(NamedTuple):
    """What is attacked: the model, a few images a chip, and the chips.

    Attributes:
        model: The model.
        shape: [H, W, C] of an image.
        lanes: Lanes, and images, of a chip.
        devices: The chips.
        definition: The Flax module of the model, for training.
    """

    model: ja.Model
    shape: tuple[int, ...]
    lanes: int
    devices: ChosenDevices
    definition: Any = None

    @property
    def images(self) -> np.ndarray:
        """As many images as there are lanes."""
        return np.full((self.lanes * len(self.devices), *self.shape), 0.5, np.float32)

    @property
    def goal(self) -> ja.Untargeted:
        """The goal of these images."""
        return first(len(self.images))


def first(count: int) -> ja.Untargeted:
    """The goal of images of the first class."""
    return ja.Untargeted(np.zeros(count, np.int32))


def radius(attack: ja.Attack) -> float | None:
    """A radius for an attack that needs one; it does not change the program."""
    if not attack.needs_epsilon:
        return None
    return 12.0 if attack.norm == "l0" else 0.1


def compile_run(attack: ja.Attack, problem: Problem) -> list[Any]:
    """Compile the programs of `ja.run`: the forward pass, the loop's beginning, the loop."""
    images, lanes = problem.images, problem.lanes
    count = len(images)
    session = Session(
        problem.model,
        images,
        problem.goal,
        np.arange(count),
        jax.random.key(0),
        problem.devices,
        lanes,
        room=Room(lanes, lanes),
    )
    plan = Plan(
        attack, Rows(np.arange(count), radius(attack)), None, lanes, start=attack.name == "ILA"
    )
    return [each.result() for each in compile_ahead(session, plan).pending]


def compile_tick(attack: ja.Attack, problem: Problem) -> Any:
    """Compile one tick of all lanes, alone, for one chip."""
    epsilon = radius(attack)
    count, model = problem.lanes, problem.model
    goal = first(count)
    attack = attack.specialize(goal, classes_of(problem))

    def begin(model: Any, images: Any) -> Any:
        table = make_table(attack, model, images, goal, epsilon)
        if attack.name == "ILA":
            table = table._replace(start=images)
        table = table.with_keys(attack, jax.random.key(0))
        lane = lambda row: table.lane(attack, model.bounds, row, jnp.int32(0))  # noqa: E731
        return jax.vmap(lane)(jnp.arange(count))

    def one(attack: Any, model: Any, lanes: Any, live: Any) -> Any:
        return tick(attack, model, lanes, live, keep=attack.keep, joined=True)

    image = jax.ShapeDtypeStruct((count, *problem.shape), np.float32)
    lanes = jax.eval_shape(begin, model, image)
    live = jax.ShapeDtypeStruct((count,), bool)
    return compile_on(one, problem.devices[:1], attack, model, lanes, live)


def classes_of(problem: Problem) -> int:
    """Number of logits of the model."""
    image = jax.ShapeDtypeStruct((1, *problem.shape), np.float32)
    return jax.eval_shape(problem.model, image).shape[-1]


def shapes_of(args: Any) -> Any:
    """The shapes of the arguments, for none of them can lie on a device that is not here."""
    return jax.eval_shape(lambda: args)


def compile_on(function: Any, devices: ChosenDevices, *args: Any) -> Any:
    """Compile a function for chips, every argument on each of them."""
    place = NamedSharding(mesh_of(devices), PartitionSpec())
    args = shapes_of(args)
    with jax.set_mesh(mesh_of(devices)):
        return jax.jit(function, in_shardings=place).lower(*args).compile()


def compile_pass(queries: int, pullbacks: int, problem: Problem) -> Any:
    """Compile what a tick must pay: its forward passes and pull-backs, for one chip."""

    def passes(model: Any, images: Any, labels: Any) -> Any:
        if not pullbacks:
            return model(images)
        logits, pull_back = jax.vjp(model, images)
        slope = jax.vmap(jax.grad(lambda z, y: cross_entropy(ja.Untargeted(y), z)))(logits, labels)
        return [pull_back(slope * (1 + number))[0] for number in range(pullbacks)]

    count = problem.lanes * queries
    image = jax.ShapeDtypeStruct((count, *problem.shape), np.float32)
    labels = jax.ShapeDtypeStruct((count,), np.int32)
    return compile_on(passes, problem.devices[:1], problem.model, image, labels)


def lowers(platform: str, make: Any) -> str:
    """Whether JAX lowers a jitted function for a platform: "yes", or why not.

    make: Returns the function and its arguments.
    """
    device = AbstractDevice(device_kind=platform, num_cores=None, platform=platform)
    mesh = AbstractMesh((1,), ("devices",), AxisType.Auto, abstract_device=device)
    try:
        with jax.sharding.use_abstract_mesh(mesh):
            jitted, args = make()
            jax.export.export(jitted, platforms=[platform])(*args)
    except Exception as error:  # a platform may refuse a program in any way
        return f"{type(error).__name__}: {str(error).splitlines()[0][:100]}"
    return "yes"


def lowers_run(platform: str, attack: ja.Attack, problem: Problem) -> str:
    """Whether the loop of `ja.run` on one device is lowered for a platform, or why not."""
    count, model = problem.lanes, problem.model
    image = jax.ShapeDtypeStruct((count, *problem.shape), np.float32)

    def whole(attack: Any, model: Any, images: Any) -> Any:
        table = make_table(attack, model, images, first(count), radius(attack))
        table = table._replace(start=images) if attack.name == "ILA" else table
        settings = {"keep": attack.keep, "lanes": count, "rewrite": False}
        return drive_lanes(attack, model, table, jax.random.key(0), **settings)

    return lowers(platform, lambda: (jax.jit(whole), (attack, model, image)))
