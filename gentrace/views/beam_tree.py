"""A beam search as a figure of its own: every continuation that it looked at, and which of them it returned."""

import plotly.graph_objects as go

from gentrace.errors import ViewBudgetError, ViewError
from gentrace.trace.trace import Trace
from gentrace.views import theme
from gentrace.views.figure_tree import COLUMN, Window, branch_styles, branches, legend, tree_axes
from gentrace.views.genealogy import genealogy
from gentrace.views.labels import escape, label
from gentrace.views.timeline import model_name

BRANCHES = 4_000
"""Continuations that a figure may hold."""
ROW = 36
"""Pixels of a continuation with its score."""
MARGIN = {"l": 20, "r": 20, "t": 84, "b": 34}
NARROWEST = 660
"""Pixels across, so that the title has room."""


def beam_tree(trace: Trace, *, positions: tuple[int, int] | None = None, dark: bool = False) -> go.Figure:
    """The hypotheses of a beam search as a tree, step by step from left to right.

    Each column holds the continuations that one step looked at, best first: the token, and below it the summed
    log-probability of the whole hypothesis in nats, before any length penalty. What leads to this trace's sequence
    stands out; a branch of which nothing is left at the end is grey; ∎ marks a hypothesis that is complete.

    Args:
        trace: A finished trace of a generation with ``num_beams`` of 2 or more.
        positions: First position of an added token and one past the last; None for all. Fates are those at the end of
            the search all the same.
        dark: Light ink on dark paper.

    Returns:
        The figure.

    Raises:
        ViewError: If beams were not searched, or not at these positions.
        ViewBudgetError: If there are too many continuations; raised before the tree is laid out.
    """
    steps = trace.beams.steps if trace.beams is not None else ()
    first, stop = (steps[0].position, steps[0].position + len(steps)) if steps else (0, 0)
    left, right = positions or (first, stop)
    count = sum(len(step.ids) for step in steps if left <= step.position < right)
    if count > BRANCHES:
        attempted, seen = "drawing a tree of beams", f"{count:,} continuations; at most {BRANCHES:,} fit"
        raise ViewBudgetError(attempted, seen, f"choose fewer of {first} … {stop - 1} with positions=(start, stop)")
    tree = genealogy(trace)
    if not first <= left < right <= stop:
        seen, change = f"the search added tokens at {first} … {stop - 1}", "give positions=(start, stop) among them"
        raise ViewError(f"drawing a tree of beams at positions {left} … {right - 1}", seen, change)
    colours = theme.DARK if dark else theme.LIGHT
    root = label(trace.tokens.texts[first - 1])
    part = Window(tree, root, left - 1, right - 1, seen_from=stop - 1)
    columns = right - left + 1
    traces = [style | move for style, move in zip(branch_styles(colours), branches(part, scores=True), strict=True)]
    numbers = {
        "tickmode": "array", "tickvals": list(range(1, columns)), "ticktext": [str(at) for at in range(left, right)],
        "showticklabels": True, "tickfont": {"size": 10, "color": colours.muted}, "ticks": "",
    }  # fmt: skip
    axes = tree_axes([0, 1], [0, 1], columns, tree.candidates)
    (across,) = (name for name in axes if name.startswith("x"))
    axes[across] |= numbers
    layout = {
        "template": "none",
        "width": max(NARROWEST, round(COLUMN * columns) + MARGIN["l"] + MARGIN["r"]),
        "height": ROW * tree.candidates + MARGIN["t"] + MARGIN["b"],
        "margin": MARGIN,
        "paper_bgcolor": colours.paper,
        "plot_bgcolor": colours.card,
        "font": {"family": theme.SANS, "color": colours.ink, "size": 12},
        "title": {
            "text": f"<b>{escape(model_name(trace))}</b><br>"
            f"<span style='font-size:12px'>{legend(tree, colours)}</span>",
            "font": {"size": 16}, "x": 0, "xanchor": "left", "y": 1, "yanchor": "top", "pad": {"t": 16, "l": 20},
        },
        "showlegend": False,
        "hovermode": "closest",
    }  # fmt: skip
    return go.Figure(data=traces, layout=layout | axes)
