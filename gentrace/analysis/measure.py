"""A measured quantity with its axes, labels and unit, so that a number never travels without saying what it is.

Axes carry the house's words. ``layer``, ``head``, ``query``, ``key`` and ``position`` count as a trace counts; besides
them a measure may have ``span`` (names of parts of the text), ``statistic`` (names of figures) and ``other_layer``,
``other_head`` (the second of two heads). Along ``query`` stands the position that looks: row p is token p looking back,
and it predicts token p + 1. Along ``position`` stands a token; what is said of it was predicted at row position − 1.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gentrace.analysis.errors import MeasureError

if TYPE_CHECKING:
    import pandas as pd

Label: TypeAlias = int | str
Array: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, eq=False, repr=False)
class Measure:
    """One quantity, measured."""

    name: str
    """What was measured."""
    values: Array
    """[*axes] float64, read-only; NaN where nothing is known."""
    axes: tuple[str, ...]
    """The axes' names, in the order of ``values``."""
    unit: str
    """Unit of the values; for "statistic" axes of mixed units it says so."""
    coordinates: Mapping[str, tuple[Label, ...]]
    """For each axis the labels along it: the model's own layer numbers, positions, names."""
    unseen: int = 0
    """Rows that were asked for and that the trace never saw, summed over layers; left out of every mean."""
    blind: int = 0
    """Rows in which some head gave no weight to any key, summed over layers; NaN for that head."""
    absent: frozenset[tuple[int, int]] = field(default_factory=frozenset[tuple[int, int]])
    """(layer, head) of cells that stand for no head, in models whose layers differ in their number of heads."""

    def __post_init__(self) -> None:
        values = np.array(self.values, dtype=np.float64)
        values.setflags(write=False)
        object.__setattr__(self, "values", values)
        strange = set(self.coordinates) - set(self.axes)
        coordinates = {axis: tuple(self.coordinates.get(axis, ())) for axis in self.axes}
        object.__setattr__(self, "coordinates", coordinates)
        expected = tuple(len(labels) for labels in coordinates.values())
        if len(coordinates) != len(self.axes) or values.shape != expected or strange:
            raise MeasureError(
                f"making the measure {self.name}",
                f"values of shape {values.shape} for axes {self.axes} with {expected} labels",
                "name each axis once and give one label for each place along it",
            )

    def __repr__(self) -> str:
        sizes = ", ".join(f"{axis}: {len(self.coordinates[axis])}" for axis in self.axes)
        return f"<Measure {self.name} [{sizes}] in {self.unit}>"

    def __getitem__(self, labels: Label | tuple[Label, ...]) -> "Measure":
        """Select along the first axes by label: ``entropy[3, 1]`` is head 1 of the model's layer 3."""
        labels = labels if isinstance(labels, tuple) else (labels,)
        return self.select(**dict(zip(self.axes, labels, strict=False)))

    def __float__(self) -> float:
        if self.values.size != 1:
            raise MeasureError(f"reading {self.name} as one number", f"it is {self!r}", "select or average first")
        return float(self.values.reshape(()))

    def select(self, **labels: Label | Sequence[Label]) -> "Measure":
        """The measure at chosen labels.

        Args:
            **labels: For an axis one label, which removes the axis, or several, which keep it in their order. One layer
                alone has only the heads that it really has.

        Returns:
            A new measure.

        Raises:
            MeasureError: If there is no such axis or label.
        """
        values, axes, coordinates = self.values, list(self.axes), dict(self.coordinates)
        for axis, wanted in self._of_real_heads(labels).items():
            if axis not in axes:
                raise MeasureError(f"selecting {axis} of {self.name}", f"its axes are {self.axes}", "name one of them")
            single = isinstance(wanted, int | str | np.integer)
            places = [self._place(axis, label) for label in ([wanted] if single else wanted)]
            at = axes.index(axis)
            values = np.asarray(values.take(places[0] if single else places, axis=at))
            if single:
                del axes[at], coordinates[axis]
            else:
                coordinates[axis] = tuple(self.coordinates[axis][place] for place in places)
        kept = self.absent if {"layer", "head"} <= set(axes) else frozenset[tuple[int, int]]()
        return replace(self, values=values, axes=tuple(axes), coordinates=coordinates, absent=kept)

    def mean(self, *axes: str) -> "Measure":
        """The mean over axes, ignoring NaN; NaN where nothing is known.

        Args:
            *axes: Axes to average over, all of them if none is named.

        Raises:
            MeasureError: If there is no such axis.
        """
        axes = axes or self.axes
        if not set(axes) <= set(self.axes):
            raise MeasureError(f"averaging {self.name} over {axes}", f"its axes are {self.axes}", "name some of them")
        places = tuple(self.axes.index(axis) for axis in axes)
        known = ~np.isnan(self.values)
        count = known.sum(places)
        total = np.where(known, self.values, 0.0).sum(places)
        values = np.asarray(np.divide(total, count, out=np.full(np.shape(total), np.nan), where=count > 0))
        left = tuple(axis for axis in self.axes if axis not in axes)
        kept = self.absent if {"layer", "head"} <= set(left) else frozenset[tuple[int, int]]()
        coordinates = {axis: self.coordinates[axis] for axis in left}
        return replace(self, values=values, axes=left, coordinates=coordinates, absent=kept)

    def to_pandas(self) -> "pd.DataFrame":
        """Long form: one row a value, a column for each axis and ``value``; absent heads are left out.

        The name and the unit are in the frame's ``attrs``.
        """
        import pandas as pd

        grids = np.indices(self.values.shape).reshape(len(self.axes), self.values.size)
        columns = {
            axis: np.asarray(self.coordinates[axis])[grid] if len(self.coordinates[axis]) else grid
            for axis, grid in zip(self.axes, grids, strict=True)
        }
        frame = pd.DataFrame({**columns, "value": self.values.reshape(-1)})
        for layer, head in (("layer", "head"), ("other_layer", "other_head")):
            if self.absent and {layer, head} <= set(self.axes):
                real = [pair not in self.absent for pair in zip(frame[layer], frame[head], strict=True)]
                frame = frame.loc[real].reset_index(drop=True)
        frame.attrs.update(name=self.name, unit=self.unit)
        return frame

    def _of_real_heads(self, labels: Mapping[str, Label | Sequence[Label]]) -> dict[str, Label | Sequence[Label]]:
        """The labels asked for, and of a single layer the heads that it has."""
        layer, wanted = labels.get("layer"), dict(labels)
        absent = {head for index, head in self.absent if index == layer}
        if not absent or "head" not in self.axes:
            return wanted
        real = [head for head in self.coordinates["head"] if head not in absent]
        asked = wanted.setdefault("head", real)
        for head in [asked] if isinstance(asked, int | str) else asked:
            if head not in real:
                raise MeasureError(
                    f"selecting head {head} of layer {layer} of {self.name}", f"there are {real}", "choose among them"
                )
        return wanted

    def _place(self, axis: str, label: Label) -> int:
        labels = self.coordinates[axis]
        if label not in labels:
            shown = ", ".join(map(str, labels[:12])) + (" …" if len(labels) > 12 else "")
            raise MeasureError(f"selecting {axis} {label} of {self.name}", f"there are {shown}", "choose among them")
        return labels.index(label)
