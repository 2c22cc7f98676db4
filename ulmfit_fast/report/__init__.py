"""Pictures of a run, and its report as one HTML file."""

from ulmfit_fast.report.html import write_report

__all__ = ["write_report"]
