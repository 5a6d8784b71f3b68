"""Every head as a thumbnail, as plain data: matrices pooled to a few pixels, and a few numbers about each.

A pixel of a thumbnail is the largest weight beneath it: a mean would let a thin diagonal vanish in a long text. Beside
it stands what a click shows: weights and scores themselves, or those of blocks where there are too many.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from gentrace.axes import Matrix
from gentrace.trace.info import Kind
from gentrace.trace.trace import Trace
from gentrace.views.cells import (
    Cells,
    FirstKey,
    Span,
    check_size,
    choose_layer,
    choose_pairs,
    read_cells,
    sets_first_aside,
    sides,
)

PIXELS = 1_500_000
"""Pixels of all thumbnails together."""
SIZES = (16, 64)
"""Least and most pixels of a thumbnail's side."""
LONGEST = 4096
"""Tokens along a side: every head's matrix is computed once."""
CLOSE_CELLS = 500_000
"""Cells of all close-ups together; a weight and a score are written for each."""


@dataclass(frozen=True, slots=True, eq=False)
class Thumbnail:
    """One head, small."""

    layer: int
    """The model's layer number."""
    head: int
    """Query head."""
    pixels: Matrix
    """[query, key] largest weight under each pixel; NaN where no query could look. The first key is left out if it is
    set aside."""
    first: float
    """Mean weight on the first key."""
    previous: float
    """Mean weight on the token before; NaN outside of self-attention."""
    itself: float
    """Mean weight on the token itself; NaN outside of self-attention."""
    entropy: float
    """Mean entropy of the rows, in nats."""
    close: Matrix
    """[query, key] weights for a close-up, of blocks the largest, but for a first key set aside; NaN where no query
    could look."""
    scores: Matrix
    """[query, key] their scores."""


@dataclass(frozen=True, slots=True, eq=False)
class Sheet:
    """All thumbnails."""

    model: str
    """Name of the model."""
    kind: Kind
    """Which attention of the layers."""
    thumbnails: tuple[Thumbnail, ...]
    """Layer by layer."""
    first_aside: bool
    """Whether the first key is left out of pixels."""
    first: Cells
    """The first head's matrices, whose tokens are those of all."""
    block: int
    """Tokens along a side of a close-up's cell: 1 where nothing had to be pooled."""

    @property
    def layers(self) -> list[int]:
        """Layer numbers, in order."""
        return list(dict.fromkeys(one.layer for one in self.thumbnails))

    @property
    def most_heads(self) -> int:
        """Heads of the layer that shows the most."""
        return max(sum(one.layer == layer for one in self.thumbnails) for layer in self.layers)


def read_sheet(
    trace: Trace,
    layers: int | Sequence[int] | None = None,
    heads: int | Sequence[int] | None = None,
    *,
    queries: Span = None,
    keys: Span = None,
    sink: FirstKey | None = None,
    kind: Kind = "self",
    size: int | None = None,
) -> Sheet:
    """Pool every head.

    Args:
        trace: A finished trace.
        layers: Layer numbers; None for all recorded.
        heads: Query heads of each of these layers; None for all.
        queries: Positions that look.
        keys: Positions that are looked at.
        sink: Whether the first key is left out; None leaves it out of a causal model's self-attention.
        kind: Which attention of the layers.
        size: Pixels of a thumbnail's longer side; None for as many as fit, 16 … 64.

    Raises:
        ViewError: If the trace has no such layer, head or position.
        ViewBudgetError: If there are too many heads or tokens; raised before they are computed.
    """
    pairs = choose_pairs(trace, layers, heads, kind)
    side = size or min(max(int(math.sqrt(PIXELS / len(pairs))), SIZES[0]), SIZES[1])
    attempted = f"drawing {len(pairs)} heads as thumbnails of {side} × {side} pixels"
    knobs = "choose fewer with layers= or heads=, or smaller ones with size="
    check_size(attempted, "pixels", len(pairs) * side * side, PIXELS, knobs)
    longest = max(len(one.positions) for one in sides(trace, choose_layer(trace, pairs[0][0], kind), queries, keys))
    check_size(attempted, "tokens along a side", longest, LONGEST, "choose fewer with queries= and keys=")
    # Whether the first key is set aside is seen from the first head, since a layer's heads share its mask.
    first = read_cells(trace, *pairs[0], queries, keys, kind)
    aside = sets_first_aside([first], sink)
    rows, columns = first.weights.shape
    block = block_for(rows, columns, len(pairs))
    every = (read_cells(trace, *pair, queries, keys, kind) for pair in pairs)
    found = tuple(_thumbnail(one, side, block, aside=aside) for one in every)
    return Sheet(first.model, kind, found, aside, first, block)


def pool(values: Matrix, size: int) -> Matrix:
    """Shrink a matrix to at most ``size`` pixels a side, each the largest value beneath it; NaN where all are NaN."""
    rows, columns = (min(size, count) for count in values.shape)
    pooled = F.adaptive_max_pool2d(values.nan_to_num(nan=-1.0)[None], (rows, columns))[0]
    return pooled.where(pooled >= 0, torch.nan)


def block_for(rows: int, columns: int, heads: int) -> int:
    """The least side of a block with which all close-ups together are small enough."""
    block = 1
    while heads * math.ceil(rows / block) * (1 + math.ceil((columns - 1) / block)) > CLOSE_CELLS:
        block += 1
    return block


def close_up(cells: Cells, block: int, *, aside: bool) -> tuple[Matrix, Matrix]:
    """Weights and scores of blocks: the largest weight beneath, and its score; a first key set aside stays apart."""
    weights, scores = cells.values("weights"), cells.values("scores")
    if block == 1:
        return weights, scores
    parts = [slice(0, 1), slice(1, None)] if aside else [slice(None)]
    found = [_largest(weights[:, part], scores[:, part], block) for part in parts]
    return torch.cat([one for one, _ in found], 1), torch.cat([one for _, one in found], 1)


def _largest(weights: Matrix, scores: Matrix, block: int) -> tuple[Matrix, Matrix]:
    kernel = min(block, weights.shape[0]), min(block, weights.shape[1])
    weights = weights.nan_to_num(nan=-1.0)[None]
    largest, places = F.max_pool2d(weights, kernel, kernel, ceil_mode=True, return_indices=True)
    seen = largest[0] >= 0
    return largest[0].where(seen, torch.nan), scores.flatten()[places[0]].where(seen, torch.nan)


def _thumbnail(cells: Cells, size: int, block: int, *, aside: bool) -> Thumbnail:
    (layer, head), weights = cells.pairs[0], cells.weights
    entropy = -(weights * weights.clamp(min=1e-12).log()).sum(-1)
    distance = torch.tensor(cells.queries.positions)[:, None] - torch.tensor(cells.keys.positions)
    own_text = cells.kind != "cross"
    close, scores = close_up(cells, block, aside=aside)
    return Thumbnail(
        layer=layer,
        head=head,
        pixels=pool(cells.values("weights")[:, int(aside) :], size),
        first=_mean(weights[:, 0]) if cells.keys.positions.start == 0 else math.nan,
        previous=_mean(weights[distance == 1]) if own_text else math.nan,
        itself=_mean(weights[distance == 0]) if own_text else math.nan,
        entropy=_mean(entropy),
        close=close,
        scores=scores,
    )


def _mean(values: torch.Tensor) -> float:
    return float(values.nanmean())
