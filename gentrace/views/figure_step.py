"""The words of a replay figure: the text so far, coloured by probability, and the bars of what may come next.

Drafts that were rejected at a step stand behind the text like ghosts, with a line through them, and below the bars with
the probability that the model gave them.
"""

import math
from typing import Any

import plotly.graph_objects as go
import torch

from gentrace.views import theme
from gentrace.views.figure_image import picture
from gentrace.views.labels import escape
from gentrace.views.labels import width as columns_of
from gentrace.views.look import BARS, HEADLINE, MOST_GHOSTS, TEXT, Look, word
from gentrace.views.timeline import Alternative, Ghost, Step

DOTS = 8, 32
"""Dots of a character across and of a line down, in the picture of the words' underlines."""
LABELS_FROM = -0.62
"""Left end of the bars' axis: token names stand left of 0."""


def underlines(look: Look) -> dict[str, Any]:
    """Each word underlined in the colour of its probability, as a picture that lies below the text.

    Lines would need a trace for each colour, and what a step costs grows with the number of traces.
    """
    across, down = DOTS
    height = 1 + max(line for line, _ in look.places)
    wide = look.sheet.characters + 4
    levels = torch.full((height * down, wide * across), torch.nan)
    for position, probability in enumerate(look.line.probabilities):
        line, left, right = word(look, position)
        rows = slice(int((line + 0.83) * down), int((line + 0.95) * down))
        levels[rows, (left + 1) * across : (right + 1) * across] = math.nan if probability is None else probability
    return {
        "source": picture(levels, 0.0, 1.0, look.colours.probability), "xref": TEXT.x, "yref": TEXT.y, "x": -1,
        "y": -0.5, "sizex": wide, "sizey": height, "sizing": "stretch", "layer": "below",
    }  # fmt: skip


def text_traces(look: Look) -> list[go.Scatter]:
    """The whole text on a character grid."""
    line = look.line
    words = [word(look, position) for position in range(len(line.labels))]
    axes: dict[str, Any] = {"xaxis": TEXT.x, "yaxis": TEXT.y}
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
    return [letters]


def _word_hover(position: int, text: str, probability: float | None) -> str:
    known = "probability unknown" if probability is None else f"probability {probability:.3g}"
    return f"{position} {escape(text)}<br>{known}"


def step_moves(look: Look, row: int) -> list[dict[str, Any]]:
    """What a frame changes in text and bars, as many traces at every step."""
    step = look.line.steps[row - look.line.rows.start]
    last = row if step.predicts is None else step.predicts
    moves = [_curtain(look, last), _box(look, row), _box(look, step.predicts)]
    if look.line.has_ghosts:
        moves += _ghost_words(look, last, step.ghosts)
    moves += [*_bars(look, step), _names(step), _numbers(look, step), _headline(look, step)]
    if look.line.has_ghosts:
        moves += _ghost_bars(step)
    return moves


def step_styles(look: Look) -> list[dict[str, Any]]:
    """How the traces of `step_moves` look; said once."""
    colours, both = look.colours, look.line.has_sampled
    on_text = {"type": "scatter", "xaxis": TEXT.x, "yaxis": TEXT.y, "mode": "lines", "hoverinfo": "skip"}
    on_bars = {"xaxis": BARS.x, "yaxis": BARS.y, "hoverinfo": "skip"}
    bar = on_bars | {"type": "bar", "orientation": "h"}
    upper = bar | ({"offset": 0.02, "width": 0.38} if both else {"offset": -0.36, "width": 0.72})
    words = on_bars | {"type": "scatter", "mode": "text", "cliponaxis": False}
    muted = words | {"textposition": "middle right"}
    drawn = [
        on_text | {"name": "curtain", "fill": "toself", "fillcolor": colours.card, "line": {"width": 0}},
        on_text | {"name": "looks", "line": {"width": 2, "color": colours.accent}},
        on_text | {"name": "comes next", "line": {"width": 1.2, "color": colours.muted, "dash": "dot"}},
    ]
    if look.line.has_ghosts:
        font = {"family": theme.MONO, "size": 13.4, "color": colours.muted}
        ghost = {"mode": "text", "textposition": "middle right", "textfont": font, "hoverinfo": "text"}
        drawn += [
            on_text | ghost | {"name": "rejected drafts"},
            on_text | {"name": "rejected", "line": {"width": 1.2, "color": colours.muted}},
        ]
    bars = [
        upper | {"name": "model", "marker": _fill(colours.raw)},
        upper | {"name": "chosen", "marker": _fill(colours.accent)},
    ]
    if both:
        bars.append(bar | {"name": "sampled from", "offset": -0.4, "width": 0.38, "marker": _fill(colours.sampled)})
    texts = [
        words | {"name": "alternatives", "textposition": "middle left", "textfont": {"size": 12.5}},
        muted | {"name": "numbers", "textfont": {"size": 10, "color": colours.muted}},
        muted | {"name": "headline", "textfont": {"size": 12.5, "color": colours.muted}},
    ]
    if not look.line.has_ghosts:
        return [*drawn, *bars, *texts]
    pale = _fill(theme.mix((colours.card, colours.muted), 0.45))
    ghosts = [
        bar | {"name": "drafts", "offset": -0.3, "width": 0.6, "marker": pale},
        words
        | {"name": "draft names", "textposition": "middle left", "textfont": {"size": 12, "color": colours.muted}},
        muted | {"name": "draft numbers", "textfont": {"size": 10, "color": colours.muted}},
    ]
    return [*drawn, *bars, *texts, *ghosts]


def text_range(look: Look, row: int) -> list[float]:
    """The lines in sight at a step, upside down as text is read: pages that share a line.

    A moving range makes Plotly draw every matrix anew, so the text is turned over and not rolled.
    """
    last = 1 + max(line for line, _ in look.places)
    line = look.places[min(row + 1, len(look.places) - 1)][0]
    turn = max(1, look.lines - 1)
    top = min(turn * (max(0, line - 1) // turn), last - look.lines)
    return [top + look.lines - 0.4, top - 0.6]


def step_layout(look: Look) -> dict[str, Any]:
    """Axes of the text and of the bars."""
    hidden: dict[str, Any] = {"showgrid": False, "zeroline": False, "showticklabels": False, "fixedrange": True}
    text_x, text_y = TEXT.keys
    bars_x, bars_y = BARS.keys
    return {
        text_x: hidden | {"domain": [0, 1], "anchor": TEXT.y, "range": [-0.5, look.sheet.characters + 3]},
        text_y: hidden | {
            "domain": look.domain(0, look.text_height), "anchor": TEXT.x, "range": text_range(look, look.line.start),
        },
        bars_x: {
            "domain": look.sheet.bars_domain, "anchor": BARS.y, "range": [LABELS_FROM, 1.24], "fixedrange": True,
            "tickvals": [0, 0.5, 1], "tickformat": ".0%", "showgrid": False, "zeroline": False,
        },
        bars_y: hidden | {
            "domain": look.domain(look.bars_top, look.bars_height), "anchor": BARS.x,
            "range": [0.1 - look.slots, 0.5 + HEADLINE / look.slot],
        },
    }  # fmt: skip


def _fill(colour: str) -> dict[str, Any]:
    return {"color": colour, "line": {"width": 0}}


def _curtain(look: Look, last: int) -> dict[str, Any]:
    """Covers the text after position ``last``: the rest of its line, and all lines below."""
    line, _, right = word(look, last)
    right += 0.3
    edge, bottom = look.sheet.characters + 3, 1.5 + max(line for line, _ in look.places)
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


def _ghost_words(look: Look, last: int, ghosts: tuple[Ghost, ...]) -> list[dict[str, Any]]:
    """Rejected drafts behind the text so far, each with a line through it."""
    line, _, right = word(look, last)
    right += 1
    xs: list[float] = []
    ys: list[float] = []
    texts: list[str] = []
    hovers: list[str] = []
    strokes: list[float | None] = []
    levels: list[float | None] = []
    for ghost in ghosts:
        shown = ghost.label.lstrip("␣") or ghost.label
        wide = columns_of(shown)
        if right + wide > look.sheet.characters:
            line, right = line + 1, 0
        xs.append(right)
        ys.append(line)
        texts.append(escape(shown))
        hovers.append(f"rejected draft {escape(ghost.label)}<br>{percent(ghost.probability)} by the model")
        strokes += [right, right + wide, None]
        levels += [line, line, None]
        right += wide + 1
    return [
        {"type": "scatter", "x": xs, "y": ys, "text": texts, "hovertext": hovers},
        {"type": "scatter", "x": strokes, "y": levels},
    ]


def _ghost_bars(step: Step) -> list[dict[str, Any]]:
    """Below the alternatives: what was drafted, and the model's probability of it."""
    ghosts, heading = step.ghosts[:MOST_GHOSTS], -len(step.alternatives) - 0.3
    places = [heading - slot for slot in range(1, len(ghosts) + 1)]
    lengths = [_short(one.probability) for one in ghosts]
    numbers = [percent(one.probability) for one in ghosts]
    # The one that came first has the same distribution as the bars above, the others those of a text with it.
    said = "rejected drafts, one after the other" if ghosts else "no draft was rejected here"
    at, levels, numbers = [0.0, *lengths], [heading, *places], [said, *numbers]
    if len(step.ghosts) > len(ghosts):
        at, levels = [*at, 0.0], [*levels, places[-1] - 1]
        numbers = [*numbers, f"and {len(step.ghosts) - len(ghosts)} more"]
    # Plotly gives no colour to bars that first appear in a fast animation, so there are always as many.
    rest = range(len(ghosts) + 1, MOST_GHOSTS + 1)
    bars = {"y": [*places, *(heading - slot for slot in rest)], "x": [*lengths, *(0.0 for _ in rest)]}
    return [
        {"type": "bar"} | bars,
        {"type": "scatter", "x": [-0.02] * len(ghosts), "y": places, "text": [escape(one.label) for one in ghosts]},
        {"type": "scatter", "x": at, "y": levels, "text": numbers},
    ]


def _bars(look: Look, step: Step) -> list[dict[str, Any]]:
    """The model's bars, the chosen token's apart from them (moving traces keep their colour), then the sampled."""
    moves = []
    for chosen in (False, True):
        own = [(slot, one.probability) for slot, one in enumerate(step.alternatives) if one.chosen == chosen]
        moves.append({"type": "bar", "y": [-slot for slot, _ in own], "x": [_short(value) for _, value in own]})
    if look.line.has_sampled:
        values = [(slot, one.sampled) for slot, one in enumerate(step.alternatives) if one.sampled is not None]
        moves.append({"type": "bar", "y": [-slot for slot, _ in values], "x": [_short(value) for _, value in values]})
    return moves


def _numbers(look: Look, step: Step) -> dict[str, Any]:
    """Each bar's number behind its end: text of their own, for Plotly measures the text of bars at every step."""
    lift = 0.21 if look.line.has_sampled else 0.0
    own = [(one.probability, lift - slot, percent(one.probability)) for slot, one in enumerate(step.alternatives)]
    if look.line.has_sampled:
        own += [
            (one.sampled, -0.21 - slot, _sampled_text(one))
            for slot, one in enumerate(step.alternatives)
            if one.sampled is not None
        ]
    return {
        "type": "scatter",
        "x": [_short(x) for x, _, _ in own],
        "y": [y for _, y, _ in own],
        "text": [text for _, _, text in own],
    }


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
    levels = [_short(0.5 + pixels / look.slot) for pixels in (33, 14)]
    return {"type": "scatter", "x": [LABELS_FROM, LABELS_FROM], "y": levels, "text": [looking, after]}


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def percent(value: float) -> str:
    """A probability for people, with three significant digits."""
    shown = 100 * value
    if shown == 0:
        return "0 %"
    return "< 0.01 %" if shown < 0.01 else f"{shown:#.3g}".rstrip(".") + " %"
