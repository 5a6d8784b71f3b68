"""Distances between heads, against numbers worked out by hand and against SciPy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon

from gentrace.analysis import Measure, MeasureError, blocks, cluster_heads, head_distance
from tests.analysis.made import made_trace, random_weights

LEFT, RIGHT, BOTH = [1, 0], [0, 1], [0.5, 0.5]
HALF_WAY = 1.5 - 0.75 * np.log2(3)
"""Divergence of (1, 0) and (½, ½): the entropy of (¾, ¼), less half a bit. 0.3113 bits."""


def test_by_hand() -> None:
    trace = made_trace({0: [[LEFT, LEFT], [LEFT, RIGHT]], 4: [[LEFT, BOTH]]})
    measure = head_distance(trace)
    assert measure.axes == ("layer", "head", "other_layer", "other_head")
    assert measure.unit == "bits"
    # Row 0 is the same in all; the mean is over two rows.
    assert float(measure[0, 0, 0, 1]) == pytest.approx(1 / 2)
    assert float(measure[0, 0, 4, 0]) == pytest.approx(HALF_WAY / 2, abs=1e-6)
    assert float(measure[4, 0, 0, 1]) == pytest.approx(HALF_WAY / 2, abs=1e-6)
    assert len(measure.to_pandas()) == 9
    assert not measure.to_pandas()["value"].isna().any()
    assert len(measure[0, 0].values.reshape(-1)) == 4


def test_it_is_the_mean_of_scipys_over_rows() -> None:
    first, second = random_weights(2, 9, 0), random_weights(3, 9, 1)
    measure = head_distance(made_trace({1: first, 2: second}), queries=(2, 9))
    rows = [jensenshannon(first[1, row], second[2, row], base=2) ** 2 for row in range(2, 9)]
    assert float(measure[1, 1, 2, 2]) == pytest.approx(np.mean(rows), abs=1e-6)


def test_rows_that_cannot_be_compared_are_left_out_and_counted() -> None:
    dark = [[LEFT, RIGHT, [0, 0], BOTH], [LEFT, LEFT, LEFT, BOTH]]
    rows = [[[*row, 0, 0] for row in head] for head in dark]
    measure = head_distance(made_trace({0: rows}, unseen=(0,)))
    assert (measure.unseen, measure.blind) == (1, 1)
    assert float(measure[0, 0, 0, 1]) == pytest.approx(1 / 2)
    nothing = head_distance(made_trace({0: rows}, unseen=(0, 1, 2, 3)))
    assert np.isnan(nothing.values).all()


def test_a_long_text_is_compared_in_rows_at_even_distances(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = random_weights(2, 31, 5)
    trace = made_trace({0: weights})
    few = head_distance(trace, most=4)
    expected = [jensenshannon(weights[0, row], weights[1, row], base=2) ** 2 for row in (0, 10, 20, 30)]
    assert float(few[0, 0, 0, 1]) == pytest.approx(np.mean(expected), abs=1e-6)
    whole = head_distance(trace, most=None)
    monkeypatch.setattr(blocks, "BLOCK", 2 * 31 * 3)
    monkeypatch.setattr("gentrace.analysis.similarity.BLOCK", 2 * 31 * 4)
    np.testing.assert_allclose(head_distance(trace, most=None).values, whole.values)
    np.testing.assert_allclose(head_distance(trace, most=4).values, few.values)
    with pytest.raises(MeasureError, match="most=0"):
        head_distance(trace, most=0)


@given(st.integers(2, 4), st.integers(1, 8), st.integers(0, 999), st.floats(0.1, 40))
def test_symmetric_and_between_nothing_and_one_bit(heads: int, length: int, seed: int, sharp: float) -> None:
    square = head_distance(made_trace({0: random_weights(heads, length, seed, sharp=sharp)}))[0].select(other_layer=0)
    assert (square.values == square.values.T).all()
    assert (np.diagonal(square.values) == 0).all()
    assert ((square.values >= 0) & (square.values <= 1)).all()


def test_heads_that_do_the_same_are_one_cluster() -> None:
    previous = np.eye(8, k=-1).tolist()
    previous[0][0] = 1
    itself = np.eye(8).tolist()
    trace = made_trace({0: [previous, itself], 3: [itself, previous]})
    found = cluster_heads(head_distance(trace))
    assert {found.members(1), found.members(2)} == {((0, 0), (3, 1)), ((0, 1), (3, 0))}
    assert cluster_heads(head_distance(trace), clusters=1).labels == (1, 1, 1, 1)
    assert sorted(found.order) == [0, 1, 2, 3]
    assert {found.order[:2], found.order[2:]} <= {(0, 3), (3, 0), (1, 2), (2, 1)}
    # Row 0 is the same in all, so heads of either sort are 7/8 apart, which two points on a line can show.
    gaps = np.linalg.norm(found.places[:, None] - found.places, axis=-1)
    assert gaps[0] == pytest.approx([0, 7 / 8, 7 / 8, 0], abs=1e-6)
    assert found.linkage[-1, 2] == pytest.approx(7 / 8, abs=1e-6)


def test_absent_heads_are_not_clustered() -> None:
    trace = made_trace({0: random_weights(2, 5, 0), 1: random_weights(1, 5, 1)})
    assert cluster_heads(head_distance(trace)).heads == ((0, 0), (0, 1), (1, 0))


def test_what_cannot_be_clustered_is_refused() -> None:
    one = head_distance(made_trace({0: random_weights(1, 5)}))
    with pytest.raises(MeasureError, match="1 heads"):
        cluster_heads(one)
    with pytest.raises(MeasureError, match="what head_distance returns"):
        cluster_heads(Measure("made", 1.0, (), "", {}))
    with pytest.raises(MeasureError, match="3 clusters of 2 heads"):
        cluster_heads(head_distance(made_trace({0: random_weights(2, 5)})), clusters=3)
    with pytest.raises(MeasureError, match="4 unknown distances"):
        cluster_heads(head_distance(made_trace({0: random_weights(2, 2)}, unseen=(0, 1))))
