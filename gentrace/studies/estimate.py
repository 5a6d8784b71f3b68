"""What a study would take, measured on a few tokens of its own: generations, batches, bytes and time.

The figures are an upper bound as far as generations may end before ``max_new_tokens``, and a guess as far as longer
texts cost more a token than the few that were tried.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from gentrace.studies.folder import SHORT, Folder, parquet_bytes
from gentrace.studies.plan import Batch, Models, Plan
from gentrace.studies.work import Computed, compute

TRIED = 8
"""New tokens of the trial."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a study would run."""

    models: tuple[str, ...]
    prompts: int
    settings: tuple[str, ...]
    seeds: int
    generations: int
    batches: int
    refused: tuple[tuple[str, str], ...]
    """Prompts that cannot be generated from, each with the reason."""
    finished: int
    """Batches that are finished in the folder already."""
    new_tokens: int
    """At most, of what is left to do."""
    bytes: int
    seconds: float
    free: int | None
    """Free bytes of the folder's disk."""
    trouble: tuple[str, ...]
    """What failed in the trial."""

    def __str__(self) -> str:
        lines = [
            f"models       {', '.join(self.models)}",
            f"prompts      {self.prompts}",
            f"settings     {', '.join(self.settings)}",
            f"seeds        {self.seeds}",
            f"generations  {self.generations}",
            f"batches      {self.batches}" + (f", {self.finished} of them finished" if self.finished else ""),
            f"new tokens   at most {self.new_tokens:,}",
            f"bytes        about {_size(self.bytes)}" + ("" if self.free is None else f" ({_size(self.free)} free)"),
            f"time         about {_duration(self.seconds)}, measured on {TRIED} tokens of one batch a model",
        ]
        if self.refused:
            lines.append(f"refused      {len(self.refused)} generations; the first: {': '.join(self.refused[0])}")
        lines += [f"trouble      {line}" for line in self.trouble]
        if self.free is not None and self.bytes > self.free:
            lines.append("trouble      the disk has too little room")
        return "\n".join(lines)


def estimate(plan: Plan, models: Models, folder: Folder | None = None) -> Estimate:
    """Try one batch of each model and setting grid for a few tokens, and say what the whole would take.

    Args:
        plan: The study.
        models: Its models.
        folder: Its folder, if there is one: what is finished there is not counted.

    Raises:
        StudyError: If a model or a measure cannot be loaded.
    """
    done = set[str]() if folder is None else folder.finished()
    left = [batch for batch in plan.batches if batch.hash[:SHORT] not in done]
    groups: dict[str, list[Batch]] = {}
    for batch in left:
        groups.setdefault(f"{batch.model.name} {batch.setting.block}", []).append(batch)
    total_bytes, seconds, tokens = 0.0, 0.0, 0
    trouble: list[str] = []
    for batches in groups.values():
        some = batches[len(batches) // 2]
        spent, size, failed = _trial(some, plan, models)
        trouble += failed
        own = _positions(some, TRIED)
        for batch in batches:
            new = batch.setting.arguments["max_new_tokens"]
            steps = len(batch.generations) * new
            tokens += steps
            seconds += spent * (new / min(TRIED, new)) * (1 if own == 0 else max(1.0, _positions(batch, 0) / own))
            total_bytes += size * _positions(batch, new) / max(1, own)
    return Estimate(
        models=tuple(plan.models),
        prompts=len(plan.prompts),
        settings=tuple(dict.fromkeys(batch.setting.name for batch in plan.batches)),
        seeds=len(plan.spec.seeds),
        generations=len(plan.generations),
        batches=len(plan.batches),
        refused=tuple((one.prompt.id, one.refused or "") for one in plan.refused()),
        finished=len(plan.batches) - len(left),
        new_tokens=tokens,
        bytes=int(total_bytes),
        seconds=seconds,
        free=None if folder is None else folder.free(),
        trouble=tuple(dict.fromkeys(trouble)),
    )


def _trial(batch: Batch, plan: Plan, models: Models) -> tuple[float, float, list[str]]:
    """Seconds and bytes of a batch whose texts stop after a few tokens, and what failed in it."""
    loaded = models.get(batch.model)
    arguments = batch.setting.arguments
    few = min(TRIED, arguments["max_new_tokens"])
    shorter = arguments | {"max_new_tokens": few}
    shorter |= {"min_new_tokens": min(few, arguments["min_new_tokens"])} if "min_new_tokens" in arguments else {}
    trial = replace(batch, setting=replace(batch.setting, arguments=shorter))
    began = time.monotonic()
    computed = compute(trial, plan.recipe, loaded, plan.measures)
    spent = time.monotonic() - began
    return spent, _bytes(computed), _failures(computed)


def _bytes(computed: Computed) -> float:
    tables = sum(len(parquet_bytes(table)) for table in computed.tables.values() if len(table))
    traces = 0
    for trace in computed.traces.values():
        for name in trace.store.names():
            tensor = trace.store.tensor(name)
            traces += tensor.numel() * tensor.element_size()
    return float(tables + traces)


def _failures(computed: Computed) -> list[str]:
    rows: Sequence[dict[str, str]] = computed.tables["failures"].to_pylist()
    return [f"{row['stage']}: {row['error']}" for row in rows]


def _positions(batch: Batch, new: int) -> int:
    return sum(one.prompt_tokens + new for one in batch.generations)


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
