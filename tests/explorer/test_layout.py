"""What stands where: on a projector, a phone and paper."""

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gentrace.explorer import explore
from tests.explorer.opened import Opened
from tests.views.made import made_tokens, made_trace, random_trace
from tests.views.made_kinds import sentences

pytestmark = pytest.mark.browser
ROWS, PROMPT = 59, 6


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = random_trace(ROWS + 1, PROMPT, heads=3)
    tokens = made_tokens([f" word{place % 7}" for place in range(ROWS + 1)], PROMPT, k=10)
    trace = made_trace(made.queries(0), made.keys(0), tokens, layers=(0, 2))
    return explore(trace).write_html(tmp_path_factory.mktemp("layout") / "page.html")


@pytest.fixture
def opened(browser: Any, path: Path) -> Iterator[Opened]:
    page = Opened(browser, path, "step=30&head=1", viewport={"width": 1280, "height": 800})
    yield page
    page.close()


LABELS = """(view) => {
    const { matrix } = explorer.tab;
    const [labels, size] = view.along === "y"
        ? [matrix.rowLabels, matrix.cellHeight] : [matrix.keyLabels, matrix.cellWidth];
    const box = labels.getBoundingClientRect();
    const seen = (at) => {
        const [x, y] = view.along === "y" ? [box.right - 12, box.top + at] : [box.left + at, box.top + 12];
        return document.elementsFromPoint(x, y).includes(labels);
    };
    const every = Math.ceil(13 / size);
    return Array.from({length: Math.ceil(59 / every)}, (_, slot) => {
        const middle = 8 + (slot * every + 0.5) * size;
        return [slot * every, seen(middle - 5), seen(middle + 5)];
    });
}"""


def test_no_label_is_cut_through_by_a_chip_or_the_curtain(opened: Opened) -> None:
    size = opened.page.evaluate("explorer.tab.matrix.cellHeight")
    assert 4 < size < 13
    strongest = opened.page.evaluate("explorer.tab.strongest")
    for along, chip in (("y", 30), ("x", strongest)):
        found = opened.page.evaluate(LABELS, {"along": along})
        assert len(found) > 15
        for cell, above, below in found:
            clear = abs(cell - chip) * size > 17 and cell <= 30
            assert (above, below) == (clear, clear), (along, cell)
    opened.press("3")
    found = opened.page.evaluate(LABELS, {"along": "y"})
    assert [above for cell, above, _ in found if cell > 35] == [True] * sum(cell > 35 for cell, *_ in found)


def test_all_of_a_short_replay_is_seen_at_once_and_no_word_moves(opened: Opened) -> None:
    controls = opened.page.locator(".controls").bounding_box()
    for card in ("text", "next", "matrix"):
        box = opened.page.locator(f"#panel-replay .{card}").first.bounding_box()
        assert box["y"] + box["height"] <= controls["y"], card
    places = "[...document.querySelectorAll('#panel-replay .running .token')].slice(0, 20).map((one) => one.offsetTop)"
    height = "document.querySelector('#panel-replay .text').offsetHeight"
    before = opened.page.evaluate(f"[{places}, {height}]")
    opened.press("End")
    assert opened.page.evaluate(f"[{places}, {height}]") == before
    opened.press("Home")
    shown = opened.page.locator("#panel-replay .running:visible > span:visible").count()
    assert shown == 2


def test_a_distribution_that_is_the_models_own_is_told_once(browser: Any, tmp_path: Path) -> None:
    trace = random_trace(12, 4)
    tokens = made_tokens([f" word{place}" for place in range(12)], 4, sampled=False)
    same = tokens.sampled_logprobs.clone()
    same[4:] = tokens.logprobs[4:]
    tokens = replace(tokens, sampled_logprobs=same)
    greedy = made_trace(trace.queries(0), trace.keys(0), tokens)
    opened = Opened(browser, explore(greedy).write_html(tmp_path / "page.html"), "step=6")
    assert opened.text("#panel-replay .numbers") == "50.0 % by the model · its first choice · −0.69 nats"
    assert opened.text("#panel-replay .next .key").startswith("Bar: ")
    opened.press("5")
    assert "as sampled from" not in opened.page.locator(".facts-list dt").all_text_contents()
    opened.close()


def test_a_link_lays_a_matrix_out_as_it_was(browser: Any, path: Path, opened: Opened) -> None:
    size = "[explorer.tab.matrix.width, explorer.tab.matrix.height]"
    opened.page.evaluate("explorer.set({zoom: '19.59.15.55'})")
    opened.address()
    size_there = opened.page.evaluate(size)
    link = opened.page.evaluate("location.hash.slice(1)")
    again = Opened(browser, path, link, viewport={"width": 1280, "height": 800})
    assert again.page.evaluate(size) == size_there
    again.close()


def test_the_list_of_heads_says_which_are_exact_in_this_layer(opened: Opened) -> None:
    heads = opened.page.locator("#head option")
    assert heads.all_text_contents() == ["mean", "0 · exact", "1", "2"]
    opened.press(",")
    assert heads.all_text_contents() == ["mean", "0", "1", "2"]


def test_for_an_encoder_nothing_comes_next(browser: Any, tmp_path: Path) -> None:
    opened = Opened(browser, explore(sentences()).write_html(tmp_path / "page.html"))
    assert opened.state()["tab"] == "heads"
    opened.press("5")
    assert opened.page.locator("#panel-tokens canvas").is_hidden()
    opened.press("1")
    assert opened.page.locator("#panel-replay .next").is_hidden()
    assert opened.page.locator("#panel-replay h2").first.text_content() == "The text"
    assert "underline" not in opened.page.locator("#panel-replay .text .key").inner_text()
    opened.close()


def test_bars_have_room_on_a_phone(browser: Any, path: Path) -> None:
    opened = Opened(browser, path, "step=30", viewport={"width": 390, "height": 844})
    tracks = opened.page.locator("#panel-replay .track").evaluate_all("(all) => all.map((one) => one.clientWidth)")
    assert min(tracks) >= 140
    opened.close()


@pytest.mark.parametrize("tab", ["replay", "heads", "model", "neuron", "tokens", "compare"])
def test_a_view_is_one_page_of_paper(browser: Any, path: Path, tab: str) -> None:
    opened = Opened(browser, path, f"tab={tab}&step=30&head=1", viewport={"width": 718, "height": 1047})
    opened.page.emulate_media(media="print")
    opened.until("explorer.themeName === 'light' && explorer.palette.theme === explorer.store.themes.light")
    right = opened.page.locator(f"#panel-{tab} > .card:visible").evaluate_all(
        "(all) => Math.max(...all.map((one) => one.getBoundingClientRect().right))"
    )
    assert 700 <= right <= 719
    # Matrices take their new size when the page has been laid out again.
    opened.until("document.documentElement.scrollHeight <= innerHeight")
    printed = opened.page.pdf(format="A4", margin=dict.fromkeys(("top", "right", "bottom", "left"), "1cm"))
    assert len(re.findall(rb"/Type\s*/Page\b", printed)) == 1
    opened.close()


def test_a_model_of_thirty_layers_is_one_page_of_paper(browser: Any, tmp_path: Path) -> None:
    trace = random_trace(60, 4, heads=9, layers=range(30))
    page = explore(trace).write_html(tmp_path / "page.html")
    opened = Opened(browser, page, "tab=model", viewport={"width": 718, "height": 1047})
    opened.until("document.body.dataset.loaded === 'all'")
    # No small picture has more pixels than are shown, of which some would be left out.
    sizes = "(all) => all.map((one) => [one.width, one.height, one.clientWidth])"
    found = opened.page.locator(".thumbs canvas").evaluate_all(sizes)
    assert {tuple(one) for one in found} == {(29, 29, 29)}
    opened.page.emulate_media(media="print")
    opened.until("explorer.themeName === 'light' && explorer.palette.theme === explorer.store.themes.light")
    card, small = ".card:has(.thumbs)", "[aria-label='layer 29, head 8']"
    (right, below), (inner, last) = (
        (box["x"] + box["width"], box["y"] + box["height"])
        for box in (opened.page.locator(one).bounding_box() for one in (card, small))
    )
    assert inner < right < 360
    assert last < below
    printed = opened.page.pdf(format="A4", margin=dict.fromkeys(("top", "right", "bottom", "left"), "1cm"))
    assert len(re.findall(rb"/Type\s*/Page\b", printed)) == 1
    opened.close()


def test_lines_of_several_heads_run_side_by_side_and_their_squares_say_which(opened: Opened, tmp_path: Path) -> None:
    opened.page.evaluate("explorer.set({tab: 'heads', head: 'mean', step: 8})")
    lines = opened.page.evaluate("explorer.tab.lines.filter((line) => line.query === 8)")
    assert len({line["key"] for line in lines}) < len(lines)
    with opened.page.expect_download() as download:
        opened.page.locator("#svg").click()
    download.value.save_as(tmp_path / "picture.svg")
    drawn = ElementTree.fromstring((tmp_path / "picture.svg").read_bytes())
    paths = [one.get("d") for one in drawn.iter("{http://www.w3.org/2000/svg}path")]
    assert len(set(paths)) == len(paths) == len(lines)
    colours = opened.page.evaluate("explorer.layer.heads.map((_, at) => explorer.palette.head(at))")
    squares = [
        (one.get("fill"), float(one.get("opacity") or 1))
        for one in drawn.iter("{http://www.w3.org/2000/svg}rect")
        if one.get("height") == "8"
    ]
    expected = [(colours[line["colour"]], min(1, 0.25 + line["weight"])) for line in lines]
    found = sorted(one for one in squares if one[0] in colours)
    assert [one[0] for one in found] == [one[0] for one in sorted(expected)]
    assert [one[1] for one in found] == pytest.approx([one[1] for one in sorted(expected)])


@pytest.mark.parametrize("width", [1280, 390])
def test_a_name_of_a_thousand_letters_leaves_room_for_the_page(browser: Any, tmp_path: Path, width: int) -> None:
    name = "name" * 800
    trace = random_trace(12, 4)
    trace = replace(trace, meta=replace(trace.meta, model=name))
    page = explore({name: trace, f"{name}s": trace}, title=name).write_html(tmp_path / "page.html")
    opened = Opened(browser, page, viewport={"width": width, "height": 800})
    assert opened.text("#title") == name
    for tab in ("replay", "compare"):
        opened.page.evaluate("(tab) => explorer.set({tab})", tab)
        assert opened.page.locator(f"#panel-{tab}").bounding_box()["y"] < 360
        assert opened.page.locator(f"#panel-{tab} .cells").first.bounding_box()["y"] < 1100
        assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
    opened.close()
