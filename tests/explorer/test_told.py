"""What the page tells beside its pictures: scales, differences, and of one token the same everywhere and in a link."""

import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from gentrace.explorer import explore
from gentrace.trace.trace import Trace
from tests.explorer.opened import Opened
from tests.views.made import made_tokens, made_trace, random_trace

pytestmark = pytest.mark.browser
TOTAL = 40
NONE = "no difference that 8 bits can tell where the texts agree"


def changed(trace: Trace, factor: float) -> Trace:
    """The same text, looked at a little more or less sharply."""
    return made_trace(trace.queries(0) * factor, trace.keys(0), trace.tokens, layers=(0, 2))


@pytest.fixture(scope="module")
def traces() -> dict[str, Trace]:
    one = random_trace(TOTAL, 6, heads=3, layers=(0, 2))
    return {"one": one, "nearly": changed(one, 1.001), "otherwise": changed(one, 1.15)}


@pytest.fixture(scope="module")
def path(traces: dict[str, Trace], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return explore(traces).write_html(tmp_path_factory.mktemp("told") / "page.html")


@pytest.fixture
def opened(browser: Any, path: Path) -> Iterator[Opened]:
    page = Opened(browser, path)
    yield page
    page.close()


def test_every_matrix_has_its_scale_beside_it(opened: Opened) -> None:
    opened.press("]", "]")
    for tab, cards in (("heads", 1), ("model", 1), ("compare", 2)):
        opened.page.evaluate("(tab) => explorer.set({tab})", tab)
        opened.until("document.body.dataset.ready === explorer.v.tab")
        low, high, note = opened.page.evaluate("(explorer.tab.scale ?? explorer.scale).words()")
        keys = opened.page.locator(f"#panel-{tab} .key:has(.swatch):visible")
        told = [text for text in keys.all_text_contents() if text.startswith(f"{low}{high} {note}")]
        assert len(told) == cards, (tab, keys.all_text_contents())
    opened.page.evaluate("explorer.set({to: '2.2.1'})")
    largest = opened.page.evaluate("explorer.tab.most")
    assert keys.last.text_content().startswith(f"−{largest:.2g}+{largest:.2g} ")


def test_a_difference_is_told_only_where_eight_bits_can_tell_it(opened: Opened, traces: dict[str, Trace]) -> None:
    a, nearly, otherwise = (trace.attention(2, 1) for trace in traces.values())
    # The two are different, but by less than a byte can say.
    assert 0 < float(((a - nearly).abs() / (a + nearly + 1e-9)).max()) < 0.018
    opened.page.evaluate("explorer.set({tab: 'compare', head: 1, to: '1.2.1'})")
    assert opened.page.locator(".differences li").all_text_contents() == [NONE]
    assert set(opened.page.evaluate("Array.from(explorer.tab.values.filter((one) => !Number.isNaN(one)))")) == {0}
    tip = opened.point_at("#panel-compare .cells >> nth=2", 30, 7, TOTAL - 1, TOTAL - 1)
    assert tip["A − B"] == "none that 8 bits can tell"

    opened.page.evaluate("explorer.set({to: '2.2.1'})")
    values = opened.page.evaluate("Array.from(explorer.tab.values)")
    told = 0
    for query in range(1, TOTAL - 1):
        for key in range(1, query + 1):
            true, shown = float(a[query, key] - otherwise[query, key]), values[query * (TOTAL - 1) + key]
            assert true * shown >= 0, (query, key)
            told += shown != 0
    assert told > 100
    largest = opened.page.locator(".differences button").first.text_content()
    query, key = (int(number) for number in re.match(r"(\d+) .* → (\d+) ", largest).groups())
    shown = float(largest.rpartition(": ")[2].split()[0].replace("−", "-"))
    expected = float(a[query, key] - otherwise[query, key])
    assert shown == pytest.approx(expected, abs=0.019 * float(a[query, key] + otherwise[query, key]) + 0.005)


def test_of_blocks_each_is_told_once_and_as_the_most_that_is_in_it(browser: Any, tmp_path: Path) -> None:
    trace = random_trace(101, 6, heads=2, layers=(0, 1))
    page = explore(trace, pool=32, max_bytes=12_000).write_html(tmp_path / "page.html")
    opened = Opened(browser, page, "tab=compare&layer=0&head=0")
    found = opened.page.locator(".differences button").all_text_contents()
    cells = [re.match(r"(\d+) .* → (\d+) .*A at most ([\d.]+), B at most ([\d.]+)$", text) for text in found]
    edges = [0, *(4 * n for n in range(1, 5)), *(16 + 3 * n for n in range(1, 29)), 101]
    blocks = set()
    for query, key, *most in (cell.groups() for cell in cells if cell):
        rows, keys = (next((a, b) for a, b in pairwise(edges) if a <= int(one) < b) for one in (query, key))
        blocks.add((rows, keys))
        for head, shown in enumerate(most):
            largest = float(trace.attention(0, head)[slice(*rows), slice(*keys)].max())
            assert abs(float(shown) - largest) <= 0.07 * largest
    assert len(blocks) == len(found) == 8
    tip = opened.point_at("#panel-compare .cells >> nth=0", 90, 50, 100, 100)
    assert tip["A"].startswith("at most ")
    opened.close()


def test_texts_without_a_common_token_say_so(browser: Any, tmp_path: Path) -> None:
    words = [[f" {letter}{place}" for place in range(9)] for letter in "ab"]
    page = explore([random_trace(9, 4, texts=texts) for texts in words]).write_html(tmp_path / "page.html")
    opened = Opened(browser, page, "tab=compare")
    assert opened.page.locator(".differences li").all_text_contents() == ["the two texts have no token in common"]
    opened.close()


def test_of_exact_heads_the_smallest_difference_is_told(opened: Opened, traces: dict[str, Trace]) -> None:
    a, nearly, _ = (trace.attention(2, 0) for trace in traces.values())
    # One head of each trace brings its queries and keys.
    opened.page.evaluate("explorer.set({tab: 'compare', head: 0, to: '1.2.0'})")
    assert "8 bits" not in opened.text("#panel-compare")
    largest = opened.page.locator(".differences button").first.text_content()
    query, key = (int(number) for number in re.match(r"(\d+) .* → (\d+) ", largest).groups())
    difference = (a - nearly)[:, 1:].abs()
    assert float(difference.max()) == pytest.approx(float((a - nearly)[query, key].abs()), rel=1e-3)


def test_the_neuron_tab_shows_every_trace(opened: Opened, traces: dict[str, Trace]) -> None:
    opened.press("4")
    for trace in traces.values():
        assert opened.page.locator(".neuron .missing").is_hidden()
        step = opened.state()["step"]
        key = int(opened.text(".identity p").split(" looks at token ")[1].split()[0])
        weight = float(opened.page.locator(".identity dd").last.text_content())
        assert weight == pytest.approx(float(trace.attention(2, 0)[step, key]), rel=6e-5)
        opened.press("t")


def test_the_neuron_tab_finds_a_head_of_a_deeper_model(browser: Any, traces: dict[str, Trace], tmp_path: Path) -> None:
    named = {"one": traces["one"], "deeper": random_trace(TOTAL, 6, heads=3, layers=(0, 2, 5))}
    opened = Opened(browser, explore(named).write_html(tmp_path / "page.html"), "layer=0&head=1")
    opened.press("4")
    assert (opened.state()["layer"], opened.state()["head"]) == (2, 0)
    opened.press("t")
    assert (opened.state()["layer"], opened.state()["head"]) == (5, 0)
    assert opened.page.locator(".identity dd").last.is_visible()
    # Who asks for another head is told why it is not here.
    opened.press("]")
    assert opened.page.locator(".neuron .missing").is_visible()
    opened.close()


def test_the_last_token_has_a_link_of_its_own(browser: Any, path: Path, opened: Opened) -> None:
    opened.press("5")
    position = ".facts-list dd >> nth=0"
    opened.page.locator("#panel-tokens [tabindex='0'][data-position]").focus()
    opened.press("ArrowRight")
    assert (opened.state()["step"], opened.text(position)) == (6, "6, written")
    opened.press("End")
    assert opened.text(position) == f"{TOTAL - 1}, written"
    assert opened.page.locator("[aria-selected=true][data-position]").get_attribute("data-position") == str(TOTAL - 1)
    assert opened.address() | {"step": str(TOTAL - 2), "token": str(TOTAL - 1)} == opened.address()
    again = Opened(browser, path, opened.page.evaluate("location.hash.slice(1)"))
    assert again.text(position) == f"{TOTAL - 1}, written"
    # A step elsewhere leaves it.
    again.page.locator("#back").click()
    assert again.text(position) == f"{TOTAL - 3}, written"
    assert "token" not in again.address()
    again.close()


def test_of_one_token_all_lines_are_drawn_of_all_tokens_the_strongest(browser: Any, tmp_path: Path) -> None:
    trace = random_trace(301, 6, heads=9)
    opened = Opened(browser, explore(trace).write_html(tmp_path / "page.html"), "tab=heads&step=40")
    weights = trace.attention(0)[:, :, 1:]
    strong = int((weights > 0.051).sum())
    assert strong > 4200
    note = opened.page.locator(".lines .key")
    assert "weakest" not in note.text_content()
    lines = "explorer.tab.lines.filter((line) => line.query === 40).map((line) => `${line.colour} ${line.key}`)"
    found = set(opened.page.evaluate(lines))
    expected = {f"{head} {key + 1}" for head, key in (weights[:, 40] > 0.051).nonzero().tolist()}
    assert expected <= found
    opened.page.locator("input[name=lines][value=all]").check(force=True)
    left = int(re.search(r"the ([\d,]+) weakest lines are drawn only", note.text_content())[1].replace(",", ""))
    assert left == opened.page.evaluate("explorer.tab.lines.length") - 4000 >= strong - 4000
    opened.close()


def test_the_probability_of_the_token_that_came_is_told_once(browser: Any, tmp_path: Path) -> None:
    made = random_trace(12, 4)
    tokens = made_tokens([f" word{place}" for place in range(12)], 4, sampled=False)
    logprobs, top = tokens.logprobs.clone(), tokens.top_logprobs.clone()
    logprobs[6] = top[6, 0] = -4e-6
    trace = made_trace(made.queries(0), made.keys(0), replace(tokens, logprobs=logprobs, top_logprobs=top))
    opened = Opened(browser, explore(trace).write_html(tmp_path / "page.html"), "step=5")
    assert opened.text("#panel-replay .numbers").startswith("> 99.99 % by the model")
    assert opened.text("#panel-replay .came > :nth-child(3)") == "> 99.99 %"
    opened.close()
