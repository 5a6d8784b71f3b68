"""How a row's attention divides among parts of the text: what was given and what was generated, or any named spans.

Row p is token p looking back; it predicts token p + 1. A key is the token at its position, so the last sampled token of
a generation, which was never fed, is no key.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from gentrace.analysis.blocks import Block, Queries, key_tokens, per_row
from gentrace.analysis.errors import MeasureError
from gentrace.analysis.measure import Measure
from gentrace.analysis.registry import register
from gentrace.analysis.spans import SpanRequest, find_spans
from gentrace.trace.info import Kind
from gentrace.trace.trace import Trace


@register
def span_mass(
    trace: Trace,
    spans: SpanRequest = "prompt",
    *,
    layers: Sequence[int] | None = None,
    kind: Kind = "self",
    queries: Queries = "all",
    rest: str | None = "other",
) -> Measure:
    """Each row's attention to each span of the text: the sum of its weights there.

    As Clark et al. 2019, "What Does BERT Look At?", section 3.2, do for separators, with any parts of the text. Over
    spans that share no token, and the rest, a row sums to 1, or to one minus what a learned sink takes. A span without
    tokens, or one that lies after the row, gets 0.

    Args:
        trace: The trace.
        spans: "prompt" (prompt and generated), "roles" (of a chat), or spans by name; see `find_spans`. Of "cross" and
            "encoder" they are spans of the encoder's tokens.
        layers: Layer numbers, or None for all.
        kind: Which attention.
        queries: Which rows.
        rest: Name for the keys that are in no span; None leaves them out.

    Returns:
        ``[layer, head, query, span]``, a share of attention, 0 … 1.

    Raises:
        AttentionUnavailable: If a layer was not recorded.
        MeasureError: If the rows or spans do not exist, or two spans have one name.
    """
    tokens = key_tokens(trace, kind)
    found = find_spans(tokens, spans)
    keys = trace.length if kind == "self" else trace.encoder_length
    member = torch.zeros(keys, len(found) + (rest is not None), dtype=torch.float64)
    for place, span in enumerate(found):
        for run in span.ranges:
            member[run.start : run.stop, place] = 1
    if rest is not None:
        member[:, -1] = (member[:, :-1].sum(-1) == 0).double()
    names = (*(span.name for span in found), *([] if rest is None else [rest]))
    if len(set(names)) < len(names):
        raise MeasureError("measuring span_mass", f"names of spans: {', '.join(names)}", "give each its own name")

    def reduce(block: Block) -> Tensor:
        return block.weights @ member

    return per_row(trace, "span_mass", "share", reduce, layers=layers, kind=kind, queries=queries, more={"span": names})


@register
def lookback_ratio(
    trace: Trace,
    *,
    layers: Sequence[int] | None = None,
    queries: Queries = "generated",
    context: tuple[int, int] | None = None,
    per_token: bool = True,
) -> Measure:
    """Attention to the prompt against attention to what was generated: A(context) / (A(context) + A(new)).

    As in Chuang et al. 2024, "Lookback Lens", section 2, where A is the mean weight of a token in that part, so that
    a head that looks everywhere alike gets 1/2 however long the parts are. New tokens are those from
    ``prompt_length`` up to and with the row's own. The row that predicts the first generated token is the prompt's
    last; it has no new token to look at, so that it and all before it are NaN. So are rows that give nothing to both.
    Tokens that a sliding window hides count as tokens of weight 0.

    Args:
        trace: The trace.
        layers: Layer numbers, or None for all.
        queries: Which rows.
        context: First position of the context and one past the last, when it is not the whole prompt.
        per_token: False compares sums of weights instead of means.

    Returns:
        ``[layer, head, query]``, a ratio, 0 … 1; row p belongs to the prediction of token p + 1.

    Raises:
        AttentionUnavailable: If a layer was not recorded.
        MeasureError: If the rows do not exist or the context is not in the prompt.
    """
    prompt = trace.tokens.prompt_length
    start, stop = context if context is not None else (0, prompt)
    if not 0 <= start < stop <= prompt:
        raise MeasureError(
            "measuring lookback_ratio", f"context {start} … {stop} of a prompt of {prompt} tokens", "choose some inside"
        )

    def reduce(block: Block) -> Tensor:
        old = block.weights[..., start:stop].sum(-1)
        new = block.weights[..., prompt:].sum(-1)
        count = torch.arange(block.queries.start, block.queries.stop) - prompt + 1
        if per_token:
            old, new = old / (stop - start), new / count.clamp_min(1)
        return (old / (old + new)).masked_fill_(count < 1, torch.nan)

    return per_row(trace, "lookback_ratio", "ratio", reduce, layers=layers, kind="self", queries=queries)
