"""One token's attention in every layer and head as a table, with a slider for each of the two.

A slider of a figure can only set what its own step names, and no step knows where the other slider stands. So the
tables of all layers and heads lie on one plane, heads from left to right and layers from top to bottom, and what is in
sight is one cell of it: a slider for heads moves the horizontal range, one for layers the vertical.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go
import torch
from jaxtyping import Float32
from torch import Tensor

from gentrace.errors import ViewError
from gentrace.trace.info import Kind
from gentrace.trace.trace import Trace
from gentrace.views import theme
from gentrace.views.cells import Side, Span, check_size, choose_layer, choose_pairs, read_cells, sides
from gentrace.views.labels import tick_texts
from gentrace.views.scripted import FittingFigure
from gentrace.views.sheet import PLAIN, TITLE, sheet
from gentrace.views.timeline import model_name

PLANE_ROWS = 200
"""Keys of one table: all are in sight."""
PLANE_CELLS = 300_000
"""Cells of all tables together; a weight and a score are written for each."""
WIDTH, ROW, SLIDER = 388, 26, 54
"""Pixels: the figure, which fits a phone; a row; a slider."""
COLUMNS = {"key": (0.0, 0.1), "token": (0.12, 0.55), "weight": (0.56, 0.78), "score": (0.78, 1.0)}
"""Parts of the width."""


@dataclass(frozen=True, slots=True, eq=False)
class Plane:
    """One query's row in several layers and heads."""

    model: str
    """Name of the model."""
    query: str
    """Position and text of the token that looks."""
    kind: Kind
    """Which attention of the layers."""
    layers: tuple[int, ...]
    """Layer numbers, from top to bottom."""
    heads: tuple[int, ...]
    """Query heads, from left to right."""
    positions: tuple[int, ...]
    """[key] positions listed."""
    labels: tuple[str, ...]
    """[key] displayable text of each."""
    weights: Float32[Tensor, "layer head key"]
    """0 … 1; 0 where masked, NaN in rows never seen and where a layer has no such head."""
    scores: Float32[Tensor, "layer head key"]
    """What went into softmax; −inf where masked, NaN like the weights."""


def read_plane(
    trace: Trace,
    layers: int | Sequence[int] | None,
    heads: int | Sequence[int] | None,
    query: int,
    keys: Span,
    *,
    masked: bool,
    kind: Kind,
) -> Plane:
    """Read one query's row in several layers and heads.

    Args:
        trace: A finished trace.
        layers: Layer numbers; None for all recorded.
        heads: Query heads; None for all.
        query: Position that looks.
        keys: Positions that are looked at.
        masked: Whether to list keys that no head lets the query see.
        kind: Which attention of the layers.

    Raises:
        ViewError: If the trace has no such layer, head or position.
        ViewBudgetError: If there are too many numbers; raised before they are computed.
    """
    pairs = choose_pairs(trace, layers, heads, kind)
    span = query, query + 1
    query_side, key_side = sides(trace, choose_layer(trace, pairs[0][0], kind), span, keys)
    attempted = f"making tables of {len(key_side.positions)} keys in {len(pairs)} heads"
    knobs = "choose fewer with keys=, or one layer and head"
    check_size(attempted, "rows of a table", len(key_side.positions), PLANE_ROWS, knobs)
    check_size(attempted, "cells", len(pairs) * len(key_side.positions), PLANE_CELLS, knobs)
    of_layer, of_head = (tuple(dict.fromkeys(pair[at] for pair in pairs)) for at in (0, 1))
    shape = len(of_layer), len(of_head), len(key_side.positions)
    weights, scores = torch.full(shape, torch.nan), torch.full(shape, torch.nan)
    for layer, head in pairs:
        cells = read_cells(trace, layer, head, span, keys, kind)
        place = of_layer.index(layer), of_head.index(head)
        weights[place], scores[place] = cells.weights[0], cells.scores[0]
    listed = torch.arange(shape[2]) if masked else _seen(scores)
    return Plane(
        model_name(trace), query_side.names[0], kind, of_layer, of_head, *_listed(key_side, listed.tolist()),
        weights[..., listed], scores[..., listed],
    )  # fmt: skip


def sliding_table(plane: Plane, start: tuple[int | None, int | None], colours: theme.Theme) -> go.Figure:
    """The tables with their sliders.

    Args:
        plane: The numbers.
        start: Layer and head shown first; None for the first.
        colours: The theme.

    Raises:
        ViewError: If there is no such layer or head.
    """
    at = tuple(
        _place(name, wanted, known)
        for name, wanted, known in zip(("layer", "head"), start, (plane.layers, plane.heads), strict=True)
    )
    return FittingFigure(data=[*_names(plane, colours), *_numbers(plane, colours)], layout=_layout(plane, at, colours))


def _seen(scores: Tensor) -> Tensor:
    """Places of the keys that any head lets the query see; all of them in a row that was never seen."""
    seen = (scores > -torch.inf).flatten(0, 1).any(0)
    return seen.nonzero()[:, 0] if bool(seen.any()) else torch.arange(scores.shape[-1])


def _listed(side: Side, places: list[int]) -> tuple[tuple[int, ...], tuple[str, ...]]:
    return tuple(side.positions[place] for place in places), tuple(side.labels[place] for place in places)


def _place(name: str, wanted: int | None, known: tuple[int, ...]) -> int:
    if wanted is None:
        return 0
    if wanted not in known:
        seen = f"{name}s shown: {', '.join(map(str, known))}"
        raise ViewError(f"starting a table at {name} {wanted}", seen, "choose one of them")
    return known.index(wanted)


def _names(plane: Plane, colours: theme.Theme) -> list[go.Scatter]:
    """The keys, which are the same in every table."""
    rows = list(range(len(plane.positions)))
    columns = [
        ("x", 0.9, "middle left", [str(position) for position in plane.positions], colours.muted),
        ("x2", 0.0, "middle right", tick_texts(plane.labels), colours.ink),
    ]
    return [
        go.Scatter(
            name="keys", mode="text", x=[left] * len(rows), y=rows, text=texts, textposition=where, hoverinfo="skip",
            textfont={"family": theme.MONO, "size": 12, "color": ink}, cliponaxis=False, xaxis=axis, yaxis="y",
        )
        for axis, left, where, texts, ink in columns
    ]  # fmt: skip


def _numbers(plane: Plane, colours: theme.Theme) -> list[go.Heatmap]:
    """The plane of weights, and the plane of scores beside it."""
    rows = len(plane.layers) * len(plane.positions)
    weights, scores = (one.transpose(1, 2).reshape(rows, -1) for one in (plane.weights, plane.scores))
    blank = torch.where(scores.isnan(), torch.nan, 0.0)
    shared: dict[str, Any] = {
        "x0": 0, "dx": 1, "y0": 0, "dy": 1, "yaxis": "y2", "showscale": False, "zmin": 0, "zmax": 1, "ygap": 1,
        "texttemplate": "%{text}", "hoverinfo": "skip", "hoverongaps": False,
        "textfont": {"family": theme.MONO, "size": 12},
    }  # fmt: skip
    plain = [[0, colours.card], [1, colours.card]]
    return [
        go.Heatmap(
            name="weight", z=weights.numpy(), text=_texts(weights, 4), xaxis="x3",
            colorscale=theme.scale(colours.attention), **shared,
        ),
        go.Heatmap(
            name="score", z=blank.numpy(), text=_texts(scores, 3), xaxis="x4", colorscale=plain, **shared,
        ),
    ]  # fmt: skip


def _texts(values: Tensor, digits: int) -> list[list[str]]:
    return [[number(value, digits) for value in row] for row in values.tolist()]


def number(value: float, digits: int) -> str:
    """A number as a table prints it."""
    if value != value:
        return "–"
    return f"{value:.{digits}f}".replace("-", "−").replace("inf", "∞")


def _layout(plane: Plane, at: tuple[int, ...], colours: theme.Theme) -> dict[str, Any]:
    count = len(plane.positions)
    top = TITLE + 8 + 2 * SLIDER + ROW
    unseen = bool(plane.weights.isnan().all())
    note = "was never seen" if unseen else "looks at; the ground is darkest at weight 1"
    title = {"self": "", "cross": "cross-attention · ", "encoder": "encoder attention · "}[plane.kind]
    layout = sheet(
        colours, f"{plane.model}\n{title}{len(plane.layers)} × {len(plane.heads)} heads", f"{plane.query} {note}",
        top + count * ROW + 16, width=WIDTH,
    )  # fmt: skip
    layout["margin"] = {"l": 12, "r": 12, "t": top, "b": 16}
    hidden: dict[str, Any] = PLAIN | {"showticklabels": False, "fixedrange": True}
    ranges = [_layer_range(plane, at[0]), _head_range(at[1])]
    for number_of, (name, domain) in enumerate(COLUMNS.items(), 1):
        moves = name in ("weight", "score")
        layout[f"xaxis{number_of if number_of > 1 else ''}"] = hidden | {
            "domain": domain, "anchor": "y2" if moves else "y", "range": ranges[1] if moves else [0, 1],
        }  # fmt: skip
    layout["yaxis"] = hidden | {"range": [count - 0.5, -0.5], "anchor": "x"}
    layout["yaxis2"] = hidden | {"range": ranges[0], "anchor": "x3"}
    layout["annotations"] = [_heading(name, colours) for name in COLUMNS]
    layer_steps = [
        _step(str(layer), {"yaxis2.range": _layer_range(plane, place)}) for place, layer in enumerate(plane.layers)
    ]
    head_steps = [
        _step(str(head), {"xaxis3.range": _head_range(place), "xaxis4.range": _head_range(place)})
        for place, head in enumerate(plane.heads)
    ]
    layout["sliders"] = [
        _slider("layer", layer_steps, at[0], colours, ROW + SLIDER),
        _slider("head", head_steps, at[1], colours, ROW),
    ]
    return layout


def _layer_range(plane: Plane, place: int) -> list[float]:
    count = len(plane.positions)
    return [(place + 1) * count - 0.5, place * count - 0.5]


def _head_range(place: int) -> list[float]:
    return [place - 0.5, place + 0.5]


def _heading(name: str, colours: theme.Theme) -> dict[str, Any]:
    left, right = COLUMNS[name]
    where = {"key": (right - 0.01, "right"), "token": (left, "left")}.get(name, ((left + right) / 2, "center"))
    return {
        "text": name, "x": where[0], "xanchor": where[1], "xref": "paper", "y": 1, "yanchor": "bottom",
        "yref": "paper", "showarrow": False, "font": {"size": 12, "color": colours.muted},
    }  # fmt: skip


def _step(text: str, change: dict[str, Any]) -> dict[str, Any]:
    return {"label": text, "method": "relayout", "args": [change]}


def _slider(name: str, steps: list[dict[str, Any]], active: int, colours: theme.Theme, above: float) -> dict[str, Any]:
    return {
        "name": name, "active": active, "steps": steps, "x": 0, "len": 1, "y": 1, "yanchor": "bottom",
        "pad": {"b": above, "t": 0, "l": 4, "r": 4}, "ticklen": 0, "minorticklen": 0,
        "currentvalue": {"prefix": f"{name}: ", "font": {"size": 13, "color": colours.ink}, "offset": 6},
        "font": {"size": 1, "color": "rgba(0,0,0,0)"}, "bgcolor": colours.line, "activebgcolor": colours.accent,
        "bordercolor": colours.line, "transition": {"duration": 0},
    }  # fmt: skip
