"""The picture in a terminal, drawn over itself; and plain lines where there is none.

Each drawing is one write that leaves the terminal as it found it, so that nothing has to be put back when a program is
killed in between: cursor and wrapping are switched on again in the same breath.
"""

import os
from typing import TextIO

from gentrace.liveview.flow import fit, flow
from gentrace.liveview.frame import STRONGEST, Frame, Text
from gentrace.liveview.ink import Ink, put, size_of
from gentrace.views.labels import label, running

WIDEST = 118
"""Columns of the picture, which is hard to read when it is wider."""
NARROWEST = 24
"""Columns that a table needs."""
BEGIN, END = "\x1b[?2026h\x1b[?25l\x1b[?7l", "\x1b[?7h\x1b[?25h\x1b[?2026l"
"""Show all at once, hide the cursor, do not wrap; and back."""


class Terminal:
    """A region at the bottom of the screen."""

    every_step = False
    """Whether each step has to be drawn."""

    def __init__(self, stream: TextIO) -> None:
        """Draw to a terminal."""
        self._stream = stream
        self._ink = Ink.of(stream, os.environ)
        self._lines = 0

    def draw(self, frame: Frame) -> None:
        """Draw over what was drawn before; a finished frame stays."""
        columns, rows = size_of(self._stream)
        lines = picture(frame, self._ink, columns, rows - 1)
        back = min(self._lines, rows - 1)
        home = f"\x1b[{back}A\r" if back else "\r"
        put(self._stream, BEGIN + home + "".join(f"{line}\x1b[K\n" for line in lines) + "\x1b[J" + END)
        self._lines = 0 if frame.finished else len(lines)

    def say(self, message: str) -> None:
        """One line below."""
        self._lines = 0
        put(self._stream, f"{one_line(message)}\n")

    def close(self) -> None:
        """Leave the terminal as it was, also if a drawing was cut short."""
        put(self._stream, f"\x1b[0m{END}")


class Lines:
    """A line a step, for pipes and logs."""

    every_step = True

    def __init__(self, stream: TextIO) -> None:
        """Write to a stream."""
        self._stream = stream
        self._said = ""

    def draw(self, frame: Frame) -> None:
        """Write a line."""
        if frame.title != self._said:
            self._said = frame.title
            self.say(f"# {frame.title}: position, token, its probability, what it looks at most")
        place = len(frame.text.pieces) - 1
        looks = "never looks back" if frame.finished else _listed(frame.text)
        if frame.source is not None and not frame.finished:
            looks += f" | encoder {_listed(frame.source)}"
        token = label(frame.text.pieces[place])
        put(self._stream, f"{place:5}  {token:<14}  {percent(frame.probability):>7}  {looks}\n")

    def say(self, message: str) -> None:
        """One line."""
        put(self._stream, f"{one_line(message)}\n")

    def close(self) -> None:
        """Nothing is left open."""


def _listed(text: Text) -> str:
    return ", ".join(f"{label(piece)} {weight:.4f}" for piece, weight in text.strongest)


def one_line(message: str) -> str:
    """A message without anything that a terminal would obey."""
    return " ".join(running(message).replace("↵\n", " ").split())


def titles(frame: Frame) -> tuple[str, str]:
    """What stands over the two tables: what may come next, and what is looked at."""
    said = "it was chosen from" if frame.finished else "what may come next"
    if frame.probability is not None:
        said = f"{label(frame.text.pieces[-1])} {percent(frame.probability)} · {said}"
    return said, "the last look back" if frame.finished else "it looks back at"


def percent(share: float | None) -> str:
    """A probability for people."""
    return "—" if share is None else f"{share:.1%}"


def picture(frame: Frame, ink: Ink, columns: int, rows: int) -> list[str]:
    """The lines of a frame, none wider than ``columns`` and no more than ``rows``."""
    # Clearing what is behind a line would clear its last character too, if that stood in the last column.
    columns = max(1, min(columns - 1, WIDEST))
    named = min(STRONGEST, max(0, rows - 6)) if columns >= NARROWEST else 0
    lines = [_head(frame, ink, columns)]
    below = [*_bars(frame, ink, columns, named)] if named else []
    left = rows - 1 - len(below)
    if frame.source is not None and left >= 4:
        shown = _paragraph(frame.source, ink, columns, left // 3, newest=-1, given=0)
        lines += [*shown, ink.faint("─" * columns)]
        left -= len(shown) + 1
    newest = len(frame.text.pieces) - 1
    lines += _paragraph(frame.text, ink, columns, max(1, left), newest=newest, given=frame.prompt_length)
    return [*lines, *below][: max(1, rows)]


def _head(frame: Frame, ink: Ink, columns: int) -> str:
    left = frame.title
    count = f"{frame.prompt_length} + {frame.generated} tokens"
    right = count if frame.rate is None else f"{count} · {frame.rate:.1f} tokens/s"
    room = columns - len(left) - len(right)
    if room < 2:
        return ink.strong(fit(left, columns).rstrip())
    return ink.strong(left) + " " * room + ink.faint(right)


def _paragraph(text: Text, ink: Ink, columns: int, most: int, *, newest: int, given: int) -> list[str]:
    shares = text.shares
    return [
        "".join(
            ink.faint(part)
            if token < 0
            else ink.shaded(part, shares[token], newest=token == newest, given=token < given)
            for token, part in line
        )
        for line in flow(text.pieces, columns, most)
    ]


def _bars(frame: Frame, ink: Ink, columns: int, named: int) -> list[str]:
    """Two tables side by side, or only the first where there is no room."""
    newest, looked = titles(frame)
    table = frame.source if frame.source is not None else frame.text
    wide = columns >= 64
    half = (columns - 4) // 2 if wide else columns
    first = _table(newest, frame.next, ink, half, named, probability=True)
    second = _table(looked, table.strongest, ink, half, named, probability=False)
    if not wide:
        return ["", *first]
    return ["", *(f"{one}    {other}" for one, other in zip(first, second, strict=True))]


def _table(
    title: str, entries: tuple[tuple[str, float], ...], ink: Ink, columns: int, named: int, *, probability: bool
) -> list[str]:
    paint = ink.cool if probability else ink.accent
    name = min(14, columns // 3)
    bar = max(0, columns - name - 8)
    lines = [ink.faint(fit(title, columns))]
    for piece, share in entries[:named]:
        lines.append(f"{fit(label(piece), name)} {paint(ink.bar(share, bar))}{share:>7.1%}")
    return [*lines, *[" " * columns] * (named - len(entries[:named]))]
