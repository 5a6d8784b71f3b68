"""A measure of a study along the text that was written, step by step, with a band of uncertainty."""

from typing import Any

import numpy as np
import plotly.graph_objects as go

from gentrace.views import theme
from gentrace.views.head_map import interval_name
from gentrace.views.labels import escape
from gentrace.views.sheet import TITLE, sheet
from gentrace.views.study_tables import Group, Sample, Tables, Where, means, number, read_steps

HEIGHT = 420
FOOT = 54
LEAST = 2
"""Units that a step must rest on to be drawn."""


def by_step(
    study: Tables,
    measure: str,
    *,
    by: str | None = None,
    units: str = "prompt_id",
    where: Where = None,
    level: float = 0.95,
    dark: bool = False,
) -> go.Figure:
    """The mean of a measure at each generated token, with a bootstrap interval at each step.

    Step 0 is the first generated token. What heads did is shown at the token that their row predicts; heads are
    averaged over those read, and ``where={"layer": 3, "head": 1}`` shows one. Intervals are of each step alone.

    Args:
        study: The study, from `gentrace.open_study`.
        measure: A measure of tokens, or one of heads in a study that ran with ``keep.steps = true``.
        by: A column that makes groups, a line each.
        units: The column whose values are independent of each other.
        where: Which rows to read.
        level: Coverage of the intervals (BCa, Efron 1987).
        dark: Light text on a dark ground.

    Raises:
        ViewError: If the measure has no steps, there is no such column, or no row fits.
    """
    sample = read_steps(study, measure, by=by, units=units, where=where)
    colours = theme.DARK if dark else theme.LIGHT
    what = "mean over heads, " if sample.table == "heads" else ""
    most = max(len(group.units) for group in sample.groups)
    note = f"{what}lines are means, bands at each step the {interval_name(level, sample.several, most)}"
    if len({len(group.units) for group in sample.groups}) > 1:
        note = note.replace(f"{most} ", f"up to {most} ")
    layout = sheet(colours, f"{sample.study}\n{measure}", note, HEIGHT)
    small = {"size": 11, "color": colours.muted}
    axis: dict[str, Any] = {"showgrid": True, "gridcolor": colours.line, "zeroline": False, "tickfont": small}
    layout |= {
        "margin": {"l": 64, "r": 24, "t": TITLE + 34, "b": FOOT},
        "showlegend": by is not None,
        "legend": {"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom", "font": {"size": 11}},
        "xaxis": axis | {"title": {"text": "generated token, 0 is the first", "font": small, "standoff": 8}},
        "yaxis": axis | {"title": {"text": escape(sample.unit or measure), "font": small, "standoff": 8}},
    }
    data = [
        line
        for place, group in enumerate(sample.groups)
        for line in _lines(sample, group, theme.head_colour(colours, place), level, by)
    ]
    return go.Figure(data=data, layout=layout)


def _lines(sample: Sample, group: Group, colour: str, level: float, by: str | None) -> list[go.Scatter]:
    found = means(group, level)
    drawn = found.count >= LEAST
    steps = np.array([cell[0] for cell in sample.cells])[drawn]
    mean, low, high, count = (values[drawn] for values in (found.mean, found.low, found.high, found.count))
    texts = [
        f"step {step}: {number(m)} {escape(sample.unit)}<br>{number(a)} … {number(b)}, {int(n)} {sample.several}"
        for step, m, a, b, n in zip(steps.tolist(), mean, low, high, count, strict=True)
    ]
    name = escape(f"{by} = {group.name}" if by else sample.measure)
    none: dict[str, Any] = {"width": 0, "color": colour}
    return [
        go.Scatter(
            name=f"band of {name}", x=[*steps, *steps[::-1]], y=[*high, *low[::-1]], mode="lines", line=none,
            fill="toself", fillcolor=theme.translucent(colour, 0.16), hoverinfo="skip", showlegend=False,
            legendgroup=name,
        ),
        go.Scatter(
            name=name, x=steps, y=mean, mode="lines+markers", line={"color": colour, "width": 2},
            marker={"size": 4}, text=texts, hovertemplate="%{text}<extra></extra>", legendgroup=name,
        ),
    ]  # fmt: skip
