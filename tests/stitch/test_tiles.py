"""Whatever the tiles, the answer is that of the whole matrix, computed head by head and row by row in float64."""

import math
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gentrace.stitch.mask import Reach, VisibleKeys
from gentrace.stitch.scores import ScoreRule
from gentrace.stitch.tiles import (
    Piece,
    ScoreSource,
    StoredSource,
    VectorSource,
    block_edges,
    overview_of,
    pieces_of,
    window_of,
)


@dataclass(frozen=True)
class Case:
    """A layer with every peculiarity that was drawn, and what it must give."""

    queries: Tensor
    keys: Tensor
    visible: Tensor
    rule: ScoreRule
    bias: Tensor | None
    scores: Tensor
    weights: Tensor

    def source(self) -> VectorSource:
        return VectorSource(self.queries, self.keys, VisibleKeys.from_dense(self.visible), self.rule, self.bias)

    def head(self, head: int) -> VectorSource:
        group = len(self.queries) // len(self.keys)
        own = slice(head // group, head // group + 1)
        sinks = None if self.rule.sinks is None else self.rule.sinks[head : head + 1]
        rule = ScoreRule(self.rule.scale, self.rule.softcap, sinks)
        bias = self.bias if self.bias is None or len(self.bias) == 1 else self.bias[head : head + 1]
        visible = VisibleKeys.from_dense(self.visible)
        return VectorSource(self.queries[head : head + 1], self.keys[own], visible, rule, bias)


def by_rows(
    queries: Tensor, keys: Tensor, visible: Tensor, rule: ScoreRule, bias: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Scores and weights of each row on its own, in float64."""
    heads, rows, columns = len(queries), queries.shape[1], keys.shape[1]
    scores = torch.full((heads, rows, columns), -torch.inf, dtype=torch.float64)
    weights = torch.zeros(heads, rows, columns, dtype=torch.float64)
    for head in range(heads):
        key = keys[head // (heads // len(keys))].double()
        for row in range(rows):
            seen = visible[row].nonzero().flatten()
            score = key[seen] @ queries[head, row].double() * rule.scale
            if rule.softcap is not None:
                score = rule.softcap * (score / rule.softcap).tanh()
            if bias is not None:
                score = score + bias[head if len(bias) > 1 else 0, row, seen].double()
            scores[head, row, seen] = score
            total = score.exp().sum() + (0 if rule.sinks is None else math.exp(float(rule.sinks[head])))
            weights[head, row, seen] = score.exp() / total
    return scores, weights


@st.composite
def cases(draw: st.DrawFn) -> Case:
    kv_heads, group = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    rows, columns = draw(st.integers(1, 13)), draw(st.integers(1, 17))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    age = torch.arange(rows)[:, None] + columns - rows - torch.arange(columns)
    visible = {
        "causal": age >= 0,
        "window": (age >= 0) & (age < 4),
        "everything": age == age,
        "padded": (age >= 0) & (torch.arange(columns) >= 2),
        "holes": (age >= 0) & (torch.rand(rows, columns, generator=generator) > 0.4),
        "late": (age >= 0) & (torch.arange(rows)[:, None] >= 3),
    }[draw(st.sampled_from(["causal", "window", "everything", "padded", "holes", "late"]))]
    queries = 3 * torch.randn(kv_heads * group, rows, 4, generator=generator)
    keys = torch.randn(kv_heads, columns, 4, generator=generator)
    # Rows that see nothing may be unknown, and so may keys that nobody sees.
    queries[:, ~visible.any(1)] = torch.nan
    keys[:, ~visible.any(0)] = torch.nan
    sinks = torch.randn(kv_heads * group, generator=generator) if draw(st.booleans()) else None
    rule = ScoreRule(0.4, draw(st.sampled_from([None, 1.5])), sinks)
    of_heads = draw(st.sampled_from([0, 1, kv_heads * group]))
    bias = torch.randn(of_heads, rows, columns, generator=generator) if of_heads else None
    return Case(queries, keys, visible, rule, bias, *by_rows(queries, keys, visible, rule, bias))


@contextmanager
def threaded(count: int) -> Generator[None]:
    """As many threads as a machine with so many cores has."""
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(1)


def agree(found: Tensor, expected: Tensor) -> bool:
    assert found.dtype == torch.float32
    return found.shape == expected.shape and torch.allclose(found.double(), expected, atol=2e-6, rtol=0, equal_nan=True)


@settings(max_examples=150, deadline=None)
@given(case=cases(), tile=st.sampled_from([1, 5, 20, 64, 200, 10**6]), threads=st.sampled_from([1, 2]), data=st.data())
def test_any_tiles_give_the_same_window(case: Case, tile: int, threads: int, data: st.DataObject) -> None:
    rows, columns = case.visible.shape
    first, left = data.draw(st.integers(0, rows)), data.draw(st.integers(0, columns))
    queries = slice(first, data.draw(st.integers(first, rows)))
    keys = slice(left, data.draw(st.integers(left, columns)))
    with threaded(threads):
        for weights, whole in ((True, case.weights), (False, case.scores)):
            assert agree(window_of(case.source(), queries, keys, weights=weights, tile=tile), whole[:, queries, keys])
            stored = StoredSource(case.scores, case.rule.sinks)
            assert agree(window_of(stored, queries, keys, weights=weights, tile=tile), whole[:, queries, keys])


@settings(max_examples=150, deadline=None)
@given(
    case=cases(),
    tile=st.sampled_from([1, 5, 20, 64, 10**6]),
    strip=st.sampled_from([1, 2, 5, 100]),
    size=st.integers(1, 20),
    threads=st.sampled_from([1, 2]),
)
def test_any_tiles_give_the_same_overview(case: Case, tile: int, strip: int, size: int, threads: int) -> None:
    query_edges, key_edges = (block_edges(count, size) for count in case.visible.shape)
    with threaded(threads):
        for head in {0, len(case.queries) - 1}:
            for weights, whole in ((True, case.weights[head]), (False, case.scores[head])):
                expected = torch.stack(
                    [
                        torch.stack([block.max() for block in band.tensor_split(key_edges[1:-1], 1)])
                        for band in whole.tensor_split(query_edges[1:-1])
                    ]
                )
                sizes = {"weights": weights, "tile": tile, "strip": strip}
                assert agree(overview_of(case.head(head), query_edges, key_edges, **sizes), expected)


def test_blocks_by_hand() -> None:
    assert block_edges(10, 4) == (0, 3, 6, 8, 10)
    assert block_edges(3, 8) == (0, 1, 2, 3)
    assert block_edges(0, 8) == (0,)
    assert list(pieces_of((0, 3, 6, 8, 10), 7)) == [Piece(slice(0, 6), slice(0, 2)), Piece(slice(6, 10), slice(2, 4))]
    in_parts = [Piece(slice(0, 2), slice(0, 1)), Piece(slice(2, 3), slice(0, 1)), Piece(slice(3, 5), slice(1, 2))]
    assert list(pieces_of((0, 3, 5), 2)) == in_parts


def test_what_rows_see_by_hand() -> None:
    causal = VisibleKeys.from_dense(torch.ones(6, 6).tril().bool())
    assert causal.reach(slice(2, 5)) == Reach(slice(2, 5), slice(0, 5), slice(0, 3))
    holey = VisibleKeys.from_dense(torch.tensor([[1, 1, 0, 0], [0, 1, 0, 1], [0, 0, 0, 0], [0, 1, 1, 1]]).bool())
    assert holey.reach(slice(0, 1)) == Reach(slice(0, 1), slice(0, 2), slice(0, 2))
    assert holey.reach(slice(0, 2)) == Reach(slice(0, 2), slice(0, 4), slice(0, 0))
    assert holey.reach(slice(2, 3)) == Reach(slice(2, 3), slice(0, 0), slice(0, 0))
    assert holey.reach(slice(2, 4)) == Reach(slice(2, 4), slice(1, 4), slice(0, 0))


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 999), first=st.integers(0, 29), last=st.integers(0, 30))
def test_columns_of_a_mask_are_a_part_of_it(seed: int, first: int, last: int) -> None:
    visible = torch.rand(5, 30, generator=torch.Generator().manual_seed(seed)) > 0.5
    stored = VisibleKeys.from_dense(visible)
    assert torch.equal(stored.dense(30, slice(1, 4), slice(first, max(first, last))), visible[1:4, first:last])


class Counting(VectorSource):
    """Counts the scores that it is asked for, and the largest tile."""

    made = 0
    largest = 0

    def tile(self, heads: slice, reach: Reach, keys: slice, scratch: Tensor) -> Tensor:
        scores = super().tile(heads, reach, keys, scratch)
        self.made, self.largest = self.made + scores.numel(), max(self.largest, scores.numel())
        return scores


def counting(total: int, window: int | None = None, heads: int = 4) -> Counting:
    generator = torch.Generator().manual_seed(0)
    queries, keys = torch.randn(heads, total, 8, generator=generator), torch.randn(1, total, 8, generator=generator)
    row = torch.arange(total)
    start = torch.zeros(total) if window is None else (row - window + 1).clamp(min=0)
    return Counting(queries, keys, VisibleKeys.from_runs(start, row + 1), ScoreRule(0.3))


def test_what_no_row_sees_is_not_computed_and_tiles_stay_small() -> None:
    total, tile = 1024, 8192
    whole = slice(0, total)
    source = counting(total)
    window_of(source, whole, whole, weights=True, tile=tile)
    assert source.made <= 4 * (total * total / 2 + total * tile / total)
    assert source.largest <= tile
    sliding = counting(total, 16)
    window_of(sliding, whole, whole, weights=True, tile=tile)
    assert sliding.made <= 4 * total * (16 + tile / total)
    one = counting(total)
    window_of(one, slice(1000, 1001), slice(3, 4), weights=True, tile=tile)
    assert one.made == 4 * 1001
    picture = counting(total, heads=1)
    edges = block_edges(total, 64)
    overview_of(picture, edges, edges, weights=True, tile=tile, strip=64)
    assert picture.made <= total * total / 2 + total * 128
    assert picture.largest <= tile


@pytest.mark.parametrize("tile", [1, 30, 10**6])
def test_a_visible_key_that_is_no_number_leaves_no_weight_in_its_rows(tile: int) -> None:
    generator = torch.Generator().manual_seed(0)
    queries, keys = torch.randn(1, 8, 4, generator=generator), torch.randn(1, 8, 4, generator=generator)
    keys[:, 5] = torch.nan
    source = VectorSource(queries, keys, VisibleKeys.from_dense(torch.ones(8, 8).tril().bool()), ScoreRule(1.0))
    weights = window_of(source, slice(0, 8), slice(0, 8), weights=True, tile=tile)[0]
    assert bool(weights[5:].isnan().all())
    assert not bool(weights[:5].isnan().any())
    edges = block_edges(8, 4)
    overview = overview_of(source, edges, edges, weights=True, tile=tile, strip=2)
    assert overview.isnan().any(1).tolist() == [False, False, True, True]


def test_large_scores_do_not_overflow() -> None:
    queries, keys = torch.full((1, 4, 1), 30.0), torch.tensor([[[30.0], [29.0], [1.0], [30.0]]])
    source = VectorSource(queries, keys, VisibleKeys.from_dense(torch.ones(4, 4).bool()), ScoreRule(1.0))
    expected = torch.tensor([[0.5, 0.5]]) * torch.ones(4, 1)
    edges, halves = (0, 1, 2, 3, 4), (0, 2, 4)
    for tile in (1, 2, 100):
        assert torch.allclose(overview_of(source, edges, halves, weights=True, tile=tile, strip=1), expected)


def test_threads_are_put_back() -> None:
    source, edges = counting(64, heads=1), block_edges(64, 16)
    with threaded(2):
        overview_of(source, edges, edges, weights=True, strip=4)
        window_of(source, slice(0, 64), slice(0, 64), weights=True, tile=64)
        counts = [torch.get_num_threads()]
        other = threading.Thread(target=lambda: counts.append(torch.get_num_threads()))
        other.start()
        other.join()
    assert counts == [2, 2]


@pytest.mark.parametrize("threads", [1, 2])
def test_in_inference_mode(threads: int) -> None:
    source, edges = counting(64), block_edges(64, 16)
    whole = slice(0, 64)
    expected = window_of(source, whole, whole, weights=True), overview_of(source, edges, edges, weights=True)
    with threaded(threads), torch.inference_mode():
        assert torch.allclose(window_of(source, whole, whole, weights=True, tile=256), expected[0], atol=1e-6)
        assert torch.allclose(overview_of(source, edges, edges, weights=True, strip=4), expected[1], atol=1e-6)


@pytest.mark.parametrize("threads", [1, 2])
def test_an_error_in_a_tile_comes_out(threads: int) -> None:
    class Failing(Counting):
        def tile(self, heads: slice, reach: Reach, keys: slice, scratch: Tensor) -> Tensor:
            raise RuntimeError("out of memory")

    source: ScoreSource = Failing(
        torch.ones(1, 8, 2), torch.ones(1, 8, 2), VisibleKeys.from_dense(torch.ones(8, 8).bool()), ScoreRule(1.0)
    )
    with threaded(threads):
        with pytest.raises(RuntimeError, match="out of memory"):
            overview_of(source, block_edges(8, 8), block_edges(8, 8), weights=True, strip=2)
        assert torch.get_num_threads() == threads
