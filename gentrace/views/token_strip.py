"""The text itself, each token on the colour of what the model thought of it.

Lightness carries the order, from expected to surprising, so that the picture holds for colour-blind readers and in
print. The text stands on a character grid, which is why the figure has a width of its own.
"""

from dataclasses import dataclass
from math import inf, log10
from typing import Any, Literal, TypeAlias

import plotly.graph_objects as go
import torch

from gentrace.errors import ViewError
from gentrace.trace.tokens import Tokens
from gentrace.trace.trace import Trace
from gentrace.views import theme
from gentrace.views.cells import Scale, Span, check_size, check_word, choose_positions
from gentrace.views.figure_step import percent
from gentrace.views.labels import LONGEST, escape, label, width, wrapped
from gentrace.views.scripted import FittingFigure
from gentrace.views.sheet import BAR, PLAIN, TITLE, colour_axis, colour_bar, sheet
from gentrace.views.timeline import model_name

By: TypeAlias = Literal["probability", "surprise", "entropy", "rank"]
"""What colours a token: its probability, −log of that, the entropy of the distribution it was drawn from, its rank."""
KINDS: tuple[By, ...] = ("probability", "surprise", "entropy", "rank")

STRIP_TOKENS = 4000
"""Tokens that fit into one figure."""
CHARACTER = 8.1
"""Pixels of a character."""
LINE = 28
"""Pixels of a line."""
TOLD = 5
"""Alternatives that a tooltip lists."""
UNITS = {"probability": "probability", "surprise": "surprise, nats", "entropy": "entropy, nats", "rank": "rank"}
MEANING = {
    "probability": "probability of each token under the model",
    "surprise": "surprise: minus the log-probability of each token",
    "entropy": "entropy of the distribution that each token came from",
    "rank": "rank: how many tokens the model held for more likely",
}


@dataclass(frozen=True, slots=True)
class StripToken:
    """One token of the strip."""

    position: int
    """Place in the text."""
    text: str
    """Displayable, without its leading space."""
    line: int
    """Line it stands on, from 0."""
    left: int
    """Character of the line it begins at."""
    right: int
    """One past its last character."""
    value: float | None
    """What it is coloured by; None if unknown."""
    given: bool
    """Whether it belongs to the prompt."""


def token_strip(
    trace: Trace,
    by: By = "probability",
    *,
    positions: Span = None,
    columns: int = 96,
    dark: bool = False,
) -> go.Figure:
    """The text, coloured token by token; a tooltip lists the alternatives.

    What the model wrote is underlined. Tokens of unknown probability, such as the first, are grey.

    Args:
        trace: A finished trace.
        by: "probability"; "surprise", its negative logarithm in nats; "entropy" of the model's distribution; "rank",
            how many tokens the model held for more likely.
        positions: A slice, (first, one past the last), "prompt" or "generated"; None for all.
        columns: Characters a line, at least 24.
        dark: Light text on a dark ground.

    Raises:
        ViewError: If there is no such measure or position, or lines would be too short.
        ViewBudgetError: If there are too many tokens.
    """
    attempted = "drawing a token strip"
    check_word(attempted, "by", by, KINDS)
    if columns < LONGEST:
        raise ViewError(attempted, f"columns={columns}", f"give at least {LONGEST}, which the longest label takes")
    tokens = trace.tokens
    chosen = choose_positions("token", len(tokens), positions, tokens.prompt_length, "positions=")
    check_size(attempted, "tokens", len(chosen), STRIP_TOKENS, "choose fewer with positions=")
    placed = strip(tokens, by, chosen, columns)
    scale = strip_scale(placed, by)
    colours = theme.DARK if dark else theme.LIGHT
    boxes, letters = _boxes(tokens, placed, by, scale, colours), _letters(placed, by, scale, colours)
    return FittingFigure(
        data=[boxes, _underline(placed, colours), letters, colour_bar()],
        layout=_layout(model_name(trace), placed, by, scale, columns, colours),
    )


def strip(tokens: Tokens, by: By, positions: range, columns: int) -> list[StripToken]:
    """Lay the tokens out and look their values up.

    Args:
        tokens: The text.
        by: What colours a token.
        positions: The tokens shown.
        columns: Characters a line.
    """
    labels = [label(tokens.texts[position]) for position in positions]
    found = []
    for position, text, (line, column) in zip(positions, labels, wrapped(labels, columns), strict=True):
        bare = text.lstrip("␣") or text
        left = column + width(text) - width(bare)
        value = _value(tokens, by, position)
        given = position < tokens.prompt_length
        found.append(StripToken(position, bare, line, left, column + width(text), value, given))
    return found


def strip_scale(placed: list[StripToken], by: By) -> Scale:
    """The values of the first and the last colour; ranks on a scale of decades."""
    if by == "probability":
        return Scale(0.0, 1.0)
    known = torch.tensor([_coloured(one.value, by) for one in placed if one.value is not None])
    least = {"surprise": 3.0, "entropy": 2.0, "rank": 2.0}[by]
    return Scale(0.0, max(least, float(known.quantile(0.98)) if len(known) else 0.0))


def _value(tokens: Tokens, by: By, position: int) -> float | None:
    if by == "rank":
        rank = int(tokens.rank[position])
        return float(rank) if rank >= 0 else None
    value = float(tokens.entropy[position] if by == "entropy" else tokens.logprobs[position])
    if value != value:
        return None
    # −0.0 would be read as a minus.
    return float(torch.tensor(value).exp()) if by == "probability" else abs(value)


def _coloured(value: float, by: By) -> float:
    """Where a value stands on the colour scale."""
    return log10(1 + value) if by == "rank" else value


def _stops(by: By, colours: theme.Theme) -> tuple[str, ...]:
    """From the lowest value to the highest: a high probability is what was expected."""
    return colours.surprise[::-1] if by == "probability" else colours.surprise


def _boxes(tokens: Tokens, placed: list[StripToken], by: By, scale: Scale, colours: theme.Theme) -> go.Bar:
    """A bar under each token: colour, and something for the pointer to rest on."""
    grounds = [_ground(one, by, scale, colours) for one in placed]
    return go.Bar(
        name=UNITS[by], orientation="h", base=[one.left - 0.25 for one in placed],
        x=[one.right - one.left + 0.5 for one in placed], y=[one.line for one in placed], width=0.78,
        marker={"color": grounds, "line": {"width": 0}, "cornerradius": 3}, textposition="none", hoverinfo="text",
        hovertext=[told(tokens, one.position) for one in placed], customdata=[one.position for one in placed],
    )  # fmt: skip


def _ground(one: StripToken, by: By, scale: Scale, colours: theme.Theme) -> str:
    """The colour under a token."""
    if one.value is None:
        return colours.unseen
    return theme.mix(_stops(by, colours), (_coloured(one.value, by) - scale.low) / (scale.high - scale.low))


def told(tokens: Tokens, position: int) -> str:
    """A token's tooltip, escaped: where it stands, what the model thought of it, and what else might have come."""
    whose = "given" if position < tokens.prompt_length else "written"
    lines = [f"<b>{escape(label(tokens.texts[position]))}</b>  {position}, id {int(tokens.ids[position])}, {whose}"]
    logprob, sampled = float(tokens.logprobs[position]), float(tokens.sampled_logprobs[position])
    if logprob != logprob:
        return "<br>".join([*lines, "probability unknown"])
    share = percent(float(tokens.logprobs[position].exp()))
    lines.append(f"probability {share}, rank {int(tokens.rank[position])}, surprise {abs(logprob):.3g} nats")
    if sampled == sampled:
        lines.append(f"as sampled {percent(float(tokens.sampled_logprobs[position].exp()))}")
    entropy = float(tokens.entropy[position])
    lines += [f"entropy {entropy:.3g} nats"] if entropy == entropy else []
    top = zip(tokens.top_texts[position], tokens.top_logprobs[position].tolist(), strict=False)
    others = [(text, value) for text, value in top if value == value and value > -inf][:TOLD]
    lines += ["the model's choices:"] if others else []
    lines += [f"  {percent(float(torch.tensor(value).exp()))}  {escape(label(text))}" for text, value in others]
    return "<br>".join(lines)


def _underline(placed: list[StripToken], colours: theme.Theme) -> go.Scatter:
    """A line under each token that the model wrote."""
    written = [one for one in placed if not one.given]
    return go.Scatter(
        name="written by the model", mode="lines", line={"width": 2, "color": colours.accent}, hoverinfo="skip",
        x=[x for one in written for x in (one.left - 0.1, one.right + 0.1, None)],
        y=[y for one in written for y in (one.line + 0.46, one.line + 0.46, None)],
    )  # fmt: skip


def _letters(placed: list[StripToken], by: By, scale: Scale, colours: theme.Theme) -> go.Scatter:
    """The text, dark on light boxes and light on dark ones."""
    used = [theme.ink_on(_ground(one, by, scale, colours)) for one in placed]
    return go.Scatter(
        name="text", mode="text", x=[one.left - 0.05 for one in placed], y=[one.line for one in placed],
        text=[escape(one.text) for one in placed], textposition="middle right", hoverinfo="skip",
        textfont={"family": theme.MONO, "size": 13.4, "color": used},
    )  # fmt: skip


def _layout(
    model: str, placed: list[StripToken], by: By, scale: Scale, columns: int, colours: theme.Theme
) -> dict[str, Any]:
    lines = 1 + max(one.line for one in placed)
    note = MEANING[by]
    note += "\nunderlined: written by the model" if not all(one.given for one in placed) else ""
    bar: dict[str, Any] = {}
    if by == "rank":
        decades = [0, 1, 10, 100, 1000, 10_000, 100_000]
        bar = {"tickvals": [log10(1 + rank) for rank in decades], "ticktext": [f"{rank:,}" for rank in decades]}
    top = TITLE + BAR + 16 * note.count("\n")
    hidden = PLAIN | {"showticklabels": False, "fixedrange": True}
    layout = sheet(
        colours, f"{model}\n{UNITS[by].partition(',')[0]}", note, top + lines * LINE + 24, barmode="overlay",
        width=round((columns + 2.5) * CHARACTER) + 32, coloraxis=colour_axis(scale, _stops(by, colours), **bar),
    )  # fmt: skip
    return layout | {
        "margin": {"l": 16, "r": 16, "t": top, "b": 24},
        "xaxis": hidden | {"range": [-1.5, columns + 1]},
        "yaxis": hidden | {"range": [lines - 0.5, -0.5]},
    }
