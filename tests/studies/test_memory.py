"""What the process that plans and commits holds: a plan of little more than names, and no results."""

import gc
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from gentrace.studies import Spec, Staged, Task
from gentrace.studies.dispatch import dispatch
from gentrace.studies.folder import Folder
from gentrace.studies.plan import Models, Recipe, make_plan
from gentrace.studies.prompts import read_prompts
from gentrace.studies.tables import make_tables
from gentrace.studies.work import Computed, stage
from tests.studies.made import made_spec, run

FEW, MANY = 60, 200


def spec_of(batches: int) -> Spec:
    """A study of so many batches of one prompt each."""
    prompts = [f"Once there were {number} cats." for number in range(batches)]
    return made_spec(prompts=prompts, decoding={"max_new_tokens": 1}, batch_size=1, measures=())


class Idle:
    """Workers who stage no rows at once, so that only dispatching, committing and planning are left."""

    def __init__(self, stage: Callable[[Task], Staged]) -> None:
        self.stage, self.hired = stage, 0
        self.pending: list[tuple[int, Task | None]] = []

    def hire(self) -> None:
        self.pending.append((self.hired, None))
        self.hired += 1

    def send(self, worker: int, task: Task) -> None:
        self.pending.append((worker, task))

    def events(self) -> Sequence[tuple[int, Any]]:
        worker, task = self.pending.pop(0)
        return [(worker, None if task is None else self.stage(task))]

    def dismiss(self) -> None:
        self.pending.clear()


class Watched:
    """An engine of idle workers, and how many bytes were held after some and after all batches."""

    device = None

    def __init__(self, leak: list[Any] | None = None) -> None:
        self.held: dict[int, int] = {}
        self.leak = leak

    def run(
        self, tasks: Sequence[Task], recipe: Recipe, folder: Folder, say: Callable[[str], object]
    ) -> Iterator[Staged]:
        def staged(task: Task) -> Staged:
            nothing = Computed(make_tables([], [], recipe.factors), {}, 0, 0, None)
            return stage(nothing, task.batch, folder, 0.0)

        work = dispatch(Idle(staged), tasks, recipe, folder, size=2, say=say)
        for done, one in enumerate(work, 1):
            yield one
            if self.leak is not None:
                self.leak.append(bytearray(1000))
            if done in (FEW, MANY):
                gc.collect()
                self.held[done] = tracemalloc.get_traced_memory()[0]


def grown(watched: Watched, out: Path) -> float:
    """Bytes that each batch leaves in this process."""
    tracemalloc.start()
    try:
        summary, _ = run(spec_of(MANY), out, engine=watched)
    finally:
        tracemalloc.stop()
    assert summary.batches == MANY
    return (watched.held[MANY] - watched.held[FEW]) / (MANY - FEW)


def test_finished_batches_leave_nothing_behind(tmp_path: Path) -> None:
    # The list of what is left to do shrinks meanwhile.
    assert grown(Watched(), tmp_path / "out") < 300
    # The figure can fail: an engine that keeps a kilobyte of each result.
    assert grown(Watched(leak=[]), tmp_path / "leaking") > 900


def test_a_plan_holds_little_for_each_batch() -> None:
    spec, larger = spec_of(FEW), spec_of(MANY)
    models = Models(spec.base)
    models.get(spec.models[0])
    held: list[int] = []
    for one in (spec, larger):
        tracemalloc.start()
        plan = make_plan(one, read_prompts(one), models, folders=[])
        gc.collect()
        held.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
        del plan
    assert 200 < (held[1] - held[0]) / (MANY - FEW) < 2500
