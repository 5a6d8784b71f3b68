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
from gentrace.views.sheet import (
    BAR,
    BOTTOM,
    LEFT,
    NUMBER,
    NUMBERS,
    PLAIN,
    RIGHT,
    TITLE,
    colour_axis,
    scale_note,
    sheet,
    short,
)
from gentrace.views.timeline import What

GRID_CELLS = 1_250_000
"""Cells of all panels together."""
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

    @property
    def rows(self) -> int:
        """Panels below each other."""
        return -(-len(self.panels) // self.columns)

    @property
    def step(self) -> tuple[float, float]:
        """Cells from one panel to the next: to the right, and downwards."""
        gap = 6 if self.crossed else NAME
        return self._side(1) + 8 / self.pixels[0], self._side(0) + gap / self.pixels[1]

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
    do all panels with numbers in their cells.

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
        grid.size[1] * grid.pixels[1] + TITLE + BAR + BOTTOM + NAME,
        coloraxis=colour_axis(scale, colours.attention),
    )
    if annotate:
        layout["width"] = max(grid.size[0] * grid.pixels[0], 260) + LEFT + RIGHT
    maps = _heatmaps(grid, what, colours, first_aside=first_aside, annotate=annotate)
    return go.Figure(data=[*maps, *marks], layout=layout | _axes(grid, square=not annotate))


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
        return Grid(panels, min(side_by_side, len(pairs)), False, NUMBER)
    crossed = layer_count > 1 and len(shown_heads) > 1 and len(pairs) == layer_count * len(shown_heads)
    columns = len(shown_heads) if crossed else _columns(len(pairs))
    down = -(-len(pairs) // columns)
    side = min(LARGEST, (WIDTH - 8 * columns) / columns, (HIGHEST - NAME * down) / down)
    longest = max(rows, len(key_side.positions))
    return Grid(panels, columns, crossed, (max(side, 12) / longest, max(side, 12) / longest))


def _columns(count: int) -> int:
    return count if count <= 3 else math.ceil(math.sqrt(count))


def _heatmaps(grid: Grid, what: What, colours: theme.Theme, *, first_aside: bool, annotate: bool) -> list[go.Heatmap]:
    """Each panel; a first key that is set aside is a grey map of its own, so that its numbers stay."""
    maps = []
    for place, panel in enumerate(grid.panels):
        left, top = grid.corner(place)
        hover = f"{panel.title}<br>query %{{y}}<br>key %{{x}}<br>{what[:-1]} %{{z:.4g}}<extra></extra>"
        values, split = panel.values(what).numpy(), int(first_aside)
        shared: dict[str, Any] = {"name": panel.title, "dx": 1, "y0": top, "dy": 1, "hoverongaps": False}
        shared |= {"hovertemplate": hover, "showscale": False} | (NUMBERS if annotate else {})
        maps.append(go.Heatmap(z=values[:, split:], x0=left + split, coloraxis="coloraxis", **shared))
        if first_aside:
            grey = [[0, colours.unseen], [1, colours.unseen]]
            maps.append(go.Heatmap(z=values[:, :1], x0=left, colorscale=grey, **shared))
    return maps


def _names(grid: Grid) -> go.Scatter:
    """The names of the panels: of columns where rows are layers, else above each."""
    named = range(grid.columns if grid.crossed else len(grid.panels))
    corners = [grid.corner(place) for place in named]
    one_layer = len({layer for panel in grid.panels for layer, _ in panel.pairs}) == 1
    texts = []
    for place in named:
        layer, head = grid.panels[place].pairs[0]
        by_head = f"layer {layer}" if _one_head(grid) else f"layer {layer} · head {head}"
        texts.append(f"head {head}" if one_layer or grid.crossed else by_head)
    x, y = [left - 0.5 for left, _ in corners], [top - 0.5 - 10 / grid.pixels[1] for _, top in corners]
    return go.Scatter(
        name="names", mode="text", x=x, y=y, text=texts, textposition="middle right", textfont={"size": 11},
        hoverinfo="skip", cliponaxis=False, xaxis="x2", yaxis="y2",
    )  # fmt: skip


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
        room = max(1, int(grid.pixels[at] * max(first.weights.shape) / 12))
        stride = grid.step[0 if letter == "x" else 1]
        last = (across if letter == "x" else down) - 0.5
        name = NAME / grid.pixels[1]
        limits = [-0.5, last] if letter == "x" else [last, -0.5 - name]
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
        if grid.crossed and letter == "y":
            ticks = [row * stride + (len(positions) - 1) / 2 for row in range(count)]
            texts = [f"layer {grid.panels[row * grid.columns].pairs[0][0]}" for row in range(count)]
        layout[f"{letter}axis2"] = PLAIN | shared | {
            "overlaying": letter, "matches": letter, "anchor": "y2" if letter == "x" else "x2",
            "side": "bottom" if letter == "x" else "left", "tickangle": -90 if letter == "x" else 0,
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
