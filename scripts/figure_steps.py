"""How fast `gentrace.views.replay` steps in headless Chromium, for `scripts/bench_views.py`.

The figures are stepped in turns, one round after another, so that a machine that slows down slows all of them.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import plotly.graph_objects as go
import torch
from playwright.sync_api import Browser

from gentrace.stitch.mask import VisibleKeys
from gentrace.trace.decoding import Beams, BeamStep, Draft
from gentrace.trace.info import LayerInfo
from gentrace.trace.store import MemoryStore
from gentrace.trace.tokens import Tokens
from gentrace.trace.trace import Trace
from gentrace.views import replay
from scripts.bench_made import DIM, PROMPT, made_trace

BEAMS, CANDIDATES, DRAFTED = 4, 8, 3
STEP = """
async (rows) => {
  const painted = () => new Promise((done) => requestAnimationFrame(() => {
    const channel = new MessageChannel();
    channel.port1.onmessage = done;
    channel.port2.postMessage(0);
  }));
  const chart = document.querySelector(".js-plotly-plot"), work = [], whole = [];
  const options = {mode: "immediate", transition: {duration: 0}, frame: {duration: 0, redraw: false}};
  await painted();
  for (const row of rows) {
    const begin = performance.now();
    await Plotly.animate(chart, [String(row)], options);
    document.body.getBoundingClientRect();
    work.push(performance.now() - begin);
    await painted();
    whole.push(performance.now() - begin);
  }
  return {work, whole};
}
"""


def figures(length: int) -> dict[str, go.Figure]:
    """A replay of each kind, of as many rows."""
    trace = made_trace(length, 1, 4, 1.0)
    return {
        "1 head": replay(trace, heads=0),
        "4 heads of a layer": replay(trace),
        "cross-attention, 4 heads": replay(_crossed(trace), kind="cross"),
        "1 head and a tree of beams": replay(_searched(trace), heads=0),
        "1 head and rejected drafts": replay(_drafted(trace), heads=0),
    }


def measured(
    browser: Browser, shown: dict[str, go.Figure], folder: Path, rounds: int, steps: int
) -> dict[str, dict[str, list[float]]]:
    """Milliseconds of every step of each figure, of script, style and layout (``work``) and with paint (``whole``)."""
    pages = {}
    for place, (name, figure) in enumerate(shown.items()):
        path = folder / f"figure-{place}.html"
        figure.write_html(path, auto_play=False)
        pages[name] = browser.new_page(viewport={"width": 1440, "height": 900})
        pages[name].goto(path.as_uri())
        pages[name].wait_for_selector(".updatemenu-button")
    found: dict[str, dict[str, list[float]]] = {name: {"work": [], "whole": []} for name in shown}
    for turn in range(rounds):
        for name, page in pages.items():
            page.bring_to_front()
            last = int(shown[name].frames[-1].name or 0)
            rows = [PROMPT + (turn * steps + step) * 7 % (last - PROMPT) for step in range(steps)]
            times = page.evaluate(STEP, rows)
            # The first step after a tab came to the front pays for that.
            for key in ("work", "whole"):
                found[name][key] += times[key][1:]
    for page in pages.values():
        page.close()
    return found


def table(length: int, found: dict[str, dict[str, list[float]]]) -> str:
    """As Markdown."""
    lines = ["| a step of `views.replay` | median ms, painted | p95 | median ms of work | p95 |"]
    lines.append("|---|---|---|---|---|")
    for name, times in found.items():
        cells = [_summary(times[key]) for key in ("whole", "work")]
        lines.append(f"| {name}, {length} tokens | {' | '.join(cells)} |")
    return "\n".join(lines)


def _summary(times: Sequence[float]) -> str:
    return f"{statistics.median(times):.1f} | {statistics.quantiles(times, n=20)[-1]:.1f}"


def _crossed(trace: Trace) -> Trace:
    """Its rows looking at a source of a quarter of their number."""
    generator, read = torch.Generator().manual_seed(1), trace.length // 4
    mask = VisibleKeys.from_runs(torch.zeros(trace.length), torch.full((trace.length,), read))
    tensors = {f"masks.0.{part}": getattr(mask, part) for part in ("start", "stop", "rows", "bits")}
    heads = trace.layers[0].heads
    tensors["layers.0.cross.queries"] = 2 * torch.randn(heads, trace.length, DIM, generator=generator)
    tensors["layers.0.cross.keys"] = torch.randn(heads, read, DIM, generator=generator)
    info = LayerInfo(0, "layers.0", "cross", heads, heads, DIM, DIM**-0.5, None, None, None, "interface")
    tokens = trace.tokens
    source = Tokens.unpredicted(tokens.ids[:read], tokens.texts[:read], ("text",) * read)
    return Trace(
        (info,), trace.length, trace.fidelity, trace.meta, {(0, "cross"): 0}, MemoryStore(tensors),
        lambda: tokens, read, lambda: source,
    )  # fmt: skip


def _searched(trace: Trace) -> Trace:
    """With a beam search of which the best two always go on in two branches each."""
    tokens, steps = trace.tokens, []
    for position in range(PROMPT, len(tokens)):
        texts = (tokens.texts[position], *(f" other{place}" for place in range(1, CANDIDATES)))
        steps.append(
            BeamStep(
                position=position,
                parents=tuple(place // 2 for place in range(CANDIDATES)),
                ids=tuple(range(CANDIDATES)),
                texts=texts,
                scores=tuple(-0.5 * position - 0.1 * place for place in range(CANDIDATES)),
                logprobs=tuple(-0.5 - 0.1 * place for place in range(CANDIDATES)),
                beams=tuple(place if place < BEAMS else -1 for place in range(CANDIDATES)),
                ended=(False,) * CANDIDATES,
                chosen=0,
            )
        )
    return replace(trace, beams=Beams(BEAMS, tuple(steps)))


def _drafted(trace: Trace) -> Trace:
    """With three rejected drafts at every fourth token."""
    drafts = [
        Draft(position + place, place, f" draft{place}", math.log(0.1) - place, follows=place > 0)
        for position in range(PROMPT, len(trace.tokens) - DRAFTED, 4)
        for place in range(DRAFTED)
    ]
    return replace(trace, drafts=tuple(drafts))
