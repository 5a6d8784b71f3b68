"""bertviz's pages of a trace, made in an environment of its own and opened beside ours.

They ask a CDN for require.js, d3 and jQuery. Here each such request is answered from the same packages of npm, which
stand in the environment's folder, so that no network and no CDN's slowness is measured.
"""

import subprocess
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from playwright.sync_api import Browser, Error

from gentrace.trace.trace import Trace
from scripts.peers.environment import install, made, python_of

PINS = ("bertviz==1.4.1", "torch==2.13.0", "ipython==9.18.1", "numpy==2.4.6")
NPM = ("requirejs@2.3.6", "d3@5.7.0", "jquery@2.1.0")
SERVED = {"require": "requirejs/require.js", "d3": "d3/dist/d3.min.js", "jquery": "jquery/dist/jquery.min.js"}
VIEWS = ("head_view", "model_view")
# bertviz draws in one go, so all of it stands when the first of it is seen.
WATCH = """
new MutationObserver((_, observer) => {
  if (!document.querySelector("svg")) return;
  observer.disconnect();
  requestAnimationFrame(() => {
    const channel = new MessageChannel();
    channel.port1.onmessage = () => { window.usable = performance.now(); };
    channel.port2.postMessage(0);
  });
}).observe(document, {subtree: true, childList: true});
"""


@dataclass(frozen=True, slots=True)
class Opening:
    """What was measured of one page."""

    view: str
    megabytes: float
    built: float
    """Seconds."""
    usable: float | None
    """Seconds after opening; None if it took longer than it was given, or the tab crashed."""


def make(folder: Path) -> Path:
    """Make bertviz's environment, with what its pages ask a CDN for beside it."""
    # Its other requirements are for loading models, which these two views do not.
    python = made(folder, "--no-deps", PINS[0])
    install(python, *PINS[1:])
    subprocess.run(["npm", "install", "--silent", "--ignore-scripts", "--prefix", str(folder), *NPM], check=True)
    return python


def opened(
    start: Callable[[str], Browser], environment: Path, trace: Trace, folder: Path, limit: float
) -> list[Opening]:
    """Make and open each view of a trace.

    Args:
        start: Starts a browser with one more flag, by which it is found when a page hangs and nothing else ends it.
        environment: What `make` made.
        trace: The trace.
        folder: Where the pages go.
        limit: Seconds that each may take to be usable.
    """
    given, script = folder / "attention.pt", Path(__file__).with_name("bertviz_page.py")
    torch.save({"attention": trace.to_hf(), "tokens": list(trace.tokens.texts[: trace.length])}, given)
    found = []
    for view in VIEWS:
        path = folder / f"bertviz-{view}.html"
        command = [str(python_of(environment)), "-I", str(script), str(given), view, str(path)]
        built = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        usable = _usable(start, environment / "node_modules", path, limit)
        found.append(Opening(view, path.stat().st_size / 1e6, built, usable))
        path.unlink()
    return found


def _usable(start: Callable[[str], Browser], modules: Path, path: Path, limit: float) -> float | None:
    """Seconds until a page has painted its picture."""

    def answer(route: Any) -> None:
        name = route.request.url.rsplit("/", 1)[-1].split(".")[0]
        route.fulfill(path=modules / SERVED[name], content_type="text/javascript")

    flag = f"--bench-page={uuid.uuid4().hex}"
    browser = start(flag)
    # No call into a page that computes without pause comes back, and closing waits for it too.
    last_resort = threading.Timer(limit + 1, _kill, [flag])
    last_resort.start()
    try:
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.route("https://cdnjs.cloudflare.com/**", answer)
        page.add_init_script(WATCH)
        page.goto(path.as_uri(), wait_until="commit", timeout=1000 * limit)
        page.wait_for_function("window.usable", timeout=1000 * limit)
        return float(page.evaluate("window.usable")) / 1000
    except Error:
        return None
    finally:
        browser.close()
        last_resort.cancel()


def _kill(flag: str) -> None:
    for process in psutil.process_iter(["cmdline"]):
        if flag in (process.info["cmdline"] or ()):
            process.kill()
