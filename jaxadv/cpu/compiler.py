"""Options for XLA's CPU compiler."""

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp

_SIMPLE = {"xla_cpu_use_fusion_emitters": False}
_BRIEF = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
    **_SIMPLE,
}


@functools.cache
def _known(name: str, value: bool | int) -> bool:
    """Return whether this version of the compiler has an option."""
    try:
        jax.jit(jnp.negative, compiler_options={name: value}).lower(1.0).compile()
    except Exception:
        return False
    return True


def brief_options(platform: str) -> dict[str, bool | int] | None:
    """Return the options for programs that run once, and need no certain bits.

    They compile in a fraction of the time. Without products of floats, no optimisation can change
    their bits anyway. None are the options of the compiler.
    """
    return _options(_BRIEF, platform)


def simple_options(platform: str) -> dict[str, bool | int] | None:
    """Return the options for the loops of attacks with `simple_norms`.

    They compile in 60 % of the time. Where a loop writes an image onto the one that it reads by
    more than a few operations, such programs do not use vector instructions: the ticks of APGD on
    a small network would take nearly twice as long.
    """
    return _options(_SIMPLE, platform)


def _options(chosen: Mapping[str, bool | int], platform: str) -> dict[str, bool | int] | None:
    if platform != "cpu":
        return None
    return {name: value for name, value in chosen.items() if _known(name, value)} or None
