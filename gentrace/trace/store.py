"""Where a trace's tensors live: in memory after recording, in a file after loading.

Both answer the same two questions: give me this tensor, or only this head of it. A file answers the second by touching
that head's bytes alone.
"""

import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from gentrace.errors import TraceFormatError
from gentrace.trace.container import Container, raw_bytes


@runtime_checkable
class Store(Protocol):
    """Named tensors."""

    def names(self) -> Iterator[str]:
        """The tensors' names."""
        ...

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape, without reading it."""
        ...

    def tensor(self, name: str) -> Tensor:
        """A whole tensor."""
        ...

    def slab(self, name: str, index: int) -> Tensor:
        """Entry ``index`` of the first axis."""
        ...


@runtime_checkable
class Typed(Protocol):
    """A store that knows its tensors' types without reading them."""

    def dtype(self, name: str) -> torch.dtype:
        """A tensor's type."""
        ...


class MemoryStore:
    """Tensors in memory."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        """Keep the tensors as they are."""
        self._tensors = dict(tensors)

    def names(self) -> Iterator[str]:
        """The tensors' names."""
        return iter(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape."""
        return tuple(self._tensors[name].shape)

    def dtype(self, name: str) -> torch.dtype:
        """A tensor's type."""
        return self._tensors[name].dtype

    def tensor(self, name: str) -> Tensor:
        """A whole tensor."""
        return self._tensors[name]

    def slab(self, name: str, index: int) -> Tensor:
        """Entry ``index`` of the first axis."""
        return self._tensors[name][index]


class FileStore:
    """Tensors in a safetensors file, read when asked for and checked against the sums in its header.

    The file stays open as long as the store lives, and is read at positions from any thread; it is not mapped, so its
    size is no matter.
    """

    def __init__(self, container: Container, sums: Mapping[str, list[int]] | None) -> None:
        """Keep an open file.

        Args:
            container: The file.
            sums: For each tensor its `checksums`; None for a file that has none, which is believed as it is.
        """
        self._container = container
        self._sums = sums

    def __reduce__(self) -> tuple[Any, ...]:
        # An open file cannot be pickled or copied; it is opened again.
        return _reopened, (self._container.file.path, self._sums)

    def names(self) -> Iterator[str]:
        """The tensors' names."""
        return iter(self._container.entries)

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape, without reading it."""
        return self._container.entries[name].shape

    def dtype(self, name: str) -> torch.dtype:
        """A tensor's type, without reading it."""
        return self._container.entries[name].dtype

    def tensor(self, name: str) -> Tensor:
        """A whole tensor."""
        tensor = self._guarded(name, slice(None))
        if self._sums is not None:
            self._check(name, checksums(tensor), self._sums[name])
        return tensor

    def slab(self, name: str, index: int) -> Tensor:
        """Entry ``index`` of the first axis, reading no other."""
        tensor = self._guarded(name, slice(index, index + 1))
        if self._sums is not None:
            self._check(name, checksums(tensor), self._sums[name][index : index + 1])
        return tensor[0]

    def _guarded(self, name: str, where: slice) -> Tensor:
        path = self._container.file.path
        try:
            return self._read(name, where)
        except (EOFError, OSError) as error:
            raise TraceFormatError(f"reading {name} from {path}", str(error), "the file is damaged") from error

    def _read(self, name: str, where: slice) -> Tensor:
        """Entries ``where`` of the first axis; everything for a tensor without axes."""
        entry, file = self._container.entries[name], self._container.file
        return file.slabs(entry, where) if entry.shape else file.tensor(entry)

    def _check(self, name: str, found: list[int], expected: list[int]) -> None:
        if found != expected:
            raise TraceFormatError(
                f"reading {name} from {self._container.file.path}",
                "its bytes do not match the sums in the header",
                "the file was changed or damaged after it was written; record it again",
            )


def _reopened(path: Path, sums: Mapping[str, list[int]] | None) -> FileStore:
    return FileStore(Container.open(path), sums)


def checksums(tensor: Tensor) -> list[int]:
    """CRC-32 of each head of a ``[head, …, …]`` tensor, which can be read alone; of anything smaller as a whole."""
    return [zlib.crc32(raw_bytes(part)) for part in (tensor if tensor.dim() > 2 else [tensor])]


def pieces(store: Store, name: str) -> Iterator[Tensor]:
    """A stored tensor in the pieces that have a sum each: head by head, or whole if it is small."""
    shape = store.shape(name)
    if len(shape) > 2:
        yield from (store.slab(name, index) for index in range(shape[0]))
    else:
        yield store.tensor(name)
