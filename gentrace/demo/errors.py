"""What this room can refuse: children of the house's tree, kept here because only demos choose models by name."""

from gentrace.errors import GentraceError


class ModelNotFoundError(GentraceError):
    """A model could not be found, fetched or loaded."""


class ModelUnfitError(GentraceError):
    """A model cannot do what was asked of it."""
