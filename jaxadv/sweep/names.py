"""What jobs and cells of a sweep are called, and how the manifest writes them."""

from collections.abc import Mapping
from typing import Any, NamedTuple


class Job(NamedTuple):
    """The rows of some cells of one group, for the images begin to end; mark: its file's name."""

    mark: str
    group: str
    cells: tuple[str, ...]
    begin: int
    end: int

    @property
    def rows(self) -> int:
        """How many rows the job has: cell by cell, image by image."""
        return len(self.cells) * (self.end - self.begin)


def job_of(mark: str, data: Mapping[str, Any]) -> Job:
    """A job as the manifest has it."""
    return Job(mark, data["group"], tuple(data["cells"]), data["begin"], data["end"])


def data_of(job: Job) -> dict[str, Any]:
    """A job as `job_of` reads it."""
    return {"group": job.group, "cells": list(job.cells), "begin": job.begin, "end": job.end}


def title_of(about: Mapping[str, Any]) -> str:
    """A cell's title, or that of a group of cells, which has neither epsilon nor seed; the goal
    stands behind the attack where it is not "untargeted".

    >>> from jaxadv.sweep.names import title_of
    >>> group = {"model": "lenet", "data": "digits", "attack": "PGD", "norm": "linf"}
    >>> title_of({**group, "goal": "untargeted"})
    'lenet / digits / PGD / linf'
    >>> title_of({**group, "goal": "next", "epsilon": 0.1, "seed": 0})
    'lenet / digits / PGD (next) / linf / 0.1 / seed 0'
    """
    goal = "" if about["goal"] == "untargeted" else f" ({about['goal']})"
    parts = [about["model"], about["data"], about["attack"] + goal, about["norm"]]
    parts += [] if about.get("epsilon") is None else [f"{about['epsilon']:.6g}"]
    parts += [f"seed {about['seed']}"] if "seed" in about else []
    return " / ".join(parts)
