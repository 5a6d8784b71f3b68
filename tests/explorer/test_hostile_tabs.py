"""Every tab of the explorer with tokens, models and traces that would rather be styles, markup, script or addresses."""

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gentrace.explorer import explore
from gentrace.trace.trace import Trace
from gentrace.views.labels import running
from tests.explorer.opened import Opened
from tests.views.made import random_trace

pytestmark = pytest.mark.browser
RUN = "window.pwned=1"
TOKENS = (
    # Ends of what the page's parts stand in.
    "]]]]><![CDATA[>", f"<!--<script>{RUN}</script>-->", f"--!><script>{RUN}</script>", "<plaintext>", "<xmp>",
    f"<noscript><p title=\"</noscript><img src=x onerror={RUN}>\">", f"*/}}</style><script>{RUN}</script>/*",
    f"<math><mtext><table><mglyph><style><img src=x onerror={RUN}>", f"&#x3c;img src=x onerror={RUN}&#x3e;",
    "\\u003cscript\\u003e", f"\\x3cimg src=x onerror={RUN}\\x3e", "\\", "\\'", "<%= 1 %>", "<textarea>",
    # Styles and addresses that would ask somebody else for something.
    ";background:url(//x.example/a)", "\"><style>*{background:url(//x.example/b)}</style>", f"expression({RUN})",
    "}*{background:url(//x.example/c)}", "@import url(//x.example/d);", "<link rel=prefetch href=//x.example/e>",
    "<meta http-equiv=refresh content=0;url=//x.example/f>", "<object data=//x.example/g></object>",
    "<iframe srcdoc='<script>parent.pwned=1</script>'></iframe>", "<base href=//x.example/>",
    "<form action=//x.example/h><button>x</button></form>",
    f"data:text/html,<script>{RUN}</script>", f"vbscript:{RUN}", f"JaVaScRiPt:{RUN}",
    f"${{constructor.constructor('{RUN}')()}}", f"{{{{constructor.constructor('{RUN}')()}}}}", f"#{{{RUN}}}",
    "//# sourceMappingURL=//x.example/i",
    # What has no shape, too much of it, or turns its neighbours round.
    "\udc00\ud800", "\ud83d\ude00\ud83d", "\u2067\u202e\u2066open", "\u202a" * 50, "\u2069\u2069\u202c", "\u0085",
    "\u2028\u2029", "\ufff9\ufffa\ufffb", "\U000e0041\U000e007f", "\uffff", "\ufffe", "\u180e", "\u3164", "\u00ad",
    "\u034f", "\u200d\u200d", "\ufe0f", "\u0301" * 10_000, "\n" * 300, "\t" * 300, " " * 10_000, "\r\n", "\x00" * 50,
    "x" * 10_000, "字" * 3000, "\u200b" * 2000, "مرحبا بالعالم", "ﷺ" * 3, "👩🏽\u200d💻",
    "🇩🇪", "🇩", "🏴\U000e0067\U000e007f",
    # What a program may take for its own.
    "hasOwnProperty", "toString", "NaN", "null", "undefined", "0", "-0", "1e999", "mean", "none", "",
)  # fmt: skip
NAMES = (f";background:url(//x.example/n)\"'><img src=x onerror={RUN}>", f"\u202e\u2067${{{RUN}}}]]>\ud800\u2028")
MODEL = f"</title><script>{RUN}</script>;background:url(//x.example/m)"
TABS = ("replay", "heads", "model", "neuron", "tokens", "compare")
KINDS = "[...new Set([...document.body.querySelectorAll('*')].map((one) => one.localName))].sort()"
ADDRESSED = "[src], [href], [action], [formaction], [onerror], [onload], [style*='url']"


def made(tokens: tuple[str, ...]) -> Trace:
    trace = random_trace(len(tokens), 4, texts=tokens, layers=(0, 1))
    return replace(trace, meta=replace(trace.meta, model=MODEL))


def written(traces: dict[str, Trace], path: Path) -> Path:
    return explore(traces).write_html(path)


@pytest.fixture(scope="module")
def opened(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    traces = {NAMES[0]: made(TOKENS), NAMES[1]: made((*TOKENS[:20], "new", *TOKENS[22:]))}
    page = written(traces, tmp_path_factory.mktemp("hostile") / "page.html")
    opened = Opened(browser, page, viewport={"width": 390, "height": 844}, accept_downloads=True)
    opened.page.on("dialog", lambda dialog: opened.complaints.append(dialog.message))
    opened.page.on("popup", lambda _: opened.complaints.append("a window of its own"))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def kinds(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """The elements that each tab is made of, in a page of harmless words."""
    words = tuple(f" word{place}" for place in range(len(TOKENS)))
    page = written({"a": made(words), "b": made(words)}, tmp_path_factory.mktemp("harmless") / "page.html")
    opened = Opened(browser, page, viewport={"width": 390, "height": 844})
    found = {}
    for tab in TABS:
        opened.page.evaluate("(tab) => explorer.set({tab, step: 999, lines: 'all'})", tab)
        opened.until("document.body.dataset.ready === explorer.v.tab")
        found[tab] = set(opened.page.evaluate(KINDS))
    opened.close()
    return found


@pytest.mark.parametrize("tab", TABS)
def test_no_tab_runs_asks_loses_or_breaks_anything(
    opened: Opened, kinds: dict[str, set[str]], tab: str, tmp_path: Path
) -> None:
    opened.page.evaluate("(tab) => explorer.set({tab, step: 999, lines: 'all'})", tab)
    opened.until("document.body.dataset.ready === explorer.v.tab")
    words = {"replay": ".running:visible > span", "tokens": ".running > span"}.get(tab)
    if words:
        found = opened.page.locator(f"#panel-{tab} {words}").all_text_contents()
        assert found == [running(word) for word in TOKENS]
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= 390
    assert opened.page.locator(f"#panel-{tab}").bounding_box()["y"] < 360
    assert set(opened.page.evaluate(KINDS)) == kinds[tab]
    assert opened.page.locator("body").locator(ADDRESSED).count() == 0
    assert opened.page.evaluate("[window.pwned, Object.prototype.pwned]") == [None, None]
    with opened.page.expect_download() as download:
        opened.press("s")
    download.value.save_as(tmp_path / "picture.svg")
    drawn = {one.tag.split("}")[1] for one in ElementTree.parse(tmp_path / "picture.svg").iter()}
    assert drawn <= {"svg", "rect", "text", "path", "polyline", "image"}


def test_names_of_models_and_traces_are_words(opened: Opened) -> None:
    assert opened.page.locator("#trace option").all_text_contents() == [running(name) for name in NAMES]
    assert MODEL in opened.page.title()
    assert "x.example" not in "".join(opened.requests)
