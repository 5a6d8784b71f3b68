"""Token text, made displayable.

A token may be a newline, a tab, half an emoji, a zero-width mark or something that a renderer takes for markup. On an
axis, a bar or a tooltip each must show as itself: what has no shape gets a visible glyph, and what Plotly reads as
pseudo-HTML is escaped at the last moment, in one place.
"""

import unicodedata
from collections.abc import Iterable, Sequence

EMPTY = "∅"
"""Stands for a token whose bytes are only part of a character, so that it has no text of its own."""

SPACE = "␣"
LONGEST = 24
"""Characters of a label; longer ones are cut in the middle."""
STACKED = 5
"""Combining marks on one letter that are drawn; what is piled above them would cover the lines above."""

_GLYPHS = {
    "\n": "↵",
    "\t": "⇥",
    "\r": "␍",
    "\x7f": "␡",
    "\u00a0": "⍽",
    "\u00ad": "⟨SHY⟩",
    "\u200b": "⟨ZWSP⟩",
    "\u200c": "⟨ZWNJ⟩",
    "\u200d": "⟨ZWJ⟩",
    "\u200e": "⟨LRM⟩",
    "\u200f": "⟨RLM⟩",
    "\u2060": "⟨WJ⟩",
    "\ufeff": "⟨BOM⟩",
}
_INVISIBLE = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp", "Zs"}
_SHAPELESS = set("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
_JOINERS = {"\u200d", "\ufe0e", "\ufe0f"}


def label(text: str) -> str:
    """One token as a short line of visible characters.

    Args:
        text: The token's share of the decoded text.

    Returns:
        Never empty, without line breaks, at most `LONGEST` characters; spaces at either end show as ``␣``.
    """
    if not text:
        return EMPTY
    inner = text.strip(" ")
    left = len(text) - len(text.lstrip(" "))
    right = len(text) - left - len(inner)
    shown = SPACE * left + "".join(_glyphs(inner)) + SPACE * right
    if len(shown) <= LONGEST:
        return shown
    half = (LONGEST - 1) // 2
    return f"{shown[:half]}…{shown[-half:]}"


def running(text: str) -> str:
    """One token as it appears inside flowing text: spaces stay, a newline shows its glyph and breaks the line."""
    shown = "".join(glyph + "\n" if glyph == "↵" else glyph for glyph in _glyphs(text))
    return shown or EMPTY


def escape(text: str) -> str:
    """Keep Plotly from reading a label as pseudo-HTML, or what stands between two dollar signs as mathematics."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("$", "&#36;")


def tick_texts(labels: Iterable[str]) -> list[str]:
    """Labels ready for a Plotly axis; put them at numeric positions, for equal categories would merge."""
    return [escape(one) for one in labels]


def thinned(start: int, stop: int, most: int) -> list[int]:
    """Evenly spaced positions for tick labels.

    Args:
        start: First position.
        stop: One past the last position.
        most: Largest number of labels that can be read side by side.
    """
    stride = max(1, -(-(stop - start) // max(1, most)))
    return list(range(start, stop, stride))


def width(text: str) -> int:
    """Columns that a label takes on a character grid: two for a wide character, none for a combining one."""
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    return len(text) + wide - sum(unicodedata.combining(character) > 0 for character in text)


def wrapped(labels: Sequence[str], columns: int) -> list[tuple[int, int]]:
    """Lay labels out on a character grid, like words in a paragraph.

    Args:
        labels: Texts of one line each.
        columns: Characters a line.

    Returns:
        For each label its line and its first column: −1 where a line begins with a word's own space. A label longer
        than a line stands alone on one.
    """
    places = []
    line = column = 0
    for text in labels:
        if column and column + width(text) > columns:
            line, column = line + 1, 0
        if not column and text.startswith(SPACE) and text.strip(SPACE):
            column = -1
        places.append((line, column))
        column += width(text)
        if text.endswith("↵"):
            line, column = line + 1, 0
    return places


def _glyphs(text: str) -> list[str]:
    """The text character by character, the invisible ones replaced."""
    shown: list[str] = []
    stacked = 0
    for place, character in enumerate(text):
        stacked = stacked + 1 if unicodedata.category(character) in {"Mn", "Me"} else 0
        if stacked > STACKED:
            shown.append(f"⟨U+{ord(character):04X}⟩")
            continue
        before = unicodedata.category(text[place - 1]) if place else ""
        follows = before in {"So", "Sk", "Mn"} and (character != "\u200d" or place + 1 < len(text))
        glyph = character if character in _JOINERS and follows else _glyph(character)
        alone = not place and glyph == character and unicodedata.category(character)[0] == "M"
        shown.append("◌" + glyph if alone else glyph)
    return shown


def _glyph(character: str) -> str:
    if character == " ":
        return character
    if character in _GLYPHS:
        return _GLYPHS[character]
    if ord(character) < 32:
        return chr(0x2400 + ord(character))
    variation = "\ufe00" <= character <= "\ufe0f" or "\U000e0100" <= character <= "\U000e01ef"
    if variation or character in _SHAPELESS or unicodedata.category(character) in _INVISIBLE:
        return f"⟨U+{ord(character):04X}⟩"
    return character
