"""Which generations a report replays, and where in them each number of a head is best seen.

Typical is what is near the middle of the study in everything that was measured. A generation's distance is taken over
all measures and heads, each in units of its own spread over generations, each measure counting alike.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gentrace.analysis import Measure, evaluate, measures
from gentrace.errors import GentraceError, ViewError
from gentrace.explorer.plan import BUDGET
from gentrace.studies import Study
from gentrace.studies.measuring import summed_up
from gentrace.trace.trace import Trace
from gentrace.views.study_tables import read_sample

ALWAYS = ("logprob", "entropy")
"""Columns that are always counted in, whatever was measured."""
LEAST = 2
"""Replays that are kept even if their matrices must be made small to fit."""


@dataclass(frozen=True, slots=True, eq=False)
class Replay:
    """A generation that the report carries."""

    number: int
    """As in the study's table of generations."""
    generation: str
    model: str
    trace: Trace
    why: str
    """"most typical" or "least typical"."""


@dataclass(frozen=True, slots=True)
class Target:
    """A place in the report's replays."""

    trace: int
    layer: int
    head: int
    step: int
    """The query position that is shown."""


def distances(study: Study, model: str) -> dict[str, float]:
    """How far each generation of a model is from the middle; the smallest is the most typical.

    Args:
        study: The study.
        model: Which of its models.

    Returns:
        Generation → root of the mean squared z-score, measures counting alike.
    """
    totals: dict[str, list[float]] = {}
    for measure in (*study.measures, *ALWAYS):
        try:
            sample = read_sample(study, measure, units="generation", where={"model": model})
        except ViewError:
            continue
        group = sample.groups[0]
        known = np.isfinite(group.values)
        count = np.maximum(known.sum(0), 1)
        mean = np.where(known, group.values, 0).sum(0) / count
        spread = np.sqrt(np.where(known, (group.values - mean) ** 2, 0).sum(0) / count)
        used = known & (spread > 1e-12)
        squares = np.where(used, (group.values - mean) / np.where(spread > 1e-12, spread, 1), 0) ** 2
        for place, unit in enumerate(group.units):
            if used[place].any():
                totals.setdefault(unit, []).append(float(squares[place].sum() / used[place].sum()))
    return {unit: float(np.sqrt(np.mean(found))) for unit, found in totals.items()}


def choose(study: Study, found: Mapping[str, Mapping[str, float]], most: int, budget: int = BUDGET) -> list[Replay]:
    """Generations to replay: by turns the most and the least typical of each model, as many as fit.

    Args:
        study: The study.
        found: Model → what `distances` says of it.
        most: How many at most, for each model.
        budget: Bytes of all matrices together.
    """
    if not study.manifest["spec"]["keep"]["traces"]:
        return []
    rows: Any = study.generations(["generation", "model", "trace"])
    kept = {row.generation: (int(number), row.model) for number, row in rows[rows["trace"]].iterrows()}
    chosen: list[Replay] = []
    size = 0
    for model, apart in found.items():
        order = sorted((name for name in apart if name in kept), key=lambda name: (apart[name], kept[name][0]))
        turns = min(most, len(order))
        picked = [order[place // 2] if place % 2 == 0 else order[-1 - place // 2] for place in range(turns)]
        for place, name in enumerate(picked):
            number = kept[name][0]
            trace = study.trace(number)
            cells = sum(info.heads for info in trace.layers) * trace.length * (trace.length + 1) // 2
            if place >= LEAST and size + cells > budget:
                break
            size += cells
            why = "most typical" if place % 2 == 0 else "least typical"
            chosen.append(Replay(number, name, model, trace, why))
    return sorted(chosen, key=lambda one: (one.model, one.why == "least typical"))


def start(replay: Replay) -> int:
    """The row that predicts the first generated token."""
    tokens = replay.trace.tokens
    return min(max(tokens.prompt_length - 1, 0), max(replay.trace.length - 1, 0))


def targets(study: Study, replays: Sequence[Replay], model: str) -> dict[str, dict[tuple[int, int], Target]]:
    """For each measure of heads and each head: the replay in which it is largest, and the row where it is largest.

    Rows come from computing a registered measure again on the replay. A user's function is not run by making a report,
    and a measure may have no rows; then it is the row that predicts the first generated token.
    """
    own = {replay.generation: place for place, replay in enumerate(replays) if replay.model == model}
    columns = [name for name, column in study.measures.items() if column.table == "heads"]
    if not own or not columns:
        return {}
    frame: Any = study.heads(["generation", "layer", "head", *columns], generation=list(own))
    found: dict[str, dict[tuple[int, int], Target]] = {}
    computed: dict[tuple[str, int], Measure | None] = {}
    for column in columns:
        known = frame[frame[column].notna()].sort_values(column, kind="stable")
        best = known.groupby(["layer", "head"]).tail(1)
        for row in best.to_dict("records"):
            place, layer, head = own[str(row["generation"])], int(row["layer"]), int(row["head"])
            if (column, place) not in computed:
                computed[column, place] = _rows(study, replays[place].trace, column)
            at = _largest(computed[column, place], layer, head)
            step = start(replays[place]) if at is None else at
            found.setdefault(column, {})[layer, head] = Target(place, layer, head, step)
    return found


def _rows(study: Study, trace: Trace, column: str) -> Measure | None:
    """A measure row by row, ``[layer, head, query]``; None if it has no rows or is not ours."""
    for spec in study.spec.measures:
        if column == spec.column or column.startswith(f"{spec.column}."):
            name, known = spec.measure, measures()
            mass = name.removesuffix("_score") + "_mass"
            name = mass if name.endswith("_score") and mass in known else name
            if name not in known:
                return None
            try:
                found = summed_up(evaluate(trace, name, **spec.options), trace.tokens.prompt_length)
            except GentraceError:
                return None
            label = column.removeprefix(spec.column).removeprefix(".")
            if label and "span" in found.axes:
                found = found.select(span=label)
            return found if set(found.axes) == {"layer", "head", "query"} else None
    return None


def _largest(found: Measure | None, layer: int, head: int) -> int | None:
    if found is None:
        return None
    row: Any = found.select(layer=layer, head=head)
    # Row 0 sees nothing but itself, whatever the head does.
    values = np.where(np.asarray(row.coordinates["query"]) == 0, np.nan, row.values)
    if np.isnan(values).all():
        return None
    return int(row.coordinates["query"][int(np.nanargmax(values))])
