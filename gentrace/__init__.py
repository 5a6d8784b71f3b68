"""See what a language model looks at while it writes.

Wrap your own ``model.generate(...)`` in ``with gentrace.record(model, tokenizer) as recorder:`` and read
``recorder.trace``.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from gentrace.errors import (
    AttentionUnavailable,
    CaptureBudgetError,
    CaptureError,
    FidelityWarning,
    GentraceError,
    SpillError,
    StudyError,
    TraceFormatError,
    UnsupportedModel,
    ViewBudgetError,
    ViewError,
)

if TYPE_CHECKING:
    from gentrace import analysis, views
    from gentrace.capture.oneliners import generate
    from gentrace.capture.recorder import record
    from gentrace.explorer import explore
    from gentrace.liveview.live import live
    from gentrace.studies.reading import open_study
    from gentrace.trace.file import load
    from gentrace.trace.trace import Trace

__version__ = "0.1.0"

__all__ = [
    "AttentionUnavailable",
    "CaptureBudgetError",
    "CaptureError",
    "FidelityWarning",
    "GentraceError",
    "SpillError",
    "StudyError",
    "Trace",
    "TraceFormatError",
    "UnsupportedModel",
    "ViewBudgetError",
    "ViewError",
    "analysis",
    "explore",
    "generate",
    "live",
    "load",
    "open_study",
    "record",
    "views",
]

_HOMES = {
    "Trace": "gentrace.trace.trace",
    "explore": "gentrace.explorer",
    "generate": "gentrace.capture.oneliners",
    "live": "gentrace.liveview.live",
    "load": "gentrace.trace.file",
    "open_study": "gentrace.studies.reading",
    "record": "gentrace.capture.recorder",
}


def __getattr__(name: str) -> Any:
    """Import what is heavy when it is first used, so that ``import gentrace`` costs next to nothing."""
    if name in ("analysis", "views"):
        return import_module(f"gentrace.{name}")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'gentrace' has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names."""
    return [*__all__, "__version__"]
