"""What a worker does with a planned batch, wherever it runs: generate, measure, and stage what came out.

Nothing in here commits. Staged files lie under their final names, but they do not count before the folder's owner has
written the batch's record, so a worker may die at any moment and its batch may be done twice.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from gentrace.studies.folder import Folder, StagedFile
from gentrace.studies.generate import finish_of, generate_batch
from gentrace.studies.kept import keep_heads
from gentrace.studies.measuring import Measured, ReadyMeasure, measure
from gentrace.studies.models import LoadedModel
from gentrace.studies.plan import Batch, Generation, Recipe
from gentrace.studies.tables import Failure, Finished, make_tables
from gentrace.trace.trace import Trace


@dataclass(frozen=True, slots=True)
class Computed:
    """A batch's results in memory."""

    tables: dict[str, pa.Table]
    traces: dict[str, Trace]
    """Generation → what to save of it."""
    failed: int
    """Generations of which something failed."""
    new_tokens: int
    batch_error: str | None
    """Why the batch as a whole failed, if its prompts were then generated one by one."""


@dataclass(frozen=True, slots=True)
class Staged:
    """A batch whose files are on the disk and only wait for its record."""

    batch: Batch
    files: tuple[StagedFile, ...]
    failed: int
    new_tokens: int
    batch_error: str | None
    seconds: float
    error: str | None
    """The last thing that failed, to be shown."""


def compute(
    batch: Batch, recipe: Recipe, loaded: LoadedModel, measures: Sequence[ReadyMeasure], *, attempt: int = 1
) -> Computed:
    """Generate and measure a batch.

    If the batch fails as a whole, each of its prompts is tried alone: one bad prompt must not cost the others. What
    was generated alone is marked so, since batch mates can change an answer.

    Args:
        batch: The batch.
        recipe: What all batches share.
        loaded: Its model.
        measures: What to measure.
        attempt: Which try of the batch this is, from 1.
    """
    found, batch_error = _generate(batch, recipe, loaded)
    finished: list[Finished] = []
    failures: list[Failure] = []
    traces: dict[str, Trace] = {}
    failed: set[int] = set()
    for generation, outcome in zip(batch.generations, found, strict=True):
        whose, text = generation.whose, generation.prompt.text
        if isinstance(outcome, str):
            failures.append(Failure(whose, text, "generate", outcome, attempt))
            failed.add(generation.number)
            continue
        measured: list[Measured] = []
        for ready in measures:
            try:
                measured += measure(outcome, ready, steps=recipe.spec.keep.steps)
            except Exception as error:
                failures.append(Failure(whose, text, f"measure {ready.spec.column}", _said(error), attempt))
                failed.add(generation.number)
        keep = recipe.spec.keep
        kept = keep.traces or bool(keep.heads)
        if kept:
            traces[whose.generation] = keep_heads(outcome, keep.heads) if keep.heads else outcome
        finished.append(
            Finished(
                whose,
                outcome,
                measured,
                finish_of(loaded, outcome, batch.setting.arguments),
                batch_error is not None,
                kept,
            )
        )
    tables = make_tables(finished, failures, recipe.factors)
    new_tokens = sum(len(one.trace.tokens) - one.trace.tokens.prompt_length for one in finished)
    return Computed(tables, traces, len(failed), new_tokens, batch_error)


def stage(computed: Computed, batch: Batch, folder: Folder, began: float) -> Staged:
    """Put a batch's results on the disk, flushed, without committing them.

    Args:
        computed: The results.
        batch: Whose they are.
        folder: The study's folder.
        began: `time.monotonic` when work on the batch began.

    Raises:
        OSError: If the disk takes no more; nothing that was finished before is touched.
    """
    files = [folder.stage_trace(batch.hash, generation, trace) for generation, trace in computed.traces.items()]
    files += [folder.stage_table(kind, batch.hash, table) for kind, table in computed.tables.items() if len(table)]
    errors = computed.tables["failures"].column("error").to_pylist()
    return Staged(
        batch,
        tuple(files),
        computed.failed,
        computed.new_tokens,
        computed.batch_error,
        time.monotonic() - began,
        errors[-1] if errors else None,
    )


def stage_lost(batch: Batch, recipe: Recipe, folder: Folder, reason: str, *, attempt: int) -> Staged:
    """Rows of failure for a batch that no worker survives.

    Args:
        batch: The batch.
        recipe: What all batches share.
        folder: The study's folder.
        reason: What became of the workers.
        attempt: Which try of the batch this was.

    Raises:
        OSError: If the disk takes no more.
    """
    failures = [Failure(one.whose, one.prompt.text, "worker", reason, attempt) for one in batch.generations]
    computed = Computed(make_tables([], failures, recipe.factors), {}, len(failures), 0, None)
    return stage(computed, batch, folder, time.monotonic())


def generate_alone(loaded: LoadedModel, recipe: Recipe, generation: Generation, arguments: dict[str, Any]) -> Trace:
    """One generation of a batch without its batch mates."""
    return _together(loaded, recipe, [generation], arguments)[0]


def _generate(batch: Batch, recipe: Recipe, loaded: LoadedModel) -> tuple[list[Trace | str], str | None]:
    """A trace or an error for each generation, and why the batch as a whole failed."""
    arguments = batch.setting.arguments
    try:
        return [*_together(loaded, recipe, batch.generations, arguments)], None
    except Exception as error:
        reason = _said(error)
    if len(batch.generations) == 1:
        return [reason], None
    found: list[Trace | str] = []
    for generation in batch.generations:
        try:
            found.append(generate_alone(loaded, recipe, generation, arguments))
        except Exception as error:
            found.append(_said(error))
    return found, reason


def _together(
    loaded: LoadedModel, recipe: Recipe, generations: Sequence[Generation], arguments: dict[str, Any]
) -> list[Trace]:
    spec = recipe.spec
    traces = generate_batch(
        loaded,
        [one.prompt.text for one in generations],
        [one.draw for one in generations],
        arguments,
        layers=spec.layers,
        values=spec.keep.values,
        top_k=spec.keep.top_k,
    )
    # When it was recorded is no part of a result: the same study makes the same files. The batch's record says it.
    return [replace(trace, meta=replace(trace.meta, time="")) for trace in traces]


def _said(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:500]}" if text else type(error).__name__
