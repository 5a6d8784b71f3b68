"""A whole session without a pointer: every choice is made by key, and every number read back is the trace's."""

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gentrace.explorer import explore
from gentrace.trace.trace import Trace
from tests.explorer.opened import Opened
from tests.views.made import random_trace
from tests.views.made_kinds import sentences, translator

pytestmark = pytest.mark.browser
TOTAL = 40


@pytest.fixture(scope="module")
def traces() -> dict[str, Trace]:
    words = [f" word{place}" for place in range(TOTAL)]
    one = random_trace(TOTAL, 6, heads=3, texts=words, layers=(0, 2))
    return {"one": one, "two": random_trace(TOTAL + 2, 6, heads=3, texts=[*words, "a", "b"], layers=(0, 2))}


@pytest.fixture(scope="module")
def path(traces: dict[str, Trace], tmp_path_factory: pytest.TempPathFactory) -> Path:
    written = tmp_path_factory.mktemp("keyboard") / "page.html"
    explore(traces, written, exact=[(0, 1), (2, 1)])
    return written


@pytest.fixture
def opened(browser: Any, path: Path) -> Iterator[Opened]:
    page = Opened(browser, path, accept_downloads=True)
    yield page
    page.close()


def go(opened: Opened, condition: str) -> None:
    """Press the tab key until what has the focus fits; each stop on the way must be in sight and say that it is it."""
    for _ in range(80):
        opened.press("Tab")
        found = opened.page.evaluate(
            """() => {
                const one = document.activeElement;
                const seen = one.type === "radio" ? one.nextElementSibling : one;
                const { outlineStyle, boxShadow } = getComputedStyle(seen);
                const told = outlineStyle !== "none" || boxShadow !== "none";
                const shown = one === document.body || (seen.checkVisibility() && told);
                return [CONDITION, shown, one.outerHTML.slice(0, 90)];
            }""".replace("CONDITION", condition)
        )
        assert found[1], found[2]
        if found[0]:
            return
    raise AssertionError(f"the tab key never gets to {condition}")


def identity(opened: Opened) -> list[float]:
    return [float(text.replace("−", "-")) for text in opened.page.locator(".identity dd").all_text_contents()]


def terms(trace: Trace, layer: int, head: int, query: int, key: int) -> list[float]:
    found = trace.score_terms(layer, head, query)
    dot = float(found.dot[key])
    return [dot, dot * found.scale, float(found.score[key]), float(found.weight[key])]


def test_a_whole_session_by_key(opened: Opened, traces: dict[str, Trace], tmp_path: Path) -> None:
    one, two = traces.values()
    go(opened, "one.id === 'layer'")
    opened.press("ArrowUp")
    go(opened, "one.id === 'head'")
    opened.press("ArrowDown", "ArrowDown")
    assert (opened.state()["layer"], opened.state()["head"]) == (0, 1)
    go(opened, "one.id === 'slider'")
    opened.press("End", "ArrowLeft", "ArrowLeft")
    assert opened.text("#row") == str(TOTAL - 4)
    row = one.attention(0, 1)[TOTAL - 4]
    most = int(row[1:].argmax()) + 1
    opened.until("document.getElementById('announce').textContent === explorer.tab.describe()")
    assert f"looks most at ␣word{most}, weight {float(row[most]):.5g}"[:-1] in opened.text("#announce")

    opened.press("4")
    go(opened, "one.closest('.neuron .scroller')")
    before = int(opened.text(".identity p").split(" looks at token ")[1].split()[0])
    opened.press("ArrowUp")
    assert opened.state()["key"] == max(0, before - 1)
    assert identity(opened) == pytest.approx(terms(one, 0, 1, TOTAL - 4, max(0, before - 1)), abs=6e-5)

    opened.press("2")
    go(opened, "one.getAttribute('aria-label') === 'head 2' && one.closest('.legend')")
    opened.press("Space")
    assert opened.state()["heads"] == "1.2"
    go(opened, "one.name === 'lines'")
    opened.press("ArrowRight")
    assert opened.state()["lines"] == "all"

    opened.press("3")
    go(opened, "one.closest('.thumbs')")
    opened.press("ArrowDown")
    assert (opened.state()["layer"], opened.state()["head"]) == (2, 1)

    opened.press("5")
    go(opened, "one.dataset.position")
    opened.press("Home", "ArrowRight")
    assert opened.text("#panel-tokens .chosen-token") == "␣word1"

    opened.press("6")
    go(opened, "one.getAttribute('aria-label') === 'head to compare with'")
    opened.press("End")
    assert opened.state()["to"] == "1.2.2"
    largest = opened.page.locator(".differences button").first.text_content()
    query, key = (int(part.split()[0]) for part in largest.split("  A ")[0].split(" → "))
    numbers = [float(part.split()[-1].rstrip(",")) for part in largest.split("  A ")[1].split("B")]
    assert numbers[0] == pytest.approx(float(one.attention(2, 1)[query, key]), rel=6e-5)
    assert numbers[1] == pytest.approx(float(two.attention(2, 2)[query, key]), rel=0.07)

    go(opened, "one.id === 'play'")
    opened.press("1", "+", "+", "t")
    zoom = [int(part) for part in opened.address()["zoom"].split(".")]
    assert zoom[1] - zoom[0] < TOTAL - 1
    assert opened.state()["trace"] == 1
    opened.press("t", "0")
    assert "zoom" not in opened.address()

    opened.press("?")
    opened.page.keyboard.type("svg")
    with opened.page.expect_download() as download:
        opened.press("Enter")
    download.value.save_as(tmp_path / "picture.svg")
    texts = [element.text for element in ElementTree.parse(tmp_path / "picture.svg").iter() if element.text]
    assert f"Layer 2, head 1, token {opened.text('#row')}" in texts
    opened.press("?")
    assert opened.page.evaluate("document.activeElement.id") == "command"
    opened.press("Escape", "ArrowLeft")
    assert opened.page.locator("#commands").is_hidden()
    assert opened.page.evaluate("document.activeElement.closest('dialog')") is None


VIEWS = {
    "replay": {"trace": 1, "layer": 0, "head": 2, "step": 17, "zoom": "10.20.3.18", "first": "log", "theme": "dark"},
    "heads": {"layer": 0, "head": 0, "heads": "0.2", "lines": "all", "step": 9, "theme": "light"},
    "neuron": {"layer": 2, "head": 1, "step": 20, "key": 4},
    "tokens": {"step": 12, "colour": "rank"},
    "compare": {"layer": 0, "head": "mean", "to": "1.2.1", "zoom": "5.30.2.25", "step": 11},
}  # fmt: skip


@pytest.mark.parametrize("tab", VIEWS)
def test_a_link_restores_every_part_of_a_view(browser: Any, path: Path, tab: str) -> None:
    view = {"tab": tab} | VIEWS[tab]
    first = Opened(browser, path)
    first.page.evaluate("(view) => explorer.set(view)", view)
    assert first.state() | view == first.state()
    first.address()
    again = Opened(browser, path, first.page.evaluate("location.hash.slice(1)"))
    assert again.state() == first.state()
    for page in (first, again):
        page.page.mouse.move(0, 0)
        page.until("document.fonts.status === 'loaded' && document.body.dataset.loaded === 'all'")
    seen = "document.querySelector(`#panel-${explorer.v.tab}`).innerText"
    assert again.page.evaluate(seen) == first.page.evaluate(seen)
    for page in (first, again):
        page.close()


@pytest.mark.parametrize(
    ("make", "view"),
    [(sentences, {"tab": "heads", "pair": "BA", "head": 1}), (translator, {"kind": "encoder", "head": 1, "step": 3})],
)
def test_a_link_restores_sentences_and_kinds(browser: Any, tmp_path: Path, make: Any, view: dict[str, Any]) -> None:
    page = explore(make()).write_html(tmp_path / "page.html")
    opened = Opened(browser, page)
    opened.page.evaluate("(view) => explorer.set(view)", view)
    opened.address()
    again = Opened(browser, page, opened.page.evaluate("location.hash.slice(1)"))
    assert again.state() | view == again.state() == opened.state()
    for one in (opened, again):
        one.close()
