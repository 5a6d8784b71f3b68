"""The matrices of a replay figure: pictures that stay, and a curtain and a frame around the current row that move."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import plotly.graph_objects as go
import torch

from gentrace.axes import Matrix
from gentrace.views import theme
from gentrace.views.figure_image import picture
from gentrace.views.labels import escape, thinned, tick_texts
from gentrace.views.look import MATRIX_SHARE, Look
from gentrace.views.timeline import LOG_FLOOR, Panel, full_colour

NAMES = ("weights", "scores")
READABLE = 44
"""Token names that can be read along one side of a matrix."""


@dataclass(frozen=True, slots=True)
class Colours:
    """How weights or scores become colours."""

    low: float
    high: float
    log: bool

    def place(self, values: Matrix) -> Matrix:
        """The values as they stand on the colour axis."""
        return values.clamp(min=LOG_FLOOR).log10() if self.log else values


def choose_colours(look: Look) -> dict[str, Colours]:
    """One scale for the weights of all panels and one for their scores, so that panels can be compared."""
    skip = look.sink == "mask"
    if look.sink == "log":
        weights = Colours(math.log10(LOG_FLOOR), 0.0, log=True)
    else:
        weights = Colours(0.0, full_colour([one.weights for one in look.panels], skip_first_key=skip), log=False)
    # Every n-th value: torch's quantile refuses more than 16 million.
    parts = [one.scores[:, int(skip) :].flatten()[:: 1 + one.scores.numel() // 500_000] for one in look.panels]
    finite = torch.cat([part[part.isfinite()] for part in parts])
    if not len(finite):
        return {"weights": weights, "scores": Colours(0.0, 1.0, log=False)}
    low, high = float(finite.quantile(0.02)), float(finite.quantile(0.98))
    return {"weights": weights, "scores": Colours(low, max(high, low + 1e-6), log=False)}


def heatmaps(look: Look, colours: Mapping[str, Colours]) -> list[go.Heatmap]:
    """For each panel its weights and its scores, transparent over `pictures`: numbers for the pointer."""
    return [
        go.Heatmap(visible=name == look.what, opacity=0, **_heatmap(look, place, name, colours[name]))
        for place in range(len(look.panels))
        for name in NAMES
    ]


def pictures(look: Look, colours: Mapping[str, Colours]) -> list[dict[str, Any]]:
    """For each panel its weights and its scores as layout images, in the order of `heatmaps`."""
    rows = look.line.rows
    return [
        {
            "source": picture(colours[name].place(_values(panel, name)), colours[name].low, colours[name].high,
                              look.colours.attention),
            "xref": look.below(place).x, "yref": look.below(place).y, "x": -0.5, "y": rows.start - 0.5,
            "sizex": rows.stop, "sizey": len(rows), "sizing": "stretch", "layer": "below",
            "visible": name == look.what,
        }
        for place, panel in enumerate(look.panels)
        for name in NAMES
    ]  # fmt: skip


def visibility(look: Look, what: str) -> list[bool]:
    """Which of `heatmaps` and `pictures` are in sight when ``what`` is shown."""
    return [name == what for _ in look.panels for name in NAMES]


def still_marks(look: Look) -> list[go.Scatter]:
    """What lies on the heatmaps and stays: the first key set aside, rows never seen, the end of the prompt."""
    return [mark for place in range(len(look.panels)) for mark in _still(look, place)]


def matrix_moves(look: Look, row: int) -> list[dict[str, Any]]:
    """The curtain and the current row of every panel: what a frame changes, as many traces at every step."""
    rows, right = look.line.rows, row + 0.5
    frame = {"x": [-0.5, right, right, -0.5, -0.5], "y": [row - 0.5, row - 0.5, row + 0.5, row + 0.5, row - 0.5]}
    edge = rows.stop - 0.4
    curtain = {"x": [-0.6, edge, edge, -0.6], "y": [row + 0.5, row + 0.5, edge, edge]}
    return [{"type": "scatter", **move} for _ in look.panels for move in (curtain, frame)]


def matrix_styles(look: Look) -> list[dict[str, Any]]:
    """How the traces of `matrix_moves` look; said once."""
    styles = []
    for place in range(len(look.panels)):
        axes = look.above(place)
        shared = {"xaxis": axes.x, "yaxis": axes.y, "mode": "lines", "hoverinfo": "skip"}
        styles.append(shared | {"fill": "toself", "fillcolor": look.colours.paper, "line": {"width": 0}})
        styles.append(shared | {"line": {"width": 2, "color": look.colours.accent}})
    return styles


def matrix_layout(look: Look, colours: Mapping[str, Colours]) -> dict[str, Any]:
    """Axes, colour scales and pictures of all panels."""
    layout: dict[str, Any] = {
        "coloraxis": _colour_axis(look, colours["weights"]),
        "coloraxis2": _colour_axis(look, colours["scores"]),
        "images": pictures(look, colours),
    }
    for place in range(len(look.panels)):
        layout |= _axes(look, place)
    return layout


def scale_note(look: Look, what: str, colours: Mapping[str, Colours]) -> str:
    """One line that says what the colours mean."""
    aside = "first token set aside (grey)" if look.sink == "mask" else "first token included"
    if what == "scores":
        return f"scores before softmax, linear; {aside}"
    if look.sink == "log":
        return f"attention weights, logarithmic from {LOG_FLOOR:g} to 1; first token included"
    return f"attention weights, full colour from {colours[what].high:.2g}; {aside}"


def _heatmap(look: Look, place: int, name: str, colours: Colours) -> dict[str, Any]:
    panel, axes = look.panels[place], look.below(place)
    z = _values(panel, name)
    unit = f"{name[:-1]} %{{z:.3g}}"
    extra: dict[str, Any] = {}
    if colours.log:
        extra["customdata"] = z.numpy()
        unit = f"{name[:-1]} %{{customdata:.3g}}"
    return extra | {
        "name": f"{panel.title}, {name}",
        "z": colours.place(z).numpy(),
        "y0": look.line.rows.start,
        "xaxis": axes.x,
        "yaxis": axes.y,
        "coloraxis": "coloraxis" if name == "weights" else "coloraxis2",
        "hoverongaps": False,
        "hovertemplate": f"query %{{y}}<br>key %{{x}}<br>{unit}<extra></extra>",
    }


def _values(panel: Panel, name: str) -> Matrix:
    """The values where the query could look, NaN elsewhere."""
    values = panel.weights if name == "weights" else panel.scores
    return values.where(panel.scores != -torch.inf, torch.nan)


def _colour_axis(look: Look, colours: Colours) -> dict[str, Any]:
    bar = {"orientation": "v", "thickness": 9, "outlinewidth": 0, "x": MATRIX_SHARE + 0.005, "xanchor": "left"}
    bar |= {
        "y": look.matrix_top,
        "yanchor": "top",
        "lenmode": "pixels",
        "len": 190,
        "tickfont": {"size": 10},
        "ypad": 0,
    }
    if colours.log:
        ticks = list(range(round(colours.low), 1))
        bar |= {"tickvals": ticks, "ticktext": [f"{10.0**tick:g}" for tick in ticks]}
    shown = {"cmin": colours.low, "cmax": colours.high, "colorscale": theme.scale(look.colours.attention)}
    return shown | {"colorbar": bar}


def _still(look: Look, place: int) -> Iterator[go.Scatter]:
    axes, rows, prompt = look.above(place), look.line.rows, look.line.prompt_length
    shared: dict[str, Any] = {"xaxis": axes.x, "yaxis": axes.y, "mode": "lines", "hoverinfo": "skip"}
    top, edge = rows.start - 0.5, rows.stop - 0.5
    grey = shared | {"fill": "toself", "fillcolor": look.colours.unseen, "line": {"width": 0}}
    if look.sink == "mask" and rows.stop > 1:
        yield go.Scatter(name="first key", x=[-0.5, 0.5, 0.5, -0.5], y=[top, top, edge, edge], **grey)
    for start, stop in _unseen_runs(look.panels[place], rows.start):
        corners = {"x": [-0.5, start + 0.5, stop - 0.5, -0.5], "y": [start - 0.5, start - 0.5, stop - 0.5, stop - 0.5]}
        yield go.Scatter(name="never seen", **corners, **grey)
        if stop - start < 0.06 * len(rows):
            continue
        middle = (start + stop - 1) / 2
        yield go.Scatter(
            name="never seen", x=[0], y=[middle], text=["never seen"], textposition="middle right",
            **shared | {"mode": "text"},
        )  # fmt: skip
    if rows.start < prompt < rows.stop:
        line = {"width": 1, "dash": "dot", "color": look.colours.muted}
        at = prompt - 0.5
        yield go.Scatter(name="end of prompt", x=[-0.5, at, at], y=[at, at, edge], line=line, **shared)


def _unseen_runs(panel: Panel, first: int) -> list[tuple[int, int]]:
    """Runs of rows that were never seen, as start and stop."""
    unseen = panel.weights[:, 0].isnan().tolist()
    runs = []
    for is_unseen, run in groupby(enumerate(unseen, start=first), key=lambda pair: pair[1]):
        rows = [row for row, _ in run]
        if is_unseen:
            runs.append((rows[0], rows[-1] + 1))
    return runs


def _axes(look: Look, place: int) -> dict[str, Any]:
    """Both pairs of axes of one panel."""
    below, above, line = look.below(place), look.above(place), look.line
    x_domain, y_domain = _domain(look, place)
    lowest = place + look.columns >= len(look.panels)
    ranges = [-0.5, line.rows.stop - 0.5], [line.rows.stop - 0.5, line.rows.start - 0.5]
    shared: dict[str, Any] = {"showgrid": False, "zeroline": False, "ticks": "", "tickmode": "array"}
    layout: dict[str, Any] = {}
    sides = zip(below.keys, above.keys, (x_domain, y_domain), ranges, strict=True)
    for side, (low, high, domain, limits) in enumerate(sides):
        positions = list(range(line.rows.stop)) if side == 0 else list(line.rows)
        named = [f"{position} {line.labels[position]}" for position in positions]
        anchor = (below.y, below.x)[side]
        layout[low] = shared | {
            "domain": domain, "range": limits, "anchor": anchor, "showticklabels": False,
            "tickvals": positions, "ticktext": tick_texts(named),
        }  # fmt: skip
        few = thinned(positions[0], positions[-1] + 1, READABLE // look.columns)
        shown = lowest if side == 0 else place % look.columns == 0
        layout[high] = shared | {
            "overlaying": (below.x, below.y)[side], "anchor": (above.y, above.x)[side],
            "matches": (below.x, below.y)[side], "range": limits, "showticklabels": shown,
            "side": ("bottom", "left")[side], "tickvals": few, "tickangle": (-90, 0)[side],
            "ticktext": tick_texts(_short(line.labels[position]) for position in few), "tickfont": {"size": 10},
        }  # fmt: skip
    if len(look.panels) > 1:
        name = look.panels[place].title.split("· ")[-1]
        layout[above.keys[0]]["title"] = {"text": escape(name), "font": {"size": 11}, "standoff": 2}
    return layout


def _short(text: str) -> str:
    return text if len(text) <= 11 else text[:10] + "…"


def _domain(look: Look, place: int) -> tuple[list[float], list[float]]:
    """Where a panel stands, in parts of the sheet."""
    grid_rows = -(-len(look.panels) // look.columns)
    column, row = place % look.columns, place // look.columns
    wide, tall = MATRIX_SHARE / look.columns, look.matrix_top / grid_rows
    gap = 0.0 if len(look.panels) == 1 else 0.012
    return (
        [column * wide, (column + 1) * wide - gap],
        [look.matrix_top - (row + 1) * tall + 2.2 * gap, look.matrix_top - row * tall],
    )
