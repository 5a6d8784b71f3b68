"""Measures by name, so that a study can ask for them in a text file, and by function, so that it is not bound to ours.

Every registered measure can be called with a trace alone: its other arguments have defaults.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeAlias, TypeVar

import numpy as np

from gentrace.analysis.errors import MeasureError
from gentrace.analysis.measure import Measure
from gentrace.trace.trace import Trace

MeasureFunction: TypeAlias = Callable[..., Measure]
"""Takes a trace, and options by keyword; returns a measure."""

_Function = TypeVar("_Function", bound=MeasureFunction)
_MEASURES: dict[str, MeasureFunction] = {}


def register(function: _Function) -> _Function:
    """Make a function known under its own name.

    Args:
        function: Takes a trace, and options by keyword with defaults; returns a `Measure`.

    Returns:
        The same function.

    Raises:
        MeasureError: If another function has the name.
    """
    name = function.__name__
    if _MEASURES.setdefault(name, function) is not function:
        raise MeasureError(f"registering the measure {name}", "there is one of that name", "choose another name")
    return function


def measures() -> Mapping[str, MeasureFunction]:
    """All registered measures: name to function, in alphabetical order, as they are now."""
    return MappingProxyType(dict(sorted(_MEASURES.items())))


def find(measure: str | MeasureFunction) -> MeasureFunction:
    """The function for a name; a function is itself.

    Raises:
        MeasureError: If no measure has the name.
    """
    if callable(measure):
        return measure
    if measure not in _MEASURES:
        raise MeasureError(
            f"looking for the measure {measure!r}",
            f"known: {', '.join(sorted(_MEASURES))}",
            "choose one of them, or give a function of a trace",
        )
    return _MEASURES[measure]


def evaluate(trace: Trace, measure: str | MeasureFunction, **options: Any) -> Measure:
    """Measure a trace.

    Args:
        trace: The trace.
        measure: A registered name, or a function of a trace that returns a `Measure` or one number.
        **options: Handed to the function.

    Returns:
        The measure; one number becomes a measure without axes, named after the function.

    Raises:
        MeasureError: If the name is unknown, or the function returns something else.
    """
    function = find(measure)
    found: Any = function(trace, **options)
    if isinstance(found, Measure):
        return found
    name = getattr(function, "__name__", type(function).__name__)
    try:
        return Measure(name, np.asarray(float(found)), (), "", {})
    except (TypeError, ValueError):
        raise MeasureError(
            f"measuring with {name}",
            f"it returned {type(found).__name__}",
            "return a gentrace.analysis.Measure, or one number",
        ) from None
