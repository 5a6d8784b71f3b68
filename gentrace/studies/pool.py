"""Several workers on this machine, each in a process and with models of its own: for several devices, or many cores.

A worker that is killed costs its batch a second try. Workers end with the process that began them, however it ends.
"""

import contextlib
import itertools
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import connection, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType

import torch

from gentrace.errors import StudyError
from gentrace.studies.dispatch import TRIES, Died, dispatch
from gentrace.studies.engine import Answer, Replica, Task
from gentrace.studies.folder import Folder
from gentrace.studies.plan import Recipe
from gentrace.studies.work import Staged


@dataclass(frozen=True, slots=True)
class PoolEngine:
    """Worker processes on this machine.

    Each computes with as many threads as this process would, because another number can change a row's last bits. On
    a CPU, give a specification that runs with several workers ``threads = 1``.
    """

    workers: int | None = None
    """How many; None for one on each device."""
    devices: tuple[str, ...] = ()
    """Devices that workers are dealt to, all of one kind; none for the CPU."""
    tries: int = TRIES
    """How many workers a batch may cost before it becomes rows of failure."""

    def __post_init__(self) -> None:
        kinds = sorted({torch.device(name).type for name in self.devices})
        if len(kinds) > 1:
            what = f"{' and '.join(kinds)} round differently: rows would depend on who made them"
            raise StudyError(f"sharing work between {', '.join(self.devices)}", what, "give devices of one kind")
        if (self.workers is not None and self.workers < 1) or self.tries < 1:
            raise StudyError(
                "starting workers", f"{self.workers} workers, {self.tries} tries", "give 1 or more of each"
            )

    @property
    def device(self) -> str | None:
        """Where models go that the specification gives no device."""
        return self.devices[0] if self.devices else None

    def run(
        self, tasks: Sequence[Task], recipe: Recipe, folder: Folder, say: Callable[[str], object]
    ) -> Iterator[Staged]:
        """Do batches; see `Engine.run`."""
        size = min(self.workers or max(1, len(self.devices)), max(1, len(tasks)))
        cores = os.cpu_count() or 1
        if self.device is None and size > 1 and size * recipe.threads > cores:
            say(
                f"{size} workers with {recipe.threads} threads each share {cores} cores, so that rows come out as one "
                "process makes them; threads = 1 in the specification may be faster"
            )
        devices = list(itertools.islice(itertools.cycle(self.devices or (None,)), size))
        crew = _Processes(recipe, folder.root.resolve(), devices)
        return dispatch(crew, tasks, recipe, folder, size=size, say=say, tries=self.tries)


@dataclass(frozen=True, slots=True)
class _Member:
    process: BaseProcess
    line: Connection
    device: str | None


class _Processes:
    """A crew of processes; see `gentrace.studies.dispatch.Crew`."""

    def __init__(self, recipe: Recipe, root: Path, devices: Sequence[str | None]) -> None:
        self._recipe, self._root, self._vacant = recipe, root, list(devices)
        self._members: dict[int, _Member] = {}
        self._numbers = itertools.count()
        # A fork of a process that has computed already can hang, and CUDA does not survive it.
        self._context = multiprocessing.get_context("spawn")

    def hire(self) -> None:
        device = self._vacant.pop(0)
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(theirs, self._recipe, self._root, device), daemon=True)
        with _uninterrupted(), _without_main():
            process.start()
        # Ours is then the only end left here, so that the worker's death closes the line.
        theirs.close()
        self._members[next(self._numbers)] = _Member(process, ours, device)

    def send(self, worker: int, task: Task) -> None:
        with contextlib.suppress(OSError):
            self._members[worker].line.send(task)

    def events(self) -> Sequence[tuple[int, Answer | Died | None]]:
        ready = set(connection.wait([member.line for member in self._members.values()]))
        return [self._event(worker, one) for worker, one in [*self._members.items()] if one.line in ready]

    def _event(self, worker: int, member: _Member) -> tuple[int, Answer | Died | None]:
        try:
            return worker, member.line.recv()
        except (EOFError, OSError):
            return worker, self._buried(worker)

    def dismiss(self) -> None:
        for member in self._members.values():
            member.process.kill()
        for worker in list(self._members):
            self._buried(worker)

    def _buried(self, worker: int) -> Died:
        member = self._members.pop(worker)
        self._vacant.append(member.device)
        member.line.close()
        member.process.join()
        code = member.process.exitcode or 0
        member.process.close()
        return Died(f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}")


def _serve(line: Connection, recipe: Recipe, root: Path, device: str | None) -> None:
    """What a worker process does."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    replica = Replica(recipe, root, device)
    replica.ready()
    with contextlib.suppress(EOFError, ConnectionError):
        line.send(None)
        while True:
            line.send(replica.answer(line.recv()))


def _end_with_parent() -> None:
    """A worker whose parent was killed must not go on writing into a folder that may soon be another run's."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


@contextmanager
def _without_main() -> Generator[None]:
    """What is started in here does not run the user's script again, of which it needs nothing."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@contextmanager
def _uninterrupted() -> Generator[None]:
    """What is started in here leaves Ctrl-C to its parent, from its first moment on."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    # It is started with the first process otherwise, and unblocks the signal when it is.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
