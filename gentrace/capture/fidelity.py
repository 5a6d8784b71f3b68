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

TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}


@dataclass(frozen=True, slots=True, eq=False)
class Check:
    """Rows of one layer that were recomputed."""

    rows: tuple[int, ...]
    """Their positions."""
    errors: Tensor
    """[batch, row] relative error; 0 for a row that sees nothing (padding)."""


def check_rows(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    output: Tensor,
    placed: tuple[Landing, FragmentMask],
    rule: ScoreRule,
    rows: tuple[int, ...],
    bias: Tensor | None,
) -> Check:
    """Recompute some rows of a fragment that has just been recorded.

    Args:
        queries: ``[batch, head, position, dim]`` recorded queries, by position.
        keys: ``[batch, kv_head, key, dim]`` recorded keys of the fragment.
        values: ``[batch, kv_head, key, value_dim]`` as the kernel was given them.
        output: ``[batch, query, head, value_dim]`` as the kernel returned it.
        placed: The fragment's landing and mask.
        rule: Scale, softcap and sinks of the layer.
        rows: Positions to check; they lie inside the fragment.
        bias: ``[batch or 1, head or 1, query, key]`` added to the scores, if any.

    Returns:
        The largest difference per row, divided by the row's largest value.
    """
    landing, mask = placed
    # One or two rows are a slice, which costs no copy.
    first, last = rows[0] - landing.query_start, rows[-1] - landing.query_start
    local = slice(first, last + 1, max(1, last - first))
    checked = queries[:, :, rows[0] : rows[-1] + 1 : local.step]
    column = torch.arange(landing.key_start, landing.key_stop, device=mask.start.device)
    start, stop = mask.start[:, local, None], mask.stop[:, local, None]
    visible = (column >= start) & (column < stop) if mask.dense is None else mask.dense[:, local]
    visible = visible.to(checked.device)
    added = None if bias is None else bias[:, :, local, : landing.keys]
    expected = attend(scores_from(checked, keys, visible, rule, added), values[:, :, : landing.keys], rule.sinks)
    found = output[:, local].float()
    difference = (found - expected).abs().amax((-1, -2))
    size = found.abs().amax((-1, -2)).clamp_min(torch.finfo(torch.float32).tiny)
    error = torch.where(visible.any(-1), difference / size, 0.0)
    return Check(rows, error.expand(output.shape[0], -1))
