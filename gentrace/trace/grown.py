"""Reading a file that grows: whole, still growing, or left behind by a writer that was killed.

`gentrace.trace.growing` says how such a file is written. Its tensors have room for more rows than there are, and are
numbered in the columns of the recording: padding included. A reader sees neither. It is shown the sequence's own
positions, as many as were committed, and what nobody wrote is unknown: NaN, −1, or no text but the id.
"""

import json
import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gentrace.errors import TraceFormatError
from gentrace.trace.body import FORMAT, TOKEN_TENSORS, WRONG, build_trace, checked, digest, expected_names, unpack
from gentrace.trace.columns import ENCODER_AXIS, POSITION_AXIS, Columns, View
from gentrace.trace.container import (
    HEADER_LIMIT,
    NAMES,
    PREFIX,
    Container,
    Entry,
    PositionalFile,
    damaged,
    parse_header,
    read_header,
)
from gentrace.trace.store import FileStore, Store, checksums, pieces
from gentrace.trace.tokens import Tokens
from gentrace.trace.trace import Trace

VERSION = "growing-1"
MAGIC = int.from_bytes(b"gtgrows\n", "little")
OWN = "growing."
"""What the names of tensors begin with that are not the trace's but the file's."""
CONTROL, COPY, SPANS = f"{OWN}control", f"{OWN}header", f"{OWN}spans."
CONTROL_WORDS = 512
STATE, POSITIONS, ENCODER_POSITIONS, BODY = 1, 2, 3, 4
"""Words of the control tensor; the first is `MAGIC`."""
UNSEALED, SEALED, COMPLETE = 0, 1, 2
BODY_BITS = 40
"""The body's word holds its length in so many bits, and above them the number of the tensor that it is in."""


def _table_digest(entries: Mapping[str, Entry], axes: Mapping[str, str]) -> str:
    """What tells a whole header from two halves of different ones."""
    table = {name: [NAMES[entry.dtype], entry.shape, entry.start] for name, entry in entries.items()}
    return digest(json.dumps([table, axes], sort_keys=True))


class GrownStore(FileStore):
    """The tensors of a growing file, in the sequence's own positions."""

    def __init__(self, container: Container, sums: Mapping[str, list[int]] | None, view: View) -> None:
        """Keep an open file.

        Args:
            container: The file.
            sums: For each tensor, as it is seen, its sums; None if the file has none.
            view: What is to be seen of it.
        """
        super().__init__(container, sums)
        self._view = view

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, (self._container.file.path, self._sums, self._view)

    def names(self) -> Iterator[str]:
        """The tensors' names."""
        return iter(sorted(self._view.names))

    def dtype(self, name: str) -> torch.dtype:
        """A tensor's type, without reading it."""
        entries = self._container.entries
        return entries[name].dtype if name in entries else _unknown(name, self._view).dtype

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape, without reading it."""
        entries = self._container.entries
        if name not in entries:
            return tuple(_unknown(name, self._view).shape)
        sizes = zip(entries[name].shape, self._axes(name), strict=True)
        return tuple(size if axis == "." else self._view.of(name, axis)[1] for size, axis in sizes)

    def _axes(self, name: str) -> str:
        return self._view.axes.get(name) or "." * len(self._container.entries[name].shape)

    def _read(self, name: str, where: slice) -> Tensor:
        if name not in self._container.entries:
            return _unknown(name, self._view)[where]
        axes = self._axes(name)
        growing = len(axes.replace(".", ""))
        if not growing:
            return super()._read(name, where)
        if growing > 1:
            return self._read_matrix(name, where)
        heads = where if axes[0] == "." else slice(None)
        found = self._read_rows(name, axes, heads)
        if name.startswith("masks."):
            sees_encoder = name.rsplit(".", 1)[0] in self._view.sees_encoder
            columns, count = self._view.of(name, ENCODER_AXIS if sees_encoder else POSITION_AXIS)
            found = columns.positions(found, count)
        return found if axes[0] == "." else found[where]

    def _read_rows(self, name: str, axes: str, heads: slice) -> Tensor:
        """``[head, row, …]`` or ``[row, …]``, the rows of a sequence put together from their columns."""
        entry, shape = self._container.entries[name], self.shape(name)
        axis = len(axes) - len(axes.lstrip("."))
        outer = range(*heads.indices(entry.shape[0])) if axis else range(1)
        row = math.prod(entry.shape[axis + 1 :]) * entry.dtype.itemsize
        columns, count = self._view.of(name, axes[axis])
        raw = torch.empty(len(outer) * count * row, dtype=torch.uint8)
        target, place = raw.numpy().data, 0
        for index in outer:
            for first, stop in columns.first(count):
                start = entry.start + (index * entry.shape[axis] + first) * row
                self._container.file.read_into(target[place : place + (stop - first) * row], start)
                place += (stop - first) * row
        return raw.view(entry.dtype).reshape(((len(outer),) if axis else ()) + shape[axis:])

    def _read_matrix(self, name: str, where: slice) -> Tensor:
        """``[head, query, key]``, of which each row says which keys were written."""
        entry, axes, shape = self._container.entries[name], self._axes(name), self.shape(name)
        spans = self._container.entries[f"{SPANS}{name}"]
        heads = range(*where.indices(entry.shape[0]))
        columns, count = self._view.of(name, axes[2])
        whole = torch.full((len(heads), *shape[1:]), _outside(name), dtype=entry.dtype)
        query_columns = self._view.of(name, axes[1])[0]
        rows = [row for run in query_columns.first(shape[1]) for row in range(*run)]
        used = Entry(spans.dtype, (query_columns.stop(shape[1]), 2), spans.start)
        edges = self._container.file.tensor(used)
        for query, row in enumerate(rows):
            start, stop = edges[row].clamp(0, entry.shape[2]).tolist()
            keys = torch.arange(start, max(start, stop))
            places = columns.positions(keys, count)
            kept = columns.positions(keys + 1, count) > places
            for index, head in enumerate(heads):
                begin = entry.start + ((head * entry.shape[1] + row) * entry.shape[2] + start) * entry.dtype.itemsize
                written = self._container.file.tensor(Entry(entry.dtype, (len(keys),), begin))
                whole[index, query, places[kept]] = written[kept]
        return whole


def open_growing(source: Path) -> Container | None:
    """Open a file that grows, or that grew.

    A writer may be killed while it writes a new header, so there are two copies, and one of them is whole.

    Returns:
        The file; None if it is not one that grows.

    Raises:
        FileNotFoundError: If there is no such file.
        TraceFormatError: If it is damaged, or of a version that this gentrace does not read.
    """
    file = PositionalFile(source)
    prefix = file.read(0, PREFIX)
    room = struct.unpack("<Q", prefix)[0] if len(prefix) == PREFIX else HEADER_LIMIT + 1
    if room > HEADER_LIMIT or file.read(PREFIX + room, 8) != MAGIC.to_bytes(8, "little"):
        return None
    copy = PREFIX + room + 8 * CONTROL_WORDS
    for header in (read_header(file), file.read(copy, room)):
        try:
            entries, metadata = parse_header(header, file.size, unfinished=True)
            version, expected, axes = metadata[FORMAT].split(" ", 2)
            if version != VERSION:
                advice = f"format version {version!r}; this gentrace reads {VERSION!r}", "update gentrace"
                raise TraceFormatError(f"loading {source}", *advice)
            if _table_digest(entries, json.loads(axes)) == expected:
                return Container(file, entries, {FORMAT: axes})
        except (*WRONG, RecursionError):
            continue
    raise damaged(source, "neither copy of its header is whole")


def header_metadata(entries: Mapping[str, Entry], axes: Mapping[str, str]) -> str:
    """What a growing file's header says of itself."""
    return f"{VERSION} {_table_digest(entries, axes)} {json.dumps(axes)}"


def sums_of(source: Path, body: Mapping[str, Any]) -> dict[str, list[int]]:
    """The sums of a file's tensors as a body lets them be seen."""
    container = open_growing(source)
    if container is None:
        raise damaged(source, "another file took its place")
    axes = json.loads(container.metadata[FORMAT])
    store = GrownStore(container, None, _view(container.entries, body, axes, len(body["tokens"]["texts"])))
    return {name: [checksums(piece)[0] for piece in pieces(store, name)] for name in store.names()}


def load_growing(container: Container) -> Trace:
    """The trace in a growing file; see `gentrace.load`.

    Raises:
        TraceFormatError: If the writer was stopped too early for there to be a trace, or the file is damaged.
    """
    source = container.file.path
    try:
        control = container.file.tensor(container.entries[CONTROL]).tolist()
        if control[STATE] == UNSEALED:
            raise TraceFormatError(
                f"loading {source}",
                "the process that wrote it was stopped before its first forward ended",
                "nothing was recorded; record it again",
            )
        body = _read_body(container, control[BODY])
        axes = json.loads(container.metadata[FORMAT])
        return _complete(container, body, axes) if control[STATE] == COMPLETE else _cut(container, body, axes, control)
    except (*WRONG, EOFError) as error:
        raise damaged(source, f"its header does not describe a trace: {error}") from error


def _read_body(container: Container, word: int) -> dict[str, Any]:
    entry = container.entries[f"{OWN}body.{word >> BODY_BITS}"]
    length = word & ((1 << BODY_BITS) - 1)
    if length > entry.nbytes:
        raise ValueError("its body is longer than its room")
    return unpack(container.file.read(entry.start, length).decode())


def _complete(container: Container, body: Mapping[str, Any], axes: Mapping[str, str]) -> Trace:
    view = _view(container.entries, body, axes, len(body["tokens"]["texts"]))
    trace = build_trace(body, GrownStore(container, None, view))
    # Room that was made for a layer which never came is no part of the trace.
    view = replace(view, names=frozenset(expected_names(trace)))
    return checked(build_trace(body, GrownStore(container, body["sums"], view)), body["sums"])


def _view(entries: Mapping[str, Entry], body: Mapping[str, Any], axes: Mapping[str, str], tokens: int) -> View:
    """What a body lets be seen of a file's tensors, when so many positions have a token."""
    masks = frozenset(f"masks.{mask}" for _, _, mask in body["masks"])
    names = {name for name in entries if not name.startswith(OWN)}
    names |= {f"tokens.{name}" for name in TOKEN_TENSORS}
    names |= {f"{mask}.{part}" for mask in masks for part in ("rows", "bits")}
    names |= {"encoder.ids"} if body["encoder"] is not None else set()
    view = View(
        length=body["length"],
        tokens=tokens,
        encoder=0 if body["encoder"] is None else body["encoder"]["length"],
        columns=Columns.of(body.get("columns", [[0, None]])),
        encoder_columns=Columns.of(body.get("encoder_columns", [[0, None]])),
        axes=axes,
        sees_encoder=frozenset(f"masks.{mask}" for _, kind, mask in body["masks"] if kind != "self"),
        names=frozenset(names),
    )
    for name, letters in axes.items():
        _check_room(name, entries[name], letters, view)
    return view


def _check_room(name: str, entry: Entry, axes: str, view: View) -> None:
    """A tensor has all the rows that are to be read of it."""
    for size, axis in zip(entry.shape, axes, strict=True):
        columns, count = view.of(name, axis)
        if axis != "." and columns.stop(count) > size:
            raise ValueError(f"{name} has room for {size} rows, and not for {count} positions")


def _cut(container: Container, body: dict[str, Any], axes: Mapping[str, str], control: Sequence[int]) -> Trace:
    """The trace of a file whose writer did not come to its end: what the body says so far, and the rows committed."""
    length = Columns.of(body.get("columns", [[0, None]])).count(control[POSITIONS])
    encoder = Columns.of(body.get("encoder_columns", [[0, None]])).count(control[ENCODER_POSITIONS])
    layers = [info for info in body["layers"] if _has_layer(container.entries, body, info)]
    words, input_words = body.get("tokens", {}), body.get("encoder") or {}
    nothing: dict[str, Any] = {"other_layers": [], "beams": None, "drafts": []}
    unchecked = {"tolerance": math.nan, "layers": [], "cross": [], "encoder": []}
    whole = nothing | body
    whole |= {
        "length": length,
        "layers": layers,
        "fidelity": body.get("fidelity", unchecked),
        "meta": body["meta"] | {"complete": False},
        "masks": [[index, kind, mask] for index, kind, mask in body["masks"] if _listed(layers, index, kind)],
        "encoder": {"length": encoder, "texts": [], "kinds": []} if encoder else None,
    }
    view = _view(container.entries, whole, axes, length)
    store = GrownStore(container, None, view)
    trace = build_trace(whole, store, StreamedTokens(store, words))
    store = GrownStore(container, None, replace(view, names=frozenset(expected_names(trace))))
    trace = build_trace(whole, store, StreamedTokens(store, words), StreamedInput(store, input_words))
    return checked(trace, None)


def _listed(layers: Sequence[Mapping[str, Any]], index: int, kind: str) -> bool:
    return any(info["index"] == index and info["kind"] == kind for info in layers)


def _has_layer(entries: Mapping[str, Entry], body: Mapping[str, Any], info: Mapping[str, Any]) -> bool:
    """Whether a layer's tensors are in the file; not all were if it showed itself just before the end."""
    prefix = f"layers.{info['index']}.{info['kind']}"
    masks = [mask for index, kind, mask in body["masks"] if (index, kind) == (info["index"], info["kind"])]
    named = f"{prefix}.scores" in entries or {f"{prefix}.queries", f"{prefix}.keys"} <= set(entries)
    return named and all({f"masks.{mask}.start", f"masks.{mask}.stop"} <= set(entries) for mask in masks)


@dataclass(frozen=True, slots=True)
class StreamedTokens:
    """Reads the tokens of a file that was cut short; where no text is known, the id in brackets stands for it."""

    store: Store
    words: Mapping[str, Any]

    def __call__(self) -> Tokens:
        """The tokens."""
        tensors = {name: self.store.tensor(f"tokens.{name}") for name in TOKEN_TENSORS}
        ids, top_ids = tensors["ids"].tolist(), tensors["top_ids"].tolist()
        tops = tuple(tuple(texts) for texts in self.words.get("top_texts", ())[: len(ids)])
        return Tokens(
            texts=_texts(self.words, ids),
            prompt_length=min(self.words.get("prompt_length", len(ids)), len(ids)),
            top_texts=tops + tuple(tuple(f"[{token}]" for token in row if token >= 0) for row in top_ids[len(tops) :]),
            kinds=_kinds(self.words, ids),
            **tensors,
        )


@dataclass(frozen=True, slots=True)
class StreamedInput:
    """Reads the encoder's tokens of such a file."""

    store: Store
    words: Mapping[str, Any]

    def __call__(self) -> Tokens:
        """The tokens."""
        ids = self.store.tensor("encoder.ids")
        return Tokens.unpredicted(ids, _texts(self.words, ids.tolist()), _kinds(self.words, ids.tolist()))


def _texts(words: Mapping[str, Any], ids: list[int]) -> tuple[str, ...]:
    known = tuple(words.get("texts", ())[: len(ids)])
    return known + tuple(f"[{token}]" for token in ids[len(known) :])


def _kinds(words: Mapping[str, Any], ids: list[int]) -> tuple[str, ...]:
    known = tuple(words.get("kinds", ())[: len(ids)])
    return known + tuple("embedding" if token < 0 else "text" for token in ids[len(known) :])


def _unknown(name: str, view: View) -> Tensor:
    """What stands for a tensor that a file does not have."""
    if name.startswith("masks."):
        return torch.zeros(0, dtype=torch.int32) if name.endswith("rows") else torch.zeros(0, 0, dtype=torch.uint8)
    count = view.encoder if name.startswith("encoder.") else view.tokens
    shape = (count, 0) if ".top_" in name else (count,)
    is_whole = name.endswith(("ids", "rank"))
    return torch.full(shape, -1, dtype=torch.int64) if is_whole else torch.full(shape, torch.nan)


def _outside(name: str) -> float:
    """What a matrix holds where nothing was written: a hidden key's score, or no bias."""
    return -math.inf if name.endswith(".scores") else 0.0


def _reopened(path: Path, sums: Mapping[str, list[int]] | None, view: View) -> GrownStore:
    container = open_growing(path)
    if container is None:
        raise damaged(path, "another file took its place")
    return GrownStore(container, sums, view)
