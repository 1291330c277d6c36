"""Reports of an evaluation: tables on the console, data for other programs, and HTML pages."""

from jaxadv.report.export import as_robustbench, write_csv, write_robustbench
from jaxadv.report.html import write_html
from jaxadv.report.pages import write_pages
from jaxadv.report.table import as_data, print_report

__all__ = [
    "as_data",
    "as_robustbench",
    "print_report",
    "write_csv",
    "write_html",
    "write_pages",
    "write_robustbench",
]
