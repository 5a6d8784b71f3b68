"""One token's attention as a table: which keys it looks at, with weight and score, printed or as a data frame."""

from typing import TYPE_CHECKING, Literal, TypeAlias

import plotly.graph_objects as go

from gentrace.errors import ViewError
from gentrace.trace.info import Kind
from gentrace.trace.trace import Trace
from gentrace.views import theme
from gentrace.views.cells import Cells, Span, check_size, check_word, choose_layer, read_cells, sides
from gentrace.views.labels import escape
from gentrace.views.scripted import FittingFigure
from gentrace.views.sheet import TITLE, sheet
from gentrace.views.table_sliders import ROW, WIDTH, number, read_plane, sliding_table
from gentrace.views.timeline import choose_heads

if TYPE_CHECKING:
    import pandas as pd

Order: TypeAlias = Literal["weight", "position"]
"""Strongest key first, or in the order of the text."""
ORDERS: tuple[Order, ...] = ("weight", "position")

TABLE_ROWS = 5000
"""Keys that a table lists."""
SHOWN = 24
"""Rows in sight; a longer table scrolls."""


def attention_frame(
    trace: Trace,
    layer: int,
    head: int,
    token: int | str,
    *,
    order: Order = "position",
    keys: Span = None,
    masked: bool = True,
    kind: Kind = "self",
) -> "pd.DataFrame":
    """What one token looks at, as a data frame.

    Args:
        trace: A finished trace.
        layer: The model's layer number.
        head: Query head.
        token: The token that looks: its position, or its text where no other token has the same.
        order: "position", or "weight" for the strongest first.
        keys: Keys to list: a slice, (first, one past the last), "prompt" or "generated"; None for all.
        masked: Whether to list the keys that the token could not see, such as those to come, with weight 0.
        kind: "self", "cross" (keys are the encoder's) or "encoder".

    Returns:
        A row for each key: ``key`` (its position), ``token`` (its text as it is), ``weight`` (0 … 1) and ``score``
        (what went into softmax; −inf where masked).

    Raises:
        ViewError: If the trace has no such layer, head, token or key, or the text names several tokens.
    """
    import pandas as pd

    cells = _row(trace, layer, head, token, order, keys, kind)
    texts = _texts(trace, kind)
    frame = pd.DataFrame(
        {
            "key": list(cells.keys.positions),
            "token": [texts[position] for position in cells.keys.positions],
            "weight": cells.weights[0].tolist(),
            "score": cells.scores[0].tolist(),
        }
    )
    if not masked:
        frame = frame.loc[cells.visible[0].numpy()]
    if order == "weight":
        frame = frame.sort_values(by="weight", ascending=False, kind="stable")
    return frame.reset_index(drop=True)


def attention_table(
    trace: Trace,
    layer: int | None = None,
    head: int | None = None,
    token: int | str | None = None,
    *,
    start: tuple[int | None, int | None] = (None, None),
    order: Order | None = None,
    keys: Span = None,
    masked: bool = False,
    kind: Kind = "self",
    dark: bool = False,
) -> go.Figure:
    """What one token looks at, as a table; the ground of a weight is as dark as the weight is large.

    Args:
        trace: A finished trace.
        layer: The model's layer number; None for all recorded, with a slider.
        head: Query head; None for all, with a slider.
        token: The token that looks: its position, or its text where no other token has the same; None for the last.
        start: Where there are sliders, the layer and the head shown first; None for the first of each.
        order: "weight" for the strongest first, or "position". None is "weight" for one layer and head; with sliders
            rows stand by position, so that they stay in place.
        keys: Keys to list: a slice, (first, one past the last), "prompt" or "generated"; None for all.
        masked: Whether to list the keys that the token could not see, with weight 0.
        kind: "self", "cross" (keys are the encoder's) or "encoder".
        dark: Light text on a dark ground.

    Raises:
        ViewError: If the trace has no such layer, head, token or key, or the text names several tokens.
        ViewBudgetError: If there are too many keys.
    """
    colours = theme.DARK if dark else theme.LIGHT
    if layer is None or head is None:
        check_word("making a table with sliders", "order", order, (None, "position"))
        query = _position(trace, token, kind, _queries(trace, layer, kind))
        plane = read_plane(trace, layer, head, query, keys, masked=masked, kind=kind)
        return sliding_table(plane, start, colours)
    order = order or "weight"
    cells = _row(trace, layer, head, token, order, keys, kind)
    visible, weights, scores = cells.visible[0].tolist(), cells.weights[0].tolist(), cells.scores[0].tolist()
    rows = [
        (position, text, weight, score)
        for position, text, weight, score, seen in zip(
            cells.keys.positions, cells.keys.labels, weights, scores, visible, strict=True
        )
        if seen or masked
    ]
    if order == "weight":
        rows.sort(key=lambda row: -row[2])
    name = cells.queries.names[0]
    height = TITLE + 20 + ROW * (1 + min(len(rows), SHOWN)) + 24
    layout = sheet(
        colours, f"{cells.model}\n{cells.title}", f"{name} {_note(rows, visible, weights)}", height, width=WIDTH
    )
    layout["margin"] = {"l": 10, "r": 10, "t": TITLE + 8, "b": 12}
    return FittingFigure(data=[_table(rows, escape(name), colours)], layout=layout)


def _row(trace: Trace, layer: int, head: int, token: int | str | None, order: str, keys: Span, kind: Kind) -> Cells:
    """The one query row, checked."""
    check_word("making an attention table", "order", order, ORDERS)
    info = choose_layer(trace, layer, kind)
    choose_heads(info, head)
    query = _position(trace, token, kind, trace.counts(info)[0])
    key_side = sides(trace, info, (query, query + 1), keys)[1]
    attempted = f"making a table of {len(key_side.positions)} keys"
    check_size(attempted, "rows", len(key_side.positions), TABLE_ROWS, "choose fewer with keys=")
    return read_cells(trace, layer, head, (query, query + 1), keys, kind)


def _queries(trace: Trace, layer: int | None, kind: Kind) -> int:
    """How many positions look."""
    if layer is None:
        return trace.encoder_length if kind == "encoder" else trace.length
    return trace.counts(choose_layer(trace, layer, kind))[0]


def _position(trace: Trace, token: int | str | None, kind: Kind, count: int) -> int:
    if token is None:
        return count - 1
    attempted = f"making a table of what token {token!r} looks at"
    if isinstance(token, int):
        if not 0 <= token < count:
            raise ViewError(attempted, f"there are queries 0 … {count - 1}", "choose one of them")
        return token
    tokens = trace.encoder_tokens if kind == "encoder" else trace.tokens
    texts = () if tokens is None else tokens.texts[:count]
    found = [position for position, text in enumerate(texts) if text == token]
    if not found:
        raise ViewError(attempted, "no token that looks has exactly this text", "give its position, or mind the space")
    if len(found) > 1:
        raise ViewError(attempted, f"positions {found} have this text", "give one of these positions")
    return found[0]


def _texts(trace: Trace, kind: Kind) -> tuple[str, ...]:
    tokens = trace.tokens if kind == "self" else trace.encoder_tokens
    return () if tokens is None else tokens.texts


Rows: TypeAlias = list[tuple[int, str, float, float]]
"""Key position, displayable text, weight and score."""


def _note(rows: Rows, visible: list[bool], weights: list[float]) -> str:
    listed, total = sum(row[2] for row in rows), sum(weights)
    if total != total:
        return "was never seen"
    return f"sees {sum(visible)} keys, whose weights sum to {listed:.4f}"


def _table(rows: Rows, name: str, colours: theme.Theme) -> go.Table:
    high = max((row[2] for row in rows if row[2] == row[2]), default=1.0) or 1.0
    grounds = [theme.mix(colours.attention, row[2] / high if row[2] == row[2] else 0.0) for row in rows]
    inks = [theme.ink_on(ground) for ground in grounds]
    count = len(rows)
    plain, text = [colours.card] * count, [colours.ink] * count
    return go.Table(
        columnwidth=[0.7, 3.1, 1.1, 1.1],
        header={
            "values": ["key", "token", "weight", "score"], "align": ["right", "left", "right", "right"],
            "fill": {"color": colours.line}, "line": {"color": colours.line}, "height": ROW,
            "font": {"color": colours.ink, "size": 12},
        },
        cells={
            "values": [
                [position for position, *_ in rows], [escape(text) for _, text, *_ in rows],
                [number(row[2], 4) for row in rows], [number(row[3], 3) for row in rows],
            ],
            "align": ["right", "left", "right", "right"], "height": ROW, "line": {"color": colours.line},
            "fill": {"color": [plain, plain, grounds, plain]},
            "font": {"color": [[colours.muted] * count, text, inks, text], "size": 12, "family": theme.MONO},
        },
        name=f"what {name} looks at",
    )  # fmt: skip
