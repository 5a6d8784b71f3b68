"""The browser that draws: kaleido's page in the Chromium that is there, cut off from the network.

Plotly.js comes from the plotly package and MathJax is left out, so nothing has to be fetched; the page's own policy
makes sure that nothing is, whatever stands in a figure. Figures are drawn without what can only be pressed: menus and
sliders are of no use on paper.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from gentrace.export.errors import ExportError

if TYPE_CHECKING:
    from kaleido import Kaleido, PageGenerator

Result = TypeVar("Result")

POLICY = "default-src 'none'; script-src file:; style-src 'unsafe-inline'; img-src data: blob:"
INSTALL = "install one (Debian: apt-get install chromium; elsewhere: kaleido_get_chrome), or name it in BROWSER_PATH"
PRESSED = ("updatemenus", "sliders")
"""Parts of a layout that only answer the pointer."""
WIDTH, HEIGHT, NARROWEST = 1000, 600, 480
"""Pixels of a figure that does not say; the narrowest still has room for a title."""
LARGEST_SIDE = 16_384
"""Pixels that every browser can paint on one canvas."""


class Figure(Protocol):
    """What can be drawn: a ``plotly.graph_objects.Figure``, or anything else that is one as a dictionary."""

    def to_dict(self) -> dict[str, Any]:
        """``data``, ``layout`` and ``frames``."""
        ...


def bare(figure: Figure) -> dict[str, Any]:
    """A figure's dictionary without what can only be pressed."""
    spec = figure.to_dict()
    layout = {name: value for name, value in spec.get("layout", {}).items() if name not in PRESSED}
    return {"data": spec["data"], "layout": layout, "frames": list(spec.get("frames") or ())}


def pixels(spec: dict[str, Any], width: int | None, height: int | None, scale: float) -> tuple[int, int]:
    """Width and height of a picture before scaling: those asked for, the figure's own, or what suits it.

    Raises:
        ExportError: If it would have no pixels, or more than a browser paints.
    """
    layout = spec["layout"]
    high = round(height or layout.get("height") or HEIGHT)
    size = round(width or layout.get("width") or _natural_width(layout, high)), high
    most = max(size) * scale
    if min(size) < 1 or not 0 < most <= LARGEST_SIDE:
        raise ExportError(
            "exporting a figure",
            f"{size[0]} × {size[1]} pixels at scale {scale:g}",
            f"choose sides of 1 … {LARGEST_SIDE:,} pixels with width=, height= and scale=",
        )
    return size


def _natural_width(layout: dict[str, Any], height: int) -> float:
    """A page's width; of a matrix with square cells, which is as wide as it is high, no more than it fills."""
    across, down = ((layout.get(f"{letter}axis") or {}) for letter in "xy")
    if "scaleanchor" not in down or "range" not in across or "range" not in down:
        return WIDTH
    columns, rows = (abs(axis["range"][1] - axis["range"][0]) for axis in (across, down))
    margin = dict.fromkeys("lrtb", 80) | layout.get("margin", {})
    return min(WIDTH, max(NARROWEST, (height - margin["t"] - margin["b"]) * columns / rows + margin["l"] + margin["r"]))


def drawn(work: "Callable[[Kaleido], Awaitable[Result]]", *scripts: str) -> Result:
    """Start a browser, let ``work`` draw in it, and close it.

    Args:
        work: Gets the browser, whose only tab shows a page with Plotly in it.
        scripts: Names of this room's own scripts that the page needs.

    Returns:
        What ``work`` returned.

    Raises:
        ExportError: If kaleido or a browser is missing, or drawing failed.
    """
    # A thread of its own: a notebook's already runs an event loop.
    with ThreadPoolExecutor(1, "gentrace-export") as pool:
        return pool.submit(lambda: asyncio.run(_drawn(work, scripts))).result()


async def _drawn(work: "Callable[[Kaleido], Awaitable[Result]]", scripts: tuple[str, ...]) -> Result:
    try:
        from kaleido import Kaleido
        from kaleido.errors import (
            BrowserClosedError,
            BrowserFailedError,
            ChromeNotFoundError,
            JavascriptError,
            KaleidoError,
        )
    except ImportError as error:
        raise ExportError(
            "exporting a figure", f"{error.name} is not installed", "pip install 'gentrace-attention[export]'"
        ) from error
    attempted, named = "exporting a figure", os.environ.get("BROWSER_PATH")
    told = f" at BROWSER_PATH={named}" if named else ""
    try:
        async with Kaleido(page_generator=_page(scripts)) as browser:
            return await work(browser)
    except ChromeNotFoundError as error:
        raise ExportError(attempted, f"no Chrome or Chromium was found{told}", INSTALL) from error
    except (BrowserClosedError, BrowserFailedError) as error:
        raise ExportError(attempted, f"the browser{told} did not start, or was closed", INSTALL) from error
    except (JavascriptError, KaleidoError) as error:
        raise ExportError(
            attempted, f"the browser could not draw it: {error}", "look at it with figure.show()"
        ) from error
    except TimeoutError as error:
        raise ExportError(attempted, "the browser took too long", "draw less, with a smaller scale=") from error


def _page(scripts: tuple[str, ...]) -> "PageGenerator":
    """Kaleido's page with a policy in it, Plotly from its package, and our own scripts."""
    from kaleido import PageGenerator

    class Page(PageGenerator):
        header = PageGenerator.header.replace(
            "<head>", f'<head>\n        <meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        )

    own = files("gentrace.export") / "assets"
    others = [Path(str(own / script)).as_uri() for script in scripts]
    return Page(plotly=_plotly().as_uri(), mathjax=False, others=list(others))


def _plotly() -> Path:
    found = find_spec("plotly")
    assert found is not None
    return Path((found.submodule_search_locations or [""])[0]) / "package_data" / "plotly.min.js"


async def evaluated(browser: "Kaleido", expression: str) -> Any:
    """The value of a JavaScript expression in the page, once its promise is kept.

    Raises:
        ExportError: If it threw.
    """
    tab = browser.get_tab()
    assert tab is not None
    answer: Any = await tab.send_command(
        "Runtime.evaluate", params={"expression": expression, "awaitPromise": True, "returnByValue": True}
    )
    result = answer.get("result", {})
    thrown = result.get("exceptionDetails") or answer.get("error")
    if thrown:
        said = thrown.get("exception", {}).get("description") or thrown.get("text") or thrown.get("message")
        raise ExportError(
            "exporting a figure", f"the browser could not draw it: {said}", "look at it with figure.show()"
        )
    return result["result"].get("value")
