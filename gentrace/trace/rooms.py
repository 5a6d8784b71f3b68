"""Where in a growing file each tensor has its room, and what was written to it."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gentrace.trace.columns import ENCODER_AXIS, POSITION_AXIS
from gentrace.trace.container import PREFIX, Entry, PositionalFile
from gentrace.trace.grown import OWN, SPANS
from gentrace.trace.sparse import CHUNK, SparseFile

Axis = Literal["position", "encoder"]
Sizes = tuple[int | Axis, ...]
GAP = f"{OWN}gap."
_LETTERS: dict[Any, str] = {"position": POSITION_AXIS, "encoder": ENCODER_AXIS}
_PLAIN = {torch.bfloat16: torch.int16, torch.float8_e4m3fn: torch.uint8, torch.float8_e5m2: torch.uint8}


class Room:
    """A tensor's room in the file."""

    def __init__(self, name: str, sizes: Sizes, entry: Entry) -> None:
        """Begin with nothing written.

        Args:
            name: The tensor's name.
            sizes: Its shape, with words for the axes that grow.
            entry: Its type, its shape with all the room there is, and its place.
        """
        self.name = name
        self.sizes = sizes
        self.entry = entry
        self.axes = "".join(_LETTERS.get(size, ".") for size in sizes)
        """One letter an axis."""
        self.axis = len(self.axes) - len(self.axes.lstrip("."))
        """The axis of rows; as many as there are axes if it does not grow."""
        self.is_matrix = len(self.axes.replace(".", "")) > 1
        """Whether queries and keys both grow."""
        self.row_bytes = math.prod(entry.shape[self.axis + 1 :]) * entry.dtype.itemsize
        """Bytes of a row of one head."""
        self.known = 0
        """Rows before this one were written, or marked as unknown."""
        self.later: list[tuple[int, int]] = []
        """Rows behind it that were written as well."""
        self.top = 0
        """One past the last row that was ever written."""

    def fits(self, rows: Tensor) -> bool:
        """Whether rows are of this tensor's type and shape; a matrix may be given narrower ones."""
        axis, shape = self.axis, self.entry.shape
        if rows.dtype != self.entry.dtype or rows.dim() != len(shape) or axis == len(shape):
            return False
        return rows.shape[:axis] == shape[:axis] and (self.is_matrix or rows.shape[axis + 1 :] == shape[axis + 1 :])

    def wrote(self, start: int, stop: int) -> None:
        """Take note of rows that are in the file."""
        self.top = max(self.top, stop)
        if start > self.known:
            self.later.append((start, stop))
            return
        self.known = max(self.known, stop)
        while self.later and min(self.later)[0] <= self.known:
            first = min(self.later)
            self.later.remove(first)
            self.known = max(self.known, first[1])

    def gaps(self, stop: int) -> Iterator[tuple[int, int]]:
        """The rows before ``stop`` that nobody wrote, in pieces of a bounded size."""
        place = self.known
        each = max(1, CHUNK // max(1, self.row_bytes))
        for first, last in [*sorted(self.later), (stop, stop)]:
            for start in range(place, min(first, stop), each):
                yield start, min(start + each, first, stop)
            place = max(place, last)

    def put(self, file: SparseFile, start: int, rows: Tensor) -> None:
        """Write ``[head, row, dim]`` or ``[row, …]`` at row ``start``.

        Raises:
            OSError: If the disk does not take them.
        """
        block, place = _plain(rows), self.entry.start + start * self.row_bytes
        if self.axis == 0:
            file.put(np.ascontiguousarray(block).data, place)
            return
        pitch = self.entry.shape[self.axis] * self.row_bytes
        for part in block:
            file.put(np.ascontiguousarray(part).data, place)
            place += pitch

    def read(self, file: PositionalFile, start: int, stop: int) -> Tensor:
        """The rows ``[head, row, dim]`` or ``[row, …]`` as they were written.

        Raises:
            OSError: If they cannot be read.
        """
        shape, pitch = self.entry.shape, self.entry.shape[self.axis] * self.row_bytes
        first, sizes = self.entry.start + start * self.row_bytes, (stop - start, *shape[self.axis + 1 :])
        if not self.axis:
            return file.tensor(Entry(self.entry.dtype, sizes, first))
        heads = [file.tensor(Entry(self.entry.dtype, sizes, first + head * pitch)) for head in range(shape[0])]
        return torch.stack(heads)

    def put_matrix(self, file: SparseFile, start: int, rows: Tensor, key_start: int) -> None:
        """Write ``[head, row, key]`` at row ``start`` and the given first key.

        Raises:
            OSError: If the disk does not take them.
        """
        _, capacity, width = self.entry.shape
        for head, part in enumerate(_plain(rows)):
            for row, line in enumerate(part, start):
                item = (head * capacity + row) * width + key_start
                file.put(np.ascontiguousarray(line).data, self.entry.start + item * self.entry.dtype.itemsize)

    def put_whole(self, file: SparseFile, tensor: Tensor) -> None:
        """Write a tensor that does not grow.

        Raises:
            OSError: If the disk does not take it.
        """
        place = self.entry.start
        for part in tensor if tensor.dim() > 2 else [tensor]:
            file.put(np.ascontiguousarray(_plain(part)).data, place)
            place += part.nbytes
        self.wrote(0, 1)

    def mark_unknown(self, file: SparseFile, stop: int) -> None:
        """Mark the rows before ``stop`` that nobody wrote, NaN or −1; zeros would look like something.

        Raises:
            OSError: If the disk does not take it.
        """
        shape, dtype = self.entry.shape, self.entry.dtype
        fill = torch.nan if dtype.is_floating_point else -int(dtype.is_signed)
        for first, last in list(self.gaps(stop)):
            sizes = (*shape[: self.axis], last - first, *shape[self.axis + 1 :])
            self.put(file, first, torch.full(sizes, fill, dtype=dtype))
            self.wrote(first, last)

    def copy_to(self, other: "Room", file: SparseFile, source: PositionalFile) -> None:
        """Copy what was written into another room, which is as large at least.

        Raises:
            OSError: If the disk does not take it.
        """
        mine, theirs = self.entry, other.entry
        if self.is_matrix:
            for head in range(mine.shape[0]):
                for row in range(self.top):
                    old, new = (entry.shape[2] * (head * entry.shape[1] + row) for entry in (mine, theirs))
                    item = mine.dtype.itemsize
                    file.copy(source, mine.start + old * item, self.row_bytes, theirs.start + new * item)
        elif self.axis == len(self.sizes):
            file.copy(source, mine.start, mine.nbytes, theirs.start)
        else:
            outer = math.prod(mine.shape[: self.axis])
            old, new = (entry.shape[self.axis] * self.row_bytes for entry in (mine, theirs))
            for index in range(outer):
                file.copy(source, mine.start + index * old, self.top * self.row_bytes, theirs.start + index * new)
        other.known, other.later, other.top = self.known, list(self.later), self.top


class Rooms:
    """All rooms of a file, one after another."""

    def __init__(self, header_room: int, capacities: Mapping[str, int]) -> None:
        """Begin without rooms.

        Args:
            header_room: Bytes that the header may have.
            capacities: Columns to make room for, per axis.
        """
        self.header_room = header_room
        self.capacities = {axis: rounded(capacity) for axis, capacity in capacities.items()}
        self.stop = PREFIX + header_room
        """One past the last byte of the last room."""
        self._rooms: dict[str, Room] = {}
        self.to_fill: dict[str, list[Room]] = {"position": [], "encoder": []}
        """Rooms whose rows are unknown if nobody wrote them, per axis."""

    def __getitem__(self, name: str) -> Room:
        return self._rooms[name]

    def __iter__(self) -> Iterator[Room]:
        return iter(self._rooms.values())

    def __len__(self) -> int:
        return len(self._rooms)

    def place(self, name: str, dtype: torch.dtype, sizes: Sizes) -> Room:
        """Give a tensor the room behind the last one."""
        if name in self._rooms:
            raise ValueError(f"{name} has its room already")
        shape = tuple(size if isinstance(size, int) else self.capacities[size] for size in sizes)
        room = self._rooms[name] = Room(name, sizes, Entry(dtype, shape, self.stop))
        self.stop += room.entry.nbytes
        # What a matrix holds is told by its spans, and no span is what zeros say.
        if room.axis < len(sizes) and not room.is_matrix and not name.startswith(SPANS):
            self.to_fill["encoder" if sizes[room.axis] == "encoder" else "position"].append(room)
        if self.stop % PREFIX:
            self.place(f"{GAP}{len(self)}", torch.uint8, (-self.stop % PREFIX,))
        return room

    def first(self, count: int) -> tuple[dict[str, Entry], dict[str, str]]:
        """The places of the first tensors, and the letters of those that grow."""
        rooms = list(self._rooms.values())[:count]
        return {room.name: room.entry for room in rooms}, {
            room.name: room.axes for room in rooms if room.axes.strip(".")
        }


def rounded(count: int) -> int:
    """At least so many, and a multiple of 8, so that every tensor begins at one."""
    return -(-count // PREFIX) * PREFIX


def _plain(tensor: Tensor) -> NDArray[Any]:
    """The tensor for numpy, which does not know every type; what counts is the bytes."""
    tensor = tensor.detach() if tensor.requires_grad else tensor
    plain = _PLAIN.get(tensor.dtype)
    return (tensor if plain is None else tensor.view(plain)).numpy()
