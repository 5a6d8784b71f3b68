"""The widget and the live picture in real notebooks: JupyterLab, Notebook and marimo in headless Chromium, as Markdown.

    python scripts/hosts.py --make-env FOLDER            # all three, and gentrace from this checkout
    python scripts/hosts.py --env FOLDER [--host marimo]

In each host a notebook records a generation that is drawn meanwhile, and shows the explorer. Then its keys are pressed,
a layer is chosen and a window is zoomed into, and the numbers of the page are held against those of the saved trace.
Exits with 1 if a check fails.
"""

import argparse
import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Frame, Page, sync_playwright

# In place of this folder, which holds a coverage.py that other packages would take for theirs.
sys.path[0] = str(Path(__file__).resolve().parents[1])

import gentrace  # noqa: E402
from scripts.bench_made import FLAGS  # noqa: E402
from scripts.peers.environment import ROOT, made, python_of  # noqa: E402

WANTED = ("jupyterlab", "notebook", "marimo", "ipykernel")
MOST = 1_000_000
"""Bytes that an answer stays below, so that every notebook takes it."""
PATIENCE = 120
"""Seconds for whatever a host has to do."""
CELLS = (
    """import time
import gentrace
from gentrace.demo import load
model, tokenizer = load("story")
inputs = tokenizer("Once upon a time there was a little girl", return_tensors="pt")""",
    """hook = model.register_forward_pre_hook(lambda *call: time.sleep(0.01))
with gentrace.record(model, tokenizer) as recorder, gentrace.live(recorder):
    model.generate(**inputs, max_new_tokens=320, min_new_tokens=320, pad_token_id=tokenizer.eos_token_id)
hook.remove()
recorder.trace.save("trace.safetensors")""",
    """gentrace.explore(gentrace.load("trace.safetensors"))""",
)
# Reads some cells once the window that they lie in has come from the kernel.
READ = """
async ([patch, cells]) => {
  explorer.set(patch);
  const end = performance.now() + 60_000;
  const shown = () => explorer.head.layer?.index === patch.layer && explorer.head.head === patch.head;
  while (!(shown() && explorer.tab.refined) && performance.now() < end) {
    await new Promise((done) => setTimeout(done, 20));
  }
  return cells.map(([query, key]) => [explorer.head.weight(query, key), explorer.head.score(query, key)]);
}
"""


@dataclass
class Host:
    """A notebook's server, and how it is driven."""

    name: str
    write: Callable[[Path], object]
    """Writes the notebook into a folder."""
    command: Callable[[str, int, str], list[str]]
    """Of a Python, a port and a token, what starts the server."""
    address: Callable[[int, str], str]
    begin: Callable[[Page], object]
    """Runs all cells of the open notebook."""


@dataclass
class Checked:
    """What was looked at."""

    host: str
    failed: int = 0
    sizes: list[int] = field(default_factory=list[int])

    def say(self, what: str, seen: object, good: bool) -> None:
        """One line of the table."""
        self.failed += not good
        print(f"| {self.host} | {what} | {seen} | {'yes' if good else 'NO'} |", flush=True)


def write_jupyter(folder: Path) -> None:
    """The cells as a notebook of Jupyter."""
    cells = [
        {"cell_type": "code", "id": f"cell{at}", "metadata": {}, "source": cell, "outputs": [], "execution_count": None}
        for at, cell in enumerate(CELLS)
    ]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook = {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    (folder / "hosts.ipynb").write_text(json.dumps(notebook), "utf-8")


def write_marimo(folder: Path) -> None:
    """The cells as a notebook of marimo, which needs the last two in order too."""
    cells = [*CELLS[:2], f"recorder\n{CELLS[2]}"]
    bodies = ["@app.cell\ndef _():\n" + "".join(f"    {line}\n" for line in cell.split("\n")) for cell in cells]
    text = "\n\n".join(["import marimo\n\napp = marimo.App()", *bodies])
    (folder / "hosts.py").write_text(text, "utf-8")


def begin_jupyter(page: Page) -> None:
    """Wait for the kernel and run all cells."""
    ready = "window.jupyterapp?.shell.currentWidget?.sessionContext?.isReady"
    page.wait_for_function(ready, timeout=1000 * PATIENCE)
    page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status=idle]", timeout=1000 * PATIENCE)
    page.evaluate("void jupyterapp.commands.execute('notebook:run-all-cells')")


def start_jupyter(module: str, app: str) -> Callable[[str, int, str], list[str]]:
    """What starts one of Jupyter's servers."""
    return lambda python, port, token: [
        python, "-m", module, "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}",
        "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}", f"--{app}.expose_app_in_browser=True",
        "--LabApp.news_url=", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]  # fmt: skip


HOSTS = (
    Host(
        "JupyterLab",
        write_jupyter,
        start_jupyter("jupyterlab", "LabApp"),
        lambda port, token: f"http://127.0.0.1:{port}/lab/tree/hosts.ipynb?token={token}",
        begin_jupyter,
    ),
    Host(
        "Notebook",
        write_jupyter,
        start_jupyter("notebook", "JupyterNotebookApp"),
        lambda port, token: f"http://127.0.0.1:{port}/notebooks/hosts.ipynb?token={token}",
        begin_jupyter,
    ),
    Host(
        "marimo",
        write_marimo,
        lambda python, port, token: [
            python, "-m", "marimo", "run", "hosts.py", "--headless", "--host", "127.0.0.1", "--port", str(port),
            "--token-password", token,
        ],
        lambda port, token: f"http://127.0.0.1:{port}/?access_token={token}",
        lambda page: None,
    ),
)  # fmt: skip


@contextmanager
def served(host: Host, python: str, folder: Path) -> Iterator[str]:
    """The address of a notebook, while its server runs in a folder."""
    host.write(folder)
    token = secrets.token_hex(8)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Nothing of the reader's own settings, and nothing written to them.
    own = {name: str(folder / name.lower()) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")}
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(
            host.command(python, port, token), cwd=folder, env=os.environ | own, stdout=log, stderr=log
        )
    try:
        end = time.monotonic() + PATIENCE
        while not _answers(port):
            if process.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"starting {host.name}: {(folder / 'server.log').read_text()[-2000:]}")
            time.sleep(0.2)
        yield host.address(port, token)
    finally:
        process.terminate()
        process.wait(30)


def _answers(port: int) -> bool:
    with socket.socket() as line:
        return line.connect_ex(("127.0.0.1", port)) == 0


def check(host: Host, python: str, browser: Browser, folder: Path, picture: Path | None) -> Checked:
    """Run the notebook in a host and look at all that it shows."""
    checked = Checked(host.name)
    with served(host, python, folder) as address:
        page = browser.new_page(viewport={"width": 1280, "height": 1400})
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("websocket", lambda line: line.on("framereceived", lambda data: checked.sizes.append(len(data))))
        page.goto(address)
        host.begin(page)
        # What a host complains about while it starts is its own affair.
        errors.clear()
        drawn = watch(page)
        checked.say("drawings seen while the cell ran", len(drawn), len(drawn) > 3)
        frame = explorer_of(page)
        worth = frame.locator("#precision").text_content() or ""
        checked.say("what the page says of its numbers", worth, "exact" in worth and "kernel" in worth)
        checked.say("largest output, bytes", max(checked.sizes), max(checked.sizes) < 8 * MOST)
        checked.sizes.clear()
        explore(frame, page, checked, gentrace.load(folder / "trace.safetensors"))
        checked.say("largest answer of the kernel, bytes", max(checked.sizes), max(checked.sizes) < MOST)
        checked.say("errors of scripts since the cells ran", errors or "none", not errors)
        if picture is not None:
            page.screenshot(path=picture / f"{host.name}.png")
        page.close()
    return checked


def watch(page: Page) -> set[str]:
    """What the live picture's counter said, until all tokens were there."""
    seen: set[str] = set()
    counter = page.locator(".gentrace-live header span")
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and not any("320 tokens" in words for words in seen):
        if counter.count():
            seen.add(counter.first.text_content() or "")
        page.wait_for_timeout(50)
    return seen


def explorer_of(page: Page) -> Frame:
    """The explorer's frame, once it has loaded."""
    frame = page.locator("iframe[data-gentrace]").first
    frame.wait_for(timeout=1000 * PATIENCE)
    frame.scroll_into_view_if_needed()
    inner = frame.element_handle().content_frame()
    assert inner is not None
    inner.wait_for_selector("body[data-loaded]", state="attached", timeout=1000 * PATIENCE)
    return inner


def explore(frame: Frame, page: Page, checked: Checked, trace: gentrace.Trace) -> None:
    """Keys, menus and numbers."""
    frame.locator("#facts").click()
    before = frame.evaluate("explorer.v")
    for key in ("]", ",", "ArrowRight"):
        page.keyboard.press(key)
    after = frame.evaluate("explorer.v")
    moved = [after["head"], after["layer"], after["step"]]
    expected = [0, before["layer"] - 1, before["step"] + 1]
    checked.say("head, layer and step after three keys", moved, moved == expected)
    frame.locator("#layer").select_option("0")
    layer = frame.evaluate("explorer.v.layer")
    checked.say("layer after its menu", layer, layer == 0)
    cells = [[query, key] for query in range(240, 300, 7) for key in range(100, 160, 7)]
    patch = {"tab": "replay", "layer": 2, "head": 1, "step": 290, "zoom": "240.300.100.160"}
    found = frame.evaluate(READ, [patch, cells])
    weights, scores = trace.attention(2, 1), trace.scores(2, 1)
    wanted = [[float(weights[query, key]), float(scores[query, key])] for query, key in cells]
    checked.say(f"{len(cells)} zoomed cells equal to the trace, to the last bit", found == wanted, found == wanted)
    frame.evaluate("explorer.set({tab: 'neuron', step: 222, key: 9})")
    sum_of = frame.locator(".identity dd").first
    sum_of.wait_for(timeout=1000 * PATIENCE)
    dot = float((sum_of.text_content() or "").replace("−", "-"))
    true = float(trace.score_terms(2, 1, 222).dot[9])
    checked.say("query · key on the neuron tab", f"{dot} ({true:.4f})", abs(dot - true) < 6e-5 * max(1.0, abs(true)))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    parser.add_argument("--env", type=Path, metavar="FOLDER", help="where the notebooks are installed")
    parser.add_argument("--host", choices=[host.name.lower() for host in HOSTS], help="only this one")
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="keep a screenshot of each host here")
    parser.add_argument("--make-env", type=Path, metavar="FOLDER", help="make the environment and stop")
    options: Any = parser.parse_args(arguments)
    if options.make_env:
        print(made(options.make_env, *WANTED, "--editable", f"{ROOT}[notebook]"))
        return 0
    python = sys.executable if options.env is None else str(python_of(options.env))
    failed = 0
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=options.chromium, args=FLAGS)
        print(f"# Notebooks in headless Chromium {browser.version}\n\n| host | what | seen | good |\n|---|---|---|---|")
        for host in HOSTS:
            if options.host in (None, host.name.lower()):
                with tempfile.TemporaryDirectory() as folder:
                    failed += check(host, python, browser, Path(folder), options.pictures).failed
        browser.close()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
