"""What a model view shows of one head when it is asked for: a large map with tokens on both sides.

It lies on the plane of the thumbnails, far away from them, so that one pair of axes serves both and only what is in
sight changes. The numbers of a head stand in its entry of a menu.
"""

import base64
from typing import Any

import plotly.graph_objects as go

from gentrace.axes import Matrix
from gentrace.views import theme
from gentrace.views.cells import Side
from gentrace.views.labels import thinned, tick_texts
from gentrace.views.sheet import BAR, BOTTOM, LEFT, NAMED, PLAIN, RIGHT, TITLE, end_of_prompt, short, title_at, told
from gentrace.views.thumbnails import Sheet

AWAY = 10_000
"""Where on the plane a close-up begins, across and down."""
INNER = 560
"""Pixels of a close-up's longer side."""
WHOLE = {"xaxis.domain": [0, 1], "yaxis.domain": [0, 1]}
"""What an axis that keeps cells square had shrunk from; Plotly would go on from what it shrank to."""


def maps(shown: Sheet, colours: theme.Theme) -> list[go.Heatmap]:
    """The maps that the menu fills: the head, and its first key if that is set aside."""
    each = "" if shown.block == 1 else "the largest:<br>"
    shared: dict[str, Any] = {
        "y0": AWAY, "dy": 1, "dx": 1, "showscale": False, "hoverongaps": False,
        "hovertemplate": f"query %{{y}}<br>key %{{x}}<br>{each}{told('weights')}<extra></extra>",
    }  # fmt: skip
    found = [go.Heatmap(name="close-up", x0=AWAY + shown.first_aside, coloraxis="coloraxis", **shared)]
    if shown.first_aside:
        grey = [[0, colours.unseen], [1, colours.unseen]]
        found.append(go.Heatmap(name="first key", x0=AWAY, colorscale=grey, **shared))
    return found


def marks(shown: Sheet, colours: theme.Theme) -> list[go.Scatter]:
    """A line where what was written begins, on the pair of axes that shows names."""
    upper = {"xaxis": "x2", "yaxis": "y2"}
    lines = end_of_prompt(shown.first, colours, upper)
    for line in lines:
        for letter, side in (("x", shown.first.keys), ("y", shown.first.queries)):
            ends: Any = line[letter]
            line[letter] = [AWAY - 0.5 + _cells(shown, side, at + 0.5 - side.positions.start) for at in ends]
    # Plotly draws a pair of axes only if something is on it.
    return [*lines, go.Scatter(x=[None], y=[None], hoverinfo="skip", **upper)]


def _shape(shown: Sheet) -> tuple[int, int]:
    """Cells down and across."""
    rows, columns = shown.thumbnails[0].close.shape
    return rows, columns


def _cells(shown: Sheet, side: Side, tokens: float) -> float:
    """How many cells some tokens take."""
    apart = int(shown.first_aside and side.axis == "key")
    return tokens if tokens <= apart else apart + (tokens - apart) / shown.block


def state(shown: Sheet, place: int) -> dict[str, Any]:
    """What a menu's entry puts into the maps."""
    split = int(shown.first_aside)
    one = shown.thumbnails[place]
    parts = [slice(split, None), slice(0, 1)][: 1 + split]
    return {
        "z": [_typed(one.close[:, part]) for part in parts],
        "customdata": [_typed(one.scores[:, part]) for part in parts],
    }  # fmt: skip


def _typed(values: Matrix) -> dict[str, str]:
    """A matrix as Plotly's own encoding of an array; inside of a list Plotly would write it as text."""
    shape = ", ".join(map(str, values.shape))
    return {"dtype": "f4", "bdata": base64.b64encode(values.numpy().astype("<f4").tobytes()).decode(), "shape": shape}


def in_sight(shown: Sheet, title: str, note: str) -> dict[str, Any]:
    """What a menu's entry changes in the layout."""
    rows, columns = _shape(shown)
    square = 0.15 < rows / columns < 6
    inner = INNER * min(1.0, rows / columns) if square else INNER
    return {
        "xaxis.range": [AWAY - 0.5, AWAY + columns - 0.5], "yaxis.range": [AWAY + rows - 0.5, AWAY - 0.5],
        "yaxis.scaleanchor": "x" if square else False, **WHOLE, "xaxis2.visible": True, "yaxis2.visible": True,
        "margin.l": LEFT, "margin.r": RIGHT, "margin.b": BOTTOM,
        "height": round(TITLE + BAR + 16 + inner + BOTTOM), "title.y": title_at(TITLE + BAR + 16 + inner + BOTTOM),
        "meta.inner": inner, "title.text": title, "title.subtitle.text": note,
    }  # fmt: skip


def axes(shown: Sheet, colours: theme.Theme) -> dict[str, Any]:
    """Names of tokens: unseen on the lower pair, for tooltips, and on the upper as many as can be read."""
    layout: dict[str, Any] = {}
    for letter, side, count in zip("xy", (shown.first.keys, shown.first.queries), _shape(shown)[::-1], strict=True):
        starts = _starts(shown, side)
        ends = [*starts[1:], len(side.positions)]
        names = [side.names[a] if b - a == 1 else _span(side, a, b) for a, b in zip(starts, ends, strict=True)]
        places = list(range(AWAY, AWAY + count))
        layout[f"{letter}axis"] = {"tickvals": places, "ticktext": tick_texts(names)}
        few = thinned(0, count, INNER // NAMED)
        layout[f"{letter}axis2"] = PLAIN | {
            "visible": False, "overlaying": letter, "matches": letter, "anchor": "y2" if letter == "x" else "x2",
            "side": "bottom" if letter == "x" else "left", "tickangle": -90 if letter == "x" else 0,
            "tickvals": [places[at] for at in few], "tickfont": {"size": 10}, "fixedrange": True,
            "ticktext": tick_texts(short(side.labels[starts[at]]) for at in few),
            "title": {
                "text": "key: is looked at" if letter == "x" else "query: looks",
                "font": {"size": 10.5, "color": colours.muted}, "standoff": 8,
            },
        }  # fmt: skip
    return layout


def _starts(shown: Sheet, side: Side) -> list[int]:
    """Where each cell begins, counted in tokens."""
    apart = int(shown.first_aside and side.axis == "key")
    return [*range(apart), *range(apart, len(side.positions), shown.block)]


def _span(side: Side, start: int, stop: int) -> str:
    """The name of a block of tokens."""
    return f"{side.positions[start]} … {side.positions[stop - 1]}: {side.labels[start]} … {side.labels[stop - 1]}"
