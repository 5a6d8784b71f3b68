"""Writing a trace to its file while the generation is still going on.

The file is a safetensors file all along. Its header has room to spare, its tensors have room for more rows than there
are, and room costs no disk: the file is sparse. A row is written at its place, so nothing is ever moved, and what was
written need not be kept in memory.

A process may be killed between any two bytes that it writes. So nothing that a reader relies on is ever half written:

* how far the rows go, which body counts and whether the file is complete are single aligned words of a control tensor;
* the header is there twice, each copy with its own digest, so that one of them is whole at any moment;
* the body (everything that is not a tensor, as JSON) goes into a tensor that does not count yet, and then one word
  makes it count;
* more room is made by a new file that takes the old one's name when it is whole.

A kill loses nothing that was committed. For a loss of power ask for ``sync``, which waits for the disk.
"""

import struct
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gentrace.errors import CaptureError, SpillError
from gentrace.trace.body import FORMAT, pack
from gentrace.trace.columns import Columns
from gentrace.trace.container import PREFIX, PositionalFile, make_header
from gentrace.trace.grown import (
    BODY,
    BODY_BITS,
    COMPLETE,
    CONTROL,
    CONTROL_WORDS,
    COPY,
    ENCODER_POSITIONS,
    MAGIC,
    OWN,
    POSITIONS,
    SEALED,
    SPANS,
    STATE,
    header_metadata,
    sums_of,
)
from gentrace.trace.rooms import GAP, Axis, Room, Rooms, Sizes, rounded
from gentrace.trace.sparse import SparseFile

HEADER_ROOM = (1 << 17) - PREFIX
BODY_ROOM = 1 << 24


class GrowingFile:
    """A trace's file while the trace is being made. One thread writes it.

    The order of calls: the constructor; `allocate` for each tensor as its layer shows itself, and `write` for its rows;
    `seal` when the first forward ended; then `write` and `commit` in turn; `close` or `abandon`. When the disk takes no
    more, a `SpillError` is raised; after it only `abandon` is left, and what was committed is safe.
    """

    def __init__(
        self, path: str | PathLike[str], capacity: int, *, encoder_capacity: int = 0, sync: bool = False
    ) -> None:
        """Make the file.

        Args:
            path: Its name, which must be free.
            capacity: Columns to make room for; more is made when more are written.
            encoder_capacity: The same for the encoder's columns.
            sync: Whether each commit waits for the disk, so that a loss of power loses nothing either.

        Raises:
            SpillError: If it cannot be made.
        """
        self.path = Path(path)
        if self.path.exists():
            raise SpillError(f"making {path}", "the file exists", "remove it, or give another name")
        self._sync = sync
        self._words = [MAGIC] + [0] * (CONTROL_WORDS - 1)
        self._rooms = Rooms(HEADER_ROOM, {"position": capacity, "encoder": encoder_capacity})
        self._official, self._bodies, self._failed = 0, 0, False
        self._file = SparseFile(self.path)
        try:
            with self._telling(f"making {self.path}"):
                self._begin()
        except BaseException:
            self._file.close()
            raise

    @property
    def committed(self) -> int:
        """Columns before this one are safe."""
        return self._words[POSITIONS]

    def allocate(self, name: str, dtype: torch.dtype, sizes: Sizes) -> None:
        """Make room for a tensor; a reader knows of it after the next `seal`.

        Until then the file is longer than its header says, which `gentrace.load` knows and other readers do not.

        Args:
            name: Its name in the trace.
            dtype: Its type.
            sizes: Its shape, with "position" or "encoder" for an axis that grows: ``(3, "position", 64)`` for keys,
                ``("position",)`` for ids. A matrix of queries and keys has two such axes.

        Raises:
            SpillError: If the file may not be so long.
        """
        with self._telling(f"making room for {name} in {self.path}"):
            room = self._rooms.place(name, dtype, sizes)
            if room.is_matrix:
                self._rooms.place(f"{SPANS}{name}", torch.int64, (sizes[room.axis], 2))
            self._file.make_room(self._rooms.stop)

    def add(self, name: str, tensor: Tensor) -> None:
        """Write a tensor that does not grow; a reader knows of it after the next `seal`, or `close`.

        Raises:
            SpillError: If the disk is full.
        """
        self.allocate(name, tensor.dtype, tuple(tensor.shape))
        with self._telling(f"writing {tensor.nbytes} bytes of {name} to {self.path}"):
            self._rooms[name].put_whole(self._file, tensor)

    def write(self, name: str, start: int, rows: Tensor, *, key_start: int = 0) -> None:
        """Write rows at their columns, over what was there.

        Columns that were committed may be written again. So that no kill leaves a mixture of old and new rows behind,
        commit ``start`` before.

        Args:
            name: The tensor.
            start: Column of the first row.
            rows: ``[head, row, dim]``, ``[head, row, key]`` or ``[row, …]``, on the host, in any strides. Edges of
                masks are columns too.
            key_start: Column of a matrix's first key; the keys beside those given are hidden from these rows.

        Raises:
            CaptureError: If the rows do not fit the tensor.
            SpillError: If the disk is full.
        """
        room = self._rooms[name]
        if not room.fits(rows):
            seen = f"rows of shape {tuple(rows.shape)} in {rows.dtype} for {room.sizes} in {room.entry.dtype}"
            raise CaptureError(f"writing {name} to {self.path}", seen, "give rows of the tensor's own shape and type")
        axis, stop = room.axis, start + rows.shape[room.axis]
        room = self._with_room(room, axis, stop)
        try:
            self._check()
            if room.is_matrix:
                room = self._with_room(room, axis + 1, key_start + rows.shape[-1])
                room.put_matrix(self._file, start, rows, key_start)
                span = torch.tensor([[key_start, key_start + rows.shape[-1]]]).expand(stop - start, 2)
                self._rooms[f"{SPANS}{name}"].put(self._file, start, span)
                self._rooms[f"{SPANS}{name}"].wrote(start, stop)
            else:
                room.put(self._file, start, rows)
        except OSError as error:
            raise self._failure(f"writing {rows.nbytes} bytes of {name} to {self.path}", error) from error
        room.wrote(start, stop)

    def read(self, name: str, start: int, stop: int) -> Tensor:
        """Rows that were written, ``[head, row, dim]`` or ``[row, …]``; also after the file was closed.

        Raises:
            OSError: If they cannot be read.
        """
        return self._rooms[name].read(PositionalFile(self.path), start, stop)

    def seal(self, body: Mapping[str, Any]) -> None:
        """Tell readers of the tensors that there are, and of what is known beside them.

        Call it when the first forward ended, and again when a layer showed itself later.

        Args:
            body: As `describe_start` makes it. Its "tokens" may have "texts", "top_texts" and "kinds" of the first
                positions too; an "encoder" the "texts" and "kinds" of the input; and anything else that
                `describe_trace` has, as far as it is known.

        Raises:
            SpillError: If the disk is full.
        """
        with self._telling(f"writing the header of {self.path}"):
            self._put_headers(len(self._rooms))
            self._put_body(body)
            if self._words[STATE] != SEALED:
                self._set(STATE, SEALED)

    def describe(self, body: Mapping[str, Any]) -> None:
        """Replace the body that `seal` was given, such as when more text is known.

        Raises:
            SpillError: If the disk is full.
        """
        with self._telling(f"writing texts to {self.path}"):
            self._put_body(body)

    def commit(self, stop: int, axis: Axis = "position") -> None:
        """Say that every row before column ``stop`` is in the file; it may be less than the last time.

        Rows before it that nobody wrote become unknown: NaN, or −1.

        Raises:
            SpillError: If the disk is full.
        """
        try:
            self._check()
            self._fill(axis, stop)
            if self._sync:
                self._file.flush()
            self._set(ENCODER_POSITIONS if axis == "encoder" else POSITIONS, stop)
            if self._sync:
                self._file.flush()
        except OSError as error:
            raise self._failure(f"committing column {stop} of {self.path}", error) from error

    def grow(self, capacity: int, axis: Axis = "position") -> None:
        """Make room for more columns, by a new file that takes this one's place when it is whole.

        Raises:
            SpillError: If the disk is full; the old file is as it was.
        """
        if capacity > self._rooms.capacities[axis]:
            with self._telling(f"making room for {capacity} columns in {self.path}"):
                self._rebuild(Rooms(self._rooms.header_room, self._rooms.capacities | {axis: capacity}))

    def close(self, body: Mapping[str, Any], *, sums: bool = False) -> None:
        """Say everything that is known in the end, and that the file is complete.

        Args:
            body: As `describe_trace` makes it, with "columns" and "encoder_columns" if there is padding.
            sums: Whether to read everything again and keep each head's sum, as `Trace.save` does. Without it, a byte
                that changes later goes unnoticed.

        Raises:
            SpillError: If the disk is full; what was committed stays readable.
        """
        body = dict(body) | {"sums": None}
        columns = Columns.of(body.get("columns", [[0, None]]))
        encoder_columns = Columns.of(body.get("encoder_columns", [[0, None]]))
        encoder = 0 if body["encoder"] is None else body["encoder"]["length"]
        fed = columns.stop(body["length"])
        with self._telling(f"closing {self.path}"):
            self._fill("encoder", encoder_columns.stop(encoder))
            self._fill("position", fed)
            self._fill("position", columns.stop(len(body["tokens"]["texts"])), "tokens.")
            self._put_headers(len(self._rooms))
            self._put_body(body)
            self._set(POSITIONS, fed)
            if sums:
                self._put_body(body | {"sums": sums_of(self.path, body)})
            self._file.flush()
            self._set(STATE, COMPLETE)
            self._file.flush()
        self.abandon()

    def abandon(self) -> None:
        """Let go of the file as it is. Twice is harmless."""
        self._failed = True
        self._file.close()

    def _begin(self) -> None:
        """Fill the file with its own tensors, and let it appear."""
        self._rooms.place(CONTROL, torch.int64, (CONTROL_WORDS,))
        self._rooms.place(COPY, torch.uint8, (HEADER_ROOM + PREFIX,))
        self._place_body(BODY_ROOM)
        self._place_body(BODY_ROOM)
        self._file.put(struct.pack(f"<{CONTROL_WORDS}q", *self._words), self._rooms[CONTROL].entry.start)
        self._put_headers(len(self._rooms))
        self._file.appear()

    def _place_body(self, size: int) -> None:
        self._rooms.place(f"{OWN}body.{self._bodies}", torch.uint8, (rounded(size),))
        self._file.make_room(self._rooms.stop)
        self._bodies += 1

    def _put_headers(self, count: int) -> None:
        """Write both copies of a header with so many tensors; one is whole before the other is touched."""
        if count == self._official:
            return None
        entries, axes = self._rooms.first(count)
        text = make_header(entries, {FORMAT: header_metadata(entries, axes)}, PREFIX + self._rooms.header_room)
        if len(text) > self._rooms.header_room:
            self._rebuild(Rooms(rounded(2 * len(text)), self._rooms.capacities))
            return self._put_headers(count)
        padded = text.ljust(self._rooms.header_room)
        self._file.put(padded, self._rooms[COPY].entry.start)
        if self._sync:
            self._file.flush()
        self._file.put(struct.pack("<Q", self._rooms.header_room) + padded, 0)
        self._official = count
        return None

    def _put_body(self, body: Mapping[str, Any]) -> None:
        """Write a body where the one that counts is not, and let it count."""
        text = pack(body).encode()
        current = self._words[BODY] >> BODY_BITS if self._words[BODY] else -1
        number = 0
        while number < self._bodies and (number == current or self._body(number).entry.nbytes < len(text)):
            number += 1
        if number == self._bodies:
            self._place_body(2 * len(text))
            self._put_headers(len(self._rooms))
        self._file.put(text, self._body(number).entry.start)
        if self._sync:
            self._file.flush()
        self._set(BODY, number << BODY_BITS | len(text))

    def _body(self, number: int) -> Room:
        return self._rooms[f"{OWN}body.{number}"]

    def _set(self, word: int, value: int) -> None:
        self._file.put(struct.pack("<q", value), self._rooms[CONTROL].entry.start + 8 * word)
        self._words[word] = value

    def _fill(self, axis: Axis, stop: int, begins: str = "") -> None:
        for room in self._rooms.to_fill[axis]:
            if room.known < stop and room.name.startswith(begins):
                self._with_room(room, room.axis, stop).mark_unknown(self._file, stop)

    def _with_room(self, room: Room, axis: int, needed: int) -> Room:
        """The tensor's room, once it is large enough."""
        size = room.sizes[axis]
        if needed > room.entry.shape[axis] and not isinstance(size, int):
            self.grow(max(needed, 2 * room.entry.shape[axis]), size)
        return self._rooms[room.name]

    def _rebuild(self, rooms: Rooms) -> None:
        """Copy everything into a new file with other room, and let it take this one's place."""
        before = self._rooms, self._file, self._official
        old, official = PositionalFile(self.path), self._official
        self._rooms, self._file, self._official = rooms, SparseFile(self.path), 0
        try:
            for room in before[0]:
                if room.name == COPY:
                    rooms.place(COPY, torch.uint8, (rooms.header_room + PREFIX,))
                elif not room.name.startswith(GAP):
                    room.copy_to(rooms.place(room.name, room.entry.dtype, room.sizes), self._file, old)
            self._file.make_room(rooms.stop)
            self._put_headers(official)
            if self._sync:
                self._file.flush()
            before[1].close()
            self._file.appear()
        except BaseException:
            self._file.close()
            self._rooms, self._file, self._official = before
            raise

    def _check(self) -> None:
        if self._failed:
            raise SpillError(f"writing to {self.path}", "it was closed, or an earlier write failed", "record again")

    @contextmanager
    def _telling(self, attempted: str) -> Generator[None]:
        """Turn the system's errors into one that says what is safe."""
        self._check()
        try:
            yield
        except OSError as error:
            raise self._failure(attempted, error) from error

    def _failure(self, attempted: str, error: OSError) -> OSError:
        self._failed = True
        if isinstance(error, SpillError):
            return error
        safe = f"the {self.committed} columns committed before are safe, and gentrace.load reads them"
        error.filename = str(self.path)
        return SpillError(attempted, error.strerror or str(error), f"make room on the disk; {safe}", error)
