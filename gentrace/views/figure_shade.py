"""What the current token looks at, painted behind the words of a replay figure's text as a highlighter would.

A word gets the colour of its cell in the current row: one scale for both. Plotly's fast animation recolours markers and
letters but neither bars nor fills, so each word is a stroke, a marker that is as wide as the word, and its letters are
written over it in whichever of black and white reads better.
"""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float32
from torch import Tensor

from gentrace.views import theme
from gentrace.views.figure_matrix import Colours
from gentrace.views.labels import escape
from gentrace.views.look import LINE_HEIGHT, TEXT, Look, word

MOST_SHADED = 24
"""Words that are painted at a step, those with the largest weights."""
FAINTEST = 0.06
"""Share of full colour below which paint cannot be told from the ground."""
STROKE = 0.76, -0.045
"""Height of a stroke and where its middle lies, in lines: the underline below it stays in sight."""
LINE_MARKER = 1.4
"""How much longer than its size Plotly draws a marker that is a line."""


def shaded(look: Look) -> bool:
    """Whether words are painted: those of the text are, which only self-attention looks at."""
    return look.kind == "self"


def shade_moves(look: Look, scales: Mapping[str, Colours], row: int) -> list[dict[str, Any]]:
    """The words that a row looks at: what a frame changes."""
    if not shaded(look):
        return []
    scale = scales["weights"]
    weights = _row(look, row)
    shares = ((scale.place(weights) - scale.low) / (scale.high - scale.low)).clamp(0, 1)
    strongest = [at for at in shares.argsort(descending=True).tolist()[:MOST_SHADED] if shares[at] >= FAINTEST]
    places = [word(look, at) for at in strongest]
    pixels = look.sheet.inner / (look.sheet.characters + 3.5)
    shown = [round(float(shares[at]), 3) for at in strongest]
    names = [look.line.labels[at] for at in strongest]
    return [
        {
            "type": "scatter",
            "x": [(left + right) / 2 for _, left, right in places],
            "y": [round(line + STROKE[1], 3) for line, _, _ in places],
            "text": [escape(name.lstrip("␣") or name) for name in names],
            "textfont": {"color": [theme.ink_on(theme.mix(look.colours.attention, share)) for share in shown]},
            "marker": {
                "size": [round((right - left + 0.3) * pixels / LINE_MARKER, 1) for _, left, right in places],
                "line": {"color": shown},
            },
        }
    ]


def shade_styles(look: Look) -> list[dict[str, Any]]:
    """How the trace of `shade_moves` looks; said once."""
    if not shaded(look):
        return []
    return [
        {
            "name": "looked at", "xaxis": TEXT.x, "yaxis": TEXT.y, "mode": "markers+text", "hoverinfo": "skip",
            "textposition": "middle center", "textfont": {"family": theme.MONO, "size": 13.4},
            "marker": {
                "symbol": "line-ew", "opacity": 1,
                "line": {
                    "width": round(STROKE[0] * LINE_HEIGHT, 1), "cmin": 0, "cmax": 1,
                    "colorscale": theme.scale(look.colours.attention),
                },
            },
        }
    ]  # fmt: skip


def shade_note(look: Look) -> str:
    """A few words that say what is painted."""
    if not shaded(look):
        return ""
    return "words painted by mean weight" if len(look.panels) > 1 else "words painted by weight"


def _row(look: Look, row: int) -> Float32[Tensor, " key"]:
    """A row's weights, the mean of all matrices shown; 0 where nothing is to be painted."""
    at = row - look.line.rows.start
    weights = torch.stack([panel.weights[at] for panel in look.panels]).mean(0).nan_to_num(nan=0.0)
    if look.sink == "mask":
        weights[0] = 0.0
    return weights
