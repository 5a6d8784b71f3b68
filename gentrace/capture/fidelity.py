"""A trace's own proof: softmax(q·k)·v from the recorded rows against what the model's kernel returned.

The queries and keys are taken from the recorder's buffers, not from the kernel's arguments, so the check covers where
fragments landed as well as how scores are put together.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gentrace.stitch.mask import FragmentMask
from gentrace.stitch.plan import Landing
from gentrace.stitch.scores import ScoreRule, attend, scores_from

TINY = torch.finfo(torch.float32).tiny
SMALL = 2**18
"""Bytes of keys and values up to which a layer's check may wait for others."""
TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}


@dataclass(frozen=True, slots=True, eq=False)
class Check:
    """Rows of one layer that were recomputed."""

    rows: tuple[int, ...]
    """Their positions."""
    errors: Tensor
    """[batch, row] relative error; 0 for a row that sees nothing (padding)."""


@dataclass(frozen=True, slots=True, eq=False)
class Sight:
    """What checked rows see of a fragment's keys."""

    visible: Tensor | None
    """[batch or 1, row, key] which keys; None if the rows see all of them."""
    blind: Tensor | None
    """[batch or 1, row] rows that see nothing (padding); None if there are none."""


ALL = Sight(None, None)
"""Rows that see every key."""


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


def sight_of(landing: Landing, mask: FragmentMask, rows: tuple[int, ...], device: torch.device) -> Sight:
    """What some rows of a fragment see; see `visible_rows`."""
    visible = visible_rows(landing, mask, rows, device)
    blind = ~visible.any(-1)
    # On an accelerator the question would wait for the device.
    return Sight(visible, None if device.type == "cpu" and not bool(blind.any()) else blind)


@dataclass(slots=True, eq=False)
class Shown:
    """Rows of a fragment that has just been recorded, and what their kernel made of them."""

    queries: Tensor
    """[batch, head, row, dim] recorded queries of these rows."""
    keys: Tensor
    """[batch, kv_head, key, dim] recorded keys of the fragment."""
    values: Tensor
    """[batch, kv_head, key, value_dim] as the kernel was given them."""
    output: Tensor
    """[batch, row, head, value_dim] as the kernel returned it."""
    sight: Sight
    """What the rows see."""
    rule: ScoreRule
    """Scale, softcap and sinks of the layer."""
    rows: tuple[int, ...]
    """Their positions; they lie inside the fragment."""
    bias: Tensor | None = None
    """[batch or 1, head or 1, row, key] added to the scores, if any."""

    @property
    def alike(self) -> tuple[Any, ...]:
        """What has to be the same for rows of several layers to be checked together."""
        return (id(self.sight), self.rule, self.rows, self.queries.shape, self.keys.shape, self.values.shape)

    @property
    def is_small(self) -> bool:
        """Whether waiting for other layers keeps next to nothing alive, and copying costs less than going alone."""
        plain = self.rule.sinks is None and self.bias is None
        return plain and self.keys.nbytes + self.values.nbytes <= SMALL and self.keys.dtype == self.values.dtype


def check_rows(shown: Shown) -> Check:
    """Recompute some rows of a fragment.

    Returns:
        The largest difference per row, divided by the row's largest value.
    """
    sight, rule = shown.sight, shown.rule
    errors = _errors(shown.queries, shown.keys, shown.values, shown.output, sight, rule, shown.bias)
    return Check(shown.rows, errors)


def check_together(several: list[Shown]) -> list[Check]:
    """Recompute rows of several layers in one go, of fragments that are `Shown.alike`."""
    first = several[0]
    if len(several) == 1:
        return [check_rows(first)]
    columns = (one.queries for one in several), (one.keys for one in several), (one.values for one in several)
    queries, keys, values, output = (
        torch.stack(list(column)) for column in (*columns, (one.output for one in several))
    )
    errors = _errors(queries, keys, values, output, first.sight, first.rule, None)
    return [Check(first.rows, own) for own in errors.unbind()]


def _errors(
    queries: Tensor, keys: Tensor, values: Tensor, output: Tensor, sight: Sight, rule: ScoreRule, bias: Tensor | None
) -> Tensor:
    """``[..., row]`` relative errors, with any axes before those of `Shown`."""
    scores = scores_from(queries, keys, sight.visible, rule, bias)
    expected = attend(scores, values, rule.sinks, all_see=sight.blind is None)
    found = output.float()
    difference = torch.linalg.vector_norm(expected.sub_(found), torch.inf, (-1, -2))
    size = torch.linalg.vector_norm(found, torch.inf, (-1, -2))
    # A row that sees nothing has no size; what its kernel returns means nothing.
    error = difference.div_(size.clamp_min_(TINY))
    return error if sight.blind is None else error.masked_fill_(sight.blind, 0.0)


def local_rows(landing: Landing, rows: tuple[int, ...]) -> slice:
    """The rows inside the fragment: one or two are a slice, which costs no copy."""
    first, last = rows[0] - landing.query_start, rows[-1] - landing.query_start
    return slice(first, last + 1, max(1, last - first))
