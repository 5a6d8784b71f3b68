"""The still figures in a real browser: nothing is cut off, tooltips say what the trace says, sliders move."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest
import torch
from playwright import sync_api

import gentrace
from gentrace.demo import load_encoder
from gentrace.trace.trace import Trace
from gentrace.views import (
    attention_grid,
    attention_map,
    attention_table,
    compare,
    head_view,
    model_view,
    neuron_view,
    token_strip,
)
from gentrace.views.head_view import THICKEST
from gentrace.views.labels import label
from gentrace.views.sheet import short
from tests.views.made import WORSE, random_trace
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
    "sliding": lambda trace: attention_table(trace, token=4, masked=True),
}
MORE: dict[str, Callable[[Trace], go.Figure]] = {
    "probabilities": lambda trace: attention_map(trace, 0, 1, probabilities=True),
    "numbers": lambda trace: attention_grid(trace, 0, annotate=True),
    "menu": lambda trace: head_view(trace),
    "neuron": lambda trace: neuron_view(trace, 0, 1, trace.length - 1),
    # Half of the tokens on each axis, where all have room.
    "compare": lambda trace: compare(
        trace,
        trace,
        0,
        0,
        head_b=1,
        columns=1,
        queries=(trace.length // 2, trace.length),
        keys=(0, trace.length // 2),
    ),
    "whole table": lambda trace: attention_table(trace, 0, 1, trace.length - 1, order="position"),
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


@pytest.mark.parametrize("half", [0, 1])
def test_hostile_tokens_are_shown_and_not_run_in_any_view(browser: Any, tmp_path: Path, half: int) -> None:
    # As many as have room on an axis; the last token never looks, so that it is on none.
    texts = WORSE[half::2]
    trace = random_trace(len(texts) + 1, 4, texts=(*texts, "end"), layers=(0, 1))
    figures = {name: make(trace) for name, make in (FIGURES | MORE).items()}
    parts = [
        figure.to_html(full_html=False, include_plotlyjs=not place, div_id=name.replace(" ", "-"))
        for place, (name, figure) in enumerate(figures.items())
    ]
    path = tmp_path / "all.html"
    path.write_text(f"<!doctype html><meta charset=utf-8>{''.join(parts)}", encoding="utf-8")
    page, complaints = browser.new_page(viewport={"width": 1100, "height": 900}), []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: (complaints.append("a dialog"), dialog.dismiss()))
    page.goto(path.as_uri())
    page.wait_for_function(
        f"document.querySelectorAll('.main-svg .gtitle-subtitle').length === {len(figures)}", timeout=60_000
    )
    assert page.evaluate("window.pwned") is None
    assert page.query_selector(".main-svg img, .main-svg script, .main-svg foreignObject, .main-svg a[href]") is None
    labels = [label(text) for text in texts]
    full, cut = set(labels), {short(text) for text in labels}
    # A table has only the rows in sight on the page; in a comparison an empty token belongs to the one after it.
    wanted = dict.fromkeys(figures, cut) | {
        "model": set(), "grid": set(), "strip": {text.lstrip("␣") or text for text in labels}, "sliding": full,
        "table": set(labels[:5]), "whole table": set(labels[:20]),
        "probabilities": {f"{short(text)}  50.0 %" for text in labels[1:]},
        "compare": {text if len(text) <= 16 else text[:15] + "…" for text in labels} - {"∅"},
    }  # fmt: skip
    missing = {}
    for name, expected in wanted.items():
        found = page.evaluate(
            "id => Array.from(document.getElementById(id).querySelectorAll('.main-svg text'), one => one.textContent)",
            name.replace(" ", "-"),
        )
        missing[name] = expected - {text.replace("\u00a0", " ") for text in found}
    assert not any(missing.values()), missing
    page.close()
    assert complaints == []


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
    weight, score = map(float, re.search(r"weight (\S+?)score (\S+)", text.replace("−", "-")).groups())
    assert weight == pytest.approx(float(trace.attention(0, 3)[4, 2]), rel=1e-3)
    assert score == pytest.approx(float(trace.scores(0, 3)[4, 2]), rel=1e-3)


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


def test_the_sliders_of_a_table_put_one_layer_and_head_in_sight(shown: Any) -> None:
    trace = random_trace(7, 3, heads=3, layers=(0, 2))
    page = shown(attention_table(trace, token=5, masked=True))
    for slider in (0, 1):
        rail = page.query_selector_all(".slider-rail-touch-rect")[slider].bounding_box()
        page.mouse.click(rail["x"] + rail["width"] - 3, rail["y"] + rail["height"] / 2)
    wanted = [f"{float(weight):.4f}" for weight in trace.attention(2, 2)[5]]
    page.wait_for_function(
        """wanted => {
            const texts = Array.from(document.querySelectorAll('.heatmap-label text'), one => one.textContent);
            return JSON.stringify(texts.filter(one => /^0\\.\\d{4}$/.test(one))) === JSON.stringify(wanted);
        }""",
        arg=wanted,
        timeout=60_000,
    )


def test_the_menu_of_layers_keeps_heads_hidden_and_the_buttons_true(shown: Any) -> None:
    model, tokenizer = load_encoder("toy")
    with gentrace.record(model, tokenizer) as recorder, torch.no_grad():
        model(**tokenizer("Maia likes the rabbit.", "The turtle likes Maia.", return_tensors="pt"))
    page = shown(head_view(recorder.trace, least=0.0))
    expect = sync_api.expect
    page.click(".legendtoggle >> nth=3")
    page.wait_for_function(
        "document.querySelector('.plotly-graph-div')._fullData[3].visible === 'legendonly'", timeout=60_000
    )
    page.click(".updatemenu-header")
    page.click(".updatemenu-dropdown-button >> text=layer 1")
    expect(page.locator(".gtitle")).to_contain_text("layer 1", timeout=60_000)
    state = """() => {
        const plot = document.querySelector('.plotly-graph-div'), all = plot._fullData;
        const thick = one => Array.from(one.y).reduce((sum, y, at) => at % 5 === 3 ? sum + y - one.y[at - 3] : sum, 0);
        return {hidden: all[3].visible, first: thick(all[0])};
    }"""
    count = recorder.trace.length
    found = page.evaluate(state)
    assert found["hidden"] == "legendonly"
    # Every row adds up to 1, and a ribbon of weight 1 is `THICKEST` rows thick.
    assert found["first"] == pytest.approx(count * THICKEST, rel=1e-3)
    page.click(".updatemenu-button >> text=A→B")
    first = recorder.trace.segments.tolist().count(0)
    page.wait_for_function(
        "wanted => document.querySelector('.plotly-graph-div')._fullData.slice(-5, -2)[0].y.length / 5 === wanted",
        arg=first * (count - first),
        timeout=60_000,
    )
    looks = page.evaluate("document.querySelector('.plotly-graph-div')._fullLayout.title.text")
    assert "layer 1" in looks
