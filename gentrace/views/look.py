"""What the parts of a replay figure must agree on: who is shown, in which colours, and where on the sheet.

A figure has, for each matrix, a pair of axes for the heatmap and a second pair over it for what moves. The lower pair
carries every token's name unseen, for hovering; the upper one shows as many names as can be read. One more pair holds
the text, one the bars.
"""

import math
from dataclasses import dataclass

from gentrace.views import theme
from gentrace.views.labels import width, wrapped
from gentrace.views.timeline import Panel, Sink, Timeline, What

WIDTH = 1120
"""Pixels; fixed, so that the text's character grid and the matrices keep their shape."""
MARGIN = {"l": 96, "r": 24, "t": 112, "b": 92}
MATRIX_SHARE = 0.56
"""Part of the width that the matrices take; the bars have the rest."""
BARS_FROM = 0.66
CHARACTERS = 118
"""Characters a line of the text panel."""
LINE_HEIGHT = 21
MOST_LINES = 9
GAP = 44


@dataclass(frozen=True, slots=True)
class Axes:
    """One pair of axes by number; Plotly calls number 1 just ``x``."""

    number: int

    @property
    def x(self) -> str:
        """As a trace refers to it."""
        return f"x{self.number if self.number > 1 else ''}"

    @property
    def y(self) -> str:
        """As a trace refers to it."""
        return f"y{self.number if self.number > 1 else ''}"

    @property
    def keys(self) -> tuple[str, str]:
        """As the layout calls the two."""
        return f"xaxis{self.number if self.number > 1 else ''}", f"yaxis{self.number if self.number > 1 else ''}"


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """A replay figure's plan."""

    line: Timeline
    panels: tuple[Panel, ...]
    what: What
    sink: Sink
    colours: theme.Theme
    columns: int
    """Small multiples side by side."""
    places: tuple[tuple[int, int], ...]
    """[position] line and first column of each token in the text panel."""

    def below(self, panel: int) -> Axes:
        """Axes of a panel's heatmap."""
        return Axes(panel + 1)

    def above(self, panel: int) -> Axes:
        """Axes of what moves over a panel's heatmap."""
        return Axes(len(self.panels) + panel + 1)

    @property
    def text(self) -> Axes:
        """Axes of the text panel."""
        return Axes(2 * len(self.panels) + 1)

    @property
    def bars(self) -> Axes:
        """Axes of the bars."""
        return Axes(2 * len(self.panels) + 2)

    @property
    def lines(self) -> int:
        """Lines of the text panel that are in sight at once."""
        return min(MOST_LINES, 1 + max(line for line, _ in self.places))

    @property
    def text_height(self) -> float:
        """Pixels of the text panel."""
        return LINE_HEIGHT * (self.lines + 0.6)

    @property
    def matrix_height(self) -> float:
        """Pixels of all the matrices together; one cell is about square."""
        inner = (WIDTH - MARGIN["l"] - MARGIN["r"]) * MATRIX_SHARE
        rows, keys = len(self.line.rows), self.line.rows.stop
        shape = max(0.3, min(1.0, rows / keys))
        return inner / self.columns * shape * math.ceil(len(self.panels) / self.columns)

    @property
    def height(self) -> float:
        """Pixels between the margins."""
        return self.text_height + GAP + self.matrix_height

    @property
    def matrix_top(self) -> float:
        """Upper end of the matrices, in parts of the height."""
        return self.matrix_height / self.height


def plan(line: Timeline, panels: tuple[Panel, ...], what: What, sink: Sink, colours: theme.Theme) -> Look:
    """Decide where everything goes."""
    columns = len(panels) if len(panels) <= 3 else math.ceil(math.sqrt(len(panels)))
    places = wrapped(line.labels, CHARACTERS)
    return Look(line, panels, what, sink, colours, columns, tuple(places))


def word(look: Look, position: int) -> tuple[int, int, int]:
    """Where a token's visible part stands in the text panel: line, left and right end in characters.

    The space before a word is left out, so that words stay apart.
    """
    line, column = look.places[position]
    text = look.line.labels[position]
    lead = len(text) - len(text.lstrip("␣"))
    lead = lead if lead < len(text) else 0
    return line, column + lead, column + width(text)
