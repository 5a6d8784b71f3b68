"""The replay as a ``plotly.graph_objects.Figure``, for notebooks and for anyone who wants the figure.

A heatmap a frame would make the file grow with T³. Here each matrix is drawn once; frames move a curtain over the rows
to come, and carry the bars and words of one step. What moves is scatter and bar traces only: these Plotly updates
without redrawing the heatmap beneath.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

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
    scale_note,
    still_marks,
    visibility,
)
from gentrace.views.figure_step import step_layout, step_moves, step_styles, text_range, text_traces
from gentrace.views.labels import escape
from gentrace.views.look import MARGIN, WIDTH, Look, plan
from gentrace.views.timeline import (
    Panel,
    Sink,
    What,
    check_budget,
    check_choice,
    choose_heads,
    choose_layer,
    choose_rows,
    mean_panel,
    panel,
    timeline,
)

FIGURE_CELLS = 2_000_000
"""Cells that a figure may hold, all its heads together; each is written twice, as weight and as score."""
MOST_HEADS = 12
"""Small multiples beyond which the default shows the mean instead."""
SPEEDS = (("slow", 1000), ("normal", 350), ("fast", 90))
"""Milliseconds a step."""


def replay(
    trace: Trace,
    layer: int | None = None,
    heads: int | Sequence[int] | None = None,
    *,
    mean: bool = False,
    what: What = "weights",
    sink: Sink = "mask",
    rows: tuple[int, int] | None = None,
    dark: bool = False,
) -> go.Figure:
    """A figure that replays a generation step by step.

    Step p is row p: token p looks back at keys 0 … p; the bars show what may come next, token p + 1. The figure opens
    at the last prompt token; the slider also goes back into the prompt.

    Args:
        trace: A finished trace.
        layer: Layer number; None for the last recorded layer.
        heads: One or several query heads, drawn side by side; None for all, or for their mean if there are more than
            twelve.
        mean: Draw the mean of the heads instead.
        what: Whether weights or scores are shown first; a button switches.
        sink: What to do about the first key: "mask" it and scale colours to the rest, a "log" scale (of weights), or
            "keep" it on a linear scale.
        rows: First query row and one past the last; None for all.
        dark: Light ink on dark paper.

    Returns:
        The figure, with one frame a step. Write it with ``figure.write_html(path, auto_play=False)``: left to itself
        Plotly starts playing at the first frame, in the middle of the prompt.

    Raises:
        ViewError: If the trace has no such layer, head or row.
        ViewBudgetError: If the figure would be too big; raised before anything of that size is allocated.
    """
    check_choice("what", what, ("weights", "scores"))
    check_choice("sink", sink, ("mask", "log", "keep"))
    info, shown = choose_layer(trace, layer), choose_rows(trace, rows)
    chosen = choose_heads(info, heads)
    averaged = len(chosen) > 1 and (mean or (heads is None and len(chosen) > MOST_HEADS))
    count = 1 if averaged else len(chosen)
    check_budget("a figure", count * len(shown) * shown.stop, FIGURE_CELLS, shown, count)
    panels = _panels(trace, info, chosen, shown, averaged=averaged)
    return _figure(plan(timeline(trace, rows), panels, what, sink, theme.DARK if dark else theme.LIGHT))


def _panels(trace: Trace, info: LayerInfo, heads: tuple[int, ...], rows: range, *, averaged: bool) -> tuple[Panel, ...]:
    if averaged:
        return (mean_panel(trace, info.index, heads, rows),)
    return tuple(panel(trace, info.index, head, rows) for head in heads)


def _figure(look: Look) -> go.Figure:
    colours = choose_colours(look)
    still = [*heatmaps(look, colours), *still_marks(look), *text_traces(look)]
    styles = [*matrix_styles(look), *step_styles(look)]
    moves = _moves(look, look.line.start)
    first = [style | move for style, move in zip(styles, moves, strict=True)]
    where = list(range(len(still), len(still) + len(first)))
    text_y = look.text.keys[1]
    frames = [
        {
            "name": str(row),
            "data": _moves(look, row),
            "traces": where,
            "layout": {text_y: {"range": text_range(look, row)}},
        }
        for row in look.line.rows
    ]
    return go.Figure(data=[*still, *first], layout=_layout(look, colours), frames=frames)


def _moves(look: Look, row: int) -> list[dict[str, Any]]:
    """What one step changes: always as many traces, in the same order."""
    return [*matrix_moves(look, row), *step_moves(look, row)]


def _layout(look: Look, scales: Mapping[str, Colours]) -> dict[str, Any]:
    colours = look.colours
    layout = {
        "template": "none",
        "width": WIDTH,
        "height": round(look.height) + MARGIN["t"] + MARGIN["b"] + 60,
        "margin": MARGIN | {"b": MARGIN["b"] + 60},
        "paper_bgcolor": colours.paper,
        "plot_bgcolor": colours.card,
        "font": {"family": theme.SANS, "color": colours.ink, "size": 12},
        "title": _title(look, look.what, scales) | {"x": 0.012, "xanchor": "left", "y": 0.985, "yanchor": "top"},
        "showlegend": False,
        "hovermode": "closest",
        "barmode": "overlay",
        "updatemenus": [_play_menu(look), _what_menu(look, scales)],
        "sliders": [_slider(look)],
    }
    return layout | matrix_layout(look, scales) | step_layout(look)


def _title(look: Look, what: str, scales: Mapping[str, Colours]) -> dict[str, Any]:
    panels = look.panels
    name = panels[0].title if len(panels) == 1 else f"layer {panels[0].layer} · {len(panels)} heads"
    note = f"<span style='font-size:12px;color:{look.colours.muted}'>{escape(scale_note(look, what, scales))}</span>"
    return {"text": f"<b>{escape(look.line.model)}</b> · {name}<br>{note}", "font": {"size": 16}}


def _animate(duration: int) -> dict[str, Any]:
    still = {"duration": 0}
    return {
        "mode": "immediate",
        "fromcurrent": True,
        "transition": still,
        "frame": {"duration": duration, "redraw": False},
    }


def _menu(look: Look, buttons: list[dict[str, Any]], x: float, anchor: str) -> dict[str, Any]:
    return {
        "type": "buttons", "direction": "right", "showactive": False, "buttons": buttons, "x": x, "xanchor": anchor,
        "y": 1, "yanchor": "bottom", "pad": {"b": 8, "l": 0, "r": 0}, "bgcolor": look.colours.card,
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
    where = list(range(2 * len(look.panels)))
    buttons = []
    for what in ("weights", "scores"):
        shown = visibility(look, what)
        layout = {"title.text": _title(look, what, scales)["text"]}
        layout |= {f"images[{place}].visible": visible for place, visible in enumerate(shown)}
        buttons.append({"label": what, "method": "update", "args": [{"visible": shown}, layout, where]})
    return _menu(look, buttons, 1, "right")


def _slider(look: Look) -> dict[str, Any]:
    rows = look.line.rows
    steps = [
        {"label": str(row), "method": "animate", "args": [[str(row)], _animate(0) | {"fromcurrent": False}]}
        for row in rows
    ]
    return {
        "active": look.line.start - rows.start, "steps": steps, "x": 0, "len": 1, "y": 0, "yanchor": "top",
        "pad": {"t": 84}, "currentvalue": {"prefix": "token ", "font": {"size": 13}}, "bgcolor": look.colours.line,
        "activebgcolor": look.colours.accent, "bordercolor": look.colours.line, "ticklen": 3, "font": {"size": 10},
        "transition": {"duration": 0},
    }  # fmt: skip
