"""Options for XLA's CPU compiler: what makes our programs compile sooner at equal speed."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

# The newer code generator for fusions compiles a loop of lanes a third longer for the same speed.
_LOOP = {"xla_cpu_use_fusion_emitters": False}
_BRIEF = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


class Options(NamedTuple):
    """Options of `jax.jit`; None are those of the compiler.

    Attributes:
        loop: For programs that run long.
        brief: For programs without floating-point arithmetic that run once.
    """

    loop: dict[str, bool | int] | None
    brief: dict[str, bool | int] | None


@functools.cache
def _known(name: str, value: bool | int) -> bool:
    """Return whether this version of the compiler has an option."""
    try:
        jax.jit(jnp.negative, compiler_options={name: value}).lower(1.0).compile()
    except Exception:
        return False
    return True


def compiler_options(devices: Sequence[jax.Device]) -> Options:
    """Return the options for programs that run on these devices."""
    if devices[0].platform != "cpu":
        return Options(None, None)
    loop = {name: value for name, value in _LOOP.items() if _known(name, value)}
    brief = {name: value for name, value in _BRIEF.items() if _known(name, value)}
    return Options(loop or None, {**loop, **brief} or None)
