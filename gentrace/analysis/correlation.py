"""Whether heads look in another way before tokens that the model did not expect.

Row p predicts token p + 1, so what a head did in row p is set beside the surprise of token p + 1. Tokens of one text
are not independent, so neighbours are drawn together in the bootstrap, or whole texts when there are many. Later rows
see more keys, and later tokens are often less surprising, which alone makes a measure such as entropy go with surprise.
``hold_position`` takes that out. It is not the default, because the plain correlation is what the name says and what
anyone can compute again; a measure's name tells the two apart, ``surprise_correlation(attention_entropy)`` and
``surprise_correlation(attention_entropy | position)``. Before saying that a head watches for surprise, ask for both.
"""

from collections.abc import Sequence
from itertools import combinations_with_replacement
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gentrace.analysis.errors import MeasureError
from gentrace.analysis.measure import Array, Measure
from gentrace.analysis.registry import MeasureFunction, evaluate, register
from gentrace.analysis.resampling import Plan, bca_interval, resampled
from gentrace.analysis.statistics import adjusted
from gentrace.analysis.tokens import token_surprise
from gentrace.trace.trace import Trace

Method: TypeAlias = Literal["pearson", "spearman"]
CORRELATION = ("correlation", "low", "high", "p", "p_adjusted", "count")
"""What a correlation gives for each cell."""


@register
def surprise_correlation(
    trace: Trace,
    measure: str | MeasureFunction = "attention_entropy",
    *,
    method: Method = "spearman",
    hold_position: bool = False,
    block: int | None = None,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    **options: Any,
) -> Measure:
    """How a measure of heads goes with the surprise of the token that each row predicts, within one text.

    Args:
        trace: The trace.
        measure: A measure with a "query" axis, by name or as a function.
        method: "pearson", or "spearman" for Pearson's correlation of ranks, which are taken once, before resampling.
        hold_position: Give the partial correlation, the row's position being held constant: of what is left of both
            after a straight line over positions (of ranks over ranks, if "spearman") was taken off. Without it, a
            common drift along the text counts as correlation.
        block: Neighbouring tokens to draw together; the cube root of their number if None.
        level: Coverage of intervals.
        resamples: How many resamples to draw; all heads share them.
        seed: Where the random numbers begin.
        **options: Handed to the measure, such as ``layers`` or ``queries``.

    Returns:
        ``[layer, head, statistic]``, with the measure's further axes before "statistic": "correlation", −1 … 1; "low"
        and "high" of its bootstrap interval (BCa, Efron 1987; blocks as in Politis & Romano 1992); "p", two-sided, from
        the bootstrap's standard error of Fisher's z; "p_adjusted" over all cells by Benjamini & Hochberg 1995; "count"
        of pairs. NaN where nothing varies or fewer than four pairs are known.

    Raises:
        AttentionUnavailable: If a layer was not recorded.
        MeasureError: If the measure is unknown or has no "query" axis, its rows are an encoder's and predict
            nothing, or an argument makes no sense.
    """
    if options.get("kind") == "encoder":
        raise MeasureError("correlating with surprise", "an encoder's rows predict no token", "use self or cross")
    found = evaluate(trace, measure, **options)
    cells, target = _aligned(found, token_surprise(trace))
    size = block if block is not None else max(1, round(cells.shape[1] ** (1 / 3)))
    held = np.array(found.coordinates["query"], dtype=np.float64) if hold_position else None
    figures = _correlate(cells, target, held, method, Plan(level, resamples, seed, size), None)
    return _with_statistics(found, figures, (found,), hold_position=hold_position)


def pooled_surprise_correlation(
    measures: Sequence[Measure],
    surprises: Sequence[Measure],
    *,
    method: Method = "spearman",
    hold_position: bool = False,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Measure:
    """How a measure of heads goes with the surprise of the token that each row predicts, over many texts.

    Rows of all texts are put together; whole texts are drawn in the bootstrap. Differences between texts count like
    those within a text.

    Args:
        measures: One for each trace, with a "query" axis; other axes and labels must agree.
        surprises: The same traces' `token_surprise`, or another measure over "position".
        method: "pearson", or "spearman" for Pearson's correlation of ranks over all texts.
        hold_position: Give the partial correlation, the row's position in its text being held constant.
        level: Coverage of intervals.
        resamples: How many resamples to draw; all heads share them.
        seed: Where the random numbers begin.

    Returns:
        As `surprise_correlation`.

    Raises:
        MeasureError: If there are none, or they do not fit together.
    """
    if not measures or len(measures) != len(surprises):
        raise MeasureError(
            "correlating over traces",
            f"{len(measures)} measures, {len(surprises)} surprises",
            "give one of each for every trace",
        )
    pairs = [_aligned(measure, surprise) for measure, surprise in zip(measures, surprises, strict=True)]
    labels = [{axis: where for axis, where in one.coordinates.items() if axis != "query"} for one in measures]
    if any(label != labels[0] or one.axes != measures[0].axes for label, one in zip(labels, measures, strict=True)):
        raise MeasureError(
            "correlating over traces", "measures with different axes or labels", "measure the same heads of each trace"
        )
    cells = np.concatenate([cells for cells, _ in pairs], 1)
    target = np.concatenate([target for _, target in pairs])
    texts = np.repeat(np.arange(len(pairs)), [len(target) for _, target in pairs])
    positions = [np.array(measure.coordinates["query"], dtype=np.float64) for measure in measures]
    held = np.concatenate(positions) if hold_position else None
    figures = _correlate(cells, target, held, method, Plan(level, resamples, seed), texts)
    return _with_statistics(measures[0], figures, measures, hold_position=hold_position)


def _aligned(measure: Measure, surprise: Measure) -> tuple[Array, Array]:
    """``[cell, query]`` a measure, and ``[query]`` the surprise of the token that each row predicts."""
    if "query" not in measure.axes or surprise.axes != ("position",):
        raise MeasureError(
            "correlating with surprise",
            f"{measure!r} and {surprise!r}",
            'give a measure with a "query" axis and one over "position"',
        )
    place = measure.axes.index("query")
    queries = np.array(measure.coordinates["query"], dtype=np.intp)
    values = np.moveaxis(measure.values, place, -1).reshape(-1, len(queries))
    predicted = queries + 1
    inside = predicted < len(surprise.values)
    target = np.full(len(queries), np.nan)
    target[inside] = surprise.values[predicted[inside]]
    return values, target


def _correlate(
    cells: Array, target: Array, held: Array | None, method: Method, plan: Plan, texts: NDArray[np.intp] | None
) -> tuple[Array, ...]:
    """The figures of `CORRELATION`, each ``[cell]``, of ``[cell, query]`` and ``[query]``."""
    from scipy.stats import norm, rankdata

    if method not in ("pearson", "spearman"):
        raise MeasureError("correlating with surprise", f"method={method!r}", 'give "pearson" or "spearman"')
    keep = ~np.isnan(target) & ~np.isnan(cells).all(0)
    first = cells[:, keep]
    known = ~np.isnan(first)
    series = [first, *(np.where(known, one[keep], np.nan) for one in (target, held) if one is not None)]
    if method == "spearman":
        series = [rankdata(one, axis=-1, nan_policy="omit") for one in series]
    sums = _sums(series, known)
    if texts is not None:
        grouped = np.zeros((int(texts.max(initial=-1)) + 1, *sums.shape[1:]))
        np.add.at(grouped, texts[keep], sums)
        sums = grouped[grouped[:, 0].any(-1)]
    total = sums.sum(0)
    count = total[0]
    enough = (count >= 4) & np.logical_and.reduce([_vary(one) for one in series])
    value = np.where(enough, _coefficient(total), np.nan)
    if not enough.any():
        return value, value, value, value, value, count
    found = np.where(enough, resampled(sums, _coefficient, plan), np.nan)
    low, high = bca_interval(value, found, _coefficient(total - sums), plan.level)
    bound = 1 - 1e-12
    z = np.arctanh(np.clip(value, -bound, bound))
    error = _deviation(np.arctanh(np.clip(found, -bound, bound)))
    with np.errstate(invalid="ignore", divide="ignore"):
        p = np.where(z == 0, 1.0, 2 * norm.sf(np.abs(z) / error))
    p = np.where(enough, p, np.nan)
    several = (sums[:, 0] > 0).sum(0) >= 2
    low, high, p = (np.where(several, figure, np.nan) for figure in (low, high, p))
    return value, low, high, p, adjusted(p), count


def _vary(values: Array) -> NDArray[np.bool_]:
    """Which rows of ``[cell, query]`` hold different known values."""
    known = ~np.isnan(values)
    most = np.where(known, values, -np.inf).max(-1, initial=-np.inf)
    return most > np.where(known, values, np.inf).min(-1, initial=np.inf)


def _sums(series: Sequence[Array], known: NDArray[np.bool_]) -> Array:
    """``[query, sum, cell]``: the count, each series, and each product of two; centred so that nothing cancels."""
    count = np.maximum(known.sum(-1, keepdims=True), 1)
    centred = [np.where(known, one - np.nansum(one, -1, keepdims=True) / count, 0.0) for one in series]
    products = [one * other for one, other in combinations_with_replacement(centred, 2)]
    return np.stack([known.astype(np.float64), *centred, *products]).transpose(2, 0, 1)


def _coefficient(sums: Array) -> Array:
    """Correlation of the first two series, the third held constant if there is one; ``[..., sum, cell]``."""
    if sums.shape[-2] == 6:
        count, x, y, xx, xy, yy = np.moveaxis(sums, -2, 0)
        return _pearson(count, x, y, xx, yy, xy)
    count, x, y, z, xx, xy, xz, yy, yz, zz = np.moveaxis(sums, -2, 0)
    direct = _pearson(count, x, y, xx, yy, xy)
    by_x, by_y = _pearson(count, x, z, xx, zz, xz), _pearson(count, y, z, yy, zz, yz)
    with np.errstate(invalid="ignore", divide="ignore"):
        left = (1 - by_x**2) * (1 - by_y**2)
        return np.where(left > 1e-12, np.clip((direct - by_x * by_y) / np.sqrt(left), -1, 1), np.nan)


def _pearson(count: Array, x: Array, y: Array, xx: Array, yy: Array, xy: Array) -> Array:
    """Pearson's correlation from sums; NaN where nothing varies."""
    with np.errstate(invalid="ignore", divide="ignore"):
        spread_x, spread_y = xx - x * x / count, yy - y * y / count
        varies = (spread_x > 1e-12 * xx) & (spread_y > 1e-12 * yy)
        return np.where(varies, np.clip((xy - x * y / count) / np.sqrt(spread_x * spread_y), -1, 1), np.nan)


def _deviation(found: Array) -> Array:
    """Standard deviation over resamples, NaN ignored."""
    known = ~np.isnan(found)
    count = np.maximum(known.sum(0), 1)
    mean = np.where(known, found, 0.0).sum(0) / count
    return np.sqrt(np.where(known, (found - mean) ** 2, 0.0).sum(0) / np.maximum(count - 1, 1))


def _with_statistics(
    like: Measure, figures: tuple[Array, ...], measures: Sequence[Measure], *, hold_position: bool
) -> Measure:
    axes = tuple(axis for axis in like.axes if axis != "query")
    coordinates = {axis: like.coordinates[axis] for axis in axes}
    shape = tuple(len(labels) for labels in coordinates.values())
    return Measure(
        f"surprise_correlation({like.name}{' | position' if hold_position else ''})",
        np.stack(figures, -1).reshape(*shape, len(CORRELATION)),
        (*axes, "statistic"),
        "correlation; p; count",
        {**coordinates, "statistic": CORRELATION},
        sum(measure.unseen for measure in measures),
        sum(measure.blind for measure in measures),
        like.absent,
    )
