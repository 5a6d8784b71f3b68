"""What is told where one points: until the view changes, or the pointer or a finger goes elsewhere."""

from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from gentrace.explorer import explore
from tests.explorer.opened import Opened
from tests.views.made import random_trace

pytestmark = pytest.mark.browser
ROWS = 29
CELLS = "#panel-replay .cells"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    trace = random_trace(ROWS + 1, 6, heads=3, layers=(0, 2))
    return explore(trace).write_html(tmp_path_factory.mktemp("pointer") / "page.html")


def test_a_tooltip_goes_with_the_view_that_it_was_of(browser: Any, path: Path) -> None:
    opened = Opened(browser, path, "step=28&head=1")
    tip = opened.page.locator("#tip")
    for key in ("]", ".", "ArrowLeft", "f", "+", "5", "Escape"):
        assert opened.point_at(CELLS, 20, 7, ROWS, ROWS)["query"] == "20", key
        assert opened.page.locator(f"{CELLS} .cross").is_visible()
        opened.press(key)
        expect(tip).to_be_hidden()
        assert opened.page.locator(f"{CELLS} .cross").is_hidden()
        opened.press("1", "0")
        opened.page.mouse.move(2, 2)
    opened.close()


def test_lines_of_a_token_that_was_pointed_at_go_with_its_tooltip(browser: Any, path: Path) -> None:
    opened = Opened(browser, path, "tab=heads&step=3")
    box = opened.page.locator(".lines .scroller").bounding_box()
    opened.page.mouse.move(box["x"] + 40, box["y"] + 8.5 * 19)
    assert opened.tip()["query"] == "8"
    assert opened.page.evaluate("explorer.tab.focus") == {"side": "query", "position": 8}
    opened.press("ArrowRight")
    assert opened.tip() == {}
    assert opened.page.evaluate("explorer.tab.focus") is None
    opened.close()


def test_what_a_finger_tapped_stays_told_until_it_taps_elsewhere(browser: Any, path: Path) -> None:
    opened = Opened(browser, path, "step=28", viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    cells = opened.page.locator(CELLS)
    cells.scroll_into_view_if_needed()
    box = cells.bounding_box()
    cells.tap(position={"x": 7.5 * box["width"] / ROWS, "y": 20.5 * box["height"] / ROWS})
    expect(opened.page.locator("#tip")).to_be_visible()
    assert (opened.tip()["query"], opened.tip()["key"]) == ("20", "7")
    opened.page.locator("#panel-replay .matrix h2").tap()
    expect(opened.page.locator("#tip")).to_be_hidden()
    opened.close()
