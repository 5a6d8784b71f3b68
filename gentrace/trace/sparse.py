"""A file with room that costs nothing until it is written to, and one error for a disk that is full."""

import errno
import os
import sys
import tempfile
import weakref
from pathlib import Path

from gentrace.errors import SpillError
from gentrace.trace.container import PositionalFile

CHUNK = 1 << 20
_ZEROS = bytes(CHUNK)


class SparseFile:
    """A new file beside its final name, written at positions and renamed when it can be read."""

    def __init__(self, path: Path) -> None:
        """Make an empty file under a temporary name.

        Raises:
            SpillError: If it cannot be made.
        """
        self.path = path
        if not path.parent.is_dir():
            raise SpillError(
                f"making {path}",
                "there is no such folder",
                "make it first",
                FileNotFoundError(errno.ENOENT, "no such folder", str(path.parent)),
            )
        try:
            descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        except OSError as error:
            raise SpillError(f"making {path}", str(error), "give a folder that can be written to", error) from error
        self._temporary: Path | None = Path(name)
        self._hold(descriptor)

    def put(self, data: memoryview | bytes, offset: int) -> None:
        """Write bytes that lie in a row.

        Raises:
            OSError: If not all of them were taken.
        """
        done = self._put_some(data, offset)
        size = len(data) if isinstance(data, bytes) else data.nbytes
        if done < size:
            rest = memoryview(data).cast("B")
            while done < size:
                more = self._put_some(rest[done:], offset + done)
                if not more:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
                done += more

    def make_room(self, size: int) -> None:
        """Let the file be so long; nothing is written, and reads as zeros."""
        os.ftruncate(self.descriptor, size)

    def copy(self, source: PositionalFile, start: int, count: int, place: int) -> None:
        """Copy ``count`` bytes of another file, leaving out what is zero."""
        for offset in range(0, count, CHUNK):
            data = source.read(start + offset, min(CHUNK, count - offset))
            if data != _ZEROS[: len(data)]:
                self.put(data, place + offset)

    def flush(self, *, metadata: bool = True) -> None:
        """Wait until everything written is on the disk."""
        if metadata or not hasattr(os, "fdatasync"):
            os.fsync(self.descriptor)
        else:
            os.fdatasync(self.descriptor)

    def appear(self) -> None:
        """Take the final name, replacing what had it."""
        if self._temporary is None:
            return
        mask = os.umask(0)
        os.umask(mask)
        self._temporary.chmod(0o666 & ~mask)
        if sys.platform == "win32":
            self._release()
        self._temporary.replace(self.path)
        self._temporary = None
        if sys.platform == "win32":
            self._hold(os.open(self.path, os.O_RDWR | os.O_BINARY))

    def close(self) -> None:
        """Let go of the file; one that never appeared is removed. Twice is harmless."""
        self._release()
        if self._temporary is not None:
            self._temporary.unlink(missing_ok=True)
            self._temporary = None

    def _hold(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._release = weakref.finalize(self, os.close, descriptor)

    def _put_some(self, data: memoryview | bytes, offset: int) -> int:
        if sys.platform == "win32":
            os.lseek(self.descriptor, offset, os.SEEK_SET)
            return os.write(self.descriptor, data)
        return os.pwrite(self.descriptor, data, offset)
