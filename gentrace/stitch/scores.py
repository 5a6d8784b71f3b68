"""Scores and weights from queries and keys, in float32, with every term that a kernel may add on the way.

score = softcap(dot * scale) + bias where visible, −inf elsewhere; weight = softmax over the scores and, where a layer
has learned sinks, over one more logit whose share is then dropped.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float32
from torch import Tensor

from gentrace.axes import PerHead


@dataclass(frozen=True, slots=True)
class ScoreRule:
    """How a layer turns dot products into scores and weights."""

    scale: float
    """Factor on the dot product."""
    softcap: float | None = None
    """Bound c of ``c * tanh(score / c)``, if the layer has one."""
    sinks: Tensor | None = None
    """[head] logit of the learned sink, if the layer has one."""


@dataclass(frozen=True, slots=True, eq=False)
class ScoreTerms:
    """One query row of one head, term by term, so that the numbers can be added up by hand.

    ``weight = exp(score - logsumexp)``; where visible, ``score = softcap * tanh(dot * scale / softcap) + bias``, or
    ``dot * scale + bias`` for a layer without softcap.
    """

    dot: Float32[Tensor, " key"]
    """[key] query · key."""
    scale: float
    """Factor on the dot product."""
    bias: Float32[Tensor, " key"]
    """[key] added position bias; 0 where there is none."""
    softcap: float | None
    """Bound of the tanh, or None."""
    visible: Bool[Tensor, " key"]
    """[key] whether the mask lets the query look there."""
    score: Float32[Tensor, " key"]
    """[key] what went into softmax; −inf where masked."""
    sink: float | None
    """Logit of the learned sink, or None."""
    logsumexp: float
    """Log of the softmax denominator, sink included."""
    weight: Float32[Tensor, " key"]
    """[key] attention, 0 … 1."""


def dot_products(
    queries: Float[Tensor, "*batch head query dim"], keys: Float[Tensor, "*batch kv_head key dim"]
) -> Float32[Tensor, "*batch head query key"]:
    """Query · key for every pair, in float32.

    Args:
        queries: ``[head, query, dim]``, with any leading axes.
        keys: ``[kv_head, key, dim]``; each serves ``head / kv_head`` query heads in turn.
    """
    # Query heads that share keys are multiplied together, so that grouped-query attention copies no keys.
    *batch, heads, rows, dim = queries.shape
    kv_heads, columns = keys.shape[-3], keys.shape[-2]
    grouped = queries.float().reshape(*batch, kv_heads, heads // kv_heads * rows, dim)
    return (grouped @ keys.float().transpose(-1, -2)).reshape(*batch, heads, rows, columns)


def scores_from(
    queries: Float[Tensor, "*batch head query dim"],
    keys: Float[Tensor, "*batch kv_head key dim"],
    visible: Bool[Tensor, "#*batch query key"] | None,
    rule: ScoreRule,
    bias: Float[Tensor, "#*batch bias_head query key"] | None = None,
) -> Float32[Tensor, "*batch head query key"]:
    """What the layer fed to softmax.

    Args:
        queries: ``[head, query, dim]`` as they entered the kernel, with any leading axes.
        keys: ``[kv_head, key, dim]`` as they entered the kernel.
        visible: ``[query, key]`` which keys each query may see; None for all.
        rule: Scale, softcap and sinks.
        bias: ``[head or 1, query, key]`` position bias, if any.

    Returns:
        ``[head, query, key]``, −inf where masked.
    """
    scores = dot_products(queries, keys).mul_(rule.scale)
    if rule.softcap is not None:
        scores = scores.div_(rule.softcap).tanh_().mul_(rule.softcap)
    if bias is not None:
        scores += bias
    return scores if visible is None else scores.masked_fill_(~visible.unsqueeze(-3), -torch.inf)


def log_denominator(
    scores: Float32[Tensor, "*batch head query key"], sinks: PerHead | None
) -> Float32[Tensor, "*batch head query"]:
    """Log of the softmax denominator of each row, the sink's share included."""
    total = scores.logsumexp(-1)
    return total if sinks is None else torch.logaddexp(total, sinks.float()[:, None])


def weights_from(
    scores: Float32[Tensor, "*batch head query key"], sinks: PerHead | None = None, *, all_see: bool = False
) -> Float32[Tensor, "*batch head query key"]:
    """Softmax over scores; with sinks the rows sum to less than 1.

    Args:
        scores: ``[head, query, key]``, with any leading axes.
        sinks: ``[head]`` logits of learned sinks, if the layer has them.
        all_see: Whether every row is known to see something; else a row that sees nothing is 0.
    """
    if all_see and sinks is None:
        return scores.softmax(-1)
    top = scores.amax(-1, keepdim=True)
    if sinks is None:
        weights = scores.softmax(-1)
    else:
        logit = sinks.float()[:, None, None]
        top = torch.maximum(top, logit)
        weights = (scores - top).exp_()
        weights /= weights.sum(-1, keepdim=True) + (logit - top).exp()
    return weights.masked_fill_(top == -torch.inf, 0.0)


def attend(
    scores: Float32[Tensor, "*batch head query key"],
    values: Float[Tensor, "*batch kv_head key value_dim"],
    sinks: PerHead | None = None,
    *,
    all_see: bool = False,
) -> Float32[Tensor, "*batch query head value_dim"]:
    """softmax(scores)·v in float32: what a kernel should have returned for these rows; see `weights_from`."""
    *batch, heads, rows, columns = scores.shape
    kv_heads = values.shape[-3]
    weights = weights_from(scores, sinks, all_see=all_see).reshape(*batch, kv_heads, heads // kv_heads * rows, columns)
    mixed = weights @ values.float()
    return mixed.reshape(*batch, heads, rows, values.shape[-1]).transpose(-3, -2)
