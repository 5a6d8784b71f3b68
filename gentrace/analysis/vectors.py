"""Attention weighted by what it moves: a large weight on a short value vector carries little.

Needs traces recorded with ``values=True``. Row p is token p looking back; it predicts token p + 1.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from gentrace.analysis.blocks import Queries, blocks, check_size, layers_of, rows_of
from gentrace.analysis.errors import MeasureError
from gentrace.analysis.measure import Measure
from gentrace.analysis.registry import register
from gentrace.trace.info import Kind, LayerInfo
from gentrace.trace.trace import Trace

Projections = Mapping[int, Float[Tensor, "hidden inner"]]
"""For each layer the weight of its output projection, ``[hidden, head * value_dim]`` as in ``torch.nn.Linear``; the
transpose of GPT-2's ``Conv1D``."""


@register
def value_norms(
    trace: Trace,
    *,
    layers: Sequence[int] | None = None,
    kind: Kind = "self",
    output: Projections | None = None,
) -> Measure:
    """How long the vector is that each key offers to each head.

    ‖f(x)‖ of Kobayashi et al. 2020, "Attention is Not Only a Weight", section 3. There f(x) = (x W_V + b_V) W_O. What
    a trace holds is v = x W_V + b_V as it entered the kernel; without ``output`` the norm is ‖v‖, with it ‖v W_O‖, W_O
    being the head's own part of the output projection. The projection's bias belongs to no head and is left out.

    Args:
        trace: A trace recorded with ``values=True``.
        layers: Layer numbers, or None for all.
        kind: Which attention.
        output: Output projections by layer, or None to leave them out.

    Returns:
        ``[layer, head, key]`` in the model's own units of length.

    Raises:
        AttentionUnavailable: If a layer or its values were not recorded.
        MeasureError: If a projection is missing or does not fit.
    """
    chosen = layers_of(trace, layers, kind)
    heads, keys = max(info.heads for info in chosen), trace.counts(chosen[0])[1]
    check_size("value_norms", len(chosen) * heads * keys)
    values = np.full((len(chosen), heads, keys), np.nan)
    for place, info in enumerate(chosen):
        values[place, : info.heads] = _norms(trace, info, output).numpy()
    return Measure(
        "value_norms" if output is None else "projected_value_norms",
        values,
        ("layer", "head", "key"),
        "length",
        {"layer": tuple(info.index for info in chosen), "head": tuple(range(heads)), "key": tuple(range(keys))},
        absent=frozenset((info.index, head) for info in chosen for head in range(info.heads, heads)),
    )


@register
def value_weighted_attention(
    trace: Trace,
    *,
    layers: Sequence[int] | None = None,
    kind: Kind = "self",
    queries: Queries = "all",
    output: Projections | None = None,
    normalize: bool = False,
) -> Measure:
    """How much each key really gives to each row of a head: the norm of the weighted value vector, ‖a f(x)‖.

    As in Kobayashi et al. 2020, "Attention is Not Only a Weight", section 3; what f(x) contains is said at
    `value_norms`. A norm says how long a vector is, not whether others cancel it.

    Args:
        trace: A trace recorded with ``values=True``.
        layers: Layer numbers, or None for all.
        kind: Which attention.
        queries: Which rows.
        output: Output projections by layer, or None to leave them out.
        normalize: Divide each row by its sum, which makes it comparable with attention.

    Returns:
        ``[layer, head, query, key]`` in the model's own units of length, or shares; NaN in rows that were never seen
        or in which a head looks at nothing.

    Raises:
        AttentionUnavailable: If a layer or its values were not recorded.
        MeasureError: If the rows do not exist, the result would be too big, or a projection does not fit.
    """
    chosen, rows = layers_of(trace, layers, kind), rows_of(trace, queries, kind)
    heads, keys = max(info.heads for info in chosen), trace.counts(chosen[0])[1]
    shape = (len(chosen), heads, len(rows), keys)
    check_size("value_weighted_attention", int(np.prod(shape, dtype=np.int64)))
    values = np.full(shape, np.nan)
    unseen = blind = 0
    for place, info in enumerate(chosen):
        norms = _norms(trace, info, output)
        for block in blocks(trace, info, rows):
            total = block.weights.sum(-1)
            unseen += int(total.isnan().all(0).sum())
            blind += int((total == 0).any(0).sum())
            moved = block.weights * norms[:, None]
            if normalize:
                moved = moved / moved.sum(-1, keepdim=True)
            moved[total == 0] = torch.nan
            at = slice(block.queries.start - rows.start, block.queries.stop - rows.start)
            values[place, : info.heads, at] = moved.numpy()
    labels = {"layer": tuple(info.index for info in chosen), "head": tuple(range(heads))}
    return Measure(
        "value_weighted_attention",
        values,
        ("layer", "head", "query", "key"),
        "share" if normalize else "length",
        {**labels, "query": tuple(rows), "key": tuple(range(keys))},
        unseen,
        blind,
        frozenset((info.index, head) for info in chosen for head in range(info.heads, heads)),
    )


def _norms(trace: Trace, info: LayerInfo, output: Projections | None) -> Float64[Tensor, "head key"]:
    """The length of each key's value vector, for each query head."""
    vectors = trace.values(info.index, kind=info.kind).double()
    group = info.heads // info.kv_heads
    if output is None:
        return vectors.norm(dim=-1).repeat_interleave(group, 0)
    inner = info.heads * vectors.shape[-1]
    if info.index not in output or output[info.index].dim() != 2 or output[info.index].shape[1] != inner:
        seen = f"of shape {tuple(output[info.index].shape)}" if info.index in output else "none"
        raise MeasureError(
            f"projecting the values of layer {info.index}",
            f"its projection: {seen}, its {info.heads} heads have {vectors.shape[-1]} components each",
            f"give output={{{info.index}: weight of shape [hidden, {inner}]}}",
        )
    weight = output[info.index].detach().cpu().double().unflatten(1, (info.heads, -1))
    return torch.stack([(vectors[head // group] @ weight[:, head].T).norm(dim=-1) for head in range(info.heads)])
