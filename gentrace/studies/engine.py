"""Who does the work: an engine takes planned batches and hands back staged ones. It decides nothing else.

The plan fixes what a batch is and every number in it, and the runner alone commits, so the tables are the same whatever
the engine, the number of its workers, or the order in which they finish.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from gentrace.studies.folder import Folder
from gentrace.studies.measuring import ready_measures
from gentrace.studies.plan import Batch, Models, Recipe
from gentrace.studies.work import Staged, compute, stage


@dataclass(frozen=True, slots=True)
class Task:
    """A batch to do."""

    batch: Batch
    attempt: int = 1
    """Which try this is, from 1."""


class Engine(Protocol):
    """Does batches, in any order, each at least once."""

    def run(self, tasks: Sequence[Task], recipe: Recipe, folder: Folder) -> Iterator[Staged]:
        """Do batches.

        A batch is handed back when all its files are on the disk. What fails inside of a batch are rows of its table
        of failures; an exception means that the engine cannot go on at all. Closing the iterator stops the work.

        Args:
            tasks: What to do, in the order in which it should be begun.
            recipe: What all batches share.
            folder: Where to stage results; it must be reachable by every worker.

        Raises:
            StudyError: If a model or a measure cannot be loaded.
            OSError: If the disk takes no more.
        """
        ...


@dataclass(slots=True)
class LocalEngine:
    """One batch after another, in this process."""

    device: str | None = None
    """Where models go that the specification gives no device; None leaves them on the CPU."""
    models: Models | None = field(default=None, repr=False)
    """Models that are loaded already."""

    def run(self, tasks: Sequence[Task], recipe: Recipe, folder: Folder) -> Iterator[Staged]:
        """Do batches; see `Engine.run`."""
        models = self.models or Models(recipe.base, self.device)
        measures = ready_measures(recipe.spec.measures, recipe.folders)
        for task in tasks:
            began = time.monotonic()
            loaded = models.get(task.batch.model)
            computed = compute(task.batch, recipe, loaded, measures, attempt=task.attempt)
            yield stage(computed, task.batch, folder, began)
