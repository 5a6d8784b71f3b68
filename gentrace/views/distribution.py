"""How a measure of a study is spread over its prompts, for one group or several beside each other."""

from typing import Any

import numpy as np
import plotly.graph_objects as go

from gentrace.views import theme
from gentrace.views.head_map import interval_name
from gentrace.views.labels import escape
from gentrace.views.sheet import PLAIN, TITLE, sheet
from gentrace.views.study_tables import Group, Sample, Tables, Where, means, number, read_sample

MOST = 3000
"""Points that are drawn one by one; of more only the box is."""
ROW = 74
"""Pixels of a group."""
FOOT = 54


def distribution(
    study: Tables,
    measure: str,
    *,
    by: str | None = None,
    units: str = "prompt_id",
    where: Where = None,
    level: float = 0.95,
    dark: bool = False,
) -> go.Figure:
    """How a measure is spread: a point a prompt, quartiles, and the mean with its bootstrap interval.

    Any measure can be shown: of one number a generation as it is, of tokens their mean over generated tokens, of heads
    the mean over heads; ``where={"layer": 3, "head": 1}`` shows one head.

    Args:
        study: The study, from `gentrace.open_study`.
        measure: A measure, or a column such as "logprob" or "new_tokens".
        by: A column that makes groups: a factor, "model", "decoding", "seed", or a column of the generations.
        units: The column whose values are independent of each other: a point each.
        where: Which rows to read.
        level: Coverage of the means' intervals (BCa, Efron 1987).
        dark: Light text on a dark ground.

    Raises:
        ViewError: If there is no such measure or column, or no row fits.
    """
    sample = read_sample(study, measure, by=by, units=units, where=where, cells=False)
    colours = theme.DARK if dark else theme.LIGHT
    note = f"{describe(sample)}: a point is a {sample.each_word}; diamonds are means with their {level:.0%} interval"
    return spread(sample, by, f"{sample.study}\n{sample.measure}", note.replace("%", " %"), level, colours)


def describe(sample: Sample) -> str:
    """What a unit's one value is."""
    words = {
        "heads": "mean over heads",
        "tokens": "mean over tokens",
        "generations": "one number a generation",
    }
    return ", ".join(filter(None, (sample.unit, words[sample.table])))


def spread(sample: Sample, by: str | None, title: str, note: str, level: float, colours: theme.Theme) -> go.Figure:
    """A row for each group."""
    drawn = sum(len(group.units) for group in sample.groups) <= MOST
    data: list[Any] = []
    for place, group in enumerate(sample.groups):
        colour = theme.head_colour(colours, place)
        data += [_box(group, place, colour, points=drawn), _mean(sample, group, place, level, colours)]
    names = [escape(group.name if by else sample.measure) for group in sample.groups]
    height = TITLE + 16 * note.count("\n") + 20 + ROW * len(names) + FOOT
    layout = sheet(colours, title, note, height)
    small = {"size": 11, "color": colours.muted}
    axis = {"showgrid": True, "gridcolor": colours.line, "zeroline": False, "tickfont": small}
    layout |= {
        "margin": {"l": 16, "r": 24, "t": TITLE + 16 * note.count("\n") + 20, "b": FOOT},
        "xaxis": axis | {"title": {"text": escape(sample.unit or sample.measure), "font": small, "standoff": 8}},
        "yaxis": PLAIN | {
            "tickvals": list(range(len(names))), "ticktext": names, "range": [len(names) - 0.5, -0.5],
            "automargin": True,
        },
    }  # fmt: skip
    return go.Figure(data=data, layout=layout)


def _box(group: Group, place: int, colour: str, *, points: bool) -> go.Box:
    values = group.values[:, 0]
    shared: dict[str, Any] = {
        "name": escape(group.name), "orientation": "h", "line": {"color": colour, "width": 1.2},
        "fillcolor": theme.translucent(colour, 0.14), "width": 0.56,
    }  # fmt: skip
    if points:
        texts = [f"{escape(unit)}<br>{number(value)}" for unit, value in zip(group.units, values, strict=True)]
        return go.Box(
            x=values, y=[place] * len(values), boxpoints="all", jitter=0.55, pointpos=0, hoveron="points",
            marker={"size": 5, "opacity": 0.65, "color": colour}, text=texts,
            hovertemplate="%{text}<extra></extra>", **shared,
        )  # fmt: skip
    low, first, median, third, high = (np.nanquantile(values, [0.05, 0.25, 0.5, 0.75, 0.95])).tolist()
    return go.Box(
        y=[place], q1=[first], median=[median], q3=[third], lowerfence=[low], upperfence=[high], **shared
    )  # fmt: skip


def _mean(sample: Sample, group: Group, place: int, level: float, colours: theme.Theme) -> go.Scatter:
    found = means(group, level)
    mean, low, high = float(found.mean[0]), float(found.low[0]), float(found.high[0])
    text = (
        f"<b>{escape(group.name)}</b><br>mean {number(mean)} {escape(sample.unit)}<br>{number(low)} … {number(high)}: "
        f"{escape(interval_name(level, sample.several, len(group.units)))}"
    )
    known = np.isfinite([low, high]).all()
    return go.Scatter(
        name=f"mean of {escape(group.name)}", x=[mean], y=[place], mode="markers", text=[text],
        hovertemplate="%{text}<extra></extra>",
        marker={"symbol": "diamond", "size": 11, "color": colours.ink, "line": {"width": 1.5, "color": colours.card}},
        error_x={
            "type": "data", "symmetric": False, "array": [high - mean if known else 0],
            "arrayminus": [mean - low if known else 0], "color": colours.ink, "thickness": 2, "width": 6,
        },
    )  # fmt: skip
