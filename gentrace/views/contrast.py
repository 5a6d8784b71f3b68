"""What a factor changes: for heads a map of differences, for everything else two distributions side by side."""

import numpy as np
import plotly.graph_objects as go

from gentrace.views import signed, theme
from gentrace.views.cells import Scale
from gentrace.views.distribution import describe, spread
from gentrace.views.head_map import cells_of, head_layout
from gentrace.views.labels import escape
from gentrace.views.sheet import colour_axis
from gentrace.views.study_contrast import Difference, read_contrast
from gentrace.views.study_tables import Tables, Where, find_measure, grid, number

THRESHOLD = 0.05
"""Largest adjusted p of a cell that gets a dot."""


def contrast(
    study: Tables,
    measure: str,
    factor: str,
    values: tuple[object, object] | None = None,
    *,
    units: str = "prompt_id",
    where: Where = None,
    level: float = 0.95,
    dark: bool = False,
) -> go.Figure:
    """What changes between two groups: differences of means, intervals, effect sizes, and a test with its name.

    Heads are shown as a map: orange where the first group's values are larger, blue where the second's are, and a dot
    where p is at most 0.05 after correction for the number of heads (Benjamini & Hochberg 1995). Other measures are
    shown as two distributions. Prompts (or whatever ``units`` names) that stand in both groups are compared in pairs:
    then p is of Wilcoxon's signed ranks, else of the Mann–Whitney U test. Intervals are of the difference of means, by
    the percentile bootstrap.

    Args:
        study: The study, from `gentrace.open_study`.
        measure: Any measure.
        factor: A factor, "model", "decoding", "seed", or a column of the generations, such as a measure of one number.
        values: The two groups, first minus second; None if there are no more than two.
        units: The column whose values are independent of each other, and which says what belongs together in pairs.
        where: Which rows to read.
        level: Coverage of the intervals.
        dark: Light text on a dark ground.

    Raises:
        ViewError: If there are not two such groups, or no measure or column of that name.
    """
    found = read_contrast(study, measure, factor, values, units=units, where=where, level=level)
    colours = theme.DARK if dark else theme.LIGHT
    first, second = found.names
    title = f"{found.sample.study}\n{measure}, {factor}: {first} against {second}"
    if find_measure(study, measure)[0] != "heads":
        return spread(found.sample, factor, title, sentence(found), level, colours)
    return _map(found, title, colours)


def sentence(found: Difference) -> str:
    """The one difference of a measure without heads, in words over two lines."""
    first, second = found.names
    unit = f" {found.sample.unit}" if found.sample.unit else ""
    return (
        f"{describe(found.sample)}; {first} − {second} = {number(found.difference[0])}{unit}, "
        f"{number(found.low[0])} … {number(found.high[0])}: {found.interval}\n"
        f"Cohen's d {number(found.d[0])}, Cliff's δ {number(found.delta[0])}, p = {number(found.p[0])} "
        f"({found.test}; {found.units})"
    )


def _map(found: Difference, title: str, colours: theme.Theme) -> go.Figure:
    sample = found.sample
    layers, heads, table = grid(sample.cells, found.difference)
    texts = [_text(found, place) for place in range(len(sample.cells))]
    heat = cells_of(sample.cells, table, layers, heads, texts)
    clear = [cell for cell, p in zip(sample.cells, found.p_adjusted, strict=True) if p <= THRESHOLD]
    note = (
        f"difference of means{f' in {sample.unit}' if sample.unit else ''}; {found.units}\n"
        f"{len(clear)} of {len(sample.cells)} heads have a dot: p ≤ {THRESHOLD} by the {found.test}, corrected for the "
        "number of heads (Benjamini–Hochberg)"
    )
    dots = go.Scatter(
        name="p ≤ 0.05, corrected", mode="markers", hoverinfo="skip",
        x=[heads.index(cell[1]) for cell in clear], y=[layers.index(cell[0]) for cell in clear],
        marker={"size": 5, "color": colours.ink, "line": {"width": 1, "color": colours.card}},
    )  # fmt: skip
    layout = head_layout(colours, title, note, layers, heads)
    end = float(np.nanmax(np.abs(found.difference), initial=1e-9))
    layout["coloraxis"] = colour_axis(Scale(-end, end), signed.stops(colours))
    return go.Figure(data=[heat, dots], layout=layout)


def _text(found: Difference, place: int) -> str:
    layer, head = found.sample.cells[place]
    unit = escape(found.sample.unit)
    return (
        f"<b>layer {layer} · head {head}</b><br>difference {number(found.difference[place])} {unit}<br>"
        f"{number(found.low[place])} … {number(found.high[place])}: {escape(found.interval)}<br>"
        f"Cohen's d {number(found.d[place])}, Cliff's δ {number(found.delta[place])}<br>"
        f"p {number(found.p[place])}, corrected {number(found.p_adjusted[place])}: {escape(found.test)}"
    )
