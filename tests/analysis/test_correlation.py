"""What goes with surprise, by hand, against SciPy, and on series whose truth is known."""

from typing import Any

import numpy as np
import pytest
from scipy import stats

from gentrace.analysis import (
    Measure,
    MeasureError,
    first_token_mass,
    pooled_surprise_correlation,
    surprise_correlation,
    token_surprise,
)
from gentrace.trace.trace import Trace
from tests.analysis.made import made_tokens, made_trace, random_weights


def surprised(surprise: np.ndarray, heads: np.ndarray) -> tuple[Trace, Measure]:
    """A trace whose row p predicts a token of ``surprise[p]``, and a measure ``[head, query]`` of its rows."""
    length = len(surprise)
    tokens = made_tokens(length + 1, logprobs=[float("nan"), *(-surprise).tolist()])
    labels = {"layer": (2,), "head": tuple(range(len(heads))), "query": tuple(range(length))}
    measure = Measure("made", heads[None], ("layer", "head", "query"), "share", labels)
    return made_trace({2: random_weights(len(heads), length)}, tokens), measure


def figures(found: Measure, head: int) -> dict[Any, float]:
    return dict(zip(found.coordinates["statistic"], found[2, head].values, strict=True))


def correlate(surprise: np.ndarray, heads: np.ndarray, **options: Any) -> Measure:
    trace, measure = surprised(surprise, heads)
    return surprise_correlation(trace, lambda _: measure, **options)


def test_row_p_goes_with_the_surprise_of_token_p_plus_one() -> None:
    surprise = np.array([1.0, 5.0, 2.0, 8.0, 3.0])
    found = correlate(surprise, np.stack([surprise, -surprise, np.roll(surprise, 1)]), method="pearson")
    assert found.axes == ("layer", "head", "statistic")
    assert figures(found, 0)["correlation"] == pytest.approx(1)
    assert figures(found, 1)["correlation"] == pytest.approx(-1)
    assert figures(found, 2)["correlation"] < 0
    assert figures(found, 0)["count"] == 5


@pytest.mark.parametrize(("method", "theirs"), [("pearson", stats.pearsonr), ("spearman", stats.spearmanr)])
def test_the_coefficient_is_scipys(method: Any, theirs: Any) -> None:
    rng = np.random.default_rng(0)
    surprise, heads = rng.exponential(size=60), rng.integers(0, 5, (3, 60)).astype(float)
    heads[1, 7:19] = np.nan
    found = correlate(surprise, heads, method=method)
    for head in range(3):
        known = ~np.isnan(heads[head])
        expected = theirs(heads[head, known], surprise[known].astype(np.float32)).statistic
        assert figures(found, head)["correlation"] == pytest.approx(expected, abs=1e-6)
        assert figures(found, head)["count"] == known.sum()


def test_interval_and_p_are_scipys_where_tokens_are_independent() -> None:
    rng = np.random.default_rng(1)
    surprise = rng.normal(size=150)
    heads = (0.25 * surprise + rng.normal(size=150))[None]
    mine = figures(correlate(surprise, heads, method="pearson", block=1, resamples=10_000), 0)
    theirs = stats.bootstrap(
        (surprise, heads[0]),
        lambda x, y, axis=-1: stats.pearsonr(x, y, axis=axis).statistic,
        paired=True,
        n_resamples=5000,
        method="BCa",
        batch=1000,
        rng=1,
    ).confidence_interval
    assert mine["low"] == pytest.approx(theirs.low, abs=0.02)
    assert mine["high"] == pytest.approx(theirs.high, abs=0.02)
    assert np.log10(mine["p"]) == pytest.approx(np.log10(stats.pearsonr(surprise, heads[0]).pvalue), abs=0.5)


def smooth(rng: np.random.Generator, count: int, length: int) -> np.ndarray:
    """Series that remember where they were, as texts do."""
    series = rng.normal(size=(count, length))
    for place in range(1, length):
        series[:, place] += 0.8 * series[:, place - 1]
    return series


def test_blocks_find_fewer_false_correlations_in_series_that_remember() -> None:
    rng = np.random.default_rng(2)
    found = {"blocks": 0, "single": 0}
    for _ in range(12):
        surprise, heads = smooth(rng, 1, 200)[0], smooth(rng, 10, 200)
        for name, block in (("blocks", 20), ("single", 1)):
            p = correlate(surprise, heads, block=block, resamples=300).select(statistic="p").values
            found[name] += int((p < 0.05).sum())
    # 6 of 120 are due; single tokens claim three times as many at least.
    assert found["single"] > 24
    assert found["blocks"] < found["single"] / 2


def test_correction_for_many_heads() -> None:
    rng = np.random.default_rng(4)
    surprise = rng.normal(size=200)
    heads = rng.normal(size=(200, 200))
    heads[3] += surprise
    found = correlate(surprise, heads, block=1, resamples=500)
    p, corrected = (found.select(statistic=name).values[0] for name in ("p", "p_adjusted"))
    assert (p < 0.05).sum() > 4
    # Where nothing is, p is anything alike.
    assert 0.43 < np.delete(p, 3).mean() < 0.57
    assert np.flatnonzero(corrected < 0.01).tolist() == [3]
    np.testing.assert_allclose(corrected, stats.false_discovery_control(p))


@pytest.mark.parametrize("method", ["pearson", "spearman"])
def test_holding_the_position_takes_a_common_drift_out(method: Any) -> None:
    rng = np.random.default_rng(5)
    drift = np.arange(200.0)
    surprise = -drift / 20 + rng.normal(size=200)
    heads = np.stack([drift / 20 + rng.normal(size=200), drift])
    plain = correlate(surprise, heads, method=method)
    held = correlate(surprise, heads, method=method, hold_position=True)
    assert figures(plain, 0)["correlation"] < -0.7
    assert abs(figures(held, 0)["correlation"]) < 0.15
    assert np.isnan(figures(held, 1)["correlation"])
    if method == "pearson":
        rest = [one - np.polyval(np.polyfit(drift, one, 1), drift) for one in (heads[0], surprise)]
        assert figures(held, 0)["correlation"] == pytest.approx(stats.pearsonr(*rest).statistic, abs=1e-5)


def test_holding_the_position_by_hand() -> None:
    # Surprise 1, 2, 4, 3 and a head 1, 3, 2, 4 at rows 0 … 3. Each correlates with the position by 4/5, and with the
    # other by 2/5; held constant, (2/5 − 4/5 · 4/5) / (1 − (4/5)²) = −2/3.
    surprise, head = np.array([1.0, 2, 4, 3]), np.array([[1.0, 3, 2, 4]])
    for method in ("pearson", "spearman"):
        options: dict[str, Any] = {"method": method, "block": 1, "resamples": 20}
        plain = correlate(surprise, head, **options)
        held = correlate(surprise, head, hold_position=True, **options)
        assert figures(plain, 0)["correlation"] == pytest.approx(2 / 5)
        assert figures(held, 0)["correlation"] == pytest.approx(-2 / 3)
        assert held.name == plain.name.replace(")", " | position)")


def test_what_cannot_be_told_is_nan() -> None:
    rng = np.random.default_rng(6)
    surprise, heads = rng.normal(size=30), rng.normal(size=(3, 30))
    heads[0] = 0.1
    heads[1, 3:] = np.nan
    found = correlate(surprise, heads)
    for head in (0, 1):
        assert np.isnan(
            [figures(found, head)[name] for name in ("correlation", "low", "high", "p", "p_adjusted")]
        ).all()
    assert figures(found, 1)["count"] == 3
    assert figures(found, 2)["p_adjusted"] == figures(found, 2)["p"]
    assert np.isnan(correlate(np.full(30, 2.0), heads).select(statistic="p").values).all()
    assert np.isnan(correlate(np.full(30, np.nan), heads).select(statistic="p").values).all()


def test_by_name_with_options() -> None:
    rng = np.random.default_rng(7)
    trace, _ = surprised(rng.exponential(size=40), np.zeros((2, 40)))
    found = surprise_correlation(trace, "first_token_mass", tokens=2, queries=(5, 40), method="pearson")
    mass = first_token_mass(trace, tokens=2)[2, 1].values[5:]
    expected = stats.pearsonr(mass, token_surprise(trace).values[6:]).statistic
    assert figures(found, 1)["correlation"] == pytest.approx(expected)
    assert found.name == "surprise_correlation(first_token_mass)"
    assert surprise_correlation(trace, seed=3).values.tolist() == surprise_correlation(trace, seed=3).values.tolist()
    spans = surprise_correlation(trace, "span_mass", spans={"early": (0, 3)})
    assert spans.axes == ("layer", "head", "span", "statistic")


def test_the_last_row_of_a_text_that_was_only_read_predicts_nothing() -> None:
    surprise = np.array([4.0, 1.0, 3.0, 2.0])
    tokens = made_tokens(5, 5, logprobs=[float("nan"), *(-surprise).tolist()])
    labels = {"query": (0, 1, 2, 3, 4)}
    measure = Measure("made", [4.0, 1.0, 3.0, 2.0, 99.0], ("query",), "", labels)
    found = surprise_correlation(made_trace({2: random_weights(1, 5)}, tokens), lambda _: measure, method="pearson")
    assert float(found["correlation"]) == pytest.approx(1)
    assert float(found["count"]) == 4


def test_texts_are_drawn_whole_when_there_are_many() -> None:
    # Within each text nothing goes with anything; texts differ in level, which all their tokens share.
    rng = np.random.default_rng(8)
    measures, surprises = [], []
    for _ in range(8):
        level = rng.normal()
        trace, measure = surprised(level + rng.normal(0, 0.2, 60), level + rng.normal(0, 0.2, (1, 60)))
        measures.append(measure)
        surprises.append(token_surprise(trace))
    found = figures(pooled_surprise_correlation(measures, surprises, method="pearson"), 0)
    x = np.concatenate([measure.values[0, 0] for measure in measures])
    y = np.concatenate([surprise.values[1:] for surprise in surprises])
    assert found["correlation"] == pytest.approx(stats.pearsonr(x, y).statistic)
    assert found["count"] == 480
    # 480 independent pairs would give a much narrower interval.
    alone = 2 * 1.96 * (1 - found["correlation"] ** 2) / np.sqrt(480)
    assert found["high"] - found["low"] > 2 * alone
    one = figures(pooled_surprise_correlation(measures[:1], surprises[:1]), 0)
    assert np.isnan([one["low"], one["p"]]).all()
    assert abs(one["correlation"]) < 0.4


def test_what_does_not_fit_is_refused() -> None:
    trace, measure = surprised(np.arange(9.0), np.zeros((2, 9)))
    with pytest.raises(MeasureError, match='with a "query" axis'):
        surprise_correlation(trace, "previous_token_score")
    with pytest.raises(MeasureError, match="method='kendall'"):
        surprise_correlation(trace, method="kendall")  # pyright: ignore[reportArgumentType]
    with pytest.raises(MeasureError, match="block=0"):
        surprise_correlation(trace, block=0)
    with pytest.raises(MeasureError, match="1 measures, 0 surprises"):
        pooled_surprise_correlation([measure], [])
    with pytest.raises(MeasureError, match="the same heads of each trace"):
        pooled_surprise_correlation([measure, measure.select(head=[0])], [token_surprise(trace)] * 2)


def test_rows_of_an_encoder_predict_nothing() -> None:
    trace = made_trace({0: random_weights(1, 6)}, kind="encoder", encoder_tokens=made_tokens(6))
    with pytest.raises(MeasureError, match="an encoder's rows predict no token"):
        surprise_correlation(trace, kind="encoder")
