"""The bench that opens another tool's pages: what they ask a CDN for is answered from here, and waiting has an end."""

from pathlib import Path
from typing import Any

import pytest

from scripts.bench_made import FLAGS
from scripts.peers import pages
from tests.views.conftest import CHROMIUM, browser

__all__ = ["browser"]

pytestmark = pytest.mark.browser
DRAWS = "document.body.append(document.createElementNS('http://www.w3.org/2000/svg', 'svg'));"
ASKS = "<!doctype html><body><script src='https://cdnjs.cloudflare.com/ajax/libs/d3/5.7.0/d3.min.js'></script>"


def test_a_page_is_usable_once_it_has_drawn_with_scripts_from_here(browser: Any, tmp_path: Path) -> None:
    served, page = tmp_path / "modules" / pages.SERVED["d3"], tmp_path / "page.html"
    served.parent.mkdir(parents=True)
    served.write_text(DRAWS)
    page.write_text(ASKS)

    def start(flag: str) -> Any:
        return browser.browser_type.launch(executable_path=str(CHROMIUM), args=[*FLAGS, flag])

    took = pages._usable(start, tmp_path / "modules", page, 60)
    assert took is not None
    assert 0 < took < 60
    served.write_text("for (;;);")
    assert pages._usable(start, tmp_path / "modules", page, 0.5) is None
