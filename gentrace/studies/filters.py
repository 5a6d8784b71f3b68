"""Which rows to read, in plain Python, as the expression that pyarrow pushes down to the files."""

import functools
import operator
from collections.abc import Mapping
from typing import TypeAlias

import pyarrow.compute as pc

from gentrace.errors import StudyError

Value: TypeAlias = str | int | float | bool | None
Filter: TypeAlias = Value | list[Value] | tuple[Value, Value]
"""A value, a list of values, or ``(low, high)``, both included, None for no bound."""


def expression_of(where: Mapping[str, Filter]) -> pc.Expression | None:
    """Rows that fit all conditions; None for all rows.

    Args:
        where: Column → condition.

    Raises:
        StudyError: If a condition is none.
    """
    parts = [part for name, condition in where.items() for part in _parts(name, condition)]
    return functools.reduce(operator.and_, parts) if parts else None


def values_of(values: Mapping[str, Value]) -> pc.Expression:
    """Rows whose columns have exactly these values."""
    return functools.reduce(operator.and_, [pc.field(name) == pc.scalar(value) for name, value in values.items()])


def _parts(name: str, condition: Filter) -> list[pc.Expression]:
    column = pc.field(name)
    if isinstance(condition, list):
        return [column.isin(condition)]
    if isinstance(condition, tuple):
        if len(condition) != 2:
            raise StudyError(f"filtering by {name}", f"{condition!r}", "give (low, high), or a list of values")
        low, high = condition
        return ([] if low is None else [column >= low]) + ([] if high is None else [column <= high])
    return [column.is_null()] if condition is None else [column == condition]
