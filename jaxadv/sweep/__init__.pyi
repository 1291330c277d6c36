"""The public names of `jaxadv.sweep`, which `__init__.py` reads."""

from .cluster import RayExecutor as RayExecutor
from .compare import CellChanges as CellChanges
from .compare import Changes as Changes
from .compare import compare_stores as compare_stores
from .execute import Summary as Summary
from .execute import run_sweep as run_sweep
from .grid import Grid as Grid
from .grid import GridError as GridError
from .grid import parse_grid as parse_grid
from .grid import read_grid as read_grid
from .read import read_cells as read_cells
from .store import SCHEMA as SCHEMA
from .store import SweepStore as SweepStore
