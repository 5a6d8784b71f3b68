"""From a study's tables to what a figure shows, as plain data: one value a unit, group and cell.

A view does not know who made a study, and asks only for what `Tables` names. A unit is what is independent: by default
a prompt, whose generations with other seeds or settings are averaged first. Tables are read piece by piece, so that a
study may be larger than the memory; what is kept is one number for each unit, group and cell.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
from jaxtyping import Float64

from gentrace.analysis.statistics import cell_means
from gentrace.errors import ViewError
from gentrace.views.study_sums import Array, Cell, Places, Sums, members_of

if TYPE_CHECKING:
    import pandas as pd

WHOSE = ("generation", "model", "decoding", "seed", "prompt_id")
"""What every table says of a row, beside the prompts' factors."""
BUILT_IN = {
    "logprob": ("tokens", "nats", False),
    "sampled_logprob": ("tokens", "nats", False),
    "entropy": ("tokens", "nats", False),
    "rank": ("tokens", "places", False),
    "new_tokens": ("generations", "tokens", False),
    "prompt_tokens": ("generations", "tokens", False),
}
"""Columns that every study has and that can be shown like a measure: table, unit, step by step."""
Where: TypeAlias = Mapping[str, Any] | None
"""Column → a value, a list of values, or a ``(low, high)`` tuple, as `gentrace.open_study(…).heads` takes them."""
Frame: TypeAlias = Any
"""A pandas frame or series, whose types are too loose to be checked."""


class Tables(Protocol):
    """What a view needs of a study; `gentrace.open_study` gives one."""

    @property
    def manifest(self) -> Mapping[str, Any]:
        """At least its "name", and the specification's models as ``["spec"]["models"]``."""
        ...

    @property
    def factors(self) -> tuple[str, ...]:
        """Columns that the prompts are compared by; every table has them."""
        ...

    @property
    def measures(self) -> Mapping[str, tuple[str, str, bool]]:
        """Measure → the table that has its column, its unit, and whether a head's values are there step by step."""
        ...

    def generations(self, columns: Sequence[str] | None = None, **where: Any) -> "pd.DataFrame":
        """One row a generation."""
        ...

    def batches(self, table: str, columns: Sequence[str] | None = None, **where: Any) -> Iterator["pd.DataFrame"]:
        """A table piece by piece."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """The values of all units of one group."""

    name: str
    """The group's value, as text."""
    units: tuple[str, ...]
    values: Float64[np.ndarray, "unit cell"]
    """NaN where a unit says nothing of a cell."""


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """A measure of a study, ready to be summarized."""

    study: str
    measure: str
    unit: str
    """Unit of the values."""
    table: str
    each: str
    """The column whose values are the units."""
    cells: tuple[Cell, ...]
    groups: tuple[Group, ...]

    @property
    def each_word(self) -> str:
        """What a unit is called in a sentence."""
        return {"prompt_id": "prompt"}.get(self.each, self.each)

    @property
    def several(self) -> str:
        """What units are called in a sentence."""
        word = self.each_word
        return word[:-1] + "ies" if word.endswith("y") else word + "s"


@dataclass(frozen=True, slots=True, eq=False)
class Means:
    """Of each cell the mean over units, and its bootstrap interval."""

    mean: Float64[np.ndarray, " cell"]
    low: Float64[np.ndarray, " cell"]
    high: Float64[np.ndarray, " cell"]
    count: Float64[np.ndarray, " cell"]
    """Units that say something."""


def find_measure(study: Tables, measure: str) -> tuple[str, str, bool]:
    """The table that has a measure, its unit, and whether it was kept step by step.

    Raises:
        ViewError: If the study has no such measure.
    """
    found = study.measures.get(measure) or BUILT_IN.get(measure)
    if found is None:
        known = ", ".join([*study.measures, *BUILT_IN])
        raise ViewError(f"showing {measure!r} of a study", f"it has {known}", "choose one of them")
    return found[0], found[1], found[2]


def read_sample(
    study: Tables,
    measure: str,
    *,
    by: str | None = None,
    units: str = "prompt_id",
    where: Where = None,
    cells: bool = True,
) -> Sample:
    """Read a measure of a study.

    Args:
        study: The study.
        measure: A measure's column, or one of `BUILT_IN`. Of tokens only the generated ones count, unless ``where``
            says otherwise.
        by: A column that makes groups: a factor, "model", "decoding", "seed", or a column of the generations.
        units: The column whose values are the units.
        where: Which rows to read.
        cells: Whether a measure of heads keeps its heads apart; else it is averaged over those read.

    Raises:
        ViewError: If there is no such measure or column, nothing to show, or heads of several models.
    """
    table, unit, _ = find_measure(study, measure)
    apart = cells and table == "heads"
    own = ["layer", "head"] if apart else []
    found = _values_of(study, table, measure, own, by, units, where)
    return Sample(str(study.manifest["name"]), measure, unit, table, units, *found)


def read_steps(
    study: Tables, measure: str, *, by: str | None = None, units: str = "prompt_id", where: Where = None
) -> Sample:
    """Read a measure along the text: a cell for each generated token, 0 for the first.

    A token's own measure stands at its step. What a head did stands at the step of the token that its row predicts.
    Heads are averaged over those read.

    Args:
        study: The study.
        measure: A measure of tokens, or one of heads that was kept step by step.
        by: A column that makes groups.
        units: The column whose values are the units.
        where: Which rows to read.

    Raises:
        ViewError: If the measure has no steps, or there is nothing to show.
    """
    table, unit, stepwise = find_measure(study, measure)
    if table == "generations" or (table == "heads" and not stepwise):
        seen = "it has one number a generation" if table == "generations" else "only means over the text were kept"
        raise ViewError(f"showing {measure} step by step", seen, "run the study with keep.steps = true")
    found = _values_of(study, table, measure, ["step"], by, units, where)
    return Sample(str(study.manifest["name"]), measure, unit, table, units, *found)


def means(group: Group, level: float = 0.95) -> Means:
    """The mean of each cell over units, with a bootstrap interval (BCa, Efron 1987)."""
    return Means(*cell_means(group.values, level=level))


def grid(cells: Sequence[Cell], values: Float64[np.ndarray, " cell"]) -> tuple[list[int], list[int], np.ndarray]:
    """Values of heads as layers, heads and a table of both; NaN where a layer has no such head."""
    layers, heads = sorted({cell[0] for cell in cells}), sorted({cell[1] for cell in cells})
    table = np.full((len(layers), len(heads)), np.nan)
    for (layer, head), value in zip(cells, values, strict=True):
        table[layers.index(layer), heads.index(head)] = value
    return layers, heads, table


def number(value: float) -> str:
    """A number with three significant digits and a real minus sign."""
    if np.isnan(value):
        return "—"
    shown = f"{value:.3g}" if 1e-4 <= abs(value) < 1e5 or not value else f"{value:.1e}"
    return shown.replace("-", "−")


def _values_of(
    study: Tables,
    table: str,
    measure: str,
    own: list[str],
    by: str | None,
    units: str,
    where: Where,
) -> tuple[tuple[Cell, ...], tuple[Group, ...]]:
    """The mean of each unit, group and cell; first of each generation, so that a long text counts no more than a short.

    The tables are read once, piece by piece; in memory are a row of sums for each unit and group, and for each
    generation only where its own rows must be averaged first.
    """
    attempted = f"showing {measure} of the study {study.manifest['name']}"
    asked = dict(where or {})
    if table == "tokens":
        asked.setdefault("generated", True)
    if table == "heads" and len(study.manifest["spec"]["models"]) > 1 and "model" not in asked and "layer" in own:
        names = ", ".join(model["name"] for model in study.manifest["spec"]["models"])
        raise ViewError(attempted, f"it has heads of {names}", 'choose one with where={"model": …}')
    steps = own == ["step"]
    members = members_of(study, units, by, begins=steps)
    series = steps and table == "heads"
    read = ["generation", f"{measure}.steps" if series else measure, *(["position"] if steps else own)]
    if series:
        read.remove("position")
    # With cells of its own, a generation has one row a cell, and its mean is the row itself.
    own_rows = bool(own) and not series
    sums = Sums(len(members.units) if own_rows else len(members.row))
    for piece in study.batches(table, read, **asked):
        which = members.places(piece["generation"])
        values: Frame = piece[read[1]]
        if series:
            which, step, numbers = _head_steps(values, which, members.begins)
        else:
            numbers = values.to_numpy(dtype=np.float64, na_value=np.nan)
            step = piece["position"].to_numpy() - members.begins[which] if steps else None
        cells = step[:, None] if step is not None else piece[own].to_numpy(dtype=np.int64)
        known = (members.row[which] >= 0) & ~np.isnan(numbers)
        rows = members.row[which] if own_rows else which
        sums.add(rows[known], cells[known], numbers[known])
    if not own_rows:
        sums = sums.folded(members.row, len(members.units))
    if not len(sums.places):
        raise ViewError(attempted, "no row fits, or the measure is known for none", "look at failures(), or ask wider")
    cells, values, used = sums.means()
    groups: list[Group] = []
    for name, rows in members.groups:
        some = np.flatnonzero(used[rows.start : rows.stop]) + rows.start
        if len(some):
            part = values[rows.start : rows.stop] if len(some) == len(rows) else values[some]
            groups.append(Group(name, tuple(members.units[place] for place in some), part))
    return cells, tuple(groups)


def _head_steps(values: Frame, which: Places, begins: Places) -> tuple[Places, Places, Array]:
    """Generation, step and value of each step, of rows with the values of all positions."""
    kept = np.flatnonzero(values.notna().to_numpy())
    series = [values.iloc[place][max(begins[which[place]] - 1, 0) :] for place in kept]
    counts = [len(one) for one in series]
    step = np.concatenate([np.arange(count) for count in counts]) if series else np.zeros(0, np.int64)
    found = np.concatenate(series).astype(np.float64) if series else np.zeros(0)
    return np.repeat(which[kept], counts), step, found
