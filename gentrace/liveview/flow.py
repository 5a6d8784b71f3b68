"""Text laid out on a character grid, where it may neither grow beyond a line nor say anything to the terminal.

Token text is untrusted: a model may write escape sequences, line feeds, marks that turn the writing direction. All of
them are shown as glyphs (see `gentrace.views.labels`), and only what is visible reaches the screen.
"""

import unicodedata
from collections.abc import Sequence

from gentrace.views.labels import running, width

Run = tuple[int, str]
"""A token's position, and the part of it that stands in one line."""


def flow(pieces: Sequence[str], columns: int, most: int) -> list[list[Run]]:
    """Lay tokens out as a paragraph.

    Args:
        pieces: Each token's text, as it is.
        columns: Characters a line.
        most: Lines; of a longer text the last ones are taken.

    Returns:
        Lines of runs; one that goes on from lines left out begins with ``…``, as a run of position −1.
    """
    # A character of text takes a column at least, so no more than these can be in sight.
    start, left = len(pieces), columns * (most + 1)
    while start and left > 0:
        start -= 1
        left -= max(1, len(pieces[start]))
    lines = _Lines(columns)
    for word in _words(pieces, start):
        lines.add(word)
    lines.end()
    shown = lines.done[-most:] if most else []
    if shown and (start or len(lines.done) > len(shown)):
        shown[0] = _cut(shown[0], columns)
    return shown


def fit(text: str, columns: int) -> str:
    """A label made to take exactly so many columns."""
    if width(text) > columns:
        while text and width(text) >= columns:
            text = text[:-1]
        text += "…" if columns else ""
    return text + " " * (columns - width(text))


_Cell = tuple[int, str, int]
"""A character with the marks that belong to it: token, text, columns."""


class _Lines:
    """Fills one line after the other."""

    def __init__(self, columns: int) -> None:
        self.done: list[list[Run]] = []
        self._columns = columns
        self._line: list[Run] = []
        self._used = 0

    def add(self, word: list[_Cell]) -> None:
        """Put a word, with the space before it, where it fits."""
        needed = sum(columns for _, _, columns in word)
        if self._used and self._used + needed > self._columns:
            self.end()
            word = word[1:] if word[0][1] == " " else word
        for token, text, columns in word:
            if text == "\n":
                self.end()
                continue
            if self._used + columns > self._columns:
                self.end()
            if self._line and self._line[-1][0] == token:
                self._line[-1] = token, self._line[-1][1] + text
            else:
                self._line.append((token, text))
            self._used += columns

    def end(self) -> None:
        """End the line, if there is one."""
        if self._line:
            self.done.append(self._line)
        self._line, self._used = [], 0


def _words(pieces: Sequence[str], start: int) -> list[list[_Cell]]:
    words: list[list[_Cell]] = []
    for token in range(start, len(pieces)):
        if not pieces[token]:
            continue
        for character in running(pieces[token]):
            if words and (unicodedata.combining(character) or character in "\u200d\ufe0e\ufe0f"):
                owner, text, columns = words[-1][-1]
                words[-1][-1] = owner, text + character, columns
                continue
            cell = token, character, width(character)
            # Between wide characters a line may end anywhere.
            if not words or character in " \n" or words[-1][-1][1] == "\n" or cell[2] > 1 or words[-1][-1][2] > 1:
                words.append([cell])
            else:
                words[-1].append(cell)
    return words


def _cut(line: list[Run], columns: int) -> list[Run]:
    """The line with an ellipsis in front, and as much less of its own text."""
    runs = [(token, text) for token, text in line]
    while runs and sum(width(text) for _, text in runs) >= columns:
        token, text = runs[0]
        runs[0] = token, text[1:]
        if not runs[0][1]:
            runs.pop(0)
    return [(-1, "…"), *runs]
