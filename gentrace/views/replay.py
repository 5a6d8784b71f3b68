"""The replay as a ``plotly.graph_objects.Figure``, for notebooks and for anyone who wants the figure.

A heatmap a frame would make the file grow with T³. Here each matrix is drawn once; frames move a curtain over the rows
to come, and carry the bars and words of one step. What moves is scatter and bar traces only: these Plotly updates
without redrawing the heatmap beneath. Several matrices share one pair of axes, so that one curtain reveals them all.
"""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import plotly.graph_objects as go

from gentrace.errors import ViewBudgetError, ViewError
from gentrace.trace.info import LayerInfo
from gentrace.trace.trace import Trace
from gentrace.views import theme
from gentrace.views.figure_matrix import (
    Colours,
    choose_colours,
    heatmaps,
    matrix_layout,
    matrix_moves,
    matrix_styles,
    pictures,
    scale_note,
    still_marks,
    visibility,
)
from gentrace.views.figure_shade import shade_moves, shade_note, shade_styles
from gentrace.views.figure_step import step_layout, step_moves, step_styles, text_range, text_traces, underlines
from gentrace.views.figure_tree import WINDOW, branch_styles, tree_layout, tree_moves
from gentrace.views.genealogy import Genealogy, genealogy
from gentrace.views.labels import escape
from gentrace.views.look import NARROWEST, TEXT, WIDTH, Look, plan
from gentrace.views.scripted import ScriptedFigure
from gentrace.views.timeline import (
    Panel,
    Sink,
    What,
    check_budget,
    check_choice,
    choose_heads,
    choose_layers,
    choose_rows,
    key_count,
    mean_panel,
    panel,
    timeline,
)

FIGURE_CELLS = 2_000_000
"""Cells that a figure may hold, all its matrices together; each is written twice, as weight and as score."""
FIGURE_BRANCHES = 60_000
"""Continuations of a beam search that a figure may hold, all its frames together."""
MOST_HEADS = 12
"""Small multiples beyond which the default shows the mean of each layer instead."""
LETTER = 6.1
"""Pixels of a letter of the line below the title."""
MOST_PANELS = 36
"""Small multiples that can still be told apart."""
STOP = 6
"""Pixels at least between stops of the slider."""
SPEEDS = (("slow", 1000), ("normal", 350), ("fast", 90))
"""Milliseconds a step."""


class ReplayFigure(ScriptedFigure):
    """A replay, with a script that turns the pages of a long text and steps when an arrow key is pressed."""

    scripts = ("replay_figure.js",)


def replay(
    trace: Trace,
    layer: int | Sequence[int] | None = None,
    heads: int | Sequence[int] | None = None,
    *,
    kind: Literal["self", "cross"] = "self",
    mean: bool = False,
    what: What = "weights",
    sink: Sink | None = None,
    rows: tuple[int, int] | None = None,
    beams: bool = True,
    width: int = WIDTH,
    dark: bool = False,
) -> go.Figure:
    """A figure that replays a generation step by step.

    Step p is row p: token p looks back at keys 0 … p; the bars show what may come next, token p + 1. The figure opens
    at the last prompt token; the slider also goes back into the prompt. Drafts that were rejected at a step stand
    behind the text with a line through them, and below the bars. Words of the text are painted in the colours of the
    current row, those with the 24 largest weights; of several matrices with their mean.

    As HTML the figure also answers the arrow keys, Home and End once it was clicked: those reach every row, also where
    the slider of a long text has no stop.

    Args:
        trace: A finished trace.
        layer: One or several layer numbers; None for the last recorded layer.
        heads: One or several query heads of each of these layers, drawn as small multiples with one scale of colours;
            None for all, or for the mean of each layer if there are more than twelve.
        kind: "self" for the text's own attention, "cross" for what an encoder-decoder model looks at in its source.
        mean: Draw the mean of each layer's heads instead.
        what: Whether weights or scores are shown first; a button switches.
        sink: What to do about the first key: "mask" it and scale colours to the rest, a "log" scale (of weights), or
            "keep" it on a linear scale. None masks it in self-attention only.
        rows: First query row and one past the last; None for all.
        beams: Draw the tree of hypotheses below, if beams were searched.
        width: Pixels across. Below 1,000 the bars stand under the matrices; 390 fits a phone.
        dark: Light ink on dark paper.

    Returns:
        The figure, with one frame a step. Write it with ``figure.write_html(path, auto_play=False)``: left to itself
        Plotly starts playing at the first frame, in the middle of the prompt.

    Raises:
        ViewError: If the trace has no such kind, layer, head or row.
        ViewBudgetError: If the figure would be too big; raised before anything of that size is allocated.
    """
    check_choice("what", what, ("weights", "scores"))
    check_choice("kind", kind, ("self", "cross"))
    sink = sink or ("mask" if kind == "self" else "keep")
    check_choice("sink", sink, ("mask", "log", "keep"))
    if width < NARROWEST:
        change = f"give width={NARROWEST} or more"
        raise ViewError("drawing a replay", f"width={width}: there is no room for text and matrix", change)
    infos, shown = choose_layers(trace, layer, kind), choose_rows(trace, rows)
    chosen = [(info, choose_heads(info, heads)) for info in infos]
    several = sum(len(own) for _, own in chosen)
    averaged = several > len(chosen) and (mean or (heads is None and several > MOST_HEADS))
    count = len(chosen) if averaged else several
    check_budget("a figure", count * len(shown) * key_count(trace, shown, kind), FIGURE_CELLS, shown, count)
    if count > MOST_PANELS:
        change = "choose fewer heads with heads=, fewer layers with layer=, or mean=True"
        raise ViewBudgetError("drawing a figure", f"{count} matrices; at most {MOST_PANELS} can be told apart", change)
    tree = _tree(trace, shown) if beams and trace.beams is not None and trace.beams.steps else None
    panels = tuple(one for info, own in chosen for one in _panels(trace, info, own, shown, averaged=averaged))
    colours = theme.DARK if dark else theme.LIGHT
    return _figure(plan(timeline(trace, rows), panels, what, sink, colours, tree, width))


def _tree(trace: Trace, rows: range) -> Genealogy:
    """The beam search, if its frames together are not too many.

    Raises:
        ViewBudgetError: If they are.
    """
    widest = max(len(step.ids) for step in trace.beams.steps) if trace.beams is not None else 0
    branches = len(rows) * widest * (WINDOW - 1)
    if branches > FIGURE_BRANCHES:
        attempted = f"drawing a beam search with up to {widest} continuations at each of {len(rows)} steps"
        seen = f"{branches:,} branches in all frames; at most {FIGURE_BRANCHES:,} fit"
        raise ViewBudgetError(attempted, seen, "choose fewer rows with rows=(start, stop), or beams=False")
    return genealogy(trace)


def _panels(trace: Trace, info: LayerInfo, heads: tuple[int, ...], rows: range, *, averaged: bool) -> tuple[Panel, ...]:
    if averaged:
        return (mean_panel(trace, info.index, heads, rows, info.kind),)
    return tuple(panel(trace, info.index, head, rows, info.kind) for head in heads)


def _figure(look: Look) -> go.Figure:
    colours = choose_colours(look)
    still = [*heatmaps(look), *still_marks(look), *text_traces(look)]
    styles = [*matrix_styles(look), *shade_styles(look), *step_styles(look)]
    if look.tree is not None:
        styles += branch_styles(look.colours)
    moves = _moves(look, colours, look.line.start)
    first = [_joined(style, move) for style, move in zip(styles, moves, strict=True)]
    where = list(range(len(still), len(still) + len(first)))
    # Plotly draws more at every step if a frame has a layout, be it the same.
    several = len({tuple(text_range(look, row)) for row in look.line.rows}) > 1
    frames = [
        {"name": str(row), "data": _moves(look, colours, row), "traces": where}
        | ({"layout": {TEXT.keys[1]: {"range": text_range(look, row)}}} if several else {})
        for row in look.line.rows
    ]
    return ReplayFigure(data=[*still, *first], layout=_layout(look, colours), frames=frames)


def _moves(look: Look, scales: Mapping[str, Colours], row: int) -> list[dict[str, Any]]:
    """What one step changes: always as many traces, in the same order."""
    return [*matrix_moves(look, row), *shade_moves(look, scales, row), *step_moves(look, row), *tree_moves(look, row)]


def _joined(style: Mapping[str, Any], move: Mapping[str, Any]) -> dict[str, Any]:
    """A trace: how it looks, and what a frame changes of it."""
    shared = {name: _joined(style[name], move[name]) for name in style if isinstance(move.get(name), dict)}
    return {**style, **move, **shared}


def _layout(look: Look, scales: Mapping[str, Colours]) -> dict[str, Any]:
    colours = look.colours
    margin, below = look.sheet.margin, round(look.foot) if look.tree is None else 4
    bottom = below + 68
    layout = {
        "template": "none",
        "width": look.sheet.width,
        "height": round(look.height) + margin["t"] + bottom,
        "margin": margin | {"b": bottom},
        "paper_bgcolor": colours.paper,
        "plot_bgcolor": colours.card,
        "font": {"family": theme.SANS, "color": colours.ink, "size": 12},
        "title": _title(look, look.what, scales)
        | {"x": 0.012, "xanchor": "left", "y": 1, "yanchor": "top", "pad": {"t": 16}},
        "showlegend": False,
        "hovermode": "closest",
        "barmode": "overlay",
        "updatemenus": [_play_menu(look), _what_menu(look, scales)],
        "sliders": [_slider(look, below)],
    }
    images = {"images": [*pictures(look, scales), underlines(look)]}
    return layout | images | matrix_layout(look, scales) | step_layout(look) | tree_layout(look)


def _title(look: Look, what: str, scales: Mapping[str, Colours]) -> dict[str, Any]:
    name = _name(look.panels) + ("" if look.kind == "self" else " · cross-attention")
    said = "; ".join(filter(None, (scale_note(look, what, scales), shade_note(look))))
    # Plotly breaks no lines by itself.
    lines = textwrap.wrap(said, int(look.sheet.inner / LETTER)) if look.sheet.stacked else [said]
    small = f"<span style='font-size:12px;color:{look.colours.muted}'>{{}}</span>"
    note = "<br>".join(small.format(escape(line)) for line in lines)
    between = "<br>" if look.sheet.stacked else " · "
    return {"text": f"<b>{escape(look.line.model)}</b>{between}{name}<br>{note}", "font": {"size": 16}}


def _name(panels: tuple[Panel, ...]) -> str:
    """What all the matrices are, in a few words."""
    if len(panels) == 1:
        return panels[0].title
    layers = list(dict.fromkeys(one.layer for one in panels))
    if len(layers) == 1:
        return f"layer {layers[0]} · {len(panels)} heads"
    named = "layers " + ", ".join(map(str, layers)) if len(layers) <= 6 else f"{len(layers)} layers"
    heads = list(dict.fromkeys(one.head for one in panels))
    if heads == [None]:
        return f"{named} · mean of each"
    return f"{named} · " + (f"head {heads[0]}" if len(heads) == 1 else f"{len(panels)} heads")


def _animate(duration: int) -> dict[str, Any]:
    still = {"duration": 0}
    return {
        "mode": "immediate",
        "fromcurrent": True,
        "transition": still,
        "frame": {"duration": duration, "redraw": False},
    }


def _menu(look: Look, buttons: list[dict[str, Any]], x: float, anchor: str, above: int = 8) -> dict[str, Any]:
    return {
        "type": "buttons", "direction": "right", "showactive": False, "buttons": buttons, "x": x, "xanchor": anchor,
        "y": 1, "yanchor": "bottom", "pad": {"b": above, "l": 0, "r": 0}, "bgcolor": look.colours.card,
        "bordercolor": look.colours.line, "font": {"size": 12},
    }  # fmt: skip


def _play_menu(look: Look) -> dict[str, Any]:
    """Play at three speeds, and pause. Playing begins at the last prompt row, or goes on from the row in sight."""
    names = [str(row) for row in look.line.rows if row >= look.line.start]
    play = [
        {"label": f"▶ {name}", "method": "animate", "args": [names, _animate(duration)]} for name, duration in SPEEDS
    ]
    pause = {"label": "❚❚ pause", "method": "animate", "args": [[None], _animate(0)]}
    return _menu(look, [*play, pause], 0, "left")


def _what_menu(look: Look, scales: Mapping[str, Colours]) -> dict[str, Any]:
    where = list(range(len(look.panels)))
    buttons = []
    for what, axis in (("weights", "coloraxis"), ("scores", "coloraxis2")):
        layout = {"title.text": _title(look, what, scales)["text"]}
        layout |= {f"images[{place}].visible": visible for place, visible in enumerate(visibility(look, what))}
        buttons.append({"label": what, "method": "update", "args": [{"coloraxis": axis}, layout, where]})
    # On a narrow sheet the buttons for playing take the whole line.
    return _menu(look, buttons, *((0, "left", 42) if look.sheet.stacked else (1, "right", 8)))


def _slider(look: Look, below: int) -> dict[str, Any]:
    rows, start = look.line.rows, look.line.start
    # Each step pays for each of the stops. The bars' headline says which token looks, so that steps between stops can
    # be told too; the arrow keys reach them.
    stride = -(-len(rows) * STOP // look.sheet.inner)
    stops = [row for row in rows if (row - start) % stride == 0 or row == rows[-1]]
    steps = [
        {"label": str(row), "method": "animate", "args": [[str(row)], _animate(0) | {"fromcurrent": False}]}
        for row in stops
    ]
    return {
        "active": stops.index(start), "steps": steps, "x": 0, "len": 1, "y": 0, "yanchor": "top",
        "pad": {"t": below}, "currentvalue": {"prefix": "token ", "font": {"size": 13}, "visible": stride == 1},
        "bgcolor": look.colours.line,
        "activebgcolor": look.colours.accent, "bordercolor": look.colours.muted, "ticklen": 3, "font": {"size": 10},
        "transition": {"duration": 0},
    }  # fmt: skip
