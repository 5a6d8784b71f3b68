"""A trace's own proof: softmax(q·k)·v from the recorded rows against what the model's kernel returned.

The queries and keys are taken from the recorder's buffers, not from the kernel's arguments, so the check covers where
fragments landed as well as how scores are put together.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from gentrace.stitch.mask import FragmentMask
from gentrace.stitch.plan import Landing
from gentrace.stitch.scores import ScoreRule, attend, scores_from

TINY = torch.finfo(torch.float32).tiny
TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}


@dataclass(frozen=True, slots=True, eq=False)
class Check:
    """Rows of one layer that were recomputed."""

    rows: tuple[int, ...]
    """Their positions."""
    errors: Tensor
    """[batch, row] relative error; 0 for a row that sees nothing (padding)."""


def visible_rows(landing: Landing, mask: FragmentMask, rows: tuple[int, ...], device: torch.device) -> Tensor:
    """``[batch or 1, row, key]`` which of a fragment's keys some of its rows see.

    Args:
        landing: Where the fragment lands.
        mask: Its mask.
        rows: Positions; they lie inside the fragment.
        device: Where to compute.
    """
    local = local_rows(landing, rows)
    if mask.dense is not None:
        return mask.dense[:, local].to(device)
    column = torch.arange(landing.key_start, landing.key_stop, device=mask.start.device)
    start, stop = mask.start[:, local, None], mask.stop[:, local, None]
    return ((column >= start) & (column < stop)).to(device)


def check_rows(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    output: Tensor,
    landing: Landing,
    visible: Tensor,
    rule: ScoreRule,
    rows: tuple[int, ...],
    bias: Tensor | None,
) -> Check:
    """Recompute some rows of a fragment that has just been recorded.

    Args:
        queries: ``[batch, head, row, dim]`` recorded queries of these rows.
        keys: ``[batch, kv_head, key, dim]`` recorded keys of the fragment.
        values: ``[batch, kv_head, key, value_dim]`` as the kernel was given them.
        output: ``[batch, query, head, value_dim]`` as the kernel returned it.
        landing: Where the fragment landed.
        visible: ``[batch or 1, row, key]`` which keys the rows see.
        rule: Scale, softcap and sinks of the layer.
        rows: Positions to check; they lie inside the fragment.
        bias: ``[batch or 1, head or 1, query, key]`` added to the scores, if any.

    Returns:
        The largest difference per row, divided by the row's largest value.
    """
    local = local_rows(landing, rows)
    added = None if bias is None else bias[:, :, local, : landing.keys]
    expected = attend(scores_from(queries, keys, visible, rule, added), values[:, :, : landing.keys], rule.sinks)
    found = output[:, local].float()
    difference = torch.linalg.vector_norm(found - expected, torch.inf, (-1, -2))
    size = torch.linalg.vector_norm(found, torch.inf, (-1, -2))
    # A row that sees nothing has no size; what its kernel returns means nothing.
    error = (difference / size.clamp_min_(TINY)).masked_fill_(~visible.any(-1), 0.0)
    return Check(rows, error)


def local_rows(landing: Landing, rows: tuple[int, ...]) -> slice:
    """The rows inside the fragment: one or two are a slice, which costs no copy."""
    first, last = rows[0] - landing.query_start, rows[-1] - landing.query_start
    return slice(first, last + 1, max(1, last - first))
