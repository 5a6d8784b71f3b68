"""The table of one token's attention, and its data frame."""

import math

import pytest
import torch

from gentrace.errors import ViewError
from gentrace.views import attention_frame, attention_table
from tests.views.made import HOSTILE, made_tokens, made_trace, random_trace
from tests.views.made_kinds import by_hand, causal, translator
from tests.views.test_attention_map import assert_escaped


def cells_of(figure) -> dict[str, list]:  # noqa: ANN001
    (table,) = figure.data
    return dict(zip(table.header["values"], [list(column) for column in table.cells["values"]], strict=True))


def test_a_row_by_hand() -> None:
    # Token 2 scores keys 0, 1, 2 with ln 1, ln 2, ln 5: weights 1/8, 2/8, 5/8.
    keys = torch.tensor([[[1.0], [2.0], [5.0], [7.0]]]).log()
    trace = made_trace(torch.ones(1, 4, 1), keys, made_tokens(["a", " b", " b", "c", "d"], 2))
    frame = attention_frame(trace, 0, 0, 2)
    assert frame.columns.tolist() == ["key", "token", "weight", "score"]
    assert frame["token"].tolist() == ["a", " b", " b", "c"]
    assert frame["weight"].tolist() == pytest.approx([1 / 8, 2 / 8, 5 / 8, 0])
    assert frame["score"].tolist() == pytest.approx([0, math.log(2), math.log(5), -math.inf])
    by_weight = attention_frame(trace, 0, 0, 2, order="weight", masked=False)
    assert by_weight["key"].tolist() == [2, 1, 0]
    assert by_weight.index.tolist() == [0, 1, 2]
    shown = cells_of(attention_table(trace, 0, 0, 2))
    assert shown == {
        "key": [2, 1, 0],
        "token": ["␣b", "␣b", "a"],
        "weight": ["0.6250", "0.2500", "0.1250"],
        "score": ["1.609", "0.693", "0.000"],
    }
    assert cells_of(attention_table(trace, 0, 0, 2, order="position", masked=True))["score"][-1] == "−∞"
    assert "sees 3 keys, whose weights sum to 1.0000" in attention_table(trace, 0, 0, 2).layout.title.subtitle.text


def test_a_token_is_named_by_its_text() -> None:
    trace = causal()
    assert attention_frame(trace, 0, 3, "w4").equals(attention_frame(trace, 0, 3, 4))
    weights = by_hand(trace, 3, is_causal=True)[0][4]
    assert attention_frame(trace, 0, 3, "w4")["weight"].tolist() == pytest.approx(weights.tolist(), rel=1e-4)
    with pytest.raises(ViewError, match="no token that looks has exactly this text"):
        attention_frame(trace, 0, 0, " w4")
    # The last token of a generation never looks.
    with pytest.raises(ViewError, match="no token that looks"):
        attention_frame(trace, 0, 0, "w6")
    with pytest.raises(ViewError, match=r"positions \[0, 7\] have this text"):
        attention_frame(random_trace(9, 3), 0, 0, " word0")
    with pytest.raises(ViewError, match="queries 0 … 5"):
        attention_table(trace, 0, 0, 6)


def test_cross_attention_lists_the_encoders_tokens() -> None:
    trace = translator()
    frame = attention_frame(trace, 0, 1, " Hund", kind="cross", keys=slice(2, 5))
    assert frame["key"].tolist() == [2, 3, 4]
    assert frame["token"].tolist() == ["en2", "en3", "en4"]
    expected = by_hand(trace, 1, "cross")[0][2, 2:5]
    assert frame["weight"].tolist() == pytest.approx(expected.tolist(), rel=1e-4)


def test_a_row_never_seen() -> None:
    figure = attention_table(random_trace(9, 6, unseen=3), 0, 0, 1, masked=True)
    assert "never seen" in figure.layout.title.subtitle.text
    assert set(cells_of(figure)["weight"]) == {"–"}


def test_the_ground_follows_the_weight() -> None:
    (table,) = attention_table(causal(), 0, 0, 5, dark=True).data
    grounds = table.cells.fill.color[2]
    assert len(set(grounds)) == len(grounds) == 6


def test_hostile_tokens() -> None:
    assert_escaped(attention_table(random_trace(len(HOSTILE), 4, texts=HOSTILE), 0, 0, len(HOSTILE) - 2, masked=True))
    with pytest.raises(ViewError, match="'weight', 'position'"):
        attention_table(causal(), 0, 0, 1, order="key")  # type: ignore[arg-type]
