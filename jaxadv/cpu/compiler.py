"""Options for XLA's CPU compiler."""

import functools

import jax
import jax.numpy as jnp

_BRIEF = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
    "xla_cpu_use_fusion_emitters": False,  # in the loop itself it costs a fifth of the speed
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
    if platform != "cpu":
        return None
    return {name: value for name, value in _BRIEF.items() if _known(name, value)} or None
