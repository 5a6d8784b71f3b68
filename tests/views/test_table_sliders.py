"""One token's table in every layer and head: what lies on the plane, and what the sliders put in sight."""

import numpy as np
import plotly.graph_objects as go
import pytest
import torch

from gentrace.errors import ViewBudgetError, ViewError
from gentrace.views import attention_table
from gentrace.views.table_sliders import PLANE_ROWS, number, read_plane
from tests.views.made import HOSTILE, random_trace, untouchable
from tests.views.made_kinds import by_hand, causal, translator
from tests.views.test_attention_map import assert_escaped


def in_sight(figure: go.Figure, layer: int, head: int) -> list[list[str]]:
    """Weight and score of each key, as read where the two sliders' steps point to."""
    moved = [figure.layout.sliders[at].steps[place].args[0] for at, place in enumerate((layer, head))]
    top, bottom = sorted(moved[0]["yaxis2.range"])
    left, right = moved[1]["xaxis3.range"]
    assert moved[1]["xaxis4.range"] == [left, right]
    found = []
    for column in figure.data[2:]:
        texts = np.asarray(column.text)
        rows = [at for at in range(len(texts)) if top < at < bottom]
        columns = [at for at in range(texts.shape[1]) if left < at < right]
        assert len(columns) == 1
        found.append(texts[rows][:, columns[0]].tolist())
    return [list(row) for row in zip(*found, strict=True)]


def test_the_sliders_put_each_head_of_each_layer_in_sight() -> None:
    trace = random_trace(9, 4, heads=3, layers=(0, 2))
    figure = attention_table(trace, token=5, masked=True)
    assert [[step.label for step in slider.steps] for slider in figure.layout.sliders] == [["0", "2"], ["0", "1", "2"]]
    for place, layer in enumerate((0, 2)):
        for head in range(3):
            weights, scores = trace.attention(layer, head)[5], trace.scores(layer, head)[5]
            expected = [[number(float(w), 4), number(float(s), 3)] for w, s in zip(weights, scores, strict=True)]
            assert in_sight(figure, place, head) == expected
            assert expected[-1] == ["0.0000", "−∞"]


def test_the_first_in_sight_is_the_one_asked_for() -> None:
    trace = random_trace(9, 4, heads=3, layers=(0, 2))
    figure = attention_table(trace, token=5, start=(2, 1))
    assert [slider.active for slider in figure.layout.sliders] == [1, 1]
    assert list(figure.layout.yaxis2.range) == figure.layout.sliders[0].steps[1].args[0]["yaxis2.range"]
    assert list(figure.layout.xaxis3.range) == figure.layout.sliders[1].steps[1].args[0]["xaxis3.range"]
    assert list(figure.layout.xaxis3.range) == list(figure.layout.xaxis4.range) == [0.5, 1.5]
    with pytest.raises(ViewError, match="layers shown: 0, 2"):
        attention_table(trace, token=5, start=(1, 1))


def test_only_keys_that_some_head_lets_it_see() -> None:
    assert list(attention_table(causal(), token=3).data[1].text) == ["w0", "w1", "w2", "w3"]
    window = random_trace(9, 4, window=2)
    plane = read_plane(window, None, None, 5, None, masked=False, kind="self")
    assert plane.positions == (4, 5)
    torch.testing.assert_close(plane.weights[0], window.attention(0)[:, 5, 4:6])
    # One layer or one head given: one slider has one step.
    assert [len(one.steps) for one in attention_table(causal(), 0, token=3).layout.sliders] == [1, 4]


def test_cross_attention_and_the_last_token() -> None:
    figure = attention_table(translator(), kind="cross")
    assert [row[0] for row in in_sight(figure, 0, 1)] == [
        number(float(weight), 4) for weight in by_hand(translator(), 1, "cross")[0][3]
    ]
    assert "3 ␣&lt;b&gt; looks at" in figure.layout.title.subtitle.text


def test_a_row_never_seen_and_hostile_tokens() -> None:
    figure = attention_table(random_trace(9, 4, unseen=3), token=1)
    assert "was never seen" in figure.layout.title.subtitle.text
    assert in_sight(figure, 0, 0) == [["–", "–"]] * 8
    assert_escaped(attention_table(random_trace(len(HOSTILE), 4, texts=HOSTILE), token=len(HOSTILE) - 2))


def test_too_much_is_refused_before_it_is_read() -> None:
    long = untouchable(random_trace(PLANE_ROWS + 2, 4))
    with pytest.raises(ViewBudgetError, match="rows of a table"):
        attention_table(long, token=5)
    with pytest.raises(ViewError, match="order='weight'"):
        attention_table(causal(), token=5, order="weight")
