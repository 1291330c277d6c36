"""The skeleton of a command: checks, JAX, plain messages, and what it prints and writes."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import typer

from jaxadv.cli.app import INTERRUPTED
from jaxadv.cli.progress import Bars
from jaxadv.cli.setting import (
    check_outputs,
    check_page,
    console,
    forget,
    plain_messages,
    prepare_jax,
    write_json,
)
from jaxadv.cli.subject import Check, Loaded, Subject, find_subject

if TYPE_CHECKING:
    from rich.console import Console


class Run:
    """One run of a command.

    Attributes:
        output: Folder that it writes into.
        json_file: File of --json, or None.
        fresh: Whether it starts over.
    """

    def __init__(self, output: Path, json_file: Path | None, fresh: bool) -> None:
        self.output, self.json_file, self.fresh = output, json_file, fresh

    @property
    def state(self) -> Path:
        """The folder of the networks and results that are kept."""
        return self.output / "state"

    @cached_property
    def console(self) -> "Console":
        """The console of the results."""
        return console()

    def load(self, subject: Subject, *checks: Check, **more: Any) -> Loaded:
        """Return model and images, as `find_subject` does; if fresh, without what is kept."""

        def start_over(*_: object) -> None:  # only once nothing else can be refused
            if self.fresh:
                forget(self.state)

        return find_subject(subject, self.state, *checks, start_over, **more)

    def print(self, text: str, markup: bool = True) -> None:
        """Print a line that is neither wrapped nor highlighted."""
        self.console.print(text, highlight=False, soft_wrap=True, markup=markup)

    def print_title(self, loaded: Loaded) -> None:
        """Print which model, images and seed the results are of."""
        title = f"[bold]{loaded.name}[/] on {loaded.data.name}, seed {loaded.seed}"
        self.console.print(f"\n{title}\n", highlight=False)

    def write(self, data: Mapping[str, Any], name: str = "report.json") -> None:
        """Write the results as JSON, in the folder and to the file of --json."""
        write_json(self.output / name, data)
        write_json(self.json_file, data)

    def conclude(self, bars: Bars | None, complete: bool = True, more: str = "") -> None:
        """Print the last lines of a command: what was loaded, and where the report is.

        Args:
            bars: The bars of its work, or None if it does not say what was loaded.
            complete: Whether the command ran to its end.
            more: Lines about further files.

        Raises:
            typer.Exit: The command was interrupted (`complete` is False).
        """
        if bars is not None and not bars.worked:
            self.console.print(
                "nothing was left to do: all results are from the store (--fresh starts over)"
            )
        page, data = self.output / "report.html", self.output / "report.json"
        self.print(f"report: {page}\ndata:   {data}{more}")
        if not complete:
            raise typer.Exit(INTERRUPTED)


@contextmanager
def command(
    output: Path | None,
    json_file: Path | None,
    *files: Path | None,
    fresh: bool = False,
    pages: bool = True,
    jax: bool = True,
) -> Iterator[Run]:
    """Run the body of a command, with plain messages, after what it writes has been checked.

    Args:
        output: Folder that it writes into, or None.
        json_file: File of --json, or None.
        *files: Further files that it writes.
        fresh: Whether it starts over.
        pages: Whether it writes HTML pages, whose packages must then be installed.
        jax: Whether it uses JAX.

    Yields:
        The run.

    Raises:
        OSError: A file or the folder cannot be written.
        ImportError: The packages that write the pages are not installed.
    """
    check_outputs(*files, json_file, folder=output)
    with plain_messages():
        if pages:
            check_page()
        if jax:
            prepare_jax()
        yield Run(output or Path(), json_file, fresh)


class Completable(Protocol):
    """A result that tells whether the run came to its end."""

    @property
    def complete(self) -> bool: ...


Kind = TypeVar("Kind", bound=Completable)


def while_complete(results: Iterable[Kind]) -> list[Kind]:
    """Return the results up to the first that is incomplete; those after it are not computed."""
    taken = []
    for result in results:
        taken.append(result)
        if not result.complete:
            break
    return taken
