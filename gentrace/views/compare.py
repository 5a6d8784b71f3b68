"""Two traces side by side and what differs: two prompts, two models, two ways of decoding.

All three matrices have the same axes (see `gentrace.views.comparison`); the two share one colour scale, the difference
has one around zero.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import plotly.graph_objects as go
import torch
from torch import Tensor

from gentrace.axes import Matrix
from gentrace.trace.info import Kind
from gentrace.trace.trace import Trace
from gentrace.views import signed, theme
from gentrace.views.cells import FirstKey, Scale, Span, check_size, check_word
from gentrace.views.comparison import Comparison, Part, read_comparison
from gentrace.views.labels import escape, thinned, tick_texts
from gentrace.views.scripted import FittingFigure
from gentrace.views.sheet import (
    BAR,
    BOTTOM,
    LEFT,
    NAMED,
    NUMBER,
    NUMBERS,
    PLAIN,
    RIGHT,
    TITLE,
    colour_axis,
    sheet,
    short,
)
from gentrace.views.timeline import full_colour

SIDE = {1: 340, 3: 360}
"""Pixels of a matrix's longer side, by how many stand beside each other."""
ANNOTATED = 1024
"""Cells of one matrix in which a number can be read."""
NAME, BETWEEN = 24, 0.025
"""Pixels over a matrix for its name; part of the width between two."""


def compare(
    trace_a: Trace,
    trace_b: Trace,
    layer: int | Sequence[int] | None = None,
    head: int | Sequence[int] | None = None,
    *,
    last: int | None = None,
    layer_b: int | Sequence[int] | None = None,
    head_b: int | Sequence[int] | None = None,
    names: tuple[str, str] = ("first", "second"),
    queries: Span = None,
    keys: Span = None,
    sink: FirstKey | None = None,
    kind: Kind = "self",
    annotate: bool = False,
    columns: int = 3,
    dark: bool = False,
) -> go.Figure:
    """Two heat maps on one colour scale, and their difference.

    Tokens are put side by side by the text: equal tokens one by one, differing words in order. Where two tokenizers cut
    one text differently, tokens between two common cuts make one row or column: weights are added up over its keys and
    averaged over its queries, so that each row still adds up to 1.

    Args:
        trace_a: A finished trace.
        trace_b: Another: of another prompt, another model or another way of decoding.
        layer: Layer number of the first; the mean of several is taken, and of all recorded for None.
        head: Query head of the first; the mean of several is taken, and of all heads for None.
        last: Of the matrices so chosen, layer by layer, only the last so many are averaged.
        layer_b: Layer number of the second, likewise; None for the same.
        head_b: Query head of the second, likewise; None for the same.
        names: What to call the two.
        queries: Rows, as positions of the first trace: a slice, (first, one past the last), "prompt" or "generated";
            None for all. Tokens of the second between them are shown as well.
        keys: Columns, likewise.
        sink: "mask" sets the first key of either aside, "keep" treats it as any other; None masks it in
            self-attention that never looks ahead.
        kind: "self", "cross" or "encoder".
        annotate: Write each number into its cell, with four decimals.
        columns: 3 puts the matrices beside each other, but below each other where the figure becomes HTML on a narrow
            page; 1 always puts them below each other.
        dark: Light text on a dark ground.

    Raises:
        ViewError: If a trace has no such layer, head or position.
        ViewBudgetError: If there are too many cells; raised before they are computed.
    """
    check_word("comparing traces", "sink", sink, (None, "mask", "keep"))
    check_word("comparing traces", "columns", columns, (1, 3))
    second = Part(layer if layer_b is None else layer_b, head if head_b is None else head_b, last)
    compared = read_comparison((trace_a, trace_b), (Part(layer, head, last), second), queries, keys, sink, kind)
    if annotate:
        size = len(compared.queries) * len(compared.keys)
        check_size("comparing traces with numbers", "cells", size, ANNOTATED, "choose fewer with queries= and keys=")
    colours = theme.DARK if dark else theme.LIGHT
    shown = [one[:, compared.aside :] for one in (compared.first, compared.second)]
    scale = Scale(0.0, full_colour(shown, skip_first_key=False))
    most = signed.limit([compared.difference[:, compared.aside :]])
    maps: list[go.Heatmap | go.Scatter] = list(_maps(compared, names, colours, annotate=annotate))
    maps += list(_missing(compared, colours))
    layout = _layout(compared, names, colours, scale, most, columns, annotate=annotate)
    if columns == 3 and not annotate:
        stacked = _layout(compared, names, colours, scale, most, 1, annotate=False)
        layout["meta"] |= {"wide": _arrangement(layout), "narrow": _arrangement(stacked)}
    return FittingFigure(data=maps, layout=layout)


def _maps(
    compared: Comparison, names: tuple[str, str], colours: theme.Theme, *, annotate: bool
) -> Iterator[go.Heatmap]:
    """The two and their difference; leading columns that are set aside are grey maps of their own."""
    # In a template, "%{" would begin a number.
    first, second = (escape(name).replace("%", "&#37;") for name in names)
    beside = torch.stack([compared.first, compared.second], -1)
    panels: list[tuple[str, Matrix, Tensor, str, str]] = [
        (first, compared.first, compared.second, f"{first} %{{z:.4g}}<br>{second} %{{customdata:.4g}}", ""),
        (second, compared.second, compared.first, f"{first} %{{customdata:.4g}}<br>{second} %{{z:.4g}}", ""),
        (
            "difference", compared.difference, beside,
            f"{first} %{{customdata[0]:.4g}}<br>{second} %{{customdata[1]:.4g}}<br>difference %{{z:+.4g}}", "2",
        ),
    ]  # fmt: skip
    grey = {"colorscale": [[0, colours.unseen], [1, colours.unseen]], "showscale": False}
    for panel, (name, z, other, told, scale) in enumerate(panels):
        number = 2 * panel + 1
        numbers = NUMBERS | {"texttemplate": "%{z:+.4f}" if panel == 2 else "%{z:.4f}"} if annotate else {}
        parts = [(slice(compared.aside, None), {"coloraxis": f"coloraxis{scale}"})]
        parts += [(slice(0, compared.aside), grey)] if compared.aside else []
        for part, paint in parts:
            yield go.Heatmap(
                name=name, z=z[:, part].numpy(), customdata=other[:, part].numpy(), x0=part.start, dx=1, y0=0, dy=1,
                hoverongaps=False, xaxis=f"x{number}", yaxis=f"y{number}", **paint, **numbers,
                hovertemplate=f"query %{{y}}<br>key %{{x}}<br>{told}<extra></extra>",
            )  # fmt: skip


def _missing(compared: Comparison, colours: theme.Theme) -> Iterator[go.Scatter]:
    """Shades over the rows and columns of tokens that a text does not have, and over rows never seen."""
    ends = len(compared.queries) - 0.5, len(compared.keys) - 0.5
    for panel in range(3):
        either = sorted({*compared.unseen[0], *compared.unseen[1]})
        rows = either if panel == 2 else compared.unseen[panel]
        yield go.Scatter(
            name="never seen", mode="lines", fill="toself", line={"width": 0}, hoverinfo="skip",
            x=[-0.5, ends[1], ends[1], -0.5, None] * len(rows),
            y=[edge for at in rows for edge in (at - 0.5, at - 0.5, at + 0.5, at + 0.5, None)],
            fillcolor=colours.unseen, xaxis=f"x{2 * panel + 2}", yaxis=f"y{2 * panel + 2}",
        )  # fmt: skip
        for axis, groups in enumerate((compared.queries, compared.keys)):
            missing = [at for at, group in enumerate(groups) if group.missing is not None]
            shown = [at for at in missing if panel in (groups[at].missing, 2)]
            along = [edge for at in shown for edge in (at - 0.5, at - 0.5, at + 0.5, at + 0.5, None)]
            across = [-0.5, ends[1 - axis], ends[1 - axis], -0.5, None] * len(shown)
            yield go.Scatter(
                name="not in this text", mode="lines", fill="toself", line={"width": 0}, hoverinfo="skip",
                x=along if axis else across, y=across if axis else along,
                fillcolor=theme.mix((colours.paper, colours.unseen), 0.45),
                xaxis=f"x{2 * panel + 2}", yaxis=f"y{2 * panel + 2}",
            )  # fmt: skip


def _layout(
    compared: Comparison,
    names: tuple[str, str],
    colours: theme.Theme,
    scale: Scale,
    most: float,
    columns: int,
    *,
    annotate: bool,
) -> dict[str, Any]:
    rows = -(-3 // columns)
    longest = max(len(compared.queries), len(compared.keys))
    side = min(SIDE[columns], max(22 * longest, 150))
    height = NUMBER[1] * len(compared.queries) if annotate else side * len(compared.queries) / longest
    step = height + NAME + BOTTOM
    whole = step * rows - BOTTOM
    wide = (1 - BETWEEN * (columns - 1)) / columns
    slim = {"lenmode": "fraction", "len": min(0.36, wide)}
    layout = sheet(
        colours, compared.title, _note(compared, names), whole + TITLE + BAR + 16 + BOTTOM, meta={"panels": [1, 1]},
        coloraxis=colour_axis(
            scale, colours.attention, tickvals=[0, scale.high], ticktext=["0", f"{scale.high:.2g}"], **slim
        ),
        coloraxis2=colour_axis(
            Scale(-most, most), signed.stops(colours), x=1, xanchor="right", tickvals=[-most, 0, most],
            ticktext=[f"−{most:.2g}", "0", f"+{most:.2g}"], **slim,
        ),
    )  # fmt: skip
    if annotate:
        across = len(compared.keys) * (NUMBER[0] + 6) / wide
        layout["width"] = max(across, 360) + LEFT + RIGHT
    headings = [*names, f"{names[1]} − {names[0]}"]
    layout["annotations"] = []
    for panel, heading in enumerate(headings):
        across, down = panel % columns, panel // columns
        left, top = across * (wide + BETWEEN), 1 - (down * step + NAME) / whole
        domains = [left, left + wide], [max(0.0, top - height / whole), top]
        square = not annotate
        pixels = side / longest if square else NUMBER[1]
        layout |= _axes(compared, panel, domains, pixels, first=panel == 0, named=across == 0, square=square)
        layout["annotations"].append(
            {
                "text": f"<b>{escape(short(heading) if panel < 2 else heading)}</b>", "x": left, "y": top,
                "xref": "paper", "yref": "paper", "xanchor": "left", "yanchor": "bottom", "showarrow": False,
                "font": {"size": 12},
            }
        )  # fmt: skip
    return layout


def _arrangement(layout: dict[str, Any]) -> dict[str, Any]:
    """What of a layout says where the matrices stand, as a change of another."""
    change = {"height": layout["height"], "title.y": layout["title"]["y"]}
    for name, value in layout.items():
        if name.startswith(("xaxis", "yaxis")):
            change |= {f"{name}.{key}": value[key] for key in ("domain", "showticklabels") if key in value}
        elif name.startswith("coloraxis"):
            change[f"{name}.colorbar.len"] = value["colorbar"]["len"]
    for place, one in enumerate(layout["annotations"]):
        change |= {f"annotations[{place}].{key}": one[key] for key in "xy"}
    return change


def _axes(
    compared: Comparison,
    panel: int,
    domains: Sequence[list[float]],
    pixels: float,
    *,
    first: bool,
    named: bool,
    square: bool,
) -> dict[str, Any]:
    """A panel's axes: the lower pair carries every name for tooltips, the upper those that can be read."""
    lower, upper = 2 * panel + 1, 2 * panel + 2
    layout: dict[str, Any] = {}
    for letter, groups, domain in zip("xy", (compared.keys, compared.queries), domains, strict=True):
        other, count = "y" if letter == "x" else "x", len(groups)
        ends = [-0.5, count - 0.5]
        shared: dict[str, Any] = {"range": ends if letter == "x" else ends[::-1]}
        if square:
            shared |= {"constrain": "domain", "constraintoward": "left" if letter == "x" else "top"}
        shared |= {} if first else {"matches": letter}
        few = thinned(0, count, max(1, int(count * pixels / NAMED)))
        layout[_axis(letter, lower)] = PLAIN | shared | {
            "domain": domain, "anchor": f"{other}{lower if lower > 1 else ''}", "showticklabels": False,
            "tickvals": list(range(count)), "ticktext": tick_texts(group.name for group in groups),
        }  # fmt: skip
        layout[_axis(letter, upper)] = PLAIN | shared | {
            "overlaying": f"{letter}{lower if lower > 1 else ''}", "matches": letter, "domain": domain,
            "anchor": f"{other}{upper}",
            "side": "bottom" if letter == "x" else "left", "tickangle": -90 if letter == "x" else 0,
            "tickvals": few, "ticktext": tick_texts(_cut(groups[at].label) for at in few), "tickfont": {"size": 10},
            "showticklabels": letter == "x" or named,
        }  # fmt: skip
    if first and square:
        # The others follow: their axes match these.
        layout["yaxis"] |= {"scaleanchor": "x"}
    return layout


def _axis(letter: str, number: int) -> str:
    return f"{letter}axis{number if number > 1 else ''}"


def _cut(text: str) -> str:
    return text if len(text) <= 16 else text[:15] + "…"


def _note(compared: Comparison, names: tuple[str, str]) -> str:
    note = "attention weights on one scale" + ("; first key grey" if compared.aside else "")
    told = [f"{compared.lonely} only in one text (shaded)"] if compared.lonely else []
    told += [f"{compared.merged} of several tokens (keys summed, queries averaged)"] if compared.merged else []
    return f"{note}\n{', '.join(told) if told else 'aligned token by token'}"
