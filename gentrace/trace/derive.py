"""Attention and scores out of what a trace holds, when somebody asks for them.

A trace holds queries and keys; what is asked for is often one row, a window or a small picture of a long text. All of
it is made in tiles (see `gentrace.stitch.tiles`), so that what is computed and kept is what was asked for and not the
matrix that it is a part of.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from gentrace.axes import Matrices, Matrix
from gentrace.errors import AttentionUnavailable
from gentrace.stitch.mask import VisibleKeys
from gentrace.stitch.scores import ScoreRule, ScoreTerms, dot_products, log_denominator, scores_from, weights_from
from gentrace.stitch.tiles import ScoreSource, StoredSource, VectorSource, block_edges, masked, overview_of, window_of
from gentrace.trace.info import LayerInfo

if TYPE_CHECKING:
    from gentrace.trace.trace import Trace

What = Literal["weights", "scores"]
"""Attention weights, or the scores that went into softmax."""


@dataclass(frozen=True, slots=True, eq=False)
class Overview:
    """One head's matrix made small by taking the largest entry of each block."""

    values: Matrix
    """[query_block, key_block] largest entry of the block; of weights 0 and of scores −inf where all of it is masked,
    NaN where none of its rows was seen."""
    query_edges: tuple[int, ...]
    """Position at which each block of rows starts, and one past the end of the last: one more than there are blocks."""
    key_edges: tuple[int, ...]
    """The same of columns."""


def has(trace: "Trace", info: LayerInfo, what: str) -> bool:
    """Whether the store holds a tensor of a layer."""
    return info.tensor(what) in set(trace.store.names())


def window(
    trace: "Trace",
    info: LayerInfo,
    head: int | None,
    what: What,
    queries: slice | range | None,
    keys: slice | range | None,
    device: torch.device | str | None,
) -> Matrices | Matrix:
    """Some rows and columns of one head or of all; see `Trace.attention` and `Trace.scores`."""
    if head is not None:
        _check_head(info, head)
    counts = trace.counts(info)
    rows, columns = _positions(info, "queries", queries, counts[0]), _positions(info, "keys", keys, counts[1])
    visible = visible_keys(trace, info)
    heads = [head] if head is not None or not _differ_by_head(trace, info) else list(range(info.heads))
    weights = what == "weights"
    found = masked(info.heads if head is None else 1, rows, columns, weights=weights)
    for place, one in enumerate(heads):
        part = found if len(heads) == 1 else found[place : place + 1]
        window_of(_source(trace, info, one, visible, device), rows, columns, weights=weights, out=part)
    found.index_fill_(1, _unseen(visible)[rows].nonzero().flatten(), torch.nan)
    return found if head is None else found[0]


def overview(
    trace: "Trace", info: LayerInfo, head: int, size: int, what: What, device: torch.device | str | None
) -> Overview:
    """One head's matrix made small; see `Trace.overview`."""
    _check_head(info, head)
    if size < 1:
        raise AttentionUnavailable(
            f"making an overview of layer {info.index}", f"size={size}", "give the number of blocks, 1 or more"
        )
    rows, columns = (block_edges(count, size) for count in trace.counts(info))
    visible = visible_keys(trace, info)
    values = overview_of(_source(trace, info, head, visible, device), rows, columns, weights=what == "weights")
    unseen = _unseen(visible)
    for block, (start, stop) in enumerate(pairwise(rows)):
        if bool(unseen[start:stop].all()):
            values[block] = torch.nan
    return Overview(values, rows, columns)


def terms(trace: "Trace", info: LayerInfo, head: int, query: int) -> ScoreTerms:
    """One query row of one head, term by term; see `Trace.score_terms`."""
    _check_head(info, head)
    count = trace.counts(info)[0]
    if not 0 <= query < count:
        raise AttentionUnavailable(
            f"reading row {query} of layer {info.index}", f"the trace has rows 0 … {count - 1}", "choose one of them"
        )
    if has(trace, info, "scores"):
        return _terms_of_scores(info, trace.store.slab(info.tensor("scores"), head)[query].float())
    row = slice(query, query + 1)
    keys = trace.store.slab(info.tensor("keys"), _kv_head(info, head))[None]
    bias = _bias(trace, info, head)
    bias_row = None if bias is None else bias[:, row].float()
    visible = visible_keys(trace, info).dense(keys.shape[1], row)
    rule, queries = _rule(info, head), trace.store.slab(info.tensor("queries"), head)[None, row]
    score = scores_from(queries, keys, visible, rule, bias_row)
    return ScoreTerms(
        dot=dot_products(queries, keys)[0, 0],
        scale=rule.scale,
        bias=torch.zeros(keys.shape[1]) if bias_row is None else bias_row[0, 0],
        softcap=rule.softcap,
        visible=visible[0],
        score=score[0, 0],
        sink=None if rule.sinks is None else float(rule.sinks[0]),
        logsumexp=float(log_denominator(score, rule.sinks)[0, 0]),
        weight=weights_from(score, rule.sinks)[0, 0],
    )


def visible_keys(trace: "Trace", info: LayerInfo) -> VisibleKeys:
    """The mask of a layer; a row that was never seen has the run (−1, −1)."""
    prefix = f"masks.{trace.masks[info.index, info.kind]}"
    return VisibleKeys(*(trace.store.tensor(f"{prefix}.{part}") for part in ("start", "stop", "rows", "bits")))


def _terms_of_scores(info: LayerInfo, score: Tensor) -> ScoreTerms:
    """The terms of a row of which only the finished scores are known."""
    unknown = torch.full_like(score, torch.nan)
    return ScoreTerms(
        dot=unknown,
        scale=info.scale,
        bias=unknown,
        softcap=info.softcap,
        visible=score > -torch.inf,
        score=score,
        sink=None,
        logsumexp=float(score.logsumexp(-1)),
        weight=weights_from(score[None, None])[0, 0],
    )


def _positions(info: LayerInfo, axis: str, chosen: slice | range | None, count: int) -> slice:
    """A window's side as plain start and stop.

    Raises:
        AttentionUnavailable: If it leaves positions out, or is a range that goes beyond the trace.
    """
    if chosen is None:
        return slice(0, count)
    step = 1 if chosen.step is None else chosen.step
    inside = isinstance(chosen, slice) or not len(chosen) or (chosen.start >= 0 and chosen.stop <= count)
    if step != 1 or not inside:
        raise AttentionUnavailable(
            f"reading a window of layer {info.index}",
            f"{axis}={chosen!r} of {count} positions",
            "give a slice, or a range inside the trace, of step 1",
        )
    start, stop, _ = chosen.indices(count) if isinstance(chosen, slice) else (chosen.start, chosen.stop, 1)
    return slice(start, max(start, stop))


def _differ_by_head(trace: "Trace", info: LayerInfo) -> bool:
    """Whether a layer stores something of the matrices' own size for each head, of which one is read at a time."""
    if has(trace, info, "scores"):
        return True
    return has(trace, info, "bias") and trace.store.shape(info.tensor("bias"))[0] > 1


def _source(
    trace: "Trace", info: LayerInfo, head: int | None, visible: VisibleKeys, device: torch.device | str | None
) -> ScoreSource:
    """What makes the scores of one head (a first axis of 1) or of all."""
    rule = _rule(info, head)
    if head is None:
        vectors = [trace.store.tensor(info.tensor(what)) for what in ("queries", "keys")]
    elif has(trace, info, "scores"):
        return StoredSource(trace.store.slab(info.tensor("scores"), head)[None], rule.sinks, device)
    else:
        vectors = [
            trace.store.slab(info.tensor(what), place)[None]
            for what, place in (("queries", head), ("keys", _kv_head(info, head)))
        ]
    return VectorSource(vectors[0], vectors[1], visible, rule, _bias(trace, info, head), device)


def _kv_head(info: LayerInfo, head: int) -> int:
    return head * info.kv_heads // info.heads


def _bias(trace: "Trace", info: LayerInfo, head: int | None) -> Tensor | None:
    """``[1, query, key]`` what is added to the scores of a head, or of all heads if they share it; None for nothing."""
    if not has(trace, info, "bias"):
        return None
    shared = trace.store.shape(info.tensor("bias"))[0] == 1
    return trace.store.slab(info.tensor("bias"), 0 if shared or head is None else head)[None]


def _rule(info: LayerInfo, head: int | None) -> ScoreRule:
    sinks = None if info.sinks is None else torch.tensor(info.sinks)
    if sinks is not None and head is not None:
        sinks = sinks[head : head + 1]
    return ScoreRule(info.scale, info.softcap, sinks)


def _unseen(visible: VisibleKeys) -> Tensor:
    """[query] which rows were not recorded."""
    return visible.start < 0


def _check_head(info: LayerInfo, head: int) -> None:
    if not 0 <= head < info.heads:
        raise AttentionUnavailable(
            f"reading head {head} of layer {info.index}",
            f"the layer has heads 0 … {info.heads - 1}",
            "choose one of them",
        )
