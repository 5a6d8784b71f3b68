"""What differs between two groups of a study: the numbers behind `contrast`, cell by cell.

If the same units stand in both groups, such as every prompt under two decoding settings, they are compared in pairs.
Which test was used, and over what, travels with the numbers.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from gentrace.analysis.effects import cell_contrast
from gentrace.analysis.resampling import Plan
from gentrace.errors import ViewError
from gentrace.views.study_tables import Group, Sample, Tables, Where, read_sample

PAIRED = "Wilcoxon signed-rank test over pairs"
UNPAIRED = "Mann–Whitney U test"


@dataclass(frozen=True, slots=True, eq=False)
class Difference:
    """A contrast; figures are of the first group minus the second."""

    sample: Sample
    """The two groups; if paired, with the same units in the same order."""
    factor: str
    paired: bool
    level: float
    difference: Float64[np.ndarray, " cell"]
    low: Float64[np.ndarray, " cell"]
    high: Float64[np.ndarray, " cell"]
    d: Float64[np.ndarray, " cell"]
    """Cohen's d, of unpaired spread."""
    delta: Float64[np.ndarray, " cell"]
    """Cliff's δ."""
    p: Float64[np.ndarray, " cell"]
    p_adjusted: Float64[np.ndarray, " cell"]
    """Over all cells, by Benjamini & Hochberg 1995."""

    @property
    def names(self) -> tuple[str, str]:
        """What the two groups are called."""
        return self.sample.groups[0].name, self.sample.groups[1].name

    @property
    def test(self) -> str:
        """What the p-values are of."""
        return PAIRED if self.paired else UNPAIRED

    @property
    def units(self) -> str:
        """How many units it rests on, as words."""
        first, second = (len(group.units) for group in self.sample.groups)
        each = self.sample.each_word
        return f"{first} pairs, one a {each}" if self.paired else f"{first} and {second} {self.sample.several}"

    @property
    def interval(self) -> str:
        """What the interval is."""
        drawn = "pairs" if self.paired else f"{self.sample.several} of each group"
        return f"{self.level:.0%} interval (percentile bootstrap over {drawn})".replace("%", " %")


def read_contrast(
    study: Tables,
    measure: str,
    factor: str,
    values: tuple[object, object] | None = None,
    *,
    units: str = "prompt_id",
    where: Where = None,
    level: float = 0.95,
    cells: bool = True,
) -> Difference:
    """Compare two groups.

    Args:
        study: The study.
        measure: Any measure.
        factor: A factor, "model", "decoding", "seed", or a column of the generations.
        values: The two groups; None if there are no more than two.
        units: The column whose values are the units, and which says what belongs together in pairs.
        where: Which rows to read.
        level: Coverage of the intervals.
        cells: Whether heads are compared one by one.

    Raises:
        ViewError: If there are not two such groups, or no measure or column of that name.
    """
    sample = read_sample(study, measure, by=factor, units=units, where=where, cells=cells)
    known = {group.name: group for group in sample.groups}
    names = list(known) if values is None else [str(value) for value in values]
    if len(names) != 2 or not set(names) <= set(known):
        change = "name two of them with values=(first, second)"
        raise ViewError(f"contrasting {measure} by {factor}", f"its groups are {', '.join(known)}", change)
    first, second = known[names[0]], known[names[1]]
    shared = sorted(set(first.units) & set(second.units))
    # Units that stand in one group only are left out where most stand in both.
    paired = len(shared) >= 2 and 2 * len(shared) > max(len(first.units), len(second.units))
    if paired:
        first, second = (_only(group, shared) for group in (first, second))
    both = Sample(
        sample.study, measure, sample.unit, sample.table, sample.each, sample.cells, (first, second)
    )  # fmt: skip
    figures = cell_contrast(first.values, second.values, paired=paired, plan=Plan(level=level))
    return Difference(both, factor, paired, level, *figures)


def _only(group: Group, units: list[str]) -> Group:
    places = [group.units.index(unit) for unit in units]
    return Group(group.name, tuple(units), group.values[places])
