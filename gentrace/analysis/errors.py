"""What this room can refuse: a child of the house's tree."""

from gentrace.errors import GentraceError


class MeasureError(GentraceError):
    """A measure is unknown, was given what it cannot use, or would be too big to hold."""
