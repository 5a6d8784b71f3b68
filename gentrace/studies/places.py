"""Where each value of a text file stands, so that an error can name the line.

Neither tomllib nor pydantic remembers lines. `toml_places` walks through a document that tomllib has accepted already,
so it only has to find values, not to judge them; PyYAML tells where its nodes begin.
"""

import re
import tomllib
from dataclasses import dataclass
from typing import Any, TypeAlias

import yaml

KeyPath: TypeAlias = tuple[str | int, ...]
"""Keys and indices that lead to a value."""


@dataclass(frozen=True, slots=True)
class Place:
    """A place in a text, counted from 1."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Places:
    """Where things begin."""

    values: dict[KeyPath, Place]
    """Of each value; of a table, its header or brace."""
    keys: dict[KeyPath, Place]
    """Of the key that each value has, where it has one."""


_BLANK = re.compile(r"(?:[ \t]|#[^\n]*)*")
_BLANK_LINES = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_STRING = re.compile(
    r'"""(?:\\[\s\S]|[^\\])*?"""(?:"{0,2})'
    r"|'''[\s\S]*?'''(?:'{0,2})"
    r'|"(?:\\.|[^"\\\n])*"'
    r"|'[^'\n]*'"
)
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_BARE_VALUE = re.compile(r"[^,\]}#\r\n]*")


class _Toml:
    """A walk through a valid TOML document."""

    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0
        self.found = Places({(): Place(1, 1)}, {})
        self.counts: dict[KeyPath, int] = {}
        """How many tables each array of tables has so far."""

    def walk(self) -> Places:
        table: KeyPath = ()
        self.skip(_BLANK_LINES)
        while self.at < len(self.text):
            if self.text.startswith("[", self.at):
                table = self.header()
            else:
                self.pair(table)
            self.skip(_BLANK_LINES)
        return self.found

    def header(self) -> KeyPath:
        start, many = self.at, self.text.startswith("[[", self.at)
        self.at += 2 if many else 1
        path: KeyPath = ()
        names = self.key()
        for depth, (name, where) in enumerate(names):
            path = self.newest((*path, name), last=depth == len(names) - 1)
            self.found.keys.setdefault(path, self.place(where))
            self.found.values.setdefault(path, self.place(start))
        if many:
            number = self.counts.get(path, 0)
            self.counts[path] = number + 1
            path = (*path, number)
            self.found.values[path] = self.place(start)
        self.skip(_BLANK)
        self.at += 2 if many else 1
        return path

    def newest(self, path: KeyPath, *, last: bool) -> KeyPath:
        """A path on the way to a table; through an array of tables it leads to the newest of them."""
        return path if last or path not in self.counts else (*path, self.counts[path] - 1)

    def pair(self, table: KeyPath) -> None:
        names = self.key()
        path = table
        for name, where in names:
            path = (*path, name)
            self.found.keys.setdefault(path, self.place(where))
            self.found.values.setdefault(path, self.place(where))
        self.skip(_BLANK)
        self.at += 1
        self.skip(_BLANK)
        self.value(path)

    def key(self) -> list[tuple[str, int]]:
        """A dotted key's parts and where they begin."""
        names: list[tuple[str, int]] = []
        while True:
            self.skip(_BLANK)
            start, quoted = self.at, _STRING.match(self.text, self.at)
            match = quoted or _BARE_KEY.match(self.text, self.at)
            if match is None:
                raise ValueError(f"no key at {self.at}")
            self.at = match.end()
            name = tomllib.loads(f"x = {match[0]}")["x"] if quoted else match[0]
            names.append((name, start))
            self.skip(_BLANK)
            if not self.text.startswith(".", self.at):
                return names
            self.at += 1

    def value(self, path: KeyPath) -> None:
        self.found.values[path] = self.place(self.at)
        if self.text.startswith("[", self.at):
            self.listed("]", lambda number: self.value((*path, number)))
        elif self.text.startswith("{", self.at):
            self.listed("}", lambda _: self.pair(path))
        else:
            match = _STRING.match(self.text, self.at) or _BARE_VALUE.match(self.text, self.at)
            self.at = self.at if match is None else match.end()

    def listed(self, closing: str, entry: Any) -> None:
        """Entries between brackets, with commas between them."""
        self.at += 1
        number = 0
        self.skip(_BLANK_LINES)
        while not self.text.startswith(closing, self.at):
            if self.at >= len(self.text):
                raise ValueError(f"no {closing}")
            entry(number)
            number += 1
            self.skip(_BLANK_LINES)
            if self.text.startswith(",", self.at):
                self.at += 1
                self.skip(_BLANK_LINES)
        self.at += 1

    def skip(self, what: re.Pattern[str]) -> None:
        match = what.match(self.text, self.at)
        self.at = self.at if match is None else match.end()

    def place(self, at: int) -> Place:
        return Place(self.text.count("\n", 0, at) + 1, at - self.text.rfind("\n", 0, at))


def toml_places(text: str) -> Places:
    """Where the values of a valid TOML document stand.

    Args:
        text: A document that `tomllib.loads` accepts.
    """
    return _Toml(text).walk()


def yaml_places(root: yaml.Node) -> tuple[Places, list[tuple[KeyPath, Place]]]:
    """Where the values of a YAML document stand.

    Args:
        root: The composed document.

    Returns:
        The places, and the keys that stand in a mapping twice, of which YAML would drop the first.
    """
    found, twice = Places({}, {}), list[tuple[KeyPath, Place]]()
    above: set[int] = set()

    def walk(node: yaml.Node, path: KeyPath) -> None:
        found.values[path] = _mark(node)
        if id(node) in above:
            return
        above.add(id(node))
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                below = (*path, str(key.value))
                if below in found.keys:
                    twice.append((below, _mark(key)))
                found.keys[below] = _mark(key)
                walk(value, below)
        elif isinstance(node, yaml.SequenceNode):
            for number, value in enumerate(node.value):
                walk(value, (*path, number))
        above.discard(id(node))

    walk(root, ())
    return found, twice


def _mark(node: yaml.Node) -> Place:
    return Place(node.start_mark.line + 1, node.start_mark.column + 1)
