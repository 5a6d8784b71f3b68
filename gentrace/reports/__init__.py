"""What a study found, as one offline page: what was run, tables, plots, and replays behind every number."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gentrace.reports.page import Report, report

__all__ = ["Report", "report"]


def __getattr__(name: str) -> Any:
    """Import what is heavy when it is first used, so that the command line can name its command without it."""
    if name in __all__:
        return getattr(import_module("gentrace.reports.page"), name)
    raise AttributeError(f"module 'gentrace.reports' has no attribute {name!r}")
