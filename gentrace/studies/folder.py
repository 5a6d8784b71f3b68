"""A study's folder: what lies where, and how it gets there so that a crash at any moment leaves it whole.

::

    manifest.json                 the study, its plan's digest, models, versions: what the folder is
    plan-<digest>.parquet         one row a generation; prompts-<digest>.parquet its prompts
    commits/<batch>.json          one record a finished batch: what counts, with sizes and sums
    generations|tokens|heads|failures/<batch>-<sum>.parquet
    traces/<batch>-<sum>.safetensors
    code/<sum>/<module>.py        a user's measures
    lock, lock.guard              who is working here

Nothing is ever written in place. A file is written under another name, flushed, renamed, and its folder flushed. The
files of a batch are named after their contents, so writing a batch twice harms nothing; they count from the moment that
the batch's record, written last, has its name. A record is never taken back: what is planned no more stays where it is
until somebody asks for its removal.
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gentrace.errors import StudyError
from gentrace.studies.tables import KINDS
from gentrace.trace.file import write_atomically
from gentrace.trace.trace import Trace

FORMAT = 1
MANIFEST, COMMITS, TRACES, CODE, LOCK = "manifest.json", "commits", "traces", "code", "lock"
PARTS = (*KINDS, TRACES)
SHORT = 32
"""Digits of a batch's digest in the names of its files."""


@dataclass(frozen=True, slots=True)
class StagedFile:
    """A file of a batch."""

    path: str
    """Relative to the folder."""
    kind: str
    """The table it is a part of, or "traces"."""
    bytes: int
    sha256: str
    rows: int
    columns: dict[str, str]
    """Column → type, of a table."""
    generation: str | None = None
    """Whose trace it is."""


@dataclass(frozen=True, slots=True)
class Record:
    """A finished batch, as its record says."""

    hash: str
    ingredients: dict[str, Any]
    files: tuple[StagedFile, ...]
    failed: int
    """Generations of which something failed."""
    attempt: int
    new_tokens: int
    batch_error: str | None
    seconds: float
    host: dict[str, Any]
    time: str

    @property
    def bytes(self) -> int:
        """What its files take."""
        return sum(file.bytes for file in self.files)


class DamagedManifest(StudyError):
    """A manifest that cannot be read; what was finished is still there."""


class DamagedRecord(StudyError):
    """A finished batch's record that cannot be read, so that the batch is finished no more."""

    def __init__(self, path: Path, cause: object) -> None:
        """Say which one.

        Args:
            path: The record.
            cause: What is wrong with it.
        """
        self.name = path.stem
        self.what = f"its record {path.parent.name}/{path.name} is damaged: {cause}"
        super().__init__(
            f"reading {path}", f"it is damaged: {cause}", "run the study again, with its SPEC: its batch is done again"
        )


class Folder:
    """One study's folder."""

    def __init__(self, root: Path | str) -> None:
        """Name it; nothing is read or made yet."""
        self.root = Path(root)

    def refuse_foreign(self) -> None:
        """Refuse to work in a folder that belongs to something else.

        Raises:
            StudyError: If there is anything in it that no study put there, and no manifest; or a study of another
                format.
        """
        if self.root.exists() and not self.root.is_dir():
            raise StudyError(f"using {self.root} for a study", "it is a file", "give a folder")
        if (self.root / MANIFEST).exists():
            # A damaged manifest can be written anew from the specification; one of another format must stay.
            with contextlib.suppress(DamagedManifest):
                self.manifest()
        if (self.root / MANIFEST).exists() or not self.root.exists():
            return
        own = {MANIFEST, COMMITS, CODE, LOCK, f"{LOCK}.guard", *PARTS}
        begun = ("plan-", "prompts-", ".")
        foreign = [
            path.name for path in self.root.iterdir() if path.name not in own and not path.name.startswith(begun)
        ]
        if foreign:
            raise StudyError(
                f"using {self.root} for a study", f"it holds {foreign[0]} and is no study", "give a new folder"
            )

    def make(self) -> None:
        """Make it and its folders, and flush their names to the disk.

        Raises:
            OSError: If that fails.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        for name in (COMMITS, *PARTS):
            (self.root / name).mkdir(exist_ok=True)
        flush(self.root)
        flush(self.root.resolve().parent)

    def begin(self, manifest: Mapping[str, Any], tables: Mapping[str, pa.Table], code: Mapping[str, Path]) -> None:
        """Say what the folder is from now on; the old manifest holds until the new one is whole.

        Args:
            manifest: What `manifest` will read.
            tables: "plan" and "prompts".
            code: ``<sum>/<module>.py`` → a user's module.
        """
        for name, source in code.items():
            target = self.root / CODE / name
            target.parent.mkdir(parents=True, exist_ok=True)
            data = source.read_bytes()
            write_atomically(target, lambda part, data=data: part.write_bytes(data))
        files = {name: f"{name}-{str(manifest['plan'])[:SHORT]}.parquet" for name in tables}
        for name, table in tables.items():
            data = parquet_bytes(table)
            write_atomically(self.root / files[name], lambda part, data=data: part.write_bytes(data))
        sums = {name: file_sum(self.root / path) for name, path in files.items()}
        body = {"format": FORMAT, **manifest, "files": files, "sums": sums}
        text = json.dumps(body, indent=1, ensure_ascii=False)
        write_atomically(self.root / MANIFEST, lambda part: part.write_text(text + "\n", encoding="utf-8"))
        for name in tables:
            for path in self.root.glob(f"{name}-*.parquet"):
                if path.name != files[name]:
                    path.unlink(missing_ok=True)

    def manifest(self) -> dict[str, Any]:
        """What the folder is.

        Raises:
            StudyError: If it is no study, or one of another format.
        """
        path = self.root / MANIFEST
        try:
            body = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise StudyError(f"opening {self.root}", f"there is no {MANIFEST}", "give a study's folder") from None
        except ValueError as error:
            raise DamagedManifest(
                f"opening {path}", f"it is damaged: {error}", "run the study again, with its SPEC"
            ) from error
        found = body.get("format") if isinstance(body, dict) else None
        if found != FORMAT:
            raise StudyError(
                f"opening {self.root}",
                f"its format is {found!r}; this gentrace reads format {FORMAT}",
                "use the gentrace that wrote it, or run the study into a new folder",
            )
        return body

    def table(self, name: str) -> pa.Table:
        """The manifest's "plan" or "prompts".

        Raises:
            StudyError: If it is missing or damaged.
        """
        manifest = self.manifest()
        path = self.root / manifest["files"][name]
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            data = None
        found = None if data is None else hashlib.sha256(data).hexdigest()
        if data is None or found != manifest.get("sums", {}).get(name, found):
            what = "it is missing" if data is None else "it is not what was written"
            raise StudyError(f"reading {path}", what, "run the study again, with its SPEC: finished batches are reused")
        try:
            return pq.ParquetFile(pa.BufferReader(data)).read()
        except pa.ArrowException as error:
            raise StudyError(f"reading {path}", str(error), "run the study again, with its SPEC") from error

    def stage_table(self, kind: str, batch: str, table: pa.Table) -> StagedFile:
        """Write a part of a table; it does not count yet."""
        data = parquet_bytes(table)
        found = hashlib.sha256(data).hexdigest()
        path = f"{kind}/{batch[:SHORT]}-{found[:16]}.parquet"
        write_atomically(self.root / path, lambda part: part.write_bytes(data))
        columns = {name: str(table.schema.field(name).type) for name in table.schema.names}
        return StagedFile(path, kind, len(data), found, len(table), columns)

    def stage_trace(self, batch: str, generation: str, trace: Trace) -> StagedFile:
        """Write a trace; it does not count yet."""
        part = self.root / TRACES / f".{batch[:SHORT]}-{generation}.{os.getpid()}.part"
        trace.save(part)
        size, found = part.stat().st_size, file_sum(part)
        path = f"{TRACES}/{batch[:SHORT]}-{found[:16]}.safetensors"
        part.replace(self.root / path)
        flush(self.root / TRACES)
        return StagedFile(path, TRACES, size, found, 1, {}, generation)

    def commit(self, record: Record) -> None:
        """Let a batch count. Its files must be staged; those that it takes the place of are removed afterwards."""
        body = asdict(record)
        text = json.dumps({"sum": _sum(body), **body}, ensure_ascii=False)
        path = self.root / COMMITS / f"{record.hash[:SHORT]}.json"
        before = self._files_of(record.hash)
        write_atomically(path, lambda part: part.write_text(text + "\n", encoding="utf-8"))
        for name in before - {file.path for file in record.files}:
            (self.root / name).unlink(missing_ok=True)

    def records(self, damaged: Callable[[DamagedRecord], object] | None = None) -> Iterator[Record]:
        """Every finished batch, planned or not.

        Args:
            damaged: Told of each record that cannot be read, which is then passed over.

        Raises:
            DamagedRecord: If a record cannot be read and nobody is to be told.
        """
        for path in sorted((self.root / COMMITS).glob("*.json")):
            try:
                yield _read_record(path)
            except DamagedRecord as error:
                if damaged is None:
                    raise
                damaged(error)

    def record(self, batch: str) -> Record | None:
        """The record of a batch, if it is finished."""
        return self.existing(batch) if (self.root / COMMITS / f"{batch[:SHORT]}.json").exists() else None

    def existing(self, batch: str) -> Record:
        """The record of a batch that is finished."""
        return _read_record(self.root / COMMITS / f"{batch[:SHORT]}.json")

    def finished(self) -> set[str]:
        """Names of the finished batches' records, without reading them."""
        return {path.stem for path in (self.root / COMMITS).glob("*.json")}

    def damage(self, file: StagedFile) -> str | None:
        """What is wrong with a finished batch's file, by size and sum; None if it is what was written."""
        path = self.root / file.path
        if not path.is_file():
            return f"{file.path} is missing"
        if path.stat().st_size != file.bytes or file_sum(path) != file.sha256:
            return f"{file.path} is not what was written"
        return None

    def sweep(self) -> int:
        """Remove what a killed run left behind: unfinished files, and staged ones that no record names.

        Whatever may belong to a damaged record stays until its batch is done again.

        Returns:
            How many files there were.
        """
        lost: list[DamagedRecord] = []
        known = {file.path for record in self.records(lost.append) for file in record.files}
        known.update(name for error in lost for name in self._files_of(error.name))
        swept = 0
        for folder in ("", COMMITS, *PARTS):
            for path in (self.root / folder).glob("*"):
                name = f"{folder}/{path.name}" if folder else path.name
                if path.name.endswith(".part") or (folder in PARTS and name not in known):
                    path.unlink(missing_ok=True)
                    swept += 1
        return swept

    def remove(self, batch: str) -> None:
        """Remove a finished batch: first its record, so that it stops to count at once, then its files."""
        files = self._files_of(batch)
        (self.root / COMMITS / f"{batch[:SHORT]}.json").unlink(missing_ok=True)
        flush(self.root / COMMITS)
        for name in files:
            (self.root / name).unlink(missing_ok=True)

    def _files_of(self, batch: str) -> set[str]:
        """The files that a batch's record names; all that are named after the batch, if the record is damaged."""
        try:
            record = self.record(batch)
        except DamagedRecord:
            begun = f"{batch[:SHORT]}-*"
            return {f"{kind}/{path.name}" for kind in PARTS for path in (self.root / kind).glob(begun)}
        return set() if record is None else {file.path for file in record.files}

    def free(self) -> int:
        """Free bytes of its disk."""
        place = self.root.resolve()
        while not place.exists():
            place = place.parent
        return shutil.disk_usage(place).free


def parquet_bytes(table: pa.Table) -> bytes:
    """A table as a Parquet file; the same table always gives the same bytes."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue().to_pybytes()


def file_sum(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def flush(folder: Path) -> None:
    """Wait until a folder's names are on the disk, where the system can tell."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def now() -> str:
    """The time, ISO 8601 in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _sum(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _read_record(path: Path) -> Record:
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
        if body.pop("sum") != _sum(body):
            raise ValueError("its sum does not fit")
        files = tuple(StagedFile(**file) for file in body.pop("files"))
        record = Record(files=files, **body)
        if record.hash[:SHORT] != path.stem:
            raise ValueError("it is that of another batch")
        return record
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedRecord(path, error) from error
