"""From a measure of one trace to columns of a study's tables.

A table has one row per generation, token or head. What has a layer and a head goes to the heads; along queries, keys
or positions it is averaged there, and kept step by step if that is asked for. What has only positions or queries goes
to the tokens, at the position that it is said of or that looks. One number goes to the generations. Names along "span"
and "statistic" become columns of their own, such as ``span_mass.prompt``.

Two axes more than a table has are summed up first. Where keys stand beside queries, as in rollout, flow and
value-weighted attention, a row says what the prompt and what was generated get in all, such as
``attention_rollout.prompt``. Where heads stand beside heads, a head's value is its mean distance from all others.
"""

import hashlib
import importlib
import inspect
import itertools
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from gentrace.analysis import Measure, MeasureError, evaluate, find
from gentrace.analysis.measure import Label
from gentrace.errors import StudyError
from gentrace.studies.problems import listed, nearest
from gentrace.studies.spec import MeasureSpec
from gentrace.trace.trace import Trace

Place: TypeAlias = tuple[int, int]
"""Layer and head."""
NAMED = ("span", "statistic")
"""Axes whose labels become columns."""
STEPS = ("query", "key", "position")
"""Axes along the text."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One column's worth of one trace: exactly one of scalar, positions and heads is there."""

    column: str
    scalar: float | None = None
    """Of the whole generation."""
    positions: Mapping[int, float] | None = None
    """Position → value."""
    heads: Mapping[Place, float] | None = None
    """Layer and head → mean over the text."""
    steps: Mapping[Place, list[float]] | None = None
    """Layer and head → value at each position from 0, NaN where there is none; only with ``heads``."""
    unit: str = ""
    """Of the values, as the measure calls it."""


@dataclass(frozen=True, slots=True)
class ReadyMeasure:
    """A measure with its function found."""

    spec: MeasureSpec
    function: Callable[..., Any]
    digest: str | None
    """SHA-256 of a user's module; None for a registered measure, which belongs to gentrace's version."""
    source: Path | None
    """The user's module."""

    @property
    def ingredients(self) -> dict[str, Any]:
        """What of it can change a result."""
        return {
            "measure": self.spec.measure,
            "name": self.spec.column,
            "options": self.spec.options,
            "code": self.digest,
        }


def ready_measures(specs: Sequence[MeasureSpec], folders: Sequence[Path]) -> list[ReadyMeasure]:
    """Find the functions of measures.

    Args:
        specs: The measures.
        folders: Where to look for a user's modules, before everything else.

    Raises:
        StudyError: If a module cannot be imported or lacks the function.
    """
    return [_ready(spec, folders) for spec in specs]


def _ready(spec: MeasureSpec, folders: Sequence[Path]) -> ReadyMeasure:
    module_name, colon, name = spec.measure.partition(":")
    if not colon:
        return ReadyMeasure(spec, find(spec.measure), None, None)
    with _importing_from(folders):
        if PathFinder.find_spec(module_name, [str(folder) for folder in folders]) is not None:
            # It may have been changed, or belong to another study, since this process imported it.
            sys.modules.pop(module_name, None)
        try:
            module = importlib.import_module(module_name)
        except Exception as error:
            raise StudyError(
                f"importing the measure {spec.measure}",
                f"{type(error).__name__}: {error}",
                "put its module beside the specification, and correct what is wrong in it",
            ) from error
    function = getattr(module, name, None)
    if not callable(function):
        own = [name for name, value in vars(module).items() if inspect.isfunction(value) and not name.startswith("_")]
        what = f"{module_name} has no function {name!r}{nearest(name, own)}; it has {listed(own)}"
        raise StudyError(f"importing the measure {spec.measure}", what, "name one of them")
    source = Path(inspect.getsourcefile(module) or "")
    digest = hashlib.sha256(source.read_bytes()).hexdigest() if source.is_file() else "unknown"
    return ReadyMeasure(spec, function, digest, source if source.is_file() else None)


@contextmanager
def _importing_from(folders: Sequence[Path]) -> Generator[None]:
    """A user's module is looked for in these folders, without leaving them on the path."""
    added = [str(folder) for folder in folders]
    writes = sys.dont_write_bytecode
    sys.path[:0] = added
    # Bytecode is told from its source by seconds and size, so a quick change could go unnoticed.
    sys.dont_write_bytecode = True
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.dont_write_bytecode = writes
        for folder in added:
            sys.path.remove(folder)


def measure(trace: Trace, ready: ReadyMeasure, *, steps: bool) -> list[Measured]:
    """Measure a trace.

    Args:
        trace: The trace.
        ready: What to measure.
        steps: Whether to keep values step by step beside a head's mean.

    Returns:
        One entry a column.

    Raises:
        MeasureError: If its axes fit no table.
        Exception: Whatever the function raises.
    """
    found = evaluate(trace, ready.function, **ready.spec.options)
    if ready.spec.options.get("kind", "self") == "self":
        found = summed_up(found, trace.tokens.prompt_length)
    return columns_of(found, ready.spec.column, {info.index: info.heads for info in trace.layers}, steps=steps)


def summed_up(found: Measure, prompt: int) -> Measure:
    """A measure without the axes that a table has no room for; any other is left as it is.

    Args:
        found: The measure.
        prompt: How many keys are the prompt's.

    Returns:
        Of keys beside queries the sums over the prompt and over what was generated, along "span"; of heads beside heads
        each one's mean over the others, ``[layer, head]``.
    """
    axes, labels = found.axes, found.coordinates
    if axes == ("layer", "head", "other_layer", "other_head"):
        count = len(labels["layer"]) * len(labels["head"])
        square = found.values.reshape(count, count).copy()
        np.fill_diagonal(square, np.nan)
        others = ~np.isnan(square)
        total, number = np.where(others, square, 0.0).sum(1), others.sum(1)
        mean = np.divide(total, number, out=np.full(count, np.nan), where=number > 0)
        kept = {axis: labels[axis] for axis in ("layer", "head")}
        return replace(found, values=mean.reshape(found.values.shape[:2]), axes=("layer", "head"), coordinates=kept)
    if "query" not in axes or axes[-1] != "key":
        return found
    given = np.array(labels["key"], dtype=np.int64) < prompt
    unknown = np.isnan(found.values).any(-1)
    parts = [np.where(unknown, np.nan, found.values[..., some].sum(-1)) for some in (given, ~given)]
    kept = {**{axis: labels[axis] for axis in axes[:-1]}, "span": ("prompt", "generated")}
    return replace(found, values=np.stack(parts, -1), axes=(*axes[:-1], "span"), coordinates=kept)


def columns_of(found: Measure, name: str, heads: Mapping[int, int], *, steps: bool) -> list[Measured]:
    """A measure as columns.

    Args:
        found: The measure.
        name: What its column is called.
        heads: Layer → number of its heads.
        steps: Whether to keep values step by step.

    Raises:
        MeasureError: If its axes fit no table.
    """
    named = [axis for axis in found.axes if axis in NAMED]
    along = [axis for axis in found.axes if axis in STEPS]
    rest = [axis for axis in found.axes if axis not in (*named, *along)]
    if rest not in ([], ["layer", "head"]) or len(along) > 1 or (not rest and along == ["key"]):
        raise MeasureError(
            f"putting {found.name} into a table",
            f"its axes are {', '.join(found.axes)}",
            "wrap it in a function that leaves one row a head, a token or a generation",
        )
    columns: list[Measured] = []
    for labels in itertools.product(*(found.coordinates[axis] for axis in named)):
        part = found.select(**dict(zip(named, labels, strict=True))) if named else found
        column = ".".join([name, *map(str, labels)])
        part = replace(part, unit=_unit(found.unit, labels))
        if rest:
            columns.append(_by_head(part, column, along, heads, steps=steps))
        elif along:
            values = zip(part.coordinates[along[0]], part.values.tolist(), strict=True)
            positions = {int(position): value for position, value in values}
            columns.append(Measured(column, positions=positions, unit=part.unit))
        else:
            columns.append(Measured(column, scalar=float(part), unit=part.unit))
    return columns


def _unit(unit: str, labels: Sequence[Label]) -> str:
    """The unit of a column; a measure of several statistics names those of the figure itself first."""
    own = [{"p": "", "p_adjusted": "", "d": "", "delta": "", "count": "values"}.get(str(label)) for label in labels]
    return next((one for one in own if one is not None), unit.partition(";")[0])


def _by_head(part: Measure, column: str, along: list[str], heads: Mapping[int, int], *, steps: bool) -> Measured:
    means = (part.mean(*along) if along else part).values.tolist()
    layers, numbers = part.coordinates["layer"], part.coordinates["head"]
    axes = part.axes.index("layer"), part.axes.index("head")
    values = part.values.transpose(*axes, *(axis for axis in range(part.values.ndim) if axis not in axes))
    mean: dict[Place, float] = {}
    series: dict[Place, list[float]] = {}
    for row, layer in enumerate(layers):
        for column_number, head in enumerate(numbers):
            if int(head) >= heads.get(int(layer), 0):
                continue
            place = int(layer), int(head)
            mean[place] = means[row][column_number]
            if steps and along:
                labels = [int(label) for label in part.coordinates[along[0]]]
                known = dict(zip(labels, values[row, column_number].tolist(), strict=True))
                series[place] = [known.get(position, float("nan")) for position in range(max(labels, default=-1) + 1)]
    return Measured(column, heads=mean, steps=series or None, unit=part.unit)
