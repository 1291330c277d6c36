"""Reports of an evaluation: tables on the console, data, and one HTML page."""

from jaxadv.report.html import write_html
from jaxadv.report.table import as_data, print_report

__all__ = ["as_data", "print_report", "write_html"]
