"""Two heads of two traces over the same blocks of tokens, as plain data.

The axes are made of tokens that stand opposite each other (see `gentrace.views.alignment`), so that each number of one
trace has a number of the other beside it, or none.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from gentrace.axes import Matrix
from gentrace.trace.info import Kind
from gentrace.trace.trace import Trace
from gentrace.views.alignment import Alignment, Block, align, merge_keys, merge_queries, merge_seen
from gentrace.views.cells import (
    Cells,
    FirstKey,
    Span,
    check_size,
    choose_layer,
    choose_pairs,
    choose_positions,
    mean,
    read_cells,
    titled,
)
from gentrace.views.labels import label
from gentrace.views.sheet import short
from gentrace.views.timeline import model_name

COMPARE_CELLS = 250_000
"""Cells of one matrix; each is drawn three times with another number beside it."""


@dataclass(frozen=True, slots=True)
class Part:
    """What of a trace is compared: one head, or the mean of several."""

    layers: int | Sequence[int] | None
    """Layer numbers; None for all recorded."""
    heads: int | Sequence[int] | None
    """Query heads of each; None for all."""
    last: int | None = None
    """Of these matrices, layer by layer, only the last so many."""

    def read(self, trace: Trace, queries: Span, keys: Span, kind: Kind) -> Cells:
        """The matrix."""
        if isinstance(self.layers, int) and isinstance(self.heads, int) and self.last is None:
            return read_cells(trace, self.layers, self.heads, queries, keys, kind)
        return mean(trace, self.layers, self.heads, last=self.last, queries=queries, keys=keys, kind=kind)

    def named(self, trace: Trace, kind: Kind) -> str:
        """What it is, for people."""
        if isinstance(self.layers, int) and self.last is None and not isinstance(self.heads, Sequence):
            return f"layer {self.layers} · " + ("mean of heads" if self.heads is None else f"head {self.heads}")
        return self.read(trace, (0, 1), (0, 1), kind).title


@dataclass(frozen=True, slots=True)
class Group:
    """One row or column: tokens of either text that stand opposite each other."""

    label: str
    """Short, for an axis."""
    name: str
    """With positions, for tooltips."""
    missing: int | None
    """The text that has no such tokens: 0, 1 or None."""


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """Two heads' attention over the same blocks of tokens."""

    title: str
    """What is compared, for people."""
    queries: tuple[Group, ...]
    keys: tuple[Group, ...]
    first: Matrix
    """[query, key] weights of the first trace; NaN where masked, never seen or not in its text."""
    second: Matrix
    """[query, key] the same of the second trace."""
    unseen: tuple[tuple[int, ...], tuple[int, ...]]
    """Rows of the first and of the second trace that were never recorded."""
    aside: int
    """Leading columns that hold the first key of either trace, if they are set aside; else 0."""
    merged: int
    """Rows and columns in which several tokens stand as one."""
    lonely: int
    """Rows and columns that only one of the texts has."""

    @property
    def difference(self) -> Matrix:
        """[query, key] second minus first, where both have something."""
        return self.second - self.first


def read_comparison(
    traces: tuple[Trace, Trace],
    parts: tuple[Part, Part],
    queries: Span = None,
    keys: Span = None,
    sink: FirstKey | None = None,
    kind: Kind = "self",
) -> Comparison:
    """Two heads over the same blocks of tokens.

    Args:
        traces: The first and the second trace.
        parts: What of each is compared.
        queries: Rows, as positions of the first trace.
        keys: Columns, likewise.
        sink: Whether the first key is set aside.
        kind: Which attention of the layers.

    Raises:
        ViewError: If a trace has no such layer, head or position.
        ViewBudgetError: If there are too many cells; raised before they are computed.
    """
    sizes: list[tuple[int, int]] = []
    for trace, part in zip(traces, parts, strict=True):
        pairs = choose_pairs(trace, part.layers, part.heads, kind)
        sizes.append(trace.counts(choose_layer(trace, pairs[0][0], kind)))
    rows, columns = (
        _aligned(traces, kind == "encoder", (sizes[0][0], sizes[1][0]), queries, "query"),
        _aligned(traces, kind != "self", (sizes[0][1], sizes[1][1]), keys, "key"),
    )
    count = len(rows.blocks), len(columns.blocks)
    attempted = f"comparing matrices of {count[0]} queries and {count[1]} keys"
    check_size(attempted, "cells", count[0] * count[1], COMPARE_CELLS, "choose fewer with queries= and keys=")
    cells = [
        _cells(trace, part, rows.spans(which), columns.spans(which), kind)
        for which, (trace, part) in enumerate(zip(traces, parts, strict=True))
    ]
    aside = _aside(cells, columns, sink, kind)
    matrices = [
        _merged(one, rows.spans(which), columns.spans(which), (count[0], count[1])) for which, one in enumerate(cells)
    ]
    groups = [
        tuple(_groups(traces, alignment, inside))
        for alignment, inside in ((rows, kind == "encoder"), (columns, kind != "self"))
    ]
    both = (*rows.blocks, *columns.blocks) if kind == "cross" else {*rows.blocks, *columns.blocks}
    merged, lonely = sum(block.merged for block in both), sum(not block.paired for block in both)
    title = _title(traces, parts, kind)
    unseen = _unseen(cells[0], rows.spans(0)), _unseen(cells[1], rows.spans(1))
    return Comparison(title, groups[0], groups[1], matrices[0], matrices[1], unseen, aside, merged, lonely)


def _aligned(traces: tuple[Trace, Trace], encoder: bool, counts: tuple[int, int], span: Span, axis: str) -> Alignment:
    """The tokens of one axis, side by side."""
    knob = "queries=" if axis == "query" else "keys="
    prompt = None if encoder else traces[0].tokens.prompt_length
    first = choose_positions(axis, counts[0], span, prompt, knob)
    both = [_texts(trace, encoder, count) for trace, count in zip(traces, counts, strict=True)]
    return align(both[0], both[1]).clipped(*counts).around(first, counts[0])


def _texts(trace: Trace, encoder: bool, count: int) -> tuple[str, ...]:
    tokens = trace.encoder_tokens if encoder else trace.tokens
    return tuple(f"[{position}]" for position in range(count)) if tokens is None else tokens.texts


def _cells(trace: Trace, part: Part, rows: Sequence[range], columns: Sequence[range], kind: Kind) -> Cells | None:
    """The part of one trace's matrix that is shown; None if its text has no part in it."""
    spans = _whole(rows), _whole(columns)
    if spans[0] is None or spans[1] is None:
        return None
    return part.read(trace, spans[0], spans[1], kind)


def _whole(spans: Sequence[range]) -> tuple[int, int] | None:
    """From the first position of some spans to the end of the last; None if all are empty."""
    held = [span for span in spans if span]
    return (held[0].start, held[-1].stop) if held else None


def _merged(cells: Cells | None, rows: Sequence[range], columns: Sequence[range], shape: tuple[int, int]) -> Matrix:
    if cells is None:
        return torch.full(shape, torch.nan)
    weights = merge_queries(merge_keys(cells.weights, columns), rows)
    return weights.where(merge_seen(cells.visible, rows, columns), torch.nan)


def _unseen(cells: Cells | None, rows: Sequence[range]) -> tuple[int, ...]:
    missing = set() if cells is None else set(cells.unseen)
    return tuple(place for place, span in enumerate(rows) if span and missing.issuperset(span))


def _aside(cells: Sequence[Cells | None], columns: Alignment, sink: FirstKey | None, kind: Kind) -> int:
    """Leading columns to set aside."""
    there = [one for one in cells if one is not None]
    if sink == "keep" or len(columns.blocks) < 2:
        return 0
    if sink is None and (kind != "self" or not all(one.causal for one in there)):
        return 0
    first = [place for place, block in enumerate(columns.blocks) if 0 in block.first or 0 in block.second]
    return min(max(first, default=-1) + 1, len(columns.blocks) - 1)


def _groups(traces: tuple[Trace, Trace], alignment: Alignment, encoder: bool) -> Iterator[Group]:
    texts = [_texts(trace, encoder, trace.encoder_length if encoder else trace.length) for trace in traces]
    for block in alignment.blocks:
        both = [_named(texts[which], span) for which, span in enumerate((block.first, block.second))]
        missing = None if block.paired else int(bool(block.first))
        yield Group(_label(block, [one for one, _ in both]), _name(both), missing)


def _named(texts: Sequence[str], span: range) -> tuple[str, str]:
    """The label of some tokens together, and the same with their positions."""
    if not span:
        return "–", "–"
    shown = label("".join(texts[span.start : span.stop]))
    places = f"{span.start}" if len(span) == 1 else f"{span.start}–{span.stop - 1}"
    return shown, f"{places} {shown}"


def _label(block: Block, labels: Sequence[str]) -> str:
    return labels[0] if block.same else f"{short(labels[0])}|{short(labels[1])}"


def _name(both: Sequence[tuple[str, str]]) -> str:
    return both[0][1] if both[0][1] == both[1][1] else f"{both[0][1]} | {both[1][1]}"


def _title(traces: tuple[Trace, Trace], parts: tuple[Part, Part], kind: Kind) -> str:
    models = [model_name(trace) for trace in traces]
    places = [part.named(trace, kind) for trace, part in zip(traces, parts, strict=True)]
    left = models[0] if models[0] == models[1] else f"{models[0]} | {models[1]}"
    return f"{left}\n{places[0] if places[0] == places[1] else f'{places[0]} | {places[1]}'}{titled(kind)}"
