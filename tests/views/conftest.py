"""Debian's chromium, for tests that must see what a reader sees. Where it is missing they fail, and never skip."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest

from scripts.bench_made import FLAGS

CHROMIUM = Path("/usr/bin/chromium")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if not CHROMIUM.exists():
        pytest.fail(f"the browser tests need {CHROMIUM}: apt-get install chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        pytest.fail("the browser tests need playwright: pip install playwright")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield started
        started.close()


@pytest.fixture
def shown(browser: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Opens a figure and returns its page; whatever the browser complains about fails the test."""
    pages, complaints = [], []

    def show(figure: go.Figure, width: int = 1100) -> Any:
        page = browser.new_page(viewport={"width": width, "height": 900})
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        path = tmp_path / f"{len(pages)}.html"
        figure.write_html(path, include_plotlyjs=True, config={"displayModeBar": False})
        page.goto(path.as_uri())
        page.wait_for_selector(".main-svg")
        pages.append(page)
        return page

    yield show
    for page in pages:
        page.close()
    assert not complaints
