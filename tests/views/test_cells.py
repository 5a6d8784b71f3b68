"""What a view reads from a trace, against attention computed by the textbook."""

from dataclasses import replace

import pytest
import torch

from gentrace.errors import ViewBudgetError, ViewError
from gentrace.trace.store import MemoryStore
from gentrace.views import attention_grid, attention_map, attention_table, head_view, mean, model_view, token_strip
from gentrace.views.cells import read_cells, score_scale, sets_first_aside, weight_scale
from tests.views.made import made_tokens, made_trace, random_trace, untouchable
from tests.views.made_kinds import by_hand, causal, sentences, translator


@pytest.mark.parametrize("kind", ["self", "cross", "encoder"])
def test_every_kind_of_attention(kind: str) -> None:
    trace = translator()
    cells = read_cells(trace, 0, 1, kind=kind)
    weights, scores = by_hand(trace, 1, kind, is_causal=kind == "self")
    torch.testing.assert_close(cells.weights, weights)
    torch.testing.assert_close(cells.scores, scores)
    inside = ["en0", "en1", "en2", "en3", "en4", "en5"]
    assert list(cells.queries.labels) == (inside if kind == "encoder" else ["</s>", "der", "␣Hund", "␣<b>"])
    assert list(cells.keys.labels) == (["</s>", "der", "␣Hund", "␣<b>"] if kind == "self" else inside)


@pytest.mark.parametrize("head", range(4))
def test_grouped_queries(head: int) -> None:
    trace = causal()
    torch.testing.assert_close(read_cells(trace, 0, head).weights, by_hand(trace, head, is_causal=True)[0])


def test_layers_of_which_only_scores_are_known() -> None:
    cells = read_cells(causal(scores_only=True), 0, 0, slice(1, 2))
    # Scores 1 and 2: softmax by hand.
    e = torch.e
    torch.testing.assert_close(cells.weights[0], torch.tensor([1 / (1 + e), e / (1 + e), 0, 0, 0, 0]))
    assert cells.visible[0].tolist() == [True, True, False, False, False, False]


@pytest.mark.parametrize(
    ("span", "expected"),
    [
        (None, range(6)),
        (slice(2, 4), range(2, 4)),
        (slice(-2, None), range(4, 6)),
        ((1, 3), range(1, 3)),
        ("prompt", range(3)),
        ("generated", range(3, 6)),
    ],
)
def test_spans(span: object, expected: range) -> None:
    trace = causal()
    whole = read_cells(trace, 0, 2)
    rows, columns = read_cells(trace, 0, 2, queries=span), read_cells(trace, 0, 2, keys=span)  # type: ignore[arg-type]
    assert (rows.queries.positions, columns.keys.positions) == (expected, expected)
    torch.testing.assert_close(rows.weights, whole.weights[expected.start : expected.stop])
    torch.testing.assert_close(rows.scores, whole.scores[expected.start : expected.stop])
    torch.testing.assert_close(columns.weights, whole.weights[:, expected.start : expected.stop])
    assert list(rows.queries.labels) == [f"w{place}" for place in expected]


@pytest.mark.parametrize("span", [slice(6, 9), (2, 2), (0, 7), slice(0, 6, 2), "none"])
def test_spans_that_are_not_there(span: object) -> None:
    with pytest.raises(ViewError, match=r"queries|positions"):
        read_cells(causal(), 0, 0, queries=span)  # type: ignore[arg-type]
    with pytest.raises(ViewError, match=r"positions 0 … 4"):
        # All was given, nothing written.
        read_cells(sentences(), 0, 0, queries="generated")


def test_rows_never_seen_and_windows() -> None:
    cells = read_cells(random_trace(9, 3, unseen=2, window=3), 0, 0)
    assert cells.unseen == [0, 1]
    assert cells.visible.sum(-1).tolist() == [0, 0, 3, 3, 3, 3, 3, 3]
    assert cells.values("weights")[5].isnan().tolist() == [True] * 3 + [False] * 3 + [True] * 2
    few = read_cells(random_trace(9, 3, unseen=2, window=3), 0, 0, queries=slice(1, 3))
    assert few.unseen == [1]
    torch.testing.assert_close(few.weights, cells.weights[1:3], equal_nan=True)


def test_the_mean_by_hand() -> None:
    trace = causal()
    both = mean(trace, heads=[0, 3])
    expected = [by_hand(trace, head, is_causal=True) for head in (0, 3)]
    torch.testing.assert_close(both.weights, (expected[0][0] + expected[1][0]) / 2)
    torch.testing.assert_close(both.scores, (expected[0][1] + expected[1][1]) / 2)
    last = mean(trace, last=2)
    assert last.pairs == ((0, 2), (0, 3))
    assert last.title == "layer 0 · mean of the last 2 heads"


def test_a_mean_over_layers_takes_the_last_of_them() -> None:
    trace = random_trace(7, 3, layers=(0, 3, 5))
    by_head = mean(trace, heads=1, last=2)
    assert by_head.pairs == ((3, 1), (5, 1))
    assert by_head.title == "head 1 · mean of the last 2 layers"
    torch.testing.assert_close(by_head.weights, (trace.attention(3, 1) + trace.attention(5, 1)) / 2)


def test_a_mean_over_different_masks_takes_scores_where_there_are_any() -> None:
    trace, narrow = random_trace(7, 3, layers=(0, 1)), random_trace(7, 3, layers=(0, 1), window=2)
    parts = {f"masks.1.{part}": narrow.store.tensor(f"masks.0.{part}") for part in ("start", "stop", "rows", "bits")}
    store = MemoryStore({name: trace.store.tensor(name) for name in trace.store.names()} | parts)
    mixed = replace(trace, masks={(0, "self"): 0, (1, "self"): 1}, store=store)
    found, wide, thin = mean(mixed, heads=1), read_cells(mixed, 0, 1), read_cells(mixed, 1, 1)
    assert found.scores[5, 1] == wide.scores[5, 1]
    assert found.scores[5, 4] == pytest.approx(float(wide.scores[5, 4] + thin.scores[5, 4]) / 2, rel=1e-5)
    assert found.scores[1, 5] == -torch.inf
    assert found.weights[5, 1] == wide.weights[5, 1] / 2


@pytest.mark.parametrize("last", [0, 9])
def test_a_mean_of_nothing(last: int) -> None:
    with pytest.raises(ViewError, match="give last= from 1 to 4"):
        mean(causal(), last=last)


def test_the_first_key_is_set_aside_where_nobody_looks_ahead() -> None:
    decoder, encoder, cross = (
        read_cells(causal(), 0, 0),
        read_cells(sentences(), 0, 0),
        read_cells(translator(), 0, 0, kind="cross"),
    )
    assert [sets_first_aside([one], None) for one in (decoder, encoder, cross)] == [True, False, False]
    assert [sets_first_aside([one], "mask") for one in (decoder, encoder, cross)] == [True, True, True]
    assert not sets_first_aside([decoder], "keep")
    assert not sets_first_aside([read_cells(causal(), 0, 0, keys=slice(1, None))], "mask")
    assert not sets_first_aside([read_cells(causal(length=1), 0, 0)], "mask")


def test_scales_leave_the_first_key_out() -> None:
    # Keys 0 and 1 have score 4 and 0 for every query.
    keys = torch.tensor([[[4.0], [0.0], [0.0]]])
    cells = read_cells(made_trace(torch.ones(1, 3, 1), keys, made_tokens(list("abcd"), 2)), 0, 0)
    rest = 1 / (torch.e**4 + 2)
    with_first, without = weight_scale([cells], skip_first_key=False), weight_scale([cells], skip_first_key=True)
    assert with_first.high > 0.9
    assert without.high == pytest.approx(1 / (torch.e**4 + 1), abs=0.1 * rest)
    assert score_scale([cells], skip_first_key=True).high == pytest.approx(0, abs=1e-5)
    assert score_scale([cells], skip_first_key=False).high == pytest.approx(4, abs=0.2)


def test_nothing_is_read_before_a_refusal() -> None:
    long = untouchable(random_trace(3000, 10, heads=2, layers=(0, 1)))
    for draw in (
        lambda: attention_map(long, 0, 1),
        lambda: attention_grid(long, 0),
        lambda: head_view(long, 0),
        lambda: mean(untouchable(random_trace(5000, 10))),
        lambda: model_view(long, size=900),
        lambda: attention_map(long, 0, 1, queries=slice(0, 40), keys=slice(0, 40), annotate=True),
    ):
        with pytest.raises(ViewBudgetError, match=r"(queries|heads|layers)="):
            draw()
    with pytest.raises(ViewBudgetError, match="positions="):
        token_strip(random_trace(4500, 10))
    with pytest.raises(ViewBudgetError, match="keys="):
        attention_table(untouchable(random_trace(5500, 10)), 0, 0, 5400)


def test_the_refusal_test_would_notice_a_read() -> None:
    with pytest.raises(AssertionError, match="was read"):
        attention_map(untouchable(random_trace(9, 3)), 0, 1)


@pytest.mark.parametrize("draw", [attention_map, head_view])
def test_layers_and_heads_that_are_not_there(draw) -> None:  # noqa: ANN001
    with pytest.raises(ViewError, match="layers recorded: 0"):
        draw(causal(), 7, 0)
    with pytest.raises(ViewError, match="heads 0 … 3"):
        draw(causal(), 0, 9)
    with pytest.raises(ViewError, match="layers recorded: none"):
        draw(causal(), 0, 0, kind="cross")
