"""The replay as one HTML file that needs nothing else: no network, no server, no build step.

Plotly's own redraw of a large heatmap takes a tenth of a second, so the page paints the matrix once on a canvas and
uncovers it with a curtain; Plotly draws the bars. Token text is untrusted. It enters as JSON in which no ``<`` is left,
reaches the document through ``textContent`` only, and the security policy allows no script but those shipped here,
each named by its hash.
"""

import base64
import html
from collections.abc import Sequence
from dataclasses import asdict
from importlib.resources import files
from string import Template
from typing import Any

import torch

from gentrace.errors import ViewBudgetError
from gentrace.trace.info import LayerInfo
from gentrace.trace.trace import Trace
from gentrace.views import theme
from gentrace.views.inlined import plotly_script, policy_hash, script_json, theme_rules
from gentrace.views.timeline import (
    FULL_ROWS,
    LOG_FLOOR,
    Alternative,
    Panel,
    Sink,
    Timeline,
    What,
    check_budget,
    check_choice,
    choose_heads,
    choose_layer,
    choose_rows,
    panel,
    timeline,
)

PAGE_CELLS = 16_000_000
"""Cells (two bytes each) that a page may hold, all its heads together."""
PAGE_KEYS = 16_384
"""Key columns that every browser can paint on one canvas."""

SCRIPTS = ("payload.js", "scale.js", "text.js", "bars.js", "matrix.js", "heads.js", "controls.js", "app.js")
PRECISION = "Numbers in this page: weights to 0.4 %, scores to 0.004 where the weight is above 1e-6; coarser below."


def replay_page(
    trace: Trace,
    layers: int | Sequence[int] | None = None,
    heads: int | Sequence[int] | None = None,
    *,
    rows: tuple[int, int] | None = None,
    what: What = "weights",
    sink: Sink = "mask",
    title: str | None = None,
) -> str:
    """One self-contained, offline HTML page that replays a generation.

    Matrices travel as float16 log-weights with a float32 log-denominator a row, from which the page derives both
    weights and scores. Their error is 2⁻¹¹ of the log-weight: at most 0.4 % of a weight above 1e-6, and 0.004 of its
    score. The page says so, and shows no more digits than that.

    Args:
        trace: A finished trace.
        layers: One or several layer numbers; None for the last recorded layer.
        heads: One or several query heads of each of these layers; None for all. With several, their mean is offered
            too and shown first.
        rows: First query row and one past the last; None for all.
        what: Whether weights or scores are shown first.
        sink: What to do about the first key at first: "mask" it and scale colours to the rest, a "log" scale, or
            "keep" it on a linear scale.
        title: Title of the page; None for the model's name.

    Returns:
        The page's text.

    Raises:
        ViewError: If the trace has no such layer, head or row.
        ViewBudgetError: If the page would be too big; raised before anything of that size is allocated.
    """
    check_choice("what", what, ("weights", "scores"))
    check_choice("sink", sink, ("mask", "log", "keep"))
    shown = choose_rows(trace, rows)
    chosen = [(info, choose_heads(info, heads)) for info in _choose_layers(trace, layers)]
    count = sum(len(own) for _, own in chosen)
    check_budget("a page", count * _cells(shown), PAGE_CELLS, shown, count)
    if shown.stop > PAGE_KEYS:
        raise ViewBudgetError(
            f"drawing a page with {shown.stop:,} keys",
            f"a browser's canvas holds {PAGE_KEYS:,} columns",
            "choose earlier rows with rows=(start, stop)",
        )
    line = timeline(trace, rows)
    pairs = [(info.index, head) for info, own in chosen for head in own]
    payload = _payload(trace, line, pairs) | {
        "initial": {"layer": chosen[0][0].index, "head": None, "what": what, "sink": sink}
    }
    heading = title or f"{line.model}: attention replay"
    return _assemble(heading, script_json(payload), _matrices(trace, pairs, shown))


def _choose_layers(trace: Trace, layers: int | Sequence[int] | None) -> list[LayerInfo]:
    wanted = [layers] if layers is None or isinstance(layers, int) else list(dict.fromkeys(layers)) or [None]
    return [choose_layer(trace, layer) for layer in wanted]


def _cells(rows: range) -> int:
    """Cells of the lower triangle in these rows."""
    return (rows.stop * (rows.stop + 1) - rows.start * (rows.start + 1)) // 2


def _payload(trace: Trace, line: Timeline, pairs: list[tuple[int, int]]) -> dict[str, Any]:
    """Everything but the matrices, ready for JSON."""
    meta, generated = trace.meta, len(line.labels) - line.prompt_length
    facts = [f"{line.prompt_length} tokens given, {generated} written", meta.kernel, meta.dtype]
    return {
        "model": line.model,
        "facts": " · ".join(facts if meta.complete else [*facts, "cut short"]),
        "labels": line.labels,
        "running": line.running,
        "probabilities": [_short(value) for value in line.probabilities],
        "promptLength": line.prompt_length,
        "rows": [line.rows.start, line.rows.stop],
        "start": line.start,
        "hasSampled": line.has_sampled,
        "steps": [
            {
                "query": step.query,
                "predicts": step.predicts,
                "probability": _short(step.probability),
                "logprob": _short(step.logprob),
                "sampled": _short(step.sampled),
                "rank": step.rank,
                "alternatives": [_alternative(one) for one in step.alternatives],
            }
            for step in line.steps
        ],
        "heads": [{"layer": layer, "head": head} for layer, head in pairs],
        "fullColour": FULL_ROWS,
        "logFloor": LOG_FLOOR,
        "precision": PRECISION,
        "themes": {"light": asdict(theme.LIGHT), "dark": asdict(theme.DARK)},
    }


def _alternative(one: Alternative) -> dict[str, Any]:
    return {
        "label": one.label,
        "probability": _short(one.probability),
        "sampled": _short(one.sampled),
        "chosen": one.chosen,
    }


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")


def _matrices(trace: Trace, pairs: list[tuple[int, int]], rows: range) -> str:
    """All heads' row denominators (float32), then all heads' triangles (float16), in base64; little-endian."""
    denominators, codes = [], []
    for layer, head in pairs:
        denominator, triangle = _encode(panel(trace, layer, head, rows), rows)
        denominators.append(denominator)
        codes.append(triangle)
    return base64.b64encode(b"".join(denominators + codes)).decode()


def _encode(one: Panel, rows: range) -> tuple[bytes, bytes]:
    """A head's rows as log-denominators, and its lower triangle as log-weights: score = log-weight + denominator."""
    best = one.scores.nan_to_num(nan=-torch.inf).argmax(-1, keepdim=True)
    denominator = (one.scores.gather(-1, best) - one.weights.gather(-1, best).log())[:, 0]
    # A row that sees nothing has no denominator; its weights are 0 and its scores −inf whatever stands here.
    denominator = denominator.where(one.scores.gather(-1, best)[:, 0] != -torch.inf, 0.0)
    logs = one.scores - denominator[:, None]
    lower = torch.arange(rows.stop) <= torch.arange(rows.start, rows.stop)[:, None]
    return denominator.numpy().astype("<f4").tobytes(), logs[lower].numpy().astype("<f2").tobytes()


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
