"""Programs that are compiled in other threads before they are needed.

The compiler releases Python's interpreter, so several programs are compiled at once, and while
another one runs. Tracing stays in the thread of the caller, under its settings of JAX.
"""

import functools
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import PyTree

from jaxadv.core.files import cache_dir

SETTINGS = (  # of `jax.config`, those that change what is compiled
    "jax_enable_x64",
    "jax_default_matmul_precision",
    "jax_default_device",
    "jax_default_prng_impl",
    "jax_threefry_partitionable",
    "jax_numpy_dtype_promotion",
    "jax_numpy_rank_promotion",
    "jax_debug_nans",
    "jax_debug_infs",
    "jax_softmax_custom_jvp",
)


@functools.cache
def _compilers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="jaxadv-compile")


def compiles() -> bool:
    """Return whether jitted functions are compiled, and not run step by step to find a fault."""
    return not jax.config.jax_disable_jit  # type: ignore[attr-defined]


class Program:
    """A jitted function of arrays whose programs can be compiled before they are called."""

    def __init__(self, function: Callable[..., Any], static: int | None = None) -> None:
        """Wrap a jitted function.

        Args:
            function: The result of `jax.jit`.
            static: The place of its static argument, if it has one; it must be the last.
        """
        self.function, self.static = function, static
        self.pending: dict[Any, tuple[Future[Any], PyTree]] = {}
        _PROGRAMS.append(self)

    def compile(self, *args: Any) -> tuple[Future[Any], PyTree]:
        """Trace the function now, and compile it in another thread.

        Args:
            args: The arguments; arrays may be `jax.ShapeDtypeStruct`.

        Returns:
            The compilation, and the shapes of what the program returns.
        """
        key = self._key(args)
        if key not in self.pending or self.pending[key][0].cancelled():
            lowered = self.function.lower(*args)
            self.pending[key] = _compilers().submit(lowered.compile), lowered.out_info
        return self.pending[key]

    def __call__(self, *args: Any) -> Any:
        """Call the program, once it is compiled."""
        if not compiles():
            return self.function(*args)
        program = self.compile(*args)[0].result()
        return program(*(args if self.static is None else args[: self.static]))

    def _key(self, args: tuple[Any, ...]) -> Any:
        # What `jax.jit` compares, too: under other settings the same function is another program.
        settings = tuple(getattr(jax.config, name, None) for name in SETTINGS)
        static = None if self.static is None else args[self.static]
        leaves, structure = jax.tree.flatten(args if static is None else args[: self.static])
        kinds = tuple(
            (
                np.shape(leaf),
                getattr(leaf, "dtype", type(leaf)),
                getattr(leaf, "weak_type", False),
                getattr(leaf, "sharding", None),
            )
            for leaf in leaves
        )
        return settings, static, structure, kinds


def keep_compiled(folder: str | os.PathLike[str] | None = None) -> Path:
    """Keep compiled programs on disk, so that another process need not compile them again.

    The folder may be shared by processes that run at the same time. A program is found again for
    the same version of jaxlib, the same kind of device, and arrays of the same shapes. Folders that
    JAX was given before (`jax_compilation_cache_dir`) stay in use. The commands of `jaxadv` do
    this by themselves.

    Args:
        folder: The folder (default: "compiled" in the cache directory of jaxadv).

    Returns:
        The folder in use.

    Raises:
        OSError: If the folder cannot be made.

    Example:
        >>> import jaxadv as ja
        >>> ja.keep_compiled()  # doctest: +SKIP
        PosixPath('/home/user/.cache/jaxadv/compiled')
    """
    used = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    if folder is None and used:
        return Path(used)
    chosen = cache_dir() / "compiled" if folder is None else Path(folder)
    chosen.mkdir(parents=True, exist_ok=True)
    jax.config.update("jax_compilation_cache_dir", str(chosen))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return chosen


class Compilation(NamedTuple):
    """Programs that are being compiled in other threads.

    Attributes:
        pending: One future each.
    """

    pending: tuple[Future[Any], ...] = ()

    def wait(self, report: Callable[[int, int, int], object] | None = None) -> None:
        """Wait until all are compiled; `report` is called with (compiled, all, 0) meanwhile."""
        waited, count = False, len(self.pending)
        for number, one in enumerate(self.pending):
            if report is not None and not one.done():
                report(number, count, 0)
                waited = True
            one.result()
        if report is not None and waited:
            report(count, count, 0)

    def cancel(self) -> None:
        """Give up those that have not begun."""
        for one in self.pending:
            one.cancel()


_PROGRAMS: list[Program] = []


def forget_programs() -> None:
    """Forget all compiled programs, those of JAX too."""
    for program in _PROGRAMS:
        program.pending.clear()
    jax.clear_caches()
