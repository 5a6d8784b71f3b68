"""The matrices of a replay figure: pictures that stay, and a curtain and a frame around the current row that move."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import plotly.graph_objects as go
import torch

from gentrace.axes import Matrix
from gentrace.views import theme
from gentrace.views.figure_image import picture
from gentrace.views.labels import escape, thinned, tick_texts
from gentrace.views.look import ABOVE, BELOW, NAME, Look
from gentrace.views.timeline import LOG_FLOOR, Panel, full_colour

NAMES = ("weights", "scores")
EXACT_CELLS = 65_536
"""Cells of a matrix up to which its numbers are written as bytes."""


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


def heatmaps(look: Look) -> list[go.Heatmap]:
    """For each panel its weights, with its scores beside them, transparent over `pictures`: numbers for the pointer."""
    axis = "coloraxis" if look.what == "weights" else "coloraxis2"
    return [go.Heatmap(opacity=0, coloraxis=axis, **_heatmap(look, place)) for place in range(len(look.panels))]


def pictures(look: Look, colours: Mapping[str, Colours]) -> list[dict[str, Any]]:
    """For each panel its weights and its scores as layout images."""
    rows = look.line.rows
    return [
        {
            "source": picture(colours[name].place(_values(panel, name)), colours[name].low, colours[name].high,
                              look.colours.attention),
            "xref": BELOW.x, "yref": BELOW.y, "x": look.offset(place)[0] - 0.5,
            "y": look.offset(place)[1] + rows.start - 0.5, "sizex": look.keys, "sizey": len(rows),
            "sizing": "stretch", "layer": "below", "visible": name == look.what,
        }
        for place, panel in enumerate(look.panels)
        for name in NAMES
    ]  # fmt: skip


def visibility(look: Look, what: str) -> list[bool]:
    """Which of `pictures` are in sight when ``what`` is shown."""
    return [name == what for _ in look.panels for name in NAMES]


def still_marks(look: Look) -> list[go.Scatter]:
    """What lies on the heatmaps and stays, one trace of each for all panels: a step pays for every trace there is."""
    names = [_between(look), _names(look)] if len(look.panels) > 1 else []
    return [*_greys(look), *_prompt_ends(look), *names]


def matrix_moves(look: Look, row: int) -> list[dict[str, Any]]:
    """The curtains and the current row of all panels: what a frame changes, as many traces at every step."""
    right, top, bottom = look.seen(row) - 0.5, row + 0.5, look.line.rows.stop - 0.4
    # Up to the next matrix, so that no strip of another colour is left between them.
    edge = look.keys - 0.4 if look.columns == 1 else look.keys + look.gaps[0] - 0.5
    frame = [-0.5, right, right, -0.5, -0.5], [row - 0.5, row - 0.5, top, top, row - 0.5]
    curtain = [-0.6, edge, edge, -0.6], [top, top, bottom, bottom]
    return [_copies(look, curtain), _copies(look, frame)]


def matrix_styles(look: Look) -> list[dict[str, Any]]:
    """How the traces of `matrix_moves` look; said once."""
    shared = {"xaxis": ABOVE.x, "yaxis": ABOVE.y, "mode": "lines", "hoverinfo": "skip"}
    return [
        shared | {"name": "rows to come", "fill": "toself", "fillcolor": look.colours.paper, "line": {"width": 0}},
        shared | {"name": "current row", "line": {"width": 2, "color": look.colours.accent}},
    ]


def matrix_layout(look: Look, colours: Mapping[str, Colours]) -> dict[str, Any]:
    """Axes and colour scales of all panels."""
    return {
        "coloraxis": _colour_axis(look, colours["weights"]),
        "coloraxis2": _colour_axis(look, colours["scores"]),
        **_axes(look),
    }


def scale_note(look: Look, what: str, colours: Mapping[str, Colours]) -> str:
    """One line that says what the colours mean."""
    whose = "first token" if look.kind == "self" else "the source's first token"
    aside = f"{whose} set aside (grey)" if look.sink == "mask" else f"{whose} included"
    if what == "scores":
        return f"scores before softmax, linear; {aside}"
    if look.sink == "log":
        return f"attention weights, logarithmic from {LOG_FLOOR:g} to 1; {whose} included"
    return f"attention weights, full colour from {colours[what].high:.2g}; {aside}"


def _copies(look: Look, outline: tuple[list[float], list[float]]) -> dict[str, Any]:
    """One outline on every panel, as one trace with gaps."""
    across: list[float | None] = []
    down: list[float | None] = []
    for place in range(len(look.panels)):
        x, y = look.offset(place)
        across += [*(_tidy(x + value) for value in outline[0]), None]
        down += [*(_tidy(y + value) for value in outline[1]), None]
    return {"type": "scatter", "x": across[:-1], "y": down[:-1]}


def _tidy(value: float) -> float:
    return round(value, 3)


def _heatmap(look: Look, place: int) -> dict[str, Any]:
    panel, (x, y) = look.panels[place], look.offset(place)
    named = f"{panel.title}<br>" if len(look.panels) > 1 else ""
    return {
        "name": panel.title,
        "z": _numbers(_values(panel, "weights")),
        "customdata": _numbers(_values(panel, "scores")),
        "x0": _tidy(x),
        "y0": _tidy(y + look.line.rows.start),
        "xaxis": BELOW.x,
        "yaxis": BELOW.y,
        "hoverongaps": False,
        # It is transparent, and this is quicker to paint than a rectangle for each cell.
        "zsmooth": "fast",
        "hovertemplate": f"{named}query %{{y}}<br>key %{{x}}<br>weight %{{z:.4g}}<br>score %{{customdata:.4g}}"
        "<extra></extra>",
    }


def _numbers(values: Matrix) -> Any:
    """The values as they are; of a large matrix as text with four digits, for Plotly decodes bytes at every step.

    Rows of text end with the last key that they could look at: what comes behind is a gap all the same.
    """
    if values.numel() <= EXACT_CELLS:
        return values.numpy()
    seen = [int(row.nonzero().amax()) + 1 if row.any() else 0 for row in ~values.isnan()]
    return [
        [None if value != value else float(f"{value:.4g}") for value in row[:stop]]
        for row, stop in zip(values.tolist(), seen, strict=True)
    ]


def _values(panel: Panel, name: str) -> Matrix:
    """The values where the query could look, NaN elsewhere."""
    values = panel.weights if name == "weights" else panel.scores
    return values.where(panel.scores != -torch.inf, torch.nan)


def _colour_axis(look: Look, colours: Colours) -> dict[str, Any]:
    left, right = look.matrix_domain
    bar: dict[str, Any] = {
        "thickness": 9, "outlinewidth": 0, "y": 1 - look.body_top / look.height, "lenmode": "pixels", "ypad": 0,
        "tickfont": {"size": 10},
    }  # fmt: skip
    if look.sheet.stacked:
        bar |= {"orientation": "h", "x": left, "xanchor": "left", "xpad": 0, "yanchor": "bottom", "len": 190}
        bar |= {"ypad": 6, "ticklabelposition": "outside top"}
    else:
        bar |= {"orientation": "v", "x": right + 0.005, "xanchor": "left", "yanchor": "top"}
        bar |= {"len": min(190, round(look.matrix_height))}
    if colours.log:
        ticks = list(range(round(colours.low), 1))
        bar |= {"tickvals": ticks, "ticktext": [f"{10.0**tick:g}" for tick in ticks]}
    shown = {"cmin": colours.low, "cmax": colours.high, "colorscale": theme.scale(look.colours.attention)}
    return shown | {"colorbar": bar}


Outline = tuple[list[float], list[float]]
"""Corners across and down."""


def _greys(look: Look) -> Iterator[go.Scatter]:
    """Grey over the first key, if it is set aside, and over rows that were never seen."""
    rows = look.line.rows
    grey: dict[str, Any] = {"mode": "lines", "fill": "toself", "fillcolor": look.colours.unseen, "line": {"width": 0}}
    top, edge = rows.start - 0.5, rows.stop - 0.5
    if look.sink == "mask" and look.keys > 1:
        yield _on_panels(look, "first key", [[([-0.5, 0.5, 0.5, -0.5], [top, top, edge, edge])]], **grey)
    unseen: list[list[Outline]] = []
    said: list[tuple[float, float]] = []
    for place, panel in enumerate(look.panels):
        runs, (x, y) = _unseen_runs(panel, rows.start), look.offset(place)
        unseen.append([])
        for start, stop in runs:
            right = look.seen(start) - 0.5, look.seen(stop - 1) - 0.5
            unseen[-1].append(([-0.5, *right, -0.5], [start - 0.5, start - 0.5, stop - 0.5, stop - 0.5]))
            if stop - start >= 0.06 * len(rows):
                said.append((_tidy(x), _tidy(y + (start + stop - 1) / 2)))
    if any(unseen):
        yield _on_panels(look, "never seen", unseen, **grey)
        words: dict[str, Any] = {"text": ["never seen"] * len(said), "textposition": "middle right", "mode": "text"}
        across, down = [x for x, _ in said], [y for _, y in said]
        yield go.Scatter(name="words", x=across, y=down, xaxis=ABOVE.x, yaxis=ABOVE.y, hoverinfo="skip", **words)


def _prompt_ends(look: Look) -> Iterator[go.Scatter]:
    """Where the prompt ends, if what is shown holds both sides of it."""
    rows, prompt = look.line.rows, look.line.prompt_length
    if not rows.start < prompt < rows.stop:
        return
    end = prompt - 0.5
    corners = ([-0.5, end, end], [end, end, rows.stop - 0.5])
    if look.kind != "self":
        corners = ([-0.5, look.keys - 0.5], [end, end])
    line = {"width": 1, "dash": "dot", "color": look.colours.muted}
    yield _on_panels(look, "end of prompt", [[corners]], mode="lines", line=line)


def _on_panels(look: Look, name: str, outlines: Sequence[list[Outline]], **style: Any) -> go.Scatter:
    """Outlines as one trace: the same on every panel, or each panel's own."""
    across: list[float | None] = []
    down: list[float | None] = []
    for place in range(len(look.panels)):
        x, y = look.offset(place)
        for own in outlines[place % len(outlines)]:
            across += [*(_tidy(x + value) for value in own[0]), None]
            down += [*(_tidy(y + value) for value in own[1]), None]
    axes: dict[str, Any] = {"xaxis": ABOVE.x, "yaxis": ABOVE.y, "hoverinfo": "skip"}
    return go.Scatter(name=name, x=across[:-1], y=down[:-1], **axes, **style)


def _between(look: Look) -> go.Scatter:
    """Paper around the panels, and where the last row of them has none."""
    (across, down), rows = look.gaps, look.line.rows
    top, bottom = rows.start - 0.5, rows.stop - 0.5
    xs: list[float | None] = []
    ys: list[float | None] = []
    for place in range(look.columns * look.grid_rows):
        x, y = look.offset(place)
        end = x + look.keys - 0.5
        boxes = [(x - 0.5, end + across, y + top - down, y + top), (end, end + across, y + top, y + bottom)]
        if place >= len(look.panels):
            boxes = [(x - 0.5, end, y + top - down, y + bottom)]
        for left, right, upper, lower in boxes:
            xs += [_tidy(left), _tidy(right), _tidy(right), _tidy(left), None]
            ys += [_tidy(upper), _tidy(upper), _tidy(lower), _tidy(lower), None]
    return go.Scatter(
        name="paper", mode="lines", fill="toself", fillcolor=look.colours.paper, line={"width": 0}, x=xs[:-1],
        y=ys[:-1], hoverinfo="skip", xaxis=ABOVE.x, yaxis=ABOVE.y,
    )  # fmt: skip


def _names(look: Look) -> go.Scatter:
    """What each panel is, over its upper left corner."""
    layers = len({panel.layer for panel in look.panels})
    titles = [panel.title if layers > 1 else panel.title.split("· ")[-1] for panel in look.panels]
    lift = look.gaps[1] * 0.45
    corners = [look.offset(place) for place in range(len(look.panels))]
    return go.Scatter(
        name="names", mode="text", text=[escape(title) for title in titles], textposition="middle right",
        x=[_tidy(x - 0.5) for x, _ in corners],
        y=[_tidy(y + look.line.rows.start - 0.5 - lift) for _, y in corners],
        textfont={"size": 11}, hoverinfo="skip", cliponaxis=False, xaxis=ABOVE.x, yaxis=ABOVE.y,
    )  # fmt: skip


def _unseen_runs(panel: Panel, first: int) -> list[tuple[int, int]]:
    """Runs of rows that were never seen, as start and stop."""
    unseen = panel.weights[:, 0].isnan().tolist()
    runs = []
    for is_unseen, run in groupby(enumerate(unseen, start=first), key=lambda pair: pair[1]):
        rows = [row for row, _ in run]
        if is_unseen:
            runs.append((rows[0], rows[-1] + 1))
    return runs


def _axes(look: Look) -> dict[str, Any]:
    """Both pairs of axes of the matrices: their names once for each column and for each row of panels."""
    rows = look.line.rows
    last_x, last_y = look.offset(look.columns - 1)[0], look.offset(len(look.panels) - 1)[1]
    top = rows.start - 0.5 - look.gaps[1]
    ranges = [-0.5, last_x + look.keys - 0.5], [last_y + rows.stop - 0.5, top]
    domains = look.matrix_domain, look.domain(look.body_top, look.matrix_height)
    columns = [look.offset(column)[0] for column in range(look.columns)]
    lines = [look.offset(row * look.columns)[1] for row in range(look.grid_rows)]
    sides = (range(look.keys), look.key_labels, columns), (rows, look.line.labels, lines)
    room = [int(count * pixels / NAME) for count, pixels in zip((look.keys, len(rows)), look.cell, strict=True)]
    shared: dict[str, Any] = {"showgrid": False, "zeroline": False, "ticks": "", "tickmode": "array"}
    layout: dict[str, Any] = {}
    for side, (positions, labels, offsets) in enumerate(sides):
        few = thinned(positions[0], positions[-1] + 1, room[side])
        low, high = BELOW.keys[side], ABOVE.keys[side]
        layout[low] = shared | {
            "domain": domains[side], "range": ranges[side], "anchor": (BELOW.y, BELOW.x)[side],
            "showticklabels": False, "tickvals": [_tidy(start + at) for start in offsets for at in positions],
            "ticktext": tick_texts(f"{at} {labels[at]}" for at in positions) * len(offsets),
        }  # fmt: skip
        layout[high] = shared | {
            "overlaying": (BELOW.x, BELOW.y)[side], "anchor": (ABOVE.y, ABOVE.x)[side],
            "matches": (BELOW.x, BELOW.y)[side], "range": ranges[side],
            "side": ("bottom", "left")[side], "tickvals": [_tidy(start + at) for start in offsets for at in few],
            "tickangle": (-90, 0)[side], "ticktext": tick_texts(_short(labels[at]) for at in few) * len(offsets),
            "tickfont": {"size": 10},
        }  # fmt: skip
    return layout


def _short(text: str) -> str:
    return text if len(text) <= 11 else text[:10] + "…"
