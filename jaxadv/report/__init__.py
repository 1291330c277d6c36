"""Reports of evaluations and studies: console tables, data for other programs, HTML pages."""

from jaxadv.report.certify import certified_data, print_certified, write_certified
from jaxadv.report.distance import distance_data, print_distances, write_distances
from jaxadv.report.export import as_robustbench, write_csv, write_robustbench
from jaxadv.report.html import write_html
from jaxadv.report.pages import write_pages
from jaxadv.report.queries import print_queries, queries_data, write_queries
from jaxadv.report.study import print_study, write_study
from jaxadv.report.table import as_data, print_report

__all__ = [
    "as_data",
    "as_robustbench",
    "certified_data",
    "distance_data",
    "print_certified",
    "print_distances",
    "print_queries",
    "print_report",
    "print_study",
    "queries_data",
    "write_certified",
    "write_csv",
    "write_distances",
    "write_html",
    "write_pages",
    "write_queries",
    "write_robustbench",
    "write_study",
]
