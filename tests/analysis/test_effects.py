"""Effect sizes and contrasts, by hand and against SciPy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from gentrace.analysis import MeasureError, cliffs_delta, cohens_d, contrast, resampling
from tests.analysis.test_statistics import head_measures

RNG = np.random.default_rng(5)
HIGH, LOW = RNG.normal(1.0, 1.0, 40), RNG.normal(0.0, 1.0, 30)


def test_cohens_d_by_hand() -> None:
    # Means 4 and 1, variances 4 and 1, pooled over 2 + 2 degrees of freedom: 3 / sqrt(2.5).
    found = cohens_d([2, 4, 6], [0, 1, 2])
    assert found.value == pytest.approx(3 / np.sqrt(2.5))
    assert found.count == 6
    assert cohens_d([0, 1, 2], [2, 4, 6, np.nan]).value == pytest.approx(-3 / np.sqrt(2.5))


def test_cohens_d_of_large_numbers_keeps_its_digits() -> None:
    assert cohens_d(np.array([2, 4, 6]) + 1e8, np.array([0, 1, 2]) + 1e8).value == pytest.approx(3 / np.sqrt(2.5))


def test_cliffs_delta_by_hand() -> None:
    # Of 6 pairs the first exceeds in 4, is exceeded in 1 (1 against 2) and ties in 1 (2 against 2).
    assert cliffs_delta([1, 2, 5], [0, 2]).value == pytest.approx((4 - 1) / 6)
    assert cliffs_delta([3, 4], [1, 2]).value == 1
    assert cliffs_delta([1, 2], [3, 4]).value == -1


def test_cliffs_delta_is_the_u_statistic() -> None:
    u = stats.mannwhitneyu(HIGH, LOW).statistic
    assert cliffs_delta(HIGH, LOW).value == pytest.approx(2 * u / (40 * 30) - 1)


@pytest.mark.parametrize("effect", [cohens_d, cliffs_delta])
def test_intervals_are_scipys(effect: object) -> None:
    def cohen(a: np.ndarray, b: np.ndarray, axis: int = -1) -> np.ndarray:
        pooled = (a.var(axis, ddof=1) * 39 + b.var(axis, ddof=1) * 29) / 68
        return (a.mean(axis) - b.mean(axis)) / np.sqrt(pooled)

    def cliff(a: np.ndarray, b: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.sign(a[..., :, None] - b[..., None, :]).mean((-2, -1))

    statistic = cohen if effect is cohens_d else cliff
    ours = (cohens_d if effect is cohens_d else cliffs_delta)(HIGH, LOW, resamples=10_000)
    theirs = stats.bootstrap((HIGH, LOW), statistic, n_resamples=5000, method="percentile", batch=500, rng=1)
    width = theirs.confidence_interval.high - theirs.confidence_interval.low
    assert ours.value == pytest.approx(float(statistic(HIGH, LOW)))
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=0.05 * width)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=0.05 * width)


def test_groups_of_any_size_are_drawn_in_equal_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = cohens_d(HIGH, LOW[:4])
    assert whole == cohens_d(HIGH, LOW[:4])
    monkeypatch.setattr(resampling, "CHUNK", 200)
    assert cohens_d(HIGH, LOW[:4]).high == pytest.approx(whole.high)


def test_what_cannot_be_told_is_nan() -> None:
    assert np.isnan(cohens_d([1], [2, 3]).value)
    assert np.isnan(cohens_d([1, 1], [1, 1]).value)
    assert np.isnan(cohens_d([0.1] * 3, [0.3] * 3).value)
    assert np.isnan(cliffs_delta([], [1]).value)
    assert cliffs_delta([2], [1]).value == 1
    assert np.isnan(cliffs_delta([2], [1]).low)


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=9), st.lists(st.integers(-5, 5), min_size=1, max_size=9))
def test_the_other_way_round_changes_the_sign(first: list[int], second: list[int]) -> None:
    delta = cliffs_delta(first, second, resamples=20)
    assert -1 <= delta.value <= 1
    assert delta.value == pytest.approx(-cliffs_delta(second, first, resamples=20).value)


def test_a_contrast_of_heads() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(30, 4)), rng.normal(size=(25, 4))
    first[:, 2] += 2
    first[4, 1] = np.nan
    found = contrast(head_measures(first), head_measures(second))
    assert found.coordinates["statistic"] == ("difference", "low", "high", "d", "delta", "p", "p_adjusted")
    changed = dict(zip(found.coordinates["statistic"], found[4, 0].values, strict=True))
    assert changed["difference"] == pytest.approx(first[:, 2].mean() - second[:, 2].mean())
    assert 0 < changed["low"] < changed["difference"] < changed["high"]
    assert changed["d"] == pytest.approx(cohens_d(first[:, 2], second[:, 2]).value)
    assert changed["delta"] == pytest.approx(cliffs_delta(first[:, 2], second[:, 2]).value)
    assert changed["p"] == pytest.approx(stats.mannwhitneyu(first[:, 2], second[:, 2]).pvalue)
    assert (found.select(statistic="p_adjusted").values < 0.01).tolist() == [[False, False], [True, False]]
    known = first[~np.isnan(first[:, 1]), 1]
    assert float(found[0, 1, "difference"]) == pytest.approx(known.mean() - second[:, 1].mean())


def test_pairs_are_compared_within_each_pair() -> None:
    # Traces differ much, the two settings of each little and always the same way.
    rng = np.random.default_rng(0)
    base = rng.normal(0, 10, (20, 4))
    first, second = base + 0.1 + rng.normal(0, 0.01, base.shape), base
    apart, together = (contrast(head_measures(first), head_measures(second), paired=paired) for paired in (False, True))
    for statistic in ("p", "p_adjusted"):
        assert (apart.select(statistic=statistic).values > 0.5).all()
        assert (together.select(statistic=statistic).values < 0.001).all()
    assert (together.select(statistic="low").values > 0.09).all()
    assert (apart.select(statistic="low").values < 0).all()
    first[0, 0] = np.nan
    left = contrast(head_measures(first), head_measures(second), paired=True)
    assert float(left[0, 0, "difference"]) == pytest.approx((first - second)[1:, 0].mean())
    with pytest.raises(MeasureError, match="20 and 19 traces"):
        contrast(head_measures(first), head_measures(second[1:]), paired=True)


def test_groups_of_one_kind_are_found_to_differ_about_as_often_as_they_may() -> None:
    rng = np.random.default_rng(9)
    groups = [head_measures(rng.normal(size=(30, 4))) for _ in range(60)]
    tests = [contrast(first, second, resamples=200) for first, second in zip(groups[::2], groups[1::2], strict=True)]
    p = np.stack([found.select(statistic="p").values for found in tests])
    corrected = np.stack([found.select(statistic="p_adjusted").values for found in tests])
    wrong = [
        (found.select(statistic="low").values > 0) | (found.select(statistic="high").values < 0) for found in tests
    ]
    assert 0.01 < (p < 0.05).mean() < 0.11
    assert 0.01 < np.mean(wrong) < 0.12
    assert (corrected < 0.05).any((1, 2)).mean() < 0.15


@pytest.mark.parametrize("paired", [True, False])
def test_groups_that_do_not_differ(paired: bool) -> None:
    same = np.full((5, 4), 0.25)
    same[:, 3] = np.nan
    found = contrast(head_measures(same), head_measures(same), paired=paired)
    assert found[0, 0].values == pytest.approx([0, 0, 0, np.nan, 0, 1, 1], nan_ok=True)
    assert np.isnan(found[4, 1].values).all()
