"""Small multiples, looked at as data."""

import numpy as np
import plotly.graph_objects as go
import pytest

from gentrace.errors import ViewBudgetError
from gentrace.views import attention_grid
from tests.views.made import HOSTILE, random_trace
from tests.views.made_kinds import by_hand, causal, translator
from tests.views.test_attention_map import assert_escaped, maps


def box(one: go.Heatmap) -> tuple[float, float, float, float]:
    rows, columns = np.asarray(one.z).shape
    return one.x0 - 0.5, one.x0 + columns - 0.5, one.y0 - 0.5, one.y0 + rows - 0.5


def test_every_panel_holds_its_head() -> None:
    trace = random_trace(8, 3, heads=3, layers=(0, 2))
    shown = maps(attention_grid(trace, sink="keep"))
    assert [one.name for one in shown] == [f"layer {layer} · head {head}" for layer in (0, 2) for head in range(3)]
    lower = np.tril(np.ones((7, 7), bool))
    for one, (layer, head) in zip(shown, [(layer, head) for layer in (0, 2) for head in range(3)], strict=True):
        np.testing.assert_array_equal(np.asarray(one.z)[lower], trace.attention(layer, head).numpy()[lower])
        np.testing.assert_array_equal(np.asarray(one.customdata)[lower], trace.scores(layer, head).numpy()[lower])


def test_rows_are_layers_and_columns_heads() -> None:
    shown = maps(attention_grid(random_trace(8, 3, heads=3, layers=(0, 2)), sink="keep"))
    assert len({one.x0 for one in shown[:3]}) == 3
    assert [one.x0 for one in shown[:3]] == [one.x0 for one in shown[3:]]
    assert {one.y0 for one in shown[:3]} == {0}
    assert len({one.y0 for one in shown[3:]}) == 1
    figure = attention_grid(random_trace(8, 3, heads=3, layers=(0, 2)))
    assert list(figure.layout.yaxis2.ticktext) == ["layer 0", "layer 2"]
    assert list(figure.layout.xaxis2.ticktext) == ["head 0", "head 1", "head 2"]
    many = attention_grid(random_trace(8, 3, heads=7, layers=(0, 2)))
    assert list(many.layout.xaxis2.ticktext) == list("0123456")


@pytest.mark.parametrize(
    ("layers", "heads", "texts"),
    [((4,), None, [f"head {head}" for head in range(5)]), (None, 2, [f"layer {layer}" for layer in (0, 1, 4, 6, 9)])],
)
def test_by_layer_and_by_head_wrap(layers: object, heads: object, texts: list[str]) -> None:
    trace = random_trace(8, 3, heads=5, layers=(0, 1, 4, 6, 9))
    figure = attention_grid(trace, layers, heads)  # type: ignore[arg-type]
    (names,) = [one for one in figure.data if one.name == "names"]
    assert list(names.text) == texts
    # Five panels, three side by side.
    assert len(set(names.x)) == 3
    assert len(set(names.y)) == 2


@pytest.mark.parametrize("sink", ["mask", "keep"])
def test_panels_do_not_overlap(sink: str) -> None:
    boxes = [box(one) for one in maps(attention_grid(causal(), sink=sink))]  # type: ignore[arg-type]
    for place, (left, right, top, bottom) in enumerate(boxes):
        for west, east, north, south in boxes[place + 1 :]:
            assert right <= west or east <= left or bottom <= north or south <= top


def test_tooltips_name_the_tokens_of_every_panel() -> None:
    figure = attention_grid(causal(), sink="keep")
    for axis, start in (("xaxis", "x0"), ("yaxis", "y0")):
        named = dict(zip(figure.layout[axis].tickvals, figure.layout[axis].ticktext, strict=True))
        for one in maps(figure):
            assert [named[one[start] + place] for place in range(6)] == [f"{place} w{place}" for place in range(6)]


def test_one_colour_scale() -> None:
    figure = attention_grid(random_trace(8, 3, heads=3, layers=(0, 2)), sink="keep")
    assert {one.coloraxis for one in maps(figure)} == {"coloraxis"}
    strongest = [np.nanmax(np.asarray(one.z)[1:], axis=1) for one in maps(figure)]
    assert min(map(min, strongest)) < figure.layout.coloraxis.cmax <= 1


def test_a_first_key_set_aside_keeps_its_numbers() -> None:
    trace = causal()
    shown = maps(attention_grid(trace))
    assert len(shown) == 8
    for head in range(4):
        first = by_hand(trace, head, is_causal=True)[0][:, 0]
        np.testing.assert_allclose(np.asarray(shown[2 * head + 1].z)[:, 0], first, rtol=1e-5)


def test_cross_attention_and_scores() -> None:
    trace = translator()
    shown = maps(attention_grid(trace, kind="cross", what="scores"))
    np.testing.assert_allclose(np.asarray(shown[1].z), by_hand(trace, 1, "cross")[1], rtol=1e-5)
    np.testing.assert_allclose(np.asarray(shown[1].customdata), by_hand(trace, 1, "cross")[0], rtol=1e-5)


def test_rows_never_seen() -> None:
    figure = attention_grid(random_trace(9, 6, heads=2, unseen=2))
    (grey,) = [trace for trace in figure.data if trace.name == "never seen"]
    # Two rows in each of two panels, five corners (the last a gap) each.
    assert len(grey.x) == 2 * 2 * 5


def test_hostile_tokens() -> None:
    assert_escaped(attention_grid(random_trace(len(HOSTILE), 4, texts=HOSTILE), dark=True))


def test_too_many_panels() -> None:
    with pytest.raises(ViewBudgetError, match="model_view"):
        attention_grid(random_trace(4, 2, heads=60, layers=tuple(range(8))))


def test_numbers_in_the_cells_of_every_panel() -> None:
    trace = random_trace(6, 3, heads=3, layers=(0, 2))
    for sink in ("keep", "mask"):
        figure = attention_grid(trace, annotate=True, sink=sink)  # type: ignore[arg-type]
        assert {one.texttemplate for one in maps(figure)} == {"%{z:.4f}"}
        assert len(maps(figure)) == (12 if sink == "mask" else 6)
    (names,) = [one for one in figure.data if one.name == "names"]
    assert list(names.text) == [f"layer {layer} · head {head}" for layer in (0, 2) for head in range(3)]
    # Five cells of 50 pixels: three panels beside each other, each cell as wide as a number needs.
    assert len(set(names.x)) == 3
    left, right = figure.layout.xaxis.range
    inner = figure.layout.width - figure.layout.margin.l - figure.layout.margin.r
    assert inner / (right - left) == pytest.approx(50, abs=0.5)
    boxes = [box(one) for one in maps(attention_grid(trace, annotate=True, sink="keep"))]
    for place, (west, east, north, south) in enumerate(boxes):
        for left, right, top, bottom in boxes[place + 1 :]:
            assert east <= left or right <= west or south <= top or bottom <= north
    with pytest.raises(ViewBudgetError, match="with numbers"):
        attention_grid(random_trace(66, 3), annotate=True)
