"""Sweeps: grids of models, data, attacks, epsilons and seeds, run to a store that loses nothing."""

from jaxadv.sweep.execute import Summary, run_sweep
from jaxadv.sweep.grid import Grid, GridError, parse_grid, read_grid
from jaxadv.sweep.store import SCHEMA, SweepStore

__all__ = [
    "SCHEMA", "Grid", "GridError", "Summary", "SweepStore", "parse_grid", "read_grid", "run_sweep",
]  # fmt: skip
