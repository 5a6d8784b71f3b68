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
    surprise: tuple[str, ...]
    """Evenly spaced stops from expected to surprising, on which lightness alone tells the order."""
    heads: tuple[str, ...]
    """Colours of heads side by side; the first eight stay apart for colour-blind readers."""


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
    surprise=("#e4f2ee", "#d3dfc9", "#dcc08f", "#d88f6c", "#bf4f63", "#84204f"),
    heads=(
        "#0072b2",
        "#d55e00",
        "#009e73",
        "#b8479b",
        "#c29200",
        "#3fa7d6",
        "#7a4a21",
        "#5b4bb5",
        "#6b8e23",
        "#c23b4b",
        "#2f7f86",
        "#8a8f98",
    ),
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
    surprise=("#18332f", "#33473c", "#6d5a38", "#b06a4d", "#e77f8d", "#ffc4d6"),
    heads=(
        "#4aa8ff",
        "#ff8a3d",
        "#2fd3a0",
        "#ef8fd0",
        "#f2cb4b",
        "#8fd6f7",
        "#c99a6b",
        "#a79bff",
        "#b4d65f",
        "#ff7d85",
        "#62c3c9",
        "#b5bac4",
    ),
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


def luminance(colour: str) -> float:
    """How light a colour is, 0 … 1: the relative luminance of WCAG 2.2."""
    red, green, blue = ((part / 255) for part in channels(colour))
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in (red, green, blue)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def head_colour(colours: Theme, place: int) -> str:
    """A colour for the ``place``-th head shown; beyond the palette, the same hues grown closer to the text's."""
    rounds, own = divmod(place, len(colours.heads))
    return mix((colours.heads[own], colours.ink), min(0.3 * rounds, 0.6))


def translucent(colour: str, opacity: float) -> str:
    """A colour as CSS ``rgba``."""
    return "rgba({},{},{},{:g})".format(*channels(colour), opacity)


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two colours, 1 … 21, as WCAG 2.2 defines it."""
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def ink_on(ground: str) -> str:
    """Black or white, whichever reads better on a ground; one of them always has a contrast of at least 4.5."""
    return max(("#000000", "#ffffff"), key=lambda ink: contrast(ink, ground))
