"""The report: one HTML file that needs nothing beside it, and opens offline.

The replays are the explorer's own page, carried inside and opened in a frame when a number is followed. A frame without
an address takes over the report's security policy, which therefore names the explorer's script too.
"""

import base64
import html
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from os import PathLike
from pathlib import Path
from string import Template
from typing import Any

from gentrace.explorer import explore
from gentrace.explorer.bundle import script as explorer_script
from gentrace.explorer.plan import BUDGET
from gentrace.reports import tables
from gentrace.reports.choosing import Replay, Target, choose, distances, start, targets
from gentrace.reports.facts import facts, failures, specification
from gentrace.reports.plots import Contrast, Plot, models, plots, two_sided
from gentrace.studies import Study
from gentrace.trace.file import write_atomically
from gentrace.views.inlined import plotly_script, policy_hash, script_json, theme_rules

REPLAYS = 6
"""Generations that a report replays, of each model."""
ROWS = 500
"""Generations that a report lists."""
PLOTS = 40
"""Plots of a report."""


@dataclass(frozen=True, eq=False, repr=False)
class Report:
    """A finished report; `write_html` makes a file of it."""

    title: str
    html: str
    """The whole page."""
    replays: tuple[int, ...]
    """Numbers of the generations that can be replayed in it."""

    def __repr__(self) -> str:
        return f"<Report on {self.title}: {len(self.html) / 1e6:.1f} MB, {len(self.replays)} replays>"

    def write_html(self, path: str | PathLike[str]) -> Path:
        """Write the page to a file, whole or not at all.

        Returns:
            The file's path.
        """
        written = Path(path)
        write_atomically(written, lambda part: part.write_text(self.html, "utf-8"))
        return written


def report(
    study: Study,
    path: str | PathLike[str] | None = None,
    *,
    finding: str | None = None,
    contrasts: Sequence[Contrast] | None = None,
    units: str = "prompt_id",
    level: float = 0.95,
    replays: int = REPLAYS,
    max_bytes: int = BUDGET,
    most_rows: int = ROWS,
    most_plots: int = PLOTS,
) -> Report:
    """One self-contained, offline page about a study: what was run, plots, tables, and replays behind the numbers.

    Each number of a table leads to a replay of its layer, head and step; so does each cell of a map of heads. Of the
    generations whose traces were kept, the most and the least typical are carried along; for the others the table
    says how to open their traces.

    Args:
        study: The study, from `gentrace.open_study`.
        path: Where to write the page too; None for not at all.
        finding: What was found, in words, to stand first; a line a paragraph.
        contrasts: Factors, each with two of its values or None, whose groups are compared; None for "decoding" and
            every factor that parts the prompts in two.
        units: The column whose values are independent of each other, and which says what belongs together in pairs.
        level: Coverage of intervals.
        replays: Generations that can be replayed, of each model.
        max_bytes: What the replays' matrices may take before they are deflated; fewer generations are carried if they
            do not fit.
        most_rows: Rows of the table of generations.
        most_plots: Plots at most.

    Returns:
        The page.

    Raises:
        StudyError: If the study cannot be read.
    """
    sides = two_sided(study) if contrasts is None else list(contrasts)
    apart = {model: distances(study, model) for model in models(study)}
    carried = choose(study, apart, replays, max_bytes)
    pictures, left = plots(study, sides, units, level, most_plots)
    places = {model: targets(study, carried, model) for model in models(study)}
    title = str(study.manifest["name"])
    body = _body(study, finding, sides, units, level, apart, carried, places, most_rows, left)
    data = {
        "plots": [
            {"kind": one.kind, "light": one.light, "dark": one.dark, "links": _links(one, places)} for one in pictures
        ],
        "names": [f"{one.number} · {one.why}" for one in carried],
    }
    page = _assemble(
        title,
        body | {"plots": "".join(map(_figure, range(len(pictures)), pictures))},
        data,
        _explorer(carried, max_bytes),
    )
    made = Report(title, page, tuple(one.number for one in carried))
    if path is not None:
        made.write_html(path)
    return made


def _body(
    study: Study,
    finding: str | None,
    sides: Sequence[Contrast],
    units: str,
    level: float,
    apart: dict[str, dict[str, float]],
    carried: list[Replay],
    places: dict[str, dict[str, dict[tuple[int, int], Target]]],
    most_rows: int,
    left: list[str],
) -> dict[str, str]:
    """The sections, as HTML."""
    last = {one.model: (one.trace.layers[-1].index, 0) for one in carried}
    all_apart = {name: value for found in apart.values() for name, value in found.items()}
    heads = "".join(tables.heads_table(study, model, places[model], carried, units, level) for model in models(study))
    cards = "".join(_card(study, one, place, last[one.model], all_apart) for place, one in enumerate(carried))
    about = _TYPICAL if carried else ""
    none = "" if carried else f"<p>{html.escape(_no_replays(study))}</p>"
    words = "".join(f"<p>{html.escape(line)}</p>" for line in (finding or "").splitlines())
    return {
        "finding": f'<section class="card finding" id="finding"><h2>Finding</h2>{words}</section>' if words else "",
        "facts": tables.plain(facts(study)) + specification(study),
        "left": "".join(f'<p class="note">{html.escape(line)}</p>' for line in left),
        "contrasts": _section("contrasts", "What differs", tables.contrast_table(study, sides, units, level)),
        "heads": _section("heads", "Heads", heads),
        "replays": _section("typical", "Most and least typical", f'{none}{about}<div class="cards">{cards}</div>'),
        "generations": _section(
            "generations", "Generations", tables.generations_table(study, all_apart, carried, last, most_rows)
        ),
        "failures": _section("failures", "Failures", failures(study)),
    }


_TYPICAL = (
    '<p class="note">Distance from the middle: the root of the mean squared z-score of everything measured, measures '
    "counting alike. Follow any number to its replay.</p>"
)


def _section(name: str, title: str, content: str) -> str:
    return f'<section class="card" id="{name}"><h2>{title}</h2>{content}</section>' if content else ""


def _no_replays(study: Study) -> str:
    if study.manifest["spec"]["keep"]["heads"]:
        return "Only chosen heads were kept, for study.attention(generation, layer, head); replays need whole traces."
    return "No traces were kept: run the study with keep.traces = true, and numbers will lead to replays."


def _card(study: Study, one: Replay, place: int, shown: tuple[int, int], apart: dict[str, float]) -> str:
    target = Target(place, *shown, start(one))
    heading = tables.link(f"generation {one.number}: {one.why}", target, "replay")
    far = tables.number(apart[one.generation])
    words = tables.quoted(one)
    rows = tables.tokens_table(study, one, place, *shown)
    return (
        f"<article><h3>{heading}</h3><p class='note'>distance {far} · {html.escape(one.model)}</p>"
        f"<blockquote>{words}</blockquote><details><summary>token by token</summary>{rows}</details></article>"
    )


def _figure(place: int, one: Plot) -> str:
    note = "<br>".join(html.escape(line) for line in one.note.splitlines())
    tall = int(one.light["layout"]["height"])
    hint = " Click a cell to replay that head." if one.kind != "curve" else ""
    return (
        f'<figure class="card" id="plot-{place}"><figcaption><h3>{html.escape(one.title)}</h3>'
        f'<p class="note">{note}.{hint}</p></figcaption>'
        f'<div class="plot" data-plot="{place}" style="min-height:{tall}px" role="img" '
        f'aria-label="{html.escape(one.title)}"></div></figure>'
    )


def _links(one: Plot, places: dict[str, dict[str, dict[tuple[int, int], Target]]]) -> dict[str, str]:
    """For each head of a map the address of its replay."""
    if one.kind == "curve":
        return {}
    found = places[one.model].get(one.measure, {})
    return {f"{layer}.{head}": f"{at.trace}.{layer}.{head}.{at.step}" for (layer, head), at in found.items()}


def _explorer(carried: list[Replay], max_bytes: int) -> str:
    """The explorer's page with all replays, deflated and in base64; empty without any."""
    if not carried:
        return ""
    named = {f"{one.number} · {one.why} · {one.model}": one.trace for one in carried}
    page = explore(named, max_bytes=max_bytes).html
    return base64.b64encode(zlib.compress(page.encode(), 6)).decode()


def _asset(name: str) -> str:
    return (files("gentrace.reports") / "assets" / name).read_text("utf-8")


def _style() -> str:
    """The style sheet, with both themes' colours in front."""
    return f"{theme_rules()}\n{_asset('report.css')}"


def _assemble(title: str, body: dict[str, str], data: dict[str, Any], explorer: str) -> str:
    code = _asset("report.js")
    plotly, plotly_hash = plotly_script()
    policy = (
        f"default-src 'none'; script-src {policy_hash(code)} {policy_hash(explorer_script())} {plotly_hash}; "
        "worker-src blob:; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
    )
    return Template(_asset("report.template")).substitute(
        policy=policy,
        title=html.escape(title),
        style=_style(),
        payload=script_json(data),
        plotly=plotly,
        explorer=explorer,
        script=code,
        **body,
    )
