"""Where a trace's tensors live: in memory after recording, in a file after loading.

Both answer the same two questions: give me this tensor, or only this head of it. A file answers the second by touching
that head's bytes alone.
"""

import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from gentrace.errors import TraceFormatError


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

    def tensor(self, name: str) -> Tensor:
        """A whole tensor."""
        return self._tensors[name]

    def slab(self, name: str, index: int) -> Tensor:
        """Entry ``index`` of the first axis."""
        return self._tensors[name][index]


class FileStore:
    """Tensors in a safetensors file, read when asked for and checked against the sums in its header."""

    def __init__(self, path: Path, sums: Mapping[str, list[int]]) -> None:
        """Open the file.

        Args:
            path: The file.
            sums: For each tensor its `checksums`.
        """
        self._path = path
        self._file = safe_open(path, framework="pt")
        self._sums = sums

    def __reduce__(self) -> tuple[Any, ...]:
        # An open file cannot be pickled or copied; it is opened again.
        return FileStore, (self._path, self._sums)

    def names(self) -> Iterator[str]:
        """The tensors' names."""
        return iter(self._file.keys())

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape, without reading it."""
        return tuple(self._file.get_slice(name).get_shape())

    def tensor(self, name: str) -> Tensor:
        """A whole tensor."""
        tensor = self._read(name, slice(None))
        self._check(name, checksums(tensor), self._sums[name])
        return tensor

    def slab(self, name: str, index: int) -> Tensor:
        """Entry ``index`` of the first axis, reading no other."""
        tensor = self._read(name, slice(index, index + 1))
        self._check(name, checksums(tensor), self._sums[name][index : index + 1])
        return tensor[0]

    def _read(self, name: str, where: slice) -> Tensor:
        try:
            return self._file.get_slice(name)[where]
        except (SafetensorError, OSError) as error:
            raise TraceFormatError(f"reading {name} from {self._path}", str(error), "the file is damaged") from error

    def _check(self, name: str, found: list[int], expected: list[int]) -> None:
        if found != expected:
            raise TraceFormatError(
                f"reading {name} from {self._path}",
                "its bytes do not match the sums in the header",
                "the file was changed or damaged after it was written; record it again",
            )


def checksums(tensor: Tensor) -> list[int]:
    """CRC-32 of each head of a ``[head, …, …]`` tensor, which can be read alone; of anything smaller as a whole."""
    parts = tensor if tensor.dim() > 2 else [tensor]
    return [zlib.crc32(part.contiguous().flatten().view(torch.uint8).numpy().data) for part in parts]
