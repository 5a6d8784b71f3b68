"""One head's attention as a heat map, both axes labelled with tokens."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import plotly.graph_objects as go

from gentrace.axes import Matrix
from gentrace.errors import ViewError
from gentrace.trace.info import Kind
from gentrace.trace.trace import Trace
from gentrace.views import theme
from gentrace.views.cells import (
    Cells,
    FirstKey,
    Scale,
    Span,
    check_size,
    check_word,
    choose_layer,
    mean,
    read_cells,
    score_scale,
    sets_first_aside,
    sides,
    weight_scale,
)
from gentrace.views.figure_step import percent
from gentrace.views.scripted import FittingFigure
from gentrace.views.sheet import (
    BAR,
    BOTTOM,
    LEFT,
    NUMBER,
    NUMBERS,
    OTHER,
    RIGHT,
    TITLE,
    bounds,
    colour_axis,
    end_of_prompt,
    matrix_axes,
    scale_note,
    sheet,
    told,
)
from gentrace.views.timeline import What

MAP_CELLS = 1_000_000
"""Cells of one heat map; each is written twice, as weight and as score."""
ANNOTATED_CELLS = 1024
"""Cells in which a number can be read."""
LONGEST_SIDE = 660
"""Pixels of a matrix's longer side."""
CELL = (2, 36)
"""Least and most pixels of a cell."""
BESIDE = 40
"""Pixels of a probability beside a query's name."""
UPPER = {"xaxis": "x2", "yaxis": "y2"}


def attention_map(
    trace: Trace | Cells,
    layer: int | None = None,
    head: int | None = None,
    *,
    what: What = "weights",
    queries: Span = None,
    keys: Span = None,
    annotate: bool = False,
    probabilities: bool = False,
    sink: FirstKey | None = None,
    kind: Kind = "self",
    dark: bool = False,
) -> go.Figure:
    """A heat map of one head: row by row, which keys each query looks at.

    Args:
        trace: A finished trace, or what `mean` made of one; that holds its own layers, heads and ranges.
        layer: The model's layer number; None for the last recorded.
        head: Query head; None for the mean of the layer's heads.
        what: Whether colours (and numbers in the cells) are weights or scores; the tooltip has both.
        queries: Rows: a slice, (first, one past the last), "prompt" or "generated"; None for all.
        keys: Columns, likewise.
        annotate: Write each number into its cell, with four decimals.
        probabilities: Write beside each query how likely the model held that token, before it came.
        sink: "mask" sets the first key aside: grey, its numbers kept, the colours scaled to the rest. "keep" treats it
            as any other. None masks it in a causal model's self-attention.
        kind: "self", "cross" (keys are the encoder's) or "encoder".
        dark: Light text on a dark ground.

    Raises:
        ViewError: If the trace has no such layer, head or position.
        ViewBudgetError: If there are too many cells; raised before they are computed.
    """
    attempted = "drawing an attention map"
    check_word(attempted, "what", what, ("weights", "scores"))
    check_word(attempted, "sink", sink, (None, "mask", "keep"))
    if isinstance(trace, Trace):
        cells = _read(trace, layer, head, queries, keys, kind, annotate=annotate)
    elif (layer, head, queries, keys, kind) != (None, None, None, None, "self"):
        raise ViewError(attempted, "cells with a layer, head or range beside them", "give those to mean() instead")
    else:
        cells = trace
        _check(len(cells.queries.positions), len(cells.keys.positions), annotate=annotate)
    beside = _probabilities(trace, cells) if probabilities else ()
    first_aside = sets_first_aside([cells], sink)
    make_scale = weight_scale if what == "weights" else score_scale
    scale = make_scale([cells], skip_first_key=first_aside)
    colours = theme.DARK if dark else theme.LIGHT
    marks = [*unseen_marks(cells, colours), *end_of_prompt(cells, colours, UPPER)]
    # Plotly draws a pair of axes only if something is on it.
    anchor = go.Scatter(x=[None], y=[None], hoverinfo="skip", **UPPER)
    return FittingFigure(
        data=[*heatmaps(cells, what, colours, first_aside=first_aside, annotate=annotate), *marks, anchor],
        layout=_layout(cells, what, scale, colours, first_aside=first_aside, annotate=annotate, beside=beside),
    )


def _probabilities(trace: Trace | Cells, cells: Cells) -> list[str]:
    """What the model thought of each query's token, as percentages."""
    if not isinstance(trace, Trace) or cells.kind == "encoder":
        change = 'give the trace itself, and kind= "self" or "cross", or leave probabilities= out'
        raise ViewError("writing probabilities beside queries", "these queries have none", change)
    found = trace.tokens.logprobs[cells.queries.positions.start : cells.queries.positions.stop].exp().tolist()
    return ["–" if value != value else percent(value) for value in found]


def heatmaps(cells: Cells, what: What, colours: theme.Theme, *, first_aside: bool, annotate: bool) -> list[go.Heatmap]:
    """The matrix; a first key that is set aside is a grey one of its own, so that its numbers stay."""
    values, other = cells.values(what), cells.values(OTHER[what])
    split = int(first_aside)
    parts = [_heatmap(cells, what, values, other, slice(split, None), colours, annotate)]
    parts[0]["coloraxis"] = "coloraxis"
    if first_aside:
        aside = _heatmap(cells, what, values, other, slice(0, 1), colours, annotate)
        parts.append(aside | {"colorscale": [[0, colours.unseen], [1, colours.unseen]], "showscale": False})
    return [go.Heatmap(part) for part in parts]


def unseen_marks(cells: Cells, colours: theme.Theme) -> list[go.Scatter]:
    """Grey bands over rows that were never recorded."""
    left, right = bounds(cells.keys.positions)
    marks = []
    for _, run in groupby(enumerate(cells.unseen), key=lambda pair: pair[1] - pair[0]):
        rows = [position for _, position in run]
        top, bottom = rows[0] - 0.5, rows[-1] + 0.5
        marks.append(
            go.Scatter(
                name="never seen", x=[left, right, right, left], y=[top, top, bottom, bottom], mode="lines",
                fill="toself", fillcolor=colours.unseen, line={"width": 0}, hoverinfo="text", text="never seen",
                hoveron="fills", **UPPER,
            )
        )  # fmt: skip
    return marks


def _read(
    trace: Trace, layer: int | None, head: int | None, queries: Span, keys: Span, kind: Kind, *, annotate: bool
) -> Cells:
    if layer is None:
        recorded = [info.index for info in trace.layers if info.kind == kind]
        if not recorded:
            raise ViewError(
                "drawing an attention map", f"no layer of kind {kind!r} was recorded", "choose another kind="
            )
        layer = recorded[-1]
    info = choose_layer(trace, layer, kind)
    query_side, key_side = sides(trace, info, queries, keys)
    _check(len(query_side.positions), len(key_side.positions), annotate=annotate)
    if head is None:
        return mean(trace, layer, queries=queries, keys=keys, kind=kind)
    return read_cells(trace, layer, head, queries, keys, kind)


def _check(rows: int, columns: int, *, annotate: bool) -> None:
    attempted = f"drawing an attention map of {rows} queries and {columns} keys"
    knobs = "choose fewer with queries= and keys="
    check_size(attempted, "cells", rows * columns, MAP_CELLS, knobs)
    if annotate:
        check_size(f"{attempted} with numbers", "cells", rows * columns, ANNOTATED_CELLS, f"{knobs}, or annotate=False")


def _heatmap(
    cells: Cells, what: What, values: Matrix, other: Matrix, columns: slice, colours: theme.Theme, annotate: bool
) -> dict[str, Any]:
    first = cells.keys.positions[columns].start
    part = {
        "z": values[:, columns].numpy(), "customdata": other[:, columns].numpy(),
        "x0": first, "dx": 1, "y0": cells.queries.positions.start, "dy": 1, "hoverongaps": False,
        "hovertemplate": f"query %{{y}}<br>key %{{x}}<br>{told(what)}<extra></extra>",
    }  # fmt: skip
    if annotate:
        part |= NUMBERS
    return part


def _layout(
    cells: Cells,
    what: What,
    scale: Scale,
    colours: theme.Theme,
    *,
    first_aside: bool,
    annotate: bool,
    beside: Sequence[str],
) -> dict[str, Any]:
    rows, columns = len(cells.queries.positions), len(cells.keys.positions)
    square = not annotate and 0.15 < rows / columns < 6
    cell = min(max(LONGEST_SIDE / max(rows, columns), CELL[0]), CELL[1])
    if not square:
        cell = max(cell, 22) if rows < columns else cell
    inner = rows * (NUMBER[1] if annotate else cell)
    inner = max(inner, 150) if square else inner
    layout = sheet(
        colours,
        f"{cells.model}\n{cells.title}",
        scale_note(what, scale, first_aside=first_aside),
        inner + TITLE + BAR + BOTTOM,
        coloraxis=colour_axis(scale, colours.attention),
        meta={"inner": inner, "panels": [1, 1]},
    )
    left = LEFT + (BESIDE if beside else 0)
    layout["margin"] |= {"l": left}
    if annotate:
        layout["width"] = max(columns * NUMBER[0], 260) + left + RIGHT
    return layout | matrix_axes(cells, colours, NUMBER[1] if annotate else cell, square=square, beside=beside)
