"""From the columns of a recording to the positions of one sequence in it.

A batch is padded, so a sequence's first token may stand in any column, and padding may lie between. What is written
while a generation goes on is written in columns; only a reader numbers the sequence's own positions.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

POSITION_AXIS, ENCODER_AXIS = "p", "e"


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns of a file are a sequence's positions; the others are padding."""

    runs: tuple[tuple[int, int | None], ...] = ((0, None),)
    """First column and one past the last; None for no end."""

    @classmethod
    def of(cls, given: Any) -> "Columns":
        """Check what a body says.

        Raises:
            ValueError: If it is not ascending pairs.
        """
        runs = tuple((first, math.inf if stop is None else stop) for first, stop in given)
        edges = [edge for run in runs for edge in run]
        if edges != sorted(edges) or any(type(first) is not int or first < 0 for first, _ in runs):
            raise ValueError(f"the columns {given!r:.80} are not runs")
        return cls(tuple((int(first), None if stop == math.inf else int(stop)) for first, stop in runs))

    def count(self, stop: int) -> int:
        """How many positions lie before a column."""
        return sum(max(0, (stop if last is None else min(last, stop)) - first) for first, last in self.runs)

    def first(self, count: int) -> list[tuple[int, int]]:
        """The runs of columns that the first ``count`` positions are in.

        Raises:
            ValueError: If there are not so many.
        """
        found: list[tuple[int, int]] = []
        for first, last in self.runs:
            taken = count if last is None else min(count, last - first)
            if taken > 0:
                found.append((first, first + taken))
                count -= taken
        if count:
            raise ValueError(f"{count} positions more than columns")
        return found

    def stop(self, count: int) -> int:
        """One past the column of the last of ``count`` positions; 0 if there are none."""
        return max((last for _, last in self.first(count)), default=0)

    def positions(self, edges: Tensor, count: int) -> Tensor:
        """Columns as positions, for edges of runs: how many of the first ``count`` positions lie before each."""
        place = torch.zeros_like(edges)
        for first, last in self.first(count):
            place += (edges - first).clamp(0, last - first)
        return torch.where(edges < 0, edges, place)


@dataclass(frozen=True, slots=True)
class View:
    """What is to be seen of a file."""

    length: int
    """Positions that were fed to the model."""
    tokens: int
    """Positions that have a token."""
    encoder: int
    """Positions of the encoder."""
    columns: Columns
    encoder_columns: Columns
    axes: Mapping[str, str]
    """Per tensor one letter an axis: "p" for positions, "e" for the encoder's, "." for an axis that does not grow."""
    sees_encoder: frozenset[str] = frozenset()
    """Masks whose keys are the encoder's positions, as their names begin."""
    names: frozenset[str] = field(default_factory=frozenset)
    """The trace's tensors; those that the file lacks are unknown."""

    def of(self, name: str, axis: str) -> tuple[Columns, int]:
        """The columns and the number of positions along an axis of a tensor."""
        if axis == ENCODER_AXIS:
            return self.encoder_columns, self.encoder
        return self.columns, self.tokens if name.startswith("tokens.") else self.length
