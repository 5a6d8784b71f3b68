"""Masks survive being turned into runs and bits, and nothing else is ever read out of them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gentrace.errors import UnsupportedModel
from gentrace.stitch.mask import VisibleKeys, find_runs, read_mask, unmasked
from gentrace.stitch.plan import Landing


@settings(max_examples=200, deadline=None)
@given(rows=st.lists(st.lists(st.booleans(), min_size=11, max_size=11), min_size=1, max_size=8))
def test_any_mask_survives(rows: list[list[bool]]) -> None:
    visible = torch.tensor(rows)
    stored = VisibleKeys.from_dense(visible)
    assert torch.equal(stored.dense(11), visible)
    for first in range(len(rows)):
        assert torch.equal(stored.dense(11, slice(first, first + 2)), visible[first : first + 2])
    by_hand = [index for index, row in enumerate(rows) if "0" in "".join("01"[seen] for seen in row).strip("0")]
    assert stored.rows.tolist() == by_hand


def test_rules_need_no_bits() -> None:
    age = torch.arange(9)[:, None] - torch.arange(9)[None]
    causal, window, chunk = (
        age >= 0,
        (age >= 0) & (age < 4),
        (age >= 0) & (torch.arange(9) // 3 == torch.arange(9)[:, None] // 3),
    )
    for mask in (causal, window, chunk, torch.ones(9, 9).bool()):
        assert len(VisibleKeys.from_dense(mask).rows) == 0


def test_runs() -> None:
    start, stop, one_run = find_runs(torch.tensor([[0, 1, 1, 0], [0, 0, 0, 0], [1, 0, 1, 0], [1, 1, 1, 1]]).bool())
    assert start.tolist() == [1, 0, 0, 0]
    assert stop.tolist() == [3, 0, 3, 4]
    assert one_run.tolist() == [True, True, False, True]


@settings(max_examples=300, deadline=None)
@given(
    firsts=st.lists(st.integers(0, 8), min_size=1, max_size=3),
    rows=st.integers(1, 7),
    before=st.integers(-3, 4),
    flipped=st.none() | st.tuples(st.integers(0, 2), st.integers(0, 6), st.integers(0, 7)),
)
def test_prompts_of_padded_batches_and_those_that_nearly_are(
    firsts: list[int], rows: int, before: int, flipped: tuple[int, int, int] | None
) -> None:
    visible = torch.ones(len(firsts), rows, 8, dtype=torch.bool).tril(before)
    for sequence, first in zip(visible, firsts, strict=True):
        sequence[:, :first] = False
    if flipped is not None:
        place = flipped[0] % len(firsts), flipped[1] % rows, flipped[2]
        visible[place] = ~visible[place]
    found = find_runs(visible)
    for sequence, *runs in zip(visible.tolist(), *map(torch.Tensor.tolist, found), strict=True):
        for row, start, stop, one_run in zip(sequence, *runs, strict=True):
            seen = [key for key, sees in enumerate(row) if sees]
            edges = (seen[0], seen[-1] + 1) if seen else (0, 0)
            assert (start, stop) == edges
            assert one_run == (len(seen) == edges[1] - edges[0])


def test_an_additive_mask_gives_up_its_bias() -> None:
    low = torch.finfo(torch.float16).min
    mask = torch.tensor([[[[0.5, low, -torch.inf], [0.0, -2.0, low]]]], dtype=torch.float16)
    read = read_mask(mask, Landing(1, 3, 0, 3, 1))
    assert read.stop.tolist() == [[1, 2]]
    assert read.bias is not None
    assert read.bias.tolist() == [[[[0.5, 0.0, 0.0], [0.0, -2.0, 0.0]]]]
    assert read_mask(torch.tensor([[[[0.0, low]]]], dtype=torch.float16), Landing(1, 2, 0, 2, 1)).bias is None


def test_keys_that_are_no_tokens_are_refused() -> None:
    hidden = torch.tensor([[[[True, True, False]]]])
    assert read_mask(hidden, Landing(1, 2, 0, 2, 1)).stop.tolist() == [[2]]
    with pytest.raises(UnsupportedModel, match="3 keys for 2 tokens"):
        read_mask(~hidden, Landing(1, 2, 0, 2, 1))


def test_kernels_without_a_mask() -> None:
    landing = Landing(4, 6, 1, 6, 4)
    assert unmasked(landing, causal=True).stop.tolist() == [[5, 6]]
    assert unmasked(landing, causal=False).stop.tolist() == [[6, 6]]
    assert unmasked(landing, causal=True, window=2).start.tolist() == [[3, 4]]
    assert unmasked(landing, causal=True, aligned_left=True).stop.tolist() == [[2, 3]]


def test_heads_that_see_different_keys_are_refused() -> None:
    mask = torch.ones(1, 2, 3, 3).tril().bool()
    assert read_mask(mask, Landing(0, 3, 0, 3, 0)).stop.tolist() == [[1, 2, 3]]
    mask[0, 1, 2, 0] = False
    with pytest.raises(UnsupportedModel, match="2 heads see different keys"):
        read_mask(mask, Landing(0, 3, 0, 3, 0))
