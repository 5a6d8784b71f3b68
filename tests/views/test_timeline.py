"""The replay as data, against numbers worked out by hand."""

import math
from dataclasses import replace

import pytest
import torch

from gentrace.errors import ViewError
from gentrace.trace.trace import Trace
from gentrace.views.timeline import choose_heads, choose_layer, full_colour, mean_panel, panel, timeline
from tests.views.made import made_tokens, made_trace, random_trace

TEXTS = ("Once", " upon", " a", " time", "\n")


def by_hand() -> Trace:
    """Four rows, one head: keys 0, ln 2, ln 3, 0 and a query of 1, so scores are the keys themselves."""
    keys = torch.tensor([1.0, 2.0, 3.0, 1.0]).log()[None, :, None]
    return made_trace(torch.ones(1, 4, 1), keys, made_tokens(TEXTS, prompt_length=2))


def test_weights_and_scores_of_a_panel() -> None:
    one = panel(by_hand(), 0, 0, range(4))
    expected = [[1, 0, 0, 0], [1 / 3, 2 / 3, 0, 0], [1 / 6, 2 / 6, 3 / 6, 0], [1 / 7, 2 / 7, 3 / 7, 1 / 7]]
    torch.testing.assert_close(one.weights, torch.tensor(expected))
    assert one.scores[2].tolist() == pytest.approx([0, math.log(2), math.log(3), -math.inf])


def test_step_p_shows_what_token_p_predicts() -> None:
    steps = timeline(by_hand()).steps
    assert [(step.query, step.predicts) for step in steps] == [(0, 1), (1, 2), (2, 3), (3, 4)]
    first = steps[0].alternatives
    assert [(one.label, one.chosen) for one in first] == [("␣upon", True), ("other1", False), ("other2", False)]
    assert [one.probability for one in first] == pytest.approx([0.5, 0.25, 0.125])
    assert steps[3].alternatives[0].label == "↵"
    assert (steps[0].probability, steps[0].logprob, steps[0].rank) == (
        pytest.approx(0.5),
        pytest.approx(-math.log(2)),
        0,
    )


def test_sampled_probabilities_are_none_in_the_prompt_and_zero_where_excluded() -> None:
    steps = timeline(by_hand()).steps
    # Row 0 predicts token 1, still the prompt's; row 1 predicts token 2, the first that was sampled.
    assert [one.sampled for one in steps[0].alternatives] == [None, None, None]
    assert [one.sampled for one in steps[1].alternatives] == [pytest.approx(2 / 3), pytest.approx(1 / 3), 0.0]
    assert steps[1].sampled == pytest.approx(2 / 3)


def test_it_begins_at_the_last_prompt_token() -> None:
    assert timeline(by_hand()).start == 1
    assert timeline(by_hand(), rows=(2, 4)).start == 2
    assert timeline(by_hand(), rows=(0, 1)).start == 0


def test_the_last_row_of_a_plain_forward_predicts_nothing() -> None:
    tokens = made_tokens(TEXTS[:4], prompt_length=4, sampled=False)
    line = timeline(made_trace(torch.ones(1, 4, 1), torch.ones(1, 4, 1), tokens))
    last = line.steps[-1]
    assert (last.query, last.predicts, last.probability, last.alternatives) == (3, None, None, ())
    assert line.start == 3
    assert not line.has_sampled


def test_a_token_outside_the_alternatives_is_shown_after_them() -> None:
    tokens = made_tokens(TEXTS, prompt_length=2, k=2, chosen_rank=5)
    step = timeline(made_trace(torch.ones(1, 4, 1), torch.ones(1, 4, 1), tokens)).steps[2]
    assert [(one.label, one.chosen) for one in step.alternatives] == [
        ("other0", False),
        ("other1", False),
        ("␣time", True),
    ]
    assert step.alternatives[-1].probability == pytest.approx(2**-6)
    assert step.rank == 5


def test_unknown_probabilities_are_none_not_nan() -> None:
    line = timeline(by_hand())
    assert line.probabilities[0] is None
    assert line.probabilities[1] == pytest.approx(0.5)


@pytest.mark.parametrize("rows", [range(19, 21), range(1), range(25, 29)])
def test_few_rows_of_a_long_trace_equal_those_of_the_whole(rows: range) -> None:
    trace = random_trace(30, 5, unseen=3)
    assert 2 * len(rows) < trace.length
    few = panel(trace, 0, 1, rows)
    cut = slice(rows.start, rows.stop), slice(None, rows.stop)
    torch.testing.assert_close(few.weights, trace.attention(0, 1)[cut], equal_nan=True)
    torch.testing.assert_close(few.scores, trace.scores(0, 1)[cut], equal_nan=True)


def test_rows_never_seen_stay_unknown() -> None:
    one = panel(random_trace(9, 3, unseen=2), 0, 0, range(8))
    assert one.weights[:2].isnan().all()
    assert not one.weights[2:].isnan().any()


def test_the_mean_is_the_mean_of_weights_and_of_scores() -> None:
    trace = random_trace(9, 3, heads=3)
    mean = mean_panel(trace, 0, (0, 2), range(8))
    torch.testing.assert_close(mean.weights, (trace.attention(0, 0) + trace.attention(0, 2)) / 2)
    torch.testing.assert_close(mean.scores, (trace.scores(0, 0) + trace.scores(0, 2)) / 2)
    assert mean.title == "layer 0 · mean of 2 heads"


def test_full_colour_ignores_the_first_key_and_rows_never_seen() -> None:
    weights = torch.tensor([[1.0, 0.0, 0.0], [0.9, 0.1, 0.0], [0.7, 0.1, 0.2], [0.6, 0.3, 0.1]])
    weights = torch.cat([torch.full((1, 3), torch.nan), weights])
    # Strongest beyond the first key: none, 0.1, 0.2, 0.3; their 90 % quantile lies at 0.28.
    assert full_colour([weights], skip_first_key=True) == pytest.approx(0.28)
    assert full_colour([weights], skip_first_key=False) == pytest.approx(0.97)
    assert full_colour([torch.full((2, 2), torch.nan)], skip_first_key=True) == 1.0


def test_the_last_recorded_layer_is_the_default() -> None:
    trace = random_trace(6, 2, layers=(3, 5))
    assert choose_layer(trace, None).index == 5
    assert choose_layer(trace, 3).index == 3


def test_what_is_not_there_is_named_with_what_is() -> None:
    trace = random_trace(6, 2, layers=(3, 5))
    with pytest.raises(ViewError, match=r"drawing layer 4\. layers recorded: 3, 5\. choose"):
        choose_layer(trace, 4)
    with pytest.raises(ViewError, match=r"drawing head 2 of layer 5\. the layer has heads 0 … 1\. choose"):
        choose_heads(trace.layer(5), [0, 2])
    with pytest.raises(ViewError, match="without heads"):
        choose_heads(trace.layer(5), [])
    with pytest.raises(ViewError, match=r"rows 3 … 7\. the trace has rows 0 … 4"):
        timeline(trace, rows=(3, 8))


@pytest.mark.parametrize(
    ("name", "shown"), [("/home/me/secret/gpt2", "gpt2"), ("org/model", "org/model"), ("gpt2", "gpt2"), ("/", "/")]
)
def test_a_folder_shows_only_its_own_name(name: str, shown: str) -> None:
    trace = by_hand()
    assert timeline(replace(trace, meta=replace(trace.meta, model=name))).model == shown
