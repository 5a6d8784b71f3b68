"""The picture in a terminal, read back from a pseudo-terminal, and the lines where there is none."""

import fcntl
import io
import os
import pty
import re
import struct
import termios
import threading
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import gentrace
from gentrace.demo import load_story_model
from gentrace.liveview.flow import flow
from gentrace.liveview.frame import Frame, Text
from gentrace.liveview.ink import Ink
from gentrace.liveview.terminal import Lines, picture
from gentrace.views.labels import label, width
from tests.liveview.screen import Screen

MAIA = "Maia is a cute little baby who likes to explore her world!"
HOSTILE = (
    "\x1b]0;owned\x07",
    "\x1b[2J\x1b[31m",
    "\u202egnp",
    "\r\n",
    " 日本語",
    "e\u0301",
    "\x9b31m",
    "👩\u200d🚀",
    "\u200b",
    "",
    " <b>",
    "x" * 90,
    "ไทย\u0e34",
    "\ud7ff",
)


@pytest.fixture(scope="module")
def story() -> Any:
    return load_story_model()


class Tty:
    """A pseudo-terminal of some size; what is written to it is collected."""

    def __init__(self, columns: int, rows: int) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.stream = os.fdopen(slave, "w", encoding="utf-8")
        self._columns = columns
        self._seen = b""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                self._seen += os.read(self._master, 65536)
            except OSError:
                return

    def screen(self) -> Screen:
        self.stream.close()
        self._reader.join(60)
        os.close(self._master)
        return Screen(self._columns).feed(self._seen.decode())


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("NO_COLOR", "COLORFGBG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLORTERM", "truecolor")
    return monkeypatch


def write(story: Any, stream: Any, new: int = 30, **options: Any) -> gentrace.Trace:
    model, tokenizer = story
    with gentrace.record(model, tokenizer) as recorder, gentrace.live(recorder, file=stream, **options):
        model.generate(**tokenizer(MAIA, return_tensors="pt"), max_new_tokens=new, min_new_tokens=new, do_sample=False)
    return recorder.trace


def percents(line: str) -> list[float]:
    return [float(number) / 100 for number in re.findall(r"(\d+\.\d)%", line)]


@pytest.mark.parametrize(("columns", "rows"), [(80, 24), (200, 50), (34, 12)])
def test_the_last_picture_is_the_traces_last_row(
    columns: int, rows: int, story: Any, environment: pytest.MonkeyPatch
) -> None:
    tty = Tty(columns, rows)
    trace = write(story, tty.stream, layer=3, head=2, every=0)
    screen = tty.screen()
    assert screen.modes == {"cursor": True, "wrap": True, "together": False}
    assert screen.style == ""
    # One for each step, one in the end, and one that leaves all as it was.
    assert screen.drawings == trace.length - trace.tokens.prompt_length + 1 + 1 + 1
    assert screen.text[-1] == ""
    lines = screen.text[:-1]
    assert len(lines) <= rows
    assert lines[0].startswith("layer 3 · head 2")
    shown = " ".join(lines[1:]).replace("  ", " ")
    assert trace.tokens.text[-20:].strip() in shown
    weights = trace.attention(3, 2)[-1]
    if columns >= 64:
        assert "30 tokens" in lines[0]
        strongest = int(weights.argmax())
        assert any(f"{label(trace.tokens.texts[strongest])} " in line for line in lines[-5:])
        best, top = weights.topk(5).values, trace.tokens.top_logprobs[-1].exp()
        for place, line in enumerate(lines[-5:]):
            assert percents(line) == pytest.approx([float(top[place]), float(best[place])], abs=1e-3)
        painted = {cell.style for cell in screen.cells() if "48;2" in cell.style}
        assert len(painted) > 3


def test_tokens_are_painted_by_their_weight(environment: pytest.MonkeyPatch) -> None:
    weights = (0.7, 0.0, 0.04, 0.16, 0.1)
    frame = Frame("layer 0", Text((" a", " b", " c", " d", " e"), weights), None, 4, 2, 0.5, (), None, False)
    screen = Screen(40).feed("\n".join(picture(frame, Ink("true", dark=False), 40, 6)))
    style = {cell.text: cell.style for cell in screen.cells() if cell.text in "abcde"}
    assert "48;2" not in style["b"]
    # The first takes nearly everything; the strongest of the others is full too.
    ground = {name: codes[codes.index("48;2") :] for name, codes in style.items() if "48;2" in codes}
    assert ground["a"] == ground["d"]
    brightness = {name: sum(map(int, codes.split(";")[2:5])) for name, codes in ground.items()}
    assert brightness["c"] > brightness["e"] > brightness["d"]
    assert style["e"].startswith("1;4")


def test_without_colours(environment: pytest.MonkeyPatch, story: Any) -> None:
    environment.setenv("NO_COLOR", "1")
    tty = Tty(80, 24)
    write(story, tty.stream, new=8, every=0)
    styles = {cell.style for cell in tty.screen().cells()}
    assert not any(code in style for style in styles for code in ("38;", "48;"))
    assert any(style in ("4", "7") for style in styles)


def test_most_steps_are_passed_over_but_not_the_last(environment: pytest.MonkeyPatch, story: Any) -> None:
    tty = Tty(80, 24)
    trace = write(story, tty.stream, every=3600)
    screen = tty.screen()
    assert screen.drawings == 1 + 1 + 1
    assert trace.tokens.text[-20:].strip() in " ".join(screen.text)


@pytest.mark.parametrize("term", ["dumb", None])
def test_lines_where_nothing_can_be_redrawn(term: str | None, environment: pytest.MonkeyPatch, story: Any) -> None:
    if term is not None:
        environment.setenv("TERM", term)
    stream = io.StringIO()
    if term is None:
        trace = write(story, stream, layer=1)
    else:
        tty = Tty(400, 24)
        trace = write(story, tty.stream, layer=1)
        stream.write("\n".join(tty.screen().text))
    header, *lines = [line for line in stream.getvalue().splitlines() if line]
    assert header.startswith("# layer 1 · mean of")
    weights = trace.attention(1).mean(0)
    assert len(lines) == len(trace.tokens) - trace.tokens.prompt_length + 1
    for line, position in zip(lines, range(trace.tokens.prompt_length - 1, len(trace.tokens)), strict=True):
        assert line.startswith(f"{position:5}  {label(trace.tokens.texts[position])}")
        if position >= trace.tokens.prompt_length:
            assert percents(line)[0] == pytest.approx(float(trace.tokens.logprobs[position].exp()), abs=1e-3)
        if position < trace.length:
            best = weights[position].topk(2)
            for value, key in zip(best.values.tolist(), best.indices.tolist(), strict=True):
                told = re.search(re.escape(label(trace.tokens.texts[key])) + r" (0\.\d{4})", line)
                assert told is not None
                assert float(told[1]) == pytest.approx(value, abs=1e-4)
    assert lines[-1].endswith("never looks back")


def test_hostile_text_says_nothing_to_the_terminal() -> None:
    weights = tuple(torch.linspace(0, 1, len(HOSTILE)).tolist())
    for source in (None, Text(HOSTILE, weights)):
        frame = Frame(
            "x", Text(HOSTILE, weights), source, 3, 1, 0.5, tuple((one, 0.1) for one in HOSTILE[:5]), 1.0, False
        )
        for columns in (7, 20, 63, 64, 118, 300):
            for rows in (1, 2, 6, 8, 24):
                lines = picture(frame, Ink("256", dark=True), columns, rows)
                assert 1 <= len(lines) <= rows
                Screen(columns).feed("\n".join(lines))
        stream = io.StringIO()
        Lines(stream).draw(frame)
        Lines(stream).say("an error\x1b[2J\nwith two lines")
        Screen(100_000).feed(stream.getvalue())
        assert len(stream.getvalue().splitlines()) == 3


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(max_size=9), max_size=30), st.integers(2, 40), st.integers(1, 6))
def test_flowing_text_stays_inside_its_lines(pieces: list[str], columns: int, most: int) -> None:
    lines = flow(pieces, columns, most)
    assert len(lines) <= most
    for line in lines:
        # What joins emoji is counted as part of them.
        assert sum(width(re.sub("[\u200d\ufe0e\ufe0f]", "", text)) for _, text in line) <= columns
        assert [token for token, _ in line] == sorted(token for token, _ in line)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text("ab ,é中", max_size=9), max_size=30), st.integers(2, 40))
def test_flowing_text_is_all_there(pieces: list[str], columns: int) -> None:
    lines = flow(pieces, columns, 10_000)
    for place, piece in enumerate(pieces):
        told = "".join(text for line in lines for token, text in line if token == place)
        assert told.replace(" ", "") == piece.replace(" ", "")


def test_of_a_long_text_the_end_is_shown() -> None:
    lines = flow([" word"] * 20 + [" end"], 12, 2)
    assert ["".join(text for _, text in line) for line in lines] == ["…word word", "word end"]
    assert flow([" word", " end"], 12, 2) == [[(0, " word"), (1, " end")]]


def test_a_stream_that_closes_does_not_stop_the_model(story: Any, tmp_path: Any) -> None:
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    assert write(story, Closed(), new=5).length == len(story[1](MAIA)["input_ids"]) + 4


def test_an_encoding_without_the_signs(story: Any) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    write(story, stream, new=3)
    assert raw.getvalue().decode("ascii").startswith("# layer 3 ? mean")
    assert Ink.of(stream, {}).full == "#"
    assert Ink.of(stream, {"TERM": "xterm-256color"}).depth == "256"
    assert not Ink.of(stream, {"COLORFGBG": "0;15"}).dark
