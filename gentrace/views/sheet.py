"""What every still figure has in common: title, colour bar, tooltips, and axes that carry tokens.

A matrix has two pairs of axes over each other. The lower carries every token's name unseen, for tooltips; the upper
shows as many names as can be read. Figures take the width that they are given; a height they choose.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from gentrace.views import theme
from gentrace.views.cells import Cells, Scale, Side
from gentrace.views.labels import escape, thinned, tick_texts
from gentrace.views.timeline import What

LEFT, RIGHT, BOTTOM = 104, 20, 104
"""Pixels beside a matrix: token names stand on the left and below."""
TITLE = 66
"""Pixels of a title and a note of one line."""
BAR = 42
"""Pixels of a colour bar."""
NUMBER = (50, 26)
"""Pixels of a cell with a number in it."""
NUMBERS: dict[str, Any] = {"texttemplate": "%{z:.4f}", "textfont": {"family": theme.MONO, "size": 10.5}}
"""What writes the numbers into the cells of a heat map."""
NAMED = 14
"""Pixels along a side that a token's name takes."""
SHORTEST = 11
"""Characters of a token's name beside a matrix."""
OTHER: dict[What, What] = {"weights": "scores", "scores": "weights"}
"""What a tooltip tells beside what the colours show."""
PLAIN: dict[str, Any] = {"showgrid": False, "zeroline": False, "ticks": "", "tickmode": "array"}
"""What all axes leave out."""


def sheet(colours: theme.Theme, title: str, note: str, height: float, **more: Any) -> dict[str, Any]:
    """The layout of a figure without its axes.

    Args:
        colours: The theme.
        title: What is shown, escaped here.
        note: What the colours mean, escaped here; a newline starts a second line.
        height: Pixels of the whole figure.
        more: Further parts of the layout.
    """
    return {
        "template": "none",
        "height": round(height),
        "margin": {"l": LEFT, "r": RIGHT, "t": TITLE + BAR + 16 * note.count("\n"), "b": BOTTOM},
        "paper_bgcolor": colours.paper,
        "plot_bgcolor": colours.paper,
        "font": {"family": theme.SANS, "color": colours.ink, "size": 12},
        "title": {
            "text": heading(title), "font": {"size": 16},
            "subtitle": {"text": small(note), "font": {"size": 12, "color": colours.muted}},
            "x": 0, "xanchor": "left", "pad": {"l": 16},
            "y": title_at(height) if height else 1, "yanchor": "bottom", "yref": "container",
        },
        "hoverlabel": {
            "bgcolor": colours.card, "bordercolor": colours.line, "align": "left",
            "font": {"family": theme.SANS, "color": colours.ink, "size": 12},
        },
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": colours.line, "activecolor": colours.muted},
        "hovermode": "closest",
        "showlegend": False,
    } | more  # fmt: skip


def title_at(height: float) -> float:
    """Where a title's line stands, as part of the height; the note hangs below it."""
    return 1 - 44 / height


def heading(title: str) -> str:
    """A title, escaped, with its first line set apart."""
    model, _, rest = escape(title).partition("\n")
    return f"<b>{model}</b> · {rest}" if rest else f"<b>{model}</b>"


def small(note: str) -> str:
    """A note, escaped."""
    return escape(note).replace("\n", "<br>")


def pressed(colours: theme.Theme) -> dict[str, Any]:
    """How menus and buttons look: Plotly gives the active one a light ground in any theme, so the text is black."""
    ground = theme.LIGHT.card if colours is theme.LIGHT else theme.DARK.muted
    return {"bgcolor": ground, "bordercolor": colours.line, "font": {"size": 12, "color": "#000000"}}


def colour_axis(scale: Scale, stops: Sequence[str], **bar: Any) -> dict[str, Any]:
    """A colour scale with a slim bar over the left end of the picture."""
    shown = {
        "orientation": "h", "x": 0, "xanchor": "left", "y": 1, "yanchor": "bottom", "xpad": 0, "ypad": 6,
        "thickness": 8, "lenmode": "pixels", "len": 190, "outlinewidth": 0, "tickfont": {"size": 10}, "nticks": 5,
    }  # fmt: skip
    high = max(scale.high, scale.low + 1e-9)
    return {"cmin": scale.low, "cmax": high, "colorscale": theme.scale(tuple(stops)), "colorbar": shown | bar}


def told(what: What) -> str:
    """The part of a tooltip that tells weight and score, of which one is ``z`` and the other ``customdata``."""
    shown = {what: "%{z:.4g}", OTHER[what]: "%{customdata:.4g}"}
    return f"weight {shown['weights']}<br>score {shown['scores']}"


def colour_bar() -> go.Scatter:
    """Nothing but the colour bar, where no other trace shows one."""
    marker = {"color": [0], "coloraxis": "coloraxis"}
    return go.Scatter(name="colours", x=[None], y=[None], mode="markers", marker=marker, hoverinfo="skip")


def scale_note(what: What, scale: Scale, *, first_aside: bool) -> str:
    """One line that says what the colours mean."""
    aside = "; first key set aside (grey)" if first_aside else ""
    if what == "scores":
        return f"scores before softmax{aside}"
    return f"attention weights, full colour from {scale.high:.2g}{aside}"


def matrix_axes(
    cells: Cells, colours: theme.Theme, pixels: float, *, square: bool, beside: Sequence[str] = ()
) -> dict[str, Any]:
    """Both pairs of axes of one matrix, queries downwards.

    Args:
        cells: The matrix.
        colours: The theme.
        pixels: Along a cell's side, to choose how many names can be read.
        square: Whether cells are kept square at any width.
        beside: What stands beside each query's name; empty for nothing.
    """
    layout: dict[str, Any] = {}
    told = {"x": [""] * len(cells.keys.positions), "y": [f"  {one}" for one in beside]}
    told["y"] = told["y"] or [""] * len(cells.queries.positions)
    for letter, side in (("x", cells.keys), ("y", cells.queries)):
        low, high = side.positions.start - 0.5, side.positions.stop - 0.5
        shared: dict[str, Any] = {"range": [low, high] if letter == "x" else [high, low]}
        if square:
            shared |= {"constrain": "domain", "constraintoward": "left" if letter == "x" else "top"}
        positions = list(side.positions)
        layout[f"{letter}axis"] = {
            **PLAIN, **shared, "anchor": "y" if letter == "x" else "x", "showticklabels": False,
            "tickvals": positions,
            "ticktext": tick_texts(f"{name}{more}" for name, more in zip(side.names, told[letter], strict=True)),
        }  # fmt: skip
        few = thinned(positions[0], positions[-1] + 1, int(len(positions) * pixels / NAMED))
        texts = [f"{short(text)}{more}" for text, more in zip(side.labels, told[letter], strict=True)]
        layout[f"{letter}axis2"] = {
            **PLAIN, **shared, "overlaying": letter, "matches": letter, "anchor": "y2" if letter == "x" else "x2",
            "side": "bottom" if letter == "x" else "left", "tickvals": few, "tickangle": -90 if letter == "x" else 0,
            "ticktext": tick_texts(texts[at - positions[0]] for at in few),
            "tickfont": {"size": 10},
            "title": {
                "text": "key: is looked at" if letter == "x" else "query: looks",
                "font": {"size": 10.5, "color": colours.muted}, "standoff": 8,
            },
        }  # fmt: skip
    if square:
        layout["yaxis"] |= {"scaleanchor": "x"}
    return layout


def end_of_prompt(cells: Cells, colours: theme.Theme, axes: Mapping[str, str]) -> list[go.Scatter]:
    """A dotted line where what was written begins, on each axis that shows both."""
    line = {"width": 1, "dash": "dot", "color": colours.muted}
    left, right = bounds(cells.keys.positions)
    top, bottom = bounds(cells.queries.positions)
    across, down = _first_written(cells.queries), _first_written(cells.keys)
    ends = []
    if across is not None:
        ends.append(
            ([left, right if cells.keys.prompt_length is None else min(max(across, left), right)], [across] * 2)
        )
    if down is not None:
        ends.append(([down] * 2, [min(max(down, top), bottom), bottom]))
    return [
        go.Scatter(name="end of prompt", mode="lines", line=line, hoverinfo="skip", x=x, y=y, **axes) for x, y in ends
    ]


def _first_written(side: Side) -> float | None:
    """The edge between what was given and what was written, if both are shown."""
    at = side.prompt_length
    return None if at is None or not side.positions.start < at < side.positions.stop else at - 0.5


def bounds(positions: range) -> list[float]:
    """Outer edges of the cells of these positions."""
    return [positions.start - 0.5, positions.stop - 0.5]


def short(text: str) -> str:
    """A label cut to what fits beside a matrix."""
    return text if len(text) <= SHORTEST else text[: SHORTEST - 1] + "…"
