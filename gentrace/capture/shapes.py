"""The layouts in which modules put heads beside sequences, brought to one: ``[batch, head, query, key]``."""

import torch
from einops import rearrange
from torch import Tensor

from gentrace.capture.taps.calls import VectorCall
from gentrace.errors import UnsupportedModel


def fits(shape: torch.Size, batch: int, queries: int) -> bool:
    """Whether scores of this shape are attention of ``batch`` sequences with ``queries`` rows each."""
    if len(shape) < 2 or shape[-2] != queries:
        return False
    if len(shape) == 2:
        return batch == 1
    if len(shape) == 3:
        return shape[0] % batch == 0
    return shape[0] == batch


def arrange_scores(scores: Tensor, batch: int, queries: int) -> Tensor:
    """Bring scores to ``[batch, head, query, key]``.

    Args:
        scores: ``[batch, head, query, key]``, heads in groups ``[batch, kv_head, group, query, key]``, merged
            ``[batch · head, query, key]`` with all heads of a sequence together, or ``[query, key]`` of one head.
        batch: Sequences in the forward.
        queries: Rows of each.

    Raises:
        UnsupportedModel: If the scores have another shape.
    """
    if not fits(scores.shape, batch, queries):
        raise UnsupportedModel(
            "recording scores",
            f"a softmax over {tuple(scores.shape)} in a forward of {batch} sequences and {queries} positions",
            "attention in blocks or other arrangements is not supported; exclude the layer with layers=",
        )
    return scores.reshape(batch, -1, *scores.shape[-2:])


def visible_scores(scores: Tensor) -> Tensor:
    """Where scores let rows look, ``[batch, head, query, key]``.

    Scores carry their mask in their values: what was hidden is −inf or near the dtype's minimum.
    """
    return scores > max(torch.finfo(scores.dtype).min / 2, -1e8)


def separate_batch(call: VectorCall, batch: int) -> None:
    """Take sequences and heads apart where a module merged them into ``[1, batch · head, position, dim]``."""
    if call.query.shape[0] != 1 or batch == 1 or call.query.shape[1] % batch:
        return
    call.query, call.key, call.value = (
        rearrange(tensor, "1 (batch head) position dim -> batch head position dim", batch=batch)
        for tensor in (call.query, call.key, call.value)
    )
    bias = call.options.get("position_bias")
    if isinstance(bias, Tensor) and bias.shape[-3] == batch * call.query.shape[1]:
        flat = bias.reshape(-1, *bias.shape[-2:])
        split = rearrange(flat, "(batch head) query key -> batch head query key", batch=batch)
        call.options = {**call.options, "position_bias": split}
    call.output = rearrange(call.output, "1 position (batch head) dim -> batch position head dim", batch=batch)
    if isinstance(call.mask, Tensor) and call.mask.shape[0] in (1, batch * call.query.shape[1]) and call.mask.dim() > 2:
        merged = call.mask if call.mask.dim() == 3 else call.mask[0]
        if len(merged) > 1:
            call.mask = rearrange(merged, "(batch head) query key -> batch head query key", batch=batch)
