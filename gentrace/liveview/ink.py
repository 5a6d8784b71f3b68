"""What a terminal can show: its colours, its size, its characters."""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TextIO

from gentrace.views import theme

Depth = Literal["none", "256", "true"]
PALE = 0.06
"""Shares below this are left unpainted."""
RESET = "\x1b[0m"


@dataclass(frozen=True, slots=True)
class Ink:
    """How to paint."""

    depth: Depth
    """Colours that the terminal knows."""
    dark: bool
    """Whether its ground is dark."""
    full: str = "█"
    """What bars are made of."""

    @classmethod
    def of(cls, stream: TextIO, environ: Mapping[str, str]) -> "Ink":
        """What a stream can show, from the environment's word; https://no-color.org is kept to."""
        return cls(_depth(environ), _is_dark(environ), "█" if can_write(stream, "█") else "#")

    def shaded(self, text: str, share: float, *, newest: bool, given: bool) -> str:
        """A token painted by how strongly it is looked at.

        Args:
            text: Harmless text.
            share: 0 … 1.
            newest: Whether it is the token that looks.
            given: Whether it belongs to the prompt.
        """
        codes = ["1;4"] if newest else []
        if share < PALE:
            codes += ["2"] if given and not newest else []
        elif self.depth == "none":
            codes += ["7"] if share > 0.5 else ["4"] if share > 0.2 else []
        else:
            colours = theme.DARK if self.dark else theme.LIGHT
            ground = theme.mix(colours.attention, share**0.5)
            codes += [self._code(48, ground), self._code(38, theme.ink_on(ground))]
        return f"\x1b[{';'.join(codes)}m{text}{RESET}" if codes else text

    def accent(self, text: str) -> str:
        """Text in the colour of attention."""
        return self._coloured(text, (theme.DARK if self.dark else theme.LIGHT).attention[4])

    def cool(self, text: str) -> str:
        """Text in the colour of probability."""
        return self._coloured(text, (theme.DARK if self.dark else theme.LIGHT).raw)

    def faint(self, text: str) -> str:
        """Second-rank text."""
        return f"\x1b[2m{text}{RESET}"

    def strong(self, text: str) -> str:
        """First-rank text."""
        return f"\x1b[1m{text}{RESET}"

    def bar(self, share: float, columns: int) -> str:
        """A bar of at most so many columns, and what is left of them."""
        filled = round(min(max(share, 0.0), 1.0) * columns)
        return self.full * filled + " " * (columns - filled)

    def _coloured(self, text: str, colour: str) -> str:
        return text if self.depth == "none" else f"\x1b[{self._code(38, colour)}m{text}{RESET}"

    def _code(self, what: int, colour: str) -> str:
        red, green, blue = theme.channels(colour)
        if self.depth == "true":
            return f"{what};2;{red};{green};{blue}"
        steps = (0, 95, 135, 175, 215, 255)
        near = [min(range(6), key=lambda step: abs(steps[step] - part)) for part in (red, green, blue)]
        return f"{what};5;{16 + 36 * near[0] + 6 * near[1] + near[2]}"


def can_redraw(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Whether a stream is a terminal in which the cursor can be moved."""
    return stream.isatty() and environ.get("TERM", "dumb") not in ("dumb", "unknown", "")


def size_of(stream: TextIO) -> tuple[int, int]:
    """Columns and lines of the terminal behind a stream."""
    try:
        return os.get_terminal_size(stream.fileno())
    except (OSError, ValueError):
        return shutil.get_terminal_size()


def can_write(stream: TextIO, text: str) -> bool:
    """Whether a stream's encoding has these characters."""
    try:
        text.encode(stream.encoding or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def put(stream: TextIO, text: str) -> None:
    """Write, with question marks for what the stream's encoding lacks."""
    encoding = stream.encoding or "utf-8"
    stream.write(text if can_write(stream, text) else text.encode(encoding, "replace").decode(encoding))
    stream.flush()


def _depth(environ: Mapping[str, str]) -> Depth:
    if environ.get("NO_COLOR"):
        return "none"
    if environ.get("COLORTERM", "") in ("truecolor", "24bit"):
        return "true"
    return "256" if "256" in environ.get("TERM", "") else "none"


def _is_dark(environ: Mapping[str, str]) -> bool:
    """What terminals that tell say of their ground; most are dark."""
    return environ.get("COLORFGBG", "").rpartition(";")[2] not in ("7", "15")
