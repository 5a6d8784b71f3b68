"""The lines of a head view as plain data: who looks at whom, how strongly, and which of it to draw.

A picture with every line is grey. Weak lines are left out, and of the others only so many are kept, the strongest; what
was left out is counted, so that the figure can say so.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float32, Int
from torch import Tensor

from gentrace.trace.info import Kind
from gentrace.trace.trace import Trace
from gentrace.views.cells import (
    Cells,
    FirstKey,
    Side,
    Span,
    check_size,
    choose_layer,
    read_cells,
    sets_first_aside,
    sides,
)
from gentrace.views.timeline import choose_heads, model_name

Pair: TypeAlias = Literal["all", "A→A", "A→B", "B→A", "B→B"]
"""Sentences of a pair: who looks → who is looked at."""
PAIRS: tuple[Pair, ...] = ("all", "A→A", "A→B", "B→A", "B→B")

LINES = 4000
"""Lines of a layer that are drawn at most; the strongest."""
MENU_LINES = 16_000
"""Lines that a figure with a menu of layers carries, all layers together."""
HEAD_CELLS = 20_000_000
"""Weights that may be looked through, all heads together."""
TOKENS = 512
"""Tokens in a column."""


@dataclass(frozen=True, slots=True, eq=False)
class HeadLines:
    """The lines of one head, strongest last."""

    head: int
    """Query head."""
    queries: Int[Tensor, " line"]
    """[line] position that looks."""
    keys: Int[Tensor, " line"]
    """[line] position that is looked at."""
    weights: Float32[Tensor, " line"]
    """[line] 0 … 1."""

    def where(self, chosen: Tensor) -> "HeadLines":
        """Some of the lines.

        Args:
            chosen: [line] booleans, or places.
        """
        return HeadLines(self.head, self.queries[chosen], self.keys[chosen], self.weights[chosen])


@dataclass(frozen=True, slots=True, eq=False)
class Bundle:
    """Everything that a head view draws."""

    model: str
    """Name of the model."""
    layer: int
    """The model's layer number."""
    kind: Kind
    """Which attention of the layer."""
    queries: Side
    keys: Side
    heads: tuple[HeadLines, ...]
    """The lines, head by head."""
    left_out: int
    """Lines at or above ``least`` for which there was no room."""
    least: float
    """Weights below this have no line."""
    first_aside: bool
    """Whether lines to the first key are left out."""
    sentences: tuple[int, ...] | None
    """[position] the sentence that each token of the text belongs to; None unless there are two."""

    def with_heads(self, heads: Sequence[int]) -> "Bundle":
        """The same with these heads in this order; one that the layer does not have has no lines."""
        own = {one.head: one for one in self.heads}
        none = torch.zeros(0, dtype=torch.long)
        found = tuple(own.get(head, HeadLines(head, none, none, torch.zeros(0))) for head in heads)
        return replace(self, heads=found)

    def by_token(self, side: Side) -> dict[int, list[HeadLines]]:
        """Each token's own lines, head by head.

        Args:
            side: ``queries`` for the lines of the tokens that look, ``keys`` for those to the tokens looked at.
        """
        found: dict[int, list[HeadLines]] = {position: [] for position in side.positions}
        for one in self.heads:
            ends = one.queries if side.axis == "query" else one.keys
            order = ends.argsort(stable=True)
            counts = torch.bincount(ends, minlength=side.positions.stop)[side.positions.start :].tolist()
            for position, own in zip(side.positions, order.split(counts), strict=True):
                found[position].append(one.where(own))
        return found

    def between(self, pair: Pair) -> list[HeadLines]:
        """Only the lines from one sentence of a pair to one."""
        if pair == "all" or self.sentences is None:
            return list(self.heads)
        side = torch.tensor(self.sentences)
        first, second = ("AB".index(letter) for letter in pair.split("→"))
        return [one.where((side[one.queries] == first) & (side[one.keys] == second)) for one in self.heads]


def read_lines(
    trace: Trace,
    layer: int,
    heads: int | Sequence[int] | None = None,
    *,
    queries: Span = None,
    keys: Span = None,
    least: float = 0.05,
    sink: FirstKey | None = None,
    kind: Kind = "self",
    most: int = LINES,
) -> Bundle:
    """Choose the lines to draw.

    Args:
        trace: A finished trace.
        layer: The model's layer number.
        heads: Query heads; None for all.
        queries: Positions that look.
        keys: Positions that are looked at.
        least: Weights below this have no line.
        sink: Whether lines to the first key are left out; None leaves them out of a causal model's self-attention.
        kind: Which attention of the layer.
        most: Lines that are kept, the strongest.

    Raises:
        ViewError: If the trace has no such layer, head or position.
        ViewBudgetError: If there is too much to look through or to show; raised before it is computed.
    """
    info = choose_layer(trace, layer, kind)
    chosen = choose_heads(info, heads)
    query_side, key_side = sides(trace, info, queries, keys)
    rows, columns = len(query_side.positions), len(key_side.positions)
    attempted = f"drawing lines of {len(chosen)} heads between {rows} queries and {columns} keys"
    check_size(attempted, "tokens in a column", max(rows, columns), TOKENS, "choose fewer with queries= and keys=")
    knobs = "choose fewer with heads=, queries= and keys="
    check_size(attempted, "weights", len(chosen) * rows * columns, HEAD_CELLS, knobs)
    aside, found = True, []
    for head in chosen:
        cells = read_cells(trace, layer, head, queries, keys, kind)
        aside = aside and sets_first_aside([cells], sink)
        found.append(_lines(cells, head, least))
    if aside:
        found = [one.where(one.keys != 0) for one in found]
    kept = _strongest(found, most)
    left_out = sum(len(one.weights) for one in found) - sum(len(one.weights) for one in kept)
    sentences = _sentences(trace, kind)
    model = model_name(trace)
    return Bundle(model, layer, kind, query_side, key_side, tuple(kept), left_out, least, aside, sentences)


def strongest_of(lines: Sequence[HeadLines], most: int) -> Iterator[tuple[int, int, int, float]]:
    """Head, query, key and weight of the strongest few lines, strongest first."""
    every = [
        (weight, one.head, query, key)
        for one in lines
        for query, key, weight in zip(one.queries.tolist(), one.keys.tolist(), one.weights.tolist(), strict=True)
    ]
    for weight, head, query, key in sorted(every, key=lambda line: -line[0])[:most]:
        yield head, query, key, weight


def _lines(cells: Cells, head: int, least: float) -> HeadLines:
    weights = cells.values("weights").nan_to_num(nan=-1.0)
    rows, columns = (weights >= max(least, 1e-9)).nonzero().unbind(-1)
    strength = weights[rows, columns]
    order = strength.argsort(stable=True)
    rows, columns = rows[order] + cells.queries.positions.start, columns[order] + cells.keys.positions.start
    return HeadLines(head, rows, columns, strength[order])


def _strongest(found: Sequence[HeadLines], most: int) -> list[HeadLines]:
    """At most so many of all heads' lines together."""
    every = torch.cat([one.weights for one in found])
    if len(every) <= most:
        return list(found)
    kept = torch.zeros(len(every), dtype=torch.bool)
    kept[every.argsort(descending=True, stable=True)[:most]] = True
    parts = kept.split([len(one.weights) for one in found])
    return [one.where(part) for one, part in zip(found, parts, strict=True)]


def _sentences(trace: Trace, kind: Kind) -> tuple[int, ...] | None:
    segments = trace.segments if kind == "self" else None
    if segments is None or set(segments.tolist()) != {0, 1}:
        return None
    return tuple(segments.tolist())
