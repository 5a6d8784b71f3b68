"""Rollout and flow, by hand, against networkx, and against the plain product of matrices."""

from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gentrace.analysis import MeasureError, attention_flow, attention_rollout, blocks, rollout
from gentrace.trace.trace import Trace
from tests.analysis.made import made_tokens, made_trace, random_weights

FIRST = [[[1, 0], [0.5, 0.5]]]
SECOND = [[[1, 0], [1, 0]], [[1, 0], [0, 1]]]
"""Two heads whose mean is [[1, 0], [0.5, 0.5]]."""


def mixed(trace: Trace, layer: int, residual: float = 0.5) -> np.ndarray:
    mean = trace.attention(layer).double().mean(0).numpy()
    return residual * np.eye(len(mean)) + (1 - residual) * mean / mean.sum(-1, keepdims=True)


def test_rollout_by_hand() -> None:
    # Either layer mixes as [[1, 0], [1/4, 3/4]]; twice that keeps 9/16.
    measure = attention_rollout(made_trace({0: FIRST, 5: SECOND}))
    assert measure.axes == ("query", "key")
    assert measure.values == pytest.approx(np.array([[1, 0], [7 / 16, 9 / 16]]))
    one = attention_rollout(made_trace({0: FIRST, 5: SECOND}), layers=[5], queries=(1, 2))
    assert one[1].values == pytest.approx([1 / 4, 3 / 4])
    assert attention_rollout(made_trace({0: FIRST}), residual=0.0)[1].values == pytest.approx([1 / 2, 1 / 2])


def test_layers_are_multiplied_from_the_top() -> None:
    # Layer 0 moves token 0 to 1, layer 1 moves token 1 to 2: token 2 holds some of token 0. The other way round not.
    lower = [[[1, 0, 0], [1, 0, 0], [0, 0, 1]]]
    upper = [[[1, 0, 0], [0, 1, 0], [0, 1, 0]]]
    for measure in (attention_rollout, attention_flow):
        assert measure(made_trace({0: lower, 1: upper}), queries=(2, 3))[2, 0].values > 0.1
        assert measure(made_trace({0: upper, 1: lower}), queries=(2, 3))[2, 0].values == 0


@given(st.integers(1, 3), st.integers(1, 9), st.integers(0, 999), st.floats(0, 1))
def test_rollout_is_the_product_and_its_rows_sum_to_one(layers: int, length: int, seed: int, residual: float) -> None:
    trace = made_trace({layer: random_weights(2, length, seed + layer) for layer in range(layers)})
    expected = np.eye(length)
    for layer in range(layers):
        expected = mixed(trace, layer, residual) @ expected
    found = attention_rollout(trace, residual=residual).values
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_allclose(found.sum(-1), 1, atol=1e-6)


def test_few_rows_and_small_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    trace = made_trace({layer: random_weights(3, 20, layer) for layer in range(3)}, unseen=(4, 11))
    whole = attention_rollout(trace)
    monkeypatch.setattr(blocks, "BLOCK", 3 * 20 * 7)
    np.testing.assert_allclose(attention_rollout(trace, queries=(9, 13)).values, whole.values[9:13])


def test_rows_never_seen_keep_what_they_have() -> None:
    trace = made_trace({0: [[[1, 0, 0], [0, 1, 0], [0.5, 0.5, 0]]]}, unseen=(1,))
    for measure in (attention_rollout, attention_flow):
        found = measure(trace, queries="all")
        assert np.isnan(found[1].values).all()
        assert found[2].values == pytest.approx([0.25, 0.25, 0.5])
        assert found.unseen == 1


def test_a_row_that_sees_nothing_keeps_what_it_has() -> None:
    trace = made_trace({0: [[[0, 0], [0.5, 0.5]]]})
    assert attention_rollout(trace).values == pytest.approx(np.array([[1, 0], [0.25, 0.75]]))


def test_with_learned_sinks_rows_still_sum_to_one() -> None:
    trace = made_trace({0: [[[0.5, 0], [0.25, 0.25]]]}, sinks={0: [0.5]})
    assert attention_rollout(trace).values == pytest.approx(np.array([[1, 0], [0.25, 0.75]]))


def test_flow_by_hand() -> None:
    # One layer: the pipes themselves. Two layers: to token 0 leads 1/4 at once and then a pipe of 1, and 3/4 to token 1
    # whence a pipe of 1/4: 1/2 in all. To token 1 leads 3/4 through 3/4.
    one = attention_flow(made_trace({0: FIRST}), normalize=False)
    assert one.coordinates["query"] == (1,)
    assert one[1].values == pytest.approx([1 / 4, 3 / 4], abs=1e-8)
    two = made_trace({0: FIRST, 5: SECOND})
    assert attention_flow(two, normalize=False)[1].values == pytest.approx([1 / 2, 3 / 4], abs=1e-8)
    assert attention_flow(two)[1].values == pytest.approx([2 / 5, 3 / 5], abs=1e-8)
    assert attention_flow(two).unit == "share"


@settings(max_examples=20)
@given(st.integers(1, 3), st.integers(2, 6), st.integers(0, 999))
def test_flow_is_what_networkx_finds(layers: int, length: int, seed: int) -> None:
    trace = made_trace({layer: random_weights(2, length, seed + layer, sharp=2) for layer in range(layers)})
    graph: Any = nx.DiGraph()
    for level in range(layers):
        matrix = mixed(trace, level)
        for query in range(length):
            for key in range(length):
                if matrix[query, key] > 0:
                    graph.add_edge((level + 1, query), (level, key), capacity=matrix[query, key])
    found = attention_flow(trace, queries=(1, length), normalize=False)
    for query in range(1, length):
        for key in range(query + 1):
            expected = nx.maximum_flow_value(graph, (layers, query), (0, key))
            assert float(found[query, key]) == pytest.approx(expected, abs=1e-7)
        assert (found[query].values[query + 1 :] == 0).all()


def test_what_makes_no_sense_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    crossed = made_trace({0: FIRST}, kind="cross", encoder_tokens=made_tokens(2))
    for measure in (attention_rollout, attention_flow):
        with pytest.raises(MeasureError, match="leads into another text"):
            measure(crossed, kind="cross")
        with pytest.raises(MeasureError, match="residual=2"):
            measure(made_trace({0: FIRST}), residual=2)
    monkeypatch.setattr(rollout, "LARGEST_FLOW", 1)
    with pytest.raises(MeasureError, match="choose fewer queries or layers"):
        attention_flow(made_trace({0: FIRST}))


def test_an_encoder_flows_both_ways() -> None:
    weights = torch.full((1, 3, 3), 1 / 3)
    trace = made_trace({0: weights}, kind="encoder", encoder_tokens=made_tokens(3))
    for measure in (attention_rollout, attention_flow):
        assert measure(trace, kind="encoder", queries=(0, 1))[0].values == pytest.approx(
            [4 / 6, 1 / 6, 1 / 6], abs=1e-6
        )
