"""The heat map of one head, looked at as data."""

import json
import re

import numpy as np
import plotly.graph_objects as go
import pytest
import torch

from gentrace.errors import ViewError
from gentrace.views import attention_map, mean, theme
from tests.views.made import HOSTILE, made_tokens, made_trace, random_trace
from tests.views.made_kinds import by_hand, causal, sentences, translator


def maps(figure: go.Figure) -> list[go.Heatmap]:
    return [trace for trace in figure.data if trace.type == "heatmap"]


def texts_of(value: object) -> list[str]:
    """Every string in a figure that Plotly may read as markup."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for one in value.values() for text in texts_of(one)]
    if isinstance(value, list | tuple):
        return [text for one in value for text in texts_of(one)]
    return []


def assert_escaped(figure: go.Figure) -> None:
    """No ``<`` but those of our own tags, no ``&`` but those of our own entities."""
    for text in texts_of(json.loads(figure.to_json() or "")):
        rest = re.sub(r"</?b>|<br>|<extra></extra>", "", text)
        assert "<" not in rest, text
        assert not re.search(r"&(?!amp;|lt;|gt;|#36;)", rest), text


def test_weights_and_scores_by_the_textbook() -> None:
    trace = causal()
    weights, scores = by_hand(trace, 3, is_causal=True)
    lower = np.tril(np.ones((6, 6), bool))
    for what, z, beside in (("weights", weights, scores), ("scores", scores, weights)):
        shown = maps(attention_map(trace, 0, 3, what=what, sink="keep"))[0]  # type: ignore[arg-type]
        np.testing.assert_allclose(np.asarray(shown.z)[lower], z.numpy()[lower], rtol=1e-5)
        np.testing.assert_allclose(np.asarray(shown.customdata)[lower], beside.numpy()[lower], rtol=1e-5)
        assert np.isnan(np.asarray(shown.z)[~lower]).all()
    assert "weight %{customdata" in shown.hovertemplate
    assert "score %{z" in shown.hovertemplate


def test_the_first_key_that_is_set_aside_keeps_its_numbers() -> None:
    trace = causal()
    rest, first = maps(attention_map(trace, 0, 3))
    weights = by_hand(trace, 3, is_causal=True)[0].numpy()
    np.testing.assert_allclose(np.asarray(first.z)[:, 0], weights[:, 0], rtol=1e-5)
    assert (np.asarray(first.z).shape, first.x0, rest.x0) == ((6, 1), 0, 1)
    assert {colour for _, colour in first.colorscale} == {theme.LIGHT.unseen}
    figure = attention_map(trace, 0, 3)
    assert "set aside" in figure.layout.title.subtitle.text
    assert figure.layout.coloraxis.cmax <= weights[:, 1:].max() + 1e-6
    kept = attention_map(trace, 0, 3, sink="keep")
    assert len(maps(kept)) == 1
    assert "set aside" not in kept.layout.title.subtitle.text


def test_four_decimals_in_the_cells() -> None:
    figure = attention_map(causal(), 0, 3, annotate=True)
    assert [one.texttemplate for one in maps(figure)] == ["%{z:.4f}"] * 2
    assert maps(attention_map(causal(), 0, 3))[0].texttemplate is None


def test_ranges_keep_their_positions() -> None:
    figure = attention_map(causal(), 0, 3, queries=slice(2, 5), keys=(1, 4))
    (shown,) = maps(figure)
    assert (shown.x0, shown.y0, np.asarray(shown.z).shape) == (1, 2, (3, 3))
    assert list(figure.layout.xaxis.ticktext) == ["1 w1", "2 w2", "3 w3"]
    assert list(figure.layout.yaxis.ticktext) == ["2 w2", "3 w3", "4 w4"]
    assert list(figure.layout.yaxis.range) == [4.5, 1.5]


def test_equal_tokens_do_not_merge() -> None:
    figure = attention_map(random_trace(30, 4), 0, 0)
    for axis in (figure.layout.xaxis, figure.layout.xaxis2, figure.layout.yaxis2):
        assert len(set(axis.tickvals)) == len(axis.tickvals) == len(axis.ticktext)
    assert len(set(figure.layout.xaxis2.ticktext)) < len(figure.layout.xaxis2.ticktext)


@pytest.mark.parametrize("dark", [False, True])
def test_hostile_tokens(dark: bool) -> None:
    assert_escaped(attention_map(random_trace(len(HOSTILE), 4, texts=HOSTILE), 0, 0, dark=dark))


def test_the_hostile_test_can_fail() -> None:
    figure = attention_map(random_trace(9, 4), 0, 0)
    figure.layout.xaxis.ticktext = ["<img>"]
    with pytest.raises(AssertionError):
        assert_escaped(figure)


def test_rows_never_seen_are_grey_bands() -> None:
    figure = attention_map(random_trace(9, 6, unseen=2), 0, 0)
    (band,) = [trace for trace in figure.data if trace.name == "never seen"]
    assert (min(band.y), max(band.y), band.fillcolor) == (-0.5, 1.5, theme.LIGHT.unseen)
    assert np.isnan(np.asarray(maps(figure)[0].z)[:2]).all()


@pytest.mark.parametrize("trace", [causal(length=1), causal(scores_only=True), random_trace(2, 1)])
def test_small_and_strange_traces(trace) -> None:  # noqa: ANN001
    assert maps(attention_map(trace, 0, 0))
    assert maps(attention_map(trace, 0, 0, what="scores", annotate=True))


def test_the_written_part_begins_at_a_dotted_line() -> None:
    lines = [trace for trace in attention_map(causal(), 0, 0).data if trace.name == "end of prompt"]
    assert [(list(line.x), list(line.y)) for line in lines] == [
        ([-0.5, 2.5], [2.5, 2.5]),
        ([2.5, 2.5], [2.5, 5.5]),
    ]
    across = [trace for trace in attention_map(translator(), 0, 0, kind="cross").data if trace.name == "end of prompt"]
    assert [(list(line.x), list(line.y)) for line in across] == [([-0.5, 5.5], [0.5, 0.5])]
    assert not [trace for trace in attention_map(sentences(), 0, 0).data if trace.name == "end of prompt"]


def test_a_mean_can_be_drawn() -> None:
    trace = causal()
    expected = sum(by_hand(trace, head, is_causal=True)[0] for head in range(4)) / 4
    for figure in (attention_map(mean(trace), sink="keep"), attention_map(trace, 0, sink="keep")):
        lower = np.tril(np.ones((6, 6), bool))
        np.testing.assert_allclose(np.asarray(maps(figure)[0].z)[lower], expected.numpy()[lower], rtol=1e-5)
    assert "mean of 4 heads" in attention_map(mean(trace)).layout.title.text
    with pytest.raises(ViewError, match=r"give those to mean\(\)"):
        attention_map(mean(trace), 0)


def test_one_heat_map_costs_eight_bytes_a_cell() -> None:
    sizes = [len(attention_map(random_trace(length, 10), 0, 0).to_json() or "") for length in (101, 201)]
    # Two float32 a cell, in base64, of which Plotly writes every slash as six characters.
    assert 1 <= (sizes[1] - sizes[0]) / ((200**2 - 100**2) * 8 * 4 / 3) < 1.3


def test_wrong_words() -> None:
    with pytest.raises(ViewError, match="'weights', 'scores'"):
        attention_map(causal(), 0, 0, what="sums")  # type: ignore[arg-type]
    with pytest.raises(ViewError, match="'mask', 'keep'"):
        attention_map(causal(), 0, 0, sink="log")  # type: ignore[arg-type]
    with pytest.raises(ViewError, match="layers recorded: none"):
        attention_map(causal(), 0, 0, kind="encoder")
    with pytest.raises(ViewError, match="no layer of kind 'cross'"):
        attention_map(causal(), kind="cross")


def test_a_heavy_first_key_does_not_dim_the_rest() -> None:
    keys = torch.tensor([[[9.0], [1.0], [0.0]]])
    trace = made_trace(torch.ones(1, 3, 1), keys, made_tokens(list("abcd"), 2))
    assert attention_map(trace, 0, 0).layout.coloraxis.cmax < 0.001
    assert attention_map(trace, 0, 0, sink="keep").layout.coloraxis.cmax > 0.9


def test_probabilities_stand_beside_the_queries() -> None:
    trace = causal()
    figure = attention_map(trace, 0, 1, queries="generated", probabilities=True)
    shares = [f"{100 * float(one.exp()):.1f} %" for one in trace.tokens.logprobs[3:6]]
    assert shares == ["50.0 %"] * 3
    assert list(figure.layout.yaxis2.ticktext) == ["w3  50.0 %", "w4  50.0 %", "w5  50.0 %"]
    assert list(figure.layout.yaxis.ticktext) == ["3 w3  50.0 %", "4 w4  50.0 %", "5 w5  50.0 %"]
    assert list(figure.layout.xaxis.ticktext) == [f"{place} w{place}" for place in range(6)]
    assert attention_map(trace, 0, 1, probabilities=True).layout.yaxis2.ticktext[0] == "w0  –"
    for wrong, kind in ((mean(trace), "self"), (translator(), "encoder")):
        with pytest.raises(ViewError, match="these queries have none"):
            attention_map(wrong, kind=kind, probabilities=True)  # type: ignore[arg-type]
