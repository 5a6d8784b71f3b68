"""Colours and type, once for the figure and the page, light and dark.

Attention is warm, like a highlighter on paper; probability is cool, from surprising (rose) to expected (teal). The two
never share a hue, so that a picture that shows both can be read without a legend.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Theme:
    """One set of colours, as CSS hex strings."""

    paper: str
    """Background of everything."""
    card: str
    """Background of a panel, and of a cell with no attention."""
    ink: str
    """Text."""
    muted: str
    """Second-rank text."""
    line: str
    """Rules and borders."""
    unseen: str
    """Cells that were never seen, and the masked first key."""
    accent: str
    """The current step."""
    raw: str
    """Bars of the model's own distribution."""
    sampled: str
    """Bars of the distribution really sampled from."""
    attention: tuple[str, ...]
    """Evenly spaced stops from no attention to full."""
    probability: tuple[str, ...]
    """Evenly spaced stops from 0 to 1."""


LIGHT = Theme(
    paper="#f6f4ef",
    card="#fffdf9",
    ink="#1f2328",
    muted="#6b6f76",
    line="#e2ddd3",
    unseen="#d9d6d0",
    accent="#b4430c",
    raw="#3d6a8f",
    sampled="#5cb3a8",
    attention=("#fffdf9", "#fdedcb", "#fbd28a", "#f4a442", "#db6c1b", "#a63c0c", "#651a05"),
    probability=("#c2385f", "#d97a78", "#c9b27c", "#6fae93", "#1f8a7d"),
)

DARK = Theme(
    paper="#101216",
    card="#171a20",
    ink="#e9e6df",
    muted="#9a9ea6",
    line="#2a2e37",
    unseen="#343842",
    accent="#ffb454",
    raw="#7fb2dd",
    sampled="#3f9388",
    attention=("#171a20", "#33241a", "#663616", "#a45316", "#dd7f22", "#ffb454", "#fff0cf"),
    probability=("#ff6f91", "#e08f8d", "#c9b27c", "#7cc4a8", "#45cdbd"),
)

SANS = "Inter, 'Helvetica Neue', 'Segoe UI', 'Liberation Sans', Arial, sans-serif"
SERIF = "'Iowan Old Style', 'Palatino Linotype', Palatino, 'Source Serif 4', Georgia, 'Liberation Serif', serif"
MONO = "'JetBrains Mono', 'SF Mono', Menlo, Consolas, 'DejaVu Sans Mono', monospace"


def scale(stops: tuple[str, ...]) -> list[tuple[float, str]]:
    """Evenly spaced stops as a Plotly colour scale."""
    return [(place / (len(stops) - 1), colour) for place, colour in enumerate(stops)]


def mix(stops: tuple[str, ...], share: float) -> str:
    """The colour at ``share`` (0 … 1) of evenly spaced stops."""
    place = min(max(share, 0.0), 1.0) * (len(stops) - 1)
    lower = min(int(place), len(stops) - 2)
    pair = zip(channels(stops[lower]), channels(stops[lower + 1]), strict=True)
    return "#" + "".join(f"{round(a + (b - a) * (place - lower)):02x}" for a, b in pair)


def channels(colour: str) -> tuple[int, int, int]:
    """Red, green and blue, 0 … 255."""
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)
