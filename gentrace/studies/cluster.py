"""Workers on a Ray cluster: model replicas as actors, placed, started and watched by Ray.

The study's folder must be on a file system that all nodes share: workers stage their results there, only a small record
of each comes back, and the runner commits it. So the driver holds the plan and no results. Ray itself is imported when
a study is run on it; it is the extra ``gentrace-attention[ray]``.
"""

import contextlib
import importlib
import itertools
import os
import socket
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gentrace.errors import StudyError
from gentrace.studies.dispatch import TRIES, Died, dispatch
from gentrace.studies.engine import Answer, Replica, Task
from gentrace.studies.folder import Folder
from gentrace.studies.plan import Recipe
from gentrace.studies.work import Staged

STORE = 100 * 2**20
"""Bytes of the object store of a cluster that is started here: only tasks and records go through it."""
SMALLEST = 1e-4
"""The unit in which Ray counts CPUs and GPUs."""
NOTICE = 60.0
"""Seconds without a worker after which the user is told what is waited for."""
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
"""No statistics are sent to anybody, and Ray does not warn of a change to come."""

MODE = "RAY_AUTH_MODE"
"""Whether Ray's processes show each other a token: "token" or "disabled"."""


@dataclass(frozen=True, slots=True)
class RayEngine:
    """Workers on a Ray cluster."""

    address: str | None = None
    """A cluster that is there, as ``host:port`` or "auto"; None starts one on this machine for the run."""
    workers: int | None = None
    """How many; None for as many as the cluster has room for."""
    cpus: float = 1.0
    """CPUs that a worker asks for. How many threads it computes with, the specification says."""
    gpus: float = 0.0
    """GPUs that a worker asks for; several share one if it is a fraction."""
    tries: int = TRIES
    """How many workers a batch may cost before it becomes rows of failure."""
    timeout: float = 30.0
    """Seconds that the address may take to answer."""

    def __post_init__(self) -> None:
        if (self.workers is not None and self.workers < 1) or self.tries < 1 or self.cpus < 0 or self.gpus < 0:
            what = f"{self.workers} workers with {self.cpus:g} CPUs and {self.gpus:g} GPUs, {self.tries} tries"
            raise StudyError("asking Ray for workers", what, "give 1 worker and 1 try or more, and nothing below 0")
        for what, count in self._asked.items():
            if (count > 1 and count != int(count)) or 0 < count < SMALLEST:
                change = f"give a whole number, or a fraction of one down to {SMALLEST:g}"
                raise StudyError("asking Ray for workers", f"{count:g} {what} for each", change)

    @property
    def _asked(self) -> dict[str, float]:
        """What a worker asks for, by Ray's names."""
        return {"CPU": self.cpus, "GPU": self.gpus}

    @property
    def device(self) -> str | None:
        """Where models go that the specification gives no device."""
        return "cuda" if self.gpus else None

    def run(
        self, tasks: Sequence[Task], recipe: Recipe, folder: Folder, say: Callable[[str], object]
    ) -> Iterator[Staged]:
        """Do batches; see `Engine.run`."""
        if not tasks:
            return
        with connected(self.address, self.timeout) as ray:
            room = self._room(ray)
            size = self.workers or room
            if room < min(size, len(tasks)):
                say(f"the cluster has room for {room} of {size} workers; the others begin when there is more")
            crew = _Actors(ray, self, recipe, folder.root.resolve(), say)
            yield from dispatch(crew, tasks, recipe, folder, size=size, say=say, tries=self.tries)

    def _room(self, ray: Any) -> int:
        """How many workers the cluster can have: each must find all that it asks for on one node.

        Raises:
            StudyError: If it can have none, for which it would wait without end.
        """
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        room = sum(self._fitting(node) for node in nodes)
        if not room:
            kinds = Counter(_said_of(self._asked, node) for node in nodes)
            has = "; ".join(f"{count} nodes with {what} each" if count > 1 else what for what, count in kinds.items())
            where = "this machine" if self.address is None else f"the cluster at {self.address}"
            needs = _said_of({name: count for name, count in self._asked.items() if count}, self._asked)
            change = "ask for less with --cpus and --gpus, or start a node that has it and run the same command again"
            raise StudyError("starting workers on Ray", f"one needs {needs}; {where} has {has or 'no node'}", change)
        return room

    def _fitting(self, node: Mapping[str, float]) -> int:
        """How many workers fit on a node."""
        # Ray counts in ten-thousandths: ten workers at 0.1 share one.
        counts = [int(node.get(name, 0) / count + SMALLEST) for name, count in self._asked.items() if count]
        return min(counts, default=1)


@contextmanager
def connected(address: str | None, timeout: float) -> Generator[Any]:
    """Ray, connected to a cluster; if this process is connected already, that connection is used and left alone.

    Args:
        address: A cluster that is there; None starts one on this machine, which ends with the block.
        timeout: Seconds that the address may take to answer.

    Raises:
        StudyError: If Ray is not installed, or there is no cluster at the address.
    """
    with _environment(QUIET | _token(address)):
        try:
            ray = importlib.import_module("ray")
        except ImportError as error:
            raise StudyError(
                "running a study on Ray", f"{error}", "install it: pip install 'gentrace-attention[ray]'"
            ) from error
        if ray.is_initialized():
            yield ray
            return
        if address is not None:
            _answering(address, timeout)
        own = {"include_dashboard": False, "object_store_memory": STORE} if address is None else {}
        try:
            ray.init(address=address or "local", log_to_driver=False, logging_level="ERROR", **own)
        except (OSError, RuntimeError, ValueError) as error:
            what = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            raise StudyError(f"connecting to Ray at {address or 'this machine'}", what, _CHANGE) from error
        try:
            yield ray
        finally:
            ray.shutdown()


_CHANGE = (
    "give the address that ray start --head prints, or none to start a cluster here; a cluster on other machines may "
    "ask for its token: RAY_AUTH_MODE=token in the environment lets Ray send it"
)


def _said_of(names: Iterable[str], counts: Mapping[str, float]) -> str:
    return " and ".join(f"{counts.get(name, 0):g} {name}" for name in names)


class _Actors:
    """A crew of Ray actors; see `gentrace.studies.dispatch.Crew`."""

    def __init__(self, ray: Any, engine: RayEngine, recipe: Recipe, root: Path, say: Callable[[str], object]) -> None:
        self._ray, self._say = ray, say
        # Ray starts no actor again by itself: the batch goes to whoever is free, on whatever node is left.
        options = {"num_cpus": engine.cpus, "num_gpus": engine.gpus, "max_restarts": 0, "max_task_retries": 0}
        self._kind = ray.remote(**options)(Replica)
        self._made_of = recipe, root, engine.device
        self._actors: dict[int, Any] = {}
        self._pending: dict[Any, int] = {}
        self._starting: set[int] = set()
        self._numbers = itertools.count()

    def hire(self) -> None:
        number = next(self._numbers)
        self._actors[number] = self._kind.remote(*self._made_of)
        self._starting.add(number)
        self._pending[self._actors[number].ready.remote()] = number

    def send(self, worker: int, task: Task) -> None:
        self._pending[self._actors[worker].answer.remote(task)] = worker

    def events(self) -> Sequence[tuple[int, Answer | Died | None]]:
        while True:
            done, _ = self._ray.wait(list(self._pending), num_returns=1, timeout=NOTICE)
            if done:
                return [self._event(ref) for ref in done]
            if len(self._starting) == len(self._actors):
                self._say("waiting for Ray to start a worker: ray status tells what the cluster is doing")

    def dismiss(self) -> None:
        for actor in self._actors.values():
            with contextlib.suppress(Exception):
                self._ray.kill(actor)

    def _event(self, ref: Any) -> tuple[int, Answer | Died | None]:
        worker = self._pending.pop(ref)
        self._starting.discard(worker)
        try:
            return worker, self._ray.get(ref)
        except self._ray.exceptions.RayActorError as error:
            with contextlib.suppress(Exception):
                self._ray.kill(self._actors.pop(worker))
            return worker, Died(f"lost by Ray: {_said(error)}")
        except self._ray.exceptions.RayError as error:
            return worker, StudyError("working on Ray", _said(error))


def _said(error: Exception) -> str:
    """What happened, of the much that Ray says; without the numbers of processes and actors."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if len(lines) < 2 or "unexpectedly" in lines[0] else f"{lines[0]} {lines[-1]}"


def _token(address: str | None) -> dict[str, str]:
    """What lets Ray show its token to a cluster on this machine, as it does for "auto"; it goes to no other machine."""
    given = [os.environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")]
    there = any(given) or (Path.home() / ".ray" / "auth_token").is_file()
    host = "" if address is None else address.rpartition(":")[0].strip("[]")
    return {MODE: "token"} if host and there and MODE not in os.environ and _is_here(host) else {}


def _is_here(host: str) -> bool:
    """Whether a name or address is this machine's: only then can something be bound to it."""
    try:
        family, kind, *_, where = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as bound:
            bound.bind(where)
    except OSError:
        return False
    return True


def _answering(address: str, timeout: float) -> None:
    """Ray itself waits long for an address at which nobody is, and ends the process if somebody else is."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal():
        if address == "auto":
            return
        raise StudyError(f"connecting to Ray at {address}", 'it is neither "host:port" nor "auto"', _CHANGE)
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout).close()
    except OSError as error:
        what = f"nobody answers there: {error.strerror or error}"
        raise StudyError(f"connecting to Ray at {address}", what, _CHANGE) from error


@contextmanager
def _environment(values: dict[str, str]) -> Generator[None]:
    """Variables that are set in here, and then again what they were."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
