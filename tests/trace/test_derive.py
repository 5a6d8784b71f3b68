"""A window is a part of the whole matrix, and an overview its largest entries, for every kind of layer."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import gentrace
from gentrace.errors import AttentionUnavailable
from gentrace.trace.derive import Overview
from gentrace.trace.info import Kind
from gentrace.trace.store import MemoryStore
from tests.capture.homemade import Decoder, talking
from tests.capture.test_encoders import translator
from tests.models import prompt, tiny
from tests.oracle import distance, full_forward
from tests.views.made import random_trace


def generated(name: str, kernel: str = "sdpa") -> gentrace.Trace:
    model = tiny(name, kernel)
    with gentrace.record(model) as recorder:
        model.generate(prompt(11), max_new_tokens=6, min_new_tokens=6, do_sample=False)
    return recorder.trace


def padded() -> gentrace.Trace:
    model, ids = tiny("mistral"), prompt(11, 2)
    mask = torch.ones_like(ids)
    ids[1, :4], mask[1, :4] = 0, 0
    with gentrace.record(model) as recorder:
        model.generate(ids, attention_mask=mask, max_new_tokens=6, min_new_tokens=6, do_sample=False)
    return recorder.traces[1]


def holey() -> gentrace.Trace:
    """A mask of packed bits and a position bias of each head."""
    model = tiny("llama", "eager")
    generator = torch.Generator().manual_seed(0)
    allowed = torch.eye(16).bool() | (
        torch.ones(16, 16).tril().bool() & (torch.rand(16, 16, generator=generator) > 0.5)
    )
    mask = torch.randn(1, 4, 16, 16, generator=generator).masked_fill(~allowed, torch.finfo(torch.float32).min)
    with gentrace.record(model) as recorder, torch.no_grad():
        model(prompt(16), attention_mask=mask)
    return recorder.trace


def continued() -> gentrace.Trace:
    """A chat whose cache was filled before recording began: its rows were never seen."""
    model, ids = tiny("gemma3"), prompt(17)
    with torch.no_grad():
        cache = model(ids[:, :6], use_cache=True).past_key_values
        with gentrace.record(model) as recorder:
            model(ids[:, 6:], past_key_values=cache)
    return recorder.trace


def translated() -> gentrace.Trace:
    model = translator("t5", "eager")
    with gentrace.record(model) as recorder:
        model.generate(prompt(13), max_new_tokens=9, min_new_tokens=9, do_sample=False)
    return recorder.trace


def scores_only() -> gentrace.Trace:
    model = Decoder(talking)
    with gentrace.record(model) as recorder, torch.no_grad():
        model(prompt(14) % 31)
    return recorder.trace


MADE: dict[str, Callable[[], gentrace.Trace]] = {
    "grouped": lambda: generated("llama"),
    "sliding": lambda: generated("gemma3"),
    "softcap": lambda: generated("gemma2", "eager"),
    "sinks": lambda: generated("gpt_oss", "eager"),
    "padded": padded,
    "holey": holey,
    "continued": continued,
    "translated": translated,
    "scores only": scores_only,
    "late": lambda: random_trace(20, 9, unseen=7, window=5),
}


@pytest.fixture(scope="module", params=list(MADE))
def trace(request: pytest.FixtureRequest) -> gentrace.Trace:
    return MADE[request.param]()


def same(found: Tensor, expected: Tensor) -> bool:
    assert (found.shape, found.dtype, found.device.type) == (expected.shape, torch.float32, "cpu")
    # Scores are sums of products of their own size, T5's beyond 10; float32 keeps seven digits of the largest.
    largest = float(expected[expected.isfinite()].abs().max()) if expected.isfinite().any() else 0.0
    return torch.allclose(found, expected, atol=1e-6 * max(1.0, largest), rtol=0, equal_nan=True)


def test_a_window_is_a_part_of_the_matrix(trace: gentrace.Trace) -> None:
    windows = [
        (slice(3, 4), None),
        (None, slice(2, 7)),
        (slice(-5, None), slice(None, -2)),
        (range(4, 9), range(1, 2)),
        (slice(5, 900), slice(0, 0)),
    ]
    for info in trace.layers:
        for read in (trace.attention, trace.scores):
            whole = read(info.index, kind=info.kind)
            for queries, keys in windows:
                rows, columns = (
                    slice(None) if side is None else slice(side.start, side.stop) for side in (queries, keys)
                )
                window: dict[str, Any] = {"kind": info.kind, "queries": queries, "keys": keys}
                assert same(read(info.index, **window), whole[:, rows, columns])
                assert same(read(info.index, 1, device="cpu", **window), whole[1, rows, columns])


def blocks_by_hand(matrix: Tensor, size: int) -> np.ndarray:
    """The largest entry of each block that is not NaN; NaN where all of it is."""
    rows, columns = (min(size, count) for count in matrix.shape)
    found = np.full((rows, columns), np.nan, dtype=np.float32)
    for i, band in enumerate(np.array_split(matrix.numpy(), rows)):
        for j, block in enumerate(np.array_split(band, columns, axis=1)):
            if not np.isnan(block).all():
                found[i, j] = np.nanmax(block)
    return found


@pytest.mark.parametrize("size", [1, 3, 5, 512])
def test_an_overview_is_the_largest_of_each_block(trace: gentrace.Trace, size: int) -> None:
    for info in trace.layers:
        for what, read in (("weights", trace.attention), ("scores", trace.scores)):
            overview = trace.overview(info.index, 1, size, kind=info.kind, what=what)
            whole = read(info.index, 1, kind=info.kind)
            assert same(overview.values, torch.from_numpy(blocks_by_hand(whole, size)))
            for edges, count in zip((overview.query_edges, overview.key_edges), whole.shape, strict=True):
                assert (edges[0], edges[-1], len(edges)) == (0, count, min(size, count) + 1)
                widths = [last - first for first, last in pairwise(edges)]
                assert max(widths) - min(widths) <= 1


def test_overviews_know_what_was_never_seen() -> None:
    overview = MADE["late"]().overview(0, 0, 4)
    assert overview.query_edges == (0, 5, 10, 15, 19)
    assert overview.values.isnan().all(1).tolist() == [True, False, False, False]
    assert not bool(overview.values[1:].isnan().any())


def test_one_window_against_the_models_own_attention() -> None:
    model, ids = tiny("llama"), prompt(19)
    with gentrace.record(model) as recorder, torch.no_grad():
        model(ids)
    expected = full_forward(model, ids[0])[0][2]
    assert (
        distance(recorder.trace.attention(2, 3, queries=slice(8, 15), keys=slice(2, 9)), expected[3, 8:15, 2:9]) <= 1e-5
    )
    assert distance(recorder.trace.attention(2, queries=range(18, 19)), expected[:, 18:]) <= 1e-5


@pytest.mark.parametrize("of_heads", [1, 4])
def test_each_head_has_its_own_queries_keys_and_bias(of_heads: int) -> None:
    trace, generator = random_trace(9, 5, heads=4), torch.Generator().manual_seed(1)
    queries, keys = trace.queries(0), torch.randn(2, 8, 4, generator=generator)
    bias = torch.randn(of_heads, 8, 8, generator=generator)
    tensors = {name: trace.store.tensor(name) for name in trace.store.names()}
    tensors |= {"layers.0.self.keys": keys, "layers.0.self.bias": bias}
    trace = replace(trace, layers=(replace(trace.layers[0], kv_heads=2),), store=MemoryStore(tensors))
    later = torch.ones(8, 8).triu(1).bool()
    for head in range(4):
        scores = queries[head] @ keys[head // 2].T + bias[head if of_heads > 1 else 0]
        scores = scores.masked_fill(later, -torch.inf)
        assert same(trace.scores(0, head), scores)
        assert same(trace.attention(0, head), scores.softmax(-1))
        assert same(trace.attention(0)[head], scores.softmax(-1))
        assert same(trace.overview(0, head).values, scores.softmax(-1))
        terms = trace.score_terms(0, head, 6)
        assert same(terms.score, scores[6])
        assert same(terms.weight, scores[6].softmax(-1))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_slice_means_what_it_means_in_python(data: st.DataObject) -> None:
    trace = random_trace(13, 5)
    ends = st.none() | st.integers(-20, 20)
    queries, keys = (slice(data.draw(ends), data.draw(ends), data.draw(st.sampled_from([None, 1]))) for _ in range(2))
    assert same(trace.attention(0, 1, queries=queries, keys=keys), trace.attention(0, 1)[queries, keys])


@pytest.mark.parametrize("chosen", [slice(0, 9, 2), slice(5, 0, -1), range(0, 9, 2), range(-2, 3), range(3, 30)])
def test_windows_with_gaps_or_beyond_the_trace_are_refused(chosen: slice | range) -> None:
    trace = random_trace(13, 5)
    with pytest.raises(AttentionUnavailable, match=r"window of layer 0.*keys=.* of 12 positions.*step 1"):
        trace.scores(0, keys=chosen)


def test_bad_heads_layers_and_sizes_are_refused() -> None:
    trace = random_trace(13, 5)
    with pytest.raises(AttentionUnavailable, match="heads 0 … 1"):
        trace.attention(0, 2, queries=slice(0, 1))
    with pytest.raises(AttentionUnavailable, match="heads 0 … 1"):
        trace.overview(0, -1)
    with pytest.raises(AttentionUnavailable, match="layers recorded: 0"):
        trace.overview(1, 0)
    with pytest.raises(AttentionUnavailable, match="size=0"):
        trace.overview(0, 0, 0)


def test_the_device_is_where_it_is_computed() -> None:
    trace = random_trace(13, 5)
    # Nothing can come back from torch's device without memory, so an answer would mean that it was not used.
    for ask in (trace.attention, trace.scores, trace.overview):
        with pytest.raises((NotImplementedError, RuntimeError), match="meta"):
            ask(0, 1, device="meta")


def test_reading_a_window_of_a_head_touches_only_its_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generated("llama").save(tmp_path / "trace.safetensors")
    loaded = gentrace.load(tmp_path / "trace.safetensors")
    read: list[tuple[str, int | None]] = []
    tensor, slab = loaded.store.tensor, loaded.store.slab
    monkeypatch.setattr(loaded.store, "tensor", lambda name: read.append((name, None)) or tensor(name))
    monkeypatch.setattr(loaded.store, "slab", lambda name, index: read.append((name, index)) or slab(name, index))
    for ask in (loaded.attention, loaded.scores, loaded.overview):
        read.clear()
        ask(1, 3)
        big = {(name, index) for name, index in read if not name.startswith("masks.")}
        assert big == {("layers.1.self.queries", 3), ("layers.1.self.keys", 1)}


def test_an_overview_holds_plain_values() -> None:
    kind: Kind = "self"
    overview = random_trace(9, 5).overview(0, 1, 2, kind=kind, what="scores")
    assert isinstance(overview, Overview)
    assert overview.values.shape == (2, 2)
    assert overview.values[0, 1] == -torch.inf
    assert overview.key_edges == (0, 4, 8)
