"""The container of a trace: a safetensors file, read and written in pieces.

Eight bytes give the length of a JSON header, the header gives each tensor's type, shape and place, and the rest is the
tensors' bytes. The library of that name maps the whole file to read it, which a limit on address space forbids for a
long trace, and wants every tensor in memory to write it. Here both happen piece by piece, at a position, and a header
is believed only after each of its numbers was checked against the file.
"""

import json
import math
import os
import struct
import sys
import threading
import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gentrace.errors import TraceFormatError

PREFIX = 8
HEADER_LIMIT = 100_000_000
"""Bytes of header that the library reads at most."""
METADATA = "__metadata__"
CODES = {
    "F64": torch.float64,
    "I64": torch.int64,
    "F32": torch.float32,
    "I32": torch.int32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I16": torch.int16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
NAMES = {dtype: code for code, dtype in CODES.items()}
_LARGEST = 2**62
_LARGEST_READ = 2**30


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor's place in a file."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    """The tensor's first byte, counted from the file's."""

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor."""
        return math.prod(self.shape) * self.dtype.itemsize


class PositionalFile:
    """A file that is read at positions, by any number of threads, and never mapped."""

    def __init__(self, path: Path) -> None:
        """Open it.

        Raises:
            OSError: If it cannot be opened.
        """
        self.path = path
        self._descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        self._close = weakref.finalize(self, os.close, self._descriptor)
        self._turn = threading.Lock()

    @property
    def size(self) -> int:
        """Bytes of the file, at this moment."""
        return os.fstat(self._descriptor).st_size

    def read_into(self, target: memoryview, offset: int) -> None:
        """Fill ``target`` with the bytes from ``offset`` on.

        Raises:
            EOFError: If the file ends before.
            OSError: If it cannot be read.
        """
        done = 0
        while done < len(target):
            read = self._read_some(target[done : done + _LARGEST_READ], offset + done)
            if not read:
                raise EOFError(f"the file ends after {offset + done} bytes, {len(target) - done} before its time")
            done += read

    def read(self, offset: int, count: int) -> bytes:
        """``count`` bytes from ``offset`` on; fewer where the file ends."""
        count = max(0, min(count, self.size - offset))
        target = bytearray(count)
        self.read_into(memoryview(target), offset)
        return bytes(target)

    def tensor(self, entry: Entry) -> Tensor:
        """The whole tensor.

        Raises:
            EOFError: If the file ends before.
            OSError: If it cannot be read.
        """
        raw = torch.empty(entry.nbytes, dtype=torch.uint8)
        self.read_into(raw.numpy().data, entry.start)
        return raw.view(entry.dtype).reshape(entry.shape)

    def slabs(self, entry: Entry, where: slice) -> Tensor:
        """The entries ``where`` of the tensor's first axis, reading no other."""
        first, stop, _ = where.indices(entry.shape[0])
        count, each = max(0, stop - first), entry.nbytes // max(1, entry.shape[0])
        return self.tensor(Entry(entry.dtype, (count, *entry.shape[1:]), entry.start + first * each))

    def _read_some(self, target: memoryview, offset: int) -> int:
        if sys.platform == "win32":
            with self._turn:
                os.lseek(self._descriptor, offset, os.SEEK_SET)
                found = os.read(self._descriptor, len(target))
            target[: len(found)] = found
            return len(found)
        return os.preadv(self._descriptor, [target], offset)


@dataclass(frozen=True, slots=True, eq=False)
class Container:
    """An open file and what its header says."""

    file: PositionalFile
    entries: Mapping[str, Entry]
    """The tensors, in the order of their bytes."""
    metadata: Mapping[str, str]

    @classmethod
    def open(cls, source: Path) -> "Container":
        """Open a file, reading its header alone.

        Raises:
            FileNotFoundError: If there is no such file.
            TraceFormatError: If it is not a whole safetensors file.
        """
        file = PositionalFile(source)
        try:
            return cls(file, *parse_header(read_header(file), file.size))
        except ValueError as error:
            raise damaged(source, str(error)) from error


def damaged(source: Path, seen: str) -> TraceFormatError:
    """The error for a file that is no whole trace."""
    return TraceFormatError(f"loading {source}", seen, "the file is damaged or not a trace; record it again")


def read_header(file: PositionalFile) -> bytes:
    """The JSON of a file's header, unchecked.

    Raises:
        ValueError: If the file is not long enough for a header.
    """
    size = file.size
    prefix = file.read(0, PREFIX)
    length = struct.unpack("<Q", prefix)[0] if len(prefix) == PREFIX else size
    if length > min(size - PREFIX, HEADER_LIMIT):
        raise ValueError(f"{size} bytes are not a safetensors file, or not all of it")
    return file.read(PREFIX, length)


def parse_header(header: bytes, size: int, *, unfinished: bool = False) -> tuple[dict[str, Entry], dict[str, str]]:
    """Understand a header, and check every number in it.

    Args:
        header: The JSON, with whatever spaces pad it.
        size: Bytes of the whole file.
        unfinished: Whether the file may be longer than its header says.

    Returns:
        The tensors by name, in the order of their bytes, and the metadata.

    Raises:
        ValueError: If it is not JSON, if a type is unknown, if tensors overlap or leave gaps, or if they do not fill
            the file.
    """
    try:
        table = json.loads(header, object_pairs_hook=_without_repeats)
    except RecursionError as error:
        raise ValueError("the header is nested too deeply") from error
    if not isinstance(table, dict):
        raise ValueError("the header is not a JSON object")
    metadata = table.pop(METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("the header's metadata is not text")
    data = PREFIX + len(header)
    found = sorted(((*_offsets(name, described), name) for name, described in table.items()))
    place, entries = 0, dict[str, Entry]()
    for start, stop, name in found:
        entry = _entry(name, table[name], data + start)
        if start != place or entry.nbytes != stop - start:
            raise ValueError(f"{name} has bytes {start} to {stop}, which its neighbours or its shape contradict")
        entries[name], place = entry, stop
    if data + place > size or (data + place < size and not unfinished):
        raise ValueError(f"the header describes {data + place} bytes, the file has {size}")
    return entries, metadata


def make_header(entries: Mapping[str, Entry], metadata: Mapping[str, str], data: int = 0) -> bytes:
    """The JSON of a header, padded so that the tensors begin at a multiple of 8.

    Args:
        entries: The tensors.
        metadata: Text to go with them.
        data: Where the tensors' bytes begin in the file, from which their places are counted.
    """
    table: dict[str, Any] = {METADATA: dict(metadata)}
    for name, entry in entries.items():
        start = entry.start - data
        table[name] = {
            "dtype": NAMES[entry.dtype],
            "shape": list(entry.shape),
            "data_offsets": [start, start + entry.nbytes],
        }
    text = json.dumps(table, ensure_ascii=False, separators=(",", ":")).encode()
    return text + b" " * (-len(text) % PREFIX)


def laid_out(shapes: Mapping[str, tuple[torch.dtype, tuple[int, ...]]]) -> dict[str, Entry]:
    """Places for tensors, counted from the first: the wider types first, so that all are aligned; then by name."""
    place, entries = 0, dict[str, Entry]()
    order = list(CODES.values())
    for name, (dtype, shape) in sorted(shapes.items(), key=lambda item: (order.index(item[1][0]), item[0])):
        entries[name] = Entry(dtype, shape, place)
        place += entries[name].nbytes
    return entries


def raw_bytes(tensor: Tensor) -> memoryview:
    """The bytes of a tensor on the host; copied only if they do not lie in a row."""
    return tensor.detach().contiguous().flatten().view(torch.uint8).numpy().data


def _offsets(name: str, described: Any) -> tuple[int, int]:
    offsets: Any = described.get("data_offsets") if isinstance(described, dict) else None
    if not _are_counts(offsets) or len(offsets) != 2:
        raise ValueError(f"{name} has no place in the file: {described!r:.80}")
    return offsets[0], offsets[1]


def _entry(name: str, described: Mapping[str, Any], start: int) -> Entry:
    shape: Any = described.get("shape")
    code: Any = described.get("dtype")
    if not isinstance(code, str) or code not in CODES:
        raise ValueError(f"{name} is of the unknown type {code!r:.40}")
    if not _are_counts(shape) or len(shape) > 16 or math.prod(max(1, count) for count in shape) > _LARGEST:
        raise ValueError(f"{name} has the impossible shape {shape!r:.80}")
    return Entry(CODES[code], tuple(shape), start)


def _are_counts(numbers: Any) -> bool:
    return isinstance(numbers, list) and all(type(number) is int and number >= 0 for number in numbers)


def _without_repeats(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"the header has {name!r:.80} twice")
        found[name] = value
    return found
