"""How attention divides among parts of the text, by hand."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gentrace.analysis import MeasureError, Span, lookback_ratio, span_mass
from tests.analysis.made import made_tokens, made_trace, random_weights

ROWS = [[1, 0, 0, 0], [0.5, 0.5, 0, 0], [0.25, 0.25, 0.5, 0], [0.1, 0.2, 0.3, 0.4]]
NAN = np.nan


def test_spans_by_hand() -> None:
    trace = made_trace({3: [ROWS]}, made_tokens(5, 2))
    measure = span_mass(trace, {"first": (0, 1), "late": [(1, 2), (3, 5)], "nothing": (2, 2)})
    assert measure.axes == ("layer", "head", "query", "span")
    assert measure.coordinates["span"] == ("first", "late", "nothing", "other")
    assert measure[3, 0, 3].values == pytest.approx([0.1, 0.6, 0, 0.3])
    assert measure[3, 0, 0].values == pytest.approx([1, 0, 0, 0])


def test_without_more_it_is_prompt_and_generated() -> None:
    measure = span_mass(made_trace({0: [ROWS]}, made_tokens(5, 2)), rest=None)
    assert measure.coordinates["span"] == ("prompt", "generated")
    assert measure[0, 0, 2].values == pytest.approx([0.5, 0.5])
    assert measure[0, 0, 1].values == pytest.approx([1, 0])


def test_spans_of_cross_attention_are_the_encoders() -> None:
    encoder = made_tokens(4, 4, texts=("What", " is", " it", "?"))
    trace = made_trace({0: [ROWS]}, kind="cross", encoder_tokens=encoder)
    measure = span_mass(trace, {"question": {"text": "What is"}}, kind="cross")
    assert measure[0, 0, 3].values == pytest.approx([0.3, 0.7])


def test_unseen_and_blind_rows_are_nan_in_every_span() -> None:
    trace = made_trace({0: [[*ROWS[:3], [0, 0, 0, 0]]]}, unseen=(1,))
    measure = span_mass(trace, {"empty": (0, 0)})
    assert np.isnan(measure[0, 0].values).tolist() == [[False] * 2, [True] * 2, [False] * 2, [True] * 2]
    assert (measure.unseen, measure.blind) == (1, 1)


def test_names_are_told_apart() -> None:
    trace = made_trace({0: [ROWS]})
    with pytest.raises(MeasureError, match="names of spans: other, other"):
        span_mass(trace, {"other": (0, 1)})
    with pytest.raises(MeasureError, match="give each its own name"):
        span_mass(trace, (Span("a", ()), Span("a", ())))


@given(st.lists(st.integers(0, 9), max_size=4), st.integers(0, 999), st.floats(0, 0.9))
def test_the_mass_over_all_spans_and_the_rest_is_one_less_the_sink(cuts: list[int], seed: int, sink: float) -> None:
    edges = sorted(cuts)
    spans = {str(place): pair for place, pair in enumerate(pairwise(edges))}
    weights = random_weights(2, 9, seed) * (1 - sink)
    trace = made_trace({0: weights}, made_tokens(10), sinks={0: [sink, sink]} if sink else None)
    total = span_mass(trace, spans).values.sum(-1)
    np.testing.assert_allclose(total, 1 - sink, atol=1e-5)


def test_lookback_by_hand() -> None:
    # Two tokens given. Row 2: the prompt's tokens get a quarter each, the new one a half: 0.25 / (0.25 + 0.5).
    # Row 3: (0.1 + 0.2) / 2 against (0.3 + 0.4) / 2.
    trace = made_trace({0: [ROWS]}, made_tokens(5, 2))
    measure = lookback_ratio(trace)
    assert measure.coordinates["query"] == (1, 2, 3)
    assert measure[0, 0].values == pytest.approx([NAN, 1 / 3, 0.3], nan_ok=True)
    sums = lookback_ratio(trace, per_token=False, queries="all")
    assert sums[0, 0].values == pytest.approx([NAN, NAN, 0.5, 0.3], nan_ok=True)


def test_lookback_to_a_part_of_the_prompt() -> None:
    trace = made_trace({0: [ROWS]}, made_tokens(5, 2))
    measure = lookback_ratio(trace, context=(1, 2))
    assert measure[0, 0].values == pytest.approx([NAN, 1 / 3, 0.2 / (0.2 + 0.35)], nan_ok=True)
    for context in ((1, 3), (1, 1), (-1, 1)):
        with pytest.raises(MeasureError, match="of a prompt of 2 tokens"):
            lookback_ratio(trace, context=context)


def test_a_head_that_looks_everywhere_alike_gives_a_half() -> None:
    even = [[1 / (row + 1) if key <= row else 0 for key in range(9)] for row in range(9)]
    measure = lookback_ratio(made_trace({0: [even]}, made_tokens(10, 3)), queries=(3, 9))
    assert measure.values == pytest.approx(np.full((1, 1, 6), 0.5))


def test_a_head_that_looks_at_neither_part_is_unknown() -> None:
    rows = [[1, 0, 0], [1, 0, 0], [1, 0, 0]]
    measure = lookback_ratio(made_trace({0: [rows]}, made_tokens(4, 2)), context=(1, 2), queries=(2, 3))
    assert np.isnan(measure.values).all()
