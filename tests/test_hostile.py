"""A prompt is untrusted: whatever its tokens are, both pages show each, run none and ask nobody for anything."""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from gentrace import explore
from gentrace.trace.trace import Trace
from gentrace.views import replay_page
from gentrace.views.labels import running
from tests.views.conftest import browser
from tests.views.made import WORSE, random_trace

__all__ = ["browser"]

pytestmark = pytest.mark.browser
EVIL = "</title></script><img src=x onerror=window.pwned=1>"
PAGES: dict[str, tuple[Callable[[Trace, Path], object], str, str]] = {
    "explorer": (
        lambda trace, path: explore({EVIL: trace}, path),
        "body[data-loaded]",
        "#panel-replay .running:visible > span",
    ),
    "replay": (
        lambda trace, path: path.write_text(replay_page(trace, title=EVIL), "utf-8"),
        "#bars .main-svg",
        "#text > span:not([hidden])",
    ),
}
INERT = "main img, main b, main script, main s, main svg[onload], header img, header script"


@pytest.fixture(scope="module", params=PAGES)
def shown(request: pytest.FixtureRequest, browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A page of hostile tokens, opened: itself, its file's text, and a selector of its tokens."""
    write, ready, tokens = PAGES[request.param]
    trace = random_trace(len(WORSE), 4, texts=WORSE)
    trace = replace(trace, meta=replace(trace.meta, model=EVIL))
    path = tmp_path_factory.mktemp("hostile") / "page.html"
    write(trace, path)
    page = browser.new_page(viewport={"width": 390, "height": 844})
    seen: list[str] = []
    page.on("console", lambda message: seen.append(message.text))
    page.on("pageerror", lambda error: seen.append(str(error)))
    page.on("dialog", lambda dialog: seen.append(dialog.message))
    page.on("request", lambda one: seen.extend([] if one.url.startswith(("file:", "data:", "blob:")) else [one.url]))
    page.goto(path.as_uri())
    page.wait_for_selector(ready, state="attached", timeout=60_000)
    page.keyboard.press("End")
    yield page, path.read_text("utf-8"), tokens
    page.close()
    assert seen == []


def test_every_token_is_shown_and_none_is_run(shown: Any) -> None:
    page, _, tokens = shown
    expect(page.locator(tokens)).to_have_count(len(WORSE), timeout=60_000)
    assert page.locator(tokens).all_text_contents() == [running(word) for word in WORSE]
    assert page.evaluate("window.pwned") is None
    assert page.locator(INERT).count() == 0
    assert EVIL in page.title()
    assert EVIL in page.locator("header").text_content()


def test_a_token_of_ten_thousand_characters_does_not_push_the_page_aside(shown: Any) -> None:
    page, _, _ = shown
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


def test_nothing_outside_is_named_or_allowed(shown: Any) -> None:
    page, text, _ = shown
    (policy,) = re.findall(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)">', text)
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules.pop("default-src") == "'none'"
    allowed = {source for sources in rules.values() for source in sources.split()}
    assert all(source in ("'none'", "data:", "blob:", "'unsafe-inline'") or "sha256-" in source for source in allowed)
    assert "'unsafe-inline'" not in rules["script-src"]
    # What is packed may spell anything; a namespace is a name and fetches nothing; one address is a token.
    plain = re.sub(r"[\w+/=]{400,}", "", text).replace("http://www.w3.org/2000/svg", "")
    assert set(re.findall(r"(?:https?|wss?|ftp)://[^\s\"'<>]*", plain)) <= {"https://example.com/"}
    assert not re.search(r"@import|url\((?!['\"]?(?:data:|#))", plain)
    links = "[...document.querySelectorAll('[src], [href]')].flatMap((one) => [one.src, one.href])"
    assert [link for link in page.evaluate(links) if link and not link.startswith(("data:", "blob:"))] == []
