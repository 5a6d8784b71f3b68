"""Figures over many traces: means with intervals, and measures of many traces put together.

A value is one trace's, so traces are the units of every bootstrap. NaN stands for a trace that says nothing, and is
left out of the cell in question. Everything is drawn from a seed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gentrace.analysis.errors import MeasureError
from gentrace.analysis.measure import Array, Measure
from gentrace.analysis.resampling import Plan, bca_interval, resampled

BLOCK = 2**21
"""Numbers of units and cells that are resampled together."""
MEAN = ("mean", "low", "high", "count")
"""What `summarize` gives for each cell."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure and its interval."""

    value: float
    """The figure."""
    low: float
    """Lower end of the interval; NaN if it cannot be told."""
    high: float
    """Upper end."""
    count: int
    """Values that it rests on."""
    level: float
    """Coverage of the interval."""


def mean_interval(
    values: ArrayLike,
    *,
    groups: Sequence[int | str] | None = None,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """The mean of values with a bootstrap interval (BCa, Efron 1987).

    Args:
        values: ``[value]``; NaN are left out.
        groups: For each value what it belongs to, such as its trace: whole groups are drawn then, as values of one text
            are not independent. None if each value stands for itself.
        level: Coverage.
        resamples: How many resamples to draw.
        seed: Where the random numbers begin.

    Returns:
        The mean; NaN of no values. The interval is NaN for fewer than two values or groups.

    Raises:
        MeasureError: If the groups are not as many as the values, or the level makes no sense.
    """
    array = np.asarray(values, dtype=np.float64).reshape(-1)
    if groups is not None and len(groups) != len(array):
        raise MeasureError(
            "averaging values by groups", f"{len(array)} values, {len(groups)} groups", "give a group for each value"
        )
    names = np.unique(np.asarray(groups), return_inverse=True)[1] if groups is not None else None
    mean, low, high, count = _means(array[:, None], Plan(level, resamples, seed), names)
    return Estimate(float(mean[0]), float(low[0]), float(high[0]), int(count[0]), level)


def summarize(measures: Sequence[Measure], *, level: float = 0.95, resamples: int = 2000, seed: int = 0) -> Measure:
    """The mean of a measure over traces, cell by cell, with a bootstrap interval (BCa).

    Args:
        measures: One for each trace, all with the same axes and labels; average over queries or positions first.
        level: Coverage.
        resamples: How many resamples to draw; all cells share them.
        seed: Where the random numbers begin.

    Returns:
        ``[*axes, statistic]`` with the statistics "mean", "low", "high" and "count".

    Raises:
        MeasureError: If there are none, or their axes or labels differ.
    """
    stacked, like = stack(measures)
    figures = cell_means(stacked, level=level, resamples=resamples, seed=seed)
    return with_statistics(like, measures, figures, MEAN, like.unit)


def cell_means(
    values: Array, *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[Array, Array, Array, Array]:
    """What `summarize` says, of plain numbers: some cells at a time, so that many units need little more memory.

    Args:
        values: ``[unit, cell]``; NaN where a unit says nothing.
        level: Coverage.
        resamples: How many resamples to draw; all cells share them.
        seed: Where the random numbers begin.

    Returns:
        Mean, low, high and count, each ``[cell]``.
    """
    plan = Plan(level, resamples, seed)
    parts = [_means(values[:, some], plan) for some in cells_at_a_time(*values.shape)]
    mean, low, high, count = (np.concatenate(figures) for figures in zip(*parts, strict=True))
    return mean, low, high, count


def cells_at_a_time(units: int, cells: int) -> list[slice]:
    """All cells, as many together as fit into `BLOCK` numbers; one empty slice if there are none."""
    most = max(1, BLOCK // max(1, units))
    return [slice(start, start + most) for start in range(0, max(cells, 1), most)]


def adjusted(p: Array) -> Array:
    """p-values corrected for their number, so that a threshold bounds the share of false discoveries.

    Benjamini & Hochberg 1995, by ``scipy.stats.false_discovery_control``; NaN are no tests and stay NaN.

    Args:
        p: Of any shape.
    """
    from scipy.stats import false_discovery_control

    known = ~np.isnan(p)
    found = np.full(p.shape, np.nan)
    if known.any():
        found[known] = false_discovery_control(p[known], method="bh")
    return found


def check_alike(first: Measure, second: Measure) -> None:
    """Refuse two measures that do not line up cell by cell.

    Raises:
        MeasureError: If axes, labels or unit differ.
    """
    if first.axes != second.axes or first.coordinates != second.coordinates or first.unit != second.unit:
        raise MeasureError(
            "putting measures together",
            f"{first!r} and {second!r} differ in axes, labels or unit",
            "select the same labels, or average over the axes that differ",
        )


def stack(measures: Sequence[Measure]) -> tuple[Array, Measure]:
    """``[trace, cell]``, and the first measure."""
    if not measures:
        raise MeasureError("putting measures together", "there are none", "give at least one")
    for measure in measures:
        check_alike(measures[0], measure)
    return np.stack([measure.values.reshape(-1) for measure in measures]), measures[0]


def with_statistics(
    like: Measure, measures: Sequence[Measure], figures: Sequence[Array], names: tuple[str, ...], unit: str
) -> Measure:
    """Figures, each ``[cell]``, as one measure with an axis "statistic" after the axes of ``like``."""
    values = np.stack(figures, -1).reshape(*like.values.shape, len(names))
    return Measure(
        like.name,
        values,
        (*like.axes, "statistic"),
        unit,
        {**like.coordinates, "statistic": names},
        sum(measure.unseen for measure in measures),
        sum(measure.blind for measure in measures),
        like.absent,
    )


def _means(values: Array, plan: Plan, groups: NDArray[np.intp] | None = None) -> tuple[Array, Array, Array, Array]:
    """Mean, ends of its interval and count of each cell of ``[value, cell]``."""
    sums = sums_of(values)
    if groups is not None:
        grouped = np.zeros((int(groups.max(initial=-1)) + 1, *sums.shape[1:]))
        np.add.at(grouped, groups, sums)
        sums = grouped
    total = sums.sum(0)
    mean = mean_of(total)
    if not len(sums):
        return mean, mean, mean, total[0]
    low, high = bca_interval(mean, resampled(sums, mean_of, plan), mean_of(total - sums), plan.level)
    enough = (sums[:, 0] > 0).sum(0) >= 2
    return mean, np.where(enough, low, np.nan), np.where(enough, high, np.nan), total[0]


def sums_of(values: Array) -> Array:
    """``[value, cell]`` as each value's share of a count and a sum, ``[value, 2, cell]``."""
    known = ~np.isnan(values)
    return np.stack([known.astype(np.float64), np.where(known, values, 0.0)], 1)


def mean_of(sums: Array) -> Array:
    """Means from what `sums_of` gives, summed over any values: ``[..., 2, cell]`` to ``[..., cell]``."""
    count, total = sums[..., 0, :], sums[..., 1, :]
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0.5)
