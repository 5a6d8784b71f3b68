"""What pydantic found wrong, as somebody who wrote the file wants to read it: where, what, and what to change."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from gentrace.studies.documents import Document
from gentrace.studies.errors import Misplaced, Problem


def problems_of(
    error: ValidationError, root: type[BaseModel], values: Mapping[str, Any], document: Document | None
) -> list[Problem]:
    """Every problem once, in the order of the file.

    Args:
        error: What pydantic raised.
        root: What was being validated.
        values: What it was being made from.
        document: Where the values stand, if they come from a file.
    """
    found = error.errors(include_url=False)
    # Entries that are wrong themselves are not counted, and a list of them would be called too short as well.
    below = {details["loc"][:length] for details in found for length in range(len(details["loc"]))}
    real = [details for details in found if details["type"] != "too_short" or details["loc"] not in below]
    problems = [_problem(details, root, values, document) for details in real]
    return in_order(problems)


def in_order(problems: Iterable[Problem]) -> list[Problem]:
    """Problems in the order of the file, each once."""
    return sorted(dict.fromkeys(problems), key=_order)


def dotted(location: tuple[str | int, ...]) -> str:
    """A path such as ``models[0].dtype``."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return text.removeprefix(".") or "the study"


def nearest(word: str, known: Iterable[str]) -> str:
    """A question after a known word that looks like this one, or nothing."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def listed(known: Iterable[object]) -> str:
    """Words with commas."""
    return ", ".join(map(str, known)) or "none"


def _problem(
    details: ErrorDetails, root: type[BaseModel], values: Mapping[str, Any], document: Document | None
) -> Problem:
    location = tuple(part for part in details["loc"] if not (isinstance(part, str) and "[" in part))
    cause = details.get("ctx", {}).get("error")
    location += cause.location if isinstance(cause, Misplaced) else ()
    kind, message = details["type"], details["msg"].removeprefix("Value error, ")
    if kind == "extra_forbidden":
        known = _fields_at(location[:-1], root)
        message = f"unknown key {location[-1]!r}{nearest(str(location[-1]), known)}; known: {listed(known)}"
    elif kind == "missing":
        message = f"{location[-1]!r} is missing"
    elif kind != "value_error":
        message = (
            f"{dotted(_written(location, values))} is {_shown(details['input'])}: {message[:1].lower()}{message[1:]}"
        )
    where = dotted(location) if document is None else document.where(location, key=kind == "extra_forbidden")
    return Problem(where, message)


def _written(location: tuple[str | int, ...], values: Any) -> tuple[str | int, ...]:
    """A path without the places of lists that somebody wrote as one value."""
    path: list[str | int] = []
    here: Any = values
    for part in location:
        many = isinstance(here, list | tuple)
        if isinstance(part, int) and not many:
            continue
        path.append(part)
        try:
            here = here[part]
        except (KeyError, IndexError, TypeError):
            here = None
    return tuple(path)


def _fields_at(location: tuple[str | int, ...], root: type[BaseModel]) -> list[str]:
    """The keys that a table may have."""
    kind: Any = root
    for part in location:
        if isinstance(part, str) and part in getattr(kind, "model_fields", {}):
            kind = _model_in(kind.model_fields[part].annotation) or kind
    return list(kind.model_fields)


def _model_in(annotation: Any) -> Any:
    """The model that a field's type is made of, if there is one."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part)) is not None), None)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:59]}…"


def _order(problem: Problem) -> tuple[str, int, int]:
    name, _, rest = problem.where.partition(":")
    line, _, column = rest.partition(":")
    return (name, int(line), int(column)) if line.isdecimal() and column.isdecimal() else (problem.where, 0, 0)
