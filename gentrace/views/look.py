"""What the parts of a replay figure must agree on: who is shown, in which colours, and where on the sheet.

All matrices stand on one pair of axes, beside and below each other like stamps on a sheet, so that one curtain and one
frame serve them all: what a step costs must not grow with their number. Over it lies a second pair for what moves. The
lower carries every token's name unseen, for hovering; the upper shows as many names as can be read. One more pair holds
the text, one the bars, one the tree of a beam search. On a wide sheet the bars stand beside the matrices, on a narrow
one, as on a phone, below them.
"""

import math
from dataclasses import dataclass

from gentrace.trace.info import Kind
from gentrace.views import theme
from gentrace.views.genealogy import Genealogy
from gentrace.views.labels import width, wrapped
from gentrace.views.timeline import Panel, Sink, Timeline, What

WIDTH = 1120
"""Pixels; said and not left to the page, so that the text's character grid and the matrices keep their shape."""
STACKED_BELOW, NARROWEST = 1000, 320
"""Pixels of a sheet below which bars stand under the matrices, and of the narrowest."""
MARGIN = {"l": 96, "r": 24, "t": 112}
STACKED_MARGIN = {"l": 14, "r": 14, "t": 164}
MATRIX_SHARE = 0.56
"""Part of a wide sheet that the matrices take; the bars have the rest."""
BARS_FROM = 0.66
NAMES_BESIDE = 58
"""Pixels left of stacked matrices for the names of queries; otherwise they stand in the margin."""
CHARACTER = 8.23
"""Pixels of a character of the text panel."""
WIDEST_CELL = 96
"""Pixels of a cell at most: few tokens make a small matrix, and not huge cells."""
LINE_HEIGHT = 21
MOST_LINES = 9
MOST_GHOSTS = 4
"""Rejected drafts of one step that stand beneath its bars; the others are counted."""
GAP = 44
"""Pixels between the text and what stands below it."""
TICKS = 36
"""Pixels below the bars for the numbers on their axis."""
NAME = 13
"""Pixels that a name needs at least beside others."""
SLOTS = (22, 27, 48)
"""Pixels of an alternative: at least, at least with two bars, and at most."""
BESIDE, BETWEEN = 14, 24
"""Pixels between matrices side by side, and above each where its name stands."""
FOOT = 96
"""Pixels below the matrices for the names of keys."""
BRANCH, TREE_HEAD = 22, 30
"""Pixels of a continuation in the tree of beams, and of the tree's title."""
NARROW_PANEL = 130
"""Pixels across that a matrix needs at least where the sheet is narrow."""
TALLEST = 640
"""Pixels that matrices below each other take together, where fewer side by side would make them larger."""
HEADLINE = 46
"""Pixels over the bars for the two lines that say who looks, and what comes next."""


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


BELOW, ABOVE, TEXT, BARS, TREE = (Axes(number) for number in range(1, 6))
"""Axes of the heatmaps, of what moves over them, of the text, of the bars and of the tree."""


@dataclass(frozen=True, slots=True)
class Sheet:
    """What follows from a figure's width alone."""

    width: int
    """Pixels across."""

    @property
    def stacked(self) -> bool:
        """Whether everything stands below each other."""
        return self.width < STACKED_BELOW

    @property
    def margin(self) -> dict[str, int]:
        """Pixels left, right and above of what is drawn."""
        return STACKED_MARGIN if self.stacked else MARGIN

    @property
    def inner(self) -> int:
        """Pixels between the margins."""
        return self.width - self.margin["l"] - self.margin["r"]

    @property
    def characters(self) -> int:
        """Characters a line of the text panel."""
        return int(self.inner / CHARACTER - 3.49)

    @property
    def matrix_left(self) -> int:
        """Pixels left of the matrices, from the margin on."""
        return NAMES_BESIDE if self.stacked else 0

    @property
    def matrix_width(self) -> float:
        """Pixels that all the matrices may take, across."""
        return min(TALLEST, self.inner - NAMES_BESIDE) if self.stacked else self.inner * MATRIX_SHARE

    @property
    def bars_domain(self) -> list[float]:
        """Where the bars stand, across."""
        return [0, 1] if self.stacked else [BARS_FROM, 1]

    def side(self, columns: int, shape: float, keys: int) -> tuple[float, float]:
        """Pixels of a matrix across and down.

        Args:
            columns: Matrices side by side.
            shape: Its rows over its keys.
            keys: Its keys.
        """
        wide = min((self.matrix_width - BESIDE * (columns - 1)) / columns, WIDEST_CELL * keys)
        return wide, wide * max(0.3, min(1.0, shape))


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
    sheet: Sheet
    places: tuple[tuple[int, int], ...]
    """[position] line and first column of each token in the text panel."""
    tree: Genealogy | None = None
    """The beam search to draw below."""

    @property
    def kind(self) -> Kind:
        """Which attention is shown."""
        return self.panels[0].kind

    @property
    def keys(self) -> int:
        """Key positions of a matrix."""
        return self.panels[0].weights.shape[1]

    @property
    def key_labels(self) -> tuple[str, ...]:
        """[key] displayable text."""
        return self.line.labels if self.kind == "self" else self.line.encoder

    def seen(self, row: int) -> int:
        """Keys that a row may look at: those up to itself, or all of the encoder's."""
        return row + 1 if self.kind == "self" else self.keys

    @property
    def grid_rows(self) -> int:
        """Small multiples one above the other."""
        return math.ceil(len(self.panels) / self.columns)

    @property
    def cell(self) -> tuple[float, float]:
        """Pixels of a cell across and down; it is about square."""
        wide, high = self.sheet.side(self.columns, len(self.line.rows) / self.keys, self.keys)
        return wide / self.keys, high / len(self.line.rows)

    @property
    def gaps(self) -> tuple[float, float]:
        """Cells between matrices side by side, and above each of several."""
        across, down = self.cell
        return BESIDE / across, BETWEEN / down if len(self.panels) > 1 else 0.0

    def offset(self, panel: int) -> tuple[float, float]:
        """Where a panel's key 0 and query 0 stand on the common axes."""
        row, column = divmod(panel, self.columns)
        across, down = self.gaps
        return column * (self.keys + across), row * (len(self.line.rows) + down)

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
        """Pixels of all the matrices together, with their names."""
        down = self.cell[1]
        return self.grid_rows * (len(self.line.rows) + self.gaps[1]) * down

    @property
    def slots(self) -> int:
        """Rows of the bars' panel: alternatives, and drafts with a line over them."""
        most = max(min(len(step.ghosts), MOST_GHOSTS + 1) for step in self.line.steps)
        return max(6, *(len(step.alternatives) for step in self.line.steps)) + (most + 2 if most else 0)

    @property
    def matrix_domain(self) -> list[float]:
        """Where all the matrices stand, across."""
        left, across = self.sheet.matrix_left, self.gaps[0]
        wide = (self.columns * (self.keys + across) - across) * self.cell[0]
        return [left / self.sheet.inner, min(1.0, (left + wide) / self.sheet.inner)]

    @property
    def body_height(self) -> float:
        """Pixels of matrices and bars."""
        if self.sheet.stacked:
            return self.matrix_height + FOOT + self.bars_height
        return max(self.matrix_height, self.bars_height)

    @property
    def bars_height(self) -> float:
        """Pixels of the bars: beside matrices as tall as these, as far as that is readable."""
        least, most = (HEADLINE + slot * (self.slots + 0.4) for slot in (SLOTS[self.line.has_sampled], SLOTS[2]))
        return least if self.sheet.stacked else min(max(self.matrix_height, least), most)

    @property
    def bars_top(self) -> float:
        """Upper end of the bars, in pixels from the sheet's upper end."""
        return self.body_top + (self.matrix_height + FOOT if self.sheet.stacked else 0.0)

    @property
    def foot(self) -> float:
        """Pixels below the body for the names of keys, so far as these do not hang beside the bars."""
        if self.sheet.stacked:
            return TICKS
        return max(TICKS, FOOT - (self.body_height - self.matrix_height))

    @property
    def slot(self) -> float:
        """Pixels of an alternative."""
        return (self.bars_height - HEADLINE) / (self.slots + 0.4)

    @property
    def tree_height(self) -> float:
        """Pixels of the tree, with its title; 0 if there is none."""
        return 0.0 if self.tree is None else self.tree_head + BRANCH * self.tree.candidates

    @property
    def tree_head(self) -> float:
        """Pixels of the tree's title."""
        return TREE_HEAD * (2 if self.sheet.stacked else 1)

    @property
    def height(self) -> float:
        """Pixels between the margins."""
        below = self.foot + self.tree_height if self.tree is not None else 0.0
        return self.text_height + GAP + self.body_height + below

    def domain(self, top: float, height: float) -> list[float]:
        """A stretch of the sheet, in pixels from its upper end, as Plotly wants it."""
        return [max(0.0, 1 - (top + height) / self.height), 1 - top / self.height]

    @property
    def body_top(self) -> float:
        """Upper end of matrices and bars, in pixels from the sheet's upper end."""
        return self.text_height + GAP


def plan(
    line: Timeline,
    panels: tuple[Panel, ...],
    what: What,
    sink: Sink,
    colours: theme.Theme,
    tree: Genealogy | None = None,
    width: int = WIDTH,
) -> Look:
    """Decide where everything goes: a row of heads for each layer, or the arrangement that makes matrices largest."""
    count, shape = len(panels), len(line.rows) / panels[0].weights.shape[1]
    layers = len({panel.layer for panel in panels})
    heads = count // layers
    in_rows = layers > 1 and 1 < heads <= 6 and heads * layers == count
    sheet = Sheet(width)
    columns = heads if in_rows else _columns(sheet, count, shape, panels[0].weights.shape[1])
    if sheet.stacked:
        columns = min(columns, max(1, int(sheet.matrix_width / NARROW_PANEL)))
    places = wrapped(line.labels, sheet.characters)
    return Look(line, panels, what, sink, colours, columns, sheet, tuple(places), tree)


def _columns(sheet: Sheet, count: int, shape: float, keys: int) -> int:
    """As few side by side as fit below each other, for the fewer the larger."""
    for columns in range(1, count):
        high = sheet.side(columns, shape, keys)[1] + (BETWEEN if count > 1 else 0)
        if math.ceil(count / columns) * high <= TALLEST:
            return columns
    return count


def word(look: Look, position: int) -> tuple[int, int, int]:
    """Where a token's visible part stands in the text panel: line, left and right end in characters.

    The space before a word is left out, so that words stay apart.
    """
    line, column = look.places[position]
    text = look.line.labels[position]
    lead = len(text) - len(text.lstrip("␣"))
    lead = lead if lead < len(text) else 0
    return line, column + lead, column + width(text)
