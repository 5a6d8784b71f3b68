"""On a real model whose heads are known: the bundled one, with a planted previous-token head and four induction heads.

`tests/demo/test_story_model.py` finds the same heads by other code, from transformers' own attention.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import gentrace
from gentrace import analysis
from gentrace.demo import load_story_model
from gentrace.trace.trace import Trace

PREVIOUS = (0, 0)
INDUCTION = {(1, 0), (1, 1), (1, 2), (1, 3)}


@pytest.fixture(scope="module")
def model() -> Any:
    return load_story_model()[0]


def recorded(model: Any, ids: torch.Tensor, **options: Any) -> Trace:
    with gentrace.record(model, **options) as recorder, torch.no_grad():
        model(ids[None])
    return recorder.trace


@pytest.fixture(scope="module")
def repeated(model: Any) -> Trace:
    """Sixty random tokens, twice."""
    ids = torch.randint(10, model.config.vocab_size, (60,), generator=torch.Generator().manual_seed(0))
    return recorded(model, torch.cat([ids, ids]), values=True)


def heads_above(measure: analysis.Measure, threshold: float) -> set[tuple[int, int]]:
    frame = measure.to_pandas()
    above = frame[frame["value"] > threshold]
    return set(zip(above["layer"], above["head"], strict=True))


def test_the_planted_previous_token_head_is_found(repeated: Trace) -> None:
    score = analysis.previous_token_score(repeated)
    assert heads_above(score, 0.5) == {PREVIOUS}
    assert float(score[PREVIOUS]) > 0.99
    assert heads_above(score, 0.2) == {PREVIOUS}


def test_the_induction_heads_are_found(repeated: Trace) -> None:
    score = analysis.induction_score(repeated)
    assert heads_above(score, 0.4) == INDUCTION
    assert heads_above(score, 0.2) == INDUCTION


def test_without_repetition_no_head_induces(model: Any) -> None:
    ids = torch.randperm(model.config.vocab_size - 10, generator=torch.Generator().manual_seed(0))[:120] + 10
    assert np.isnan(analysis.induction_score(recorded(model, ids)).values).all()


def test_heads_that_do_the_same_lie_close(repeated: Trace) -> None:
    found = analysis.cluster_heads(analysis.head_distance(repeated, queries=(60, 120)), cut=0.3)
    groups = [set(found.members(label)) for label in set(found.labels)]
    assert {PREVIOUS} in groups
    assert any(group >= INDUCTION for group in groups)


def test_a_known_repetition_is_what_lowers_surprise(repeated: Trace) -> None:
    surprise = analysis.token_surprise(repeated).values
    assert np.nanmean(surprise[:60]) > 3 * np.nanmean(surprise[61:])


def test_where_induction_heads_find_something_the_next_token_is_expected(repeated: Trace) -> None:
    def found(trace: Trace) -> analysis.Measure:
        mass = analysis.induction_mass(trace)
        return replace(mass, values=np.nan_to_num(mass.values))

    figures = analysis.surprise_correlation(repeated, found, resamples=500)
    for head in INDUCTION:
        correlation, low, high, _, p, count = figures[head].values
        assert low < correlation < high < -0.5
        assert p < 0.001
        assert count == 119


def test_by_values_the_planted_head_still_looks_at_the_token_before(repeated: Trace) -> None:
    shares = analysis.value_weighted_attention(repeated, layers=[0], normalize=True)[0, 0].values
    assert np.diagonal(shares, -1).mean() > 0.99


def test_measures_agree_with_plain_arithmetic_on_the_whole_matrices(repeated: Trace) -> None:
    attention = torch.stack([repeated.attention(layer) for layer in range(4)]).double()
    entropy = -(attention * attention.clamp_min(1e-300).log()).sum(-1)
    np.testing.assert_allclose(analysis.attention_entropy(repeated).values, entropy, atol=5e-6)
    np.testing.assert_allclose(analysis.first_token_mass(repeated).values, attention[..., 0], atol=1e-9)
    spans = analysis.span_mass(repeated, {"first half": (0, 60)}).values
    np.testing.assert_allclose(spans[..., 0], attention[..., :60].sum(-1), atol=1e-9)
    np.testing.assert_allclose(spans.sum(-1), 1, atol=1e-5)
