"""The plots of a report: every measure as its kind asks for, each in both themes, without the titles of figures.

A plot that cannot be drawn is left out with the reason, so that one strange measure costs no report.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from gentrace.errors import ViewError
from gentrace.studies import Study
from gentrace.views import by_step, contrast, distribution, head_map
from gentrace.views.study_sums import group_name

ASIDE = (".low", ".high", ".p", ".p_adjusted", ".count")
"""Columns that say how sure another one is."""
GROUPS = 8
"""Groups that one picture compares."""

Contrast = tuple[str, tuple[object, object] | None]
"""A factor, and its two values if it has more."""


@dataclass(frozen=True, slots=True, eq=False)
class Plot:
    """One picture."""

    title: str
    note: str
    """What the numbers are, and of what."""
    measure: str
    model: str
    kind: str
    """"map", "contrast" or "curve"; the cells of the first two are heads."""
    light: dict[str, Any]
    dark: dict[str, Any]


def shown(study: Study) -> list[str]:
    """The measures worth a plot of their own."""
    return [name for name in study.measures if not name.endswith(ASIDE)]


def models(study: Study) -> list[str]:
    """The names of the study's models."""
    return [model["name"] for model in study.manifest["spec"]["models"]]


def groups_of(study: Study, column: str) -> list[Any]:
    """The values of a column that generations have."""
    return sorted({value for value in study.generations([column])[column] if value == value}, key=str)


def two_sided(study: Study) -> list[Contrast]:
    """All columns that part the study in two."""
    return [(column, None) for column in ("decoding", *study.factors) if len(groups_of(study, column)) == 2]


def plots(
    study: Study, contrasts: Sequence[Contrast], units: str, level: float, most: int
) -> tuple[list[Plot], list[str]]:
    """All plots, up to a number, and what was left out."""
    found: list[Plot] = []
    left: list[str] = []
    tasks = list(_tasks(study, contrasts, units, level))
    for title, measure, model, kind, draw in tasks[:most]:
        try:
            light, dark = draw(False), draw(True)
        except ViewError as error:
            left.append(f"{title}: {error}")
            continue
        found.append(_plot(title, measure, model, kind, light, dark))
    if len(tasks) > most:
        left.append(f"{len(tasks) - most} more plots would not fit: raise most_plots, or ask for fewer contrasts")
    return found, left


Task = tuple[str, str, str, str, Callable[[bool], Any]]


def _tasks(study: Study, contrasts: Sequence[Contrast], units: str, level: float) -> Iterator[Task]:
    """Title, measure, model, kind, and the function that draws, of each plot."""
    settings = len(groups_of(study, "decoding"))
    parting = [name for name in study.factors if 2 <= len(groups_of(study, name)) <= GROUPS]
    sides: list[str | None] = [*(["decoding"] if 2 <= settings <= GROUPS else []), *parting]
    for measure in shown(study):
        table, _, stepwise = study.measures[measure]
        for model in models(study):
            where = {"model": model}
            shared: dict[str, Any] = {"units": units, "where": where, "level": level}
            of = f" · {model}" if len(models(study)) > 1 else ""

            def bind(function: Callable[..., Any], *arguments: Any, **more: Any) -> Callable[[bool], Any]:
                return lambda dark: function(study, *arguments, dark=dark, **more)

            if table == "heads":
                yield f"{measure} by head{of}", measure, model, "map", bind(head_map, measure, **shared)
            else:
                for by in sides or [None]:
                    words = f"{measure} by {by}{of}" if by else f"{measure}{of}"
                    yield words, measure, model, "curve", bind(distribution, measure, by=by, **shared)
            if table == "tokens" or stepwise:
                by = "decoding" if "decoding" in sides else next(iter(sides), None)
                yield f"{measure} along the text{of}", measure, model, "curve", bind(by_step, measure, by=by, **shared)
            for factor, values in contrasts:
                if table == "heads":
                    for value in _sides(study, factor, values):
                        title = f"{measure} by head, {factor} = {group_name(value)}{of}"
                        own = shared | {"where": where | {factor: value}}
                        yield title, measure, model, "map", bind(head_map, measure, **own)
                    names = f": {values[0]} against {values[1]}" if values else ""
                    title = f"{measure}, what {factor} changes{names}{of}"
                    yield title, measure, model, "contrast", bind(contrast, measure, factor, values, **shared)


def _sides(study: Study, factor: str, values: tuple[object, object] | None) -> list[Any]:
    """The two values of a factor that was asked for by name, as rows have them."""
    if values is None or factor not in ("decoding", "seed", *study.factors):
        return []
    known = {group_name(value): value for value in groups_of(study, factor)}
    return [known[str(value)] for value in values if str(value) in known]


def _plot(title: str, measure: str, model: str, kind: str, light: Any, dark: Any) -> Plot:
    note = str(light.layout.title.subtitle.text).replace("<br>", "\n")
    for old, new in (("&lt;", "<"), ("&gt;", ">"), ("&amp;", "&")):
        note = note.replace(old, new)
    name = str(light.layout.title.text)
    if kind == "contrast":
        end = name.rpartition(", ")[2].partition(": ")[2]
        title = f"{title}: {end}" if end and end not in title else title
    return Plot(title, note, measure, model, kind, _bare(light), _bare(dark))


def _bare(figure: Any) -> dict[str, Any]:
    """A figure without its title, whose words stand above it on the page."""
    found: dict[str, Any] = json.loads(figure.to_json())
    layout: dict[str, Any] = found["layout"]
    del layout["title"]
    top = 46 if "coloraxis" in layout else 30 if layout.get("showlegend") else 10
    layout["height"] -= layout["margin"]["t"] - top
    layout["margin"]["t"] = top
    layout["paper_bgcolor"] = layout["plot_bgcolor"] = "rgba(0,0,0,0)"
    return {"data": found["data"], "layout": layout}
