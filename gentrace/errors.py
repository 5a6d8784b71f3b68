"""Everything gentrace can refuse, as one tree, so that a caller can catch as widely or as narrowly as needed.

::

    GentraceError
    ├── CaptureError               a recording could not be made, or would have been wrong
    │   ├── AttentionUnavailable   this layer (or this model's layers) shows no attention to record
    │   ├── UnsupportedModel       this model or this way of generating is not supported
    │   ├── CaptureBudgetError     the recording would not fit into ``max_bytes``
    │   └── SpillError             the disk took no more of a recording; an OSError too
    ├── TraceFormatError           a file is not a trace, or not a whole one
    ├── ViewError                  a picture was asked for something the trace does not hold
    │   └── ViewBudgetError        a picture would be too big to be useful
    └── StudyError                 a study's specification or folder is not usable

    FidelityWarning                the recomputed attention differs from what the kernel returned

Each message says what was being done, what was seen and what to change.
"""


class GentraceError(Exception):
    """Base of every error that gentrace raises on purpose."""

    def __init__(self, attempted: str, seen: str = "", change: str = "") -> None:
        """Compose the message from its three parts.

        Args:
            attempted: What was being done, as a short clause.
            seen: What was seen instead, with names and shapes.
            change: What the caller can do about it.
        """
        parts = (part.strip().rstrip(".") for part in (attempted, seen, change))
        super().__init__(". ".join(part for part in parts if part) + ".")


class CaptureError(GentraceError):
    """A recording could not be made, or would have been wrong."""


class AttentionUnavailable(CaptureError):
    """The attention asked for is not there to be seen."""


class UnsupportedModel(CaptureError):
    """This model, or this way of generating, is not supported."""


class CaptureBudgetError(CaptureError):
    """The recording would not fit into ``max_bytes``."""


class SpillError(CaptureError, OSError):
    """The disk did not take what was recorded; what had been committed stays readable."""

    def __init__(self, attempted: str, seen: str = "", change: str = "", cause: OSError | None = None) -> None:
        """Compose the message.

        Args:
            attempted: What was being written, and where.
            seen: What the system said.
            change: What is safe, and what the caller can do.
            cause: The system's error, whose ``errno`` and ``filename`` this one takes over.
        """
        CaptureError.__init__(self, attempted, seen, change)
        if cause is not None:
            self.errno, self.strerror, self.filename = cause.errno, cause.strerror, cause.filename

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class TraceFormatError(GentraceError):
    """A file is not a trace, or not a whole one."""


class ViewError(GentraceError):
    """A picture was asked for something that the trace does not hold."""


class ViewBudgetError(ViewError):
    """A picture would be too big to be useful; the message names the knob."""


class StudyError(GentraceError):
    """A study's specification or folder is not usable."""


class FidelityWarning(UserWarning):
    """The attention recomputed from the trace differs from what the model's own kernel returned."""
