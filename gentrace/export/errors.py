"""What this room can refuse: a child of the house's tree, kept here because only this room needs a browser."""

from gentrace.errors import GentraceError


class ExportError(GentraceError):
    """A figure could not be written as a picture: no browser, an unknown format, or nothing to animate."""
