"""What the pointer does where a figure is HTML, read back from the browser and compared with the trace."""

import copy
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect
from plotly import graph_objects as go
from plotly import io
from plotly.io.base_renderers import ExternalRenderer

from gentrace import export
from gentrace.trace.trace import Trace
from gentrace.views import attention_grid, attention_map, compare, head_view, model_view
from gentrace.views.close_up import AWAY
from tests.views.made import WORSE, random_trace
from tests.views.made_kinds import sentences
from tests.views.test_figures_browser import point

pytestmark = pytest.mark.browser
LONG = 60_000
LINES = """() => {
    const plot = document.querySelector('.plotly-graph-div'), all = plot._fullData;
    const heads = all.findIndex(one => one.type === 'bar'), last = all[all.length - 1], found = [];
    for (let head = 0; head < heads; head++) {
        const y = all[heads + 5 + head].y || [];
        for (let at = 0; at + 3 < y.length; at += 5)
            found.push([head, Math.round((y[at] + y[at + 3]) / 2), Math.round((y[at + 1] + y[at + 2]) / 2)]);
    }
    const numbers = Array.from(last.y || [], (y, at) => [y, last.text[at]]);
    return {lines: found, numbers, sliders: plot.layout.sliders.map(one => one.active)};
}"""


def shows(page: Any, lines: set[tuple[int, int, int]]) -> dict[str, Any]:
    """Wait until exactly these lines (head, query, key) are drawn above the others."""
    wanted = sorted(map(list, lines))
    order = "(a, b) => a[0] - b[0] || a[1] - b[1] || a[2] - b[2]"
    same = f"wanted => JSON.stringify(({LINES})().lines.sort({order})) === JSON.stringify(wanted)"
    page.wait_for_function(same, arg=wanted, timeout=LONG)
    return page.evaluate(LINES)


def lines_of(trace: Trace, layer: int, heads: range, least: float, **ends: int) -> set[tuple[int, int, int]]:
    """Lines of one query or key, worked out from the trace."""
    weights, count = trace.attention(layer), trace.length
    every = ((head, query, key) for head in heads for query in range(count) for key in range(1, query + 1))
    own = (one for one in every if ends == {name: one[1 + ("query", "key").index(name)] for name in ends})
    return {one for one in own if weights[one] >= least}


def test_a_token_under_the_pointer_shows_only_its_lines_and_a_click_keeps_them(shown: Any) -> None:
    trace = random_trace(9, 4, heads=3, layers=(0, 2))
    page = shown(head_view(trace, least=0.02))
    assert shows(page, set())["sliders"] == [0, 0]
    page.mouse.move(*point(page, -0.1, 6))
    found = shows(page, lines_of(trace, 0, range(3), 0.02, query=6))
    strongest = trace.attention(0)[:, 6].amax(0)
    assert dict(map(tuple, found["numbers"])) == {
        key: f"{float(strongest[key]):.2f}" for key in range(1, 7) if strongest[key] >= 0.02
    }
    page.mouse.move(*point(page, 1.1, 2))
    shows(page, lines_of(trace, 0, range(3), 0.02, key=2))
    page.mouse.click(*point(page, 1.1, 2))
    page.mouse.move(*point(page, 0.5, 5))
    assert shows(page, lines_of(trace, 0, range(3), 0.02, key=2))["sliders"] == [0, 3]
    # Another layer keeps the token, and a hidden head has no lines or numbers.
    page.click(".updatemenu-header")
    page.click(".updatemenu-dropdown-button >> text=layer 2")
    shows(page, lines_of(trace, 2, range(3), 0.02, key=2))
    page.click(".legendtoggle >> nth=0")
    found = shows(page, lines_of(trace, 2, range(1, 3), 0.02, key=2))
    seen = trace.attention(2)[1:, :, 2].amax(0)
    assert dict(map(tuple, found["numbers"])) == {
        query: f"{float(seen[query]):.2f}" for query in range(2, 8) if seen[query] >= 0.02
    }
    page.mouse.click(*point(page, 0.5, 5))
    assert shows(page, set())["sliders"] == [0, 0]


def test_a_pair_of_sentences_is_minded_and_escape_releases(shown: Any) -> None:
    page = shown(head_view(sentences(), 0, least=0.0))
    page.click(".updatemenu-button >> text=A→B")
    shows(page, {(head, query, key) for head in range(2) for query in (0, 1) for key in (2, 3, 4)})
    page.mouse.click(*point(page, -0.1, 1))
    kept = {(head, 1, key) for head in range(2) for key in (2, 3, 4)}
    shows(page, kept)
    page.mouse.move(*point(page, -0.1, 3))
    shows(page, set())
    page.mouse.move(*point(page, 0.5, 2))
    shows(page, kept)
    page.keyboard.press("Escape")
    shows(page, {(head, query, key) for head in range(2) for query in (0, 1) for key in (2, 3, 4)})


def titled(page: Any, title: str) -> None:
    """Wait until a picture stands, which takes its size after its title."""
    expect(page.locator(".gtitle")).to_contain_text(title, timeout=LONG)
    still = """() => {
        const {height, _size} = document.querySelector('.plotly-graph-div')._fullLayout;
        const before = window.before;
        window.before = JSON.stringify([height, _size]);
        return window.before === before;
    }"""
    page.evaluate("window.before = null")
    page.wait_for_function(still, polling=200, timeout=LONG)


def tells(page: Any, query: int, key: int, trace: Trace, layer: int, head: int) -> None:
    """The close-up's tooltip of a cell says what the trace holds."""
    page.mouse.move(*point(page, AWAY + key, AWAY + query))
    tooltip = page.locator(".hoverlayer .hovertext")
    expect(tooltip).to_contain_text(f"query {query} ␣word{query % 7}key {key} ␣word{key % 7}", timeout=LONG)
    text = tooltip.text_content().replace("−", "-")
    weight, score = map(float, re.search(r"weight (\S+?)score (\S+)", text).groups())
    assert weight == pytest.approx(float(trace.attention(layer, head)[query, key]), rel=1e-3)
    assert score == pytest.approx(float(trace.scores(layer, head)[query, key]), rel=1e-3)


@pytest.mark.parametrize("width", [1100, 390])
def test_a_click_on_a_thumbnail_enlarges_it(shown: Any, width: int) -> None:
    trace = random_trace(12, 4, heads=3, layers=(0, 4))
    page = shown(model_view(trace), width)
    expect(page.locator(".gtitle-subtitle")).to_contain_text("click one to enlarge it", timeout=LONG)
    titled(page, "6 heads")
    before = page.evaluate("document.querySelector('.main-svg').getBoundingClientRect().height")
    page.mouse.click(*point(page, 2, 1))
    titled(page, "layer 4 · head 2")
    tells(page, 8, 5, trace, 4, 2)
    tells(page, 10, 0, trace, 4, 2)
    expect(page.locator(".updatemenu-header")).to_contain_text("layer 4 · head 2")
    page.keyboard.press("Escape")
    titled(page, "6 heads")
    page.mouse.click(*point(page, 0, 0))
    titled(page, "layer 0 · head 0")
    # A click on a masked cell, where no tooltip is, returns as well.
    page.mouse.click(*point(page, AWAY + 9, AWAY + 2))
    titled(page, "6 heads")
    assert page.evaluate("document.querySelector('.main-svg').getBoundingClientRect().height") == before
    expect(page.locator(".updatemenu-header")).to_contain_text("every head")


def test_a_page_lets_nothing_else_run(browser: Any, tmp_path: Path) -> None:
    trace = random_trace(len(WORSE), 4, texts=WORSE, layers=(0, 1))
    path, seen = export.page(model_view(trace, dark=True), tmp_path / "figure.html"), []
    page = browser.new_page(viewport={"width": 1100, "height": 900})
    page.on("console", lambda message: seen.append(message.text))
    page.on("pageerror", lambda error: seen.append(str(error)))
    page.on("request", lambda one: seen.extend([] if one.url.startswith(("file:", "data:", "blob:")) else [one.url]))
    page.goto(path.as_uri())
    expect(page.locator(".gtitle-subtitle")).to_contain_text("click one to enlarge it", timeout=LONG)
    page.mouse.click(*point(page, 1, 1))
    expect(page.locator(".gtitle")).to_contain_text("layer 1 · head 1", timeout=LONG)
    assert page.title() == "made <by> hand · 2 layers, 4 heads"
    assert page.evaluate("window.pwned") is None
    assert seen == []
    # Anything else is refused.
    page.evaluate("document.body.append(Object.assign(document.createElement('script'), {text: 'window.pwned = 1'}))")
    assert page.evaluate("window.pwned") is None
    page.close()


def test_scripts_go_with_every_way_to_html(monkeypatch: pytest.MonkeyPatch) -> None:
    class Kept(ExternalRenderer):
        def __init__(self) -> None:
            self.post_script: list[str] = []

        def render(self, fig_dict: dict[str, Any]) -> None:
            kept.extend(self.post_script)

    kept: list[str] = []
    figure = copy.deepcopy(head_view(sentences(), 0))
    assert isinstance(figure, go.Figure)
    own = [(files("gentrace.views") / "assets" / name).read_text("utf-8") for name in ("fit.js", "head_view.js")]
    assert not any(mark in text for text in own for mark in ("</", "<!--"))
    monkeypatch.setitem(io.renderers._renderers, "kept", Kept())
    figure.show("kept", post_script="first()")
    assert kept == [*own, "first()"]
    # Plotly's third and fifth argument, in order.
    written = figure.to_html(None, True, False, False, ["second()"], div_id="here")
    for text in (*own, "second()"):
        assert text.replace("{plot_id}", "here") in written
    assert "plotly_unhover" in figure._repr_html_()


def test_jupyter_is_given_html_that_a_browser_draws(
    monkeypatch: pytest.MonkeyPatch, browser: Any, tmp_path: Path
) -> None:
    given: list[dict[str, str]] = []
    head: list[str] = []
    monkeypatch.setattr("IPython.display.display", lambda bundle, raw: given.append(bundle))
    monkeypatch.setattr("IPython.display.display_html", lambda script, raw: head.append(script))
    before = io.renderers.default
    io.renderers.default = "plotly_mimetype+notebook"
    try:
        figure = head_view(sentences(), 0, least=0.0)
        figure._ipython_display_()
        figure.show()
    finally:
        io.renderers.default = before
    assert [set(one) for one in given] == [{"text/html"}] * 2
    # Plotly itself is given before the first figure.
    path = tmp_path / "notebook.html"
    path.write_text(f"<!doctype html><meta charset=utf-8>{head[0]}{given[0]['text/html']}", "utf-8")
    page = browser.new_page(viewport={"width": 900, "height": 700})
    page.goto(path.as_uri())
    page.wait_for_selector(".slider-group", timeout=LONG)
    page.mouse.move(*point(page, -0.1, 3))
    shows(page, {(head, 3, key) for head in range(2) for key in range(5)})
    page.close()


def test_the_menus_do_the_same_without_a_script(shown: Any) -> None:
    trace = random_trace(9, 3, heads=3, layers=(0, 4))
    page = shown(go.Figure(model_view(trace)))
    page.mouse.click(*point(page, 0, 0))
    page.click(".updatemenu-header")
    page.click(".updatemenu-dropdown-button >> text=layer 4 · head 1")
    titled(page, "layer 4 · head 1")
    tells(page, 6, 3, trace, 4, 1)
    page.click(".updatemenu-header")
    page.click(".updatemenu-dropdown-button >> text=every head")
    expect(page.locator(".gtitle")).to_contain_text("6 heads", timeout=LONG)


def test_names_do_not_overlap_on_a_narrow_page(shown: Any) -> None:
    boxes = """selectors => selectors.map(one => Array.from(document.querySelectorAll(one), text => {
        const {left, right, top, bottom} = text.getBoundingClientRect();
        return [left, right, top, bottom];
    }))"""
    trace = random_trace(64, 4, heads=8, layers=(0, 1))
    for figure in (attention_grid(trace), attention_grid(trace, 0), attention_map(trace, 1, 0)):
        page = shown(figure, 390)
        page.wait_for_function("document.querySelector('.plotly-graph-div').layout.height < 560", timeout=LONG)
        names = page.evaluate(boxes, [".x2tick text", ".y2tick text", ".textpoint text"])
        assert len(names[0]) >= 8
        assert len(names[1]) >= 2
        for texts in names:
            for place, one in enumerate(texts):
                assert not any(overlap(one, other) for other in texts[place + 1 :])


def overlap(one: list[float], other: list[float]) -> bool:
    """Whether two boxes (left, right, top, bottom) share more than the air around letters."""
    across = min(one[1], other[1]) - max(one[0], other[0])
    down = min(one[3], other[3]) - max(one[2], other[2])
    return across > 2 and down > 2


def test_three_matrices_stand_below_each_other_on_a_narrow_page_and_beside_each_other_on_a_wide_one(shown: Any) -> None:
    page = shown(compare(random_trace(13, 4), random_trace(13, 4, heads=3), 0, 0), 390)
    corners = """() => {
        const full = document.querySelector('.plotly-graph-div')._fullLayout;
        return ['', 3, 5].map((number) => [full[`xaxis${number}`]._offset, full[`yaxis${number}`]._offset,
            full[`xaxis${number}`]._length, full[`yaxis${number}`]._length]);
    }"""
    stacked = f"() => {{ const all = ({corners})(); return all.every((one) => one[0] === all[0][0]); }}"
    for width, narrow in ((390, True), (1200, False), (390, True)):
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_function(f"(narrow) => ({stacked})() === narrow", arg=narrow, timeout=LONG)
        first, second, third = page.evaluate(corners)
        assert first[2] == pytest.approx(first[3], rel=0.01)
        if narrow:
            # As large as the page allows, none upon another, and all of it on the page.
            assert first[2] > 240
            assert first[1] + first[3] + 60 < second[1]
            assert second[1] + second[3] + 60 < third[1]
            assert page.evaluate("document.documentElement.scrollHeight") > third[1] + third[3]
        else:
            assert first[1] == second[1] == third[1]
            assert first[0] + first[2] < second[0]
            assert second[0] + second[2] < third[0]
            assert first[2] > 240
        # Names stand where their cells are.
        names = page.evaluate(
            """() => ['xaxis', 'xaxis2', 'xaxis4'].map(
                (name) => document.querySelector('.plotly-graph-div')._fullLayout[name].range[1])"""
        )
        assert names == [names[0]] * 3
