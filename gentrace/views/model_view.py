"""The whole model at a glance: every layer and head as a thumbnail.

All thumbnails are one picture in the layout, under one transparent heat map with a cell for each head, which carries
the tooltip and, as ``customdata``, layer and head. A menu enlarges one of them; in HTML a script lets a click do that.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go
import torch

from gentrace.axes import Matrix
from gentrace.trace.info import Kind
from gentrace.trace.trace import Trace
from gentrace.views import close_up, theme
from gentrace.views.cells import FirstKey, Scale, Span, check_word, titled
from gentrace.views.figure_image import picture
from gentrace.views.scripted import FittingFigure, ScriptedFigure
from gentrace.views.sheet import BAR, PLAIN, TITLE, colour_axis, colour_bar, heading, pressed, sheet, small
from gentrace.views.thumbnails import Sheet, read_sheet
from gentrace.views.timeline import FULL_ROWS

WIDTH = 1100
"""Pixels for which the arrangement is chosen."""
CELL = (24, 280)
"""Least and most pixels of a thumbnail on the screen, its margin included."""
SHAPE = 1.5
"""Width over height that the arrangement comes close to."""
HIGHEST = 760
"""Pixels of all thumbnails below each other, if they are not too small then."""
ENTRIES = 600
"""Heads that a menu can list."""
MARGIN = 0.06
"""Part of a thumbnail's cell that stays empty on each side."""


@dataclass(frozen=True, slots=True)
class Blocks:
    """Layers from top to bottom, in several blocks side by side."""

    layers: int
    """Layers in a block."""
    heads: int
    """Thumbnails side by side in a block."""
    count: int
    """Blocks."""

    @property
    def stride(self) -> int:
        """Cells from one block to the next: one stays empty for the layers' numbers."""
        return self.heads + 1

    @property
    def columns(self) -> int:
        """Cells across."""
        return self.count * self.stride - 1

    def place(self, layer: int, head: int) -> tuple[int, int]:
        """Column and row of the n-th head of the n-th layer."""
        block, row = divmod(layer, self.layers)
        return block * self.stride + head, row


class ModelViewFigure(ScriptedFigure):
    """Enlarges a thumbnail at a click."""

    scripts = ("fit.js", "model_view.js")


def model_view(
    trace: Trace,
    layers: int | Sequence[int] | None = None,
    heads: int | Sequence[int] | None = None,
    *,
    queries: Span = None,
    keys: Span = None,
    sink: FirstKey | None = None,
    kind: Kind = "self",
    size: int | None = None,
    dark: bool = False,
) -> go.Figure:
    """Every layer and head as a thumbnail, on one colour scale; a click or the menu enlarges one.

    Args:
        trace: A finished trace.
        layers: Layer numbers; None for all recorded.
        heads: Query heads of each of these layers; None for all.
        queries: Rows: a slice, (first, one past the last), "prompt" or "generated"; None for all.
        keys: Columns, likewise.
        sink: "mask" leaves the first key out, "keep" shows it; None leaves it out of a causal model's self-attention.
        kind: "self", "cross" or "encoder".
        size: Pixels of a thumbnail's longer side; None for as many as fit, 16 … 64. Each pixel is the largest weight
            under it.
        dark: Light text on a dark ground.

    Returns:
        A figure whose heat map has ``[layer, head]`` as ``customdata`` of each thumbnail.

    Raises:
        ViewError: If the trace has no such layer, head or position.
        ViewBudgetError: If there are too many heads or tokens; raised before they are computed.
    """
    check_word("drawing a model view", "sink", sink, (None, "mask", "keep"))
    shown = read_sheet(trace, layers, heads, queries=queries, keys=keys, sink=sink, kind=kind, size=size)
    blocks = arrange(len(shown.layers), shown.most_heads)
    colours = theme.DARK if dark else theme.LIGHT
    scale = _scale(shown)
    still = [_hover(shown, blocks), *_names(shown, blocks, colours), *close_up.marks(shown, colours), colour_bar()]
    layout = _layout(shown, blocks, scale, colours)
    if len(shown.thumbnails) > ENTRIES:
        return FittingFigure(data=still, layout=layout)
    large = close_up.maps(shown, colours)
    layout["updatemenus"] = [_menu(shown, layout, colours, range(len(still), len(still) + len(large)))]
    return ModelViewFigure(data=[*still, *large], layout=layout)


def arrange(layers: int, heads: int) -> Blocks:
    """As many blocks as bring the picture closest to its shape."""
    counts = range(1, layers + 1)

    def stretch(count: int) -> float:
        blocks = Blocks(-(-layers // count), heads, count)
        return abs(math.log(blocks.columns / blocks.layers / SHAPE))

    best = min(counts, key=stretch)
    per_block = -(-layers // best)
    return Blocks(per_block, heads, -(-layers // per_block))


def montage(shown: Sheet, blocks: Blocks) -> Matrix:
    """All thumbnails on one sheet, NaN between them."""
    high, wide = (max(one.pixels.shape[axis] for one in shown.thumbnails) for axis in (0, 1))
    side = max(high, wide)
    gap = max(1, round(MARGIN * side))
    cell = side + 2 * gap
    sheet_of = torch.full((blocks.layers * cell, blocks.columns * cell), torch.nan)
    for column, row, one in _placed(shown, blocks):
        rows, columns = one.pixels.shape
        top, left = row * cell + gap, column * cell + gap
        # A few tokens have fewer pixels than fit: each becomes a square of several.
        times = side // max(rows, columns)
        sheet_of[top : top + rows * times, left : left + columns * times] = one.pixels.repeat_interleave(
            times, 0
        ).repeat_interleave(times, 1)
    return sheet_of


def _placed(shown: Sheet, blocks: Blocks) -> list[tuple[int, int, Any]]:
    """Column, row and thumbnail of each."""
    order, counts = {layer: place for place, layer in enumerate(shown.layers)}, dict.fromkeys(shown.layers, 0)
    found = []
    for one in shown.thumbnails:
        found.append((*blocks.place(order[one.layer], counts[one.layer]), one))
        counts[one.layer] += 1
    return found


def _scale(shown: Sheet) -> Scale:
    """Full colour where nine rows of pixels in ten stay below with their strongest."""
    strongest = torch.cat([one.pixels.nan_to_num(nan=-1.0).amax(-1) for one in shown.thumbnails])
    strongest = strongest[strongest > 0]
    return Scale(0.0, float(strongest.quantile(FULL_ROWS)) if len(strongest) else 1.0)


def _hover(shown: Sheet, blocks: Blocks) -> go.Heatmap:
    z = torch.full((blocks.layers, blocks.columns), torch.nan)
    told: list[list[list[int]]] = [[[] for _ in range(blocks.columns)] for _ in range(blocks.layers)]
    texts = [["" for _ in range(blocks.columns)] for _ in range(blocks.layers)]
    for column, row, one in _placed(shown, blocks):
        z[row, column] = 0.0 if math.isnan(one.entropy) else one.entropy
        told[row][column] = [one.layer, one.head]
        named = {"first key": one.first, "previous token": one.previous, "itself": one.itself}
        lines = [f"{name} {value:.4f}" for name, value in named.items() if not math.isnan(value)]
        texts[row][column] = "<br>".join(
            [f"<b>layer {one.layer} · head {one.head}</b>", "mean weight on", *lines, f"entropy {one.entropy:.2f} nats"]
            if lines
            else [f"<b>layer {one.layer} · head {one.head}</b>", f"entropy {one.entropy:.2f} nats"]
        )
    return go.Heatmap(
        name="heads", z=z.numpy(), customdata=told, text=texts, opacity=0, showscale=False, hoverongaps=False,
        hovertemplate="%{text}<extra></extra>",
    )  # fmt: skip


def _names(shown: Sheet, blocks: Blocks, colours: theme.Theme) -> list[go.Scatter]:
    """Layer numbers before each row, head numbers over each column."""
    shared: dict[str, Any] = {"mode": "text", "hoverinfo": "skip", "cliponaxis": False}
    shared |= {"textfont": {"size": 10, "color": colours.muted}}
    starts = [block * blocks.stride - 0.5 for block in range(blocks.count)]
    layers = [blocks.place(place, 0) for place in range(len(shown.layers))]
    heads = [one.head for one in shown.thumbnails if one.layer == shown.layers[0]]
    return [
        go.Scatter(
            name="layers", x=[column - 0.52 for column, _ in layers], y=[row for _, row in layers],
            text=[str(layer) for layer in shown.layers], textposition="middle left", **shared,
        ),
        go.Scatter(
            name="heads", x=[start + 0.5 + place for start in starts for place in range(len(heads))],
            y=[-0.52] * (len(starts) * len(heads)), text=[str(head) for head in heads] * len(starts),
            textposition="top center", **shared,
        ),
    ]  # fmt: skip


def _layout(shown: Sheet, blocks: Blocks, scale: Scale, colours: theme.Theme) -> dict[str, Any]:
    cell = min(max(min(WIDTH / blocks.columns, HIGHEST / blocks.layers), CELL[0]), CELL[1])
    aside = "; first key left out" if shown.first_aside else ""
    note = f"rows are layers, columns heads\nlargest weight per pixel, full colour from {scale.high:.2g}{aside}"
    layers = "1 layer" if len(shown.layers) == 1 else f"{len(shown.layers)} layers"
    title = f"{shown.model}\n{layers}, {len(shown.thumbnails)} heads{titled(shown.kind)}"
    layout = sheet(
        colours, title, note, blocks.layers * cell + TITLE + BAR + 66,
        coloraxis=colour_axis(scale, colours.attention, len=110, nticks=3),
    )  # fmt: skip
    left, right = -0.5 - 26 / cell, blocks.columns - 0.5 + 4 / cell
    top, bottom = -0.5 - 20 / cell, blocks.layers - 0.5
    # The plane goes on to the close-up: what zooms out too far would show both.
    shared = PLAIN | {"constrain": "domain", "showticklabels": False, "fixedrange": True}
    near = close_up.axes(shown, colours)
    return layout | near | {
        "meta": {"inner": blocks.layers * cell + 26, "panels": [1, 1]},
        "margin": {"l": 16, "r": 16, "t": TITLE + BAR + 16, "b": 24},
        "xaxis": shared | near["xaxis"] | {"range": [left, right], "constraintoward": "left"},
        "yaxis": shared | near["yaxis"] | {
            "range": [bottom, top], "constraintoward": "top", "scaleanchor": "x",
        },
        "images": [
            {
                "source": picture(montage(shown, blocks), scale.low, scale.high, colours.attention), "xref": "x",
                "yref": "y", "x": -0.5, "y": -0.5, "sizex": blocks.columns, "sizey": blocks.layers,
                "sizing": "stretch", "layer": "below",
            }
        ],
    }  # fmt: skip


def _menu(shown: Sheet, layout: dict[str, Any], colours: theme.Theme, maps: range) -> dict[str, Any]:
    """A menu that enlarges a head, and whose first entry returns."""
    first, grey = shown.first, "first key grey" if shown.first_aside else ""
    block = f"cells are the largest of {shown.block} × {shown.block}" if shown.block > 1 else ""
    told = "; ".join(part for part in (grey, block) if part)
    note = f"weights, full colour from {layout['coloraxis']['cmax']:.2g}\n{told}".rstrip()
    back: dict[str, Any] = {
        name: layout[name.partition(".")[0]][name.partition(".")[2]]
        for name in ("xaxis.range", "yaxis.range", "yaxis.scaleanchor", "margin.l", "margin.r", "margin.b")
    }  # fmt: skip
    back |= close_up.WHOLE | {
        "meta.inner": layout["meta"]["inner"],
        "xaxis2.visible": False,
        "yaxis2.visible": False,
        "height": layout["height"],
        "title.y": layout["title"]["y"],
    }
    back |= {"title.text": layout["title"]["text"], "title.subtitle.text": layout["title"]["subtitle"]["text"]}
    buttons: list[dict[str, Any]] = [{"label": "every head", "method": "update", "args": [{}, back, list(maps)]}]
    for place, one in enumerate(shown.thumbnails):
        name = f"layer {one.layer} · head {one.head}"
        change = close_up.in_sight(shown, heading(f"{first.model}\n{name}{titled(shown.kind)}"), small(note))
        buttons.append({"label": name, "method": "update", "args": [close_up.state(shown, place), change, list(maps)]})
    return {
        "name": "heads", "type": "dropdown", "direction": "down", "buttons": buttons, "active": 0, "x": 1,
        "xanchor": "right", "y": 1, "yanchor": "bottom", "pad": {"b": 10}, **pressed(colours),
    }  # fmt: skip
