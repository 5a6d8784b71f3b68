"""The tree of a beam search: in a replay as a window that moves with the steps, and whole in a figure of its own.

Columns are steps, best continuation first. A branch is one line from the end of its parent's token to its own, so that
no line crosses a word. Nothing here lets Plotly choose a range: before the search begins there is nothing to choose it
from.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gentrace.views import theme
from gentrace.views.figure_step import percent
from gentrace.views.genealogy import Genealogy, Hypothesis, State
from gentrace.views.labels import escape
from gentrace.views.labels import width as columns_of
from gentrace.views.look import TREE, WIDTH, Look, Sheet

WINDOW = 12
"""Steps of the tree that are in sight at once in a replay, the one before the first included."""
COLUMN = Sheet(WIDTH).inner / WINDOW
"""Pixels of a step."""
LETTER = 7.0
"""Pixels of a letter of a token's name."""
LONGEST = 8
"""Letters of a name."""
STATES: tuple[State, ...] = ("pruned", "alive", "returned")
"""In the order in which they are drawn, the last on top."""


@dataclass(frozen=True, slots=True)
class Window:
    """A part of a tree to draw, as seen after one step."""

    tree: Genealogy
    root: str
    """Displayable text of the last token before the search."""
    left: int
    """Position of the leftmost column."""
    position: int
    """The newest tokens' position."""
    seen_from: int
    """Position at which it is looked at: nothing is known of what happens to branches later."""
    step: float = COLUMN
    """Pixels of a column."""

    def column(self, one: Hypothesis) -> int:
        """Column of a hypothesis."""
        return one.position - self.left


def window(tree: Genealogy, root: str, position: int, sheet: Sheet) -> Window:
    """The newest steps as seen after the one that added ``position``."""
    first, count = tree.positions.start - 1, _columns(sheet)
    return Window(tree, root, max(first, position - count + 2), position, position, sheet.inner / count)


def _columns(sheet: Sheet) -> int:
    """Steps that are in sight."""
    return min(WINDOW, int(sheet.inner / COLUMN + 0.2))


def branches(part: Window, *, scores: bool) -> list[dict[str, Any]]:
    """Lines and names of each state, as traces that always are as many.

    Args:
        part: What to draw.
        scores: Whether each name has its score below; else only the newest step's have, behind them.
    """
    tree = part.tree
    # The leftmost column holds the last token before the search, or what is continued by what is shown.
    inside = tree.between(part.left, part.position + 1)
    states = {index: tree.state(index, part.seen_from) for index in inside}
    lines = [_lines(part, [i for i in inside if states[i] == state], scores=scores) for state in STATES]
    names = [_words(part, [i for i in inside if states[i] == state], state, scores=scores) for state in STATES]
    newest = [] if scores else [index for index in inside if tree.hypotheses[index].position == part.position]
    return [*lines, *names, _scores(part, newest)]


def branch_styles(colours: theme.Theme) -> list[dict[str, Any]]:
    """How the traces of `branches` look; said once."""
    grey = theme.mix((colours.card, colours.muted), 0.5)
    inks = {"pruned": grey, "alive": colours.ink, "returned": colours.accent}
    shared = {"type": "scatter", "xaxis": TREE.x, "yaxis": TREE.y}
    lines = [
        shared | {
            "name": f"{state} branches", "mode": "lines", "hoverinfo": "skip",
            "line": {"width": {"pruned": 1, "alive": 1.3, "returned": 2.4}[state], "color": inks[state]},
        }
        for state in STATES
    ]  # fmt: skip
    names = [
        shared | {
            "name": state, "mode": "text", "textposition": "middle right", "hoverinfo": "text", "cliponaxis": False,
            "textfont": {"family": theme.MONO, "size": 11.5, "color": inks[state]},
        }
        for state in STATES
    ]  # fmt: skip
    font = {"size": 10, "color": colours.muted}
    behind = {"mode": "text", "textposition": "middle right", "hoverinfo": "skip", "cliponaxis": False}
    return [*lines, *names, shared | behind | {"name": "scores", "textfont": font}]


def tree_moves(look: Look, row: int) -> list[dict[str, Any]]:
    """The tree as it stands when a row has chosen the next token; nothing if there is no tree."""
    tree = look.tree
    if tree is None:
        return []
    root = look.line.labels[tree.positions.start - 1]
    return branches(window(tree, root, max(row + 1, tree.positions.start - 1), look.sheet), scores=False)


def tree_layout(look: Look) -> dict[str, Any]:
    """Axes of the tree, and a line that says what its colours mean."""
    if look.tree is None:
        return {}
    top = look.height - look.tree_height
    domain = look.domain(top + look.tree_head, look.tree_height - look.tree_head)
    text = legend(look.tree, look.colours)
    if look.sheet.stacked:
        text = text.replace("best first: ", "best first:<br>")
    heading = {
        "text": text, "showarrow": False, "font": {"size": 12}, "xref": "paper", "x": 0,
        "xanchor": "left", "yref": "paper", "y": 1 - top / look.height, "yanchor": "top", "borderpad": 0,
        "align": "left",
    }  # fmt: skip
    return tree_axes([0, 1], domain, _columns(look.sheet), look.tree.candidates) | {"annotations": [heading]}


def tree_axes(across: Sequence[float], down: Sequence[float], columns: int, rows: int) -> dict[str, Any]:
    """Both axes of a tree, with fixed ranges."""
    hidden: dict[str, Any] = {"showgrid": False, "zeroline": False, "showticklabels": False, "fixedrange": True}
    return {
        TREE.keys[0]: hidden | {"domain": across, "range": [-0.1, columns - 0.1], "anchor": TREE.y},
        TREE.keys[1]: hidden | {"domain": down, "range": [rows - 0.5, -0.5], "anchor": TREE.x},
    }


def legend(tree: Genealogy, colours: theme.Theme) -> str:
    """What is drawn, in the colours in which it is drawn."""
    grey = theme.mix((colours.card, colours.muted), 0.75)
    return (
        f"<b>beam search</b>, {tree.width} kept of up to {tree.candidates} at each step, best first: "
        f"<span style='color:{colours.accent}'>returned</span>, kept or complete (∎), "
        f"<span style='color:{grey}'>pruned</span>"
    )


def _lines(part: Window, indices: Sequence[int], *, scores: bool) -> dict[str, Any]:
    """From the end of each parent's name to the beginning of its child's."""
    xs: list[float | None] = []
    ys: list[float | None] = []
    for one in (part.tree.hypotheses[index] for index in indices):
        column = part.column(one)
        if column < 1:
            continue
        name, rank = _short(part.root), 0
        if one.parent is not None:
            parent = part.tree.hypotheses[one.parent]
            name, rank = _name(parent), parent.rank
            # A score below a short name is the wider of the two, in letters a little smaller.
            name = max(name, _signed(parent.score)[:-1] if scores else "", key=columns_of)
        xs += [_end(part, column - 1, name), column - 0.02, None]
        ys += [rank, one.rank, None]
    return {"type": "scatter", "x": xs, "y": ys}


def _words(part: Window, indices: Sequence[int], state: State, *, scores: bool) -> dict[str, Any]:
    shown = [part.tree.hypotheses[index] for index in indices]
    names = [escape(_name(one)) for one in shown]
    if scores:
        small = "<br><span style='font-size:9px'>{}</span>"
        names = [name + small.format(_signed(one.score)) for name, one in zip(names, shown, strict=True)]
    x, y, hover = [part.column(one) for one in shown], [one.rank for one in shown], [_hover(one) for one in shown]
    if state == "returned" and part.left == part.tree.positions.start - 1:
        x, y, names = [0, *x], [0, *y], [escape(_short(part.root)), *names]
        hover = ["the last token before the search", *hover]
    return {"type": "scatter", "x": x, "y": y, "text": names, "hovertext": hover}


def _scores(part: Window, indices: Sequence[int]) -> dict[str, Any]:
    shown = [part.tree.hypotheses[index] for index in indices]
    return {
        "type": "scatter",
        "x": [_end(part, part.column(one), _name(one)) for one in shown],
        "y": [one.rank for one in shown],
        "text": [_signed(one.score) for one in shown],
    }


def _hover(one: Hypothesis) -> str:
    fate = "pruned" if one.beam is None else f"goes on as beam {one.beam}"
    return (
        f"{one.position} {escape(one.label)}<br>score {_signed(one.score)} nats<br>"
        f"token {percent(math.exp(one.logprob))} by the model<br>{'complete' if one.ended else fate}"
    )


def _name(one: Hypothesis) -> str:
    return _short(one.label) + ("∎" if one.ended else "")


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _end(part: Window, column: int, name: str) -> float:
    """Where a name ends, in columns."""
    return round(column + min(0.9, (LETTER * columns_of(name) + 6) / part.step), 3)


def _signed(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")
