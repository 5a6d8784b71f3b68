"""The traces that a server may open: those of one folder, or some files by name.

Nothing is opened by path. A name counts only if it is among those that were found by walking the folder, so there is
nothing in a name to climb out with; a link counts only if what it points to lies inside the folder too. A file may be
called by bytes that are no text, which no address can carry: it goes by another name, which says so.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote_from_bytes

from gentrace.errors import GentraceError, ViewError
from gentrace.trace.file import load
from gentrace.trace.trace import Trace
from gentrace.views.timeline import model_name

SUFFIX = ".safetensors"
LISTED = 1000
"""Files of a folder that are listed."""
WORDS = 160
"""Characters of a text that are listed."""

Stamp = tuple[Path, int, int, int]


@dataclass(frozen=True, slots=True)
class Entry:
    """A file as the list shows it."""

    name: str
    model: str
    """Empty if the file cannot be opened."""
    tokens: int
    layers: int
    text: str
    """Its first words, or why it cannot be opened."""
    complete: bool
    """Whether its recording ran to the end."""


class Library:
    """Traces by name."""

    def __init__(self, folder: Path | None, files: Mapping[str, Path] | None = None) -> None:
        """Choose what may be opened.

        Args:
            folder: All traces in it and below; None for the files.
            files: These files.
        """
        self.folder = None if folder is None else folder.resolve()
        self._files = dict(files or {})
        self._entries: dict[Stamp, Entry] = {}

    def paths(self) -> dict[str, Path]:
        """Every file that may be opened, by name; a folder is looked through anew."""
        if self.folder is None:
            return dict(self._files)
        return dict(sorted(path for _, path in zip(range(LISTED), self._walk(self.folder), strict=False)))

    def stamps(self, names: tuple[str, ...]) -> tuple[Stamp, ...]:
        """What tells whether files are still the same.

        Raises:
            FileNotFoundError: If there are no such traces.
        """
        paths = self.paths()
        if not names or not set(names) <= set(paths):
            raise FileNotFoundError("no such trace")
        return tuple(stamp_of(paths[name]) for name in names)

    def open(self, names: tuple[str, ...]) -> dict[str, Trace]:
        """Traces by name.

        Raises:
            FileNotFoundError: If there are no such traces.
            TraceFormatError: If a file is not a trace.
        """
        return {name: load(path) for name, (path, *_) in zip(names, self.stamps(names), strict=True)}

    def entries(self) -> list[Entry]:
        """Every file with what is in it; each is opened once, as long as it does not change."""
        known: dict[Stamp, Entry] = {}
        for name, path in self.paths().items():
            try:
                stamp = stamp_of(path)
            except OSError:
                continue  # It went away in between.
            known[stamp] = self._entries.get(stamp) or _entry(name, path)
        self._entries = known
        return list(known.values())

    def _walk(self, root: Path) -> Iterator[tuple[str, Path]]:
        for folder, folders, files in os.walk(root):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for file in sorted(files):
                path = Path(folder, file)
                name = path.relative_to(root).as_posix()
                if not file.startswith(".") and file.endswith(SUFFIX) and _is_within(path, root):
                    yield spelled(name), path


def stamp_of(path: Path) -> Stamp:
    """A file with what tells whether it is still the same."""
    found = path.stat()
    return path, found.st_mtime_ns, found.st_size, found.st_ino


def _entry(name: str, path: Path) -> Entry:
    try:
        trace = load(path)
        text = trace.tokens.text[: WORDS + 1]
        return Entry(name, model_name(trace), len(trace.tokens), len(trace.layers), text, trace.meta.complete)
    except (GentraceError, OSError) as error:
        return Entry(name, "", 0, 0, str(error), False)


def _is_within(path: Path, root: Path) -> bool:
    """Whether a file, or what a link leads to, is there and in the folder; a link to itself is nowhere."""
    try:
        return path.resolve().is_relative_to(root) and path.is_file()
    except (OSError, RuntimeError):
        return False


def spelled(name: str) -> str:
    """A file's name if it is text; else its bytes as in an address, with words after them that end no trace's name."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return f"{quote_from_bytes(os.fsencode(name), safe='/ ')} (not UTF-8)"
    return name


def name_files(paths: tuple[Path, ...]) -> dict[str, Path]:
    """Files by the shortest names that tell them apart.

    Raises:
        ViewError: If one is given twice.
    """
    for parts in range(1, max(len(path.resolve().parts) for path in paths) + 1):
        named = {spelled("/".join(path.resolve().with_suffix("").parts[-parts:])): path for path in paths}
        if len(named) == len(paths):
            return named
    raise ViewError("opening traces", "a file is named twice", "name each once")
