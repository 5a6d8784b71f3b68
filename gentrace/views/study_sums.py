"""Adding up a study's rows as they come, in memory that does not grow with their number.

A generation belongs to one unit and one group, which its own table says, so every place is known before the first row
of a larger table is read. A row is then added where it belongs and forgotten.
"""

from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Bool, Float64, Int
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float64]
Places: TypeAlias = NDArray[np.int64]
Cell: TypeAlias = tuple[int, ...]
"""``(layer, head)``, ``(step,)``, or ``()`` for a measure that has one number a unit."""


@dataclass(frozen=True, slots=True, eq=False)
class Members:
    """Where each generation's rows go."""

    index: Any
    """pandas' index of the generations' names."""
    row: Int[np.ndarray, " generation"]
    """The row of its unit and group; −1 if it has none."""
    begins: Int[np.ndarray, " generation"]
    """How many tokens its prompt has, if that was asked for."""
    units: tuple[str, ...]
    """The unit of each row."""
    groups: tuple[tuple[str, range], ...]
    """The groups in their order, and the rows of each."""

    def places(self, names: Any) -> Places:
        """The number of the generation of each row of a piece."""
        found = names.astype("category").cat
        known: Places = self.index.get_indexer(found.categories)
        return known[found.codes.to_numpy()]


def members_of(study: Any, units: str, by: str | None, *, begins: bool) -> Members:
    """Read where each generation belongs.

    Args:
        study: The study.
        units: The column whose values are the units.
        by: The column whose values are the groups; None for one group without a name.
        begins: Whether to read how long the prompts are.
    """
    import pandas as pd

    asked = dict.fromkeys(["generation", units, *([by] if by else []), *(["prompt_tokens"] if begins else [])])
    frame = study.generations(list(asked))
    told = frame[[units, *([by] if by else [])]].notna().all(axis=1).to_numpy()
    names, unit = np.unique(frame[units].astype(str).to_numpy(dtype=str), return_inverse=True)
    named, group = np.unique([group_name(value) if by else "" for value in frame[by or units]], return_inverse=True)
    order = sorted(range(len(named)), key=lambda place: _natural(str(named[place])))
    rank = np.argsort(order)
    pairs, row = np.unique(np.where(told, rank[group] * len(names) + unit, -1), return_inverse=True)
    if len(pairs) and pairs[0] < 0:
        pairs, row = pairs[1:], row - 1
    ends = np.searchsorted(pairs, np.arange(len(order) + 1) * max(len(names), 1))
    groups = tuple((str(named[place]), range(ends[n], ends[n + 1])) for n, place in enumerate(order))
    first = frame["prompt_tokens"].to_numpy(dtype=np.int64) if begins else np.zeros(len(frame), np.int64)
    each = names[pairs % max(len(names), 1)] if len(pairs) else names[:0]
    return Members(pd.Index(frame["generation"].astype(str)), row, first, tuple(each.tolist()), groups)


def group_name(value: Any) -> str:
    """A group's value as text; whole numbers without a point."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _natural(name: str) -> tuple[int, float, str]:
    """Numbers in their order, then words in theirs."""
    try:
        return 0, float(name), name
    except ValueError:
        return 1, 0.0, name


@dataclass(slots=True, eq=False)
class Sums:
    """Sums and counts of rows and cells; a cell is there from the first value that it gets."""

    rows: int
    places: dict[Cell, int] = field(default_factory=dict[Cell, int])
    """Cell → its column."""
    total: Float64[np.ndarray, "row cell"] = field(init=False)
    count: Int[np.ndarray, "row cell"] = field(init=False)

    def __post_init__(self) -> None:
        self.total, self.count = np.zeros((self.rows, 0)), np.zeros((self.rows, 0), np.uint32)

    def add(self, rows: Places, cells: Places, values: Array) -> None:
        """Add values.

        Args:
            rows: ``[value]`` the row of each.
            cells: ``[value, number]`` the numbers that name its cell.
            values: ``[value]``, none of them NaN.
        """
        if not len(values):
            return
        named, which = _distinct(cells)
        for cell in named:
            self.places.setdefault(cell, len(self.places))
        missing = len(self.places) - self.total.shape[1]
        if missing > 0:
            # Twice as many as there are, so that a text which grows step by step is not copied at each step.
            more = missing if not self.total.shape[1] else max(missing, self.total.shape[1])
            self.total = np.pad(self.total, ((0, 0), (0, more)))
            self.count = np.pad(self.count, ((0, 0), (0, more)))
        column = np.array([self.places[cell] for cell in named])[which]
        np.add.at(self.total, (rows, column), values)
        np.add.at(self.count, (rows, column), 1)

    def folded(self, row: Places, rows: int) -> "Sums":
        """Each row's means, added up where they belong: ``row[place]`` of ``rows``, nowhere if negative."""
        found = Sums(rows, dict(self.places))
        width = self.total.shape[1]
        found.total, found.count = np.zeros((rows, width)), np.zeros((rows, width), np.uint32)
        kept = row >= 0
        some = self.count[kept] > 0
        np.add.at(found.total, row[kept], np.where(some, self.total[kept] / np.maximum(self.count[kept], 1), 0.0))
        np.add.at(found.count, row[kept], some.astype(np.uint32))
        return found

    def means(self) -> tuple[tuple[Cell, ...], Float64[np.ndarray, "row cell"], Bool[np.ndarray, " row"]]:
        """The cells in their order, the mean of each row and cell or NaN, and which rows have any value.

        The sums are turned into the means where they are, and are gone.
        """
        cells = sorted(self.places)
        used = np.asarray(self.count.any(1))
        with np.errstate(invalid="ignore"):
            np.divide(self.total, self.count, out=self.total)
        order = [self.places[cell] for cell in cells]
        same = order == list(range(self.total.shape[1]))
        return tuple(cells), self.total if same else self.total[:, order], used


def _distinct(cells: Places) -> tuple[list[Cell], Places]:
    """The cells that occur, and for each row of ``[value, number]`` which of them it is."""
    if not cells.shape[1]:
        return [()], np.zeros(len(cells), np.int64)
    low = cells.min(0)
    span = tuple((cells.max(0) - low + 1).tolist())
    known, which = np.unique(np.ravel_multi_index(tuple((cells - low).T), span), return_inverse=True)
    return [tuple(cell) for cell in (np.stack(np.unravel_index(known, span), 1) + low).tolist()], which
