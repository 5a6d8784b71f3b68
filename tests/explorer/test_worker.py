"""Parts are decoded by a worker where one may run, and by the page itself where none may: the numbers are the same."""

import html
from pathlib import Path
from typing import Any

import pytest
import torch

from gentrace.explorer import explore
from gentrace.trace.trace import Trace
from tests.complaints import complaints_of
from tests.explorer.opened import Opened
from tests.explorer.unpacked import RATIO
from tests.views.made import random_trace

pytestmark = pytest.mark.browser
LENGTH = 900
SHOWN = """[...[0, 1, "mean"].map((head) => {
    const one = explorer.store.head(explorer.layer, head);
    const row = new Float32Array(LENGTH);
    one.fill(LENGTH - 2, row);
    return Array.from(row.subarray(0, LENGTH - 1), (weight, key) => [weight, one.whole.code(LENGTH - 2, key)]);
})]""".replace("LENGTH", str(LENGTH))


@pytest.fixture(scope="module")
def trace() -> Trace:
    """Large enough for its text not to be decoded before the worker is there, and for a mean that the worker makes."""
    return random_trace(LENGTH, 6, heads=4, layers=(0, 1))


@pytest.fixture(scope="module")
def page(trace: Trace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    written = tmp_path_factory.mktemp("worker") / "page.html"
    explore(trace, written, max_bytes=50_000_000, exact=[])
    assert len(written.read_text("utf-8")) > 2_000_000
    return written


def right(shown: list[Any], trace: Trace) -> None:
    """Whether two heads and the mean of all are the trace's, to the error of eight bits and of a mean of such."""
    rows = trace.attention(1)[:, LENGTH - 2].double()
    for values, true in zip(shown, (rows[0], rows[1], rows.mean(0)), strict=True):
        weights, codes = torch.tensor(values, dtype=torch.double).unbind(-1)
        large = true >= 4e-4
        assert bool(large.any())
        # What is below 0.0001 in one head counts as nothing in the mean; its picture is rounded once more.
        assert bool(((weights - true).abs() <= 0.019 * true + 1e-4).all())
        assert bool(((RATIO ** (codes - 254) - true).abs()[large] <= 0.038 * true[large] + 1e-4).all())


def test_a_worker_decodes_and_is_gone_when_all_is_read(browser: Any, page: Path, trace: Trace) -> None:
    opened = Opened(browser, page, "layer=1")
    assert opened.page.evaluate("explorer.store.decoder.count") >= 1
    assert (
        opened.page.evaluate("explorer.store.codes.get(explorer.layer).mean?.byteLength") == LENGTH * (LENGTH - 1) // 2
    )
    right(opened.page.evaluate(SHOWN), trace)
    # The browser tells of its end a while after it.
    for _ in range(600):
        if not opened.page.workers:
            break
        opened.page.wait_for_timeout(100)
    assert opened.page.workers == []
    opened.close()


def test_where_no_worker_may_run_the_page_decodes_by_itself(
    browser: Any, page: Path, trace: Trace, tmp_path: Path
) -> None:
    frame = f'<iframe sandbox="allow-scripts" srcdoc="{html.escape(page.read_text("utf-8"))}"></iframe>'
    policy = "<meta http-equiv='Content-Security-Policy' content=\"worker-src 'none'\">"
    (tmp_path / "host.html").write_text(f"<!doctype html><meta charset='utf-8'>{policy}{frame}", "utf-8")
    host = browser.new_page()
    complaints = complaints_of(host)
    host.goto((tmp_path / "host.html").as_uri())
    host.frame_locator("iframe").locator("body[data-loaded]").wait_for(state="attached", timeout=60_000)
    frame = host.frames[1]
    assert frame.evaluate("[explorer.store.decoder.worker, explorer.store.decoder.waiting.size]") == [None, 0]
    right(frame.evaluate(f"explorer.set({{layer: 1}}), {SHOWN}"), trace)
    # What the browser itself has to say about it, and nothing else.
    assert complaints
    assert all("worker" in complaint.lower() and "Content Security Policy" in complaint for complaint in complaints)
    host.close()


def test_a_part_that_is_damaged_is_told(browser: Any, page: Path, tmp_path: Path) -> None:
    text = page.read_text("utf-8")
    begin = text.index('id="part-1">') + len('id="part-1">')
    (tmp_path / "damaged.html").write_text(text[:begin] + "A" * 40 + text[begin + 40 :], "utf-8")
    damaged = browser.new_page()
    damaged.goto((tmp_path / "damaged.html").as_uri() + "#layer=1")
    told = damaged.locator("#precision")
    told.filter(has_text="The matrices cannot be read").wait_for(timeout=60_000)
    damaged.close()
