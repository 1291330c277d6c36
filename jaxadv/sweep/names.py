"""Names of the jobs and cells of a sweep, and their form in the manifest."""

from collections.abc import Mapping
from typing import Any, NamedTuple


class Job(NamedTuple):
    """Some rows of a group, which become one file of the store.

    Attributes:
        fingerprint: Name of the file.
        group: Name of the group.
        cells: Names of the cells.
        begin: First image.
        end: End of the images, exclusive.
    """

    fingerprint: str
    group: str
    cells: tuple[str, ...]
    begin: int
    end: int

    @property
    def rows(self) -> int:
        """Number of rows, ordered by cell and then by image."""
        return len(self.cells) * (self.end - self.begin)


def job_of(fingerprint: str, data: Mapping[str, Any]) -> Job:
    """Make a job from its entry in the manifest."""
    return Job(fingerprint, data["group"], tuple(data["cells"]), data["begin"], data["end"])


def data_of(job: Job) -> dict[str, Any]:
    """Return the manifest entry of a job, which `job_of` reads."""
    return {"group": job.group, "cells": list(job.cells), "begin": job.begin, "end": job.end}


def title_of(about: Mapping[str, Any]) -> str:
    """Return the title of a cell, or of a group of cells, which has neither epsilon nor seed.

    The goal follows the attack unless it is "untargeted".

    Args:
        about: The columns that are constant over the cell or group.

    Returns:
        The title.

    Example:
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
