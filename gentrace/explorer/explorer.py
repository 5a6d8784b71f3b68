"""From traces to a page, and the value that a notebook shows."""

import html
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gentrace.errors import ViewBudgetError, ViewError
from gentrace.explorer.answers import Answers
from gentrace.explorer.assemble import assemble
from gentrace.explorer.payload import payload
from gentrace.explorer.plan import BUDGET, Head, LayerPlan, plan, plan_asked
from gentrace.explorer.still import still
from gentrace.trace.trace import Trace
from gentrace.views.timeline import model_name

if TYPE_CHECKING:
    from gentrace.explorer.widget import ExplorerWidget

FRAME = 780
"""Pixels that a notebook gives the page."""
PAYLOAD = 8_000_000
"""Bytes of one output that every notebook shows."""
KEPT = 1_500_000
"""Bytes of a page that a saved notebook keeps beside the widget."""
KEPT_CELLS = 3_000_000
"""Cells that are read for it, so that showing the widget stays quick."""


@dataclass(frozen=True, eq=False, repr=False)
class Explorer:
    """A page. It shows itself in a notebook; `write_html` makes a file of it."""

    title: str
    """What stands in the browser's title bar."""
    make: Callable[[], str]
    """Makes the whole page; called once, when it is first needed."""
    make_widget: Callable[[], "ExplorerWidget"]
    """Makes the widget; called once, when it is first needed."""
    make_kept: Callable[[], str]
    """Makes what a saved notebook keeps beside the widget; called once, when it is first needed."""

    @cached_property
    def html(self) -> str:
        """The whole page."""
        return self.make()

    @cached_property
    def widget(self) -> "ExplorerWidget":
        """The page as an anywidget, whose numbers come from the kernel when they are looked at.

        Raises:
            ImportError: If anywidget is not installed.
            ViewBudgetError: If the texts alone are more than a notebook takes.
        """
        return self.make_widget()

    def __repr__(self) -> str:
        return f"<Explorer of {self.title}>"

    def write_html(self, path: str | PathLike[str]) -> Path:
        """Write the page to a file, which needs nothing beside it.

        Returns:
            The file's path.
        """
        written = Path(path)
        written.write_text(self.html, "utf-8")
        return written

    def _ipython_display_(self) -> None:
        """What Jupyter asks for first: the widget where it can be had, and what stays when its kernel is gone."""
        if find_spec("anywidget") is None:
            raise NotImplementedError
        from IPython import display

        tools: Any = display
        found: Any = self.widget._repr_mimebundle_()
        pair: Any = found if isinstance(found, tuple) else (found, {})
        tools.display(pair[0] | {"text/plain": repr(self)}, metadata=pair[1], raw=True)
        tools.display({"text/html": self.kept}, raw=True)

    @cached_property
    def kept(self) -> str:
        """HTML that is seen where no widget is: a small page, and the text; it hides where the widget is shown."""
        mark = self.widget.mark
        return (
            f'<style>body:has(iframe[data-gentrace="{mark}"]) #gentrace-{mark}{{display:none}}</style>'
            f'<div id="gentrace-{mark}">{self.make_kept()}</div>'
        )

    def _repr_html_(self) -> str:
        shown = _framed(self.title, self.html)
        size = len(shown.encode())
        if size <= PAYLOAD:
            return shown
        return (
            f"<p>This page takes {size / 1e6:.1f} MB, and notebooks show {PAYLOAD / 1e6:.0f} MB at most. "
            "Make it smaller with <code>max_bytes=</code>, <code>layers=</code>, <code>heads=</code> or "
            "<code>rows=</code>; or install <code>anywidget</code>, which fetches what is looked at; or open a file "
            "of it: <code>.write_html(&quot;page.html&quot;)</code>.</p>"
        )

    def _mime_(self) -> tuple[str, str]:
        """What marimo asks for: the widget where it can be had."""
        library = sys.modules.get("marimo")
        if library is None or find_spec("anywidget") is None:
            return "text/html", self._repr_html_()
        return library.as_html(self.widget)._mime_()


def explore(
    traces: Trace | Sequence[Trace] | Mapping[str, Trace],
    path: str | PathLike[str] | None = None,
    *,
    title: str | None = None,
    layers: int | Sequence[int] | None = None,
    heads: int | Sequence[int] | None = None,
    rows: tuple[int, int] | None = None,
    exact: Sequence[Head] | None = None,
    pool: int | None = None,
    max_bytes: int = BUDGET,
) -> Explorer:
    """One self-contained, offline HTML page to look around in one or several traces.

    It has tabs for the replay, a layer's heads, the whole model, queries and keys, the text's probabilities and a
    comparison. Weights travel in 8 bits: from 1 down to 0.0001 with an error of at most 1.9 %, below as 0. The heads of
    ``exact`` carry their queries and keys, from which the page computes weights and scores in float32.

    Args:
        traces: A finished trace, several, or several by name.
        path: Where to write the page too; None for not at all.
        title: Title of the page; None for the models' names.
        layers: Layer numbers; None for all recorded.
        heads: Query heads of each of these layers; None for all.
        rows: First query row and one past the last, of the text; None for all.
        exact: Heads as (layer, head), with "cross" or "encoder" as a third word where that is meant; None for
            the first head of the layer of each trace that is shown first, as far as these fit.
        pool: If not all cells fit, blocks along each side of the matrices that are made small by keeping the largest
            weight of each block; None for as many as fit, 0 to raise an error instead. The last layer of the first
            trace, which is shown first, and exact heads stay whole as far as they fit.
        max_bytes: What matrices, queries and keys may take before they are deflated.

    Returns:
        The page. Written to a file, an address ending in ``#tab=heads&layer=3`` and the like opens that view.

    Raises:
        ViewError: If a trace has no such layer, head or row.
        ViewBudgetError: If the page would be too big; raised before anything of that size is allocated.
    """
    named = name_traces(traces)
    plans = plan(named, layers, heads, rows, exact, pool, max_bytes)
    heading = title or ", ".join(dict.fromkeys(model_name(trace) for trace in named.values()))

    def page() -> str:
        return assemble(heading, *payload(named, plans, heading))

    def widget() -> "ExplorerWidget":
        return _widget(named, heading, plan_asked(named, layers, heads, rows))

    def kept() -> str:
        return _kept(named, heading, plans, page)

    explorer = Explorer(heading, page, widget, kept)
    if path is not None:
        explorer.write_html(path)
    return explorer


def _widget(named: Mapping[str, Trace], title: str, plans: Sequence[LayerPlan]) -> "ExplorerWidget":
    from gentrace.explorer.widget import ExplorerWidget

    page = assemble(title, payload(named, plans, title, {"kind": "kernel"})[0])
    if len(page.encode()) > PAYLOAD:
        raise ViewBudgetError(
            "showing traces in a notebook",
            f"their texts take {len(page.encode()) / 1e6:.1f} MB; notebooks take {PAYLOAD / 1e6:.0f} MB",
            "choose fewer rows with rows=(start, stop), fewer traces, or write_html(path)",
        )
    return ExplorerWidget(title, page, FRAME, Answers(named, plans))


def _kept(traces: Mapping[str, Trace], title: str, plans: Sequence[LayerPlan], page: Callable[[], str]) -> str:
    """The page if it is small and quickly made, and the text."""
    cells = sum(len(one.heads) * one.cells for one in plans)
    shown = _framed(title, page()) if cells <= KEPT_CELLS else ""
    if shown and len(shown.encode()) <= KEPT:
        return f"{shown}<details><summary>The text, without a script</summary>{still(traces)}</details>"
    return (
        f"{still(traces)}<p><small>The page itself is drawn from numbers in the kernel: run the cell again, or write a "
        "file with <code>.write_html(&quot;page.html&quot;)</code>.</small></p>"
    )


def _framed(title: str, page: str) -> str:
    """A page in a frame of its own, which keeps the notebook's styles out and has no rights over the notebook."""
    return (
        f'<iframe title="{html.escape(title)}" loading="lazy" sandbox="allow-scripts allow-downloads allow-modals" '
        f'style="width:100%;height:{FRAME}px;border:0" srcdoc="{html.escape(page)}"></iframe>'
    )


def name_traces(traces: Trace | Sequence[Trace] | Mapping[str, Trace]) -> dict[str, Trace]:
    """Traces by the name that a page gives them."""
    if isinstance(traces, Trace):
        traces = [traces]
    if not traces:
        raise ViewError("making a page", "no trace was given", "give one or several finished traces")
    if isinstance(traces, Mapping):
        return dict(traces)
    several = len(traces) > 1
    return {
        f"{place + 1} · {model_name(trace)}" if several else model_name(trace): trace
        for place, trace in enumerate(traces)
    }
