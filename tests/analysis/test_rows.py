"""Single rows of attention, against numbers worked out by hand."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gentrace.analysis import (
    Measure,
    MeasureError,
    attention_entropy,
    blocks,
    first_token_mass,
    learned_sink_mass,
    mean_distance,
    sink_mass,
)
from gentrace.errors import AttentionUnavailable
from gentrace.trace.trace import Trace
from tests.analysis.made import made_tokens, made_trace, random_weights

ROWS = [[1, 0, 0, 0], [0.5, 0.5, 0, 0], [0, 0, 1, 0], [0.25, 0.25, 0.25, 0.25]]
LOOSE = [[0.5, 0, 0, 0], [0.25, 0.25, 0, 0], [0, 0, 0.5, 0], [0.125, 0.125, 0.125, 0.125]]
MEASURES = [attention_entropy, first_token_mass, learned_sink_mass, mean_distance, sink_mass]


def test_entropy_by_hand() -> None:
    measure = attention_entropy(made_trace({2: [ROWS]}))
    assert measure.axes == ("layer", "head", "query")
    assert measure.unit == "nats"
    assert measure[2, 0].values == pytest.approx([0, math.log(2), 0, math.log(4)], abs=1e-6)
    assert attention_entropy(made_trace({2: [ROWS]}), unit="bits")[2, 0].values == pytest.approx([0, 1, 0, 2], abs=1e-6)


def test_distance_by_hand() -> None:
    # Row 3 looks 3, 2, 1 and 0 back, a quarter of it each.
    measure = mean_distance(made_trace({0: [ROWS]}))
    assert measure[0, 0].values == pytest.approx([0, 0.5, 0, 1.5], abs=1e-6)
    assert measure.unit == "tokens"


def test_an_encoder_also_looks_ahead() -> None:
    trace = made_trace({0: [[[0, 0, 1], [0, 1, 0], [1, 0, 0]]]}, kind="encoder", encoder_tokens=made_tokens(3))
    assert mean_distance(trace, kind="encoder")[0, 0].values == pytest.approx([2, 0, 2])


def test_mass_of_the_first_tokens() -> None:
    trace = made_trace({0: [ROWS]})
    assert first_token_mass(trace)[0, 0].values == pytest.approx([1, 0.5, 0, 0.25])
    assert first_token_mass(trace, tokens=2)[0, 0].values == pytest.approx([1, 1, 0, 0.5])
    assert first_token_mass(trace, tokens=0)[0, 0].values == pytest.approx([0, 0, 0, 0])
    assert learned_sink_mass(trace)[0, 0].values.tolist() == [0, 0, 0, 0]


def test_a_learned_sink_takes_what_the_keys_do_not_get() -> None:
    # The sink takes half of each row of layer 1 and nothing is there in layer 0.
    trace = made_trace({0: [ROWS], 1: [LOOSE]}, sinks={1: [0.5]})
    assert trace.attention(1)[0].sum(-1).tolist() == pytest.approx([0.5] * 4)
    assert learned_sink_mass(trace)[1, 0].values == pytest.approx([0.5] * 4)
    assert learned_sink_mass(trace)[0, 0].values.tolist() == [0] * 4
    assert sink_mass(trace)[1, 0].values == pytest.approx([1, 0.75, 0.5, 0.625])
    # Where a head looks, if it looks at a token at all, is the same as without the sink.
    for measure in (attention_entropy, mean_distance):
        assert measure(trace)[1, 0].values == pytest.approx(measure(trace)[0, 0].values, abs=1e-6)


@pytest.mark.parametrize("measure", MEASURES)
def test_rows_never_seen_are_nan_and_counted(measure: Any) -> None:
    found = measure(made_trace({0: [ROWS, ROWS], 4: [ROWS, ROWS]}, unseen=(1, 2)))
    assert np.isnan(found.values[:, :, [1, 2]]).all()
    assert not np.isnan(found.values[:, :, [0, 3]]).any()
    assert (found.unseen, found.blind) == (4, 0)
    assert found.mean("query").values[0, 0] == pytest.approx(found.values[0, 0, [0, 3]].mean())


@pytest.mark.parametrize("measure", MEASURES)
def test_a_row_that_sees_nothing_is_nan_and_counted(measure: Any) -> None:
    dark = [[0, 0, 0, 0], *ROWS[1:]]
    found = measure(made_trace({0: [dark, ROWS]}))
    assert np.isnan(found[0, 0].values).tolist() == [True, False, False, False]
    assert not np.isnan(found[0, 1].values).any()
    assert (found.unseen, found.blind) == (0, 1)


def test_layers_keep_their_numbers_and_missing_heads_are_absent() -> None:
    measure = first_token_mass(made_trace({7: [ROWS], 2: [ROWS, LOOSE]}, sinks={2: [1e-30, 0.5]}))
    assert measure.coordinates["layer"] == (2, 7)
    assert measure.absent == {(7, 1)}
    assert measure[7].coordinates["head"] == (0,)
    with pytest.raises(MeasureError, match=r"selecting head 1 of layer 7 of first_token_mass\. there are \[0\]"):
        measure[7, 1]
    assert len(measure.to_pandas()) == 3 * 4
    assert measure[2, 1].values == pytest.approx([0.5, 0.25, 0, 0.125])


def test_layers_can_be_chosen() -> None:
    trace = made_trace({0: [ROWS], 3: [ROWS], 5: [ROWS]})
    assert first_token_mass(trace, layers=[5, 0]).coordinates["layer"] == (0, 5)
    with pytest.raises(AttentionUnavailable, match="layer 4"):
        first_token_mass(trace, layers=[4])
    with pytest.raises(AttentionUnavailable, match="measuring cross attention"):
        first_token_mass(trace, kind="cross")


def test_generated_rows_begin_with_the_one_that_predicts_the_first_generated_token() -> None:
    # Five tokens, three of them given: rows 2 and 3 predict tokens 3 and 4.
    trace = made_trace({0: [ROWS]}, made_tokens(5, 3))
    measure = first_token_mass(trace, queries="generated")
    assert measure.coordinates["query"] == (2, 3)
    assert measure[0, 0].values == pytest.approx([0, 0.25])
    assert first_token_mass(trace, queries=(1, 3)).coordinates["query"] == (1, 2)


def test_a_text_that_was_only_read_has_no_generated_rows() -> None:
    measure = first_token_mass(made_trace({0: [ROWS]}, made_tokens(4, 4)), queries="generated")
    assert measure.values.shape == (1, 1, 0)
    assert np.isnan(measure.mean("query").values).all()


@pytest.mark.parametrize("queries", [(2, 5), (3, 1), (-1, 2), (0, 1, 2), "written"])
def test_rows_that_do_not_exist_are_named(queries: Any) -> None:
    with pytest.raises(MeasureError, match=r"the trace has rows 0 … 3"):
        first_token_mass(made_trace({0: [ROWS]}), queries=queries)


def test_what_makes_no_sense_is_refused() -> None:
    crossed = made_trace({0: [ROWS]}, kind="cross", encoder_tokens=made_tokens(4))
    with pytest.raises(MeasureError, match="another text"):
        mean_distance(crossed, kind="cross")
    with pytest.raises(MeasureError, match='give "nats" or "bits"'):
        attention_entropy(made_trace({0: [ROWS]}), unit="bans")  # pyright: ignore[reportArgumentType]
    for measure in (first_token_mass, sink_mass):
        with pytest.raises(MeasureError, match="tokens=-1"):
            measure(made_trace({0: [ROWS]}), tokens=-1)


@pytest.mark.parametrize("measure", MEASURES)
def test_blocks_of_rows_change_nothing_and_nothing_larger_is_read(
    measure: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = made_trace({1: random_weights(3, 23), 4: random_weights(2, 23, 1)}, unseen=(0, 9))
    whole: Measure = measure(trace)
    read: list[int] = []
    original = Trace.attention

    def counted(self: Trace, *args: Any, **kwargs: Any) -> torch.Tensor:
        found = original(self, *args, **kwargs)
        read.append(found.numel())
        return found

    monkeypatch.setattr(Trace, "attention", counted)
    monkeypatch.setattr(blocks, "BLOCK", 300)
    np.testing.assert_allclose(measure(trace).values, whole.values)
    assert measure(trace).unseen == whole.unseen == 4
    assert max(read) <= 300
    assert len(read) > 10


def test_a_result_that_fills_the_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "LARGEST", 3)
    with pytest.raises(MeasureError, match=r"would hold 4 numbers, at most 3 are allowed\. choose fewer layers"):
        first_token_mass(made_trace({0: [ROWS]}))


@given(st.integers(1, 3), st.integers(1, 12), st.integers(0, 10_000), st.floats(0.1, 30))
def test_bounds(heads: int, length: int, seed: int, sharp: float) -> None:
    trace = made_trace({0: random_weights(heads, length, seed, sharp=sharp)})
    visible = np.arange(1, length + 1)
    entropy = attention_entropy(trace).values
    assert (entropy >= 0).all()
    assert (entropy <= np.log(visible) + 1e-6).all()
    distance = mean_distance(trace).values
    assert (distance >= 0).all()
    assert (distance <= visible - 1 + 1e-5).all()
    mass = sink_mass(trace).values
    assert ((mass >= 0) & (mass <= 1 + 1e-6)).all()
