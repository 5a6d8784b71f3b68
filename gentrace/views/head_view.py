"""Two columns of tokens and a line from each token to those it looks at.

A line is a ribbon whose thickness is the weight, so one Plotly trace a head holds any number of strengths, and the
legend toggles heads. Two sliders sweep over the tokens of either column: all other lines fade under a curtain, and the
token's own are drawn above it. In HTML a script lets the pointer do that.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import plotly.graph_objects as go

from gentrace.errors import ViewError
from gentrace.trace.info import Kind
from gentrace.trace.trace import Trace
from gentrace.views import theme
from gentrace.views.cells import FirstKey, Side, Span, check_word, choose_pairs
from gentrace.views.head_lines import (
    LINES,
    MENU_LINES,
    PAIRS,
    Bundle,
    HeadLines,
    Pair,
    read_lines,
    strongest_of,
)
from gentrace.views.labels import escape
from gentrace.views.scripted import ScriptedFigure
from gentrace.views.sheet import TITLE, pressed, sheet, short

THICKEST = 0.4
"""Rows that a line of weight 1 takes."""
ROW = (15, 22)
"""Least and most pixels of a row."""
COLUMN = 0.3
"""Width of a column of tokens; the lines between the two take 1."""
States: TypeAlias = Mapping[str, list[dict[str, Any]]]
"""What moves, by the name of the state."""
Owned: TypeAlias = Sequence[tuple[Side, Mapping[int, list[HeadLines]]]]
"""Both columns, with each token's own lines."""
TOLD = 6
"""Lines that a tooltip lists."""
SLIDERS, LEGEND = 66, 70
"""Pixels over and under the picture."""
CHANGING = ("x", "y", "text", "textposition", "hovertext")
"""What differs between the layers of a trace's drawing."""
WHOSE = {"self": "", "cross": " · cross-attention", "encoder": " · encoder attention"}


class HeadViewFigure(ScriptedFigure):
    """Answers to the pointer over a token, and to a click on one."""

    scripts = ("fit.js", "head_view.js")


def head_view(
    trace: Trace,
    layer: int | Sequence[int] | None = None,
    heads: int | Sequence[int] | None = None,
    *,
    queries: Span = None,
    keys: Span = None,
    pair: Pair = "all",
    focus: int | None = None,
    least: float = 0.05,
    sink: FirstKey | None = None,
    kind: Kind = "self",
    dark: bool = False,
) -> go.Figure:
    """Lines from the tokens that look (left) to those they look at (right); thickness is the weight.

    Heads are toggled in the legend, layers chosen in a menu. The sliders show one token's lines alone; over a token, a
    tooltip lists the strongest. With a sentence pair (``trace.segments``), buttons show the lines from one sentence to
    one.

    Args:
        trace: A finished trace.
        layer: The model's layer number; several give a menu that begins with the first, None a menu of all recorded.
        heads: Query heads; None for all.
        queries: Tokens on the left: a slice, (first, one past the last), "prompt" or "generated"; None for all. With
            "generated" the picture shows what each written token looks at, prompt and written.
        keys: Tokens on the right, likewise.
        pair: The sentences shown first: "all", "A→A", "A→B", "B→A" or "B→B".
        focus: A position on the left whose lines are shown first.
        least: Weights below this have no line.
        sink: "mask" leaves lines to the first key out, "keep" draws them; None leaves them out of a causal model's
            self-attention.
        kind: "self", "cross" (the encoder's tokens on the right) or "encoder".
        dark: Light text on a dark ground.

    Raises:
        ViewError: If the trace has no such layer, head, position or sentences.
        ViewBudgetError: If there are too many tokens or heads; raised before their attention is computed.
    """
    attempted = "drawing a head view"
    check_word(attempted, "sink", sink, (None, "mask", "keep"))
    check_word(attempted, "pair", pair, PAIRS)
    layers = list(dict.fromkeys(place for place, _ in choose_pairs(trace, layer, heads, kind)))
    most = min(LINES, MENU_LINES // len(layers))
    bundles = [
        read_lines(trace, one, heads, queries=queries, keys=keys, least=least, sink=sink, kind=kind, most=most)
        for one in layers
    ]
    bundle = bundles[0]
    if pair != "all" and bundle.sentences is None:
        change = "give the model token_type_ids while recording, or leave pair= out"
        raise ViewError(attempted, "the trace has no two sentences", change)
    if focus is not None and focus not in bundle.queries.positions:
        seen = f"focus={focus}, but queries {_span(bundle.queries)} are shown"
        raise ViewError(attempted, seen, "choose one of them")
    colours = theme.DARK if dark else theme.LIGHT
    shown = sorted({one.head for each in bundles for one in each.heads})
    first = pair if focus is None else f"query {focus}"
    figures = [_one_layer(each.with_heads(shown), first, colours, menu=len(bundles) > 1) for each in bundles]
    if len(figures) > 1:
        layout: Any = figures[0].layout
        layout.updatemenus = [*layout.updatemenus, _layer_menu(layers, figures, colours)]
    return figures[0]


def _one_layer(bundle: Bundle, first: str, colours: theme.Theme, *, menu: bool) -> go.Figure:
    """One layer, in the state that is shown first."""
    owned = [(side, bundle.by_token(side)) for side in (bundle.queries, bundle.keys)]
    still = [*_ribbons(bundle, colours), *_columns(bundle, owned, colours)]
    states = dict(_states(bundle, owned))
    styles = _styles(bundle, colours)
    moving = [style | move for style, move in zip(styles, states[first], strict=True)]
    return HeadViewFigure(data=[*still, *moving], layout=_layout(bundle, colours, states, first, len(still), menu=menu))


def _layer_menu(layers: Sequence[int], figures: Sequence[go.Figure], colours: theme.Theme) -> dict[str, Any]:
    """A menu whose entries put another layer's lines, tooltips and sliders in place; heads stay toggled."""
    timing = {"mode": "immediate", "transition": {"duration": 0}, "frame": {"duration": 0, "redraw": True}}
    buttons: list[dict[str, Any]] = []
    for layer, figure in zip(layers, figures, strict=True):
        parts: Any = figure.to_dict()
        data = [{key: one[key] for key in ("type", *CHANGING) if key in one} for one in parts["data"]]
        layout = parts["layout"]
        change = {"title.text": layout["title"]["text"], "title.subtitle.text": layout["title"]["subtitle"]["text"]}
        for name, each in (("sliders", "steps"), ("updatemenus", "buttons")):
            for place, control in enumerate(layout.get(name, ())):
                change |= {f"{name}[{place}].{each}": control[each], f"{name}[{place}].active": control["active"]}
        frame = {"data": data, "layout": change, "traces": list(range(len(data)))}
        buttons.append({"label": f"layer {layer}", "method": "animate", "args": [frame, timing]})
    return {
        "name": "layers", "type": "dropdown", "direction": "down", "buttons": buttons, "active": 0, "x": 1,
        "xanchor": "right", "y": 1, "yanchor": "bottom", "pad": {"b": SLIDERS - 4, "r": 8},
        **pressed(colours),
    }  # fmt: skip


def _ribbons(bundle: Bundle, colours: theme.Theme) -> Iterator[go.Scatter]:
    """Every line of each head."""
    for place, one in enumerate(bundle.heads):
        colour = theme.head_colour(colours, place)
        yield go.Scatter(
            name=f"head {one.head}", legendgroup=str(one.head), showlegend=True, mode="lines", fill="toself",
            fillcolor=theme.translucent(colour, _opacity(bundle)), line={"width": 0, "color": colour},
            hoverinfo="skip", **_outlines(one),
        )  # fmt: skip


def _outlines(lines: HeadLines) -> dict[str, Any]:
    """The corners of each ribbon, with a gap after each."""
    count = len(lines.weights)
    half = (lines.weights * (THICKEST / 2)).numpy()
    left, right, gap = lines.queries.numpy(), lines.keys.numpy(), np.full(count, np.nan)
    y = np.stack([left - half, right - half, right + half, left + half, gap], -1)
    x = np.tile(np.array([0, 1, 1, 0, np.nan]), count)
    return {"x": x.astype(np.float32), "y": y.astype(np.float32).ravel()}


def _columns(bundle: Bundle, owned: Owned, colours: theme.Theme) -> Iterator[go.Bar | go.Scatter]:
    """The tokens: bars, from inside out, that a pointer can rest on; a tooltip stands at their end. And their names."""
    for side, lines in owned:
        left = side.axis == "query"
        positions = list(side.positions)
        yield go.Bar(
            name=f"{side.axis} tokens", orientation="h", base=0 if left else 1, y=positions, width=1,
            x=[-COLUMN if left else COLUMN] * len(positions),
            marker={"color": "rgba(0,0,0,0)", "line": {"width": 0}}, customdata=positions, hoverinfo="text",
            hovertext=[_told(bundle, side, position, lines[position]) for position in positions], textposition="none",
            showlegend=False,
        )  # fmt: skip
        given = [side.prompt_length is not None and position < side.prompt_length for position in positions]
        yield go.Scatter(
            name=f"{side.axis} names", mode="text", x=[-0.012 if left else 1.012] * len(positions), y=positions,
            text=[escape(short(text)) for text in side.labels], hoverinfo="skip",
            textposition="middle left" if left else "middle right", showlegend=False,
            textfont={"size": 12, "color": [colours.muted if one else colours.ink for one in given]},
        )  # fmt: skip


def _told(bundle: Bundle, side: Side, position: int, lines: Sequence[HeadLines]) -> str:
    """A token's tooltip: its strongest lines."""
    looks = side.axis == "query"
    other = bundle.keys if looks else bundle.queries
    name = escape(side.names[position - side.positions.start])
    rows = [f"<b>{name}</b> {'looks at' if looks else 'is looked at by'}"]
    for head, query, key, weight in strongest_of(lines, TOLD):
        far = other.names[(key if looks else query) - other.positions.start]
        rows.append(f"{weight:.4f}  {escape(far)}  (head {head})")
    return "<br>".join(rows if len(rows) > 1 else [rows[0], f"nothing with {bundle.least:g} or more"])


def _styles(bundle: Bundle, colours: theme.Theme) -> list[dict[str, Any]]:
    """How the moving traces look: the curtain, the ribbons over it, a frame around a token, numbers."""
    shared = {"type": "scatter", "mode": "lines", "hoverinfo": "skip", "showlegend": False}
    veil = shared | {"fill": "toself", "fillcolor": theme.translucent(colours.paper, 0.93), "line": {"width": 0}}
    ribbons = []
    for place, one in enumerate(bundle.heads):
        colour = theme.head_colour(colours, place)
        fill = {"fill": "toself", "fillcolor": theme.translucent(colour, max(0.6, _opacity(bundle)))}
        line = {"line": {"width": 0, "color": colour}}
        ribbons.append(shared | fill | line | {"legendgroup": str(one.head)})
    box = shared | {"line": {"width": 1.5, "color": colours.accent}}
    numbers = shared | {"mode": "text", "textfont": {"size": 10, "color": colours.ink}}
    return [veil, *ribbons, box, numbers]


def _states(bundle: Bundle, owned: Owned) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """What moves in every state: all lines, each filter of a pair, each token of either column."""
    nothing = {"type": "scatter", "x": [], "y": []}
    words = nothing | {"text": []}
    yield "all", [nothing] * (len(bundle.heads) + 2) + [words]
    for pair in PAIRS[1:] if bundle.sentences is not None else ():
        yield pair, [_veil(bundle), *_moved(bundle.between(pair)), nothing, words]
    for side, by_token in owned:
        for position, lines in by_token.items():
            numbers = _numbers(lines, looks=side.axis == "query")
            yield f"{side.axis} {position}", [_veil(bundle), *_moved(lines), _box(side, position), numbers]


def _moved(lines: Sequence[HeadLines]) -> list[dict[str, Any]]:
    return [{"type": "scatter", **_outlines(one)} for one in lines]


def _veil(bundle: Bundle) -> dict[str, Any]:
    top, bottom = _range(bundle)[::-1]
    return {"type": "scatter", "x": [0, 1, 1, 0], "y": [top, top, bottom, bottom]}


def _box(side: Side, position: int) -> dict[str, Any]:
    left, right = (-COLUMN + 0.004, 0) if side.axis == "query" else (1, 1 + COLUMN - 0.004)
    top, bottom = position - 0.5, position + 0.5
    return {"type": "scatter", "x": [left, right, right, left, left], "y": [top, top, bottom, bottom, top]}


def _numbers(lines: Sequence[HeadLines], *, looks: bool) -> dict[str, Any]:
    """At the other end of a token's lines, the strongest weight of any head."""
    most: dict[int, float] = {}
    for one in lines:
        others = one.keys if looks else one.queries
        for other, weight in zip(others.tolist(), one.weights.tolist(), strict=True):
            most[other] = max(weight, most.get(other, 0.0))
    x = 1 + COLUMN if looks else -COLUMN
    return {
        "type": "scatter", "x": [x] * len(most), "y": list(most), "text": [f"{weight:.2f}" for weight in most.values()],
        "textposition": "middle left" if looks else "middle right",
    }  # fmt: skip


def _layout(
    bundle: Bundle, colours: theme.Theme, states: States, first: str, moving: int, *, menu: bool
) -> dict[str, Any]:
    # A figure with frames plays them as soon as it is shown, so what moves stands in the steps themselves.
    steps = {name: _step(moves, moving) for name, moves in states.items()}
    rows = int(_range(bundle)[0] - _range(bundle)[1])
    inner = rows * min(max(900 / rows, ROW[0]), ROW[1])
    lines = sum(len(one.weights) for one in bundle.heads)
    note = f"left looks at right, the thicker the more; point at a token\n{lines:,} lines, of {bundle.least:g} or more"
    note += f"; {bundle.left_out:,} weaker left out" if bundle.left_out else ""
    note += "; none to the first key" if bundle.first_aside else ""
    shown = f"head {bundle.heads[0].head}" if len(bundle.heads) == 1 else f"{len(bundle.heads)} heads"
    title = f"{bundle.model}\nlayer {bundle.layer} · {shown}{WHOSE[bundle.kind]}"
    sentences = bundle.sentences is not None
    top = TITLE + 16 + SLIDERS + (42 if sentences or menu else 0)
    layout = sheet(colours, title, note, inner + top + LEGEND, barmode="overlay", showlegend=True)
    hidden = {"visible": False, "fixedrange": True}
    return layout | {
        "meta": {"thickness": THICKEST, "sentences": bundle.sentences},
        "margin": {"l": 12, "r": 12, "t": top, "b": LEGEND},
        "xaxis": hidden | {"range": [-COLUMN, 1 + COLUMN]},
        "yaxis": hidden | {"range": _range(bundle)},
        "legend": {
            "orientation": "h", "x": 0.5, "xanchor": "center", "y": 0, "yanchor": "top", "font": {"size": 12},
            "bgcolor": "rgba(0,0,0,0)", "tracegroupgap": 0, "itemsizing": "constant",
        },
        "sliders": [
            _slider(bundle.queries, colours, steps, first, x=0.0, prefix="looks: "),
            _slider(bundle.keys, colours, steps, first, x=0.53, prefix="is looked at: "),
        ],
        "updatemenus": [_menu(colours, steps, first)] if sentences else [],
    }  # fmt: skip


def _slider(
    side: Side, colours: theme.Theme, each: Mapping[str, Any], first: str, *, x: float, prefix: str
) -> dict[str, Any]:
    names = ["all", *(f"{side.axis} {position}" for position in side.positions)]
    texts = ["every token", *(escape(name) for name in side.names)]
    steps = [{"label": text, "method": "animate", "args": each[name]} for name, text in zip(names, texts, strict=True)]
    return {
        "active": names.index(first) if first in names else 0, "steps": steps, "x": x, "len": 0.47, "y": 1,
        "yanchor": "bottom", "pad": {"b": 0, "t": 0, "l": 8, "r": 8}, "ticklen": 0, "minorticklen": 0,
        "currentvalue": {"prefix": prefix, "font": {"size": 12, "color": colours.ink}, "offset": 6},
        "font": {"size": 1, "color": "rgba(0,0,0,0)"}, "bgcolor": colours.line, "activebgcolor": colours.accent,
        "bordercolor": colours.line, "transition": {"duration": 0},
    }  # fmt: skip


def _menu(colours: theme.Theme, each: Mapping[str, Any], first: str) -> dict[str, Any]:
    buttons = [{"label": pair, "method": "animate", "args": each[pair]} for pair in PAIRS]
    return {
        "type": "buttons", "direction": "right", "buttons": buttons, "x": 0, "xanchor": "left", "y": 1,
        "active": PAIRS.index(first) if first in PAIRS else 0, "yanchor": "bottom", "pad": {"b": SLIDERS - 4, "l": 8},
        **pressed(colours),
    }  # fmt: skip


def _step(moves: list[dict[str, Any]], moving: int) -> list[dict[str, Any]]:
    """Arguments that show a state at once."""
    frame = {"data": moves, "traces": list(range(moving, moving + len(moves)))}
    return [frame, {"mode": "immediate", "transition": {"duration": 0}, "frame": {"duration": 0, "redraw": False}}]


def _range(bundle: Bundle) -> list[float]:
    """Rows from the lowest to the highest, upside down as text is read."""
    both = bundle.queries.positions, bundle.keys.positions
    return [max(one.stop for one in both) - 0.4, min(one.start for one in both) - 0.6]


def _opacity(bundle: Bundle) -> float:
    return 0.75 if len(bundle.heads) == 1 else 0.55


def _span(side: Side) -> str:
    return f"{side.positions.start} … {side.positions.stop - 1}"
