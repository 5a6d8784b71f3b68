"""Attention in blocks of rows: the one place where this room reads a trace's matrices.

Whatever is computed from attention is computed layer by layer and block by block, so that a long text needs no more
memory than a block and the result.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from gentrace.analysis.errors import MeasureError
from gentrace.analysis.measure import Label, Measure
from gentrace.errors import AttentionUnavailable
from gentrace.trace.info import Kind, LayerInfo
from gentrace.trace.tokens import Tokens
from gentrace.trace.trace import Trace

BLOCK = 2**22
"""Weights in a block: 32 MiB of float64."""
LARGEST = 2**26
"""Numbers in a result: 512 MiB."""

Queries: TypeAlias = Literal["all", "generated"] | tuple[int, int] | Sequence[int]
"""Which rows: all; those that predicted a generated token (row p predicts token p + 1, so the first of them is the
prompt's last token); or from a first row up to, without, a last one."""


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Some rows of one layer's attention."""

    layer: LayerInfo
    """The layer."""
    queries: range
    """The positions that look."""
    weights: Float64[Tensor, "head query key"]
    """[head, query, key] over all keys; 0 where masked, NaN in rows that were never seen."""


def layers_of(trace: Trace, layers: Sequence[int] | None, kind: Kind) -> list[LayerInfo]:
    """The layers asked for, in the order of their numbers; all that were recorded for None.

    Raises:
        AttentionUnavailable: If one was not recorded, or none is left.
    """
    if layers is None:
        found = [info for info in trace.layers if info.kind == kind]
    else:
        found = [trace.layer(index, kind) for index in sorted(set(layers))]
    if not found:
        recorded = ", ".join(f"{info.index} ({info.kind})" for info in trace.layers) or "none"
        raise AttentionUnavailable(
            f"measuring {kind} attention", f"layers recorded: {recorded}", "choose another kind or other layers"
        )
    return sorted(found, key=lambda info: info.index)


def rows_of(trace: Trace, queries: Queries, kind: Kind) -> range:
    """The rows asked for, as a range of positions.

    Raises:
        MeasureError: If the trace has no such rows.
    """
    count = trace.encoder_length if kind == "encoder" else trace.length
    if isinstance(queries, str):
        if queries == "all":
            return range(count)
        if queries == "generated" and kind != "encoder":
            tokens = trace.tokens
            stop = min(count, len(tokens) - 1)
            return range(min(max(tokens.prompt_length - 1, 0), stop), stop)
    elif len(queries) == 2 and 0 <= queries[0] <= queries[1] <= count:
        return range(*queries)
    raise MeasureError(
        f"choosing rows {queries!r} of {kind} attention",
        f"the trace has rows 0 … {count - 1}",
        'give "all", "generated" (not for an encoder) or (first, one past the last)',
    )


def key_tokens(trace: Trace, kind: Kind) -> Tokens:
    """The tokens that keys of this kind stand for."""
    if kind == "self":
        return trace.tokens
    tokens = trace.encoder_tokens
    if tokens is None:
        raise AttentionUnavailable(f"reading the keys of {kind} attention", "the model has no encoder", "use self")
    return tokens


def blocks(trace: Trace, layer: LayerInfo, queries: range) -> Iterator[Block]:
    """A layer's attention, some rows at a time.

    Args:
        trace: The trace.
        layer: One of its layers.
        queries: The rows.

    Yields:
        Blocks of at most `BLOCK` weights, or of one row.
    """
    keys = trace.counts(layer)[1]
    most = max(1, BLOCK // max(1, layer.heads * keys))
    for start in range(queries.start, queries.stop, most):
        part = range(start, min(start + most, queries.stop))
        yield Block(layer, part, trace.attention(layer.index, kind=layer.kind, queries=part).double())


def check_size(what: str, count: int) -> None:
    """Refuse a result that would fill the memory.

    Raises:
        MeasureError: If it has more than `LARGEST` numbers.
    """
    if count > LARGEST:
        raise MeasureError(
            f"measuring {what}",
            f"the result would hold {count:,} numbers, at most {LARGEST:,} are allowed",
            "choose fewer layers or queries",
        )


def per_row(
    trace: Trace,
    name: str,
    unit: str,
    reduce: Callable[[Block], Tensor],
    *,
    layers: Sequence[int] | None,
    kind: Kind,
    queries: Queries,
    more: Mapping[str, tuple[Label, ...]] | None = None,
) -> Measure:
    """A measure with a value for each row of each head.

    Args:
        trace: The trace.
        name: The measure's name.
        unit: Its unit.
        reduce: Gives a block's values, ``[head, query, *more]``.
        layers: Layer numbers, or None for all.
        kind: Which attention.
        queries: Which rows.
        more: Axes after ``layer, head, query``, with their labels.

    Returns:
        ``[layer, head, query, *more]``; NaN in rows that were never seen or in which a head looks at nothing.

    Raises:
        AttentionUnavailable: If a layer was not recorded.
        MeasureError: If the rows do not exist or the result would be too big.
    """
    chosen, rows, more = layers_of(trace, layers, kind), rows_of(trace, queries, kind), dict(more or {})
    heads = max(info.heads for info in chosen)
    shape = (len(chosen), heads, len(rows), *map(len, more.values()))
    check_size(name, int(np.prod(shape, dtype=np.int64)))
    values = np.full(shape, np.nan)
    unseen = blind = 0
    for place, info in enumerate(chosen):
        for block in blocks(trace, info, rows):
            total = block.weights.sum(-1)
            nothing = total == 0
            unseen += int(total.isnan().all(0).sum())
            blind += int(nothing.any(0).sum())
            found = reduce(block)
            found[nothing | total.isnan()] = torch.nan
            at = slice(block.queries.start - rows.start, block.queries.stop - rows.start)
            values[place, : info.heads, at] = found.numpy()
    return Measure(
        name,
        values,
        ("layer", "head", "query", *more),
        unit,
        {
            "layer": tuple(info.index for info in chosen),
            "head": tuple(range(heads)),
            "query": tuple(rows),
            **more,
        },
        unseen,
        blind,
        frozenset((info.index, head) for info in chosen for head in range(info.heads, heads)),
    )
