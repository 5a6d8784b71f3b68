"""Cross-attention, beams and rejected drafts in the exported page, in a real browser: held against the trace itself."""

import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from playwright.sync_api import expect

from gentrace.trace.trace import Trace
from gentrace.views import replay_page
from gentrace.views.labels import label
from tests.views.made import random_trace
from tests.views.made_kinds import drafted, searched, translator

pytestmark = pytest.mark.browser
WAIT = 60_000


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Opens pages, and fails a test of which a page complained or asked the network for something."""
    contexts, complaints, requests = [], [], []

    def show(page_text: str, **options: Any) -> Any:
        path = tmp_path / f"{len(contexts)}.html"
        path.write_text(page_text, "utf-8")
        contexts.append(browser.new_context(**{"viewport": {"width": 1280, "height": 900}} | options))
        page = contexts[-1].new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(path.as_uri())
        page.wait_for_selector("#bars .main-svg", state="attached", timeout=WAIT)
        return page

    yield show
    for context in contexts:
        context.close()
    assert complaints == []
    assert len(requests) == len(contexts)


def go(page: Any, row: int) -> None:
    page.evaluate("row => replay.controls.go(row)", row)
    expect(page.locator("#row")).to_have_text(str(row), timeout=WAIT)


def tip(page: Any, row: int, key: int, rows: int, keys: int) -> dict[str, str]:
    """What the pointer is told over a cell of the matrix, and the two tokens' names."""
    page.locator("#matrix-title").hover()
    box = page.locator("#cells").bounding_box()
    page.mouse.move(box["x"] + (key + 0.5) * box["width"] / keys, box["y"] + (row + 0.5) * box["height"] / rows)
    expect(page.locator("#tip")).to_be_visible(timeout=WAIT)
    parts = page.locator("#tip > *").all_text_contents()
    return dict(zip(parts[::3], parts[1::3], strict=True)) | {"query is": parts[2], "key is": parts[5]}


def check(told: dict[str, str], weight: torch.Tensor, score: torch.Tensor) -> None:
    """Whether a tooltip's numbers are right to the digits it shows, which are at least two."""
    assert math.isclose(float(told["weight"]), float(weight), rel_tol=0.05), (told, weight)
    assert abs(float(told["score"].replace("−", "-")) - float(score)) < 0.01, (told, score)


def test_cross_attention_is_shown_first_and_painted_on_the_source(opened: Callable[..., Any]) -> None:
    trace = translator()
    page = opened(replay_page(trace))
    assert page.locator("#matrix-name").text_content() == "Layer 0, mean of 2 heads, cross-attention"
    assert page.locator("#source .token").all_text_contents() == [f"en{place}" for place in range(6)]
    go(page, 3)
    weights, scores = trace.attention(0, kind="cross"), trace.scores(0, kind="cross")
    told = tip(page, 2, 5, 4, 6)
    check(told, weights.mean(0)[2, 5], scores.mean(0)[2, 5])
    assert (told["query is"], told["key is"]) == (label(trace.tokens.texts[2]), "en5")
    page.keyboard.press("]")
    page.keyboard.press("]")
    check(tip(page, 3, 1, 4, 6), weights[1, 3, 1], scores[1, 3, 1])
    # Every word of the source has the colour of its weight, to the 32 steps that words are painted in.
    full = float(weights[1].amax(-1).quantile(0.9))
    painted = page.locator("#source .token").evaluate_all("all => all.map((one) => one.style.backgroundColor)")
    levels = [min(255, round(float(weight) / full * 255)) & ~7 for weight in weights[1, 3]]
    colours = page.evaluate("levels => levels.map((level) => replay.palette.background[level])", levels)
    assert [one.replace(" ", "") for one in painted] == [
        colour if level else "" for colour, level in zip(colours, levels, strict=True)
    ]
    assert len(set(painted)) > 3
    assert set(page.locator("#text .token").evaluate_all("all => all.map((one) => one.style.backgroundColor)")) == {""}


def test_the_texts_own_attention_is_there_too(opened: Callable[..., Any]) -> None:
    trace = translator()
    page = opened(replay_page(trace, heads=1))
    assert page.locator("#sink input[value=keep]").is_checked()
    page.locator("#kind input[value=self]").check(force=True)
    expect(page.locator("#matrix-name")).to_have_text("Layer 0, head 1", timeout=WAIT)
    assert page.locator("#sink input[value=mask]").is_checked()
    go(page, 3)
    told = tip(page, 3, 1, 4, 4)
    check(told, trace.attention(0, 1)[3, 1], trace.scores(0, 1)[3, 1])
    assert told["key is"] == label(trace.tokens.texts[1])
    assert set(page.locator("#source .token").evaluate_all("all => all.map((one) => one.style.backgroundColor)")) == {
        ""
    }
    page.locator("#kind input[value=cross]").check(force=True)
    expect(page.locator("#sink input[value=keep]")).to_be_checked(timeout=WAIT)
    check(tip(page, 1, 4, 4, 6), trace.attention(0, 1, kind="cross")[1, 4], trace.scores(0, 1, kind="cross")[1, 4])


def branches(page: Any) -> list[tuple[str, str]]:
    """State and text of every continuation in sight, as they stand on the page: column by column."""
    return page.locator("#tree text[data-index]").evaluate_all(
        "(all) => all.map((one) => [one.getAttribute('class'), one.textContent])"
    )


def test_a_tree_of_beams_greys_a_branch_when_nothing_of_it_is_left(opened: Callable[..., Any]) -> None:
    trace: Trace = searched(random_trace(12, 8))
    page = opened(replay_page(trace))
    word = [label(text) for text in trace.tokens.texts]
    assert branches(page) == [["returned", word[8]], ["alive", "␣<i>los…"], ["pruned", "␣gone"]]
    assert page.locator("#tree text.returned").first.text_content() == word[7]
    assert page.locator("#tree text.score").all_text_contents() == ["−1.00", "−2.00", "−3.00"]
    go(page, 8)
    assert branches(page)[1] == ["alive", "␣<i>los…"]
    # Its last continuation is dropped by the step that adds token 10.
    go(page, 9)
    assert branches(page)[1] == ["pruned", "␣<i>los…"]
    assert ["pruned", "␣late"] in branches(page)
    assert ["alive", "␣twin"] in branches(page)
    go(page, 10)
    assert branches(page)[-3:] == [["alive", "␣ends∎"], ["returned", word[11]], ["pruned", "␣gone"]]
    page.locator("#tree text[data-index]", has_text="ends").hover()
    told = page.locator("#tip > *").all_text_contents()
    assert told[1::3] == ["11", "−3.00 nats", f"{100 * math.exp(-0.25):.1f} % by the model", "complete"]
    # As many lines as continuations in sight that have a parent in sight.
    drawn = "".join(page.locator("#tree path").evaluate_all("all => all.map((one) => one.getAttribute('d'))"))
    assert drawn.count("M") == 12
    go(page, 6)
    assert branches(page) == []


def test_rejected_drafts_stand_behind_the_text_with_their_probabilities(opened: Callable[..., Any]) -> None:
    trace = drafted(random_trace(12, 8))
    page = opened(replay_page(trace))
    shown = page.locator("#text .ghost")
    expect(shown).to_have_text(["<b>wrong", "too"], timeout=WAIT)
    assert page.locator("#drafts bdi").all_text_contents() == ["␣<b>wrong", "␣too"]
    assert page.locator("#drafts span").all_text_contents() == ["12.5 %", "50.0 %"]
    room = page.locator("#drafts > i").first.bounding_box()["width"]
    bars = [one.bounding_box()["width"] / room for one in page.locator("#drafts i i").all()]
    assert bars == pytest.approx([0.125, 0.5], rel=0.02)
    assert "line-through" in shown.first.evaluate("one => getComputedStyle(one).textDecorationLine")
    go(page, 8)
    assert shown.count() == 0
    assert page.locator("#drafts").text_content() == "no draft was rejected here"
    go(page, 9)
    expect(shown).to_have_text(["again"], timeout=WAIT)
    assert re.search(r"rejected drafts again", page.locator("#announce").text_content())


def test_a_page_without_them_shows_none_of_them(opened: Callable[..., Any]) -> None:
    page = opened(replay_page(random_trace(12, 8)))
    for name in ("#kind", "#source-box", "#tree-card", "#drafts", "#ghost-key"):
        assert not page.locator(name).is_visible(), name


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_with_all_of_them_fits(opened: Callable[..., Any], width: int) -> None:
    page = opened(replay_page(searched(drafted(random_trace(12, 8)))), viewport={"width": width, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for name in ("#text", "#drafts", "#cells", "#tree"):
        box = page.locator(name).bounding_box()
        assert 0 <= box["x"] <= box["x"] + box["width"] <= width, name
