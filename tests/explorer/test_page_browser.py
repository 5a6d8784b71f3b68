"""The explorer in Debian's chromium: what each tab shows is what the trace holds."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gentrace.explorer import explore
from gentrace.trace.trace import Trace
from gentrace.views.labels import label, running
from tests.explorer.opened import Opened
from tests.explorer.unpacked import RATIO
from tests.views.made import HOSTILE, random_trace
from tests.views.made_kinds import by_hand, sentences, translator

PROMPT = 6
WORDS = [*HOSTILE, *(f" word{place}" for place in range(19))]
ROWS = len(WORDS) - 1
TABS = ("replay", "heads", "model", "neuron", "tokens", "compare")

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def trace() -> Trace:
    return random_trace(len(WORDS), PROMPT, heads=3, texts=WORDS, layers=(0, 2), unseen=1)


@pytest.fixture(scope="module")
def other() -> Trace:
    """The same words but three, and other numbers."""
    words = [*WORDS[:10], "new", *WORDS[10:30], *WORDS[33:]]
    return random_trace(len(words), PROMPT, heads=3, texts=words, layers=(0, 2))


@pytest.fixture(scope="module")
def path(trace: Trace, other: Trace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    written = tmp_path_factory.mktemp("explorer") / "page.html"
    explore({"one </script>": trace, "two": other}, written, exact=[(2, 1)])
    return written


@pytest.fixture
def opened(browser: Any, path: Path) -> Iterator[Opened]:
    page = Opened(browser, path)
    yield page
    page.close()


def promised(shown: str, weight: float) -> None:
    """Whether an 8-bit weight in a tooltip has two digits, right to the scale and to the rounding."""
    if shown == "< 0.0001":
        assert weight < 1.02e-4
    else:
        assert abs(float(shown) - weight) <= (RATIO**0.5 - 1 + 0.05) * weight, (shown, weight)


def test_it_opens_where_writing_begins_and_steps_with_keys(opened: Opened) -> None:
    assert opened.state() | {"tab": "replay", "layer": 2, "head": "mean", "step": PROMPT - 1} == opened.state()
    opened.press("ArrowRight", "ArrowRight", "ArrowLeft")
    assert opened.text("#row") == str(PROMPT)
    opened.press("Shift+ArrowRight")
    assert opened.text("#row") == str(PROMPT + 10)
    opened.press("End", "ArrowRight")
    assert opened.text("#row") == str(ROWS - 1)
    assert opened.page.locator("#forward").is_disabled()
    opened.press("Home")
    assert opened.text("#row") == "0"
    opened.press("]", "]", ",")
    assert (opened.state()["head"], opened.state()["layer"]) == (1, 0)


def test_space_plays_and_pauses(opened: Opened) -> None:
    opened.page.select_option("#speed", "30")
    opened.page.locator("#speed").blur()
    opened.press("Space")
    opened.until(f"explorer.v.step > {PROMPT + 2}")
    assert opened.page.locator("#play").get_attribute("aria-label") == "Pause"
    opened.press("Space")
    stopped = opened.state()["step"]
    opened.page.wait_for_timeout(200)
    assert opened.state()["step"] == stopped


def test_every_tab_opens_by_key_and_by_pointer(opened: Opened) -> None:
    for number, tab in enumerate(TABS, 1):
        opened.press(str(number))
        assert opened.page.locator(f"#panel-{tab}").is_visible()
        assert opened.page.locator("[role=tabpanel]:visible").count() == 1
        assert opened.page.locator("[role=tab][aria-selected=true]").text_content() == tab
    opened.page.locator("#tab-model").click()
    assert opened.address()["tab"] == "model"


def test_a_cell_of_eight_bits_and_one_that_is_exact(opened: Opened, trace: Trace) -> None:
    opened.press("End", "]")
    cells = "#panel-replay .cells"
    assert "8 bits" in opened.text("#precision")
    for row, key in ((38, 0), (20, 7), (12, 12)):
        tip = opened.point_at(cells, row, key, ROWS, ROWS)
        assert (tip["query"], tip["key"]) == (str(row), str(key))
        assert (tip["query token"], tip["key token"]) == (label(WORDS[row]), label(WORDS[key]))
        promised(tip["weight"], float(trace.attention(2, 0)[row, key]))
        assert "score" not in tip
    opened.press("]")
    assert "exact" in opened.text("#precision")
    for row, key in ((38, 0), (20, 7), (12, 12)):
        tip = opened.point_at(cells, row, key, ROWS, ROWS)
        assert float(tip["weight"]) == pytest.approx(float(trace.attention(2, 1)[row, key]), rel=6e-5)
        score = float(tip["score"].replace("−", "-"))
        assert score == pytest.approx(float(trace.scores(2, 1)[row, key]), abs=6e-5)


def test_the_curtain_covers_what_is_to_come(opened: Opened) -> None:
    assert opened.point_at("#panel-replay .cells", 30, 11, ROWS, ROWS) == {}
    curtain, cells = (opened.page.locator(f"#panel-replay {name}").bounding_box() for name in (".curtain", ".cells"))
    assert curtain["y"] - cells["y"] == pytest.approx(PROMPT * cells["height"] / ROWS, abs=0.6)
    shown = opened.page.locator("#panel-replay .running:visible > span:not([hidden])").count()
    assert shown == PROMPT + 1


def test_a_row_that_was_never_seen_says_so(opened: Opened) -> None:
    opened.press("Home", "]")
    assert opened.point_at("#panel-replay .cells", 0, 0, ROWS, ROWS)["weight"] == "never seen"
    opened.press("]")
    assert opened.point_at("#panel-replay .cells", 0, 0, ROWS, ROWS)["weight"] == "never seen"


def test_what_comes_next(opened: Opened) -> None:
    opened.page.evaluate("explorer.set({step: 24})")
    panel = "#panel-replay"
    assert opened.text(f"{panel} .chosen-token") == label(WORDS[25])
    assert "50.0 % by the model · 66.7 % as sampled from · its first choice" in opened.text(f"{panel} .numbers")
    rows = opened.page.locator(f"{panel} .alternatives > div").all()
    assert [row.locator("bdi").text_content() for row in rows] == [label(WORDS[25]), "other1", "other2"]
    assert [row.locator("span:not(.track)").all_text_contents() for row in rows] == [
        ["50.0 %", "66.7 %"], ["25.0 %", "33.3 %"], ["12.5 %", "excluded"],
    ]  # fmt: skip
    widths = [row.locator("i").first.evaluate("(bar) => bar.getBoundingClientRect().width") for row in rows]
    assert widths[0] / widths[1] == pytest.approx(2, rel=0.05)


def test_hostile_tokens_are_text_in_every_tab(opened: Opened) -> None:
    opened.press("End")
    shown = opened.page.locator("#panel-replay .running:visible > span").all_text_contents()
    assert shown == [running(word) for word in WORDS]
    for tab in TABS:
        opened.page.evaluate("(tab) => explorer.set({tab})", tab)
    assert opened.page.evaluate("window.pwned") is None
    assert opened.page.locator("main img, main b, main script, main s").count() == 0
    assert opened.text("#trace option:nth-child(1)") == "one </script>"


def test_heads_lines_by_click_key_and_pointer(opened: Opened, trace: Trace) -> None:
    opened.press("2")
    opened.page.evaluate("explorer.set({head: 2, step: 30})")
    lines = "explorer.tab.lines.map((line) => [line.query, line.key, explorer.tab.names[line.colour]])"
    weights = trace.attention(2, 2)
    expected = {(q, k, 2) for q in range(ROWS) for k in range(1, q + 1) if float(weights[q, k]) >= 0.05 * RATIO}
    found = {tuple(line) for line in opened.page.evaluate(lines)}
    assert expected <= found
    assert all(float(weights[q, k]) >= 0.05 / RATIO for q, k, _ in found)
    opened.page.locator(".legend [aria-label='head 0']").click()
    assert opened.address()["heads"] == "0.2"
    assert {line[2] for line in opened.page.evaluate(lines)} == {0, 2}
    opened.page.locator(".lines .scroller").focus()
    opened.press("ArrowDown")
    assert opened.state()["step"] == 31
    row = opened.page.evaluate("explorer.tab.scroller.element.scrollTop / explorer.tab.scroller.rowHeight")
    box = opened.page.locator(".lines .scroller").bounding_box()
    opened.page.mouse.move(box["x"] + 40, box["y"] + (33 - row + 0.5) * 19)
    assert opened.tip()["query"] == "33"
    opened.page.mouse.click(box["x"] + 40, box["y"] + (33 - row + 0.5) * 19)
    assert opened.state()["step"] == 33


def test_pointing_at_a_cell_marks_it_in_every_head(opened: Opened) -> None:
    opened.press("2")
    opened.point_at(".grid .plot >> nth=0 >> .cells", 25, 4, ROWS, ROWS)
    marks = opened.page.locator(".grid .cross:visible")
    assert marks.count() == 3
    offsets = {json.dumps(mark.evaluate("(one) => [one.style.left, one.style.top]")) for mark in marks.all()}
    assert len(offsets) == 1


def test_model_shows_every_head_and_moves_with_arrows(opened: Opened, trace: Trace) -> None:
    opened.press("3")
    buttons = opened.page.locator(".thumbs button")
    assert buttons.count() == 6
    opened.page.locator("[aria-label='layer 0, head 1']").click()
    opened.press("ArrowDown", "ArrowRight", "ArrowRight")
    assert (opened.state()["layer"], opened.state()["head"]) == (2, 2)
    tip = opened.point_at("#panel-model .matrix .cells", 21, 8, ROWS, ROWS)
    promised(tip["weight"], float(trace.attention(2, 2)[21, 8]))
    painted = opened.page.evaluate(
        """([row, key]) => {
            const canvas = document.querySelector("[aria-label='layer 2, head 2'] canvas");
            return Array.from(canvas.getContext("2d").getImageData(key, row, 1, 1).data).slice(0, 3);
        }""",
        [21, 8],
    )
    level = opened.page.evaluate("explorer.scale.level(explorer.head.weight(21, 8), 8)")
    assert painted == opened.page.evaluate(f"explorer.palette.rgb[{level}]")


def test_neuron_adds_up(opened: Opened, trace: Trace) -> None:
    opened.press("4")
    assert (opened.state()["layer"], opened.state()["head"]) == (2, 1)
    assert opened.page.locator(".identity dd").count() > 3
    opened.page.evaluate("explorer.set({head: 0})")
    assert "exact=[(2, 0)]" in opened.text("#panel-neuron .missing")
    opened.page.locator("#panel-neuron .missing button").first.click()
    opened.page.evaluate("explorer.set({step: 22, key: 9})")
    terms = trace.score_terms(2, 1, 22)
    numbers = [float(text.replace("−", "-")) for text in opened.page.locator(".identity dd").all_text_contents()]
    dot = float(terms.dot[9])
    expected = [dot, dot * terms.scale, float(terms.score[9]), float(terms.weight[9])]
    assert numbers == pytest.approx(expected, abs=6e-5)
    shown = f"exp(score − {terms.logsumexp:.4f})".replace("-", "−")
    assert opened.page.locator(".identity dt").last.text_content() == shown
    opened.page.locator(".neuron .scroller").focus()
    opened.press("ArrowDown")
    assert opened.address()["key"] == "10"


def test_tokens_by_measure_with_alternatives_on_focus(opened: Opened) -> None:
    opened.press("5")
    opened.page.locator("input[name=colour][value=surprise]").check(force=True)
    assert opened.address()["colour"] == "surprise"
    opened.page.locator("#panel-tokens [data-position='5']").focus()
    opened.press("ArrowRight")
    assert opened.page.evaluate("document.activeElement.dataset.position") == "6"
    assert opened.text("#panel-tokens .chosen-token") == label(WORDS[6])
    facts = dict(
        zip(
            opened.page.locator(".facts-list dt").all_text_contents(),
            opened.page.locator(".facts-list dd").all_text_contents(),
            strict=True,
        )
    )
    assert facts == {
        "position": "6, written", "probability": "50.0 %", "as sampled from": "66.7 %", "surprise": "0.69 nats",
        "entropy": "unknown", "rank": "1",
    }  # fmt: skip


def test_compare_subtracts_where_the_tokens_agree(opened: Opened, trace: Trace, other: Trace) -> None:
    opened.press("6")
    opened.page.evaluate("explorer.set({head: 0, to: '1.0.2'})")
    pairs = [(at, at if at < 10 else at + 1) for at in range(30)] + [(at, at - 2) for at in range(33, 39)]
    assert opened.page.evaluate("explorer.tab.queries") == [list(pair) for pair in pairs]
    difference = opened.page.evaluate("Array.from(explorer.tab.values)")
    a, b = trace.attention(2, 0), other.attention(0, 2)
    for row, (i, j) in enumerate(pairs[1:], 1):
        for column, (k, m) in enumerate(pairs[1 : row + 1], 1):
            one, two = float(a[i, k]), float(b[j, m])
            assert abs(difference[row * len(pairs) + column] - (one - two)) <= 0.019 * (one + two) + 2e-4
    tip = opened.point_at("#panel-compare .plot >> nth=2 >> .cells", 20, 5, len(pairs), len(pairs))
    assert (tip["query"], tip["key"]) == ("20", "5")
    promised(tip["A"], float(a[20, 5]))
    promised(tip["B"], float(b[21, 5]))


def test_all_kinds_of_attention(browser: Any, tmp_path: Path) -> None:
    trace = translator()
    opened = Opened(browser, explore(trace, exact=[(0, 1, "cross")]).write_html(tmp_path / "page.html"))
    assert opened.state()["kind"] == "cross"
    opened.page.select_option("#head", "1")
    tip = opened.point_at("#panel-replay .cells", 0, 4, 4, 6)
    assert (tip["key"], tip["key token"]) == ("4", "en4")
    assert float(tip["weight"]) == pytest.approx(float(trace.attention(0, 1, kind="cross")[0, 4]), rel=6e-5)
    for kind in ("cross", "encoder", "self"):
        opened.page.select_option("#kind", kind)
        for number in range(1, 7):
            opened.press(str(number))
    opened.close()


def test_pooled_pages_say_so(browser: Any, tmp_path: Path) -> None:
    trace = random_trace(101, 6, heads=2, layers=(0, 1))
    page = explore(trace, pool=32, max_bytes=12_000).write_html(tmp_path / "page.html")
    opened = Opened(browser, page, "layer=0&head=1&step=99")
    assert "largest weight of each block of 4 × 4 tokens" in opened.text("#precision")
    tip = opened.point_at("#panel-replay .cells", 99, 50, 100, 100)
    edges = [0, *(4 * n for n in range(1, 5)), *(16 + 3 * n for n in range(1, 29))]
    block = max(edge for edge in edges if edge <= 50)
    promised(tip["weight"].removeprefix("at most "), float(trace.attention(0, 1)[97:100, block : block + 3].max()))
    opened.close()


def test_sentence_pairs_filter_the_lines(browser: Any, tmp_path: Path) -> None:
    trace = sentences()
    opened = Opened(browser, explore(trace).write_html(tmp_path / "page.html"), "tab=heads&head=1")
    lines = "explorer.tab.lines.map((line) => [line.query, line.key])"
    weights = by_hand(trace, 1)[0]
    for pair, queries, keys in (("A→B", (0, 1), (2, 3, 4)), ("B→B", (2, 3, 4), (2, 3, 4)), ("all", range(5), range(5))):
        opened.page.select_option("[aria-label='Sentences whose lines are drawn']", pair)
        expected = {(query, key) for query in queries for key in keys if float(weights[query, key]) >= 0.05}
        assert {tuple(line) for line in opened.page.evaluate(lines)} == expected
    opened.close()


def test_the_block_of_the_first_token_is_set_aside_whole(browser: Any, tmp_path: Path) -> None:
    trace = random_trace(101, 6, heads=2, layers=(0, 1))
    page = explore(trace, pool=32, max_bytes=12_000).write_html(tmp_path / "page.html")
    opened = Opened(browser, page, "layer=0&head=1&step=99")
    assert "first 4 tokens set aside" in opened.text("#panel-replay .matrix .key")
    assert opened.page.locator("#panel-replay .token.aside").count() == 4
    opened.page.evaluate("explorer.set({layer: 1})")
    assert opened.page.locator("#panel-replay .token.aside").count() == 1
    opened.close()
