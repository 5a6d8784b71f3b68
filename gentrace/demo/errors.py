"""What this room can refuse: a child of the house's tree, kept here because only demos choose models by name."""

from gentrace.errors import GentraceError


class ModelNotFoundError(GentraceError):
    """A model could not be found, fetched or loaded."""
