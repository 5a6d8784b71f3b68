"""What travels in the page is what the trace holds, to the error that is promised."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gentrace.errors import ViewBudgetError, ViewError
from gentrace.explorer import explore
from gentrace.explorer.plan import plan
from gentrace.trace.store import MemoryStore
from gentrace.trace.trace import Trace
from tests.explorer.unpacked import close_enough, data_of, matrices, part_of
from tests.views.made import random_trace
from tests.views.made_kinds import by_hand, causal, sentences, translator


def layers_of(page: str, place: int = 0) -> list[dict[str, Any]]:
    return data_of(page)["traces"][place]["layers"]


@pytest.mark.parametrize("more", [{}, {"unseen": 2}, {"window": 5}], ids=["causal", "unseen", "window"])
def test_every_cell_of_every_head(more: dict[str, Any]) -> None:
    trace = random_trace(24, 6, heads=3, layers=(0, 4), **more)
    page = explore(trace).html
    layers = layers_of(page)
    assert [layer["index"] for layer in layers] == [0, 4]
    assert all(layer["causal"] for layer in layers)
    for layer in layers:
        for head, shown in matrices(page, layer).items():
            true = trace.attention(layer["index"], head)
            lower = torch.ones_like(true).tril().bool()
            close_enough(shown[lower], true[lower])


def test_the_comparison_notices_a_cell_that_is_off() -> None:
    with pytest.raises(AssertionError):
        close_enough(torch.tensor([0.52]), torch.tensor([0.5]))


def test_chosen_layers_heads_and_rows() -> None:
    trace = random_trace(24, 6, heads=3, layers=(0, 4))
    page = explore(trace, layers=4, heads=[2, 0], rows=(7, 15)).html
    (layer,) = layers_of(page)
    assert (layer["index"], layer["heads"], layer["queries"], layer["keys"]) == (4, [2, 0], [7, 15], 15)
    for head, shown in matrices(page, layer).items():
        true = trace.attention(4, head)[7:15, :15]
        close_enough(shown, true)
    assert len(data_of(page)["traces"][0]["text"]["labels"]) == 16


def test_all_kinds_of_an_encoder_decoder() -> None:
    trace = translator()
    page = explore(trace).html
    layers = layers_of(page)
    assert [(layer["kind"], layer["causal"]) for layer in layers] == [
        ("self", True), ("cross", False), ("encoder", False),
    ]  # fmt: skip
    for layer in layers:
        for head, shown in matrices(page, layer).items():
            weights, _ = by_hand(trace, head, layer["kind"], is_causal=layer["causal"])
            close_enough(shown, weights)
    data = data_of(page)["traces"][0]
    assert len(data["source"]["labels"]) == 6
    assert len(data["text"]["labels"]) == 5


def test_an_encoder_sends_both_triangles() -> None:
    trace = sentences()
    page = explore(trace).html
    (layer,) = layers_of(page)
    assert not layer["causal"]
    close_enough(matrices(page, layer)[1], by_hand(trace, 1)[0])


def largest(weights: Tensor, edges: list[int]) -> Tensor:
    """Each block's largest weight, by looking at every one of its cells."""
    spans = list(pairwise(edges))
    rows = [[max(weights[a:b, c:d].flatten().tolist()) for c, d in spans] for a, b in spans]
    return torch.tensor(rows)


def test_beyond_the_budget_matrices_are_pooled_and_the_first_stays_whole() -> None:
    trace = random_trace(101, 6, heads=2, layers=(0, 1, 2, 3))
    cells = 100 * 101 // 2
    page = explore(trace, max_bytes=4 * cells).html
    *pooled, first = layers_of(page)
    assert first["whole"] == [0, 1]
    close_enough(matrices(page, first)[1].tril(), trace.attention(3, 1).tril())
    for layer in pooled:
        assert layer["whole"] == []
        edges = layer["queryEdges"]
        assert edges == layer["keyEdges"]
        assert (edges[0], edges[-1]) == (0, 100)
        for head, shown in matrices(page, layer).items():
            close_enough(shown, largest(trace.attention(layer["index"], head), edges))


def test_pooling_some_rows_only() -> None:
    trace = random_trace(101, 6, heads=2, layers=(0, 1), unseen=3)
    page = explore(trace, rows=(2, 90), pool=32, max_bytes=12_000).html
    pooled, _ = layers_of(page)
    rows, columns = pooled["queryEdges"], pooled["keyEdges"]
    assert (rows[0], rows[-1], columns[-1]) == (2, 90, 90)
    shown, true = matrices(page, pooled)[0], trace.attention(0, 0)
    for row, (a, b) in enumerate(pairwise(rows)):
        for column, (c, d) in enumerate(pairwise(columns)):
            cells = [value for value in true[a:b, c:d].flatten().tolist() if value == value]
            close_enough(shown[row, column][None], torch.tensor([max(cells) if cells else torch.nan]))


def test_exact_heads_stay_whole_and_bring_their_queries_and_keys() -> None:
    trace = causal(heads=4, kv_heads=2, length=100)
    page = explore(trace, exact=[(0, 3)], pool=10, max_bytes=12_000).html
    (layer,) = layers_of(page)
    assert layer["whole"] == [3]
    bytes_of = np.frombuffer(part_of(page, layer["exact"]["3"]), "<f4")
    assert np.array_equal(bytes_of[:400], trace.queries(0)[3].flatten().numpy())
    assert np.array_equal(bytes_of[400:800], trace.keys(0)[1].flatten().numpy())
    runs = np.frombuffer(part_of(page, layer["exact"]["3"]), "<i4")[800:]
    assert runs.tolist() == [0] * 100 + list(range(1, 101))


def test_exact_heads_of_which_only_scores_are_known_bring_those() -> None:
    trace = causal(length=6, scores_only=True)
    page = explore(trace, exact=[(0, 1)]).html
    (layer,) = layers_of(page)
    assert (layer["dim"], layer["finished"]) == (0, True)
    scores = np.frombuffer(part_of(page, layer["exact"]["1"]), "<f4")[12:].reshape(6, 6)
    assert np.array_equal(scores, trace.scores(0, 1).numpy())


def test_probabilities_and_alternatives() -> None:
    trace = random_trace(9, 4)
    text = data_of(explore(trace).html)["traces"][0]["text"]
    assert text["logprobs"][0] is None
    assert text["logprobs"][5] == pytest.approx(np.log(0.5), rel=1e-4)
    named = [[text["words"][word], model, sampled, came] for word, model, sampled, came in text["alternatives"][5]]
    assert named[0] == ["␣word5", 0.5, pytest.approx(2 / 3, rel=1e-4), 1]
    assert named[2] == ["other2", 0.125, 0.0, 0]


def test_several_traces_by_name_or_not() -> None:
    one, other = random_trace(9, 4), random_trace(12, 4)
    named = data_of(explore({"a": one, "b": other}).html)["traces"]
    assert [trace["name"] for trace in named] == ["a", "b"]
    assert [trace["layers"][0]["keys"] for trace in named] == [8, 11]
    assert [trace["name"][:3] for trace in data_of(explore([one, other]).html)["traces"]] == ["1 ·", "2 ·"]


@pytest.mark.parametrize("options", [{"pool": 0}, {"pool": 64}, {}], ids=["no pool", "given pool", "any pool"])
def test_too_much_is_refused_before_anything_is_read(options: dict[str, Any]) -> None:
    trace = only_masks(random_trace(101, 6, heads=2, layers=(0, 1, 2, 3)))
    with pytest.raises(ViewBudgetError, match=r"layers=.*heads=.*rows=.*exact=.*max_bytes="):
        explore(trace, max_bytes=2000, **options)


def only_masks(trace: Trace) -> Trace:
    """The same trace, of which nothing but masks can be read."""

    class Refusing(MemoryStore):
        def tensor(self, name: str) -> Tensor:
            assert name.startswith("masks."), f"{name} was read"
            return super().tensor(name)

        def slab(self, name: str, index: int) -> Tensor:
            raise AssertionError(f"{name} was read")

    store = Refusing({name: trace.store.tensor(name) for name in trace.store.names()})
    return replace(trace, store=store)


def test_what_is_not_there() -> None:
    trace = random_trace(9, 4, heads=2)
    for options, words in (
        ({"layers": 3}, "showing layer 3"),
        ({"heads": 2}, "head 2"),
        ({"rows": (3, 30)}, "rows 3"),
        ({"exact": [(0, 7)]}, "head 7 of layer 0"),
        ({"exact": [(0, 1, "cross")]}, "cross"),
    ):
        with pytest.raises(ViewError, match=words):
            explore(trace, **options)
    with pytest.raises(ViewError, match="no attention was recorded in it"):
        explore(random_trace(9, 4, layers=()))
    with pytest.raises(ViewError, match="no trace was given"):
        explore([])


def test_the_plan_counts_what_really_travels() -> None:
    trace = causal(heads=4, kv_heads=2, length=50)
    for options in ({}, {"exact": [(0, 0)]}, {"pool": 8, "exact": [(0, 2)]}):
        budget = 4000 if "pool" in options else 10_000_000
        (one,) = plan({"": trace}, None, None, None, options.get("exact"), options.get("pool"), budget)
        page = explore(trace, max_bytes=budget, **options).html
        layer = layers_of(page)[0]
        parts = [layer["part"], *layer["exact"].values()]
        assert one.size == sum(len(part_of(page, part)) for part in parts)
