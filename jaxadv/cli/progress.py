"""Progress bars, and detection of every Ctrl-C."""

import signal
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Self

from jaxadv.cli.setting import console

if TYPE_CHECKING:
    from rich.progress import TaskID


class Interrupts:
    """Detects Ctrl-C, even if a callback or the engine caught the exception."""

    def __init__(self) -> None:
        self.before = -1
        self.ours, self.pythons = socket.socketpair()
        for end in (self.ours, self.pythons):
            end.setblocking(False)

    def __enter__(self) -> Self:
        with suppress(ValueError):  # only the main thread receives signals
            self.before = signal.set_wakeup_fd(self.pythons.fileno(), warn_on_full_buffer=False)
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(ValueError):
            signal.set_wakeup_fd(self.before)
        self.ours.close()
        self.pythons.close()

    def check(self) -> None:
        """Raise KeyboardInterrupt if Ctrl-C was pressed."""
        with suppress(BlockingIOError):
            if signal.SIGINT in self.ours.recv(64):
                raise KeyboardInterrupt


class Bars:
    """Progress bars on stderr, one for each task, created when the task is first reported.

    A Ctrl-C that was swallowed is raised before a new task begins, when earlier results are saved.
    """

    def __init__(self) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
        from rich.progress import TimeElapsedColumn as Elapsed

        self.progress = Progress(
            TextColumn("{task.description:<18}"),
            BarColumn(),
            MofNCompleteColumn(),
            Elapsed(),
            TextColumn("{task.fields[note]}", style="dim"),
            console=console(stderr=True),
        )
        self.tasks: dict[str, TaskID] = {}
        self.worked = False  # whether any result was computed, not loaded
        self.interrupts = Interrupts()

    def __enter__(self) -> Self:
        self.interrupts.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        for task in self.progress.tasks:
            self.progress.stop_task(task.id)
        if self.progress.live.is_started:  # else it prints an empty line
            self.progress.stop()
        self.interrupts.__exit__()

    def show(self, name: str, done: int, total: int, note: str) -> None:
        """Update the bar `name`, and create it first if there is none."""
        if name not in self.tasks:
            self.interrupts.check()
            self.progress.start()  # not before: an earlier error is to be one line
            # Results of earlier runs must not count towards the speed.
            self.tasks[name] = self.progress.add_task(name, total=total, completed=done, note=note)
        self.progress.update(self.tasks[name], completed=done, total=total, note=note)

    def say(self, text: str) -> None:
        """Print a line above the bars."""
        self.progress.console.print(text, highlight=False, soft_wrap=True)

    def seconds_left(self, name: str) -> float | None:
        """Return the estimated seconds until the bar `name` is full; None if they are unknown."""
        left = {task.id: task.time_remaining for task in self.progress.tasks}
        return left[self.tasks[name]] if name in self.tasks else None

    def drop(self, name: str) -> None:
        """Remove the bar `name` if there is one."""
        if name in self.tasks:
            self.progress.remove_task(self.tasks.pop(name))

    def show_alone(self, name: str, done: int, total: int, *kept: str) -> None:
        """Update the bar `name`, and remove all others but those `kept`."""
        for other in set(self.tasks) - {name, *kept}:
            self.drop(other)
        self.show(name, done, total, "")
        self.interrupts.check()

    def work(self, name: str, done: int, total: int, note: str = "") -> None:
        """Update the bar `name` of work whose results are kept: loaded if it is full at once."""
        self.worked |= done < total
        self.show(name, done, total, note)

    def attack(self, name: str, done: int, total: int, successes: int) -> None:
        """Show the progress of one attack, as `evaluate` reports it."""
        self.work(name, done, total, f"{successes} successes")
