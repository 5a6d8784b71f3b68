"""What single rows of attention look like: how spread out they are, how far they reach, how much sinks take.

Row p is token p looking back at keys 0 … p; it predicts token p + 1. Each function takes

* ``layers``: the model's own layer numbers, or None for all that were recorded;
* ``kind``: which attention, "self", "cross" or "encoder";
* ``queries``: which rows, "all", "generated" or (first, one past the last);

and gives ``[layer, head, query]``, NaN in rows that were never seen and in rows of a head that see nothing. In layers
with learned sinks the weights of a row sum to less than 1.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from gentrace.analysis.blocks import Block, Queries, per_row
from gentrace.analysis.errors import MeasureError
from gentrace.analysis.measure import Measure
from gentrace.analysis.registry import register
from gentrace.analysis.units import Unit, per_unit
from gentrace.trace.info import Kind
from gentrace.trace.trace import Trace


@register
def attention_entropy(
    trace: Trace,
    *,
    layers: Sequence[int] | None = None,
    kind: Kind = "self",
    queries: Queries = "all",
    unit: Unit = "nats",
) -> Measure:
    """How spread out each row is: −Σ a ln a over its keys, between 0 and the logarithm of the number of visible keys.

    As in Clark et al. 2019, "What Does BERT Look At?", section 3.3. With learned sinks it is the entropy of where the
    head looks if it looks at a token at all: weights are divided by their sum.

    Args:
        trace: The trace.
        layers: Layer numbers, or None for all.
        kind: Which attention.
        queries: Which rows.
        unit: "nats" or "bits".

    Returns:
        ``[layer, head, query]`` in the unit.

    Raises:
        AttentionUnavailable: If a layer was not recorded.
        MeasureError: If the rows or the unit do not exist.
    """
    factor = per_unit(unit)

    def reduce(block: Block) -> Tensor:
        share = block.weights / block.weights.sum(-1, keepdim=True)
        return torch.special.entr(share).sum(-1) * factor

    return per_row(trace, "attention_entropy", unit, reduce, layers=layers, kind=kind, queries=queries)


@register
def mean_distance(
    trace: Trace, *, layers: Sequence[int] | None = None, kind: Kind = "self", queries: Queries = "all"
) -> Measure:
    """How far back each row looks: Σ a |query − key|, 0 for a token that looks at itself alone.

    As in Vig & Belinkov 2019, "Analyzing the Structure of Attention in a Transformer Language Model", for
    one row at a time. With learned sinks the weights are divided by their sum.

    Args:
        trace: The trace.
        layers: Layer numbers, or None for all.
        kind: Which attention, "self" or "encoder".
        queries: Which rows.

    Returns:
        ``[layer, head, query]`` in tokens.

    Raises:
        AttentionUnavailable: If a layer was not recorded.
        MeasureError: If the rows do not exist, or the kind is "cross", whose keys are positions of another text.
    """
    if kind == "cross":
        raise MeasureError("measuring mean_distance", "keys of cross-attention are in another text", "use self")

    def reduce(block: Block) -> Tensor:
        query = torch.arange(block.queries.start, block.queries.stop)[:, None]
        distance = (query - torch.arange(block.weights.shape[-1])).abs().double()
        return torch.einsum("hqk,qk->hq", block.weights, distance) / block.weights.sum(-1)

    return per_row(trace, "mean_distance", "tokens", reduce, layers=layers, kind=kind, queries=queries)


@register
def first_token_mass(
    trace: Trace,
    *,
    layers: Sequence[int] | None = None,
    kind: Kind = "self",
    queries: Queries = "all",
    tokens: int = 1,
) -> Measure:
    """Attention to the first tokens, on which heads that look for nothing in particular rest.

    The attention sink of Xiao et al. 2024, "Efficient Streaming Language Models with Attention Sinks", section 3.1.
    Row 0 sees only key 0, so that its mass is 1 whatever the head does.

    Args:
        trace: The trace.
        layers: Layer numbers, or None for all.
        kind: Which attention.
        queries: Which rows.
        tokens: How many keys count as first; the paper keeps 4.

    Returns:
        ``[layer, head, query]``, a share of attention, 0 … 1.

    Raises:
        AttentionUnavailable: If a layer was not recorded.
        MeasureError: If the rows do not exist or ``tokens`` is negative.
    """
    if tokens < 0:
        raise MeasureError("measuring first_token_mass", f"tokens={tokens}", "give 0 or more")

    def reduce(block: Block) -> Tensor:
        return block.weights[..., :tokens].sum(-1)

    return per_row(trace, "first_token_mass", "share", reduce, layers=layers, kind=kind, queries=queries)


@register
def learned_sink_mass(
    trace: Trace, *, layers: Sequence[int] | None = None, kind: Kind = "self", queries: Queries = "all"
) -> Measure:
    """What a learned sink takes from each row: one minus the sum of the row's weights; 0 in layers without sinks.

    Such a sink is one more logit in the softmax that stands for no token, as in OpenAI 2025, "gpt-oss-120b &
    gpt-oss-20b Model Card", section 2.2.

    Args:
        trace: The trace.
        layers: Layer numbers, or None for all.
        kind: Which attention.
        queries: Which rows.

    Returns:
        ``[layer, head, query]``, a share of attention, 0 … 1.

    Raises:
        AttentionUnavailable: If a layer was not recorded.
        MeasureError: If the rows do not exist.
    """

    def reduce(block: Block) -> Tensor:
        total = block.weights.sum(-1)
        return torch.zeros_like(total) if block.layer.sinks is None else (1 - total).clamp_min(0)

    return per_row(trace, "learned_sink_mass", "share", reduce, layers=layers, kind=kind, queries=queries)


@register
def sink_mass(
    trace: Trace,
    *,
    layers: Sequence[int] | None = None,
    kind: Kind = "self",
    queries: Queries = "all",
    tokens: int = 1,
) -> Measure:
    """What sinks of both sorts take from each row: `first_token_mass` plus `learned_sink_mass`.

    Args:
        trace: The trace.
        layers: Layer numbers, or None for all.
        kind: Which attention.
        queries: Which rows.
        tokens: How many keys count as first.

    Returns:
        ``[layer, head, query]``, a share of attention, 0 … 1.

    Raises:
        AttentionUnavailable: If a layer was not recorded.
        MeasureError: If the rows do not exist or ``tokens`` is negative.
    """
    if tokens < 0:
        raise MeasureError("measuring sink_mass", f"tokens={tokens}", "give 0 or more")

    def reduce(block: Block) -> Tensor:
        first = block.weights[..., :tokens].sum(-1)
        return first if block.layer.sinks is None else 1 - block.weights.sum(-1) + first

    return per_row(trace, "sink_mass", "share", reduce, layers=layers, kind=kind, queries=queries)
