"""The words of a replay figure: the text so far, coloured by probability, and the bars of what may come next."""

from typing import Any

import plotly.graph_objects as go

from gentrace.views import theme
from gentrace.views.labels import escape
from gentrace.views.look import BARS_FROM, CHARACTERS, Look, word
from gentrace.views.timeline import Alternative, Step

TONES = 8
"""Colours of probability in the text."""
LABELS_FROM = -0.62
"""Left end of the bars' axis: token names stand left of 0."""


def text_traces(look: Look) -> list[go.Scatter]:
    """The whole text on a character grid, each word underlined in the colour of its probability.

    A line trace has one colour, so probabilities are sorted into `TONES` of them.
    """
    line = look.line
    words = [word(look, position) for position in range(len(line.labels))]
    axes: dict[str, Any] = {"xaxis": look.text.x, "yaxis": look.text.y}
    tones = [None if value is None else min(TONES - 1, int(value * TONES)) for value in line.probabilities]
    traces = []
    for tone in (None, *range(TONES)):
        own = [place for place, one in zip(words, tones, strict=True) if one == tone]
        colour, name = look.colours.unseen, "probability unknown"
        if tone is not None:
            colour = theme.mix(look.colours.probability, (tone + 0.5) / TONES)
            name = f"probability {tone / TONES:g} … {(tone + 1) / TONES:g}"
        traces.append(
            go.Scatter(
                name=name, mode="lines", line={"width": 2.5, "color": colour}, hoverinfo="skip",
                x=[x for _, left, right in own for x in (left, right, None)],
                y=[y for row, _, _ in own for y in (row + 0.38, row + 0.38, None)], **axes,
            )
        )  # fmt: skip
    ink = [look.colours.muted if at < line.prompt_length else look.colours.ink for at in range(len(words))]
    hover = [
        _word_hover(at, text, value)
        for at, (text, value) in enumerate(zip(line.labels, line.probabilities, strict=True))
    ]
    letters = go.Scatter(
        name="text", mode="text", x=[left for _, left, _ in words], y=[row for row, _, _ in words],
        text=[escape(text.lstrip("␣") or text) for text in line.labels], textposition="middle right",
        textfont={"family": theme.MONO, "size": 13.4, "color": ink}, hovertext=hover, hoverinfo="text", **axes,
    )  # fmt: skip
    return [*traces, letters]


def _word_hover(position: int, text: str, probability: float | None) -> str:
    known = "probability unknown" if probability is None else f"probability {probability:.3g}"
    return f"{position} {escape(text)}<br>{known}"


def step_moves(look: Look, row: int) -> list[dict[str, Any]]:
    """What a frame changes in text and bars, as many traces at every step."""
    step = look.line.steps[row - look.line.rows.start]
    last = row if step.predicts is None else step.predicts
    return [
        _curtain(look, last),
        _box(look, row),
        _box(look, step.predicts),
        *_bars(look, step),
        _names(step),
        _headline(look, step),
    ]


def step_styles(look: Look) -> list[dict[str, Any]]:
    """How the traces of `step_moves` look; said once."""
    colours, text, bars = look.colours, look.text, look.bars
    on_text = {"type": "scatter", "xaxis": text.x, "yaxis": text.y, "mode": "lines", "hoverinfo": "skip"}
    on_bars = {"xaxis": bars.x, "yaxis": bars.y, "hoverinfo": "skip"}
    bar = on_bars | {"type": "bar", "orientation": "h", "textposition": "outside", "cliponaxis": False}
    bar |= {"textfont": {"size": 10, "color": colours.muted}, "textangle": 0, "constraintext": "none"}
    both = look.line.has_sampled
    styles = [
        on_text | {"fill": "toself", "fillcolor": colours.card, "line": {"width": 0}},
        on_text | {"line": {"width": 2, "color": colours.accent}},
        on_text | {"line": {"width": 1.2, "color": colours.muted, "dash": "dot"}},
        bar | {"offset": 0.02 if both else -0.36, "width": 0.38 if both else 0.72, "marker": _fill(colours.raw)},
        bar | {"offset": 0.02 if both else -0.36, "width": 0.38 if both else 0.72, "marker": _fill(colours.accent)},
    ]
    if both:
        styles.append(bar | {"offset": -0.4, "width": 0.38, "marker": _fill(colours.sampled)})
    words = on_bars | {"type": "scatter", "mode": "text", "cliponaxis": False}
    return [
        *styles,
        words | {"textposition": "middle left", "textfont": {"size": 12.5}},
        words | {"textposition": "middle right", "textfont": {"size": 12.5, "color": colours.muted}},
    ]


def text_range(look: Look, row: int) -> list[float]:
    """The lines in sight at a step, upside down as text is read."""
    last = 1 + max(line for line, _ in look.places)
    line = look.places[min(row + 1, len(look.places) - 1)][0]
    top = min(max(0, line - look.lines + 2), last - look.lines)
    return [top + look.lines - 0.4, top - 0.6]


def step_layout(look: Look) -> dict[str, Any]:
    """Axes of the text and of the bars."""
    hidden: dict[str, Any] = {"showgrid": False, "zeroline": False, "showticklabels": False, "fixedrange": True}
    text_x, text_y = look.text.keys
    bars_x, bars_y = look.bars.keys
    floor = 1 - look.text_height / look.height
    return {
        text_x: hidden | {"domain": [0, 1], "anchor": look.text.y, "range": [-0.5, CHARACTERS + 3]},
        text_y: hidden | {"domain": [floor, 1], "anchor": look.text.x, "range": text_range(look, look.line.start)},
        bars_x: {
            "domain": [BARS_FROM, 1], "anchor": look.bars.y, "range": [LABELS_FROM, 1.24], "fixedrange": True,
            "tickvals": [0, 0.5, 1], "tickformat": ".0%", "showgrid": False, "zeroline": False,
        },
        bars_y: hidden | {"domain": [0, look.matrix_top], "anchor": look.bars.x, "range": [-_slots(look) + 0.4, 1.5]},
    }  # fmt: skip


def _fill(colour: str) -> dict[str, Any]:
    return {"color": colour, "line": {"width": 0}}


def _slots(look: Look) -> int:
    return max(6, *(len(step.alternatives) for step in look.line.steps))


def _curtain(look: Look, last: int) -> dict[str, Any]:
    """Covers the text after position ``last``: the rest of its line, and all lines below."""
    line, _, right = word(look, last)
    right += 0.3
    edge, bottom = CHARACTERS + 3, 1.5 + max(line for line, _ in look.places)
    corners = [
        (right, line - 0.5),
        (edge, line - 0.5),
        (edge, bottom),
        (-0.5, bottom),
        (-0.5, line + 0.5),
        (right, line + 0.5),
    ]
    return {"type": "scatter", "x": [x for x, _ in corners], "y": [y for _, y in corners]}


def _box(look: Look, position: int | None) -> dict[str, Any]:
    if position is None:
        return {"type": "scatter", "x": [], "y": []}
    line, left, right = word(look, position)
    left, right = left - 0.1, right + 0.1
    return {
        "type": "scatter",
        "x": [left, right, right, left, left],
        "y": [line - 0.44, line - 0.44, line + 0.48, line + 0.48, line - 0.44],
    }


def _bars(look: Look, step: Step) -> list[dict[str, Any]]:
    """The model's bars, the chosen token's apart from them (moving traces keep their colour), then the sampled."""
    shared: dict[str, Any] = {"type": "bar"}
    moves = []
    for chosen in (False, True):
        own = [(slot, one.probability) for slot, one in enumerate(step.alternatives) if one.chosen == chosen]
        bars = {"y": [-slot for slot, _ in own], "x": [_short(value) for _, value in own]}
        moves.append(shared | bars | {"text": [percent(value) for _, value in own]})
    if look.line.has_sampled:
        values = [(slot, one) for slot, one in enumerate(step.alternatives) if one.sampled is not None]
        bars = {"y": [-slot for slot, _ in values], "x": [_short(one.sampled or 0.0) for _, one in values]}
        moves.append(shared | bars | {"text": [_sampled_text(one) for _, one in values]})
    return moves


def _sampled_text(one: Alternative) -> str:
    if one.sampled is None:
        return ""
    return percent(one.sampled) if one.sampled > 0 else "excluded"


def _names(step: Step) -> dict[str, Any]:
    names = [f"<b>{escape(one.label)}</b>" if one.chosen else escape(one.label) for one in step.alternatives]
    return {"type": "scatter", "x": [-0.02] * len(names), "y": [-slot for slot in range(len(names))], "text": names}


def _headline(look: Look, step: Step) -> dict[str, Any]:
    looking = f"<b>{escape(look.line.labels[step.query])}</b> ({step.query}) looks back"
    after = "the text ends here"
    if step.predicts is not None:
        after = f"next: <b>{escape(look.line.labels[step.predicts])}</b>"
    if step.probability is not None:
        after += f" {percent(step.probability)} by the model"
    if step.sampled is not None:
        after += f", {percent(step.sampled)} as sampled"
    return {"type": "scatter", "x": [LABELS_FROM, LABELS_FROM], "y": [1.25, 0.75], "text": [looking, after]}


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def percent(value: float) -> str:
    """A probability for people, with three significant digits."""
    shown = 100 * value
    if shown == 0:
        return "0 %"
    return "< 0.01 %" if shown < 0.01 else f"{shown:#.3g}".rstrip(".") + " %"
