"""Progress bars, and a Ctrl-C that nothing swallows."""

import signal
import socket
from contextlib import suppress
from typing import Any, Self

from jaxadv.cli.setting import console


class Interrupts:
    """Whether Ctrl-C was pressed, also where a callback or the engine caught it."""

    def __init__(self) -> None:
        self.before = -1
        self.ours, self.pythons = socket.socketpair()
        for end in (self.ours, self.pythons):
            end.setblocking(False)

    def __enter__(self) -> Self:
        with suppress(ValueError):  # not in the main thread: signals do not come here
            self.before = signal.set_wakeup_fd(self.pythons.fileno(), warn_on_full_buffer=False)
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(ValueError):
            signal.set_wakeup_fd(self.before)
        self.ours.close()
        self.pythons.close()

    def check(self) -> None:
        """Raise KeyboardInterrupt if it was."""
        with suppress(BlockingIOError):
            if signal.SIGINT in self.ours.recv(64):
                raise KeyboardInterrupt


class Bars:
    """Progress bars on stderr, one for each task, made when it is first heard of.

    A Ctrl-C that got lost is honoured before a new task begins: what precedes it is saved by then.
    """

    def __init__(self) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
        from rich.progress import TimeElapsedColumn as Elapsed

        self.progress = Progress(
            TextColumn("{task.description:<18}"), BarColumn(), MofNCompleteColumn(),
            Elapsed(), TextColumn("{task.fields[note]}", style="dim"),
            console=console(stderr=True),
        )  # fmt: skip
        self.tasks: dict[str, Any] = {}
        self.worked = False  # whether anything was not done already
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
        """Set the bar `name`."""
        if name not in self.tasks:
            self.interrupts.check()
            self.progress.start()  # not before: an error before it is to be one line
            # What was done before is no sign of how fast it goes.
            self.tasks[name] = self.progress.add_task(name, total=total, completed=done, note=note)
        self.progress.update(self.tasks[name], completed=done, total=total, note=note)

    def seconds_left(self, name: str) -> float | None:
        """How long the bar `name` will still take at its speed; None while that is not known."""
        left = {task.id: task.time_remaining for task in self.progress.tasks}
        return left.get(self.tasks.get(name, -1))

    def drop(self, name: str) -> None:
        """Take the bar `name` away, if there is one."""
        if name in self.tasks:
            self.progress.remove_task(self.tasks.pop(name))

    def attack(self, name: str, done: int, total: int, successes: int) -> None:
        """The progress of one attack, as `evaluate` reports it."""
        self.worked |= done < total
        self.show(name, done, total, f"{successes} successes")
