"""What the benches share: fair pairs, honest clocks, bytes held, and the line that says on what they ran.

A ratio of two runs says nothing on a machine whose speed changes between them. So a measured run always stands between
two plain ones and is compared with their mean, and the order of what is measured moves on from round to round.
"""

import datetime
import gc
import importlib.metadata
import itertools
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

import gentrace

Clock = Callable[[Callable[[], Any]], tuple[float, float, Any]]
"""Runs something; wall seconds, process CPU seconds, and what it returned."""


@dataclass(frozen=True)
class Pair:
    """One measured run between two plain ones."""

    wall: float
    """Ratio of its wall seconds to the mean of its neighbours'."""
    cpu: float
    """The same of the process' CPU seconds."""
    plain: float
    """Mean wall seconds of its neighbours."""
    after: float
    """Wall seconds of what was derived from it afterwards; NaN if nothing was."""


@dataclass
class Pairs:
    """All rounds of one variant."""

    all: list[Pair] = field(default_factory=list[Pair])

    def median(self, what: str) -> float:
        """The median of one of a pair's fields."""
        return statistics.median(getattr(pair, what) for pair in self.all)

    def spread(self) -> str:
        """Smallest and largest ratio of wall seconds."""
        walls = [pair.wall for pair in self.all]
        return f"{min(walls):.3f} … {max(walls):.3f}"

    def certain(self) -> str:
        """Between which ratios of wall seconds their median lies with 95 % certainty, if rounds are independent."""
        walls = sorted(pair.wall for pair in self.all)
        outside = places_outside(len(walls))
        return f"{walls[outside]:.3f} … {walls[-1 - outside]:.3f}" if outside >= 0 else "—"


def places_outside(count: int) -> int:
    """How many of the sorted values at either end lie outside the 95 % interval of the median; −1 if all are too few.

    The chance that at most k of ``count`` values lie below the median is that of at most k heads in as many throws.
    """
    tail, places = 0.0, -1
    while (tail := tail + math.comb(count, places + 1) / 2**count) <= 0.025:
        places += 1
    return places


def clock_of(device: str) -> Clock:
    """A clock that waits for the device before it starts and before it stops."""

    def settle() -> None:
        if torch.device(device).type == "cuda":
            torch.cuda.synchronize(device)

    def timed(work: Callable[[], Any]) -> tuple[float, float, Any]:
        # Garbage of the run before must not be collected on this one's time.
        gc.collect()
        settle()
        wall, cpu = time.perf_counter(), time.process_time()
        result = work()
        settle()
        return time.perf_counter() - wall, time.process_time() - cpu, result

    return timed


def rounds_of(least: int, seconds: float) -> Iterator[int]:
    """Numbers of rounds: so many, or more if those take less than this."""
    began = time.perf_counter()
    for number in itertools.count():
        if number >= least and time.perf_counter() - began >= seconds:
            return
        yield number


def interleaved(
    plain: Callable[[], Any],
    variants: Sequence[tuple[str, Callable[[], Any], Callable[[Any], Any] | None]],
    rounds: int,
    timed: Clock,
    seconds: float = 0.0,
) -> dict[str, Pairs]:
    """Run plain, variant, plain, variant, … plain, several times.

    Args:
        plain: What everything is compared with.
        variants: A name, what is measured, and what is then derived from its result (None for nothing).
        rounds: How often; each round begins with another variant.
        timed: The clock.
        seconds: Go on for as long as this, if the rounds take less.

    Returns:
        For each name one pair a round.
    """
    found = {name: Pairs() for name, _, _ in variants}
    for number in rounds_of(rounds, seconds):
        turn = number % max(len(variants), 1)
        before = timed(plain)[:2]
        for name, work, derive in (*variants[turn:], *variants[:turn]):
            wall, cpu, result = timed(work)
            after = float("nan") if derive is None else timed(partial(derive, result))[0]
            result = None
            behind = timed(plain)[:2]
            mean = [(first + second) / 2 for first, second in zip(before, behind, strict=True)]
            found[name].all.append(Pair(wall / mean[0], cpu / mean[1], mean[0], after))
            before = behind
    return found


def bytes_held(held: Any, besides: Iterable[Tensor] = ()) -> int:
    """Bytes of every tensor storage that can be reached from an object, each once.

    Args:
        held: Any object. Modules and classes are not followed, functions only into what they closed over.
        besides: Tensors whose storages do not count: a model's parameters.
    """
    known = {tensor.untyped_storage().data_ptr() for tensor in besides}
    seen: set[int] = set()
    waiting, total = [held], 0
    while waiting:
        item = waiting.pop()
        if id(item) in seen or isinstance(item, nn.Module | ModuleType | type):
            continue
        seen.add(id(item))
        if isinstance(item, Tensor):
            storage = item.untyped_storage()
            total += 0 if storage.data_ptr() in known else storage.nbytes()
            known.add(storage.data_ptr())
        elif isinstance(item, FunctionType):
            waiting.extend(item.__closure__ or ())
        else:
            waiting.extend(gc.get_referents(item))
    return total


class PeakMemory:
    """How far memory rises above where it was: the process' resident memory, and a CUDA device's allocations."""

    def __init__(self, device: str) -> None:
        """Begin now."""
        self._cuda = torch.device(device).type == "cuda"
        self._device = device
        gc.collect()
        if self._cuda:
            torch.cuda.synchronize(device)
            torch.cuda.reset_peak_memory_stats(device)
            self._allocated = torch.cuda.memory_allocated(device)
        # Loading a model may have taken more than what is measured here: the kernel's high-water mark is set back.
        Path("/proc/self/clear_refs").write_text("5")
        self._start = _status("VmRSS")

    def rise(self) -> dict[str, int]:
        """Bytes above the start, under "host" and, on CUDA, under "device"."""
        found = {"host": _status("VmHWM") - self._start}
        if self._cuda:
            torch.cuda.synchronize(self._device)
            found["device"] = torch.cuda.max_memory_allocated(self._device) - self._allocated
        return found


def _status(name: str) -> int:
    """A line of Linux' ``/proc/self/status``, in bytes."""
    for line in Path("/proc/self/status").read_text("utf-8").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {name}")


def machine(device: str, packages: Sequence[str] = ()) -> str:
    """Date, processor, device and versions, without any name of a host."""
    parts = [
        datetime.datetime.now(datetime.UTC).date().isoformat(),
        f"{platform.machine()}, {_processor()}, {os.cpu_count()} cores, torch threads: {torch.get_num_threads()}",
    ]
    if torch.device(device).type == "cuda":
        parts.append(torch.cuda.get_device_name(device))
    versions = [f"Python {platform.python_version()}", f"gentrace {gentrace.__version__}", f"torch {torch.__version__}"]
    for package in ("transformers", *packages):
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"{package} not installed")
    return "; ".join([*parts, ", ".join(versions)])


def _processor() -> str:
    """The processor's model name."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown processor"
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown processor"


def table_line(cells: Iterable[str]) -> str:
    """A line of a Markdown table."""
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"
