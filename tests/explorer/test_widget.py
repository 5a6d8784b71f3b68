"""The notebook widget: its front end in Debian's chromium, answered by the Python class as a kernel would."""

import base64
import html
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import IPython.display
import pytest

from gentrace.explorer import explore, explorer
from gentrace.explorer.bundle import asset
from gentrace.trace.trace import Trace
from gentrace.views.labels import running
from tests.complaints import complaints_of
from tests.views.made import HOSTILE, random_trace

WORDS = [*HOSTILE, *(f" word{place}" for place in range(400))]
ROWS = len(WORDS) - 1
MODEL = """
async ([code, traits]) => {
    const heard = [];
    window.sent = [];
    const model = {
        get: (name) => traits[name],
        on: (event, done) => { if (event === "msg:custom") heard.push(done); },
        off: () => {},
        send: async (content) => {
            window.sent.push(content);
            if (window.silent) return;
            const [reply, bytes] = await kernel(content);
            // Jupyter hands a view that may lie anywhere in a larger buffer.
            const raw = Uint8Array.from("???" + atob(bytes ?? ""), (letter) => letter.charCodeAt(0));
            for (const done of heard) done(reply, bytes === null ? [] : [new DataView(raw.buffer, 3)]);
        },
    };
    const { default: widget } = await import("data:text/javascript;base64," + code);
    for (const place of ["one", "two"]) {
        const el = document.createElement("div");
        document.body.append(el);
        widget.render({ model, el });
    }
}
"""


@pytest.fixture(scope="module")
def trace() -> Trace:
    return random_trace(len(WORDS), 6, heads=2, texts=WORDS, layers=(0, 2), unseen=1)


@pytest.fixture(scope="module")
def shown(browser: Any, trace: Trace) -> Iterator[Any]:
    widget = explore(trace).widget
    answers: list[tuple[dict[str, Any], list[bytes]]] = []
    widget.send = lambda content, buffers=(): answers.append((content, list(buffers)))  # type: ignore[method-assign]

    def kernel(content: dict[str, Any]) -> tuple[dict[str, Any], str | None]:
        widget._handle_custom_msg(content, [])
        reply, buffers = answers.pop()
        assert len(buffers) <= 1
        assert all(len(buffer) < 1_000_000 for buffer in buffers)
        return reply, base64.b64encode(buffers[0]).decode() if buffers else None

    page = browser.new_page(viewport={"width": 1280, "height": 1700})
    complaints = complaints_of(page)
    page.expose_function("kernel", kernel)
    code = base64.b64encode(asset("widget.mjs").encode()).decode()
    page.evaluate(MODEL, [code, {name: getattr(widget, name) for name in ("title", "page", "height", "mark")}])
    yield page
    page.close()
    assert not complaints, "; ".join(complaints)


@pytest.mark.browser
def test_what_a_notebook_shows_is_the_trace(shown: Any, trace: Trace) -> None:
    for place in (0, 1):
        frame = shown.frame_locator("iframe >> nth=" + str(place))
        frame.locator("body[data-loaded]").wait_for(state="attached", timeout=60_000)
    frame = shown.frames[1]
    frame.evaluate("explorer.set({layer: 2, head: 1, step: 300, zoom: '250.350.100.200'})")
    frame.evaluate("async () => { while (!explorer.tab.refined) await new Promise((done) => setTimeout(done, 20)); }")
    assert frame.locator("#precision").text_content() == "exact: float32, from the kernel"
    cells = frame.evaluate(
        "[[251, 101], [349, 199], [300, 150]].map(([query, key]) =>"
        " [explorer.head.weight(query, key), explorer.head.score(query, key)])"
    )
    weights, scores = trace.attention(2, 1), trace.scores(2, 1)
    expected = [[float(of[cell]) for of in (weights, scores)] for cell in ((251, 101), (349, 199), (300, 150))]
    assert cells == expected
    frame.evaluate("explorer.set({tab: 'neuron', step: 222, key: 9})")
    frame.locator(".identity dd").first.wait_for(timeout=60_000)
    dot = frame.locator(".identity dd").first.text_content().replace("−", "-")
    assert float(dot) == pytest.approx(float(trace.score_terms(2, 1, 222).dot[9]), abs=6e-5)


@pytest.mark.browser
def test_what_cannot_be_answered_is_told(shown: Any) -> None:
    frame = shown.frames[2]
    frame.locator("body[data-loaded]").wait_for(state="attached", timeout=60_000)
    told = frame.evaluate("explorer.store.link.ask({what: 'codes', part: 0, head: 9}).catch((error) => error.message)")
    assert "the page has heads 0, 1" in told


@pytest.mark.browser
def test_it_is_dark_where_the_notebook_is(shown: Any) -> None:
    frame = shown.frame_locator("iframe >> nth=0")
    for ink, theme in (("rgb(230, 230, 230)", "dark"), ("color(srgb 0.1 0.1 0.1)", "light")):
        shown.evaluate("(ink) => { document.body.style.color = ink; }", ink)
        frame.locator(f"html[data-theme={theme}]").wait_for(state="attached", timeout=60_000)


@pytest.fixture
def displayed(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What is sent to a notebook."""
    sent: list[dict[str, Any]] = []
    monkeypatch.setattr(IPython.display, "display", lambda data, **options: sent.append(data | {"": options}))
    return sent


def test_jupyter_gets_the_widget_and_what_stays_without_it(
    trace: Trace, monkeypatch: pytest.MonkeyPatch, displayed: list[dict[str, Any]]
) -> None:
    shown = explore(trace)
    shown._ipython_display_()
    first, second = displayed
    assert first["application/vnd.jupyter.widget-view+json"]["model_id"] == shown.widget.model_id
    assert first["text/plain"] == repr(shown)
    assert "text/html" not in first
    assert "text/plain" not in second
    assert len(second["text/html"]) < explorer.KEPT + 200_000
    monkeypatch.setattr(explorer, "find_spec", lambda name: None)
    with pytest.raises(NotImplementedError):
        shown._ipython_display_()
    assert shown._repr_html_().startswith("<iframe")
    monkeypatch.setattr(explorer, "PAYLOAD", 50_000)
    small = shown._repr_html_()
    assert "<iframe" not in small
    for knob in ("max_bytes=", "layers=", "heads=", "rows=", "anywidget", "write_html"):
        assert knob in small


def test_what_stays_is_a_small_page_and_the_text(trace: Trace, monkeypatch: pytest.MonkeyPatch) -> None:
    page, text = explore(trace).kept.split("</iframe>")
    assert "<iframe" in page
    monkeypatch.setattr(explorer, "KEPT_CELLS", 100)
    alone = explore(trace).kept
    assert "run the cell again" in alone
    assert len(alone) < 100_000
    for shown in (text, alone):
        assert "<script" not in shown
        assert "<iframe" not in shown
        spans = re.findall(r'<span title="([^"]*)" style="[^"]*">(.*?)</span>', shown)
        texts = [part.replace("<br>", "\n") for _, part in spans]
        assert texts == [html.escape(running(text)) for text in trace.tokens.texts[1:] if text]
        chances = trace.tokens.logprobs.exp().tolist()[1:]
        expected = [f"{chance:.1%}" for chance, text in zip(chances, trace.tokens.texts[1:], strict=True) if text]
        assert [chance for chance, _ in spans] == expected


@pytest.mark.browser
def test_what_stays_hides_where_the_widget_is(shown: Any, browser: Any, trace: Trace) -> None:
    kept = explore(trace)
    page = browser.new_page()
    page.set_content(f"<!doctype html>{kept.kept}")
    place = page.locator(f"#gentrace-{kept.widget.mark}")
    assert place.is_visible()
    other = shown.locator("iframe >> nth=0").get_attribute("data-gentrace")
    for mark, hidden in ((other, False), (kept.widget.mark, True)):
        page.evaluate("() => { document.body.append(document.createElement('iframe')); }")
        page.evaluate("(mark) => { document.body.lastChild.dataset.gentrace = mark; }", mark)
        assert place.is_hidden() == hidden
    page.close()


@pytest.mark.browser
def test_a_silent_kernel_is_spoken_of_until_it_answers(shown: Any) -> None:
    frame = shown.frames[2]
    frame.wait_for_selector("body[data-loaded]", state="attached", timeout=60_000)
    said = shown.frame_locator("iframe >> nth=1").locator("#reading")
    assert said.text_content() == ""
    shown.evaluate("() => { window.silent = true; }")
    frame.evaluate("explorer.set({layer: 0, head: 1, step: 30})")
    said.filter(has_text="The kernel is busy").wait_for(timeout=60_000)
    shown.evaluate("() => { window.silent = false; }")
    frame.evaluate("explorer.set({layer: 2, head: 0, step: 31, zoom: '20.40.0.20'})")
    frame.evaluate("explorer.store.link.ask({what: 'query', part: 0, head: 0, query: 3})")
    assert said.text_content() == ""


def test_its_front_end_needs_nothing_from_elsewhere() -> None:
    text = asset("widget.mjs")
    assert text.endswith("export default { render };\n")
    for word in ("import", "http", "experimental", "invoke"):
        assert word not in text


def test_making_a_page_does_not_import_anywidget() -> None:
    code = "import sys, gentrace; gentrace.explore; print('anywidget' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
