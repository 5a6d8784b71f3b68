"""From a study's tables to what a figure shows, as plain data: one value a unit, group and cell.

A view does not know who made a study, and asks only for what `Tables` names. A unit is what is independent: by default
a prompt, whose generations with other seeds or settings are averaged first. Tables are read piece by piece, so that a
study may be larger than the memory; what is kept is one number for each generation and cell.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
from jaxtyping import Float64

from gentrace.analysis import Measure, summarize
from gentrace.errors import ViewError

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
MERGE = 1_000_000
"""Rows of partial sums after which they are put together."""

Where: TypeAlias = Mapping[str, Any] | None
"""Column → a value, a list of values, or a ``(low, high)`` tuple, as `gentrace.open_study(…).heads` takes them."""
Frame: TypeAlias = Any
"""A pandas frame or series, whose types are too loose to be checked."""
Cell: TypeAlias = tuple[int, ...]
"""``(layer, head)``, ``(step,)``, or ``()`` for a measure that has one number a unit."""


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
    frame = _means_of(study, table, measure, own, by, units, where)
    return _sample(study, measure, unit, table, units, own, frame)


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
    frame: Frame = study.generations(["generation", "prompt_tokens"])
    begins: Frame = frame.set_index("generation")["prompt_tokens"]
    steps = _token_steps if table == "tokens" else _head_steps
    frame = _means_of(study, table, measure, ["step"], by, units, where, lambda piece: steps(piece, measure, begins))
    return _sample(study, measure, unit, table, units, ["step"], frame)


def means(sample: Sample, group: Group, level: float = 0.95) -> Means:
    """The mean of each cell over units, with a bootstrap interval (BCa, Efron 1987)."""
    found = summarize(measures_of(sample, group), level=level)
    mean, low, high, count = (found.select(statistic=name).values for name in ("mean", "low", "high", "count"))
    return Means(mean, low, high, count)


def measures_of(sample: Sample, group: Group) -> list[Measure]:
    """A measure for each unit, over cells by number."""
    numbers = tuple(range(len(sample.cells)))
    return [Measure(sample.measure, row, ("cell",), sample.unit, {"cell": numbers}) for row in group.values]


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


def _means_of(
    study: Tables,
    table: str,
    measure: str,
    own: list[str],
    by: str | None,
    units: str,
    where: Where,
    unfold: Any = None,
) -> Frame:
    """The mean of each unit, group and cell; first of each generation, so that a long text counts no more than a short.

    Columns: ``unit``, ``group`` as text, those of ``own``, ``value``.
    """
    attempted = f"showing {measure} of the study {study.manifest['name']}"
    asked = dict(where or {})
    if table == "tokens":
        asked.setdefault("generated", True)
    if table == "heads" and len(study.manifest["spec"]["models"]) > 1 and "model" not in asked and "layer" in own:
        names = ", ".join(model["name"] for model in study.manifest["spec"]["models"])
        raise ViewError(attempted, f"it has heads of {names}", 'choose one with where={"model": …}')
    known = {*WHOSE, *study.factors}
    wanted = [column for column in dict.fromkeys((units, *([by] if by else []))) if column != "generation"]
    joined = [column for column in wanted if column not in known] if table != "generations" else []
    told: Frame = study.generations(["generation", *joined]).set_index("generation") if joined else None
    steps = own == ["step"]
    value = f"{measure}.steps" if steps and table == "heads" else measure
    read = ["generation", *(column for column in wanted if column not in joined), value]
    read += ["position"] if steps and table == "tokens" else [] if steps else own
    keys = ["generation", *wanted, *own]

    def pieces() -> Iterator[Frame]:
        for piece in study.batches(table, list(dict.fromkeys(read)), **asked):
            found: Frame = piece if told is None else piece.join(told, on="generation")
            yield unfold(found) if unfold is not None else found

    frame: Frame = _averaged(pieces(), keys, measure)
    if not len(frame):
        raise ViewError(attempted, "no row fits, or the measure is known for none", "look at failures(), or ask wider")
    again = [*wanted, *own] if units != "generation" else keys
    frame = frame.groupby(again, sort=True)["value"].mean().reset_index()
    frame["unit"] = frame[units].astype(str)
    frame["group"] = [group_name(value) for value in frame[by]] if by else ""
    return frame


def group_name(value: Any) -> str:
    """A group's value as text; whole numbers without a point."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _averaged(pieces: Iterable[Frame], keys: list[str], value: str) -> Frame:
    """Means over rows with the same keys, of any number of pieces."""
    import pandas as pd

    parts: list[Frame] = []
    for piece in pieces:
        known = piece[piece[value].notna()]
        parts.append(known.groupby(keys, sort=False, observed=True)[value].agg(["sum", "count"]))
        if sum(map(len, parts)) > MERGE:
            parts = [_added(parts, keys)]
    if not parts:
        return pd.DataFrame(columns=[*keys, "value"])
    total = _added(parts, keys)
    return (total["sum"] / total["count"]).rename("value").reset_index()


def _added(parts: list[Frame], keys: list[str]) -> Frame:
    """Partial sums and counts put together."""
    import pandas as pd

    both: Frame = pd.concat(parts)
    return both.groupby(level=keys, sort=False).sum()


def _token_steps(piece: Frame, measure: str, begins: Frame) -> Frame:
    return piece.assign(step=piece["position"].to_numpy() - begins.loc[piece["generation"]].to_numpy())


def _head_steps(piece: Frame, measure: str, begins: Frame) -> Frame:
    """One row a head and step, of rows with the values of all positions."""
    kept = piece[piece[f"{measure}.steps"].notna()]
    first = begins.loc[kept["generation"]].to_numpy() - 1
    series = [values[start:] for values, start in zip(kept[f"{measure}.steps"], first, strict=True)]
    found = kept.drop(columns=f"{measure}.steps").loc[kept.index.repeat([len(values) for values in series])]
    found["step"] = np.concatenate([np.arange(len(values)) for values in series]) if series else []
    found[measure] = np.concatenate(series).astype(np.float64) if series else []
    return found


def _sample(study: Tables, measure: str, unit: str, table: str, each: str, own: list[str], frame: Frame) -> Sample:
    order = frame[own].astype(int).drop_duplicates().sort_values(own) if own else frame[own]
    cells: list[Cell] = [tuple(row) for row in order.to_numpy().tolist()] if own else [()]
    numbered = order.assign(place=np.arange(len(order)))
    column = frame[own].astype(int).merge(numbered, on=own, how="left")["place"].to_numpy() if own else 0
    frame = frame.assign(place=column)
    groups: list[Group] = []
    for name, part in frame.groupby("group", sort=False):
        units, row = np.unique(part["unit"].to_numpy(dtype=str), return_inverse=True)
        values = np.full((len(units), len(cells)), np.nan)
        values[row, part["place"].to_numpy()] = part["value"].to_numpy()
        groups.append(Group(str(name), tuple(units.tolist()), values))
    groups.sort(key=lambda group: _natural(group.name))
    return Sample(str(study.manifest["name"]), measure, unit, table, each, tuple(cells), tuple(groups))


def _natural(name: str) -> tuple[int, float, str]:
    """Numbers in their order, then words in theirs."""
    try:
        return 0, float(name), name
    except ValueError:
        return 1, 0.0, name
