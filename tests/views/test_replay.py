"""The figure, looked at as data."""

import base64
import json
import math
import re
import zlib
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
import torch

from gentrace.errors import ViewBudgetError, ViewError
from gentrace.views import attention_grid, attention_map, head_view, replay, replay_page, theme, token_strip
from gentrace.views.figure_image import picture
from tests.views.made import HOSTILE, random_trace, untouchable
from tests.views.made_kinds import searched, translator


def size(figure: go.Figure) -> int:
    return len(figure.to_json() or "")


def of_type(figure: go.Figure, kind: str) -> list:
    return [trace for trace in figure.data if trace.type == kind]


def moving(figure: go.Figure, row: int) -> dict[int, object]:
    frame = next(frame for frame in figure.frames if frame.name == str(row))
    return dict(zip(frame.traces, frame.data, strict=True))


def test_the_heatmaps_hold_the_trace() -> None:
    trace = random_trace(12, 4)
    (heat,) = of_type(replay(trace, heads=1), "heatmap")
    lower = np.tril(np.ones((11, 11), bool))
    np.testing.assert_array_equal(np.asarray(heat.z)[lower], trace.attention(0, 1).numpy()[lower])
    np.testing.assert_array_equal(np.asarray(heat.customdata)[lower], trace.scores(0, 1).numpy()[lower])
    assert np.isnan(np.asarray(heat.z)[~lower]).all()
    assert np.isnan(np.asarray(heat.customdata)[~lower]).all()


def test_several_heads_stand_side_by_side() -> None:
    trace, lower = random_trace(12, 4, layers=(0, 1)), np.tril(np.ones((11, 11), bool))
    figure = replay(trace, layer=[0, 1], heads=[0, 1])
    weights = of_type(figure, "heatmap")
    for (layer, head), one in zip([(0, 0), (0, 1), (1, 0), (1, 1)], weights, strict=True):
        np.testing.assert_array_equal(np.asarray(one.z)[lower], trace.attention(layer, head).numpy()[lower])
    # A row of layers, a column of heads, none upon another; one colour scale for all.
    places = [(one.y0, one.x0) for one in weights]
    assert places[0][0] == places[1][0] <= places[2][0] - 11
    assert places[2][0] == places[3][0]
    assert places[0][1] == places[2][1] <= places[1][1] - 11
    assert places[1][1] == places[3][1]
    assert len({one.coloraxis for one in weights}) == 1
    with pytest.raises(ViewBudgetError, match="mean=True"):
        replay(random_trace(6, 2, layers=tuple(range(19))), layer=list(range(19)), heads=[0, 1])


def test_cross_attention_shows_every_key_of_the_source() -> None:
    trace = translator()
    info = next(layer for layer in trace.layers if layer.kind == "cross")
    (weights,) = of_type(replay(trace, layer=info.index, kind="cross", heads=0), "heatmap")
    wanted = trace.attention(info.index, 0, kind="cross").numpy()
    assert wanted.shape == (trace.length, trace.encoder_length)
    np.testing.assert_array_equal(np.asarray(weights.z), wanted)
    with pytest.raises(ViewError, match="no cross-attention"):
        replay(random_trace(6, 2), kind="cross")


def test_masked_keys_are_gaps_and_not_zeros() -> None:
    weights = np.asarray(of_type(replay(random_trace(12, 4, window=3), heads=0), "heatmap")[0].z)
    assert np.isnan(weights[8, 5])
    assert not np.isnan(weights[8, 6])


def test_one_frame_a_row_and_none_holds_a_matrix() -> None:
    figure = replay(random_trace(40, 10))
    assert [frame.name for frame in figure.frames] == [str(row) for row in range(39)]
    kinds = {trace.type for frame in figure.frames for trace in frame.data}
    assert kinds == {"scatter", "bar"}
    still = {place for place, trace in enumerate(figure.data) if trace.type == "heatmap"}
    assert all(not still & set(frame.traces) for frame in figure.frames)
    assert max(len(json.dumps(frame.to_plotly_json(), default=list)) for frame in figure.frames) < 3000


def test_size_grows_with_the_square_of_the_tokens() -> None:
    small, large = (size(replay(random_trace(length, 10), heads=0)) for length in (300, 600))
    assert large / small < 4.4


def test_the_growth_test_would_notice_a_matrix_a_frame() -> None:
    figures = [replay(random_trace(length, 10), heads=0) for length in (60, 120)]
    for figure in figures:
        z = np.asarray(of_type(figure, "heatmap")[0].z)
        figure.frames = [go.Frame(name=frame.name, data=[go.Heatmap(z=z)]) for frame in figure.frames]
    assert size(figures[1]) / size(figures[0]) > 6


def test_the_curtain_covers_exactly_the_rows_to_come() -> None:
    figure = replay(random_trace(12, 4), heads=0)
    for row in (3, 7):
        curtain, current = list(moving(figure, row).values())[:2]
        assert min(curtain.y) == row + 0.5
        assert max(curtain.y) >= 10.5
        assert (min(current.y), max(current.y)) == (row - 0.5, row + 0.5)
        assert (min(current.x), max(current.x)) == (-0.5, row + 0.5)


def test_a_long_replay_keeps_every_number_and_has_no_more_stops_than_a_hand_can_choose() -> None:
    trace = random_trace(301, 21)
    figure = replay(trace, heads=1)
    (heat,) = of_type(figure, "heatmap")
    for rows, true in ((heat.z, trace.attention(0, 1)), (heat.customdata, trace.scores(0, 1))):
        assert [len(row) for row in rows] == list(range(1, 301))
        for at in (0, 150, 299):
            assert list(rows[at]) == pytest.approx(true[at, : at + 1].tolist(), rel=1e-3)
    names = {frame.name for frame in figure.frames}
    (slider,) = replay(random_trace(151, 21), heads=1).layout.sliders
    assert [int(step.label) for step in slider.steps] == list(range(150))
    assert (slider.active, slider.currentvalue.visible) == (20, True)
    narrow = replay(trace, heads=1, width=320)
    (slider,) = narrow.layout.sliders
    stops = [int(step.label) for step in slider.steps]
    assert len(names) == len(narrow.frames) == 300
    assert 32 <= len(stops) <= 320 / 6
    assert {step.args[0][0] for step in slider.steps} <= names
    assert (stops[slider.active], stops[-1], slider.currentvalue.visible) == (20, 299, False)


def test_a_long_replay_of_a_window_keeps_its_gaps() -> None:
    trace = random_trace(301, 21, window=40)
    (heat,) = of_type(replay(trace, heads=0), "heatmap")
    assert list(heat.z[100][:61]) == [None] * 61
    assert list(heat.z[100][61:]) == pytest.approx(trace.attention(0, 0)[100, 61:101].tolist(), rel=1e-3)


def test_it_opens_and_plays_from_the_last_prompt_token() -> None:
    figure = replay(random_trace(12, 4), heads=0)
    assert figure.layout.sliders[0].active == 3
    assert figure.layout.sliders[0].steps[3].args[0] == ["3"] or figure.layout.sliders[0].steps[3].args[0] == ("3",)
    play = figure.layout.updatemenus[0].buttons
    assert [list(button.args[0]) for button in play[:3]] == [[str(row) for row in range(3, 11)]] * 3
    speeds = [button.args[1]["frame"]["duration"] for button in play[:3]]
    assert speeds == sorted(speeds, reverse=True)
    assert list(play[3].args[0]) == [None]
    first, shown = moving(figure, 3), figure.data
    for place, change in first.items():
        assert list(shown[place].x or ()) == list(change.x or ())
        assert list(shown[place].y or ()) == list(change.y or ())


def test_the_bars_of_step_p_come_from_entry_p_plus_1() -> None:
    figure = replay(random_trace(12, 4), heads=0)
    raw, chosen, sampled = [trace for trace in moving(figure, 6).values() if trace.type == "bar"]
    assert list(chosen.x) == [0.5]
    assert list(raw.x) == [0.25, 0.125]
    assert list(sampled.x) == [pytest.approx(0.6667), pytest.approx(0.3333), 0]
    names, numbers, headline = list(moving(figure, 6).values())[-3:]
    # Behind the end of each bar, the model's above the sampled one's.
    assert list(numbers.text) == ["50.0 %", "25.0 %", "12.5 %", "66.7 %", "33.3 %", "excluded"]
    assert list(numbers.x) == [0.5, 0.25, 0.125, pytest.approx(0.6667), pytest.approx(0.3333), 0]
    assert list(numbers.y) == pytest.approx([0.21, -0.79, -1.79, -0.21, -1.21, -2.21])
    assert list(names.text) == ["<b>␣word0</b>", "other1", "other2"]
    assert "␣word6" in headline.text[0]
    assert "50.0 % by the model" in headline.text[1]
    # In the prompt nothing was sampled.
    assert [len(trace.x) for trace in moving(figure, 1).values() if trace.type == "bar"] == [2, 1, 0]


def test_without_a_sampled_distribution_there_are_no_sampled_bars() -> None:
    from tests.views.made import made_tokens, made_trace

    tokens = made_tokens([f"w{place}" for place in range(6)], 3, sampled=False)
    figure = replay(made_trace(torch.ones(1, 5, 1), torch.ones(1, 5, 1), tokens))
    assert len(of_type(figure, "bar")) == 2


def test_every_token_text_is_escaped_wherever_plotly_reads_markup() -> None:
    figure = replay(random_trace(len(HOSTILE), 4, texts=HOSTILE), heads=0)
    whole = figure.to_plotly_json()
    texts = []

    def collect(node: object, key: str = "") -> None:
        if isinstance(node, dict):
            for name, inner in node.items():
                collect(inner, name)
        elif isinstance(node, list | tuple):
            for inner in node:
                collect(inner, key)
        elif isinstance(node, str) and key in {"text", "ticktext", "hovertext", "title", "hovertemplate", "name"}:
            texts.append(node)

    collect({key: whole[key] for key in ("data", "layout")})
    collect([frame.to_plotly_json() for frame in figure.frames])
    ours = re.compile(r"</?b>|<br>|<span style='[^'<>]*'>|</span>|<extra></extra>")
    assert [text for text in texts if re.search("[<>]", ours.sub("", text))] == []
    joined = "\n".join(texts)
    for shown in (
        "&lt;s&gt;",
        "&lt;b&gt;x&lt;/b&gt;",
        "&lt;/script&gt;",
        "&amp;lt;",
        "↵",
        "⇥",
        "∅",
        "⟨RLM⟩",
        "שלום",
        "😀",
    ):
        assert shown in joined
    assert "made &lt;by&gt; hand" in figure.layout.title.text


def test_ticks_are_at_numeric_positions_so_repeated_tokens_never_merge() -> None:
    figure = replay(random_trace(20, 4, texts=[" the"] * 20), heads=0)
    for axis in (figure.layout.xaxis, figure.layout.yaxis):
        assert list(axis.tickvals) == list(range(19))
        assert list(axis.ticktext) == [f"{place} ␣the" for place in range(19)]
    shown = figure.layout.xaxis2
    assert list(shown.ticktext) == ["␣the"] * len(shown.tickvals)
    assert len(set(shown.tickvals)) == len(shown.tickvals) == 19


def test_rows_never_seen_are_marked_and_not_drawn_as_zero() -> None:
    figure = replay(random_trace(30, 10, unseen=4), heads=0)
    assert np.isnan(np.asarray(of_type(figure, "heatmap")[0].z)[:4]).all()
    mark = next(trace for trace in figure.data if trace.name == "never seen")
    assert (min(mark.y), max(mark.y)) == (-0.5, 3.5)
    assert not [trace for trace in replay(random_trace(30, 10), heads=0).data if trace.name == "never seen"]


@pytest.mark.parametrize(("sink", "marks"), [("mask", 1), ("log", 0), ("keep", 0)])
def test_only_a_masked_first_key_is_covered(sink: str, marks: int) -> None:
    figure = replay(random_trace(12, 4), heads=0, sink=sink)
    found = [trace for trace in figure.data if trace.name == "first key"]
    assert len(found) == marks
    assert [(min(mark.x), max(mark.x), min(mark.y), max(mark.y)) for mark in found] == [(-0.5, 0.5, -0.5, 10.5)] * marks


def test_the_end_of_the_prompt_is_drawn() -> None:
    line = next(trace for trace in replay(random_trace(30, 10), heads=0).data if trace.name == "end of prompt")
    assert list(line.x) == [-0.5, 9.5, 9.5]
    assert list(line.y) == [9.5, 9.5, 28.5]


def test_every_panel_has_its_marks_in_one_trace_of_each() -> None:
    figure = replay(random_trace(30, 10, heads=3, unseen=4), heads=[0, 1, 2])
    for name, corners in (("first key", 4), ("never seen", 4), ("end of prompt", 3)):
        (mark,) = [trace for trace in figure.data if trace.name == name]
        assert len(mark.x) == 3 * (corners + 1) - 1
        lefts = [mark.x[place * (corners + 1)] for place in range(3)]
        heats = of_type(figure, "heatmap")
        assert lefts == [pytest.approx(heat.x0 - 0.5) for heat in heats]


def test_the_text_is_turned_over_like_pages_and_what_comes_next_is_always_in_sight() -> None:
    figure = replay(random_trace(400, 10), heads=0)
    letters = next(trace for trace in figure.data if trace.name == "text")
    ranges = [tuple(frame.layout.yaxis3.range) for frame in figure.frames]
    for row, (bottom, top) in enumerate(ranges):
        assert top <= letters.y[row] - 0.5
        assert letters.y[row + 1] + 0.5 < bottom
    # Every turn costs a redraw of all matrices, so there are few.
    assert len(set(ranges)) <= math.ceil(max(letters.y) / 8)
    assert sum(one != after for one, after in pairwise(ranges)) == len(set(ranges)) - 1


def painted(figure: go.Figure, row: int) -> dict[str, tuple[float, str]]:
    """Words that a frame paints: how strongly, and in which ink."""
    place = next(place for place, trace in enumerate(figure.data) if trace.name == "looked at")
    move = moving(figure, row)[place]
    return dict(zip(move.text, zip(move.marker.line.color, move.textfont.color, strict=True), strict=True))


def test_words_are_painted_in_the_colours_of_the_current_row() -> None:
    words = [f"w{place}" for place in range(41)]
    trace = random_trace(41, 6, heads=3, texts=words)
    figure = replay(trace, heads=1)
    high, weights = figure.layout.coloraxis.cmax, trace.attention(0, 1)
    for row in (5, 39):
        shares = (weights[row] / high).clamp(0, 1)
        # The masked first token is grey in the matrix, and no word is painted that cannot be told from paper.
        wanted = {words[at]: float(shares[at]) for at in range(1, row + 1) if shares[at] >= 0.06}
        assert len(wanted) > 2
        strongest = sorted(wanted, key=wanted.__getitem__, reverse=True)[:24]
        found = painted(figure, row)
        assert {name: share for name, (share, _) in found.items()} == pytest.approx(
            {name: wanted[name] for name in strongest}, abs=6e-4
        )
        for share, ink in found.values():
            assert theme.contrast(theme.mix(theme.LIGHT.attention, share), ink) >= 4.5
    # Of several matrices the mean; a first token that is not set aside is a word like others.
    several = replay(trace, heads=[0, 2], sink="keep")
    mean = (trace.attention(0, 0)[3] + trace.attention(0, 2)[3]) / 2
    share, _ = painted(several, 3)["w0"]
    assert share == pytest.approx(min(1.0, float(mean[0]) / several.layout.coloraxis.cmax), abs=6e-4)
    assert "words painted by mean weight" in several.layout.title.text
    # What looks at a source looks at none of these words.
    assert not [one for one in replay(translator(), kind="cross").data if one.name == "looked at"]


def test_a_stroke_is_as_wide_as_its_word() -> None:
    figure = replay(random_trace(12, 4, texts=[f" word{10**place}" for place in range(12)]), heads=0)
    stroke = next(trace for trace in figure.data if trace.name == "looked at")
    letters = next(trace for trace in figure.data if trace.name == "text")
    inner = figure.layout.width - figure.layout.margin.l - figure.layout.margin.r
    across = inner / (figure.layout.xaxis3.range[1] - figure.layout.xaxis3.range[0])
    words = {text: x for x, text in zip(letters.x, letters.text, strict=True)}
    assert len(stroke.x)
    for x, size_, text in zip(stroke.x, stroke.marker.size, stroke.text, strict=True):
        wide = 1.4 * size_ / across
        assert wide == pytest.approx(len(text) + 0.3, abs=0.05)
        assert x == pytest.approx(words[text] + len(text) / 2, abs=0.01)


def test_words_are_underlined_in_the_colour_of_their_probability() -> None:
    trace = random_trace(6, 3, texts=["Ab", " cd", " ef", " gh", " ij", " kl"])
    trace.tokens.logprobs[3:] = torch.tensor([1.0, 0.5, 0.0]).log()
    figure = replay(trace, heads=0)
    image, letters = figure.layout.images[-1], next(one for one in figure.data if one.name == "text")
    assert (image.xref, image.yref, image.x, image.y) == ("x3", "y3", -1, -0.5)
    dots = indices(image.source)
    down, across = dots.shape[0] / image.sizey, dots.shape[1] / image.sizex
    at = int(0.88 * down)
    found = [dots[at, round((x + 1.5) * across)] for x in letters.x]
    # Of 255 colours, the first for a probability of 0; none (index 0) where it is unknown, and between words.
    assert [found[0], *found[3:]] == [0, 255, 128, 1]
    assert dots[at, round((letters.x[3] + 0.5) * across)] == 0
    assert not dots[: int(0.8 * down)].any()


@pytest.mark.parametrize(
    ("count", "shape", "columns"),
    [(1, 1.0, 1), (2, 1.0, 2), (3, 1.0, 2), (4, 1.0, 2), (6, 1.0, 3), (9, 1.0, 3), (3, 0.3, 1)],
)
def test_matrices_are_as_large_as_the_sheet_allows(count: int, shape: float, columns: int) -> None:
    trace = random_trace(41, 4, heads=count)
    figure = replay(trace, heads=list(range(count)), rows=(int(40 - 40 * shape), 40))
    heats = of_type(figure, "heatmap")
    assert len({heat.x0 for heat in heats}) == columns
    narrow = replay(trace, heads=list(range(count)), rows=(int(40 - 40 * shape), 40), width=390)
    assert len({heat.x0 for heat in of_type(narrow, "heatmap")}) <= 2


@pytest.mark.parametrize(("width", "rows"), [(390, None), (700, None), (1120, None), (390, (30, 34)), (1120, (30, 34))])
def test_matrices_keep_their_shape_and_nothing_overlaps_at_any_width(width: int, rows: tuple[int, int] | None) -> None:
    figure = replay(searched(random_trace(41, 30)), rows=rows, width=width)
    layout, heats = figure.layout, of_type(figure, "heatmap")
    inner = width - layout.margin.l - layout.margin.r
    tall = layout.height - layout.margin.t - layout.margin.b
    pixels = [
        (axis.domain[1] - axis.domain[0]) * size / abs(axis.range[1] - axis.range[0])
        for axis, size in ((layout.xaxis, inner), (layout.yaxis, tall))
    ]
    if rows is None:
        assert pixels[0] == pytest.approx(pixels[1], rel=0.01)
    # The names of queries, left of the matrices, need 60 pixels; of the keys below 74.
    assert layout.margin.l + layout.xaxis.domain[0] * inner > 60
    bars, text, tree = layout.yaxis4.domain, layout.yaxis3.domain, layout.yaxis5.domain
    assert layout.yaxis.domain[1] < text[0]
    if width < 1000:
        assert (layout.xaxis4.domain[0], bars[1] < layout.yaxis.domain[0] - 74 / tall) == (0, True)
    else:
        assert layout.xaxis4.domain[0] > layout.xaxis.domain[1] + 0.05
    assert tree[1] < min(bars[0] - 20 / tall, layout.yaxis.domain[0] - 74 / tall)
    # Letters of the text are 8.07 pixels wide.
    letters = next(trace for trace in figure.data if trace.name == "text")
    right = max(x + len(text.replace("&lt;", "<")) for x, text in zip(letters.x, letters.text, strict=True))
    per = inner / (layout.xaxis3.range[1] - layout.xaxis3.range[0])
    assert per >= 8.07
    assert right <= layout.xaxis3.range[1]
    assert {heat.xaxis for heat in heats} == {"x"}


def test_few_rows_leave_no_gap_above_the_slider() -> None:
    low, full = (replay(random_trace(41, 30), heads=0, rows=rows) for rows in ((36, 40), None))
    assert low.layout.sliders[0].pad.t < 50 < 80 < full.layout.sliders[0].pad.t
    assert low.layout.height < 600


@pytest.mark.parametrize(
    ("sink", "note"),
    [("mask", "first token set aside"), ("log", "logarithmic from 0.0001 to 1"), ("keep", "first token included")],
)
def test_the_title_says_what_the_colours_mean(sink: str, note: str) -> None:
    assert note in replay(random_trace(12, 4), heads=0, sink=sink).layout.title.text


def test_a_masked_sink_does_not_stretch_the_scale() -> None:
    trace = random_trace(40, 10)
    weights = trace.attention(0, 0)[:, 1:].amax(-1)
    expected = float(weights[weights > 0].quantile(0.9))
    assert replay(trace, heads=0).layout.coloraxis.cmax == pytest.approx(expected)


def test_on_a_log_scale_the_pointer_still_reads_the_weight() -> None:
    trace = random_trace(12, 4)
    figure = replay(trace, heads=0, sink="log")
    (heat,) = of_type(figure, "heatmap")
    weight = trace.attention(0, 0)[5, 2]
    assert np.asarray(heat.z)[5, 2] == pytest.approx(weight)
    dots = indices(figure.layout.images[0].source)
    times = dots.shape[0] // 11
    assert dots[5 * times + 1, 2 * times + 1] == round(1 + 254 * float(weight.log10() + 4) / 4)


def test_the_switch_shows_the_other_pictures_and_their_scale() -> None:
    figure = replay(random_trace(12, 4), heads=[0, 1])
    # The last one underlines the text and stays.
    assert [image.visible for image in figure.layout.images] == [True, False, True, False, None]
    shown, layout, where = figure.layout.updatemenus[1].buttons[1].args
    assert (shown, list(where)) == ({"coloraxis": "coloraxis2"}, [0, 1])
    assert [layout[f"images[{place}].visible"] for place in range(4)] == [False, True, False, True]
    assert "scores" in layout["title.text"]
    assert {heat.coloraxis for heat in of_type(figure, "heatmap")} == {"coloraxis"}
    assert {heat.coloraxis for heat in of_type(replay(random_trace(12, 4), what="scores"), "heatmap")} == {"coloraxis2"}


def test_defaults_are_the_last_layer_and_all_heads_or_their_mean() -> None:
    few = replay(random_trace(8, 3, heads=3, layers=(2, 4)))
    assert "layer 4 · 3 heads" in few.layout.title.text
    assert len(of_type(few, "heatmap")) == 3
    many = replay(random_trace(8, 3, heads=13))
    assert "mean of 13 heads" in many.layout.title.text
    assert "mean of 2 heads" in replay(random_trace(8, 3), mean=True).layout.title.text


def test_a_part_of_the_rows() -> None:
    trace = random_trace(40, 10)
    figure = replay(trace, heads=0, rows=(30, 35))
    heat = of_type(figure, "heatmap")[0]
    assert np.asarray(heat.z).shape == (5, 35)
    assert heat.y0 == 30
    np.testing.assert_allclose(np.asarray(heat.z)[2, :33], trace.attention(0, 0)[32, :33].numpy(), rtol=1e-5)
    assert [frame.name for frame in figure.frames] == ["30", "31", "32", "33", "34"]


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(ViewError, match=r"width=200: there is no room.*give width=320"):
        replay(random_trace(8, 3), width=200)
    trace = random_trace(8, 3)
    with pytest.raises(ViewError, match=r"drawing layer 7. layers recorded: 0"):
        replay(trace, layer=7)
    with pytest.raises(ViewError, match=r"drawing head 2 of layer 0. the layer has heads 0 … 1"):
        replay(trace, heads=2)
    with pytest.raises(ViewError, match=r"sink='hide'. choose one of 'mask', 'log', 'keep'"):
        replay(trace, sink="hide")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    "draw", [replay, replay_page, attention_grid, head_view, partial(attention_map, layer=0, head=0)]
)
def test_tokens_without_attention_are_sent_to_the_view_that_shows_them(draw: Any) -> None:
    trace = random_trace(9, 4, layers=())
    with pytest.raises(ViewError, match=r"no attention was recorded.*only tokens.*layers=None.*token_strip"):
        draw(trace)
    assert "word5" in "".join(token_strip(trace).to_json() or "")


def test_too_big_a_figure_is_refused_before_anything_is_read() -> None:
    trace = untouchable(random_trace(1100, 10))
    with pytest.raises(ViewBudgetError, match=r"2,415,602 cells; at most 2,000,000 fit.*heads=.*rows="):
        replay(trace, heads=[0, 1])
    with pytest.raises(AssertionError, match="was read"):
        replay(trace, heads=0)


def indices(uri: str) -> np.ndarray:
    """The places in its palette of a picture's dots."""
    data = base64.b64decode(uri.removeprefix("data:image/png;base64,"))
    width, height = (int.from_bytes(data[at : at + 4]) for at in (16, 20))
    start = data.index(b"IDAT") + 4
    length = int.from_bytes(data[start - 8 : start - 4])
    lines = np.frombuffer(zlib.decompress(data[start : start + length]), np.uint8).reshape(height, width + 1)
    assert (lines[:, 0] == 0).all()
    return lines[:, 1:]


def test_a_picture_holds_one_colour_a_cell() -> None:
    cells = indices(picture(torch.tensor([[0.0, torch.nan], [1.0, 0.5]]), 0.0, 1.0, ("#000000", "#ffffff")))
    cells = cells.reshape(2, 320, 2, 320)
    assert [[int(cells[i, 5, j, 7]) for j in range(2)] for i in range(2)] == [[1, 0], [255, 128]]
    assert (cells == cells[:, :1, :, :1]).all()
