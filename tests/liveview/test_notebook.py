"""The picture in a notebook, through IPython's own display machinery, and in a browser."""

import html
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import IPython
import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

import gentrace
from gentrace.liveview.frame import Frame, Text
from gentrace.liveview.live import _open, in_notebook
from gentrace.liveview.notebook import MOST_TOKENS, MarimoCell, Notebook, page
from gentrace.liveview.terminal import Lines
from tests.capture.test_spill import Words
from tests.models import prompt, tiny

HOSTILE = (
    "<script>window.hacked=1</script>",
    " <b>bold</b>",
    "&amp;",
    '"><img src=x onerror=hacked()>',
    "\n",
    "日本",
    "",
)


def made(pieces: tuple[str, ...] = HOSTILE, **changes: Any) -> Frame:
    weights = tuple(0.05 * place for place in range(len(pieces)))
    fields = {
        "title": "layer <5>",
        "text": Text(pieces, weights),
        "source": Text(pieces, weights),
        "position": len(pieces) - 1,
        "prompt_length": 2,
        "probability": 0.25,
        "next": tuple((piece, 0.1) for piece in pieces[:5]),
        "rate": 12.5,
        "finished": False,
    }
    return Frame(**fields | changes)


class Notebooks:
    """A notebook's shell, as far as it tells that it is one."""

    kernel = object()


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[dict[str, Any]]]:
    """What IPython sends to the notebook."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    settings = Config()
    settings.HistoryManager.enabled = False
    shell = InteractiveShell.instance(config=settings, user_module=ModuleType("cell"))
    messages: list[dict[str, Any]] = []
    monkeypatch.setattr(shell.display_pub, "publish", lambda **message: messages.append(message))
    yield messages
    InteractiveShell.clear_instance()


def test_one_output_is_replaced(published: list[dict[str, Any]]) -> None:
    model = tiny("llama")
    with gentrace.record(model, Words()) as recorder, gentrace.live(recorder, where="notebook", every=0):
        model.generate(prompt(5), max_new_tokens=6, min_new_tokens=6, do_sample=False)
        model.generate(prompt(4), max_new_tokens=2, min_new_tokens=2, do_sample=False)
    outputs = [message["transient"]["display_id"] for message in published]
    assert outputs == [outputs[0]] * 7 + [outputs[-1]] * 3
    assert outputs[0] != outputs[-1]
    assert [message.get("update", False) for message in published] == [False, *[True] * 6, False, True, True]
    last = published[6]["data"]["text/html"]
    shown = re.sub(r"<[^>]+>", "", last.split("</header>")[1].split("</p>")[0])
    assert shown == html.escape(recorder.traces[0].tokens.text)


class Marimo:
    """As much of marimo as draws."""

    def __init__(self) -> None:
        self.output = self
        self.Html = str
        self.shown: list[str] = []

    def running_in_notebook(self) -> bool:
        return True

    def replace(self, shown: str) -> None:
        self.shown.append(shown)


def test_in_marimo_one_output_holds_all(monkeypatch: pytest.MonkeyPatch) -> None:
    marimo = Marimo()
    monkeypatch.setitem(sys.modules, "marimo", marimo)
    model = tiny("llama")
    with gentrace.record(model, Words()) as recorder, gentrace.live(recorder, every=0):
        model.generate(prompt(5), max_new_tokens=6, min_new_tokens=6, do_sample=False)
        model.generate(prompt(4), max_new_tokens=2, min_new_tokens=2, do_sample=False)
    assert [shown.count("</header>") for shown in marimo.shown] == [1] * 7 + [2] * 3
    texts = [re.sub(r"<[^>]+>", "", part.split("</p>")[0]) for part in marimo.shown[-1].split("</header>")[1:]]
    assert texts == [html.escape(trace.tokens.text) for trace in recorder.traces]
    MarimoCell().say("<script>")
    assert marimo.shown[-1] == "<div>&lt;script&gt;</div>"


def test_a_message_is_escaped(published: list[dict[str, Any]]) -> None:
    Notebook().say("<script>")
    assert published[0]["data"]["text/html"] == "<div>&lt;script&gt;</div>"


def test_where_it_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not in_notebook()
    assert isinstance(_open(None, None), Lines)
    monkeypatch.setattr(IPython, "get_ipython", Notebooks)
    assert in_notebook()
    assert isinstance(_open(None, None), Notebook)


def test_long_texts_are_cut() -> None:
    frame = made(tuple(f" {place}" for place in range(5000)), source=None)
    text = page(frame)
    assert text.count("<span ") <= MOST_TOKENS
    assert len(text) < 100_000


@pytest.mark.browser
def test_hostile_text_stays_text(browser: Any, tmp_path: Path) -> None:
    tab = browser.new_page(viewport={"width": 390, "height": 800})
    try:
        path = tmp_path / "output.html"
        path.write_text(f'<!doctype html><meta charset="utf-8"><body class="vscode-dark">{page(made())}', "utf-8")
        tab.goto(path.as_uri())
        assert tab.evaluate("window.hacked") is None
        assert tab.locator(".gentrace-live img, .gentrace-live script").count() == 0
        text = tab.locator(".gentrace-live p:not(.source)").inner_text()
        assert text.startswith("".join(HOSTILE[:4]))
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390
        paper = tab.locator(".gentrace-live").evaluate("node => getComputedStyle(node).backgroundColor")
        assert paper == "rgb(23, 26, 32)"
    finally:
        tab.close()
