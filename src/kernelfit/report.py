"""Reports as one HTML file, by their public names."""

from .plotting.report import report_html, write_report

__all__ = ["report_html", "write_report"]
