"""Means and their intervals, by hand and against SciPy's bootstrap."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from gentrace.analysis import Measure, MeasureError, adjusted, mean_interval, resampling, summarize
from gentrace.analysis.resampling import Plan, draws

SKEWED = np.random.default_rng(3).exponential(2.0, 25)


def test_the_interval_is_scipys() -> None:
    ours = mean_interval(SKEWED, resamples=20_000, level=0.9)
    theirs = stats.bootstrap((SKEWED,), np.mean, n_resamples=20_000, confidence_level=0.9, method="BCa", rng=1)
    width = theirs.confidence_interval.high - theirs.confidence_interval.low
    assert ours.value == pytest.approx(SKEWED.mean())
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=0.03 * width)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=0.03 * width)
    assert (ours.count, ours.level) == (25, 0.9)
    # It leans as the values do, which an interval of two standard errors would not.
    assert ours.high - ours.value > 1.15 * (ours.value - ours.low)


def test_it_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    drawn = rng.normal(1.0, 1.0, (300, 30))
    hits = [found.low <= 1.0 <= found.high for found in (mean_interval(row, resamples=400) for row in drawn)]
    assert 0.89 <= np.mean(hits) <= 0.98


def test_the_same_seed_gives_the_same_figures() -> None:
    assert mean_interval(SKEWED) == mean_interval(SKEWED)
    assert mean_interval(SKEWED) != mean_interval(SKEWED, seed=1)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = mean_interval(SKEWED)
    monkeypatch.setattr(resampling, "CHUNK", 100)
    assert mean_interval(SKEWED).low == pytest.approx(whole.low)


def test_unknown_values_are_left_out() -> None:
    found = mean_interval([1.0, np.nan, 3.0, np.nan, 5.0])
    assert (found.value, found.count) == (3.0, 3)
    assert 1 <= found.low < 3 < found.high <= 5


def test_few_values_have_no_interval() -> None:
    assert np.isnan(mean_interval([]).value)
    one = mean_interval([2.5])
    assert (one.value, one.count) == (2.5, 1)
    assert np.isnan([one.low, one.high]).all()
    assert np.isnan(mean_interval([np.nan, np.nan]).value)
    for count in (2, 7, 50):
        same = mean_interval([0.1] * count)
        assert [same.low, same.value, same.high] == pytest.approx([0.1] * 3, abs=1e-15)


def test_whole_groups_are_drawn() -> None:
    # Two texts of 50 equal values each: only two things were seen, however many values there are.
    values, groups = [0.0] * 50 + [1.0] * 50, ["a"] * 50 + ["b"] * 50
    alone, together = mean_interval(values), mean_interval(values, groups=groups)
    assert alone.high - alone.low < 0.25
    assert (together.value, together.low, together.high) == (0.5, 0.0, 1.0)
    assert np.isnan(mean_interval(values, groups=["a"] * 100).low)
    with pytest.raises(MeasureError, match="2 values, 1 groups"):
        mean_interval([1, 2], groups=["a"])


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=20))
def test_the_interval_lies_within_the_values(values: list[float]) -> None:
    found = mean_interval(values, resamples=50)
    slack = 1e-9 * max(map(abs, values))
    assert min(values) - slack <= found.low <= found.high <= max(values) + slack


def test_draws_are_as_many_as_there_are_units() -> None:
    for block in (1, 3, 50):
        drawn = np.concatenate(list(draws(7, Plan(resamples=500, block=block))))
        assert drawn.shape == (500, 7)
        assert (drawn.sum(1) == 7).all()
        assert drawn.mean(0) == pytest.approx(np.ones(7), abs=0.2)
    # A block as long as the text draws it whole.
    assert (next(draws(7, Plan(resamples=9, block=7))) == 1).all()


def test_blocks_keep_neighbours_together() -> None:
    drawn = next(draws(40, Plan(resamples=2000, block=8)))
    near, far = np.corrcoef(drawn[:, 10], drawn[:, 11])[0, 1], np.corrcoef(drawn[:, 10], drawn[:, 30])[0, 1]
    assert near > 0.7
    assert far < 0


@pytest.mark.parametrize("plan", [{"level": 1.0}, {"resamples": 1}])
def test_a_plan_that_makes_no_sense_is_refused(plan: dict[str, float]) -> None:
    with pytest.raises(MeasureError, match="planning a bootstrap"):
        mean_interval([1, 2], **plan)  # pyright: ignore[reportArgumentType]
    with pytest.raises(MeasureError, match="block=0"):
        Plan(block=0)


def head_measures(values: np.ndarray) -> list[Measure]:
    """One measure of two layers of two heads for each row."""
    labels = {"layer": (0, 4), "head": (0, 1)}
    return [Measure("made", row.reshape(2, 2), ("layer", "head"), "share", labels, unseen=1) for row in values]


def test_a_summary_has_each_cells_mean_interval() -> None:
    values = np.random.default_rng(0).normal(size=(12, 4)) + np.arange(4)
    values[3, 1] = np.nan
    found = summarize(head_measures(values))
    assert found.axes == ("layer", "head", "statistic")
    assert found.coordinates["statistic"] == ("mean", "low", "high", "count")
    assert (found.unit, found.unseen) == ("share", 12)
    alone = mean_interval(values[:, 2])
    assert found[4, 0].values == pytest.approx([alone.value, alone.low, alone.high, 12])
    assert float(found[0, 1, "mean"]) == pytest.approx(np.nanmean(values[:, 1]))
    assert float(found[0, 1, "count"]) == 11


def test_measures_that_do_not_line_up_are_refused() -> None:
    one = head_measures(np.zeros((1, 4)))
    other = one[0].select(layer=[4, 0])
    with pytest.raises(MeasureError, match="differ in axes, labels or unit"):
        summarize([*one, other])
    with pytest.raises(MeasureError, match="there are none"):
        summarize([])


def test_adjusted_p_values_by_hand() -> None:
    # Sorted 0.01, 0.02, 0.03, 0.5 times 4/1, 4/2, 4/3, 4/4, then the running minimum from the right.
    p = np.array([[0.02, 0.5], [np.nan, 0.01]])
    assert adjusted(p) == pytest.approx(np.array([[0.03, 0.5], [np.nan, 0.03]]), nan_ok=True)
    assert adjusted(np.array([0.01, 0.02, 0.03, 0.5])) == pytest.approx([0.04, 0.04, 0.04, 0.5])
    assert np.isnan(adjusted(np.array([np.nan]))).all()
