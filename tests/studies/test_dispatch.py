"""Dispatching, with workers that do only what a script says: bounded, and a dead one's batch is done again."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from gentrace.errors import StudyError
from gentrace.studies import PoolEngine, RayEngine, Staged, Task
from gentrace.studies import engine as working
from gentrace.studies.dispatch import Died, dispatch
from gentrace.studies.folder import Folder
from gentrace.studies.plan import Models, Plan, make_plan
from gentrace.studies.prompts import read_prompts
from tests.studies.made import made_spec, run


@pytest.fixture(scope="module")
def plan() -> Plan:
    spec = made_spec()
    return make_plan(spec, read_prompts(spec), Models(spec.base), folders=[])


class Scripted:
    """Workers of which some die: ``fate(worker, task)`` says whether, and None is asked for before the first task."""

    def __init__(self, fate: Callable[[int, Task | None], bool]) -> None:
        self.fate, self.hired, self.most, self.dismissed = fate, 0, 0, False
        self.pending: list[tuple[int, Task | None]] = []
        self.log: list[tuple[int, int]] = []

    def hire(self) -> None:
        self.pending.append((self.hired, None))
        self.hired += 1

    def send(self, worker: int, task: Task) -> None:
        assert worker not in [other for other, _ in self.pending]
        self.log.append((worker, task.batch.number))
        self.pending.append((worker, task))
        self.most = max(self.most, sum(task is not None for _, task in self.pending))

    def events(self) -> Sequence[tuple[int, Any]]:
        worker, task = self.pending.pop(0)
        if self.fate(worker, task):
            return [(worker, Died("killed by SIGKILL"))]
        return [(worker, None if task is None else Staged(task.batch, (), 0, 0, None, 0.0, None))]

    def dismiss(self) -> None:
        self.dismissed = True


def dispatched(crew: Scripted, plan: Plan, out: Path, **options: Any) -> tuple[list[Staged], list[str]]:
    said: list[str] = []
    folder = Folder(out)
    folder.make()
    tasks = [Task(batch) for batch in plan.batches]
    return list(dispatch(crew, tasks, plan.recipe, folder, say=said.append, **{"size": 2, **options})), said


def numbers(done: list[Staged]) -> list[int]:
    return sorted(one.batch.number for one in done)


def test_every_batch_is_done_once_by_few_workers(plan: Plan, tmp_path: Path) -> None:
    crew = Scripted(lambda worker, task: False)
    done, said = dispatched(crew, plan, tmp_path)
    assert numbers(done) == [0, 1, 2, 3, 4, 5]
    assert (crew.hired, crew.most, crew.dismissed, said) == (2, 2, True, [])
    # No more workers than batches.
    crew = Scripted(lambda worker, task: False)
    dispatched(crew, plan, tmp_path, size=99)
    assert crew.hired == 6


def test_a_dead_workers_batch_is_done_next_by_another(plan: Plan, tmp_path: Path) -> None:
    crew = Scripted(lambda worker, task: worker == 1 and task is not None)
    done, said = dispatched(crew, plan, tmp_path)
    assert numbers(done) == [0, 1, 2, 3, 4, 5]
    assert not any(one.files for one in done)
    assert said == ["a worker died during batch 2 (killed by SIGKILL): the batch is done again"]
    assert crew.log[:4] == [(0, 0), (1, 1), (0, 2), (0, 1)] or crew.log[:4] == [(0, 0), (1, 1), (0, 2), (2, 1)]
    assert crew.hired == 3


def test_a_batch_that_kills_its_workers_becomes_rows(plan: Plan, tmp_path: Path) -> None:
    crew = Scripted(lambda worker, task: task is not None and task.batch.number == 1)
    done, said = dispatched(crew, plan, tmp_path, tries=2)
    assert numbers(done) == [0, 1, 2, 3, 4, 5]
    assert [batch for _, batch in crew.log].count(1) == 2
    assert said[-1] == "a worker died during batch 2 (killed by SIGKILL): it is given up"
    (lost,) = [one for one in done if one.files]
    assert (lost.batch.number, lost.failed, [file.kind for file in lost.files]) == (1, 3, ["failures"])
    rows = pq.ParquetFile(tmp_path / lost.files[0].path).read().to_pylist()
    assert {row["prompt"] for row in rows} == {one.prompt.text for one in plan.batches[1].generations}
    assert {row["error"] for row in rows} == {"WorkerDied: killed by SIGKILL, the last of 2 tries"}
    assert {(row["stage"], row["try"]) for row in rows} == {("worker", 1)}


def test_workers_that_never_get_ready_end_the_run(plan: Plan, tmp_path: Path) -> None:
    crew = Scripted(lambda worker, task: task is None)
    with pytest.raises(StudyError, match="3 in a row died before they were ready, the last of killed by SIGKILL"):
        dispatched(crew, plan, tmp_path)
    assert crew.dismissed
    # One that does get ready in between is no reason to give up.
    crew = Scripted(lambda worker, task: task is None and worker % 2 == 1)
    assert numbers(dispatched(crew, plan, tmp_path)[0]) == [0, 1, 2, 3, 4, 5]


def test_whoever_stops_listening_stops_the_workers(plan: Plan, tmp_path: Path) -> None:
    crew, folder = Scripted(lambda worker, task: False), Folder(tmp_path)
    work = dispatch(crew, [Task(batch) for batch in plan.batches], plan.recipe, folder, size=1, say=print)
    next(work)
    work.close()
    assert crew.dismissed


def test_a_worker_refuses_what_was_planned_for_something_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(working, "versions", lambda: {"torch": "1.0"})
    with pytest.raises(StudyError, match=r"the plan and this worker differ: versions.gentrace was .*, is gone"):
        run(made_spec(), tmp_path / "out")
    assert not list((tmp_path / "out" / "commits").iterdir())


def test_a_plan_for_other_devices_is_made_on_the_cpu() -> None:
    spec = made_spec()
    here, there = Models(spec.base), Models(spec.base, "cuda:1", elsewhere=True)
    found = there.get(spec.models[0])
    assert next(found.model.parameters()).device.type == "cpu"
    assert found.identity == here.get(spec.models[0]).identity | {"device": "cuda"}
    assert (PoolEngine(devices=("cuda:1", "cuda:0")).device, RayEngine(gpus=0.5).device) == ("cuda:1", "cuda")
    with pytest.raises(StudyError, match="cpu and cuda round differently"):
        PoolEngine(devices=("cpu", "cuda"))
    for wrong in (lambda: PoolEngine(workers=0), lambda: RayEngine(gpus=-1), lambda: RayEngine(tries=0)):
        with pytest.raises(StudyError, match="or more"):
            wrong()


class Cluster:
    """What Ray says about nodes of these CPUs and GPUs; a node of the dead has plenty."""

    def __init__(self, *nodes: tuple[float, float]) -> None:
        self.found = [{"Alive": True, "Resources": {"CPU": cpus, "GPU": gpus}} for cpus, gpus in nodes]
        self.found.append({"Alive": False, "Resources": {"CPU": 64.0, "GPU": 64.0}})

    def nodes(self) -> list[dict[str, Any]]:
        return self.found


def test_workers_are_counted_by_what_each_node_has() -> None:
    cluster = Cluster((4, 1), (3, 0), (1, 1))
    rooms = [
        (RayEngine("h:1"), 8),
        (RayEngine("h:1", cpus=2), 2 + 1),
        (RayEngine("h:1", gpus=0.5), 2 + 1),
        (RayEngine("h:1", cpus=0.1, gpus=0.3333), 3 + 3),
        (RayEngine("h:1", cpus=0, gpus=1), 2),
    ]
    for engine, room in rooms:
        assert engine._room(cluster) == room
    assert RayEngine(cpus=0.1)._room(Cluster((0.3, 0))) == 3
    # Five CPUs are there, but on no node.
    with pytest.raises(
        StudyError, match=r"one needs 5 CPU; the cluster at h:1 has 4 CPU and 1 GPU; 2 nodes with 3 CPU "
    ):
        RayEngine("h:1", cpus=5)._room(Cluster((4, 1), (3, 0), (3, 0)))
    for wrong in (lambda: RayEngine(gpus=1.5), lambda: RayEngine(cpus=0.00001)):
        with pytest.raises(StudyError, match="give a whole number, or a fraction of one"):
            wrong()
