"""``gentrace view FOLDER`` as a process: a browser reads true numbers from it, and Ctrl-C ends it at once."""

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit
from urllib.request import urlopen

import pytest
import torch

from gentrace.explorer.library import Library
from gentrace.explorer.serve import list_page
from gentrace.trace.trace import Trace
from tests.explorer.opened import Opened
from tests.views.made import HOSTILE, random_trace

WORDS = [*HOSTILE, *(f" word{place}" for place in range(600))]
ROWS = len(WORDS) - 1
PATIENCE = 120

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def trace() -> Trace:
    return random_trace(len(WORDS), 6, heads=2, texts=WORDS, layers=(0, 2), unseen=1)


@pytest.fixture(scope="module")
def address(trace: Trace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("served")
    trace.save(folder / "long.safetensors")
    command = [sys.executable, "-m", "gentrace", "view", str(folder), "--no-open"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        yield address
        process.send_signal(signal.SIGINT)
        said, complained = process.communicate(timeout=PATIENCE)
        assert (process.returncode, said, complained) == (-signal.SIGINT, "", "")


def test_ctrl_c_while_it_is_still_importing(tmp_path: Path) -> None:
    random_trace(9, 4).save(tmp_path / "short.safetensors")
    command = [sys.executable, "-X", "importtime", "-m", "gentrace", "view", str(tmp_path), "--no-open"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        # In the middle of the largest import: parts of it are there, and it is not.
        assert any("torch." in line for line in process.stderr)
        process.send_signal(signal.SIGINT)
        said, complained = process.communicate(timeout=PATIENCE)
    assert (process.returncode, said) == (-signal.SIGINT, "")
    assert "Traceback" not in complained
    assert not any(line.endswith("| gentrace.explorer.serve") for line in complained.splitlines())


def raw(address: str, request: str) -> bytes:
    """What the server says to a request that no client would make for us."""
    port = urlsplit(address).port
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as line:
        line.sendall(request.encode())
        return b"".join(iter(lambda: line.recv(65_536), b""))


def test_a_request_by_hand_gets_no_farther(address: str) -> None:
    token, port = urlsplit(address).path, urlsplit(address).port
    host = f"Host: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n"
    assert raw(address, f"GET {token} HTTP/1.1\r\n{host}").startswith(b"HTTP/1.1 200")
    for path in (
        f"{token}../../../etc/passwd", f"{token}..%2f..%2fetc/passwd", f"{token}%2e%2e/%2e%2e/etc/passwd",
        f"{token}..\\..\\windows\\win.ini", f"{token}C:/windows/win.ini", f"{token}/etc/passwd",
        f"{token}open?name=../../../etc/passwd", f"{token}open?name=/etc/passwd%00.safetensors",
        "/etc/passwd", "//etc/passwd", "*", "/..%2f",
    ):  # fmt: skip
        said = raw(address, f"GET {path} HTTP/1.1\r\n{host}")
        assert said.split()[1] in (b"400", b"403", b"404"), (path, said[:80])
        assert b"root:" not in said
    for head in (
        "Host: evil.example\r\n",
        f"Host: evil.example:{port}\r\n",
        f"{host.split(chr(13))[0]}\r\nHost: evil.example\r\n",
    ):
        said = raw(address, f"GET {token} HTTP/1.1\r\n{head}Connection: close\r\n\r\n")
        assert said.split()[1] in (b"400", b"403"), head


def test_many_at_once_get_what_each_asked_for(address: str, trace: Trace) -> None:
    weights = {layer: trace.attention(layer, 1) for layer in (0, 2)}

    def ask(turn: int) -> bool:
        layer, first = (0, 2)[turn % 2], 10 * turn
        question = {"what": "window", "part": turn % 2, "head": 1, "queries": [first, first + 40], "keys": [0, 600]}
        pairs = urlencode({"name": "long.safetensors", "question": json.dumps(question)})
        with urlopen(f"{address}ask?{pairs}", timeout=PATIENCE) as answer:
            found = torch.frombuffer(bytearray(answer.read()), dtype=torch.float32).view(2, 40, 600)[0]
        return torch.equal(found.nan_to_num(-1), weights[layer][first : first + 40, :600].nan_to_num(-1))

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(ask, range(48)))


def served(browser: Any, address: str, view: str) -> Opened:
    return Opened(browser, f"{address}open?name=long.safetensors", view)


def told(opened: Opened, row: int, key: int, window: tuple[int, int, int, int]) -> dict[str, str]:
    """A cell's tooltip, once it is exact."""
    first, last, left, right = window
    opened.point_at("#panel-replay .cells", row - first, key - left, last - first, right - left)
    opened.until("document.getElementById('tip').textContent.includes('exact')")
    return opened.tip()


def test_a_folder_is_listed_and_opened_by_click(browser: Any, address: str) -> None:
    page = browser.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.goto(address)
    assert f"{len(WORDS)}" in page.locator("tbody tr").text_content()
    page.locator("tbody a").click()
    page.wait_for_selector("body[data-loaded]", state="attached", timeout=60_000)
    assert page.locator("#facts").text_content().startswith("6 tokens given")
    page.go_back()
    page.locator("tbody input").check()
    page.locator("form button").click()
    page.wait_for_selector("body[data-loaded]", state="attached", timeout=60_000)
    assert complaints == []
    page.close()


@pytest.mark.parametrize("width", [1280, 390])
def test_the_list_has_room_for_every_name_and_reason(browser: Any, tmp_path: Path, width: int) -> None:
    random_trace(9, 4).save(tmp_path / f"{'long' * 50}.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"no trace")
    page = browser.new_page(viewport={"width": width, "height": 800})
    page.set_content(list_page(str(tmp_path), Library(tmp_path).entries()))
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    why = page.locator(".broken td").last
    assert "not a safetensors file" in why.inner_text()
    assert why.bounding_box()["width"] > 100
    model = page.locator("tr:not(.broken) td:nth-child(3) bdi")
    if width < 900:
        assert model.is_hidden()
    else:
        assert model.bounding_box()["height"] < 30
    page.close()


def test_blocks_become_exact_when_zoomed_and_say_so(browser: Any, address: str, trace: Trace) -> None:
    opened = served(browser, address, "layer=2&head=1&step=400")
    assert "largest weight of each block of 3 × 3 tokens, exact when zoomed" in opened.text("#precision")
    whole = (0, ROWS, 0, ROWS)
    tip = told(opened, 390, 120, whole)
    row, key = int(tip["query"]), int(tip["key"])
    assert float(tip["weight"]) == pytest.approx(float(trace.attention(2, 1)[row, key]), rel=6e-5)
    opened.page.evaluate("explorer.set({zoom: '350.450.200.300'})")
    opened.until("explorer.tab.refined")
    assert opened.text("#precision") == "exact: float32, from the server"
    assert "· exact" in opened.text("#panel-replay .matrix-name")
    weights, scores, shown = trace.attention(2, 1), trace.scores(2, 1), {}
    for row, key in ((352, 201), (399, 299), (370, 250)):
        tip = told(opened, row, key, (350, 450, 200, 300))
        assert (tip["query"], tip["key"]) == (str(row), str(key))
        assert float(tip["weight"]) == pytest.approx(float(weights[row, key]), rel=6e-5)
        assert float(tip["score"].replace("−", "-")) == pytest.approx(float(scores[row, key]), abs=6e-5)
        shown[row, key] = float(weights[row, key])
    painted = opened.page.evaluate(
        """() => {
            const canvas = document.querySelector("#panel-replay .fine");
            return Array.from(canvas.getContext("2d").getImageData(0, 0, 100, 100).data);
        }"""
    )
    for (row, key), weight in shown.items():
        at = 4 * ((row - 350) * 100 + key - 200)
        level = opened.page.evaluate("(weight) => explorer.scale.level(weight, 9, true)", weight)
        assert painted[at : at + 3] == opened.page.evaluate(f"explorer.palette.rgb[{level}]")
    opened.close()


def test_the_row_its_neurons_and_its_lines_are_exact(browser: Any, address: str, trace: Trace) -> None:
    opened = served(browser, address, "layer=0&head=mean&step=300")
    opened.until("explorer.rowExact")
    row = opened.page.evaluate("Array.from(explorer.values.slice(0, 301))")
    assert row == pytest.approx(trace.attention(0).mean(0)[300, :301].tolist(), abs=1e-7)
    opened.page.evaluate("explorer.set({layer: 2, head: 1, step: 222, tab: 'neuron', key: 9})")
    opened.page.wait_for_selector(".identity dd", timeout=60_000)
    terms = trace.score_terms(2, 1, 222)
    shown = [float(text.replace("−", "-")) for text in opened.page.locator(".identity dd").all_text_contents()]
    dot = float(terms.dot[9])
    assert shown == pytest.approx([dot, dot * terms.scale, float(terms.score[9]), float(terms.weight[9])], abs=6e-5)
    opened.press("2")
    opened.until("explorer.tab.lines?.length && explorer.head.asked.row(222)")
    opened.page.evaluate("explorer.set({step: 33})")
    expected = {(33, key) for key in range(1, 34) if float(trace.attention(2, 1)[33, key]) >= 0.05}
    opened.until(f"explorer.tab.lines.length === {len(expected)} && explorer.head.row(33, [])")
    assert {
        tuple(line) for line in opened.page.evaluate("explorer.tab.lines.map((one) => [one.query, one.key])")
    } == expected
    opened.close()
