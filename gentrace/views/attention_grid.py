"""Small multiples: the attention of many heads beside each other, on one colour scale.

All panels share one pair of axes. A pair for each panel would cost a browser more than its cells do.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from gentrace.trace.info import Kind
from gentrace.trace.trace import Trace
from gentrace.views import theme
from gentrace.views.cells import (
    Cells,
    FirstKey,
    Span,
    check_size,
    check_word,
    choose_layer,
    choose_pairs,
    read_cells,
    score_scale,
    sets_first_aside,
    sides,
    titled,
    weight_scale,
)
from gentrace.views.labels import thinned, tick_texts
from gentrace.views.scripted import FittingFigure
from gentrace.views.sheet import (
    LEFT,
    NUMBER,
    NUMBERS,
    OTHER,
    PLAIN,
    RIGHT,
    colour_axis,
    scale_note,
    sheet,
    short,
    title_at,
    told,
)
from gentrace.views.timeline import What

GRID_CELLS = 1_000_000
"""Cells of all panels together; each is written twice, as weight and as score."""
GRID_PANELS = 400
"""Panels that a browser draws without a pause."""
ANNOTATED_GRID = 4096
"""Cells of all panels together in which a number can be read."""
WIDTH = 1000
"""Pixels of all panels side by side, for which gaps and names are chosen."""
HIGHEST = 2400
"""Pixels of all panels below each other."""
LARGEST = 330
"""Pixels of one panel."""
NAME = 22
"""Pixels above a panel for its name."""
SHORT_NAMES = 6
"""Panels side by side from which there is no room for more than numbers on a narrow page."""


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """Where each panel stands, counted in cells."""

    panels: tuple[Cells, ...]
    """The matrices, in reading order."""
    columns: int
    """Panels side by side."""
    crossed: bool
    """Whether rows are layers and columns heads; otherwise the panels of one layer, or of one head, wrap like text."""
    pixels: tuple[float, float]
    """Pixels of a cell, across and down."""
    gap: float
    """Pixels between panels below each other."""

    @property
    def rows(self) -> int:
        """Panels below each other."""
        return -(-len(self.panels) // self.columns)

    @property
    def step(self) -> tuple[float, float]:
        """Cells from one panel to the next: to the right, and downwards."""
        return self._side(1) + 8 / self.pixels[0], self._side(0) + self.gap / self.pixels[1]

    @property
    def inside(self) -> bool:
        """Whether names stand in the panels' upper right corner, which is empty where nobody looks ahead."""
        return self.gap < NAME and not self.crossed

    @property
    def size(self) -> tuple[float, float]:
        """Cells of the whole, across and down."""
        (right, down), (rows, columns) = self.step, (self._side(0), self._side(1))
        return (self.columns - 1) * right + columns, (self.rows - 1) * down + rows

    def corner(self, place: int) -> tuple[float, float]:
        """The middle of a panel's first cell."""
        right, down = self.step
        return place % self.columns * right, place // self.columns * down

    def _side(self, axis: int) -> int:
        return self.panels[0].weights.shape[axis]


def attention_grid(
    trace: Trace,
    layers: int | Sequence[int] | None = None,
    heads: int | Sequence[int] | None = None,
    *,
    what: What = "weights",
    queries: Span = None,
    keys: Span = None,
    annotate: bool = False,
    sink: FirstKey | None = None,
    kind: Kind = "self",
    dark: bool = False,
) -> go.Figure:
    """Heat maps of many heads: rows are layers and columns heads.

    One layer gives all its heads (by layer), one head gives it in every layer (by head); these wrap like text, and so
    do all panels with numbers in their cells. A tooltip tells both tokens, weight and score.

    Args:
        trace: A finished trace.
        layers: Layer numbers; None for all recorded.
        heads: Query heads of each of these layers; None for all.
        what: Whether colours are weights or scores.
        queries: Rows: a slice, (first, one past the last), "prompt" or "generated"; None for all.
        keys: Columns, likewise.
        annotate: Write each number into its cell, with four decimals.
        sink: "mask" sets the first key aside, "keep" treats it as any other; None masks it in a causal model's
            self-attention.
        kind: "self", "cross" (keys are the encoder's) or "encoder".
        dark: Light text on a dark ground.

    Raises:
        ViewError: If the trace has no such layer, head or position.
        ViewBudgetError: If there are too many panels or cells; raised before they are computed.
    """
    attempted = "drawing an attention grid"
    check_word(attempted, "what", what, ("weights", "scores"))
    check_word(attempted, "sink", sink, (None, "mask", "keep"))
    grid = read_grid(trace, layers, heads, queries, keys, kind, annotate=annotate)
    colours = theme.DARK if dark else theme.LIGHT
    first_aside = sets_first_aside(grid.panels, sink)
    make_scale = weight_scale if what == "weights" else score_scale
    scale = make_scale(grid.panels, skip_first_key=first_aside)
    marks = [_names(grid), _unseen(grid, colours)]
    first = grid.panels[0]
    layout = sheet(
        colours,
        f"{first.model}\n{_title(grid)}{titled(first.kind)}",
        scale_note(what, scale, first_aside=first_aside),
        0,
        coloraxis=colour_axis(scale, colours.attention),
    )
    _make_room(layout, grid, annotate=annotate)
    maps = _heatmaps(grid, what, colours, first_aside=first_aside, annotate=annotate)
    return FittingFigure(data=[*maps, *marks], layout=layout | _axes(grid, square=not annotate))


def _make_room(layout: dict[str, Any], grid: Grid, *, annotate: bool) -> None:
    """Height, margins and, with numbers, a width."""
    margin, inner = layout["margin"], _down(grid) * grid.pixels[1]
    if grid.crossed:
        margin |= {"l": 64, "b": 40}
    layout["meta"] = {"inner": inner, "panels": [1, 1] if grid.crossed else [grid.columns, grid.rows]}
    layout["height"] = round(inner + margin["t"] + margin["b"])
    layout["title"]["y"] = title_at(layout["height"])
    if annotate:
        layout["width"] = max(grid.size[0] * grid.pixels[0], 260) + LEFT + RIGHT


def _down(grid: Grid) -> float:
    """Cells of the whole with the names over its first row, if they are not an axis'."""
    return grid.size[1] + (0 if grid.crossed or grid.inside else NAME / grid.pixels[1])


def read_grid(
    trace: Trace,
    layers: int | Sequence[int] | None,
    heads: int | Sequence[int] | None,
    queries: Span,
    keys: Span,
    kind: Kind,
    *,
    annotate: bool = False,
) -> Grid:
    """Read every panel and decide where it stands.

    Raises:
        ViewError: If the trace has no such layer, head or position.
        ViewBudgetError: If there are too many panels or cells; raised before they are computed.
    """
    pairs = choose_pairs(trace, layers, heads, kind)
    query_side, key_side = sides(trace, choose_layer(trace, pairs[0][0], kind), queries, keys)
    rows, cells = len(query_side.positions), len(query_side.positions) * len(key_side.positions)
    attempted = f"drawing a grid of {len(pairs)} heads with {rows} queries and {len(key_side.positions)} keys"
    knobs = "choose fewer with layers=, heads=, queries= or keys=; model_view() draws every head in less detail"
    check_size(attempted, "panels", len(pairs), GRID_PANELS, knobs)
    check_size(attempted, "cells", len(pairs) * cells, GRID_CELLS, knobs)
    if annotate:
        knobs = "choose fewer with layers=, heads=, queries= or keys=, or annotate=False"
        check_size(f"{attempted} with numbers", "cells", len(pairs) * cells, ANNOTATED_GRID, knobs)
    panels = tuple(read_cells(trace, layer, head, queries, keys, kind) for layer, head in pairs)
    layer_count = len({layer for layer, _ in pairs})
    shown_heads = [head for layer, head in pairs if layer == pairs[0][0]]
    if annotate:
        side_by_side = max(1, int(WIDTH // (len(key_side.positions) * NUMBER[0] + 8)))
        return Grid(panels, min(side_by_side, len(pairs)), False, NUMBER, NAME)
    crossed = layer_count > 1 and len(shown_heads) > 1 and len(pairs) == layer_count * len(shown_heads)
    columns = len(shown_heads) if crossed else _columns(len(pairs))
    down = -(-len(pairs) // columns)
    # Names over panels need as much on a narrow page, where all else shrinks.
    gap = 6 if crossed else 8 if all(panel.causal for panel in panels) else 2 * NAME
    side = min(LARGEST, (WIDTH - 8 * columns) / columns, (HIGHEST - gap * down) / down)
    longest = max(rows, len(key_side.positions))
    return Grid(panels, columns, crossed, (max(side, 12) / longest, max(side, 12) / longest), gap)


def _columns(count: int) -> int:
    return count if count <= 3 else math.ceil(math.sqrt(count))


def _heatmaps(grid: Grid, what: What, colours: theme.Theme, *, first_aside: bool, annotate: bool) -> list[go.Heatmap]:
    """Each panel; a first key that is set aside is a grey map of its own, so that its numbers stay."""
    maps = []
    for place, panel in enumerate(grid.panels):
        left, top = grid.corner(place)
        hover = f"{panel.title}<br>query %{{y}}<br>key %{{x}}<br>{told(what)}<extra></extra>"
        values, other = (panel.values(one).numpy() for one in (what, OTHER[what]))
        split = int(first_aside)
        shared: dict[str, Any] = {"name": panel.title, "dx": 1, "y0": top, "dy": 1, "hoverongaps": False}
        shared |= {"hovertemplate": hover, "showscale": False} | (NUMBERS if annotate else {})
        seen = {"z": values[:, split:], "customdata": other[:, split:]}
        maps.append(go.Heatmap(**seen, x0=left + split, coloraxis="coloraxis", **shared))
        if first_aside:
            grey = [[0, colours.unseen], [1, colours.unseen]]
            seen = {"z": values[:, :1], "customdata": other[:, :1]}
            maps.append(go.Heatmap(**seen, x0=left, colorscale=grey, **shared))
    return maps


def _names(grid: Grid) -> go.Scatter:
    """The names of the panels, in each one's corner or above it; where rows are layers, axes name both."""
    # Plotly draws a pair of axes only if something is on it.
    named = () if grid.crossed else range(len(grid.panels))
    corners = [grid.corner(place) for place in named]
    columns = grid.panels[0].weights.shape[1]
    shift = (columns - 0.5, -0.5) if grid.inside else (-0.5, -0.5 - 10 / grid.pixels[1])
    return go.Scatter(
        name="names", mode="text", x=[left + shift[0] for left, _ in corners] or [None],
        y=[top + shift[1] for _, top in corners] or [None], text=[_name(grid, place) for place in named],
        textposition="bottom left" if grid.inside else "middle right", textfont={"size": 11}, hoverinfo="skip",
        cliponaxis=False, xaxis="x2", yaxis="y2",
    )  # fmt: skip


def _name(grid: Grid, place: int) -> str:
    """What tells a panel from the others."""
    layer, head = grid.panels[place].pairs[0]
    short_of_room = grid.columns > SHORT_NAMES
    if grid.crossed or len({panel.pairs[0][0] for panel in grid.panels}) == 1:
        return str(head) if short_of_room else f"head {head}"
    if _one_head(grid):
        return str(layer) if short_of_room else f"layer {layer}"
    return f"layer {layer} · head {head}"


def _unseen(grid: Grid, colours: theme.Theme) -> go.Scatter:
    """Grey over the rows that were never seen, in all panels."""
    x: list[float | None] = []
    y: list[float | None] = []
    for place, panel in enumerate(grid.panels):
        left, top = (corner - 0.5 for corner in grid.corner(place))
        right, start = left + panel.weights.shape[1], panel.queries.positions.start
        for row in panel.unseen:
            x += [left, right, right, left, None]
            y += [top + row - start, top + row - start, top + row - start + 1, top + row - start + 1, None]
    return go.Scatter(
        name="never seen", mode="lines", x=x, y=y, fill="toself", fillcolor=colours.unseen, line={"width": 0},
        hoverinfo="skip", xaxis="x2", yaxis="y2",
    )  # fmt: skip


def _axes(grid: Grid, *, square: bool) -> dict[str, Any]:
    """One pair of axes for all panels, and the pair over it that shows names."""
    first, (across, down) = grid.panels[0], grid.size
    layout: dict[str, Any] = {}
    for at, (letter, side, count) in enumerate((("x", first.keys, grid.columns), ("y", first.queries, grid.rows))):
        room = max(1, int(grid.pixels[at] * len(side.positions) / 12))
        stride = grid.step[0 if letter == "x" else 1]
        last = (across if letter == "x" else down) - 0.5
        limits = [-0.5, last] if letter == "x" else [last, last - _down(grid)]
        shared: dict[str, Any] = {"range": limits}
        if square:
            shared |= {"constrain": "domain", "constraintoward": "left" if letter == "x" else "top"}
        positions = range(len(side.positions))
        layout[f"{letter}axis"] = PLAIN | shared | {
            "anchor": "y" if letter == "x" else "x", "showticklabels": False,
            "tickvals": [panel * stride + place for panel in range(count) for place in positions],
            "ticktext": tick_texts(side.names) * count,
        }  # fmt: skip
        few = [] if grid.crossed else thinned(0, len(positions), room)
        ticks = [panel * stride + place for panel in range(count) for place in few]
        texts = tick_texts(short(side.labels[place]) for place in few) * count
        if grid.crossed:
            ticks = [place * stride + (len(positions) - 1) / 2 for place in range(count)]
            rows = [f"layer {grid.panels[row * grid.columns].pairs[0][0]}" for row in range(grid.rows)]
            texts = rows if letter == "y" else [_name(grid, column) for column in range(count)]
        layout[f"{letter}axis2"] = PLAIN | shared | {
            "overlaying": letter, "matches": letter, "anchor": "y2" if letter == "x" else "x2",
            "side": "bottom" if letter == "x" else "left", "tickangle": 0 if grid.crossed or letter == "y" else -90,
            "tickvals": ticks, "ticktext": texts, "tickfont": {"size": 11 if grid.crossed else 10},
        }  # fmt: skip
    if square:
        layout["yaxis"]["scaleanchor"] = "x"
    return layout


def _one_head(grid: Grid) -> bool:
    return len({head for panel in grid.panels for _, head in panel.pairs}) == 1


def _title(grid: Grid) -> str:
    layers = list(dict.fromkeys(layer for panel in grid.panels for layer, _ in panel.pairs))
    if len(layers) == 1:
        return f"layer {layers[0]} · {len(grid.panels)} heads"
    if _one_head(grid):
        return f"head {grid.panels[0].pairs[0][1]} · {len(layers)} layers"
    return f"{len(layers)} layers, {len(grid.panels)} heads"
