"""The explorer for everybody: by keyboard, by address, on a phone, on paper, with a screen reader, as a file."""

import html
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from gentrace.explorer import explore
from gentrace.trace.trace import Trace
from gentrace.views.labels import label, running
from gentrace.views.theme import contrast
from tests.complaints import complaints_of
from tests.explorer.opened import Opened
from tests.views.made import HOSTILE, random_trace

WORDS = [*HOSTILE, *(f" word{place}" for place in range(19))]
TABS = ("replay", "heads", "model", "neuron", "tokens", "compare")
GROUND = "getComputedStyle(document.documentElement).backgroundColor"

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def trace() -> Trace:
    return random_trace(len(WORDS), 6, heads=3, texts=WORDS, layers=(0, 2))


@pytest.fixture(scope="module")
def path(trace: Trace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    written = tmp_path_factory.mktemp("explorer") / "page.html"
    explore(trace, written, exact=[(2, 1)])
    return written


@pytest.fixture
def opened(browser: Any, path: Path) -> Iterator[Opened]:
    page = Opened(browser, path)
    yield page
    page.close()


def lightness(opened: Opened) -> int:
    return sum(map(int, re.findall(r"\d+", opened.page.evaluate(GROUND))[:3]))


def test_a_link_opens_the_view_that_it_was_copied_from(browser: Any, path: Path, opened: Opened) -> None:
    view = {"tab": "heads", "layer": 0, "head": 2, "step": 17, "heads": "0.2", "first": "log"}
    opened.page.evaluate("(view) => explorer.set(view)", view)
    opened.address()
    again = Opened(browser, path, opened.page.evaluate("location.hash.slice(1)"))
    assert again.state() == opened.state()
    assert again.state() | view == again.state()
    again.close()


def test_the_address_can_be_changed_while_the_page_is_open(opened: Opened) -> None:
    opened.page.evaluate("location.hash = 'tab=tokens&step=9&colour=rank'")
    opened.until("explorer.v.tab === 'tokens'")
    assert opened.page.locator("#panel-tokens").is_visible()
    assert (opened.state()["step"], opened.state()["colour"]) == (9, "rank")


def test_an_address_cannot_ask_for_what_is_not_there(browser: Any, path: Path) -> None:
    wild = "tab=__proto__&layer=99&head=-1&step=1e9&trace=7&kind=cross&first=x&heads=a.b&to=9.9.9&key=zz&theme=pink"
    opened = Opened(browser, path, wild)
    assert opened.state() | {"tab": "replay", "layer": 2, "head": "mean", "step": 5, "kind": "self"} == opened.state()
    for number in range(1, 7):
        opened.press(str(number))
    opened.close()


def test_the_list_of_keys_finds_and_runs(opened: Opened) -> None:
    opened.press("?")
    assert opened.page.locator("#commands").is_visible()
    assert opened.page.evaluate("document.activeElement.id") == "command"
    listed = opened.page.locator("#command-list li").count()
    assert listed > 20
    opened.page.keyboard.type("open comp")
    assert opened.page.locator("#command-list li").count() == 1
    opened.press("Enter")
    assert opened.page.locator("#commands").is_hidden()
    assert opened.state()["tab"] == "compare"
    opened.press("?", "Escape")
    assert opened.page.locator("#commands").is_hidden()


def test_single_keys_can_be_switched_off(opened: Opened) -> None:
    opened.press("?")
    opened.page.locator("#single-keys").uncheck()
    opened.press("Escape", "3", "ArrowRight")
    assert (opened.state()["tab"], opened.state()["step"]) == ("replay", 6)


def test_the_tabs_are_tabs(opened: Opened) -> None:
    tabs = opened.page.locator("[role=tablist] [role=tab]")
    assert tabs.all_text_contents() == list(TABS)
    opened.page.locator("#tab-replay").focus()
    opened.press("ArrowRight", "ArrowRight")
    assert opened.page.evaluate("document.activeElement.id") == "tab-model"
    assert opened.state()["tab"] == "model"
    assert opened.state()["step"] == 5
    for tab in tabs.all():
        panel = opened.page.locator(f"#{tab.get_attribute('aria-controls')}")
        assert panel.get_attribute("role") == "tabpanel"
        assert panel.get_attribute("aria-labelledby") == tab.get_attribute("id")
        assert tab.get_attribute("tabindex") == ("0" if tab.get_attribute("aria-selected") == "true" else "-1")


NAMELESS = """
[...document.querySelectorAll("button, select, input, [role=img], [role=group], [role=grid], [role=listbox]")].filter(
  (one) => one.checkVisibility() && !one.getAttribute("aria-label") && !one.closest("label") && !one.textContent.trim()
).map((one) => one.outerHTML.slice(0, 120))
"""


@pytest.mark.parametrize("tab", TABS)
def test_everything_has_a_name_and_is_reached_with_the_keyboard(browser: Any, path: Path, tab: str) -> None:
    opened = Opened(browser, path, f"tab={tab}&layer=2&head=1")
    assert opened.page.evaluate(NAMELESS) == []
    wanted = {
        "replay": ["Attention head", "Text so far"], "heads": ["Token 5", "head 0"], "model": ["layer 2, head 1"],
        "neuron": ["dot product"], "tokens": ["colour", "probability"], "compare": ["layer to compare with"],
    }[tab]  # fmt: skip
    reached = []
    for _ in range(60):
        opened.press("Tab")
        reached.append(
            opened.page.evaluate(
                """() => {
                    const one = document.activeElement;
                    const names = [one, one.parentElement].map((each) => each?.getAttribute("aria-label"));
                    return [one.id, ...names, one.name].join();
                }"""
            )
        )
    order = [
        next((at for at, one in enumerate(reached) if name in one), None) for name in ("png", f"tab-{tab}", "layer")
    ]
    assert None not in order
    assert order == sorted(order)
    for name in (*wanted, "play", "slider"):
        assert any(name in one for one in reached), (name, reached)
    opened.close()


def test_a_step_is_told_to_a_screen_reader(opened: Opened, trace: Trace) -> None:
    opened.press("]", "]", "End")
    opened.until("document.getElementById('announce').textContent === explorer.tab.describe()")
    row = trace.attention(2, 1)[-1]
    strongest = int(row[1:].argmax()) + 1
    told = opened.text("#announce")
    assert f"looks most at {label(WORDS[strongest])}, weight {float(row[strongest]):.5g}"[:-1] in told
    assert opened.page.locator("#announce").get_attribute("aria-live") == "polite"
    assert told in opened.page.locator("#panel-replay .cells").get_attribute("aria-label")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_follows_the_colour_scheme_the_toggle_and_the_printer(browser: Any, path: Path, scheme: str) -> None:
    opened = Opened(browser, path, color_scheme=scheme)
    assert (lightness(opened) > 380) == (scheme == "light")
    opened.press("d")
    assert (lightness(opened) > 380) == (scheme == "dark")
    assert opened.address()["theme"] == ("dark" if scheme == "light" else "light")
    opened.page.emulate_media(media="print")
    opened.until("explorer.themeName === 'light'")
    assert lightness(opened) == 3 * 255
    assert opened.page.evaluate("explorer.themeName") == "light"
    assert opened.page.locator(".controls").is_hidden()
    opened.page.emulate_media(media="screen")
    opened.until("explorer.themeName === explorer.v.theme")
    assert (lightness(opened) > 380) == (scheme == "dark")
    opened.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_what_it_is_painted_on(browser: Any, path: Path, scheme: str) -> None:
    opened = Opened(browser, path, color_scheme=scheme)
    pairs = opened.page.evaluate(
        """() => {
            const {theme, rgb, ink} = explorer.palette;
            const over = (ground) => ["ink", "muted", "accent", "raw"].map((text) => [theme[text], theme[ground]]);
            const pairs = [...over("paper"), ...over("card"), [theme.ink, theme.unseen], [theme.card, theme.accent]];
            return {theme: pairs, rgb, ink};
        }"""
    )
    pairs["theme"] += [[ink, as_hex(ground)] for ground, ink in zip(pairs["rgb"], pairs["ink"], strict=True)]
    for measure in ("probability", "surprise"):
        opened.page.evaluate("(colour) => explorer.set({tab: 'tokens', colour})", measure)
        pairs["theme"] += [
            [as_hex(channels_of(one["color"])), as_hex(channels_of(one["background"]))]
            for one in opened.page.evaluate(
                """[...document.querySelectorAll("#panel-tokens .token")].map((one) => {
                    const { color, backgroundColor } = getComputedStyle(one);
                    return { color, background: backgroundColor };
                }).filter((one) => one.background !== "rgba(0, 0, 0, 0)")"""
            )
        ]
    assert len(pairs["theme"]) > 300
    assert [(one, ground) for one, ground in pairs["theme"] if contrast(one, ground) < 4.5] == []
    opened.close()


def channels_of(colour: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", colour)[:3]]


def as_hex(colour: list[int]) -> str:
    return "#" + "".join(f"{part:02x}" for part in colour)


def test_what_is_pressed_on_a_phone_is_large_enough(browser: Any, path: Path) -> None:
    opened = Opened(browser, path, viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    for tab in TABS:
        opened.page.evaluate("(tab) => explorer.set({tab, layer: 2, head: 1})", tab)
        small = opened.page.evaluate(
            """[...document.querySelectorAll("button, select, fieldset label")].filter((one) => {
                const { width, height } = one.getBoundingClientRect();
                return one.checkVisibility() && !one.closest("dialog") && (width < 24 || height < 24);
            }).map((one) => one.outerHTML.slice(0, 80))"""
        )
        assert small == []
    opened.close()


def test_nothing_moves_for_who_wants_less_motion(browser: Any, path: Path) -> None:
    durations = "[...document.querySelectorAll('*')].map((one) => getComputedStyle(one).transitionDuration)"
    calm = Opened(browser, path, reduced_motion="reduce")
    assert set(calm.page.evaluate(durations)) == {"0s"}
    calm.close()
    usual = Opened(browser, path, reduced_motion="no-preference")
    assert set(usual.page.evaluate(durations)) != {"0s"}
    usual.close()


@pytest.mark.parametrize("tab", TABS)
def test_it_fits_a_phone(browser: Any, path: Path, tab: str) -> None:
    size = {"width": 390, "height": 844}
    opened = Opened(browser, path, f"tab={tab}&layer=2&head=1", viewport=size)
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= 390
    outside = opened.page.evaluate(
        """[...document.querySelectorAll("main .card, main canvas, #slider, #play")].filter((one) => {
            const box = one.getBoundingClientRect();
            const clipped = one.closest(".strip, .thumbs, .cells");
            return one.checkVisibility() && !clipped && (box.left < 0 || box.right > 391);
        }).map((one) => one.className)"""
    )
    assert outside == []
    opened.close()


@pytest.mark.parametrize("tab", TABS)
def test_the_picture_as_png_and_svg(browser: Any, path: Path, tab: str, tmp_path: Path) -> None:
    opened = Opened(browser, path, f"tab={tab}&layer=2&head=1&step=30")
    with opened.page.expect_download() as download:
        opened.page.locator("#svg").click()
    saved = tmp_path / "picture.svg"
    download.value.save_as(saved)
    root = ElementTree.fromstring(saved.read_bytes())
    texts = [element.text or "" for element in root.iter("{http://www.w3.org/2000/svg}text")]
    expected = {
        "replay": ["Layer 2, head 1, token 30", "other1", "25.0 %", "33.3 %"], "heads": ["Layer 2: 3 heads", "head 1"],
        "model": ["made <by> hand: 2 layers × 3 heads"], "neuron": ["products q × k"],
        "tokens": ["made <by> hand: tokens by probability"], "compare": ["A: layer 2, head 1 · exact", "A − B"],
    }[tab]  # fmt: skip
    assert set(expected) <= set(texts)
    # A picture says what its colours mean.
    if tab in ("replay", "heads", "compare"):
        low, high, note = opened.page.evaluate("(explorer.tab.scale ?? explorer.scale).words()")
        assert {low, high, note} <= set(texts)
    assert "script" not in {element.tag.split("}")[-1] for element in root.iter()}
    with opened.page.expect_download() as download:
        opened.press("p")
    download.value.save_as(tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
    assert download.value.suggested_filename.endswith(".png")
    opened.close()


def test_the_policy_stops_a_script_that_is_not_ours(browser: Any, path: Path) -> None:
    opened = Opened(browser, path)
    opened.page.evaluate(
        """() => {
            const script = document.createElement("script");
            script.textContent = "window.pwned = 1";
            document.head.append(script);
        }"""
    )
    assert opened.page.evaluate("window.pwned") is None
    assert any("Content Security Policy" in complaint for complaint in opened.complaints)
    opened.context.close()


def test_titles_of_a_picture_stay_apart(browser: Any, trace: Trace, tmp_path: Path) -> None:
    named = {"long " * 40: trace, "longer " * 40: trace}
    opened = Opened(browser, explore(named).write_html(tmp_path / "page.html"), "tab=compare")
    with opened.page.expect_download() as download:
        opened.page.locator("#svg").click()
    download.value.save_as(tmp_path / "picture.svg")
    opened.page.goto((tmp_path / "picture.svg").as_uri())
    boxes = opened.page.evaluate(
        """[...document.querySelectorAll("text")].filter((one) => /^[AB](:| −)/.test(one.textContent)).map((one) => {
            const { left, right } = one.getBoundingClientRect();
            return [left, right];
        })"""
    )
    assert len(boxes) == 4
    assert boxes[0][1] < boxes[1][0]
    assert boxes[1][1] < boxes[2][0]
    opened.context.close()


NAMES = (
    "</title></script><img src=x onerror=window.pwned=1>", "__proto__", "\u202efdp.exe", "\ud800", "${window.pwned=1}",
    "<svg/onload=window.pwned=1>", "a\x00b", "javascript:window.pwned=1", "e" + "\u0301" * 10_000, "long" * 2500,
)  # fmt: skip


def test_names_and_titles_are_text(browser: Any, tmp_path: Path) -> None:
    page = explore({name: random_trace(9, 4) for name in NAMES}, tmp_path / "page.html", title="".join(NAMES[:5])).html
    assert "".join(map(running, NAMES[:5])) in html.unescape(page)
    opened = Opened(browser, tmp_path / "page.html", viewport={"width": 390, "height": 844})
    names = [running(name) for name in NAMES]
    assert opened.page.locator("#trace option").all_text_contents() == names
    assert opened.text("#title") == "".join(names[:5])
    for place, name in enumerate(names):
        opened.page.evaluate("([tab, to]) => explorer.set({tab, to})", ["compare", f"{place}.."])
        assert name in opened.page.locator("#panel-compare h2").nth(1).text_content()
        assert opened.page.evaluate("document.documentElement.scrollWidth") <= 390
    assert opened.page.evaluate("[window.pwned, Object.prototype.text]") == [None, None]
    assert opened.page.locator("main img, main svg[onload], header img, header script, select img").count() == 0
    opened.close()


def test_in_a_notebook_it_is_a_frame_of_its_own(browser: Any, trace: Trace, tmp_path: Path) -> None:
    explorer = explore(trace)
    shown = explorer._repr_html_()
    assert explorer._mime_() == ("text/html", shown)
    (tmp_path / "notebook.html").write_text(f"<!doctype html><meta charset='utf-8'>{shown}", "utf-8")
    page = browser.new_page()
    complaints = complaints_of(page)
    page.goto((tmp_path / "notebook.html").as_uri())
    frame = page.frame_locator("iframe")
    frame.locator("body[data-loaded]").wait_for(state="attached")
    frame.locator("#tab-heads").click()
    expect(frame.locator("#panel-heads")).to_be_visible(timeout=60_000)
    assert complaints == []
    page.close()


def test_zoom_is_shared_by_key_address_and_wheel(browser: Any, path: Path, trace: Trace) -> None:
    rows = len(WORDS) - 1
    opened = Opened(browser, path, "tab=heads&layer=2&head=1&step=20&zoom=15.25.5.25")
    shown = "explorer.tab.views.map(({view}) => [view.q0, view.q1, view.k0, view.k1].join())"
    assert opened.page.evaluate(shown) == ["15,25,5,25"] * 3
    opened.press("1")
    tip = opened.point_at("#panel-replay .cells", 3, 6, 10, 20)
    assert (tip["query"], tip["key"]) == ("18", "11")
    assert float(tip["weight"]) == pytest.approx(float(trace.attention(2, 1)[18, 11]), rel=6e-5)
    opened.press("End")
    first, past, *_ = (int(part) for part in opened.address()["zoom"].split("."))
    assert first <= rows - 1 < past
    opened.press("0")
    assert "zoom" not in opened.address()
    opened.press("3")
    box = opened.page.locator("#panel-model .matrix .cells").bounding_box()
    opened.page.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + box["height"] * 0.75)
    opened.page.keyboard.down("Control")
    opened.page.mouse.wheel(0, -100)
    opened.page.keyboard.up("Control")
    first, past, left, right = (int(part) for part in opened.address()["zoom"].split("."))
    assert first <= rows * 0.75 < past
    assert left <= rows * 0.25 < right
    assert (past - first, right - left) == (round(rows / 1.25), round(rows / 1.25))
    opened.close()
