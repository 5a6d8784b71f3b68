"""A terminal of one's own, which refuses whatever a picture has no business to send."""

import re
import unicodedata
from dataclasses import dataclass

SEQUENCE = re.compile(r"\x1b\[(\??)([0-9;]*)([A-Za-z])")
MODES = {"25": "cursor", "7": "wrap", "2026": "together"}


@dataclass(frozen=True)
class Cell:
    text: str
    style: str
    """Codes of the newest SGR sequence; empty after a reset."""


class Screen:
    """Lines that were written, the scrolled ones included, and what was switched."""

    def __init__(self, columns: int) -> None:
        self.columns = columns
        self.lines: list[dict[int, Cell]] = [{}]
        self.modes = {"cursor": True, "wrap": True, "together": False}
        self.style = ""
        self.drawings = 0
        self._x = self._y = 0

    def feed(self, text: str) -> "Screen":
        place = 0
        while place < len(text):
            character = text[place]
            if character == "\x1b":
                found = SEQUENCE.match(text, place)
                assert found is not None, f"a stray escape: {text[place : place + 12]!r}"
                self._obey(*found.groups())
                place = found.end()
                continue
            place += 1
            if character == "\r":
                self._x = 0
            elif character == "\n":
                # As a terminal in its usual mode does.
                self._x, self._y = 0, self._y + 1
                self.lines += [{} for _ in range(self._y + 1 - len(self.lines))]
            else:
                self._write(character)
        return self

    @property
    def text(self) -> list[str]:
        """The lines without trailing blanks."""
        return ["".join(line[x].text if x in line else " " for x in self._filled(line)).rstrip() for line in self.lines]

    def cells(self) -> list[Cell]:
        """All cells, line by line."""
        return [line[x] for line in self.lines for x in sorted(line)]

    def _filled(self, line: dict[int, Cell]) -> list[int]:
        taken, x = [], 0
        while x <= max(line, default=-1):
            taken.append(x)
            x += _width(line[x].text) if x in line else 1
        return taken

    def _write(self, character: str) -> None:
        category = unicodedata.category(character)
        assert category not in ("Cc", "Cf") or character == "\u200d", f"a control character: {character!r}"
        line = self.lines[self._y]
        if unicodedata.combining(character) or character in "\u200d\ufe0f":
            before = max(x for x in line if x < self._x)
            line[before] = Cell(line[before].text + character, line[before].style)
            return
        assert self._x + _width(character) <= self.columns, f"line {self._y} is too long"
        line[self._x] = Cell(character, self.style)
        self._x += _width(character)

    def _obey(self, private: str, numbers: str, what: str) -> None:
        if private:
            assert numbers in MODES
            assert what in "hl"
            self.modes[MODES[numbers]] = what == "h"
            self.drawings += numbers == "2026" and what == "l"
        elif what == "m":
            self.style = "" if numbers in ("", "0") else numbers
        elif what == "A":
            self._y -= int(numbers)
            assert self._y >= 0
        elif what in "KJ":
            # Behind the last column the cursor stands on it.
            first = min(self._x, self.columns - 1)
            self.lines[self._y] = {x: cell for x, cell in self.lines[self._y].items() if x < first}
            if what == "J":
                del self.lines[self._y + 1 :]
        else:
            raise AssertionError(f"an unknown sequence: {what}")


def _width(text: str) -> int:
    return 2 if unicodedata.east_asian_width(text[0]) in "WF" else 1
