"""Units of information: a logarithm is natural inside, and turned into what was asked for at the end."""

import math
from typing import Literal, TypeAlias

from gentrace.analysis.errors import MeasureError

Unit: TypeAlias = Literal["nats", "bits"]


def per_unit(unit: Unit) -> float:
    """The factor on nats that gives the unit.

    Raises:
        MeasureError: If there is no such unit.
    """
    factors = {"nats": 1.0, "bits": 1 / math.log(2)}
    if unit not in factors:
        raise MeasureError("choosing a unit of information", f"got {unit!r}", 'give "nats" or "bits"')
    return factors[unit]
