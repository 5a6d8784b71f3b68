"""Giving batches to workers that may die: one batch a worker at a time, and a dead worker's batch to another.

So no more results are on their way than there are workers, however long the study is. A batch whose workers keep dying
becomes rows of failure, so that one poisonous batch does not stop the others. How workers are had, spoken to and
missed is a crew's business: processes on this machine, or Ray's actors on a cluster.
"""

from collections import Counter, deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from gentrace.errors import StudyError
from gentrace.studies.engine import Answer, Task
from gentrace.studies.folder import Folder
from gentrace.studies.plan import Recipe
from gentrace.studies.work import Staged, stage_lost

TRIES = 3
"""How many workers one batch may cost, and how many may die in a row before they are ready."""


@dataclass(frozen=True, slots=True)
class Died:
    """A worker is no more."""

    reason: str
    """Such as "killed by SIGKILL" or "exit code 1"."""


class Crew(Protocol):
    """Workers, each in a process of its own, known by a number that never comes back."""

    def hire(self) -> None:
        """Begin to start another worker; `events` tells when it is ready."""
        ...

    def send(self, worker: int, task: Task) -> None:
        """Give a worker that is ready and idle a task; if it is dead, `events` tells."""
        ...

    def events(self) -> Sequence[tuple[int, Answer | Died | None]]:
        """Wait until something happens: a worker is ready (None), has answered, or has died."""
        ...

    def dismiss(self) -> None:
        """Stop all workers at once."""
        ...


def dispatch(
    crew: Crew,
    tasks: Sequence[Task],
    recipe: Recipe,
    folder: Folder,
    *,
    size: int,
    say: Callable[[str], object],
    tries: int = TRIES,
) -> Generator[Staged]:
    """Have batches done; closing the generator stops all workers.

    Args:
        crew: Who does them.
        tasks: What to do.
        recipe: What all batches share.
        folder: Where results are staged.
        size: How many workers to have.
        say: Told of deaths.
        tries: How many workers a batch may cost.

    Raises:
        StudyError: If a worker cannot go on, or none can be started.
        OSError: If the disk takes no more.
    """
    work = _Work(crew, deque(tasks), say, tries)
    try:
        for _ in range(min(size, len(tasks))):
            crew.hire()
        while work.waiting or work.busy:
            for worker, event in crew.events():
                if isinstance(event, Died):
                    lost = work.bury(worker, event)
                    if lost is not None:
                        reason = f"WorkerDied: {event.reason}, the last of {tries} tries"
                        yield stage_lost(lost.batch, recipe, folder, reason, attempt=lost.attempt)
                elif isinstance(event, Exception):
                    raise event
                else:
                    # The next task goes out before this result is committed, so that no worker waits for the disk.
                    work.free(worker)
                    if event is not None:
                        yield event
    finally:
        crew.dismiss()


@dataclass(slots=True)
class _Work:
    """What is to be done, and who does it."""

    crew: Crew
    waiting: deque[Task]
    say: Callable[[str], object]
    tries: int
    busy: dict[int, Task] = field(default_factory=dict[int, Task])
    idle: deque[int] = field(default_factory=deque[int])
    costs: Counter[str] = field(default_factory=Counter[str])
    """Batch → workers that died of it."""
    unready: int = 0
    """Workers in a row that died before they were ready."""

    def free(self, worker: int) -> None:
        """A worker can have a task."""
        self.unready = 0
        self.busy.pop(worker, None)
        self.idle.append(worker)
        self._hand_out()

    def bury(self, worker: int, death: Died) -> Task | None:
        """A worker died: another is hired, and its batch done again.

        Returns:
            Its task, if that has cost enough workers.

        Raises:
            StudyError: If workers die before they are ready.
        """
        task = self.busy.pop(worker, None)
        if worker in self.idle:
            self.idle.remove(worker)
        elif task is None:
            self.unready += 1
            if self.unready >= self.tries:
                what = f"{self.tries} in a row died before they were ready, the last of {death.reason}"
                raise StudyError("starting a worker", what, "see above what it said")
        given_up = None
        if task is not None:
            batch = task.batch
            self.costs[batch.hash] += 1
            given_up = task if self.costs[batch.hash] >= self.tries else None
            then = "it is given up" if given_up else "the batch is done again"
            self.say(f"a worker died during batch {batch.number + 1} ({death.reason}): {then}")
            if given_up is None:
                self.waiting.appendleft(task)
        if self.waiting or self.busy:
            self.crew.hire()
            self._hand_out()
        return given_up

    def _hand_out(self) -> None:
        while self.waiting and self.idle:
            worker, task = self.idle.popleft(), self.waiting.popleft()
            self.busy[worker] = task
            self.crew.send(worker, task)
