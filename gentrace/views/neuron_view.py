"""From a query vector and a key vector to a weight, with every number in between.

The picture reads from left to right: vectors, their products, the weight. Below, one key at a time: what each component
or rotation pair adds to the sum, and a ledger whose lines add up. A slider goes from key to key.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import plotly.graph_objects as go
from torch import Tensor

from gentrace.errors import ViewError
from gentrace.stitch.rotary import RotaryRule
from gentrace.trace.info import Kind
from gentrace.trace.trace import Trace
from gentrace.views import signed, theme
from gentrace.views.cells import Span, check_word
from gentrace.views.labels import escape, thinned, tick_texts
from gentrace.views.neuron_terms import Neuron, Vectors, read_neuron, strongest_key
from gentrace.views.scripted import FittingFigure
from gentrace.views.sheet import NAMED, PLAIN, TITLE, sheet, short

Rope = Literal["after", "before"]
DOMAINS = ((0.0, 0.38), (0.405, 0.785), (0.81, 1.0))
"""Parts of the width: key vectors, products, weights."""
STRIP, CELL, HIGHEST = 24, (3, 22), 640
"""Pixels: the query's row, least and most of a key's row, all of them together."""
GAP, HEADING, BARS, UNDER, LINE, FOOT = 8, 88, 140, 50, 20, 18
"""Pixels: over the keys; over, of and under the bars; of a line of the ledger; at the end."""
SLIDER, BUTTONS = 68, 40
"""Pixels of the controls."""


@dataclass(frozen=True, slots=True, eq=False)
class _Plan:
    """What the parts of the figure must agree on."""

    neuron: Neuron
    key: int
    rope: Rope
    colours: theme.Theme

    @property
    def cell(self) -> float:
        """Pixels of a key's row."""
        return min(max(HIGHEST / len(self.neuron.keys.positions), CELL[0]), CELL[1])

    @property
    def heights(self) -> tuple[float, ...]:
        """Pixels from the top of the picture to: the keys' top, their end, the bars' top, their end, the end."""
        keys = STRIP + GAP + self.cell * len(self.neuron.keys.positions)
        bars = keys + HEADING + BARS
        return STRIP + GAP, keys, keys + HEADING, bars, bars + UNDER + LINE * len(self.neuron.ledger(self.key)) + FOOT

    def domain(self, top: float, bottom: float) -> list[float]:
        """Pixels from the top as parts of the height from below."""
        whole = self.heights[-1]
        return [max(0.0, 1 - bottom / whole), 1 - top / whole]


def neuron_view(
    trace: Trace,
    layer: int,
    head: int,
    query: int,
    key: int | None = None,
    *,
    keys: Span = None,
    rotary: RotaryRule | None = None,
    rope: Rope | None = None,
    kind: Kind = "self",
    dark: bool = False,
) -> go.Figure:
    """One query vector against every key: vectors, products, their sum, and all that makes a weight of it.

    A trace holds vectors as they entered the attention kernel: after rotation (RoPE) and any normalisation. Given the
    model's rotation, the picture shows them before it as well, and puts the components of a rotation pair side by side.

    Args:
        trace: A finished trace.
        layer: The model's layer number.
        head: Query head; its key head is worked out where several share one.
        query: Position that looks: of the prompt, or any that was generated and fed back.
        key: The key that the lower part begins with; None for the one with the largest weight, the first key aside.
        keys: Rows: a slice, (first, one past the last), "prompt" or "generated"; None for those that the query may look
            at. Weights are shares of the whole row in any case.
        rotary: How the layer rotates, such as ``RotaryRule.of(model, layer)``.
        rope: Whether "after" or "before" rotation is shown first; None for after.
        kind: "self", "cross" (keys are the encoder's) or "encoder".
        dark: Light text on a dark ground.

    Raises:
        AttentionUnavailable: If only the layer's scores were seen, and no vectors.
        ViewError: If the trace has no such layer, head or position, or the row was never seen.
        ViewBudgetError: If there are too many keys; raised before they are read.
    """
    attempted = "drawing a neuron view"
    check_word(attempted, "rope", rope, (None, "after", "before"))
    if rope == "before" and rotary is None:
        change = "give the model's rotation, such as rotary=RotaryRule.of(model, layer)"
        raise ViewError(attempted, "vectors are recorded after rotation, and a trace does not hold the angles", change)
    neuron = read_neuron(trace, layer, head, query, keys, kind, rotary)
    key = strongest_key(neuron) if key is None else key
    if key not in neuron.keys.positions:
        shown = f"{neuron.keys.positions.start} … {neuron.keys.positions.stop - 1}"
        raise ViewError(attempted, f"key={key}, but keys {shown} are shown", "choose one of them, or others with keys=")
    plan = _Plan(neuron, key, rope or "after", theme.DARK if dark else theme.LIGHT)
    maps, bars = list(_maps(plan)), _weights(plan)
    moving = [style | state for style, state in zip(_styles(plan), _state(plan, key), strict=True)]
    return FittingFigure(data=[*maps, bars, *moving], layout=_layout(plan, maps))


def _maps(plan: _Plan) -> Iterator[go.Heatmap]:
    """Query, keys and products; as recorded and, if known, before rotation."""
    neuron, order = plan.neuron, plan.neuron.order
    versions = [("after", neuron.after)] + ([("before", neuron.before)] if neuron.before is not None else [])
    limits = _limits(neuron)
    for name, vectors in versions:
        told = f" {name} RoPE" if neuron.before is not None else ""
        matrices: list[tuple[str, Tensor, float, dict[str, Any]]] = [
            ("q", vectors.query[None], limits[0], {"xaxis": "x", "yaxis": "y2", "y0": neuron.query}),
            ("k", vectors.keys, limits[1], {"xaxis": "x", "yaxis": "y", "y0": neuron.keys.positions.start}),
            ("q × k", vectors.products, limits[2], {"xaxis": "x2", "yaxis": "y", "y0": neuron.keys.positions.start}),
        ]
        for what, matrix, most, place in matrices:
            yield go.Heatmap(
                name=f"{what}{told}", z=matrix[:, order].numpy(), dx=1, dy=1, x0=0, zmin=-most, zmax=most,
                colorscale=theme.scale(signed.stops(plan.colours)), showscale=False, visible=name == plan.rope,
                hovertemplate=f"{'query' if what == 'q' else 'key'} %{{y}}<br>%{{x}}<br>{what}{told} = %{{z:.5g}}"
                "<extra></extra>", hoverongaps=False, **place,
            )  # fmt: skip


def _limits(neuron: Neuron) -> tuple[float, float, float]:
    versions: list[Vectors] = [neuron.after, *([neuron.before] if neuron.before is not None else [])]
    return (
        signed.limit([one.query for one in versions], 1.0),
        signed.limit(one.keys for one in versions),
        signed.limit(one.products for one in versions),
    )


def _weights(plan: _Plan) -> go.Bar:
    """The weights, with the whole way to each in its tooltip."""
    neuron, positions = plan.neuron, plan.neuron.keys.positions
    visible = neuron.terms.visible.tolist()
    texts = [f"{weight:.2f}" if seen else "masked" for weight, seen in zip(neuron.terms.weight, visible, strict=True)]
    told = [_told(neuron, key, name) for key, name in zip(positions, neuron.keys.names, strict=True)]
    return go.Bar(
        name="weight", orientation="h", x=neuron.terms.weight.numpy(), y=list(positions), xaxis="x3", yaxis="y",
        marker={"color": theme.mix(plan.colours.attention, 0.68), "line": {"width": 0}}, hoverinfo="text",
        hovertext=told, text=texts if plan.cell >= 13 else None, textposition="outside", cliponaxis=False,
        textfont={"size": 10, "color": plan.colours.ink}, width=0.8,
    )  # fmt: skip


def _told(neuron: Neuron, key: int, name: str) -> str:
    lines = [f"{_number(line.value).strip()}  {escape(line.text)}" for line in neuron.ledger(key)]
    return "<br>".join([f"<b>key {escape(name)}</b>", *lines])


def _styles(plan: _Plan) -> list[dict[str, Any]]:
    """What moves with the slider: frames around the key's row, bars up and down, marks before rotation, ledger."""
    colours = plan.colours
    frame = {
        "type": "scatter", "mode": "lines", "hoverinfo": "skip", "yaxis": "y3",
        "line": {"width": 1.5, "color": colours.accent},
    }  # fmt: skip
    below, above = signed.ends(colours)
    unit = "pair" if plan.neuron.rule is not None else "component"
    shape = {"xaxis": "x4", "yaxis": "y4", "x0": 0, "dx": 1}
    told = f"{unit} %{{x}}<br>adds %{{y:.5g}}<extra></extra>"
    marks = {"symbol": "line-ew-open", "size": 9, "color": colours.ink, "line": {"width": 1.5}}
    bars = {"type": "bar", "hovertemplate": told, "width": 0.8, **shape}
    before = {
        "type": "scatter", "name": "before RoPE", "mode": "markers", "marker": marks, **shape,
        "hovertemplate": told.replace("adds", "before RoPE"), "visible": plan.neuron.before is not None,
    }  # fmt: skip
    text = {
        "type": "scatter", "name": "ledger", "mode": "text", "hoverinfo": "skip", "xaxis": "x6", "yaxis": "y6",
        "textposition": "middle right", "cliponaxis": False,
        "textfont": {"family": theme.MONO, "size": 12, "color": colours.ink},
    }  # fmt: skip
    plain = {"textfont": {"family": theme.SANS, "size": 12.5, "color": colours.ink}}
    heading = text | plain | {"name": "heading", "xaxis": "x5", "yaxis": "y5"}
    return [
        {**frame, "name": "this key", "xaxis": "x"},
        {**frame, "name": "this key's products", "xaxis": "x2"},
        {**bars, "name": "adds to q · k", "marker": {"line": {"width": 0}, "color": above}},
        {**bars, "name": "takes from q · k", "marker": {"line": {"width": 0}, "color": below}},
        before,
        heading,
        text,
    ]


def _state(plan: _Plan, key: int) -> list[dict[str, Any]]:
    """What moves, at one key."""
    neuron, place = plan.neuron, key - plan.neuron.keys.positions.start
    dim, top = len(neuron.after.query), plan.heights[1]
    frame = {
        "type": "scatter", "x": [-0.5, dim - 0.5, dim - 0.5, -0.5, -0.5],
        "y": [key - 0.5, key - 0.5, key + 0.5, key + 0.5, key - 0.5],
    }  # fmt: skip
    this = slice(place, place + 1)
    parts = neuron.by_pair(neuron.after, this)[0].numpy()
    before = [] if neuron.before is None else neuron.by_pair(neuron.before, this)[0].numpy()
    names = escape(neuron.queries.names[0]), escape(neuron.keys.names[place])
    unit = "rotation pair" if neuron.rule is not None else "component"
    headings = [f"query {names[0]}  ·  key <b>{names[1]}</b>", f"added to q · k by each {unit}"]
    headings[1] += "" if neuron.before is None else " (–: before)"
    first = plan.heights[3] + UNDER + LINE / 2
    lines = [f"{_number(line.value)}  {escape(line.text)}" for line in neuron.ledger(key)]
    return [
        frame,
        dict(frame),
        {"type": "bar", "y": np.where(parts >= 0, parts, np.nan)},
        {"type": "bar", "y": np.where(parts < 0, parts, np.nan)},
        {"type": "scatter", "y": before},
        {"type": "scatter", "x": [0, 0], "y": [top + HEADING - 42, top + HEADING - 24], "text": headings},
        {"type": "scatter", "x": [0] * len(lines), "y": [first + LINE * at for at in range(len(lines))], "text": lines},
    ]


def _number(value: float) -> str:
    """A number in ten columns."""
    return f"{value:10.5f}".replace("-", "−") if abs(value) < 1e5 else f"{value:10.3g}".replace("-", "−")


def _layout(plan: _Plan, maps: Sequence[go.Heatmap]) -> dict[str, Any]:
    neuron, colours = plan.neuron, plan.colours
    rotates = neuron.before is not None
    top = TITLE + 16 + SLIDER + (BUTTONS if rotates else 0)
    layout = sheet(
        colours, f"{neuron.model}\n{neuron.title}", _note(neuron), plan.heights[-1] + top,
        barmode="overlay", sliders=[_slider(plan, len(maps))], updatemenus=[_buttons(plan, maps)] if rotates else [],
    )  # fmt: skip
    layout["margin"] |= {"t": top, "b": 0}
    return layout | _axes(plan)


def _note(neuron: Neuron) -> str:
    terms = neuron.terms
    parts = ["Σ q × k", f"× {terms.scale:.4g}"]
    parts += [f"softcap {terms.softcap:g}"] if terms.softcap is not None else []
    parts += ["+ bias"] if bool((terms.bias != 0).any()) else []
    note = f"{' → '.join([*parts, '− log Σ exp', 'exp = weight'])}\n"
    note += "" if neuron.kv_head == neuron.head else f"keys of key head {neuron.kv_head}; "
    if neuron.rule is not None:
        return f"{note}recorded after RoPE; before: {len(neuron.rule.frequencies)} pairs undone"
    if neuron.kind == "cross":
        return f"{note}vectors as they entered attention"
    return f"{note}vectors after RoPE, if the model has it; rotary= undoes it"


def _axes(plan: _Plan) -> dict[str, Any]:
    neuron, colours = plan.neuron, plan.colours
    strip, keys_end, bars_top, bars_end, end = plan.heights
    dim, side = len(neuron.after.query), neuron.keys
    positions = list(side.positions)
    rows = [positions[-1] + 0.5, positions[0] - 0.5]
    across = PLAIN | {
        "range": [-0.5, dim - 0.5], "tickvals": list(range(dim)), "ticktext": neuron.component_names,
        "showticklabels": False,
    }  # fmt: skip
    title = {"font": {"size": 11, "color": colours.muted}, "standoff": 6}
    few = thinned(positions[0], positions[-1] + 1, max(1, int(len(positions) * plan.cell / NAMED)))
    keys = {"domain": plan.domain(strip, keys_end), "range": rows}
    parts = neuron.by_pair(neuron.after).shape[-1]
    unit = "rotation pair, from the fastest" if neuron.rule is not None else "component"
    weights = neuron.terms.weight
    hidden = {"visible": False, "fixedrange": True}
    return {
        "xaxis": across | {"domain": DOMAINS[0], "anchor": "y", "title": title | {"text": "key vectors k"}},
        "xaxis2": across | {
            "domain": DOMAINS[1], "anchor": "y", "matches": "x", "title": title | {"text": "products q × k"},
        },
        "xaxis3": PLAIN | {
            "domain": DOMAINS[2], "anchor": "y", "range": [0, 1.55 * max(float(weights.max()), 1e-6)],
            "showticklabels": False, "title": title | {"text": "weight"}, "fixedrange": True,
        },
        "xaxis4": {
            "domain": [0, 1], "anchor": "y4", "range": [-0.6, parts - 0.4], "showgrid": False, "zeroline": False,
            "title": title | {"text": unit}, "tickfont": {"size": 10, "color": colours.muted}, "nticks": 9,
        },
        "xaxis5": hidden | {"domain": [0, 1], "anchor": "y5", "range": [0, 1]},
        "xaxis6": hidden | {"domain": [0, 1], "anchor": "y6", "range": [0, 1]},
        "yaxis": PLAIN | keys | {
            "anchor": "x", "tickvals": positions, "ticktext": tick_texts(side.names), "showticklabels": False,
        },
        "yaxis2": PLAIN | {
            "domain": plan.domain(0, STRIP), "anchor": "x", "range": [neuron.query + 0.5, neuron.query - 0.5],
            "tickvals": [neuron.query], "ticktext": [f"q {escape(short(neuron.queries.labels[0]))}"],
            "tickfont": {"size": 11}, "fixedrange": True,
        },
        "yaxis3": PLAIN | keys | {
            "anchor": "x", "overlaying": "y", "matches": "y", "tickvals": few, "tickfont": {"size": 10},
            "ticktext": tick_texts(short(side.labels[at - positions[0]]) for at in few),
        },
        "yaxis4": {
            "domain": plan.domain(bars_top, bars_end), "anchor": "x4", "range": _most(neuron), "nticks": 5,
            "gridcolor": colours.line, "zerolinecolor": colours.muted, "tickfont": {"size": 10, "color": colours.muted},
        },
        "yaxis5": hidden | {
            "domain": plan.domain(keys_end, bars_top), "anchor": "x5", "range": [bars_top, keys_end],
        },
        "yaxis6": hidden | {"domain": plan.domain(bars_end, end), "anchor": "x6", "range": [end, bars_end]},
    }  # fmt: skip


def _most(neuron: Neuron) -> list[float]:
    """The same range of bars for every key, so that keys can be compared."""
    versions = [neuron.after, *([neuron.before] if neuron.before is not None else [])]
    parts = [neuron.by_pair(one).nan_to_num() for one in versions]
    low, high = min(float(one.min()) for one in parts), max(float(one.max()) for one in parts)
    room = max(high - low, 1e-6) * 0.06
    return [min(low, 0.0) - room, max(high, 0.0) + room]


def _slider(plan: _Plan, maps: int) -> dict[str, Any]:
    positions, colours = plan.neuron.keys.positions, plan.colours
    first = maps + 1
    steps: list[dict[str, Any]] = []
    for key, name in zip(positions, plan.neuron.keys.names, strict=True):
        state = _state(plan, key)
        frame = {"data": state, "traces": list(range(first, first + len(state)))}
        timing = {"duration": 0, "redraw": False}
        args = [frame, {"mode": "immediate", "transition": {"duration": 0}, "frame": timing}]
        steps.append({"label": escape(name), "method": "animate", "args": args})
    return {
        "active": plan.key - positions.start, "steps": steps, "x": 0, "len": 1, "y": 1, "yanchor": "bottom",
        "pad": {"b": 10, "t": 0, "l": 4, "r": 4}, "ticklen": 0, "minorticklen": 0,
        "currentvalue": {"prefix": "key: ", "font": {"size": 12, "color": colours.ink}, "offset": 6},
        "font": {"size": 1, "color": "rgba(0,0,0,0)"}, "bgcolor": colours.line, "activebgcolor": colours.accent,
        "bordercolor": colours.line, "transition": {"duration": 0},
    }  # fmt: skip


def _buttons(plan: _Plan, maps: Sequence[go.Heatmap]) -> dict[str, Any]:
    """Vectors as recorded, or before rotation."""
    half = len(maps) // 2
    buttons = [
        {
            "label": f"{name} RoPE", "method": "restyle",
            "args": [{"visible": [(place < half) == (name == "after") for place in range(len(maps))]},
                     list(range(len(maps)))],
        }
        for name in ("after", "before")
    ]  # fmt: skip
    return {
        "type": "buttons", "direction": "right", "buttons": buttons, "x": 0, "xanchor": "left", "y": 1,
        "active": int(plan.rope == "before"), "yanchor": "bottom", "pad": {"b": SLIDER, "l": 4},
        # Plotly gives the active button a light ground of its own in any theme.
        "bgcolor": theme.LIGHT.line if plan.colours is theme.LIGHT else theme.DARK.muted,
        "bordercolor": plan.colours.line, "font": {"size": 12, "color": "#000000"},
    }  # fmt: skip
