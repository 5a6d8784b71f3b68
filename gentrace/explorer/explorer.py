"""From traces to a page, and the value that a notebook shows."""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from gentrace.errors import ViewError
from gentrace.explorer.assemble import assemble
from gentrace.explorer.payload import payload
from gentrace.explorer.plan import BUDGET, Head, plan
from gentrace.trace.trace import Trace
from gentrace.views.timeline import model_name

FRAME = 780
"""Pixels that a notebook gives the page."""


@dataclass(frozen=True, eq=False, repr=False)
class Explorer:
    """A finished page. It shows itself in a notebook; `write_html` makes a file of it."""

    title: str
    """What stands in the browser's title bar."""
    html: str
    """The whole page."""

    def __repr__(self) -> str:
        return f"<Explorer of {self.title}: {len(self.html) / 1e6:.1f} MB>"

    def write_html(self, path: str | PathLike[str]) -> Path:
        """Write the page to a file, which needs nothing beside it.

        Returns:
            The file's path.
        """
        written = Path(path)
        written.write_text(self.html, "utf-8")
        return written

    def _repr_html_(self) -> str:
        # A frame of its own keeps the notebook's styles out, and the page's script without rights over the notebook.
        return (
            f'<iframe title="{html.escape(self.title)}" sandbox="allow-scripts allow-downloads allow-modals" '
            f'style="width:100%;height:{FRAME}px;border:0" srcdoc="{html.escape(self.html)}"></iframe>'
        )

    def _mime_(self) -> tuple[str, str]:
        """What marimo asks for."""
        return "text/html", self._repr_html_()


def explore(
    traces: Trace | Sequence[Trace] | Mapping[str, Trace],
    path: str | PathLike[str] | None = None,
    *,
    title: str | None = None,
    layers: int | Sequence[int] | None = None,
    heads: int | Sequence[int] | None = None,
    rows: tuple[int, int] | None = None,
    exact: Sequence[Head] = (),
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
        exact: Heads as (layer, head), with "cross" or "encoder" as a third word where that is meant.
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
    data, parts = payload(named, plans, heading)
    explorer = Explorer(heading, assemble(heading, data, parts))
    if path is not None:
        explorer.write_html(path)
    return explorer


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
