"""The figure in Debian's chromium: Plotly's fast animation must neither lose the matrix nor read tokens as markup."""

from pathlib import Path
from typing import Any

import pytest

from gentrace.views import replay
from gentrace.views.labels import label
from tests.views.made import HOSTILE, random_trace

pytestmark = pytest.mark.browser
WORDS = [*HOSTILE, *(f" word{place}" for place in range(9))]
ANIMATE = """
async (row) => {
    const chart = document.querySelector(".js-plotly-plot");
    const options = {mode: "immediate", transition: {duration: 0}, frame: {duration: 0, redraw: false}};
    await Plotly.animate(chart, [String(row)], options);
}
"""


@pytest.fixture
def figure_page(browser: Any, tmp_path: Path) -> Any:
    written = tmp_path / "figure.html"
    trace = random_trace(len(WORDS), 6, texts=WORDS)
    written.write_text(replay(trace, heads=1).to_html(auto_play=False), "utf-8")
    page = browser.new_page(viewport={"width": 1160, "height": 1000}, offline=True)
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(written.as_uri())
    page.wait_for_selector(".updatemenu-button")
    page.wait_for_timeout(500)
    yield page, trace
    page.close()
    assert complaints == []


def test_a_step_moves_the_curtain_and_the_bars_and_keeps_the_matrix(figure_page: Any) -> None:
    page, _ = figure_page
    page.evaluate(ANIMATE, 20)
    assert page.locator(".layer-below image, .imagelayer image").count() == 1
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
    page.wait_for_timeout(400)
    shown = page.locator(".hoverlayer").text_content()
    assert f"weight {float(trace.attention(0, 1)[15, 11]):#.3g}".rstrip("0") in shown
    assert "key 11 <img src=x" in shown


def test_hostile_tokens_are_drawn_as_text(figure_page: Any) -> None:
    page, _ = figure_page
    ticks = page.locator(".x2tick text").all_text_contents()
    for text in ("<s>", "<b>x</b>", "</script>", "&lt;", "↵", "⇥", "∅"):
        assert text in ticks
    assert page.evaluate("window.pwned") is None
