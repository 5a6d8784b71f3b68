"""What this room can refuse: children of the house's `StudyError`, with where in the file the trouble is."""

from dataclasses import dataclass

from gentrace.errors import StudyError


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a study's specification."""

    where: str
    """``file:line:column`` as far as it is known, else the path inside of the specification."""
    what: str
    """What was seen, and what to change."""

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


class Misplaced(ValueError):
    """Values that are right alone and wrong together: raised by a validator, with the one that should change."""

    def __init__(self, message: str, *location: str | int) -> None:
        """Say what is wrong.

        Args:
            message: What was seen, and what to change.
            *location: The value, from what is being validated on.
        """
        super().__init__(message)
        self.location = location


class SpecError(StudyError):
    """A specification is wrong; ``problems`` lists every place, in the order of the file."""

    def __init__(self, source: str, problems: list[Problem]) -> None:
        """Compose one message out of all problems.

        Args:
            source: The specification's file, or "the study".
            problems: At least one.
        """
        self.problems = tuple(problems)
        super().__init__(f"reading {source}", f"{counted(len(problems), 'problem')}:\n" + "\n".join(map(str, problems)))


class LockedError(StudyError):
    """Another process is working in the folder."""


class HopelessRun(StudyError):
    """So many generations failed that the run was stopped; what was finished is kept."""


def counted(count: int, one: str, many: str | None = None) -> str:
    """A number of things, in words that fit it."""
    return f"{count} {one if count == 1 else many or one + 's'}"
