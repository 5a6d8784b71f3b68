"""One writer at a time: a lock file that names its owner, so that a dead owner's can be taken over.

An owner is a process id with the time it started, in one boot of one machine: a process id alone comes back. Where the
owner's machine is this one, whether it lives can be asked. Where it is another, or one that was started again, nobody
can be asked; so an owner touches its file every few seconds, by counting in it, and a lock whose count stands still is
taken over. No clocks are compared.
"""

import contextlib
import json
import os
import platform
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

from gentrace.errors import StudyError
from gentrace.studies.errors import LockedError

BEAT = 2.0
"""Seconds between two counts."""
PATIENCE = 30.0
"""Seconds that the count of an owner on another machine may stand still."""
WIDTH = 20


@dataclass(frozen=True, slots=True)
class Owner:
    """Who holds a lock."""

    pid: int
    host: str
    """The machine, its boot and, in containers, the space in which process ids count."""
    start: str
    """When the process started, as its system says it."""
    name: str
    """The machine's name, to be shown."""
    token: str
    """One for each lock taken."""


class Lock:
    """A study folder's lock; use it with ``with``."""

    def __init__(
        self, path: Path, *, say: Callable[[str], object] = print, beat: float = BEAT, patience: float = PATIENCE
    ) -> None:
        """Name it; it is taken on enter.

        Args:
            path: The lock file.
            say: Told when a lock is taken over.
            beat: Seconds between two counts.
            patience: Seconds that the count of an owner elsewhere may stand still.
        """
        self.path = path
        self._say, self._beat, self._patience = say, beat, patience
        self.owner = Owner(os.getpid(), this_host(), started(os.getpid()) or "", platform.node(), uuid.uuid4().hex)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "Lock":
        """Take it.

        Raises:
            LockedError: If another process, which lives, has it.
            OSError: If the file cannot be written.
        """
        while not self._create():
            self._take_over()
        self._thread = threading.Thread(target=self._count, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Give it back, if it is still ours."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        with self._guard():
            found = _read(self.path)
            if found is not None and found[0] == self.owner:
                self.path.unlink(missing_ok=True)

    def check(self) -> None:
        """Make sure that nobody took it over.

        Raises:
            StudyError: If somebody did, which happens to a process that was stopped for long on another machine.
        """
        found = _read(self.path)
        if found is None or found[0] != self.owner:
            other = None if found is None else found[0]
            by = "somebody" if other is None else f"process {other.pid} on {other.name}"
            raise StudyError("committing a batch", f"{by} took the folder over", "let that run finish")

    def _create(self) -> bool:
        """Make the file, whole at once, if there is none."""
        part = self.path.with_name(f".{self.path.name}.{self.owner.token}.part")
        part.write_text(_text(self.owner, 0), encoding="utf-8")
        try:
            with self._guard():
                if self.path.exists():
                    return False
                try:
                    os.link(part, self.path)
                except OSError as error:
                    # Some file systems have no links; the guard is all there is then.
                    if isinstance(error, FileExistsError):
                        return False
                    part.replace(self.path)
            return True
        finally:
            part.unlink(missing_ok=True)

    def _take_over(self) -> None:
        """Remove the lock of an owner that is dead.

        Raises:
            LockedError: If it lives.
        """
        found = _read(self.path)
        if found is not None and found[0] is not None:
            owner, reason = found[0], self._dead(*found)
            if reason is None:
                raise LockedError(
                    f"working in {self.path.parent}",
                    f"process {owner.pid} on {owner.name} is working there",
                    "wait until it is done, or stop it",
                )
            self._say(f"taking over the lock of process {owner.pid} on {owner.name}: {reason}")
        with self._guard():
            # Somebody else may have taken it over while this process was looking.
            again = _read(self.path)
            same = (None if again is None else again[0]) == (None if found is None else found[0])
            if same:
                self.path.unlink(missing_ok=True)

    def _dead(self, owner: Owner | None, count: str) -> str | None:
        """Why an owner is held for dead, or None if it lives."""
        if owner is None:
            return "it names nobody"
        if owner.host == this_host() and sys.platform != "win32":
            start = started(owner.pid)
            if start is None:
                return "the process is gone"
            return None if start == owner.start else "its number belongs to another process now"
        self._say(
            f"the folder is locked from {owner.name}: watching for {self._patience:.0f} s whether anybody is there"
        )
        until = time.monotonic() + self._patience
        while time.monotonic() < until:
            time.sleep(min(self._beat, 0.5))
            now = _read(self.path)
            if now is None or now[0] != owner or now[1] != count:
                return "it was given back" if now is None else None
        return f"nothing was heard of it for {self._patience:.0f} s"

    def _count(self) -> None:
        count = 0
        while not self._stop.wait(self._beat):
            count += 1
            with contextlib.suppress(OSError):
                if _owner_of(self.path) == self.owner:
                    descriptor = os.open(self.path, os.O_WRONLY)
                    try:
                        os.pwrite(descriptor, f"{count:0{WIDTH}d}".encode(), 0)
                    finally:
                        os.close(descriptor)

    @contextmanager
    def _guard(self) -> Generator[None]:
        """Only one process at a time, of those on this machine, decides about the lock."""
        with self.path.with_name(f"{self.path.name}.guard").open("a") as file:
            with contextlib.suppress(ImportError, OSError):
                import fcntl

                fcntl.flock(file, fcntl.LOCK_EX)
            yield


def this_host() -> str:
    """This machine, in this boot, and the space in which its process ids count."""
    parts = [platform.node()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    with contextlib.suppress(OSError):
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(parts)


def started(pid: int) -> str | None:
    """When a process started, as its system says it; None if there is no such process."""
    if sys.platform == "win32":
        return str(pid)
    stat = Path(f"/proc/{pid}/stat")
    if Path("/proc/self/stat").exists():
        try:
            # The name, in parentheses, may hold anything.
            fields = stat.read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            return None
        return None if fields[0] in ("Z", "X") else fields[19]
    found = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return found.stdout.strip() or None


def _text(owner: Owner, count: int) -> str:
    return f"{count:0{WIDTH}d} {json.dumps(asdict(owner))}\n"


def _read(path: Path) -> tuple[Owner | None, str] | None:
    """A lock's owner, None if it names nobody, and its count; None if there is no lock."""
    try:
        count, _, body = path.read_text(encoding="utf-8").partition(" ")
    except FileNotFoundError:
        return None
    try:
        return Owner(**json.loads(body)), count
    except (ValueError, TypeError):
        return None, count


def _owner_of(path: Path) -> Owner | None:
    found = _read(path)
    return None if found is None else found[0]
