"""Any way of splitting a text into forwards, under any cache layout, gives the same triangle."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gentrace.errors import CaptureError
from gentrace.stitch.mask import VisibleKeys, read_mask, unmasked
from gentrace.stitch.plan import Landing, plan_landing
from gentrace.stitch.scores import ScoreRule, scores_from, weights_from

RULE = ScoreRule(scale=0.3)


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        # FACTS.md's table: five prompt tokens, then one at a time.
        ({"fed": 0, "queries": 5, "keys": 5, "known": 0}, Landing(0, 5, 0, 5, 0)),
        ({"fed": 5, "queries": 1, "keys": 6, "known": 5}, Landing(5, 6, 0, 6, 5)),
        # A static cache shows its whole capacity.
        ({"fed": 5, "queries": 1, "keys": 9, "known": 5}, Landing(5, 6, 0, 6, 5)),
        # Without a cache everything is computed again.
        ({"fed": 0, "queries": 6, "keys": 6, "known": 5}, Landing(0, 6, 0, 6, 0)),
        # A sliding cache shows the newest keys.
        ({"fed": 6, "queries": 1, "keys": 4, "known": 6}, Landing(6, 7, 3, 7, 6)),
        # A cache that was filled before recording began.
        ({"fed": 6, "queries": 2, "keys": 8, "known": 0}, Landing(6, 8, 0, 8, 0)),
        ({"fed": 6, "queries": 2, "keys": 5, "known": 0}, Landing(6, 8, 3, 8, 3)),
    ],
)
def test_landing(case: dict[str, int], expected: Landing) -> None:
    assert plan_landing(**case) == expected


def test_fewer_keys_than_queries_are_refused() -> None:
    with pytest.raises(CaptureError, match=r"3 query rows at position 2.*only 2 keys"):
        plan_landing(fed=2, queries=3, keys=2, known=2)


def triangle(queries: Tensor, keys: Tensor, window: int) -> Tensor:
    """The expected weights, by another route than the code under test."""
    n = queries.shape[1]
    full = torch.einsum("hqd,hkd->hqk", queries, keys.repeat_interleave(2, 0)) * RULE.scale
    age = torch.arange(n)[:, None] - torch.arange(n)[None]
    return full.masked_fill((age < 0) | (age >= window), -torch.inf).softmax(-1)


@settings(max_examples=150, deadline=None)
@given(
    splits=st.lists(st.integers(1, 6), min_size=1, max_size=8),
    window=st.sampled_from([2, 3, 5, 100]),
    layout=st.sampled_from(["dynamic", "static", "sliding", "none"]),
    kind=st.sampled_from(["bool", "additive", "kernel"]),
)
def test_any_split_gives_the_same_triangle(splits: list[int], window: int, layout: str, kind: str) -> None:
    if layout != "sliding" or kind == "kernel":
        window = 100
    n = sum(splits)
    generator = torch.Generator().manual_seed(n)
    queries, keys = torch.randn(4, n, 5, generator=generator), torch.randn(2, n, 5, generator=generator)
    stored_queries, stored_keys = torch.full_like(queries, torch.nan), torch.full_like(keys, torch.nan)
    start, stop = torch.full((n,), -1), torch.full((n,), -1)
    fed = 0
    for count in splits:
        if layout == "none":
            count, fed = fed + count, 0
        shown_from = max(0, fed - window + 1) if layout == "sliding" else 0
        shown = keys[:, shown_from : fed + count]
        if layout == "static":
            shown = torch.cat([shown, torch.full((2, n - shown.shape[1] + 3, 5), 7.0)], 1)
        landing = plan_landing(fed=fed, queries=count, keys=shown.shape[1], known=fed)
        mask = fragment_mask(kind, landing, shown.shape[1], window)
        stored_queries[:, landing.query_start : landing.query_stop] = queries[:, fed : fed + count]
        new = landing.copy_start - landing.key_start
        stored_keys[:, landing.copy_start : landing.query_stop] = shown[:, new : landing.keys]
        rows = slice(landing.query_start, landing.query_stop)
        start[rows], stop[rows] = mask.start[0], mask.stop[0]
        fed += count
    visible = VisibleKeys.from_runs(start, stop).dense(n)
    weights = weights_from(scores_from(stored_queries, stored_keys, visible, RULE))
    assert torch.allclose(weights, triangle(queries, keys, window), atol=1e-6)


def fragment_mask(kind: str, landing: Landing, columns: int, window: int):  # noqa: ANN201 - a FragmentMask
    """The mask that a kernel would be given, with unused capacity hidden."""
    if kind == "kernel":
        return unmasked(landing, causal=True)
    query = torch.arange(landing.query_start, landing.query_stop)[:, None]
    key = torch.arange(columns)[None] + landing.key_start
    allowed = ((key <= query) & (key > query - window))[None, None]
    if kind == "bool":
        return read_mask(allowed, landing)
    return read_mask(torch.zeros(allowed.shape).masked_fill(~allowed, torch.finfo(torch.float32).min), landing)
