"""A study's file, TOML or YAML, as plain values that remember where they stand."""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from gentrace.errors import StudyError
from gentrace.studies.errors import Problem, SpecError
from gentrace.studies.places import KeyPath, Place, Places, toml_places, yaml_places


@dataclass(frozen=True, slots=True)
class Document:
    """A file's values and where they stand."""

    path: Path
    values: dict[str, Any]
    found: Places
    """Where they stand."""

    def where(self, location: KeyPath, *, key: bool = False) -> str:
        """``file:line:column`` of a value, or of the nearest thing around it that stands in the file.

        Args:
            location: Keys and indices; what is not in the file, such as the name of a choice, is passed over.
            key: Point at the key, not at the value.
        """
        path: KeyPath = ()
        for part in location:
            if (*path, part) in self.found.values:
                path = (*path, part)
        found = self.found.keys.get(path) if key else None
        place = found or self.found.values[path]
        return f"{self.path.name}:{place.line}:{place.column}"


def read_document(path: Path) -> Document:
    """Read a file.

    Raises:
        SpecError: If its syntax is wrong.
        StudyError: If it is neither TOML nor YAML by its name, or not UTF-8.
        OSError: If it cannot be read.
    """
    if path.suffix.lower() not in (".toml", ".yaml", ".yml"):
        raise StudyError(f"reading {path}", f"its name ends in {path.suffix!r}", "give a .toml, .yaml or .yml file")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise StudyError(f"reading {path}", f"byte {error.start} is not UTF-8", "save the file as UTF-8") from error
    return _toml(path, text) if path.suffix.lower() == ".toml" else _yaml(path, text)


def _toml(path: Path, text: str) -> Document:
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        what, _, place = str(error).rpartition(" (at line ")
        line, _, column = place.rstrip(")").partition(", column ")
        where = f"{path.name}:{line}:{column}" if column.isdecimal() else f"{path.name}:{text.count(chr(10)) + 1}:1"
        raise SpecError(path.name, [Problem(where, f"no valid TOML: {what or error}")]) from error
    return Document(path, values, toml_places(text.replace("\r\n", "\n")))


def _yaml(path: Path, text: str) -> Document:
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Place(1, 1) if mark is None else Place(mark.line + 1, mark.column + 1)
        where = f"{path.name}:{place.line}:{place.column}"
        raise SpecError(path.name, [Problem(where, f"no valid YAML: {error.problem}")]) from error
    except yaml.YAMLError as error:
        raise SpecError(path.name, [Problem(f"{path.name}:1:1", f"no valid YAML: {error}")]) from error
    if root is None or not isinstance(values, dict):
        raise SpecError(path.name, [Problem(f"{path.name}:1:1", "no mapping: give keys such as models and prompts")])
    found, twice = yaml_places(root)
    if twice:
        raise SpecError(
            path.name,
            [
                Problem(f"{path.name}:{place.line}:{place.column}", f"{key[-1]!r} stands here twice: remove one")
                for key, place in twice
            ],
        )
    return Document(path, values, found)
