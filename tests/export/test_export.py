"""Pictures read back by a browser that did not draw them: their pixels and their text are the trace's."""

import base64
import http.server
import re
import sys
import threading
import zlib
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import plotly.graph_objects as go
import pytest

from gentrace import export
from gentrace.trace.decoding import Beams, BeamStep, Draft
from gentrace.trace.trace import Trace
from gentrace.views import attention_map, replay
from gentrace.views.labels import label
from tests.views.made import HOSTILE, WORSE, random_trace
from tests.views.made_kinds import translator

pytestmark = pytest.mark.browser
STAYS, LAST = 120, 700
SHOWN = (*HOSTILE, *WORSE[-25:])
"""As many as have room on an axis."""
READ = """
async (url) => {
    const image = new Image();
    image.src = url;
    await image.decode();
    const canvas = new OffscreenCanvas(image.width, image.height), pen = canvas.getContext("2d");
    pen.drawImage(image, 0, 0);
    const data = pen.getImageData(0, 0, image.width, image.height).data;
    return [image.width, image.height, btoa(Array.from(data, (byte) => String.fromCharCode(byte)).join(""))];
}
"""
READ_GIF = """
async (url) => {
    const blob = await (await fetch(url)).blob();
    const decoder = new ImageDecoder({data: blob.stream(), type: "image/gif"});
    await decoder.completed;
    const track = decoder.tracks.selectedTrack, found = [];
    for (let frameIndex = 0; frameIndex < track.frameCount; frameIndex++) {
        const {image} = await decoder.decode({frameIndex});
        const canvas = new OffscreenCanvas(image.displayWidth, image.displayHeight), pen = canvas.getContext("2d");
        pen.drawImage(image, 0, 0);
        const data = pen.getImageData(0, 0, canvas.width, canvas.height).data;
        const bytes = btoa(Array.from(data, (byte) => String.fromCharCode(byte)).join(""));
        found.push([image.duration / 1000, [canvas.width, canvas.height, bytes]]);
    }
    return [track.repetitionCount === Infinity, found];
}
"""
PLACES = """
(cells) => {
    const plot = document.querySelector(".plotly-graph-div"), full = plot._fullLayout;
    return cells.map(([query, key]) => [full.xaxis, full.yaxis].map(
        (axis, down) => axis._offset + axis.l2p(down ? query : key)));
}
"""


@pytest.fixture(scope="module")
def page(browser: Any) -> Iterator[Any]:
    opened = browser.new_page()
    # Decoding is only given to pages that are trusted, such as this machine's files.
    opened.goto("file:///")
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def hostile() -> Trace:
    return random_trace(len(SHOWN), len(SHOWN) - 4, texts=SHOWN)


@pytest.fixture(scope="module")
def stills(hostile: Trace, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("stills")
    names = [folder / f"map.{form}" for form in ("png", "svg", "pdf")]
    export.picture(attention_map(hostile, 0, 1), *names, width=900, height=800)
    return {path.suffix: path for path in names}


def url(path: Path, form: str) -> str:
    return f"data:image/{form};base64,{base64.b64encode(path.read_bytes()).decode()}"


def array(found: tuple[int, int, str]) -> np.ndarray:
    width, height, data = found
    return np.frombuffer(base64.b64decode(data), np.uint8).reshape(height, width, 4)[..., :3].astype(int)


def colours(figure: go.Figure, values: np.ndarray) -> np.ndarray:
    """What a figure's colour scale makes of values."""
    axis = figure.layout.coloraxis
    places = [stop for stop, _ in axis.colorscale]
    stops = np.array([[int(colour[at : at + 2], 16) for at in (1, 3, 5)] for _, colour in axis.colorscale])
    shares = np.clip((values - axis.cmin) / (axis.cmax - axis.cmin), 0, 1)
    return np.stack([np.interp(shares, places, stops[:, channel]) for channel in range(3)], -1)


def test_the_pixels_of_a_heat_map_are_the_weights(
    stills: dict[str, Path], hostile: Trace, page: Any, browser: Any, tmp_path: Path
) -> None:
    figure, weights = attention_map(hostile, 0, 1), hostile.attention(0, 1).numpy()
    pixels = array(page.evaluate(READ, url(stills[".png"], "png")))
    assert pixels.shape == (1600, 1800, 3)
    shown = tmp_path / "figure.html"
    figure.update_layout(width=900, height=800).write_html(shown, include_plotlyjs=True)
    other = browser.new_page(viewport={"width": 900, "height": 800})
    other.goto(shown.as_uri())
    other.wait_for_selector(".main-svg")
    cells = [(query, key) for query in range(hostile.length) for key in range(1, query + 1)]
    places = np.array(other.evaluate(PLACES, cells))
    other.close()
    across, down = (2 * places).round().astype(int).T
    expected = colours(figure, np.array([weights[cell] for cell in cells]))
    assert np.abs(pixels[down, across] - expected).max() <= 3
    # Not so if the matrix were turned.
    turned = colours(figure, np.array([weights[query, query - key] for query, key in cells]))
    assert np.abs(pixels[down, across] - turned).max() > 50


def pdf_text(content: bytes) -> str:
    """What a PDF's fonts say its text is: each shown string through each table from glyphs to characters."""
    streams = []
    for start in re.finditer(rb"stream\r?\n", content):
        try:
            streams.append(zlib.decompressobj().decompress(content[start.end() :]))
        except zlib.error:
            continue
    tables = []
    for stream in streams:
        table = {}
        for glyph, text in re.findall(rb"<([0-9A-Fa-f]{4})> <([0-9A-Fa-f]+)>\n", stream):
            table[int(glyph, 16)] = bytes.fromhex(text.decode()).decode("utf-16-be", "replace")
        for first, last, text in re.findall(rb"<([0-9A-Fa-f]{4})> <([0-9A-Fa-f]{4})> <([0-9A-Fa-f]{4})>", stream):
            for glyph in range(int(first, 16), int(last, 16) + 1):
                table[glyph] = chr(int(text, 16) + glyph - int(first, 16))
        if b"begincmap" in stream:
            tables.append(table)
    shown = [one for stream in streams for one in re.findall(rb"<([0-9A-Fa-f]+)> Tj", stream)]
    glyphs = [[int(one[at : at + 4], 16) for at in range(0, len(one), 4)] for one in shown]
    return "\n".join("".join(table.get(glyph, "") for glyph in one) for table in tables for one in glyphs)


def test_the_text_of_an_svg_and_a_pdf_is_the_tokens(stills: dict[str, Path]) -> None:
    source = stills[".svg"].read_text("utf-8")
    drawn = [element for element in ElementTree.fromstring(source).iter() if element.tag.endswith("}text")]
    said = {"".join(element.itertext()) for element in drawn}
    shown = {label(text) for text in SHOWN[:-1] if len(label(text)) <= 11}
    assert shown - said == set()
    assert {"<s>", "&lt;", "</script>"} <= said
    assert not re.search(r"<(script|img|foreignObject)|\son\w+=|href=\"https?:", source)
    text = pdf_text(stills[".pdf"].read_bytes())
    assert {"<s>", "&lt;", "</script>", "$payload"} <= set(text.splitlines())


@pytest.fixture(scope="module")
def moving(hostile: Trace, tmp_path_factory: pytest.TempPathFactory) -> tuple[go.Figure, list[Path], Path]:
    folder = tmp_path_factory.mktemp("moving")
    figure = replay(hostile, heads=1)
    pictures = export.frames(figure, folder / "frames", scale=1)
    made = export.gif(figure, folder / "replay.gif", milliseconds=STAYS, last=LAST)
    return figure, pictures, made


def test_a_gif_has_one_frame_a_step_and_shows_what_the_frames_show(moving: Any, page: Any) -> None:
    figure, pictures, made = moving
    played = figure.layout.updatemenus[0].buttons[0].args[0]
    assert [path.name for path in pictures] == [f"{number:04}.png" for number in range(1, len(played) + 1)]
    for_ever, found = page.evaluate(READ_GIF, url(made, "gif"))
    assert for_ever
    assert [stays for stays, _ in found] == [STAYS] * (len(played) - 1) + [LAST]
    single = [array(page.evaluate(READ, url(path, "png"))) for path in pictures]
    for (_, image), wanted in zip(found, single, strict=True):
        apart = np.abs(array(image) - wanted)
        assert apart.mean() < 0.5
        assert np.quantile(apart, 0.9999) < 24
    moves = [np.abs(one - after).max(-1) > 24 for one, after in pairwise(single)]
    assert all(move.mean() > 0.001 for move in moves)


def test_a_tree_drafts_and_cross_attention_move_too(page: Any, tmp_path: Path) -> None:
    plain = random_trace(9, 6)
    steps = tuple(
        BeamStep(
            position=position, parents=(0, 1, 0), ids=(1, 2, 3), texts=("one", "two", "three"),
            scores=(-0.5, -1.0, -2.0), logprobs=(-0.5, -1.0, -2.0), beams=(0, 1, -1), ended=(False,) * 3, chosen=0,
        )
        for position in (6, 7, 8)
    )  # fmt: skip
    drafts = (Draft(7, 3, " no", -2.0), Draft(8, 4, " way", -3.0, follows=True))
    kinds = {
        "tree": replay(replace(plain, beams=Beams(2, steps)), heads=0),
        "drafts": replay(replace(plain, drafts=drafts), heads=0),
        "cross": replay(translator(), kind="cross"),
    }
    for name, figure in kinds.items():
        played = figure.layout.updatemenus[0].buttons[0].args[0]
        written = export.frames(figure, tmp_path / name, scale=0.5)
        assert len(written) == len(played) == {"tree": 3, "drafts": 3, "cross": 4}[name]
        images = [array(page.evaluate(READ, url(path, "png"))) for path in written]
        assert all((np.abs(one - after).max(-1) > 24).mean() > 0.001 for one, after in pairwise(images))
        # What the kind adds is drawn, and not only its paper: without it the last frame has less ink there.
        without = go.Figure(figure)
        own = {"tree": ("pruned", "alive", "returned"), "drafts": ("drafts", "draft names"), "cross": ("current row",)}
        without.for_each_trace(lambda one, names=own[name]: one.update(visible=one.name not in names))
        (bare,) = export.frames(without, tmp_path / f"{name} without", scale=0.5, names=[figure.frames[-2].name])
        shown = images[list(played).index(figure.frames[-2].name)]
        assert (np.abs(shown - array(page.evaluate(READ, url(bare, "png")))).max(-1) > 24).sum() > 50
        assert len(np.unique(shown.reshape(-1, 3), axis=0)) > 50
    for name in ("tree", "drafts"):
        animated = export.gif(kinds[name], tmp_path / f"{name}.gif", scale=0.5)
        assert len(page.evaluate(READ_GIF, url(animated, "gif"))[1]) == 3


class _Counting(http.server.BaseHTTPRequestHandler):
    asked: list[str] = []  # noqa: RUF012 - what arrived, for one test

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_error(404)

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


def test_a_frame_is_the_figures_own_and_nothing_is_fetched(moving: Any, page: Any, tmp_path: Path) -> None:
    """Here the frame's changes are applied in Python, and the picture asks for an image from a server that counts."""
    figure, pictures, _ = moving
    frame = next(one for one in figure.frames if one.name == str(figure.layout.updatemenus[0].buttons[0].args[0][-1]))
    still = go.Figure(data=figure.data, layout=figure.layout)
    for place, change in zip(frame.traces, frame.data, strict=True):
        still.data[place].update(change)
    still.update_layout(frame.layout)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Counting) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        source = f"http://127.0.0.1:{server.server_port}/pixel.png"
        still.add_layout_image(source=source, x=0, y=0, sizex=0.1, sizey=0.1, xref="paper", yref="paper")
        (path,) = export.picture(still, tmp_path / "still.png", scale=1)
        server.shutdown()
    assert _Counting.asked == []
    images = [array(page.evaluate(READ, url(one, "png"))) for one in (path, pictures[-1], pictures[0])]
    assert (np.abs(images[0] - images[1]).max(-1) > 8).mean() < 1e-4
    assert (np.abs(images[0] - images[2]).max(-1) > 8).mean() > 1e-3


def test_what_cannot_be_written_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    figure = attention_map(random_trace(6, 3), 0, 1)
    for wrong, said in (
        (lambda: export.picture(figure, tmp_path / "map.jpg"), r"ends in '.jpg'. end it in .png, .svg, .pdf"),
        (lambda: export.picture(figure, tmp_path / "map.png", scale=99), r"scale 99. choose sides of 1 … 16,384"),
        (lambda: export.gif(figure, tmp_path / "map.gif"), "no frames"),
        (lambda: export.gif(replay(random_trace(6, 3)), tmp_path / "a.gif", names=["9"]), "no frame is called '9'"),
        (lambda: export.gif(replay(random_trace(6, 3)), tmp_path / "a.gif", milliseconds=1), "20 ms or longer"),
    ):
        with pytest.raises(export.ExportError, match=said):
            wrong()
    with monkeypatch.context() as patch:
        patch.setenv("BROWSER_PATH", str(tmp_path / "nothing"))
        with pytest.raises(export.ExportError, match=r"at BROWSER_PATH=.*nothing. install one \(Debian: apt-get"):
            export.picture(figure, tmp_path / "map.png")
    monkeypatch.setitem(sys.modules, "kaleido", None)
    with pytest.raises(export.ExportError, match=r"kaleido is not installed. pip install 'gentrace-attention\[export"):
        export.picture(figure, tmp_path / "map.png")
    assert not list(tmp_path.iterdir())
