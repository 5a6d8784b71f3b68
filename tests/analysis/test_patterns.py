"""What heads are known for, against drawn heads and counts by hand."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gentrace.analysis import (
    MeasureError,
    duplicate_token_mass,
    duplicate_token_score,
    induction_mass,
    induction_score,
    previous_token_mass,
    previous_token_score,
)
from tests.analysis.made import made_tokens, made_trace, random_weights

IDS = [5, 6, 7, 5, 6, 6, 9]
"""Seven tokens of which six were fed. Token 5 comes again at 3, token 6 at 4 and 5."""


def looking(targets: list[int]) -> list[list[float]]:
    """Rows that look at one key each."""
    return [[float(key == target) for key in range(len(targets))] for target in targets]


EVEN = [[1 / (row + 1) if key <= row else 0 for key in range(6)] for row in range(6)]
NAN = np.nan


def test_previous_token_by_hand() -> None:
    trace = made_trace({0: [looking([0, 0, 1, 2, 0, 4]), EVEN]}, made_tokens(7, ids=IDS))
    assert previous_token_mass(trace)[0, 0].values == pytest.approx([NAN, 1, 1, 1, 0, 1], nan_ok=True)
    assert previous_token_score(trace)[0, 0].values == pytest.approx(4 / 5)
    assert previous_token_score(trace)[0, 1].values == pytest.approx((1 / 2 + 1 / 3 + 1 / 4 + 1 / 5 + 1 / 6) / 5)
    assert previous_token_score(trace).name == "previous_token_score"
    assert previous_token_score(trace).axes == ("layer", "head")


def test_duplicates_by_hand() -> None:
    # Row 3 has its token at 0, row 4 at 1, row 5 at 1 and 4.
    trace = made_trace({0: [looking([0, 0, 0, 0, 1, 4]), looking([0, 1, 2, 3, 4, 1]), EVEN]}, made_tokens(7, ids=IDS))
    assert duplicate_token_mass(trace)[0, 0].values == pytest.approx([NAN, NAN, NAN, 1, 1, 1], nan_ok=True)
    assert duplicate_token_score(trace).values[0] == pytest.approx([1, 1 / 3, (1 / 4 + 1 / 5 + 2 / 6) / 3])


def test_induction_by_hand() -> None:
    # Row 3 should look at 1, after the earlier 5; row 4 at 2, after the earlier 6; row 5 at 2 again, for the token
    # after the 6 at 4 is itself.
    trace = made_trace({0: [looking([0, 0, 0, 1, 2, 2]), looking([0, 0, 0, 1, 4, 5]), EVEN]}, made_tokens(7, ids=IDS))
    assert induction_mass(trace)[0, 0].values == pytest.approx([NAN, NAN, NAN, 1, 1, 1], nan_ok=True)
    assert induction_score(trace).values[0] == pytest.approx([1, 1 / 3, (1 / 4 + 1 / 5 + 1 / 6) / 3])


def test_a_token_that_only_repeats_the_one_before_has_nothing_to_induce() -> None:
    trace = made_trace({0: [looking([0, 1])]}, made_tokens(3, ids=[4, 4, 1]))
    assert np.isnan(induction_mass(trace)[0, 0].values).all()
    assert duplicate_token_mass(trace)[0, 0].values == pytest.approx([NAN, 0], nan_ok=True)


def test_without_repetition_nothing_is_known() -> None:
    trace = made_trace({0: [EVEN]}, made_tokens(7))
    assert np.isnan(induction_score(trace).values).all()
    assert np.isnan(duplicate_token_score(trace).values).all()
    assert previous_token_score(trace).values.item() > 0


def test_unknown_ids_are_like_no_other() -> None:
    trace = made_trace({0: [EVEN]}, made_tokens(7, ids=[-1, -1, -1, 5, -1, 5, 0]))
    assert duplicate_token_mass(trace)[0, 0].values == pytest.approx([NAN] * 5 + [1 / 6], nan_ok=True)
    assert induction_mass(trace)[0, 0].values == pytest.approx([NAN] * 5 + [1 / 6], nan_ok=True)


def test_scores_leave_out_rows_never_seen() -> None:
    trace = made_trace({0: [looking([0, 0, 0, 2, 0, 0])]}, made_tokens(7, ids=IDS), unseen=(1, 2))
    assert previous_token_score(trace).values.item() == pytest.approx(1 / 3)
    assert previous_token_score(trace).unseen == 2


@pytest.mark.parametrize("measure", [previous_token_score, duplicate_token_score, induction_score])
def test_cross_attention_has_no_such_patterns(measure: Any) -> None:
    trace = made_trace({0: [EVEN]}, kind="cross", encoder_tokens=made_tokens(6))
    with pytest.raises(MeasureError, match="another text"):
        measure(trace, kind="cross")


def by_definition(ids: list[int], weights: torch.Tensor, follows: int) -> list[float]:
    """Weight on keys whose token, or the one before them, is the row's own; one row at a time."""
    masses: list[float] = []
    for row in range(weights.shape[0]):
        keys = [key for key in range(follows, row) if ids[key - follows] == ids[row]]
        masses.append(float(weights[row, keys].sum()) if keys else float("nan"))
    return masses


@given(st.lists(st.integers(0, 4), min_size=2, max_size=14), st.integers(0, 999))
def test_masses_are_what_their_definition_says(ids: list[int], seed: int) -> None:
    weights = random_weights(1, len(ids) - 1, seed)
    trace = made_trace({0: weights}, made_tokens(len(ids), ids=ids))
    for measure, follows in ((duplicate_token_mass, 0), (induction_mass, 1)):
        expected = by_definition(ids, weights[0], follows)
        assert measure(trace)[0, 0].values == pytest.approx(expected, abs=1e-5, nan_ok=True)
