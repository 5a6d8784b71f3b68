"""The still figures in a real browser: nothing is cut off, tooltips say what the trace says, sliders move."""

import re
from collections.abc import Callable
from typing import Any

import plotly.graph_objects as go
import pytest

from gentrace.trace.trace import Trace
from gentrace.views import (
    attention_grid,
    attention_map,
    attention_table,
    head_view,
    model_view,
    token_strip,
)
from tests.views.made import HOSTILE, random_trace
from tests.views.made_kinds import causal, sentences

pytestmark = pytest.mark.browser
FIGURES: dict[str, Callable[[Trace], go.Figure]] = {
    "map": lambda trace: attention_map(trace, 0, 1),
    "annotated": lambda trace: attention_map(trace, 0, 1, annotate=True),
    "grid": lambda trace: attention_grid(trace),
    "heads": lambda trace: head_view(trace, 0),
    "model": lambda trace: model_view(trace),
    "strip": lambda trace: token_strip(trace, "rank"),
    "table": lambda trace: attention_table(trace, 0, 1, 4),
}


def point(page: Any, x: float, y: float) -> tuple[float, float]:
    """Where a place of the first pair of axes is on the screen."""
    return tuple(
        page.evaluate(
            """([x, y]) => {
                const plot = document.querySelector('.plotly-graph-div'), full = plot._fullLayout;
                const box = plot.getBoundingClientRect(), across = full.xaxis, down = full.yaxis;
                return [box.left + across._offset + across.l2p(x), box.top + down._offset + down.l2p(y)];
            }""",
            [x, y],
        )
    )


def told(page: Any, x: float, y: float) -> str:
    """The tooltip at a place."""
    left, top = point(page, x, y)
    page.mouse.move(left + 1, top + 1)
    page.mouse.move(left, top)
    # Plotly answers at most every 50 ms.
    page.wait_for_timeout(200)
    return page.text_content(".hoverlayer .hovertext")


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("width", [1100, 390])
def test_nothing_is_cut_off(shown: Any, name: str, width: int) -> None:
    page = shown(FIGURES[name](causal(length=12)), width)
    for selector in (".gtitle", ".gtitle-subtitle", ".cb", ".slider-group", ".legend"):
        for element in page.query_selector_all(selector):
            box = element.bounding_box()
            if box and box["width"]:
                assert box["x"] >= 0, selector
                assert box["y"] >= 0, selector
    title, subtitle = page.query_selector(".gtitle").bounding_box(), page.query_selector(".gtitle-subtitle")
    assert title["y"] + title["height"] <= subtitle.bounding_box()["y"] + 2
    assert page.query_selector(".main-svg").bounding_box()["height"] > title["height"] * 4


@pytest.mark.parametrize("name", FIGURES)
def test_hostile_tokens_are_shown_and_not_run(shown: Any, name: str) -> None:
    page = shown(FIGURES[name](random_trace(len(HOSTILE), 4, texts=HOSTILE)))
    assert page.evaluate("window.pwned") is None
    assert page.query_selector(".main-svg img, .main-svg script") is None
    if name in ("map", "heads", "strip"):
        assert "<b>x</b>" in page.text_content(".main-svg")


def test_the_map_tells_what_the_trace_holds(shown: Any) -> None:
    trace = causal()
    page = shown(attention_map(trace, 0, 3))
    weights, scores = trace.attention(0, 3), trace.scores(0, 3)
    for query, key in ((4, 2), (5, 0)):
        text = told(page, key, query)
        assert f"query {query} w{query}" in text
        assert f"key {key} w{key}" in text
        found = [float(one.replace("−", "-")) for one in re.findall(r"(?:weight|score) (\S+?)(?=score|$)", text)]
        assert found == pytest.approx([float(weights[query, key]), float(scores[query, key])], rel=1e-3)


def test_the_grid_tells_what_the_trace_holds(shown: Any) -> None:
    trace = causal()
    figure = attention_grid(trace, sink="keep")
    page, panel = shown(figure), figure.data[3]
    text = told(page, panel.x0 + 2, panel.y0 + 4)
    assert "layer 0 · head 3" in text
    assert "query 4 w4" in text
    assert "key 2 w2" in text
    assert float(text.rpartition("weight ")[2]) == pytest.approx(float(trace.attention(0, 3)[4, 2]), rel=1e-3)


def test_the_model_view_tells_layer_and_head_at_a_click(shown: Any) -> None:
    page = shown(model_view(random_trace(9, 3, heads=3, layers=(0, 4))))
    page.evaluate(
        """() => document.querySelector('.plotly-graph-div')
            .on('plotly_click', event => { window.clicked = event.points[0].customdata; })"""
    )
    assert "layer 4 · head 2" in told(page, 2, 1)
    page.mouse.click(*point(page, 2, 1))
    page.wait_for_function("window.clicked")
    assert page.evaluate("window.clicked") == [4, 2]


def test_the_strip_tells_the_alternatives_along_the_whole_word(shown: Any) -> None:
    figure = token_strip(random_trace(9, 6))
    page, boxes = shown(figure), figure.data[0]
    for share in (0.1, 0.9):
        text = told(page, boxes.base[3] + share * boxes.x[3], boxes.y[3])
        assert "␣word3" in text
        assert "other1" in text


def paths(page: Any) -> list[int]:
    """Ribbons that each moving trace really draws."""
    return page.evaluate(
        """() => {
            const plot = document.querySelector('.plotly-graph-div');
            return plot._fullData.filter(one => one.fill === 'toself' && one.showlegend === false)
                .map(one => Array.from(one.y).filter(Number.isNaN).length);
        }"""
    )


def test_a_slider_of_the_head_view_shows_one_token(shown: Any) -> None:
    figure = head_view(causal(), 0, least=0.1)
    page = shown(figure)
    assert sum(paths(page)) == 0
    rail = page.query_selector_all(".slider-rail-touch-rect")[0].bounding_box()
    page.mouse.click(rail["x"] + rail["width"] - 3, rail["y"] + rail["height"] / 2)
    page.wait_for_function("document.querySelector('.slider-labels, .slider-label').textContent.length > 0")
    page.wait_for_timeout(300)
    last = figure.layout.sliders[0].steps[-1].args[0]["data"]
    expected = [len(one["y"]["bdata"]) if isinstance(one["y"], dict) else len(one["y"]) // 5 for one in last[1:5]]
    assert paths(page)[1:5] == expected
    assert sum(expected) > 0


def test_the_buttons_of_a_sentence_pair_work(shown: Any) -> None:
    page = shown(head_view(sentences(), 0, least=0.0))
    page.click(".updatemenu-button >> text=A→B")
    page.wait_for_timeout(300)
    assert paths(page)[1:3] == [2 * 3, 2 * 3]
