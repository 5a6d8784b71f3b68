"""How far two groups of traces lie apart: effect sizes, tests, and a correction for many heads.

A value is one trace's. Positive figures say that the first group's values are larger. NaN stands for a trace that says
nothing, and is left out of the cell in question. Everything is drawn from a seed.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from gentrace.analysis.errors import MeasureError
from gentrace.analysis.measure import Array, Measure
from gentrace.analysis.resampling import Plan, draws, percentile_interval, resampled
from gentrace.analysis.statistics import (
    Estimate,
    adjusted,
    cells_at_a_time,
    check_alike,
    mean_of,
    stack,
    sums_of,
    with_statistics,
)

CONTRAST = ("difference", "low", "high", "d", "delta", "p", "p_adjusted")
"""What `contrast` gives for each cell."""

Effect: TypeAlias = Callable[[Array, Array, Array, Array], Array]
"""An effect of every resample: how often each drew the first and the second group's values, and the values."""


def cohens_d(
    first: ArrayLike, second: ArrayLike, *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Estimate:
    """Difference of means in units of the pooled standard deviation: Cohen 1988, "Statistical Power Analysis".

    Args:
        first: ``[value]``; NaN are left out.
        second: ``[value]``; positive d says that the first are larger.
        level: Coverage of the percentile bootstrap interval.
        resamples: How many resamples to draw.
        seed: Where the random numbers begin.

    Returns:
        d; NaN if either has fewer than two values, or nothing varies.
    """
    return _effect(first, second, _cohen, Plan(level, resamples, seed))


def cliffs_delta(
    first: ArrayLike, second: ArrayLike, *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Estimate:
    """How often a first value exceeds a second one, minus how often it is exceeded: Cliff 1993, "Dominance Statistics".

    Args:
        first: ``[value]``; NaN are left out.
        second: ``[value]``.
        level: Coverage of the percentile bootstrap interval.
        resamples: How many resamples to draw.
        seed: Where the random numbers begin.

    Returns:
        δ, −1 … 1: 1 if every first value exceeds every second one; NaN if either has no values.
    """
    return _effect(first, second, _cliff, Plan(level, resamples, seed))


def contrast(
    first: Sequence[Measure],
    second: Sequence[Measure],
    *,
    paired: bool = False,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Measure:
    """How a measure differs between two groups of traces, cell by cell, with a correction for many cells.

    Args:
        first: One for each trace of one group, all with the same axes and labels.
        second: One for each trace of the other.
        paired: Whether the i-th of both belong together, such as one prompt under two settings.
        level: Coverage.
        resamples: How many resamples to draw; all cells share them.
        seed: Where the random numbers begin.

    Returns:
        ``[*axes, statistic]``: "difference" of means (first − second) with "low" and "high" of its percentile bootstrap
        interval; Cohen's "d"; Cliff's "delta"; "p" of the Mann–Whitney U test, or of Wilcoxon's signed ranks if paired
        (SciPy); "p_adjusted" over all cells by Benjamini & Hochberg 1995.

    Raises:
        MeasureError: If a group is empty, axes or labels differ, or paired groups differ in size.
    """
    ours, like = stack(first)
    theirs, other = stack(second)
    check_alike(like, other)
    if paired and len(ours) != len(theirs):
        raise MeasureError(
            "contrasting pairs", f"{len(ours)} and {len(theirs)} traces", "give the same number, in the same order"
        )
    figures = cell_contrast(ours, theirs, paired=paired, plan=Plan(level, resamples, seed))
    return with_statistics(like, [*first, *second], figures, CONTRAST, f"{like.unit}; d, δ and p without unit")


def cell_contrast(first: Array, second: Array, *, paired: bool, plan: Plan) -> tuple[Array, ...]:
    """The figures of `contrast`, of plain numbers: some cells at a time, so that many units need little more memory.

    Args:
        first: ``[unit, cell]``; NaN where a unit says nothing.
        second: ``[unit, cell]``; of the same units in the same order if paired.
        paired: Whether they are.
        plan: How to resample.

    Returns:
        Those of `CONTRAST`, each ``[cell]``.
    """
    parts = [
        _contrasted(first[:, some], second[:, some], plan, paired=paired)
        for some in cells_at_a_time(len(first) + len(second), first.shape[1])
    ]
    figures = [np.concatenate(found) for found in zip(*parts, strict=True)]
    return (*figures, adjusted(figures[-1]))


def _contrasted(ours: Array, theirs: Array, plan: Plan, *, paired: bool) -> tuple[Array, ...]:
    """The figures but for the last."""
    if paired:
        ours, theirs = np.where(np.isnan(theirs), np.nan, ours), np.where(np.isnan(ours), np.nan, theirs)
        found = resampled(sums_of(ours - theirs), mean_of, plan)
    else:
        found = resampled(sums_of(ours), mean_of, plan)
        found = found - resampled(sums_of(theirs), mean_of, replace(plan, seed=plan.seed + 1))
    low, high = percentile_interval(found, plan.level)
    pairs = [(_known(ours[:, cell]), _known(theirs[:, cell])) for cell in range(ours.shape[1])]
    means = np.array([_mean(a) - _mean(b) for a, b in pairs])
    d = np.array([float(_cohen(_once(a), _once(b), a, b)[0]) for a, b in pairs])
    delta = np.array([_dominance(a, b) for a, b in pairs])
    p = np.array([_p_value(a, b, paired) for a, b in pairs])
    return means, low, high, d, delta, p


def _dominance(first: Array, second: Array) -> float:
    """Cliff's δ by ranks, which needs no table of all pairs."""
    if not len(first) or not len(second):
        return float("nan")
    order = np.sort(second)
    less, most = np.searchsorted(order, first, "left"), np.searchsorted(order, first, "right")
    return float((less.sum() - (len(second) - most).sum()) / (len(first) * len(second)))


def _known(values: Array) -> Array:
    return values[~np.isnan(values)]


def _once(values: Array) -> Array:
    """The resample that draws each value once."""
    return np.ones((1, len(values)))


def _mean(values: Array) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _cohen(drawn: Array, others: Array, first: Array, second: Array) -> Array:
    """Cohen's d of every resample; ``drawn`` ``[resample, value]`` says how often each value counts."""
    count, other = drawn.sum(1), others.sum(1)
    if len(first) < 2 or len(second) < 2:
        return np.full(len(drawn), np.nan)
    middle = np.concatenate([first, second]).mean()
    first, second = first - middle, second - middle
    mean, mean_of_others = drawn @ first / count, others @ second / other
    spread = drawn @ first**2 - count * mean**2 + others @ second**2 - other * mean_of_others**2
    # What is left of equal values is rounding.
    scale = np.concatenate([first, second])
    varies = spread > 1e-14 * max(float(scale @ scale), 1e-300)
    deviation = np.sqrt(np.where(varies, spread, np.nan) / (count + other - 2))
    return (mean - mean_of_others) / deviation


def _cliff(drawn: Array, others: Array, first: Array, second: Array) -> Array:
    """δ of every resample."""
    if not len(first) or not len(second):
        return np.full(len(drawn), np.nan)
    above = np.sign(first[:, None] - second)
    return ((drawn @ above) * others).sum(1) / (drawn.sum(1) * others.sum(1))


def _effect(first: ArrayLike, second: ArrayLike, effect: Effect, plan: Plan) -> Estimate:
    ours, theirs = (_known(np.asarray(values, dtype=np.float64).reshape(-1)) for values in (first, second))
    value = float(effect(_once(ours), _once(theirs), ours, theirs)[0])
    low = high = float("nan")
    if len(ours) > 1 and len(theirs) > 1:
        widest, other = max(len(ours), len(theirs)), replace(plan, seed=plan.seed + 1)
        both = zip(draws(len(ours), plan, widest), draws(len(theirs), other, widest), strict=True)
        found = np.concatenate([effect(drawn, others, ours, theirs) for drawn, others in both])
        ends = percentile_interval(found[:, None], plan.level)
        low, high = float(ends[0][0]), float(ends[1][0])
    return Estimate(value, low, high, len(ours) + len(theirs), plan.level)


def _p_value(first: Array, second: Array, paired: bool) -> float:
    from scipy.stats import mannwhitneyu, wilcoxon

    if not len(first) or not len(second):
        return float("nan")
    test: Any = wilcoxon if paired else mannwhitneyu
    # Both tests divide by nothing where all values are the same.
    same = (first == second).all() if paired else np.ptp(np.concatenate([first, second])) == 0
    return 1.0 if same else float(test(first, second).pvalue)
