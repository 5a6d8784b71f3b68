"""Where a row's information comes from when it may pass through other positions on its way up.

Both measures see the model as layers of averaged heads beside a residual connection, that is, with Ā the mean over a
layer's heads, as A = r I + (1 − r) Ā, r = 1/2. That is all they see: feed-forward layers, values and layers without
softmax attention are taken for straight connections. A row that a layer never saw, or that sees nothing there, keeps
what it has. Row p is token p looking back; it predicts token p + 1.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from gentrace.analysis.blocks import Block, Queries, blocks, check_size, layers_of, rows_of
from gentrace.analysis.errors import MeasureError
from gentrace.analysis.measure import Array, Measure
from gentrace.analysis.registry import register
from gentrace.trace.info import Kind, LayerInfo
from gentrace.trace.trace import Trace

UNIT_FLOW = 2**30
"""Whole numbers that stand for a capacity of 1. Each capacity is off by at most 2⁻³¹, a flow by at most that times the
edges of its narrowest cut."""
LARGEST_FLOW = 3e8
"""Edges times pairs of one `attention_flow`: the order of a minute."""


@register
def attention_rollout(
    trace: Trace,
    *,
    layers: Sequence[int] | None = None,
    kind: Kind = "self",
    queries: Queries = "all",
    residual: float = 0.5,
) -> Measure:
    """How much of each input position a row of the top layer holds, if layers mix positions as they attend.

    The product of all layers' matrices A, as in Abnar & Zuidema 2020, "Quantifying Attention Flow in Transformers",
    section 3. Each row sums to 1; with learned sinks Ā is divided by its sum first. The product is taken from the top,
    so that few rows of a long text need little memory.

    Args:
        trace: The trace.
        layers: The layers to go through, or None for all that were recorded; the highest is the top.
        kind: Which attention, "self" or "encoder".
        queries: Which rows of the top layer.
        residual: The share r of the residual connection, 0 … 1.

    Returns:
        ``[query, key]``, a share of the row, 0 … 1; NaN in rows that the top layer never saw.

    Raises:
        AttentionUnavailable: If a layer was not recorded.
        MeasureError: If the rows do not exist, the result would be too big, or the kind is "cross".
    """
    chosen, rows, count = _stack(trace, "attention_rollout", layers, kind, queries, residual)
    check_size("attention_rollout", len(rows) * count)
    share = torch.zeros(len(rows), count, dtype=torch.float64)
    share[torch.arange(len(rows)), torch.arange(rows.start, rows.stop)] = 1
    missing = torch.zeros(len(rows), dtype=torch.bool)
    for info in reversed(chosen):
        below = torch.zeros_like(share)
        for block in blocks(trace, info, range(count)):
            part = share[:, block.queries.start : block.queries.stop]
            mixing, unseen = _mixing(block, residual)
            below += part @ mixing
            if info is chosen[-1]:
                inside = [query for query in block.queries if query in rows]
                at = torch.tensor(inside, dtype=torch.long)
                missing[at - rows.start] = unseen[at - block.queries.start]
        share = below
    share[missing] = torch.nan
    return Measure(
        "attention_rollout",
        share.numpy(),
        ("query", "key"),
        "share",
        {"query": tuple(rows), "key": tuple(range(count))},
        int(missing.sum()),
    )


@register
def attention_flow(
    trace: Trace,
    *,
    layers: Sequence[int] | None = None,
    kind: Kind = "self",
    queries: Queries | None = None,
    residual: float = 0.5,
    normalize: bool = True,
) -> Measure:
    """How much could at most flow from each input position to a row of the top layer, attention being the pipes' width.

    Maximum flow through a network with a node for each layer and position and the matrices A as capacities, as in Abnar
    & Zuidema 2020, "Quantifying Attention Flow in Transformers", section 3. One flow is found for each pair of a row
    and an input position by SciPy's ``maximum_flow`` (Dinic's algorithm) over whole numbers of 2⁻³⁰.

    Args:
        trace: The trace.
        layers: The layers to go through, or None for all that were recorded; the highest is the top.
        kind: Which attention, "self" or "encoder".
        queries: Which rows of the top layer; the last one if None, for each costs many flows.
        residual: The share r of the residual connection, 0 … 1.
        normalize: Divide each row by its sum, as the authors' code does; False gives the flows themselves.

    Returns:
        ``[query, key]``, a share of the row, or a flow, 0 … 1; NaN in rows that the top layer never saw.

    Raises:
        AttentionUnavailable: If a layer was not recorded.
        MeasureError: If the rows do not exist, it would take very long, or the kind is "cross".
    """
    from scipy.sparse.csgraph import maximum_flow

    last = trace.encoder_length if kind == "encoder" else trace.length
    wanted = (max(last - 1, 0), last) if queries is None else queries
    chosen, rows, count = _stack(trace, "attention_flow", layers, kind, wanted, residual)
    flows, missing = np.zeros((len(rows), count)), np.zeros(len(rows), dtype=bool)
    if len(rows):
        _check_flow(len(chosen), len(rows), count)
        graph, unseen = _network(trace, chosen, count, residual)
        missing = unseen[rows.start : rows.stop]
        top = len(chosen) * count
        for place, query in enumerate(rows):
            reached = np.flatnonzero(_reached(graph, top + query, count))
            for key in reached:
                flow = maximum_flow(graph, top + query, int(key), method="dinic").flow_value
                flows[place, key] = flow / UNIT_FLOW
    if normalize:
        flows /= flows.sum(-1, keepdims=True)
    flows[missing] = np.nan
    labels = {"query": tuple(rows), "key": tuple(range(count))}
    unit = "share" if normalize else "flow"
    return Measure("attention_flow", flows, ("query", "key"), unit, labels, int(missing.sum()))


def _stack(
    trace: Trace, name: str, layers: Sequence[int] | None, kind: Kind, queries: Queries, residual: float
) -> tuple[list[LayerInfo], range, int]:
    """The layers, the rows of the top one, and how many positions there are."""
    if kind == "cross":
        raise MeasureError(f"measuring {name}", "cross-attention leads into another text", "use self or encoder")
    if not 0 <= residual <= 1:
        raise MeasureError(f"measuring {name}", f"residual={residual}", "give a share, 0 … 1")
    chosen = layers_of(trace, layers, kind)
    return chosen, rows_of(trace, queries, kind), trace.counts(chosen[0])[1]


def _mixing(block: Block, residual: float) -> tuple[Float64[Tensor, "query key"], Tensor]:
    """The block's rows of A, and which of them were never seen."""
    mean = block.weights.mean(0)
    total = mean.sum(-1)
    unseen = total.isnan()
    straight = unseen | (total == 0)
    identity = torch.zeros_like(mean)
    identity[torch.arange(len(mean)), torch.arange(block.queries.start, block.queries.stop)] = 1
    mixed = residual * identity + (1 - residual) * mean / total[:, None]
    return torch.where(straight[:, None], identity, mixed), unseen


def _network(trace: Trace, chosen: list[LayerInfo], count: int, residual: float) -> tuple[Any, np.ndarray]:
    """Capacities as a sparse matrix; node ``layer * count + position``, layer 0 being the input.

    Also which rows the top layer never saw.
    """
    from scipy.sparse import csr_array

    sources: list[np.ndarray] = []
    targets: list[np.ndarray] = []
    widths: list[np.ndarray] = []
    missing = np.zeros(count, dtype=bool)
    for level, info in enumerate(chosen):
        for block in blocks(trace, info, range(count)):
            mixing, unseen = _mixing(block, residual)
            if info is chosen[-1]:
                missing[block.queries.start : block.queries.stop] = unseen.numpy()
            capacity = np.rint(mixing.numpy() * UNIT_FLOW).astype(np.int32)
            query, key = capacity.nonzero()
            sources.append((level + 1) * count + block.queries.start + query)
            targets.append(level * count + key)
            widths.append(capacity[query, key])
    nodes = (len(chosen) + 1) * count
    places = np.concatenate(sources).astype(np.int32), np.concatenate(targets).astype(np.int32)
    return csr_array((np.concatenate(widths), places), shape=(nodes, nodes)), missing


def _reached(graph: Any, source: int, count: int) -> Array:
    """[key] input positions to which there is any way."""
    from scipy.sparse.csgraph import breadth_first_order

    order = breadth_first_order(graph, source, directed=True, return_predecessors=False)
    reached = np.zeros(count)
    reached[order[order < count]] = 1
    return reached


def _check_flow(layers: int, rows: int, count: int) -> None:
    work = float(layers) * count * count / 2 * rows * count
    if work > LARGEST_FLOW:
        raise MeasureError(
            "measuring attention_flow",
            f"{rows * count:,} flows through {layers * count * count // 2:,} edges",
            "choose fewer queries or layers, or a shorter text",
        )
