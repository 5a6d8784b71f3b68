"""What goes into a page, decided before any of it is computed.

Every matrix wants a byte a cell. If all of them together are more than a page should hold, the picture that is shown
first stays whole, as do the heads that were named, and the others become small: the largest weight of each block.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TypeAlias

import torch

from gentrace.errors import ViewBudgetError, ViewError
from gentrace.trace import derive
from gentrace.trace.info import Kind, LayerInfo
from gentrace.trace.trace import Trace
from gentrace.views.timeline import check_recorded, choose_heads, choose_rows

Head: TypeAlias = tuple[int, int] | tuple[int, int, Kind]
"""Layer, head and, where it is not "self", the kind of attention."""

BUDGET = 9_500_000
"""Bytes of matrices, queries and keys in a page, before they are deflated."""
POOLS = (256, 224, 192, 160, 128, 96, 64, 48, 32)
"""Blocks along a side, from the best to the coarsest picture that still shows something."""
TILE = 256
"""Blocks along a side of a matrix that is asked for, and cells along a side of one that then still travels whole."""
POSITIONS = 16_384
"""Tokens of one text that a page can lay out."""


@dataclass(frozen=True, slots=True)
class LayerPlan:
    """What of one layer goes into the page."""

    place: int
    """Which of the traces."""
    info: LayerInfo
    heads: tuple[int, ...]
    queries: range
    """Rows shown."""
    keys: int
    """Columns shown, from 0 on."""
    causal: bool
    """Whether no row looks ahead, so that only the lower triangle travels."""
    whole: frozenset[int]
    """Heads that travel cell by cell."""
    pool: int | None
    """Blocks along a side of the other heads' pictures."""
    exact: tuple[int, ...]
    """Heads whose queries and keys travel too."""
    finished: bool
    """Whether exact heads need their scores too, for these are not given by queries and keys alone."""

    @property
    def cells(self) -> int:
        """Cells of one head."""
        stop, start = self.queries.stop, self.queries.start
        return (stop * (stop + 1) - start * (start + 1)) // 2 if self.causal else len(self.queries) * self.keys

    @property
    def square(self) -> bool:
        """Whether blocks of a pooled picture form a triangle too."""
        return self.causal and self.queries.start == 0

    def blocks(self, pool: int) -> int:
        """Cells of one head's pooled picture."""
        rows, columns = min(pool, len(self.queries)), min(pool, self.keys)
        return rows * (rows + 1) // 2 if self.square else rows * columns

    @property
    def exact_bytes(self) -> int:
        """Bytes of the queries, keys, visible runs and, if needed, scores of the exact heads."""
        each = (len(self.queries) + self.keys) * self.info.head_dim * 4 + 8 * len(self.queries)
        return len(self.exact) * (each + (len(self.queries) * self.keys * 4 if self.finished else 0))

    @property
    def size(self) -> int:
        """Bytes of the whole layer."""
        pooled = self.blocks(self.pool) if self.pool else 0
        return len(self.whole) * self.cells + (len(self.heads) - len(self.whole)) * pooled + self.exact_bytes


def plan(
    traces: Mapping[str, Trace],
    layers: int | Sequence[int] | None,
    heads: int | Sequence[int] | None,
    rows: tuple[int, int] | None,
    exact: Sequence[Head] | None,
    pool: int | None,
    budget: int,
) -> list[LayerPlan]:
    """Decide what goes into a page; see `gentrace.explorer.explorer.explore` for the arguments.

    Raises:
        ViewError: If no trace has such a layer, head or row.
        ViewBudgetError: If it would be too much; nothing of that size was allocated.
    """
    wanted: set[tuple[int, int, Kind]] = {(one[0], one[1], one[2] if len(one) == 3 else "self") for one in exact or ()}
    plans = _plan_all(traces, layers, heads, rows, wanted)
    known = {(one.info.index, head, one.info.kind) for one in plans for head in one.heads}
    if wanted - known:
        layer, head, kind = min(wanted - known)
        change = "name heads that the page shows, as (layer, head) or (layer, head, kind)"
        raise ViewError(f"making head {head} of layer {layer} ({kind}) exact", "the page does not have it", change)
    fitted = _fit(plans, pool, budget)
    return _with_vectors(fitted, budget) if exact is None else fitted


def _first(plans: Sequence[LayerPlan], trace: int = 0) -> int:
    """The place of the layer of a trace that a page shows first: its last, of cross-attention where it has any."""
    own = [(at, one.info.kind) for at, one in enumerate(plans) if one.place == trace]
    kind = "cross" if "cross" in {kind for _, kind in own} else "self"
    return max((at for at, each in own if each == kind), default=own[0][0])


def _with_vectors(plans: list[LayerPlan], budget: int) -> list[LayerPlan]:
    """Of the layer that each trace shows first one head with its queries and keys, if these were seen and still fit."""
    done = list(plans)
    left = budget - sum(one.size for one in plans)
    for trace in sorted({one.place for one in plans}):
        place = _first(plans, trace)
        added = replace(plans[place], exact=plans[place].heads[:1])
        if added.info.head_dim and added.exact_bytes <= left:
            done[place] = added
            left -= added.exact_bytes
    return done


def plan_asked(
    traces: Mapping[str, Trace],
    layers: int | Sequence[int] | None = None,
    heads: int | Sequence[int] | None = None,
    rows: tuple[int, int] | None = None,
) -> list[LayerPlan]:
    """Decide what a page shows that asks for its numbers: every head small enough to send, and exact where looked at.

    Raises:
        ViewError: If no trace has such a layer, head or row.
        ViewBudgetError: If a text is longer than a page can lay out.
    """
    plans = _plan_all(traces, layers, heads, rows, set())
    return [one if max(len(one.queries), one.keys) <= TILE else _pooled(one, TILE, False, False) for one in plans]


def one_page(traces: Mapping[str, Trace], layers: int | Sequence[int] | None = None) -> bool:
    """Whether one page holds every cell of these layers.

    Raises:
        ViewError: If no trace has such a layer.
    """
    try:
        return sum(one.size for one in _plan_all(traces, layers, None, None, set())) <= BUDGET
    except ViewBudgetError:
        return False


def block_edges(length: int, size: int) -> list[int]:
    """Where each of at most ``size`` blocks of an axis starts, and one past the end of the last, as a trace has it."""
    count = min(length, size)
    width, longer = divmod(length, count)
    return list(accumulate((width + (block < longer) for block in range(count)), initial=0))


def _plan_all(
    traces: Mapping[str, Trace],
    layers: int | Sequence[int] | None,
    heads: int | Sequence[int] | None,
    rows: tuple[int, int] | None,
    wanted: set[tuple[int, int, Kind]],
) -> list[LayerPlan]:
    """Every chosen layer, whole."""
    plans: list[LayerPlan] = []
    for place, trace in enumerate(traces.values()):
        shown = choose_rows(trace, rows)
        if max(shown.stop, trace.encoder_length) > POSITIONS:
            change = "choose earlier rows with rows=(start, stop)"
            raise ViewBudgetError("making a page", f"{shown.stop:,} tokens; at most {POSITIONS:,} fit", change)
        infos = _choose_layers(trace, layers)
        plans += [_plan_layer(trace, place, info, choose_heads(info, heads), shown, wanted) for info in infos]
    return plans


def _choose_layers(trace: Trace, layers: int | Sequence[int] | None) -> list[LayerInfo]:
    wanted = {layers} if isinstance(layers, int) else None if layers is None else set(layers)
    chosen = [info for info in trace.layers if wanted is None or info.index in wanted]
    missing = sorted((wanted or set()) - {info.index for info in chosen})
    if missing or not chosen:
        check_recorded(trace, "showing a trace")
        known = ", ".join(map(str, sorted({info.index for info in trace.layers})))
        attempted = f"showing layer {missing[0]}" if missing else "showing a trace"
        raise ViewError(attempted, f"layers recorded: {known}", "choose some of them with layers=")
    return chosen


def _plan_layer(
    trace: Trace, place: int, info: LayerInfo, heads: tuple[int, ...], rows: range, wanted: set[tuple[int, int, Kind]]
) -> LayerPlan:
    count, keys = trace.counts(info)
    visible = derive.visible_keys(trace, info)
    causal = info.kind == "self" and bool((visible.stop <= torch.arange(1, count + 1)).all())
    return LayerPlan(
        place=place,
        info=info,
        heads=heads,
        queries=range(count) if info.kind == "encoder" else rows,
        keys=rows.stop if causal else keys,
        causal=causal,
        whole=frozenset(heads),
        pool=None,
        exact=tuple(head for head in heads if (info.index, head, info.kind) in wanted),
        finished=len(visible.rows) > 0 or any(derive.has(trace, info, what) for what in ("bias", "scores")),
    )


def _fit(plans: list[LayerPlan], pool: int | None, budget: int) -> list[LayerPlan]:
    """All cells if they fit, else blocks for what is not shown first."""
    size = sum(one.size for one in plans)
    if size <= budget:
        return plans
    exact = sum(one.exact_bytes for one in plans)
    if pool != 0:
        first = _first(plans)
        for keep_layer, keep_exact in ((True, True), (False, True), (False, False)):
            for blocks in POOLS if pool is None else (pool,):
                fitted = [
                    _pooled(one, blocks, keep_layer and place == first, keep_exact) for place, one in enumerate(plans)
                ]
                if sum(one.size for one in fitted) <= budget:
                    return fitted
    matrices = sum(len(one.heads) for one in plans)
    smaller = "a smaller pool=, " if pool else "pooling with pool=None, " if pool == 0 else ""
    raise ViewBudgetError(
        f"making a page of {matrices} matrices with up to {max(len(one.queries) for one in plans):,} rows",
        f"{size:,} bytes, {exact:,} of them for exact heads; at most {budget:,} fit",
        f"choose {smaller}fewer layers with layers=, fewer heads with heads=, fewer rows with rows=(start, stop), "
        "fewer exact heads with exact=, or raise max_bytes=",
    )


def _pooled(one: LayerPlan, blocks: int, keep_layer: bool, keep_exact: bool) -> LayerPlan:
    if keep_layer or one.blocks(blocks) >= one.cells:
        return one
    return replace(one, whole=frozenset(one.exact if keep_exact else ()), pool=blocks)
