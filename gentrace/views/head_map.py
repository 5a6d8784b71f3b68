"""A study's heads at a glance: layers down, heads across, one cell a head."""

from typing import Any

import plotly.graph_objects as go

from gentrace.errors import ViewError
from gentrace.views import signed, theme
from gentrace.views.cells import Scale
from gentrace.views.labels import escape
from gentrace.views.sheet import BAR, PLAIN, TITLE, colour_axis, sheet
from gentrace.views.study_tables import Cell, Means, Tables, Where, grid, means, number, read_sample

CELL = 26
"""Pixels along a cell's lower side."""
FOOT = 44


def head_map(
    study: Tables,
    measure: str,
    *,
    units: str = "prompt_id",
    where: Where = None,
    level: float = 0.95,
    dark: bool = False,
) -> go.Figure:
    """What each head of a study does: the mean of a measure, with its bootstrap interval on hover.

    Args:
        study: The study, from `gentrace.open_study`.
        measure: A measure that heads have.
        units: The column whose values are independent of each other, and are drawn in the bootstrap.
        where: Which rows to read: column → a value, a list of values, or ``(low, high)``.
        level: Coverage of the intervals (BCa, Efron 1987).
        dark: Light text on a dark ground.

    Raises:
        ViewError: If there is no such measure, it has no heads, or no row fits.
    """
    sample = read_sample(study, measure, units=units, where=where)
    if sample.table != "heads":
        change = f"use views.distribution(study, {measure!r}) or views.by_step"
        raise ViewError(f"drawing a map of heads of {measure}", f"it belongs to {sample.table}", change)
    found = means(sample.groups[0], level)
    colours = theme.DARK if dark else theme.LIGHT
    count = len(sample.groups[0].units)
    named = interval_name(level, sample.several, count)
    layers, heads, table = grid(sample.cells, found.mean)
    known = found.mean[found.mean == found.mean]
    low, high = float(known.min(initial=0.0)), float(known.max(initial=0.0))
    stops = colours.attention if low >= 0 else signed.stops(colours)
    low = low if low >= 0 else -max(high, -low)
    high = max(high, -low)
    texts = [_text(cell, found, place, sample.unit, named) for place, cell in enumerate(sample.cells)]
    heat = cells_of(sample.cells, table, layers, heads, texts)
    note = f"{sample.unit or 'value'}: mean over {count} {sample.several}; rows are layers, columns heads"
    layout = head_layout(colours, f"{sample.study}\n{measure}", note, layers, heads)
    layout["coloraxis"] = colour_axis(Scale(low, high), stops)
    return go.Figure(data=[heat], layout=layout)


def interval_name(level: float, units: str, count: int) -> str:
    """What an interval of a mean is."""
    return f"{level:.0%} interval (BCa bootstrap over {count} {units})".replace("%", " %")


def cells_of(cells: tuple[Cell, ...], table: Any, layers: list[int], heads: list[int], texts: list[str]) -> go.Heatmap:
    """One cell a head, at numbered places; ``customdata`` holds its layer and head, ``text`` what hovering shows."""
    told = [["" for _ in heads] for _ in layers]
    for (layer, head), text in zip(cells, texts, strict=True):
        told[layers.index(layer)][heads.index(head)] = text
    return go.Heatmap(
        name="heads", z=table, text=told, customdata=[[[layer, head] for head in heads] for layer in layers],
        coloraxis="coloraxis", xgap=1, ygap=1, hoverongaps=False, hovertemplate="%{text}<extra></extra>",
    )  # fmt: skip


def head_layout(
    colours: theme.Theme, title: str, note: str, layers: list[int], heads: list[int], foot: int = FOOT
) -> dict[str, Any]:
    """Layers downwards, heads to the right."""
    room = TITLE + BAR + 16 * note.count("\n")
    layout = sheet(colours, title, note, room + max(len(layers) * CELL, 120) + foot)
    small = {"size": 10, "color": colours.muted}
    shared = PLAIN | {"tickfont": small, "constrain": "domain"}
    return layout | {
        "margin": {"l": 52, "r": 20, "t": room, "b": foot},
        "xaxis": shared | {
            "tickvals": list(range(len(heads))), "ticktext": [str(head) for head in heads],
            "title": {"text": "head", "font": small, "standoff": 6}, "range": [-0.5, len(heads) - 0.5],
        },
        "yaxis": shared | {
            "tickvals": list(range(len(layers))), "ticktext": [str(layer) for layer in layers],
            "title": {"text": "layer", "font": small, "standoff": 8}, "range": [len(layers) - 0.5, -0.5],
        },
    }  # fmt: skip


def _text(cell: Cell, found: Means, place: int, unit: str, named: str) -> str:
    layer, head = cell
    return (
        f"<b>layer {layer} · head {head}</b><br>mean {number(found.mean[place])} {escape(unit)}<br>"
        f"{number(found.low[place])} … {number(found.high[place])}: {escape(named)}"
    )
