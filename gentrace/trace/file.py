"""One trace, one ``.safetensors`` file.

The header carries a format version and everything that is not a tensor, as JSON; nothing in it is ever executed. The
file is written under a temporary name, flushed and renamed, so a crash never leaves half a trace under the final name.
Each tensor's sums are in the header, so a changed byte is noticed when it is read, and opening stays lazy. Reading and
writing go head by head, so neither needs memory for a whole trace.
"""

import errno
import os
import struct
import tempfile
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO

import torch

from gentrace.errors import TraceFormatError
from gentrace.trace.body import (
    FORMAT,
    TOKEN_TENSORS,
    WRONG,
    build_trace,
    checked,
    describe_trace,
    pack,
    unpack,
)
from gentrace.trace.container import PREFIX, Container, damaged, laid_out, make_header, raw_bytes
from gentrace.trace.grown import load_growing, open_growing
from gentrace.trace.store import FileStore, MemoryStore, Store, Typed, checksums, pieces
from gentrace.trace.trace import Trace

VERSION = 1
LARGEST_SUM = 2**32 - 1


def save_trace(trace: Trace, path: str | PathLike[str]) -> None:
    """Write a trace; see `Trace.save`."""
    tokens = trace.tokens
    tensors = {f"tokens.{name}": getattr(tokens, name) for name in TOKEN_TENSORS}
    if trace.encoder_tokens is not None:
        tensors["encoder.ids"] = trace.encoder_tokens.ids
    own = MemoryStore(tensors)
    stores: dict[str, Store] = dict.fromkeys(trace.store.names(), trace.store) | dict.fromkeys(tensors, own)
    body = describe_trace(trace)

    def write(temporary: Path) -> None:
        with temporary.open("r+b") as file:
            _write_container(file, stores, body)

    write_atomically(Path(path), write)


def _write_container(file: BinaryIO, stores: Mapping[str, Store], body: dict[str, Any]) -> None:
    """Write each tensor piece by piece, then the header with their sums into the room that was left for it."""
    shapes = {name: store.shape(name) for name, store in stores.items()}
    entries = laid_out({name: (_dtype(store, name), shapes[name]) for name, store in stores.items()})
    most = {name: [LARGEST_SUM] * (shape[0] if len(shape) > 2 else 1) for name, shape in shapes.items()}
    room = len(make_header(entries, _metadata(body | {"sums": most})))
    file.seek(PREFIX + room)
    sums: dict[str, list[int]] = {}
    for name in entries:
        sums[name] = []
        for piece in pieces(stores[name], name):
            sums[name] += checksums(piece[None]) if len(shapes[name]) > 2 else checksums(piece)
            file.write(raw_bytes(piece))
    file.seek(0)
    file.write(struct.pack("<Q", room) + make_header(entries, _metadata(body | {"sums": sums})).ljust(room))


def _metadata(body: Mapping[str, Any]) -> dict[str, str]:
    return {FORMAT: f"{VERSION} {pack(body)}"}


def _dtype(store: Store, name: str) -> torch.dtype:
    if isinstance(store, Typed):
        return store.dtype(name)
    shape = store.shape(name)
    one = store.slab(name, 0) if len(shape) > 2 and shape[0] else store.tensor(name)
    return one.dtype


def load(path: str | PathLike[str]) -> Trace:
    """Open a saved trace. Tensors are read from the file when they are asked for.

    A file that was still growing when its writer was stopped opens as well: it holds the rows that had been committed,
    and its ``meta.complete`` is False.

    Args:
        path: A file written by `Trace.save`, or while a generation went on.

    Raises:
        FileNotFoundError: If there is no such file.
        TraceFormatError: If the file is not a trace of a version that this gentrace reads, or not a whole one.
    """
    source = Path(path)
    growing = open_growing(source)
    if growing is not None:
        return load_growing(growing)
    container = Container.open(source)
    try:
        body = _read_body(container)
        store = FileStore(container, body["sums"])
        return checked(build_trace(body, store), body["sums"])
    except WRONG as error:
        raise damaged(source, f"its header does not describe a trace: {error}") from error


def _read_body(container: Container) -> dict[str, Any]:
    source, header = container.file.path, container.metadata
    if FORMAT not in header:
        raise TraceFormatError(f"loading {source}", "a safetensors file, but not a trace", "give a file of Trace.save")
    version, _, packed = header[FORMAT].partition(" ")
    if version != str(VERSION):
        raise TraceFormatError(
            f"loading {source}", f"format version {version!r}; this gentrace reads version {VERSION}", "update gentrace"
        )
    try:
        return unpack(packed)
    except ValueError as error:
        raise damaged(source, str(error)) from error


def write_atomically(target: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file beside ``target``, flush it to disk and rename it.

    Raises:
        OSError: If it cannot be written; no file is left behind.
    """
    if not target.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "no such folder", str(target.parent))
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part")
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        _flush(temporary)
        _give_default_mode(temporary)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    _flush(target.parent)


def _flush(path: Path) -> None:
    if os.name == "nt" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _give_default_mode(path: Path) -> None:
    """Undo mkstemp's owner-only mode."""
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)
