"""The setting of a command: JAX's configuration, plain messages and atomically written files."""

import json
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxadv.cli.app import say

if TYPE_CHECKING:
    from rich.console import Console


def prepare_jax() -> None:
    """Use every core and cache compiled programs on disk, unless the user chose otherwise."""

    import jaxadv as ja

    flags = os.environ.get("XLA_FLAGS", "")
    if "JAX_NUM_CPU_DEVICES" not in os.environ and "host_platform_device_count" not in flags:
        with suppress(RuntimeError):  # JAX already runs: called from Python
            ja.use_cpu_cores()
    ja.keep_compiled()


def join_processes(coordinator: str | None, processes: int | None, process: int | None) -> None:
    """Join this process with others by `jax.distributed`, before JAX starts.

    Without arguments the cluster supplies them (SLURM, Open MPI, TPU pods).

    Args:
        coordinator: HOST:PORT of process 0.
        processes: Number of processes.
        process: Index of this process, from 0.

    Raises:
        ValueError: Only some arguments are given, `process` is out of range, the cluster does not
            supply the arguments, or the processes cannot be reached.
    """
    import jax

    given = {"--coordinator": coordinator, "--processes": processes, "--process": process}
    if missing := [name for name, value in given.items() if value is None]:
        if len(missing) < len(given):
            raise ValueError(f"{', '.join(missing)} missing: pass all of {', '.join(given)}")
    elif not 0 <= process < processes:  # type: ignore[operator]
        raise ValueError(f"--process {process}: pass 0 to {processes - 1}")  # type: ignore[operator]
    try:
        jax.distributed.initialize(coordinator, processes, process)
    except (RuntimeError, ValueError) as error:
        how = "pass --coordinator HOST:PORT --processes N --process I"
        raise ValueError(f"the processes cannot be joined ({error}): {how}") from None


@contextmanager
def plain_messages() -> Iterator[None]:
    """Print warnings as plain lines, and hide a KeyboardInterrupt that a callback swallowed."""
    print_it = sys.unraisablehook

    def unless_interrupt(event: "sys.UnraisableHookArgs") -> None:
        if event.exc_type is not KeyboardInterrupt:
            print_it(event)

    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: say(f"warning: {message}")
        sys.unraisablehook = unless_interrupt
        try:
            yield
        finally:
            sys.unraisablehook = print_it


def console(stderr: bool = False) -> "Console":
    from rich.console import Console

    class Lasting(Console):
        """Falls silent once nobody reads it (`| head`): files are still to be written."""

        def on_broken_pipe(self) -> None:
            with suppress(SystemExit):
                super().on_broken_pipe()

    return Lasting(stderr=stderr)


def write_json(path: Path | None, data: Mapping[str, Any]) -> None:
    if path is not None:
        from jaxadv.core.files import write_atomically

        write_atomically(path, json.dumps(data, indent=1, allow_nan=False) + "\n")


def check_outputs(*files: Path | None, folder: Path | None = None) -> None:
    """Raise before any work if these files, or files in `folder`, cannot be written."""
    from jaxadv.core.files import check_file, check_folder

    for file in files:
        if file is not None:
            check_file(file)
    if folder is not None:
        check_folder(folder)


def check_page() -> None:
    """Raise ImportError if the packages that write the HTML pages are not installed."""
    from jaxadv.report.elements import template

    template("base.html.j2")


def forget(state: Path) -> None:
    """Remove the networks and results that a command keeps in its folder."""
    for file in [*state.rglob("*.safetensors"), *state.rglob("*.npz")]:
        file.unlink()
