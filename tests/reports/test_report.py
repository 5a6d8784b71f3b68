"""The report of a small study: its numbers, its links, and what a reader sees when one is followed."""

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from gentrace.analysis import attention_entropy, mean_interval
from gentrace.cli import main
from gentrace.reports import Report, report
from gentrace.reports.choosing import distances
from gentrace.studies import Study, open_study
from gentrace.views.study_tables import number
from tests.studies.made import made_spec, run

HOSTILE = "<img src=x onerror=window.pwned=1>"
WORDS = ("cat", "dog", "bird", "tree", "boy", HOSTILE)
OPTIONS: dict[str, Any] = {
    "prompts": {
        "rows": [{"word": word, "size": "short" if len(word) < 4 else "long"} for word in WORDS],
        "template": "Once there was a {word}.",
        "factors": ["size"],
    },
    "measures": ["attention_entropy", "induction_score", "token_surprise", "tests.reports.measured:letters"],
    "name": "cats & dogs",
}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    out = tmp_path_factory.mktemp("report") / "study"
    run(made_spec(keep={"traces": True}, **OPTIONS), out)
    return open_study(out)


@pytest.fixture(scope="module")
def made(study: Study) -> Report:
    return report(study, finding=f"Heads differ.\n{HOSTILE}", replays=4)


class Links(HTMLParser):
    """The cells of one section's table, each with its text and the replay that it leads to."""

    def __init__(self, section: str) -> None:
        super().__init__()
        self.section, self.inside, self.depth = section, False, 0
        self.rows: list[list[tuple[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = dict(attrs)
        if tag == "section":
            self.inside = known.get("id") == self.section
        if self.inside and tag == "tr":
            self.rows.append([])
        if self.inside and tag in ("td", "th"):
            self.rows[-1].append(("", None))
        if self.inside and tag == "a" and self.rows and self.rows[-1]:
            self.rows[-1][-1] = (self.rows[-1][-1][0], known["href"])

    def handle_endtag(self, tag: str) -> None:
        self.inside = self.inside and tag != "section"

    def handle_data(self, data: str) -> None:
        if self.inside and self.rows and self.rows[-1]:
            text, link = self.rows[-1][-1]
            self.rows[-1][-1] = (text + data, link)


def table(page: str, section: str) -> list[list[tuple[str, str | None]]]:
    links = Links(section)
    links.feed(page)
    return links.rows


def place(link: str | None) -> tuple[int, int, int, int]:
    found = re.fullmatch(r"#replay=(\d+)\.(\d+)\.(\d+)\.(\d+)", link or "")
    assert found, link
    return tuple(map(int, found.groups()))  # pyright: ignore[reportReturnType]


def test_every_head_is_there_with_its_mean_its_interval_and_its_replay(study: Study, made: Report) -> None:
    head, *rows = table(made.html, "heads")
    assert [text for text, _ in head] == ["head", "attention_entropy (nats)", "induction_score (share)"]
    assert len(rows) == 16
    frame = study.heads()
    for name, (text, link), _ in rows:
        layer, number_of = map(int, name[0].split("."))
        own = frame[(frame["layer"] == layer) & (frame["head"] == number_of)]
        values = own.groupby("prompt_id", observed=True)["attention_entropy"].mean()
        found = mean_interval(values[sorted(values.index)])
        assert text == f"{number(found.value)} {number(found.low)} … {number(found.high)}"
        trace, *there, step = place(link)
        assert there == [layer, number_of]
        # Of what can be replayed, it leads to the largest mean, and there to the largest row.
        carried = study.generations().loc[list(made.replays), "generation"].tolist()
        largest = own[own["generation"].isin(carried)].sort_values("attention_entropy").iloc[-1]
        assert carried[trace] == largest["generation"]
        rows_of = attention_entropy(study.trace(made.replays[trace]), layers=[layer]).values[0, number_of]
        assert step == 1 + int(np.nanargmax(rows_of[1:]))


def test_the_most_and_the_least_typical_generations_are_carried(study: Study, made: Report) -> None:
    apart = distances(study, "story")
    names = study.generations()["generation"]
    order = sorted(names, key=lambda name: apart[name])
    assert {names[number] for number in made.replays} == {*order[:2], *order[-2:]}
    assert apart[names[made.replays[0]]] < apart[names[made.replays[-1]]]


def test_distances_by_hand(study: Study) -> None:
    apart = distances(study, "story")
    frame = study.heads().pivot_table("attention_entropy", "generation", ["layer", "head"], observed=True)
    induction = study.heads().pivot_table("induction_score", "generation", ["layer", "head"], observed=True)
    tokens = study.tokens(generated=True).assign(surprise=lambda one: one["token_surprise"].astype(float))
    means = tokens.groupby("generation", observed=True)[["surprise", "logprob", "entropy"]].mean()
    letters = study.generations().set_index("generation")["letters"]
    parts = []
    for columns in (frame, induction, means[["surprise"]], letters.to_frame(), means[["logprob"]], means[["entropy"]]):
        z = (columns - columns.mean()) / columns.std(ddof=0)
        parts.append((z.loc[:, columns.std(ddof=0) > 1e-12] ** 2).mean(axis=1))
    for name, distance in apart.items():
        expected = np.sqrt(np.nanmean([part.get(name, np.nan) for part in parts]))
        assert distance == pytest.approx(expected, rel=1e-6)


def test_generations_that_are_not_carried_say_how_to_open_their_traces(study: Study, made: Report) -> None:
    head, *rows = table(made.html, "generations")
    assert len(rows) == 12
    replay, completion = ([text for text, _ in head].index(name) for name in ("replay", "prompt and continuation"))
    for row in rows:
        generation = int(row[0][0])
        written = study.generations().loc[generation, "completion"]
        assert str(written).strip()[:20] in row[completion][0]
        if generation in made.replays:
            assert {place(link)[0] for _, link in row[:-1]} == {made.replays.index(generation)}
        else:
            assert row[replay][0] == f"gentrace view {study.trace_path(generation).relative_to(study.folder.root)}"


def test_what_was_run_stands_there(study: Study, made: Report) -> None:
    for text in ("12 of 12 finished", "greedy; sample", "weights", "cats &amp; dogs", "Heads differ."):
        assert text in made.html
    assert "Wilcoxon signed-rank test over pairs; 6 pairs, one a prompt" in made.html
    assert str(study.folder.root) not in made.html
    assert HOSTILE not in made.html


def test_a_small_budget_carries_fewer(study: Study, made: Report) -> None:
    lengths = [study.trace(number).length for number in made.replays]
    cells = sum(16 * length * (length + 1) // 2 for length in lengths)
    few = report(study, replays=4, max_bytes=cells - 1, most_plots=1)
    assert len(few.replays) == 3
    assert "more plots would not fit" in few.html
    none = report(study, replays=0, most_rows=3, most_plots=0)
    assert "#replay=" not in none.html.split("<script")[0]
    assert "3 of 12 generations; 9 more are in the folder" in none.html


def test_failures_and_missing_traces_are_said(tmp_path: Path, made: Report) -> None:
    out = tmp_path / "study"
    run(made_spec(measures=["tests.reports.measured:no_cats", "token_surprise"], max_failures=1.0), out)
    command = ["study", "report", str(out), "--out", str(tmp_path / "page.html")]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.output
    page = (tmp_path / "page.html").read_text("utf-8")
    assert "No traces were kept: run the study with keep.traces = true" in page
    _, *rows = table(page, "failures")
    assert rows[0][0][0] == "Once there was a cat."
    assert "no cats please" in rows[0][5][0]
    assert 'id="failures"' not in made.html
    wrong = CliRunner().invoke(main, [*command, "--contrast", "size=3"])
    assert (wrong.exit_code, "write FACTOR=FIRST,SECOND" in wrong.output) == (2, True)
    lost = CliRunner().invoke(main, ["study", "report", str(tmp_path / "nothing")])
    assert (lost.exit_code, "Error: " in lost.output) == (1, True)


class Opened:
    """A report in the browser, with everything it complained about and asked the network for."""

    def __init__(self, browser: Any, path: Path, address: str = "", **options: Any) -> None:
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}} | options)
        self.context.set_default_timeout(60_000)
        self.context.set_offline(True)
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url.split("#")[0]))
        self.page.goto(path.as_uri() + address)

    def replay(self, *expected: int) -> dict[str, Any]:
        """What the replay shows, once the report says that it has opened it."""
        self.page.wait_for_selector(f"#replay[data-shown='{'.'.join(map(str, expected))}']")
        frame = self.page.frames[1]
        frame.wait_for_selector("body[data-loaded]", state="attached")
        return frame.evaluate("({ ...explorer.v, row: document.getElementById('row').textContent })")


@pytest.fixture(scope="module")
def path(made: Report, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made.write_html(tmp_path_factory.mktemp("page") / "report.html")


@pytest.fixture
def opened(browser: Any, path: Path) -> Iterator[Opened]:
    one = Opened(browser, path)
    yield one
    one.context.close()
    assert one.complaints == []
    # A worker's script is a blob that the page made itself.
    assert {url for url in one.requests if not url.startswith("blob:null/")} == {path.as_uri()}


@pytest.mark.browser
def test_a_number_leads_to_the_replay_of_its_layer_head_and_step(opened: Opened, made: Report) -> None:
    _, *rows = table(made.html, "heads")
    for row, column in ((9, 1), (6, 2)):
        expected = place(rows[row][column][1])
        opened.page.locator("#heads tbody tr").nth(row).locator("th, td").nth(column).locator("a").click()
        state = opened.replay(*expected)
        assert (state["tab"], state["trace"], state["layer"], state["head"], state["step"]) == ("replay", *expected)
        assert int(state["row"]) == expected[3]
        opened.page.locator("#close").click()
        opened.page.wait_for_selector("#replay", state="hidden")
    assert opened.page.evaluate("window.pwned") is None
    assert opened.page.locator("main img").count() == 0


@pytest.mark.browser
def test_a_cell_of_a_map_of_heads_leads_there_too_in_both_themes(opened: Opened, made: Report) -> None:
    plots = json.loads(re.search(r'id="payload">(.*?)</script>', made.html).group(1))["plots"]  # type: ignore[union-attr]
    number_of = next(at for at, one in enumerate(plots) if one["kind"] == "map")
    opened.page.locator(f"#plot-{number_of}").scroll_into_view_if_needed()
    opened.page.wait_for_selector(f"[data-plot='{number_of}'][data-drawn=light]")
    opened.page.locator("#theme").click()
    opened.page.wait_for_selector(f"[data-plot='{number_of}'][data-drawn=dark]")
    cells = opened.page.locator(f"#plot-{number_of} .nsewdrag").first
    box = cells.bounding_box()
    # Layer 2, head 1 of four by four.
    there = {"x": box["width"] * 1.5 / 4, "y": box["height"] * 2.5 / 4}
    cells.hover(position=there, force=True)
    opened.page.locator(f"#plot-{number_of} .hovertext").wait_for(state="attached")
    assert "layer 2 · head 1" in opened.page.locator(f"#plot-{number_of} .hovertext").text_content()
    cells.click(position=there, force=True)
    expected = tuple(map(int, plots[number_of]["links"]["2.1"].split(".")))
    state = opened.replay(*expected)
    assert (state["layer"], state["head"], state["theme"]) == (2, 1, "dark")


@pytest.mark.browser
def test_it_opens_at_an_address_fits_a_phone_and_sorts(browser: Any, path: Path, made: Report) -> None:
    _, *rows = table(made.html, "heads")
    address = rows[3][1][1] or ""
    opened = Opened(browser, path, address, viewport={"width": 390, "height": 844}, color_scheme="dark")
    assert opened.replay(*place(address))["theme"] == "dark"
    opened.page.locator("#close").click()
    opened.page.wait_for_selector("#replay", state="hidden")
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= 390
    opened.page.locator("#heads thead th").nth(1).click()
    shown = opened.page.locator("#heads tbody tr td:nth-child(2) a").all_text_contents()
    values = [float(text.replace("−", "-")) for text in shown]
    assert values == sorted(values, reverse=True)
    opened.context.close()
    assert opened.complaints == []
