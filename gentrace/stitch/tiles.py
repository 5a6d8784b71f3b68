"""Scores and weights in tiles, so that a matrix over a long text never has to exist to be looked at.

A tile is some heads, some rows and the columns that those rows can see. Softmax needs whole rows, but not at once: the
overview goes along a row of tiles and keeps its largest score and the sum of its exponentials so far, as Milakov and
Gimelshein, "Online normalizer calculation for softmax" (2018), do. What no row of a tile can see is never computed.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate, chain, groupby
from typing import TypeVar

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from gentrace.axes import Keys, Matrices, Matrix, PerHead, Queries
from gentrace.stitch.mask import Reach, VisibleKeys
from gentrace.stitch.scores import ScoreRule, weights_from

T = TypeVar("T")

TILE = 2**19
"""Scores in a tile: 2 MB, which stay in a core's second cache or near it."""
STRIP = 512
"""Rows in a tile of an overview: as many as it takes for reading the keys to cost nothing beside the product."""


class ScoreSource(ABC):
    """Where tiles of scores come from."""

    def __init__(
        self, heads: int, group: int, keys: int, sinks: PerHead | None, device: torch.device | str | None
    ) -> None:
        """Keep what every source has.

        Args:
            heads: Query heads.
            group: Query heads that are cheapest made together, since they share keys.
            keys: Columns.
            sinks: [head] logit of the learned sink, if any.
            device: Where tiles are made; None for the CPU.
        """
        self.device = torch.device("cpu" if device is None else device)
        self.heads, self.group, self.keys = heads, group, keys
        self.sinks = None if sinks is None else sinks.to(self.device, torch.float32)

    @abstractmethod
    def reach(self, queries: slice) -> Reach:
        """What some rows see."""

    @abstractmethod
    def tile(self, heads: slice, reach: Reach, keys: slice, scratch: Tensor) -> Matrices:
        """Scores of some heads, rows and columns, −inf where masked; the caller may overwrite them.

        Args:
            heads: Part of one group, or whole groups.
            reach: The rows, and what they see.
            keys: The columns.
            scratch: Flat float32 memory on the source's device, large enough, that the tile may be put into.
        """


class VectorSource(ScoreSource):
    """Makes tiles from queries and keys."""

    def __init__(
        self,
        queries: Queries,
        keys: Keys,
        visible: VisibleKeys,
        rule: ScoreRule,
        bias: Float[Tensor, "bias_head query key"] | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        """Bring queries and keys to where tiles are made, in float32.

        Args:
            queries: ``[head, query, dim]`` as they entered the kernel.
            keys: ``[kv_head, key, dim]`` as they entered the kernel.
            visible: Which keys each query may see.
            rule: Scale, softcap and sinks.
            bias: ``[head or 1, query, key]`` position bias, if any. It stays where it is; tiles of it are moved.
            device: Where tiles are made.
        """
        super().__init__(len(queries), len(queries) // len(keys), keys.shape[1], rule.sinks, device)
        self._queries = queries.to(self.device, torch.float32)
        self._keys = keys.to(self.device, torch.float32)
        self._visible, self._bias = visible, bias
        self._softcap = rule.softcap
        self._factor = rule.scale if rule.softcap is None else rule.scale / rule.softcap

    def reach(self, queries: slice) -> Reach:
        """What some rows see."""
        return self._visible.reach(queries)

    def tile(self, heads: slice, reach: Reach, keys: slice, scratch: Tensor) -> Matrices:
        """Scores of some heads, rows and columns; see `ScoreSource.tile`."""
        # The factor goes into the few queries instead of into the many scores.
        few = self._queries[heads, reach.queries] * self._factor
        shared = self._keys[heads.start // self.group : (heads.stop - 1) // self.group + 1, keys]
        count, rows, columns = few.shape[0], few.shape[1], shared.shape[1]
        product = scratch[: count * rows * columns].view(len(shared), -1, columns)
        torch.bmm(few.reshape(len(shared), -1, few.shape[2]), shared.transpose(1, 2), out=product)
        scores = product.view(count, rows, columns)
        if self._softcap is not None:
            scores.tanh_().mul_(self._softcap)
        if self._bias is not None:
            scores += self._bias_of(heads, reach.queries, keys)
        self._visible.hide(scores, reach, keys)
        return scores

    def _bias_of(self, heads: slice, queries: slice, keys: slice) -> Float32[Tensor, "bias_head query key"]:
        assert self._bias is not None
        of_heads = slice(None) if self._bias.shape[0] == 1 else heads
        return self._bias[of_heads, queries, keys].to(self.device, torch.float32)


class StoredSource(ScoreSource):
    """Takes tiles out of finished scores, for layers of which nothing else was seen."""

    def __init__(
        self, scores: Float[Tensor, "head query key"], sinks: PerHead | None, device: torch.device | str | None = None
    ) -> None:
        """Keep the scores where they are.

        Args:
            scores: ``[head, query, key]``, −inf where masked.
            sinks: [head] logit of the learned sink, if any.
            device: Where tiles are worked on.
        """
        super().__init__(len(scores), 1, scores.shape[2], sinks, device)
        self._scores = scores

    def reach(self, queries: slice) -> Reach:
        """Every row may see every column; what is masked is −inf already."""
        everything = slice(0, self.keys)
        return Reach(queries, everything, everything)

    def tile(self, heads: slice, reach: Reach, keys: slice, scratch: Tensor) -> Matrices:
        """Scores of some heads, rows and columns; see `ScoreSource.tile`."""
        stored = self._scores[heads, reach.queries, keys]
        return scratch[: stored.numel()].view(stored.shape).copy_(stored)


def masked(heads: int, queries: slice, keys: slice, *, weights: bool) -> Matrices:
    """A window in which nothing is visible."""
    shape = heads, queries.stop - queries.start, keys.stop - keys.start
    # Zeros cost no memory until something is written there.
    return torch.zeros(shape) if weights else torch.full(shape, -torch.inf)


@torch.no_grad()
def window_of(
    source: ScoreSource,
    queries: slice,
    keys: slice,
    *,
    weights: bool,
    tile: int = TILE,
    out: Matrices | None = None,
) -> Matrices:
    """Some rows and columns of all heads, normalised over all columns.

    Args:
        source: Makes the scores.
        queries: Which rows, from start to stop.
        keys: Which columns, from start to stop.
        weights: Whether to give weights instead of scores.
        tile: Scores that may exist at a time beside the result; at least one row of one head is made at once.
        out: Where to put the result: a `masked` one.

    Returns:
        float32 ``[head, query, key]`` on the CPU; where masked 0 (weights) or −inf (scores).
    """
    found = masked(source.heads, queries, keys, weights=weights) if out is None else out
    if not found.numel():
        return found
    heads, rows = _tile_of(source, queries.stop - queries.start, tile)

    @torch.no_grad()
    def fill(starts: Sequence[int]) -> None:
        """Fill the rows of some tiles that no other call fills."""
        scratch = torch.empty(heads * rows * source.keys, device=source.device)
        for start in starts:
            reach = source.reach(slice(start, min(start + rows, queries.stop)))
            here = slice(start - queries.start, reach.queries.stop - queries.start)
            for head in range(0, source.heads, heads):
                some = slice(head, min(head + heads, source.heads))
                _fill_tile(found[some, here], source, some, reach, keys, weights, scratch)

    _on_all_cores(fill, range(queries.start, queries.stop, rows)[::-1], source.device)
    return found


def _fill_tile(
    target: Matrices, source: ScoreSource, heads: slice, reach: Reach, keys: slice, weights: bool, scratch: Tensor
) -> None:
    """Put one tile's share into the window."""
    shown = _overlap(reach.some, keys)
    columns = reach.some if weights else shown
    if columns.stop <= columns.start:
        return
    scores = source.tile(heads, reach, columns, scratch)
    if weights:
        scores = weights_from(scores, None if source.sinks is None else source.sinks[heads])
        _spread_unknown(target, scores[..., :1])
    if shown.stop > shown.start:
        part = scores[..., shown.start - columns.start : shown.stop - columns.start]
        target[..., shown.start - keys.start : shown.stop - keys.start] = part


def _spread_unknown(target: Matrices, weights: Float32[Tensor, "head query 1"]) -> None:
    """A score that is no number leaves no weight of its row, and softmax says so in each of them."""
    unknown = weights.isnan()
    if bool(unknown.any()):
        target.masked_fill_(unknown.cpu(), torch.nan)


def _tile_of(source: ScoreSource, rows: int, tile: int) -> tuple[int, int]:
    """How many heads and rows make up a tile: rows first, then heads that share keys, then groups of such heads."""
    rows = max(1, min(rows, tile // source.keys))
    heads = max(1, min(source.heads, tile // (rows * source.keys)))
    if heads >= source.group:
        return heads // source.group * source.group, rows
    return max(count for count in range(1, heads + 1) if source.group % count == 0), rows


def _overlap(one: slice, other: slice) -> slice:
    return slice(max(one.start, other.start), min(one.stop, other.stop))


def block_edges(length: int, size: int) -> tuple[int, ...]:
    """Cut an axis into blocks as equal as possible, the longer ones first.

    Args:
        length: Positions.
        size: Blocks at most; there are fewer only if there are fewer positions.

    Returns:
        Where each block starts, and one past the end of the last.
    """
    count = min(length, size)
    if not count:
        return (0,)
    width, longer = divmod(length, count)
    return tuple(accumulate((width + (block < longer) for block in range(count)), initial=0))


@dataclass(frozen=True, slots=True)
class Piece:
    """Positions of one axis that go into a tile together."""

    positions: slice
    blocks: slice
    """The blocks they fall into: whole ones of equal width, or one of which they are a part."""


def pieces_of(edges: Sequence[int], most: int) -> Iterator[Piece]:
    """Cut an axis into pieces for tiles.

    Args:
        edges: The blocks' edges.
        most: Positions in a piece at most.
    """
    block, count = 0, len(edges) - 1
    while block < count:
        width, stop = edges[block + 1] - edges[block], block + 1
        while stop < count and edges[stop + 1] - edges[stop] == width and edges[stop + 1] - edges[block] <= most:
            stop += 1
        step = min(most, edges[stop] - edges[block])
        for start in range(edges[block], edges[stop], step):
            yield Piece(slice(start, min(start + step, edges[stop])), slice(block, stop))
        block = stop


@torch.no_grad()
def overview_of(
    source: ScoreSource,
    query_edges: Sequence[int],
    key_edges: Sequence[int],
    *,
    weights: bool,
    tile: int = TILE,
    strip: int = STRIP,
) -> Matrix:
    """The largest entry of each block of one head's matrix.

    Args:
        source: Makes the scores of the head.
        query_edges: Where each block of rows starts, and one past the end of the last.
        key_edges: The same of columns.
        weights: Whether to give weights instead of scores.
        tile: Scores that exist at a time.
        strip: Rows in a tile.

    Returns:
        float32 ``[query_block, key_block]`` on the CPU; where all of a block is masked 0 (weights) or −inf (scores).
    """
    found = torch.full((len(query_edges) - 1, len(key_edges) - 1), -torch.inf)
    pieces = list(pieces_of(key_edges, max(1, tile // strip)))
    strips = list(pieces_of(query_edges, strip))

    # The strips of one block belong together.
    by_block = [list(group) for _, group in groupby(strips, key=lambda piece: piece.blocks.start)]

    @torch.no_grad()
    def fill(parts: Sequence[Sequence[Piece]]) -> None:
        """Fill the block rows of some strips that no other call fills."""
        for rows in chain.from_iterable(parts):
            pooled = _pool_keys(source, source.reach(rows.positions), pieces, len(key_edges) - 1, weights)
            blocks = rows.blocks.stop - rows.blocks.start
            largest = pooled.view(blocks, -1, pooled.shape[1]).amax(1).cpu()
            found[rows.blocks] = torch.maximum(found[rows.blocks], largest)

    _on_all_cores(fill, by_block[::-1], source.device)
    return found


def _on_all_cores(work: Callable[[Sequence[T]], None], items: Sequence[T], device: torch.device) -> None:
    """Work on items that do not depend on each other, some on each core; late rows see most, so they come first.

    Torch would share out every small operation instead and wait for the slowest core thousands of times; when another
    process uses a core, that takes not twice but twenty times as long.
    """
    threads = torch.get_num_threads()
    if threads == 1 or len(items) < 2 or device.type != "cpu":
        work(items)
        return
    count = min(len(items), 8 * threads)
    parts = [items[first::count] for first in range(count)]
    inference = torch.is_inference_mode_enabled()

    def begin(part: Sequence[T]) -> None:
        # A tensor made in inference mode may only be written to in it, and the mode is a thread's own.
        with torch.inference_mode(inference):
            work(part)

    # The count is a thread's own, but new threads take over the last one that any thread has set.
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            list(pool.map(begin, parts))
    finally:
        torch.set_num_threads(threads)


def _pool_keys(
    source: ScoreSource, reach: Reach, pieces: Sequence[Piece], blocks: int, weights: bool
) -> Float32[Tensor, "query key_block"]:
    """Each row's largest entry of each block of columns."""
    rows = reach.queries.stop - reach.queries.start
    widest = max(piece.positions.stop - piece.positions.start for piece in pieces)
    scratch = torch.empty(rows * widest, device=source.device)
    pooled = torch.full((rows, blocks), -torch.inf, device=source.device)
    top = pooled.new_full((rows, 1), -torch.inf)
    total = torch.zeros_like(top)
    for piece in pieces:
        if piece.positions.stop <= reach.some.start or piece.positions.start >= reach.some.stop:
            continue
        scores = source.tile(slice(0, 1), reach, piece.positions, scratch)[0]
        largest = scores.view(rows, piece.blocks.stop - piece.blocks.start, -1).amax(-1)
        pooled[:, piece.blocks] = torch.maximum(pooled[:, piece.blocks], largest)
        if weights:
            highest = torch.maximum(top, largest.amax(-1, keepdim=True))
            total *= (top - _finite(highest)).exp_()
            total += scores.sub_(_finite(highest)).exp_().sum(-1, keepdim=True)
            top = highest
    if not weights:
        return pooled
    if source.sinks is not None:
        highest = torch.maximum(top, source.sinks[:1, None])
        total = total * (top - _finite(highest)).exp_() + (source.sinks[:1, None] - _finite(highest)).exp_()
        top = highest
    return pooled.sub_(_finite(top)).exp_().div_(total.masked_fill(top == -torch.inf, 1.0))


def _finite(top: Tensor) -> Tensor:
    """What to subtract from a row's scores; nothing from a row that has seen nothing."""
    return top.masked_fill(top == -torch.inf, 0.0)
