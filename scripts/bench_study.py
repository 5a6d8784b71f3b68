"""What running a study costs beside generating: the memory of the process that plans and commits, and time per batch.

A study of many batches, each of one prompt and one new token of the story model, is run by each engine in a process of
its own. Its resident memory is read after each eighth of the batches. It holds the plan, whose bytes per batch are
counted apart (tracemalloc), and no results, so that the last seven eighths should add nothing.

    python scripts/bench_study.py [--batches 2000] [--engines local,pool,ray] [--workers 2]

Prints Markdown.
"""

import argparse
import gc
import json
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

# In place of this folder, which holds a coverage.py that other packages would take for theirs.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from gentrace.studies import Engine, LocalEngine, PoolEngine, RayEngine, Spec, Staged, Task, parse_spec, run_study  # noqa: E402
from gentrace.studies.folder import Folder  # noqa: E402
from gentrace.studies.plan import Models, Recipe, make_plan  # noqa: E402
from gentrace.studies.prompts import read_prompts  # noqa: E402

MARKS = 8


@dataclass
class Watched:
    """An engine, and the memory of this process after each eighth of its batches."""

    engine: Engine
    resident: list[float] = field(default_factory=list[float])
    """Megabytes."""

    @property
    def device(self) -> str | None:
        """Where models go that the specification gives no device."""
        return self.engine.device

    def run(
        self, tasks: Sequence[Task], recipe: Recipe, folder: Folder, say: Callable[[str], object]
    ) -> Iterator[Staged]:
        """Do batches."""
        marks = {len(tasks) * part // MARKS for part in range(1, MARKS + 1)}
        for done, staged in enumerate(self.engine.run(tasks, recipe, folder, say), 1):
            yield staged
            if done in marks:
                gc.collect()
                self.resident.append(resident())


def resident() -> float:
    """Resident memory of this process, in megabytes."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1]) / 1024


def many(batches: int) -> Spec:
    """A study of very small batches."""
    prompts = [f"Once there was a cat with {number} toys." for number in range(batches)]
    return parse_spec(
        {
            "models": {"name": "story", "device": "cpu"},
            "prompts": prompts,
            "decoding": {"max_new_tokens": 1},
            "layers": [0],
            "batch_size": 1,
            "threads": 1,
        }
    )


def planned(batches: int) -> float:
    """Bytes that prompts and plan hold for each batch."""
    spec = many(batches)
    models = Models(spec.base)
    models.get(spec.models[0])
    gc.collect()
    tracemalloc.start()
    plan = make_plan(spec, read_prompts(spec), models, folders=[])
    gc.collect()
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return held / len(plan.batches)


def measure(engine: str, batches: int, workers: int) -> dict[str, Any]:
    """Run the study in this process."""
    doer = {"local": LocalEngine, "pool": lambda: PoolEngine(workers), "ray": lambda: RayEngine(None, workers)}[
        engine
    ]()
    watched = Watched(doer)
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        summary = run_study(many(batches), Path(folder) / "out", engine=watched, progress=False, say=lambda line: None)
        seconds = time.monotonic() - began
    assert (summary.batches, summary.failed) == (batches, 0)
    return {"resident": watched.resident, "ms": 1000 * seconds / batches}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=2000)
    parser.add_argument("--engines", default="local,pool,ray")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.inside:
        print(json.dumps(measure(options.inside, options.batches, options.workers)))
        return
    print(f"The plan and its prompts hold {planned(min(options.batches, 500)):.0f} bytes a batch.\n")
    shares = [f"{options.batches * part // MARKS} batches" for part in range(1, MARKS + 1)]
    print(f"| engine | {' | '.join(shares)} | kB a batch, from the first eighth on | ms a batch |")
    print(f"|---|{'---:|' * (MARKS + 2)}")
    for engine in options.engines.split(","):
        command = [sys.executable, __file__, "--inside", engine, "--batches", str(options.batches)]
        done = subprocess.run([*command, "--workers", str(options.workers)], stdout=subprocess.PIPE, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        memory = found["resident"]
        grown = 1024 * (memory[-1] - memory[0]) / (options.batches * (MARKS - 1) / MARKS)
        cells = " | ".join(f"{one:.1f} MB" for one in memory)
        print(f"| {engine} | {cells} | {grown:.2f} | {found['ms']:.1f} |", flush=True)


if __name__ == "__main__":
    main()
