"""The page: every picture of one or several traces, in one HTML file, from a local server or in a notebook."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gentrace.explorer.explorer import Explorer, explore

__all__ = ["Explorer", "explore"]


def __getattr__(name: str) -> Any:
    """Import what is heavy when it is first used, so that the command line can start, and be stopped, at once."""
    if name in __all__:
        return getattr(import_module("gentrace.explorer.explorer"), name)
    raise AttributeError(f"module 'gentrace.explorer' has no attribute {name!r}")
