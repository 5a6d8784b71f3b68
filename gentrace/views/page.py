"""The replay as one HTML file that needs nothing else: no network, no server, no build step.

Plotly's own redraw of a large heatmap takes a tenth of a second, so the page paints the matrix once on a canvas and
uncovers it with a curtain; Plotly draws the bars. Token text is untrusted. It enters as JSON in which no ``<`` is left,
reaches the document through ``textContent`` only, and the security policy allows no script but those shipped here,
each named by its hash.
"""

import html
from collections.abc import Sequence
from importlib.resources import files
from string import Template
from typing import Literal

from gentrace.errors import ViewBudgetError
from gentrace.trace.info import Kind, LayerInfo
from gentrace.trace.trace import Trace
from gentrace.views.inlined import plotly_script, policy_hash, script_json, theme_rules
from gentrace.views.page_payload import Chosen, cells, matrices, payload
from gentrace.views.timeline import (
    Sink,
    What,
    check_budget,
    check_choice,
    choose_heads,
    choose_layers,
    choose_rows,
    key_count,
    timeline,
)

PAGE_CELLS = 16_000_000
"""Cells (two bytes each) that a page may hold, all its heads together."""
PAGE_KEYS = 16_384
"""Key columns that every browser can paint on one canvas."""
KINDS: tuple[Kind, ...] = ("self", "cross")

SCRIPTS = (
    "payload.js", "scale.js", "text.js", "bars.js", "drafts.js", "tree.js", "matrix.js", "heads.js", "controls.js",
    "app.js",
)  # fmt: skip


def replay_page(
    trace: Trace,
    layers: int | Sequence[int] | None = None,
    heads: int | Sequence[int] | None = None,
    *,
    kind: Literal["self", "cross"] | None = None,
    rows: tuple[int, int] | None = None,
    what: What = "weights",
    sink: Sink | None = None,
    beams: bool = True,
    title: str | None = None,
) -> str:
    """One self-contained, offline HTML page that replays a generation.

    Drafts that were rejected at a step stand behind the text with a line through them, and below the bars. A beam
    search is drawn as a tree. Of an encoder-decoder model the page holds both the text's own attention and what it
    looks at in its source, and opens with the latter if the source is text.

    Matrices travel as float16 log-weights with a float32 log-denominator a row, from which the page derives both
    weights and scores. Their error is 2⁻¹¹ of the log-weight: at most 0.4 % of a weight above 1e-6, and 0.004 of its
    score. The page says so, and shows no more digits than that.

    Args:
        trace: A finished trace.
        layers: One or several layer numbers; None for the last recorded layer of each kind.
        heads: One or several query heads of each of these layers; None for all. With several, their mean is offered
            too and shown first.
        kind: "self" for the text's own attention, "cross" for what an encoder-decoder model looks at in its source;
            None for both, where the layers have them.
        rows: First query row and one past the last; None for all.
        what: Whether weights or scores are shown first.
        sink: What to do about the first key at first: "mask" it and scale colours to the rest, a "log" scale, or
            "keep" it on a linear scale. None masks it in self-attention only.
        beams: Draw the tree of hypotheses below, if beams were searched.
        title: Title of the page; None for the model's name.

    Returns:
        The page's text.

    Raises:
        ViewError: If the trace has no such kind, layer, head or row.
        ViewBudgetError: If the page would be too big; raised before anything of that size is allocated.
    """
    check_choice("what", what, ("weights", "scores"))
    check_choice("kind", kind or "self", KINDS)
    check_choice("sink", sink or "mask", ("mask", "log", "keep"))
    shown = choose_rows(trace, rows)
    chosen = [(info, choose_heads(info, heads)) for info in _choose_layers(trace, layers, kind)]
    count = sum(len(own) for _, own in chosen)
    check_budget(
        "a page", sum(len(own) * cells(trace, shown, info.kind) for info, own in chosen), PAGE_CELLS, shown, count
    )
    keys = max(key_count(trace, shown, info.kind) for info, _ in chosen)
    if keys > PAGE_KEYS:
        raise ViewBudgetError(
            f"drawing a page with {keys:,} keys",
            f"a browser's canvas holds {PAGE_KEYS:,} columns",
            "choose earlier rows with rows=(start, stop), or another kind=",
        )
    line = timeline(trace, rows)
    facts = payload(trace, line, chosen, beams=beams) | {"initial": _initial(trace, chosen, what, sink)}
    heading = title or f"{line.model}: attention replay"
    return _assemble(heading, script_json(facts), matrices(trace, chosen, shown))


def _choose_layers(trace: Trace, layers: int | Sequence[int] | None, kind: Kind | None) -> list[LayerInfo]:
    """The layers asked for, of one kind or of each kind that they have."""
    if kind is not None:
        return choose_layers(trace, layers, kind)
    recorded = {(info.index, info.kind) for info in trace.layers}
    known: list[Kind] = [one for one in KINDS if any(found == one for _, found in recorded)] or ["self"]
    wanted = list(dict.fromkeys([layers] if isinstance(layers, int) else layers or ()))
    if not wanted:
        return [info for one in known for info in choose_layers(trace, None, one)]
    missing = [layer for layer in wanted if not any((layer, one) in recorded for one in known)]
    own = {one: [layer for layer in wanted if (layer, one) in recorded] for one in known}
    # Asking for what is missing raises the error that names what there is.
    own[known[0]] += missing
    return [info for one in known if own[one] for info in choose_layers(trace, own[one], one)]


def _initial(trace: Trace, chosen: Chosen, what: What, sink: Sink | None) -> dict[str, object]:
    """What the page shows first."""
    reads = any(info.kind == "cross" for info, _ in chosen) and trace.encoder_tokens is not None
    first = next((info for info, _ in chosen if info.kind == "cross" and reads), chosen[0][0])
    sinks = {"self": sink or "mask", "cross": sink or "keep"}
    return {"kind": first.kind, "layer": first.index, "head": None, "what": what, "sinks": sinks}


def _asset(name: str) -> str:
    return (files("gentrace.views") / "assets" / name).read_text("utf-8")


def _style() -> str:
    """The style sheet, with both themes' colours in front."""
    return f"{theme_rules()}\n{_asset('page.css')}"


def _assemble(title: str, payload: str, matrices: str) -> str:
    scripts = [_asset(name) for name in SCRIPTS]
    plotly, plotly_hash = plotly_script()
    hashes = " ".join([*(policy_hash(script) for script in scripts), plotly_hash])
    policy = (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    return Template(_asset("page.template")).substitute(
        policy=policy,
        title=html.escape(title),
        style=_style(),
        payload=payload,
        matrices=matrices,
        plotly=plotly,
        scripts="\n".join(f"<script>{script}</script>" for script in scripts),
    )
