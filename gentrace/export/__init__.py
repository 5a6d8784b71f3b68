"""ON PAPER AND IN TALKS: figures as PNG, SVG, PDF and HTML, and a replay as numbered PNGs or as a GIF."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gentrace.export.animation import frames, gif
    from gentrace.export.errors import ExportError
    from gentrace.export.still import picture
    from gentrace.export.web import page

__all__ = ["ExportError", "frames", "gif", "page", "picture"]

_HOMES = {"ExportError": "errors", "frames": "animation", "gif": "animation", "page": "web", "picture": "still"}


def __getattr__(name: str) -> Any:
    """Import what is asked for, so that the command line can name its command without torch."""
    if name in _HOMES:
        return getattr(import_module(f"gentrace.export.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'gentrace.export' has no attribute {name!r}")
