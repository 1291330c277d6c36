"""Reports of evaluations, studies and sweeps: console tables, data for other programs, HTML pages.

Names are imported on first use, so that reading a sweep's store does not import JAX.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxadv.report.certify import certified_data, print_certified, write_certified
    from jaxadv.report.distance import distance_data, print_distances, write_distances
    from jaxadv.report.export import (
        as_robustbench,
        sweep_as_robustbench,
        write_csv,
        write_robustbench,
        write_sweep_csv,
    )
    from jaxadv.report.html import write_html
    from jaxadv.report.pages import write_pages
    from jaxadv.report.pairs import pair_data, pair_figure, write_pair
    from jaxadv.report.queries import print_queries, queries_data, write_queries
    from jaxadv.report.study import print_study, write_study
    from jaxadv.report.sweep import print_sweep, sweep_data, write_sweep
    from jaxadv.report.table import as_data, print_report

_MODULES = {
    "certify": "certified_data print_certified write_certified",
    "distance": "distance_data print_distances write_distances",
    "export": "as_robustbench sweep_as_robustbench write_csv write_robustbench write_sweep_csv",
    "html": "write_html",
    "pages": "write_pages",
    "pairs": "pair_data pair_figure write_pair",
    "queries": "print_queries queries_data write_queries",
    "study": "print_study write_study",
    "sweep": "print_sweep sweep_data write_sweep",
    "table": "as_data print_report",
}
_WHERE = {name: module for module, names in _MODULES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'jaxadv.report' has no attribute {name!r}")
    globals()[name] = getattr(importlib.import_module(f"jaxadv.report.{_WHERE[name]}"), name)
    return globals()[name]


__all__ = [
    "as_data",
    "as_robustbench",
    "certified_data",
    "distance_data",
    "pair_data",
    "pair_figure",
    "print_certified",
    "print_distances",
    "print_queries",
    "print_report",
    "print_study",
    "print_sweep",
    "queries_data",
    "sweep_as_robustbench",
    "sweep_data",
    "write_certified",
    "write_csv",
    "write_distances",
    "write_html",
    "write_pages",
    "write_pair",
    "write_queries",
    "write_robustbench",
    "write_study",
    "write_sweep",
    "write_sweep_csv",
]
