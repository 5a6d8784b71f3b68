"""Who does the work: an engine takes planned batches and hands back staged ones. It decides nothing else.

The plan fixes what a batch is and every number in it, and the runner alone commits, so the tables are the same whatever
the engine, the number of its workers, or the order in which they finish. A worker makes sure of it: it refuses a batch
that was planned for other weights, versions, measures or another kind of device than its own.
"""

import platform
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeAlias

import torch

from gentrace.errors import StudyError
from gentrace.studies.changes import changes
from gentrace.studies.folder import CODE, Folder
from gentrace.studies.measuring import ReadyMeasure, ready_measures
from gentrace.studies.models import LoadedModel
from gentrace.studies.plan import Batch, Models, Recipe, versions
from gentrace.studies.work import Staged, compute, stage


@dataclass(frozen=True, slots=True)
class Task:
    """A batch to do."""

    batch: Batch
    attempt: int = 1
    """Which try this is, from 1. A worker's death is no try: what comes of a batch does not depend on it."""


Answer: TypeAlias = Staged | StudyError | OSError
"""What a worker in another process says to a task: done, or why it cannot go on at all."""


class Engine(Protocol):
    """Does batches, in any order, each at least once."""

    @property
    def device(self) -> str | None:
        """Where models go that the specification gives no device, which the study is planned for; None for the CPU."""
        ...

    def run(
        self, tasks: Sequence[Task], recipe: Recipe, folder: Folder, say: Callable[[str], object]
    ) -> Iterator[Staged]:
        """Do batches.

        A batch is handed back when all its files are on the disk. What fails inside of a batch are rows of its table
        of failures; an exception means that the engine cannot go on at all. Closing the iterator stops the work.

        Args:
            tasks: What to do, in the order in which it should be begun.
            recipe: What all batches share.
            folder: Where to stage results; it must be reachable by every worker.
            say: Told what happens to workers.

        Raises:
            StudyError: If a model or a measure cannot be loaded, or no worker can be had.
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

    def run(
        self, tasks: Sequence[Task], recipe: Recipe, folder: Folder, say: Callable[[str], object]
    ) -> Iterator[Staged]:
        """Do batches; see `Engine.run`."""
        measures = ready_measures(recipe.spec.measures, recipe.folders)
        worker = Worker(recipe, folder, self.models or Models(recipe.base, self.device), measures)
        for task in tasks:
            yield worker.do(task)


@dataclass(slots=True)
class Worker:
    """Does batches in the process that it is made in."""

    recipe: Recipe
    folder: Folder
    models: Models
    measures: Sequence[ReadyMeasure]

    def do(self, task: Task) -> Staged:
        """Do a batch and stage its results.

        Raises:
            StudyError: If its model cannot be loaded, or something here is not what the batch was planned for.
            OSError: If the disk takes no more.
        """
        began = time.monotonic()
        loaded = self.models.get(task.batch.model)
        self._refuse_otherwise(task.batch, loaded)
        computed = compute(task.batch, self.recipe, loaded, self.measures, attempt=task.attempt)
        return stage(computed, task.batch, self.folder, began)

    def _refuse_otherwise(self, batch: Batch, loaded: LoadedModel) -> None:
        here = {
            "model": loaded.identity,
            "versions": versions(),
            "measures": [measure.ingredients for measure in self.measures],
        }
        found = changes({name: batch.ingredients[name] for name in here}, here)
        if found:
            raise StudyError(
                f"doing batch {batch.number + 1} on {platform.node()}",
                "the plan and this worker differ: " + "; ".join(found),
                "give every worker the models, versions and kind of device that the study is planned with",
            )


@dataclass(slots=True)
class Replica:
    """A worker in a process of its own, which is only made when its first task comes."""

    recipe: Recipe
    root: Path
    """The study's folder."""
    device: str | None = None
    worker: Worker | None = None

    def ready(self) -> None:
        """Compute with as many threads as the process that planned: another number can change a row's last bits."""
        torch.set_num_threads(self.recipe.threads)

    def answer(self, task: Task) -> Answer:
        """Do a batch; what stops this worker comes back as a value that can be sent to another process."""
        try:
            if self.worker is None:
                self.worker = self._made()
            return self.worker.do(task)
        except OSError as error:
            return error
        except StudyError as error:
            return StudyError(str(error))
        except Exception:
            return StudyError(f"doing batch {task.batch.number + 1} in a worker", traceback.format_exc())

    def _made(self) -> Worker:
        folder = Folder(self.root)
        if not (self.root / "manifest.json").is_file():
            raise StudyError(
                f"staging results on {platform.node()}",
                f"the study's folder is not at {self.root} there",
                "use a folder that every worker reaches under the same name",
            )
        # Where the specification's own folder cannot be reached, the study's folder has copies of the user's modules.
        copies = (self.root / CODE / name for name in folder.manifest()["code"])
        measures = ready_measures(self.recipe.spec.measures, [*self.recipe.folders, *copies])
        return Worker(self.recipe, folder, Models(self.recipe.base, self.device), measures)
