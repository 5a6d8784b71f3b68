"""The exported page in Debian's chromium: what it shows is what the trace holds, and token text stays text."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gentrace.trace.trace import Trace
from gentrace.views import replay_page
from gentrace.views.labels import label, running
from tests.views.made import HOSTILE, random_trace

PROMPT = 6
WORDS = [*HOSTILE, *(f" word{place}" for place in range(19))]

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def trace() -> Trace:
    return random_trace(len(WORDS), PROMPT, heads=3, texts=WORDS, layers=(0, 2), unseen=1)


@pytest.fixture(scope="module")
def path(trace: Trace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    written = tmp_path_factory.mktemp("page") / "replay.html"
    written.write_text(replay_page(trace, layers=[2, 0]), "utf-8")
    return written


class Opened:
    """A page, with everything it complained about and asked the network for."""

    def __init__(self, browser: Any, path: Path, **options: Any) -> None:
        self.context = browser.new_context(**{"viewport": {"width": 1440, "height": 900}} | options)
        self.context.set_offline(True)
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())
        self.page.wait_for_selector("#bars .main-svg", state="attached")

    def text(self, selector: str) -> str:
        return self.page.locator(selector).text_content()

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def row(self) -> int:
        return int(self.text("#row"))

    def point_at(self, row: int, key: int) -> dict[str, str]:
        """Move the pointer over a cell of the matrix and read the tooltip."""
        self.page.locator("#matrix-title").hover()
        box = self.page.locator("#cells").bounding_box()
        size = len(WORDS) - 1
        self.page.mouse.move(
            box["x"] + (key + 0.5) * box["width"] / size, box["y"] + (row + 0.5) * box["height"] / size
        )
        parts = self.page.locator("#tip > *").all_text_contents()
        names = parts[0::3], parts[1::3], parts[2::3]
        tip = dict(zip(names[0], names[1], strict=True))
        return tip | {f"{name} token": text for name, text in zip(names[0], names[2], strict=True)}


@pytest.fixture
def opened(browser: Any, path: Path) -> Iterator[Opened]:
    page = Opened(browser, path)
    yield page
    page.context.close()
    assert page.complaints == []
    assert page.requests == [path.as_uri()]


def check(tip: dict[str, str], weight: float, score: float) -> None:
    """Whether a tooltip's numbers are right to the digits it shows, which are at least two."""
    assert math.isclose(float(tip["weight"]), weight, rel_tol=0.05), (tip, weight)
    assert abs(float(tip["score"].replace("−", "-")) - score) < (0.01 if weight > 1e-6 else 0.07), (tip, score)


def test_it_opens_on_the_last_prompt_token_and_steps_with_keys(opened: Opened) -> None:
    assert opened.row() == PROMPT - 1
    opened.press("ArrowRight", "ArrowRight", "ArrowLeft")
    assert opened.row() == PROMPT
    opened.press("End")
    assert opened.row() == len(WORDS) - 2
    opened.press("ArrowRight")
    assert opened.row() == len(WORDS) - 2
    opened.press("Home")
    assert opened.row() == 0
    assert opened.page.locator("#back").is_disabled()


def test_space_plays_and_pauses(opened: Opened) -> None:
    opened.page.select_option("#speed", "30")
    opened.page.locator("#speed").blur()
    opened.press("Space")
    opened.page.wait_for_timeout(700)
    assert opened.row() > PROMPT + 2
    assert opened.page.locator("#play").get_attribute("aria-label") == "Pause"
    opened.press("Space")
    stopped = opened.row()
    opened.page.wait_for_timeout(200)
    assert opened.row() == stopped
    assert opened.page.locator("#play").get_attribute("aria-label") == "Play"


@pytest.mark.parametrize(("presses", "head"), [(1, 0), (3, 2)])
def test_the_tooltip_reads_what_the_trace_holds(opened: Opened, trace: Trace, presses: int, head: int) -> None:
    opened.press("End", *["]"] * presses)
    assert opened.text("#matrix-name") == f"Layer 2, head {head}"
    weights, scores = trace.attention(2, head), trace.scores(2, head)
    for row, key in ((38, 0), (38, 38), (20, 7), (12, 12), (5, 3)):
        tip = opened.point_at(row, key)
        assert (tip["query"], tip["key"]) == (str(row), str(key))
        assert (tip["query token"], tip["key token"]) == (label(WORDS[row]), label(WORDS[key]))
        check(tip, float(weights[row, key]), float(scores[row, key]))


def test_the_mean_and_the_other_layer(opened: Opened, trace: Trace) -> None:
    opened.press("End")
    tip = opened.point_at(30, 11)
    check(tip, float(trace.attention(2).mean(0)[30, 11]), float(trace.scores(2).mean(0)[30, 11]))
    opened.page.select_option("#layer", "0")
    tip = opened.point_at(30, 11)
    check(tip, float(trace.attention(0).mean(0)[30, 11]), float(trace.scores(0).mean(0)[30, 11]))


def test_a_cell_under_the_curtain_shows_nothing(opened: Opened) -> None:
    assert opened.point_at(30, 11) == {}
    curtain, cells = (opened.page.locator(name).bounding_box() for name in ("#curtain", "#cells"))
    assert curtain["y"] - cells["y"] == pytest.approx(PROMPT * cells["height"] / (len(WORDS) - 1), abs=0.6)


def test_a_row_never_seen_says_so(opened: Opened) -> None:
    assert opened.point_at(0, 0)["weight"] == "never seen"
    assert "never seen" in opened.text("#scale-note")


def test_bars_and_numbers_are_those_of_the_next_token(opened: Opened, trace: Trace) -> None:
    opened.page.evaluate("replay.controls.go(24)")
    assert opened.text("#chosen") == label(WORDS[25])
    assert "50.0 % by the model · 66.7 % as sampled from · its first choice" in opened.text("#chosen-numbers")
    names = opened.page.locator("#bars > bdi").all_text_contents()
    assert names == [label(WORDS[25]), "other1", "other2"]
    numbers = opened.page.locator("#bars > span:not(.head)").all_text_contents()
    assert numbers == ["50.0 %", "66.7 %", "25.0 %", "33.3 %", "12.5 %", "excluded"]
    opened.page.wait_for_timeout(100)
    lengths = opened.page.evaluate(
        "Array.from(document.querySelector('#bars .plot').data, (trace) => Array.from(trace.x))"
    )
    assert lengths == [
        [0, 0.25, 0.125],
        [0.5, 0, 0],
        [pytest.approx(2 / 3, rel=1e-4), pytest.approx(1 / 3, rel=1e-4), 0],
    ]
    widths = opened.page.evaluate(
        "Array.from(document.querySelectorAll('#bars .trace:nth-child(1) path'), (path) => path.getBBox().width)"
    )
    assert widths[1] / widths[2] == pytest.approx(2, rel=0.03)


def test_hostile_tokens_are_text_and_nothing_executes(opened: Opened) -> None:
    opened.press("End")
    shown = opened.page.locator("#text > span:not([hidden])").all_text_contents()
    assert shown == [running(word) for word in WORDS]
    assert opened.page.evaluate("window.pwned") is None
    assert opened.page.locator("main img, main b, main script, main s").count() == 0
    assert opened.page.locator("header b").count() == 1
    assert opened.text("#model") == "made <by> hand"


def test_a_hostile_page_would_be_noticed(browser: Any, tmp_path: Path) -> None:
    """The same browser, without the page's care, does execute such a token."""
    careless = tmp_path / "careless.html"
    careless.write_text("<!doctype html><img src=x onerror=window.pwned=1>", "utf-8")
    page = browser.new_page()
    page.goto(careless.as_uri())
    page.wait_for_timeout(200)
    assert page.evaluate("window.pwned") == 1
    page.close()


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


def test_the_text_so_far_ends_with_the_token_to_come(opened: Opened) -> None:
    shown = opened.page.locator("#text > span:not([hidden])").count()
    assert shown == PROMPT + 1
    assert opened.text("#text .query") == running(WORDS[PROMPT - 1])
    assert opened.text("#text .next") == running(WORDS[PROMPT])


def test_the_strongest_word_is_painted_the_strongest(opened: Opened, trace: Trace) -> None:
    opened.press("End", "]")
    opened.page.locator("#sink input[value=keep]").check(force=True)
    row = trace.attention(2, 0)[-1]
    levels = opened.page.evaluate(
        f"Array.from({{length: {len(row)}}}, (_, key) => replay.scale.level(replay.values[key], key))"
    )
    high = opened.page.evaluate("replay.scale.high")
    expected = [min(255, round(float(weight) / high * 255)) for weight in row]
    assert all(abs(level - true) <= 1 for level, true in zip(levels, expected, strict=True))
    painted = opened.page.evaluate(
        "key => Array.from(replay.matrix.canvas.getContext('2d').getImageData(key, replay.controls.row, 1, 1).data)",
        int(row.argmax()),
    )
    assert painted == [*opened.page.evaluate(f"replay.palette.rgb[{levels[int(row.argmax())]}]"), 255]


def test_switching_to_scores_changes_the_scale_and_says_so(opened: Opened, trace: Trace) -> None:
    assert "weights, linear; first token set aside" in opened.text("#scale-note")
    opened.page.locator("#what input[value=scores]").check(force=True)
    assert "scores before softmax" in opened.text("#scale-note")
    assert opened.page.locator("#sink input[value=log]").is_disabled()
    opened.page.locator("#what input[value=weights]").check(force=True)
    opened.page.locator("#sink input[value=log]").check(force=True)
    assert "logarithmic" in opened.text("#scale-note")
    assert (opened.text("#low"), opened.text("#high")) == ("≤ 1.0e-4", "1.00")


def test_everything_is_reached_with_the_keyboard_and_has_a_name(opened: Opened) -> None:
    reached = set()
    for _ in range(30):
        opened.press("Tab")
        reached.add(
            opened.page.evaluate(
                "document.activeElement.id || document.activeElement.name || document.activeElement.parentElement.id"
            )
        )
    assert {"theme", "text", "layer", "what", "sink", "heads", "play", "slider", "speed", "back", "forward"} <= reached
    nameless = opened.page.evaluate(
        "[...document.querySelectorAll('button')].filter((b) => !b.getAttribute('aria-label')).map((b) => b.id)"
    )
    assert nameless == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_follows_the_colour_scheme_and_the_toggle(browser: Any, path: Path, scheme: str) -> None:
    opened = Opened(browser, path, color_scheme=scheme)
    paper = "getComputedStyle(document.documentElement).backgroundColor"
    light = sum(map(int, opened.page.evaluate(paper).removeprefix("rgb(").removesuffix(")").split(","))) > 380
    assert light == (scheme == "light")
    before = opened.page.evaluate(paper)
    opened.page.locator("#theme").click()
    assert opened.page.evaluate(paper) != before
    opened.context.close()
    assert opened.complaints == []


def test_it_fits_a_phone(browser: Any, path: Path) -> None:
    opened = Opened(browser, path, viewport={"width": 390, "height": 844})
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= 390
    boxes = [opened.page.locator(name).bounding_box() for name in ("#text", "#bars", "#cells", "#slider", "#play")]
    assert all(box["x"] >= 0 and box["x"] + box["width"] <= 390 for box in boxes)
    opened.context.close()
    assert opened.complaints == []
