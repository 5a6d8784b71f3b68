"""The bootstrap, as matrix products: how often each unit was drawn, times sums over units.

A mean, a variance or a correlation is made of sums. If S holds each unit's share of the sums, [unit, cell], and W how
often each resample drew each unit, [resample, unit], then W @ S holds the sums of every resample for every cell at
once, such as every head of a model. SciPy's ``bootstrap`` copies the data for each resample, takes one observation for
the unit, and has no blocks and no missing values; the tests compare the two where they can be compared. Everything is
drawn from a seed: the same call gives the same figures.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gentrace.analysis.errors import MeasureError
from gentrace.analysis.measure import Array

CHUNK = 2**22
"""Numbers of a chunk of resamples."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How to resample."""

    level: float = 0.95
    """Coverage of intervals."""
    resamples: int = 2000
    """How many resamples to draw."""
    seed: int = 0
    """Where the random numbers begin."""
    block: int = 1
    """Neighbouring units that are drawn together: the circular moving-block bootstrap of Politis & Romano 1992."""

    def __post_init__(self) -> None:
        if not 0 < self.level < 1 or self.resamples < 2 or self.block < 1:
            raise MeasureError(
                "planning a bootstrap",
                f"level={self.level}, resamples={self.resamples}, block={self.block}",
                "give a level between 0 and 1, at least 2 resamples and blocks of at least 1",
            )


def draws(units: int, plan: Plan, widest: int = 0) -> Iterator[Array]:
    """How often each resample drew each unit, ``[resample, unit]``, some resamples at a time.

    Each resample draws as many units as there are.

    Args:
        units: How many units there are.
        plan: How to resample.
        widest: Numbers that are made of each resample, so that they fit into the memory, and so that two groups come in
            equal parts.
    """
    rng = np.random.default_rng(plan.seed)
    most = max(1, CHUNK // max(1, units, widest))
    block = min(plan.block, units)
    for start in range(0, plan.resamples, most):
        count = min(most, plan.resamples - start)
        if block == 1:
            yield rng.multinomial(units, np.full(units, 1 / units), size=count).astype(np.float64)
            continue
        first = rng.integers(units, size=(count, -(-units // block)))
        drawn = (first[:, :, None] + np.arange(block)).reshape(count, -1)[:, :units] % units
        flat = drawn + np.arange(count)[:, None] * units
        yield np.bincount(flat.reshape(-1), minlength=count * units).reshape(count, units).astype(np.float64)


def resampled(sums: Array, statistic: Callable[[Array], Array], plan: Plan) -> Array:
    """A statistic of every resample.

    Args:
        sums: ``[unit, sum, cell]`` each unit's share of the sums that the statistic is made of.
        statistic: From ``[..., sum, cell]`` to ``[..., cell]``.
        plan: How to resample.

    Returns:
        ``[resample, cell]``.
    """
    units, kinds, cells = sums.shape
    parts = [
        statistic((drawn @ sums.reshape(units, -1)).reshape(-1, kinds, cells))
        for drawn in draws(units, plan, kinds * cells)
    ]
    return np.concatenate(parts)


def bca_interval(value: Array, found: Array, left_out: Array, level: float) -> tuple[Array, Array]:
    """Bias-corrected and accelerated bootstrap interval: Efron 1987, "Better Bootstrap Confidence Intervals".

    Args:
        value: ``[cell]`` the statistic of all units.
        found: ``[resample, cell]`` the statistic of each resample; NaN where it could not be computed.
        left_out: ``[unit, cell]`` the statistic without each unit in turn.
        level: Coverage.

    Returns:
        Lower and upper end, each ``[cell]``; NaN where fewer than two units are known.
    """
    from scipy.stats import norm

    known = ~np.isnan(found)
    count = known.sum(0)
    below = np.where(known, (found < value) + 0.5 * (found == value), 0.0).sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.clip(below / count, 0.5 / count, 1 - 0.5 / count)
        bias = norm.ppf(share)
        some = ~np.isnan(left_out)
        distance = np.where(some, left_out, 0.0).sum(0) / some.sum(0) - left_out
        # The acceleration has no unit; without this, squares of tiny values would vanish.
        distance = distance / np.where(some, np.abs(distance), 0.0).max(0, initial=0.0)
        cubes, squares = np.nansum(distance**3, 0), np.nansum(distance**2, 0)
        acceleration = np.where(squares > 0, cubes / (6 * squares**1.5), 0.0)
        ends: list[Array] = []
        for tail in ((1 - level) / 2, (1 + level) / 2):
            shifted = bias + norm.ppf(tail)
            ends.append(_quantiles(found, norm.cdf(bias + shifted / (1 - acceleration * shifted))))
    return ends[0], ends[1]


def percentile_interval(found: Array, level: float) -> tuple[Array, Array]:
    """The middle share of the resamples, each end ``[cell]``; NaN where no resample is known."""
    cells = found.shape[1]
    return (
        _quantiles(found, np.full(cells, (1 - level) / 2)),
        _quantiles(found, np.full(cells, (1 + level) / 2)),
    )


def _quantiles(found: Array, share: Array) -> Array:
    """A quantile of each cell's resamples, its own share for each cell; NaN are ignored."""
    ordered = np.sort(found, axis=0)
    count = (~np.isnan(found)).sum(0)
    place = np.nan_to_num(share) * np.maximum(count - 1, 0)
    lower: NDArray[np.intp] = np.floor(place).astype(np.intp)
    upper = np.minimum(lower + 1, np.maximum(count - 1, 0))
    cell = np.arange(found.shape[1])
    low, high = ordered[lower, cell], ordered[upper, cell]
    return np.where((count > 0) & ~np.isnan(share), low + (high - low) * (place - lower), np.nan)
