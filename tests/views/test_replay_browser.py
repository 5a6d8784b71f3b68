"""The figure in Debian's chromium: Plotly's fast animation must neither lose the matrix nor read tokens as markup."""

import re
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest
from playwright.sync_api import expect

from gentrace.views import replay, theme
from gentrace.views.labels import label
from tests.views.made import HOSTILE, random_trace
from tests.views.made_kinds import drafted, searched

pytestmark = pytest.mark.browser
WORDS = [*HOSTILE, *(f" word{place}" for place in range(9))]
ANIMATE = """
async (row) => {
    const chart = document.querySelector(".js-plotly-plot");
    const options = {mode: "immediate", transition: {duration: 0}, frame: {duration: 0, redraw: false}};
    await Plotly.animate(chart, [String(row)], options);
}
"""


def drawn(page: Any, frames: int) -> None:
    """Wait until a figure is drawn and knows its frames, which it learns afterwards; a press before that is lost."""
    page.wait_for_function(
        """(frames) => {
            const plot = document.querySelector(".js-plotly-plot");
            return plot?.querySelector(".updatemenu-button") && plot._transitionData?._frames?.length === frames;
        }""",
        arg=frames,
        timeout=60_000,
    )


@pytest.fixture
def figure_page(browser: Any, tmp_path: Path) -> Any:
    written = tmp_path / "figure.html"
    trace = random_trace(len(WORDS), 6, texts=WORDS)
    written.write_text(replay(trace, heads=1).to_html(auto_play=False), "utf-8")
    page = browser.new_page(viewport={"width": 1160, "height": 1000}, offline=True)
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(written.as_uri())
    drawn(page, len(WORDS) - 1)
    yield page, trace
    page.close()
    assert complaints == []


def test_a_step_moves_the_curtain_and_the_bars_and_keeps_the_matrix(figure_page: Any) -> None:
    page, _ = figure_page
    page.evaluate(ANIMATE, 20)
    assert page.locator(".layer-below image, .imagelayer image").count() == 2
    bars = page.locator(".barlayer .trace").evaluate_all(
        "(all) => all.map((one) => one.querySelectorAll('path').length)"
    )
    assert bars == [2, 1, 3]
    shown = page.locator(".x4y4 .scatterlayer text").all_text_contents()
    assert shown[:3] == [label(WORDS[21]), "other1", "other2"]
    assert page.locator(".slider-labels, .slider-label").first.text_content() == "token 20"


def test_the_pointer_reads_the_matrix_after_a_step(figure_page: Any) -> None:
    page, trace = figure_page
    page.evaluate(ANIMATE, 20)
    box = page.locator(".layer-below image, .imagelayer image").first.bounding_box()
    size = len(WORDS) - 1
    page.mouse.move(box["x"] + 11.5 * box["width"] / size, box["y"] + 15.5 * box["height"] / size)
    expect(page.locator(".hoverlayer .hovertext")).to_contain_text("key 11 ", timeout=60_000)
    shown = page.locator(".hoverlayer").text_content()
    found = [float(one) for one in re.findall(r"(?:weight|score) (\S+?)(?=score|$)", shown.replace("−", "-"))]
    expected = [float(part(0, 1)[15, 11]) for part in (trace.attention, trace.scores)]
    assert found == pytest.approx(expected, rel=1e-3)
    assert "key 11 <img src=x" in shown


def test_hostile_tokens_are_drawn_as_text(figure_page: Any) -> None:
    page, _ = figure_page
    ticks = page.locator(".x2tick text").all_text_contents()
    for text in ("<s>", "<b>x</b>", "</script>", "&lt;", "↵", "⇥", "∅"):
        assert text in ticks
    assert page.evaluate("window.pwned") is None


def read(page: Any, name: str, part: str) -> list[Any]:
    """What a trace really holds after a step."""
    return page.evaluate(
        """([name, part]) => Array.from(
            document.querySelector(".js-plotly-plot")._fullData.find((one) => one.name === name)[part])""",
        [name, part],
    )


def told(page: Any, heat: go.Heatmap, query: int, key: int) -> str:
    """The tooltip over a cell of a panel."""
    shown = pointed(page, heat, query, key)
    expect(shown).to_contain_text(f"query {query} ", timeout=60_000)
    expect(shown).to_contain_text(f"key {key} ", timeout=60_000)
    return shown.text_content()


def pointed(page: Any, heat: go.Heatmap, query: int, key: int) -> Any:
    """The tooltip once the pointer is over a cell of a panel, or over its neighbour where cells are pixels."""
    left, top = page.evaluate(
        """([x, y]) => {
            const plot = document.querySelector(".js-plotly-plot"), full = plot._fullLayout;
            const box = plot.getBoundingClientRect(), across = full.xaxis, down = full.yaxis;
            return [box.left + across._offset + across.l2p(x), box.top + down._offset + down.l2p(y)];
        }""",
        [heat.x0 + key, heat.y0 + query],
    )
    page.mouse.move(left + 2, top)
    page.mouse.move(left, top)
    return page.locator(".hoverlayer .hovertext")


def test_several_heads_step_by_slider_and_button_and_tell_what_the_trace_holds(browser: Any, tmp_path: Path) -> None:
    trace = random_trace(14, 5, heads=3, layers=(0, 2))
    figure, written = replay(trace, layer=[0, 2], heads=[0, 2]), tmp_path / "figure.html"
    written.write_text(figure.to_html(auto_play=False), "utf-8")
    page, complaints = browser.new_page(viewport={"width": 1160, "height": 1000}, offline=True), []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(written.as_uri())
    drawn(page, 13)
    now = page.locator(".slider-label")
    expect(now.first).to_have_text("token 4", timeout=60_000)
    rail = page.locator(".slider-rail-touch-rect").bounding_box()
    page.mouse.click(rail["x"] + 8 + (rail["width"] - 16) * 9 / 12, rail["y"] + rail["height"] / 2)
    expect(now.first).to_have_text("token 9", timeout=60_000)
    # The slider says so before the step is drawn.
    expect(page.locator(".x4y4 .scatterlayer text").first).to_have_text("␣word3", timeout=60_000)
    heats = [one for one in figure.data if one.type == "heatmap"]
    pairs = [(0, 0), (0, 2), (2, 0), (2, 2)]
    assert max(read(page, "model", "x")) == pytest.approx(0.25)
    for (layer, head), heat in zip(pairs, heats, strict=True):
        for query, key in ((9, 3), (6, 6)):
            said = told(page, heat, query, key)
            assert f"layer {layer} · head {head}" in said
            weight, score = said.replace("−", "-").rpartition("weight ")[2].split("score ")
            assert float(weight) == pytest.approx(float(trace.attention(layer, head)[query, key]), rel=1e-3)
            assert float(score) == pytest.approx(float(trace.scores(layer, head)[query, key]), rel=1e-3)
    page.click(".updatemenu-button >> text=scores")
    expect(page.locator(".gtitle")).to_contain_text("scores before softmax", timeout=60_000)
    expect(page.locator(".cbcoloraxis2 .cbaxis text").first).to_be_visible(timeout=60_000)
    ticks = [float(one.replace("−", "-")) for one in page.locator(".cbcoloraxis2 .cbaxis text").all_text_contents()]
    assert min(ticks) >= figure.layout.coloraxis2.cmin - 1e-6
    assert max(ticks) <= figure.layout.coloraxis2.cmax + 1e-6
    expect(page.locator(".layer-below image, .imagelayer image")).to_have_count(5, timeout=60_000)
    # Plotly draws its buttons anew after another was pressed, and a press that outlives its button is lost: this one
    # has no two halves. Pressed again it would begin again, which on a slow machine has no end.
    page.locator(".updatemenu-button >> text=fast").dispatch_event("click")
    expect(now.first).to_have_text("token 12", timeout=120_000)
    expect(page.locator(".x4y4 .scatterlayer text").first).to_have_text("␣word6", timeout=60_000)
    # Nothing is left to be uncovered.
    page.wait_for_function(
        """(last) => Math.max(...document.querySelector(".js-plotly-plot")._fullData
            .find((one) => one.name === "rows to come").y.filter((value) => value !== null)) <= last""",
        arg=heats[-1].y0 + 12.6,
        timeout=60_000,
    )
    page.close()
    assert complaints == []


def test_a_narrow_figure_fits_a_phone_and_steps(browser: Any, tmp_path: Path) -> None:
    trace = searched(drafted(random_trace(16, 12, heads=3)))
    written, complaints = tmp_path / "figure.html", []
    figure = replay(trace, heads=[1, 2], width=390)
    written.write_text(figure.to_html(auto_play=False, config={"displayModeBar": False}), "utf-8")
    page = browser.new_page(viewport={"width": 390, "height": 844}, offline=True)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(written.as_uri())
    drawn(page, len(figure.frames))
    expect(page.locator(".slider-label").first).to_have_text("token 11", timeout=60_000)
    for row in (13, 11):
        page.evaluate(ANIMATE, row)
        expect(page.locator(".slider-label").first).to_have_text(f"token {row}", timeout=60_000)
    # Each part lies on the sheet: buttons, words, matrices, bars, tree, slider.
    for part in (".updatemenu-button", ".textpoint text", ".layer-below image", ".bars path", ".slider-rail-rect"):
        for box in (one.bounding_box() for one in page.locator(part).all()):
            assert box is None or (box["x"] >= 0 and box["x"] + box["width"] <= 391), (part, box)
    heats = [one for one in figure.data if one.type == "heatmap"]
    # Other cells for each, or a tooltip that has not changed yet would do.
    for head, heat, query, key in zip((1, 2), heats, (9, 8), (4, 2), strict=True):
        weight, score = told(page, heat, query, key).replace("−", "-").rpartition("weight ")[2].split("score ")
        assert float(weight) == pytest.approx(float(trace.attention(0, head)[query, key]), rel=1e-3)
        assert float(score) == pytest.approx(float(trace.scores(0, head)[query, key]), rel=1e-3)
    assert list(read(page, "rejected drafts", "text")) == ["&lt;b&gt;wrong", "too"]
    page.close()
    assert complaints == []


def words_in_sight(page: Any) -> list[str]:
    """Words of the text whose lines lie in its panel."""
    return page.evaluate(
        """() => {
            const plot = document.querySelector(".js-plotly-plot"), down = plot._fullLayout.yaxis3;
            const text = plot._fullData.find((one) => one.name === "text"), [low, high] = down.range;
            return Array.from(text.text).filter((_, at) => text.y[at] < low && text.y[at] > high);
        }"""
    )


def test_keys_turn_pages_without_a_complaint_and_every_number_stays(browser: Any, tmp_path: Path) -> None:
    words = [f" word{place:03}" for place in range(301)]
    trace = random_trace(301, 110, heads=2, texts=words)
    figure, written, complaints = replay(trace, heads=[0, 1], width=700), tmp_path / "figure.html", []
    pages = [tuple(frame.layout.yaxis3.range) for frame in figure.frames]
    turn = next(row for row in range(110, 300) if pages[row] != pages[row - 1])
    written.write_text(figure.to_html(auto_play=False, config={"displayModeBar": False}), "utf-8")
    page = browser.new_page(viewport={"width": 720, "height": 1600}, offline=True)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text))
    page.goto(written.as_uri())
    page.wait_for_selector(".updatemenu-button")
    page.evaluate(ANIMATE, turn - 1)
    before = words_in_sight(page)
    page.locator(".js-plotly-plot").focus()
    page.keyboard.press("ArrowRight")
    headline = page.locator(".x4y4 .scatterlayer text", has_text="looks back")
    expect(headline).to_have_text(f"␣word{turn:03} ({turn}) looks back", timeout=60_000)
    page.wait_for_function(
        "(top) => document.querySelector('.js-plotly-plot')._fullLayout.yaxis3.range[1] === top",
        arg=pages[turn][1],
        timeout=60_000,
    )
    after = words_in_sight(page)
    assert f"word{turn + 1:03}" in set(after) - set(before)
    # What is painted is the row, in the colours of the matrix.
    painted = page.locator(".x3y3 .scatterlayer .trace").nth(1)
    inks = painted.locator(".points path").evaluate_all("(all) => all.map((one) => getComputedStyle(one).stroke)")
    mean = (trace.attention(0, 0)[turn] + trace.attention(0, 1)[turn]) / 2
    names = painted.locator("text").all_text_contents()
    assert len(names) == len(inks) > 3
    for name, ink in zip(names, inks, strict=True):
        share = float(mean[int(name.removeprefix("word"))]) / figure.layout.coloraxis.cmax
        wanted = theme.channels(theme.mix(theme.LIGHT.attention, share))
        assert [int(part) for part in re.findall(r"\d+", ink)] == pytest.approx(wanted, abs=2)
    for key, row in (("End", 299), ("ArrowRight", 299), ("ArrowLeft", 298), ("Home", 0)):
        page.keyboard.press(key)
        expect(headline).to_have_text(f"␣word{row:03} ({row}) looks back", timeout=60_000)
    # The cells that Plotly computed once are still those under the pointer.
    page.keyboard.press("End")
    expect(headline).to_have_text("␣word299 (299) looks back", timeout=60_000)
    for head, heat in enumerate(one for one in figure.data if one.type == "heatmap"):
        shown = pointed(page, heat, 250 + 20 * head, 40)
        expect(shown).to_contain_text(f"head {head}", timeout=60_000)
        said = re.search(r"query (\d+) .*key (\d+) .*weight (.*)score (.*)$", shown.text_content().replace("−", "-"))
        query, key = int(said[1]), int(said[2])
        assert abs(query - 250 - 20 * head) <= 1
        assert float(said[3]) == pytest.approx(float(trace.attention(0, head)[query, key]), rel=1e-3)
        assert float(said[4]) == pytest.approx(float(trace.scores(0, head)[query, key]), rel=1e-3)
    page.close()
    assert complaints == []
