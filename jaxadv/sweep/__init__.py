"""Sweeps: grids of models, data, attacks, epsilons and seeds, whose results are kept in a store.

A name is imported on first use, so that reading a store does not import JAX.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxadv.sweep.cluster import RayExecutor
    from jaxadv.sweep.compare import CellChanges, Changes, compare_stores
    from jaxadv.sweep.execute import Summary, run_sweep
    from jaxadv.sweep.grid import Grid, GridError, parse_grid, read_grid
    from jaxadv.sweep.read import read_cells
    from jaxadv.sweep.store import SCHEMA, SweepStore

_MODULES = {
    "compare": "CellChanges Changes compare_stores",
    "cluster": "RayExecutor",
    "execute": "Summary run_sweep",
    "grid": "Grid GridError parse_grid read_grid",
    "read": "read_cells",
    "store": "SCHEMA SweepStore",
}
_WHERE = {name: module for module, names in _MODULES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'jaxadv.sweep' has no attribute {name!r}")
    globals()[name] = getattr(importlib.import_module(f"jaxadv.sweep.{_WHERE[name]}"), name)
    return globals()[name]


__all__ = [
    "SCHEMA",
    "CellChanges",
    "Changes",
    "Grid",
    "GridError",
    "RayExecutor",
    "Summary",
    "SweepStore",
    "compare_stores",
    "parse_grid",
    "read_cells",
    "read_grid",
    "run_sweep",
]
