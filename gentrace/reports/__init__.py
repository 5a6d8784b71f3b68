"""What a study found, as one offline page: what was run, tables, plots, and replays behind every number."""

from gentrace.reports.report import Report, report

__all__ = ["Report", "report"]
