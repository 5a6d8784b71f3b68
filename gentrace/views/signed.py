"""Colours of numbers that have a sign: blue below zero, orange above, and nothing at zero.

Both ends are about as dark (or as light), so that neither sign looks stronger; blue and orange stay apart for
colour-blind readers.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from gentrace.views import theme

_STOPS = {
    theme.LIGHT: ("#0b3f78", "#2f77b8", "#9cc4e4", "#fffdf9", "#f6bd8c", "#d9661f", "#8a2f06"),
    theme.DARK: ("#a9d8ff", "#4a9be0", "#1f4a73", "#171a20", "#6e3a18", "#e07f2e", "#ffd9a8"),
}
MOST = 0.985
"""Share of the numbers that stays below full colour, so that one outlier does not make the others pale."""


def stops(colours: theme.Theme) -> tuple[str, ...]:
    """Evenly spaced stops from the most negative to the most positive."""
    return _STOPS[colours]


def ends(colours: theme.Theme) -> tuple[str, str]:
    """A plain colour for negative numbers and one for positive ones."""
    return _STOPS[colours][1], _STOPS[colours][-2]


def limit(numbers: Iterable[Tensor], share: float = MOST) -> float:
    """The size of a number that gets full colour.

    Args:
        numbers: What is shown on one scale; NaN and infinities are left out.
        share: Part of the numbers that is no larger.
    """
    parts = [one.flatten().abs() for one in numbers]
    sizes = torch.cat([part[part.isfinite()] for part in parts])
    # Every n-th value: torch's quantile refuses more than 16 million.
    sizes = sizes[:: 1 + len(sizes) // 1_000_000]
    found = float(sizes.quantile(share)) if len(sizes) else 0.0
    return found if found > 0 else max(float(sizes.max()) if len(sizes) else 0.0, 1e-9)
