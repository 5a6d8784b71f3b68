"""Is a study what it says? Its sums are checked, some of it is computed again, and some without its batch mates.

Rows are recomputed in their planned batches, so on the machine that made them they come out bit for bit. Another
machine may round otherwise; then ids must agree, and numbers to a tolerance.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gentrace.errors import StudyError
from gentrace.studies.changes import explain
from gentrace.studies.folder import DamagedRecord, Folder, Record
from gentrace.studies.plan import Batch, Plan
from gentrace.studies.run import plan_study
from gentrace.studies.tables import KINDS, WHOSE
from gentrace.studies.work import compute, generate_alone

TOLERANCE = 1e-3
"""Largest difference, in a number's own unit, that another machine's rounding may explain."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A row that came out otherwise."""

    table: str
    row: Mapping[str, Any]
    """Whose row it is, with its own place."""
    column: str
    stored: Any
    found: Any

    def __str__(self) -> str:
        place = ", ".join(f"{name} {value}" for name, value in self.row.items())
        return f"{self.table}, {place}: {self.column} is {self.stored!r}, computed again {self.found!r}"


@dataclass(frozen=True, slots=True)
class Verified:
    """What was checked and what was found."""

    files: int
    """Files whose sums were checked."""
    damaged: tuple[str, ...]
    """What is missing or changed."""
    rows: int
    """Rows that were computed again."""
    identical: int
    """Of those, rows that are the same bit for bit."""
    largest: float
    """Largest difference of any number."""
    differences: tuple[Difference, ...]
    """Rows beyond what rounding explains."""

    @property
    def ok(self) -> bool:
        """Whether the study is what it says."""
        return not self.damaged and not self.differences


@dataclass(frozen=True, slots=True)
class Audited:
    """One generation with and without its batch mates."""

    generation: str
    prompt_id: str
    mates: int
    """How many prompts it shared its batch with."""
    tokens: int
    """Tokens that were generated in the batch."""
    first: int | None
    """The first generated token that differs, from 0; None if all agree."""
    largest: float
    """Largest difference of a log-probability (nats) among the tokens before it."""


def check_sums(folder: Folder, records: Sequence[Record]) -> tuple[int, list[str]]:
    """Compare every file with its record.

    Returns:
        How many files there are, and what is wrong.
    """
    found = (folder.damage(file) for record in records for file in record.files)
    wrong = [damage for damage in found if damage is not None]
    return sum(len(record.files) for record in records), wrong


def verify_study(
    path: Path | str,
    *,
    batches: int = 2,
    seed: int | None = None,
    device: str | None = None,
    say: Callable[[str], object] = print,
) -> Verified:
    """Check a study's sums and compute random batches again.

    Args:
        path: Its folder.
        batches: How many batches to compute again.
        seed: Of the choice; None for another one each time.
        device: Where models go that the specification gives no device.
        say: Told what is done.

    Returns:
        What was found.

    Raises:
        StudyError: If the folder cannot be used, or nothing in it can be computed again, with the reason.
    """
    folder = Folder(path)
    models, plan = plan_study(None, folder, device=device)
    lost: list[DamagedRecord] = []
    records = list(folder.records(lost.append))
    files, damaged = check_sums(folder, records)
    damaged += [f"a batch is lost, {error.what}" for error in lost]
    say(f"{files} files checked: {len(damaged)} damaged")
    chosen = _choose(plan, records, batches, seed) if batches else []
    rows = identical = 0
    largest = 0.0
    differences: list[Difference] = []
    for batch, record in chosen:
        if any(not (folder.root / file.path).is_file() for file in record.files):
            continue
        say(f"computing batch {batch.number + 1} of {len(plan.batches)} again: {len(batch.generations)} generations")
        made = compute(batch, plan.recipe, models.get(batch.model), plan.measures, attempt=record.attempt)
        for kind in KINDS:
            stored = _stored(folder, record, kind)
            if stored is None and not len(made.tables[kind]):
                continue
            stored = made.tables[kind].slice(0, 0) if stored is None else stored
            count, same, worst, found = compare(kind, stored, made.tables[kind])
            rows, identical, largest = rows + count, identical + same, max(largest, worst)
            differences += found
    return Verified(files, tuple(damaged), rows, identical, largest, tuple(differences))


def audit_batches(
    path: Path | str,
    *,
    sample: int = 8,
    seed: int | None = None,
    device: str | None = None,
    say: Callable[[str], object] = print,
) -> list[Audited]:
    """Run some prompts of a study alone, and compare with what they gave among their batch mates.

    Args:
        path: The study's folder.
        sample: How many generations.
        seed: Of the choice; None for another one each time.
        device: Where models go that the specification gives no device.
        say: Told what is done.

    Raises:
        StudyError: If the folder cannot be used, or no batch of several prompts is finished.
    """
    folder = Folder(path)
    models, plan = plan_study(None, folder, device=device)
    finished = {record.hash: record for record in folder.records(lambda _: None) if record.batch_error is None}
    pairs = [
        (batch, one)
        for batch in plan.batches
        if batch.hash in finished and len(batch.generations) > 1
        for one in batch.generations
    ]
    if not pairs:
        _refuse_unplanned(folder, plan)
        raise StudyError(f"auditing the batches of {path}", "no batch has several prompts", "there is nothing to audit")
    pairs = random.Random(seed).sample(pairs, min(sample, len(pairs)))
    say(f"running {len(pairs)} generations alone")
    found: list[Audited] = []
    for batch, one in pairs:
        stored = _stored(folder, finished[batch.hash], "tokens")
        rows = (
            [] if stored is None else [row for row in stored.to_pylist() if row["generation"] == one.whose.generation]
        )
        if not rows:
            continue
        tokens = generate_alone(models.get(batch.model), plan.recipe, one, batch.setting.arguments).tokens
        start = tokens.prompt_length
        before = [row["id"] for row in rows[start:]]
        after = tokens.ids[start:].tolist()
        same = [a == b for a, b in zip(before, after, strict=False)]
        agree = same.index(False) if False in same else min(len(before), len(after))
        first = None if agree == len(before) == len(after) else agree
        old = np.array([row["logprob"] for row in rows[1 : start + agree]], dtype=np.float64)
        new = tokens.logprobs[1 : start + agree].double().numpy()
        worst = float(np.abs(old - new).max()) if len(old) else 0.0
        found.append(
            Audited(one.whose.generation, one.prompt.id, len(batch.generations) - 1, len(before), first, worst)
        )
    return found


def compare(table: str, stored: pa.Table, found: pa.Table) -> tuple[int, int, float, list[Difference]]:
    """Compare a table with the same one computed again.

    Args:
        table: Which one.
        stored: As it was.
        found: As it is now.

    Returns:
        Rows, rows that are identical, the largest difference of a number, and differences beyond rounding.
    """
    if len(stored) != len(found) or stored.schema.names != found.schema.names:
        seen = f"{len(found)} rows of {len(found.schema.names)} columns"
        was = f"{len(stored)} rows of {len(stored.schema.names)} columns"
        return max(len(stored), len(found)), 0, 0.0, [Difference(table, {}, "shape", was, seen)]
    changed: set[int] = set()
    differences: list[Difference] = []
    largest = 0.0
    for name in stored.schema.names:
        before, after = stored.column(name).to_pylist(), found.column(name).to_pylist()
        for row, (old, new) in enumerate(zip(before, after, strict=True)):
            distance = _distance(old, new)
            if distance == 0.0:
                continue
            changed.add(row)
            if distance is not None:
                largest = max(largest, distance)
            if distance is None or distance > TOLERANCE:
                differences.append(Difference(table, _place(table, stored, row), name, old, new))
    return len(stored), len(stored) - len(changed), largest, differences


def _distance(old: Any, new: Any) -> float | None:
    """How far two entries are apart: 0 if they are the same, None if it is no matter of rounding."""
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        parts = [_distance(a, b) for a, b in zip(old, new, strict=True)]
        return None if None in parts else max((part for part in parts if part is not None), default=0.0)
    if isinstance(old, float) and isinstance(new, float):
        if old == new or (old != old and new != new):
            return 0.0
        return None if (old != old) != (new != new) else abs(old - new)
    return 0.0 if old == new and type(old) is type(new) else None


def _place(table: str, stored: pa.Table, row: int) -> dict[str, Any]:
    own = {"tokens": ("position",), "heads": ("layer", "head")}.get(table, ())
    return {name: stored.column(name)[row].as_py() for name in (*list(WHOSE)[:1], "prompt_id", *own)}


def _stored(folder: Folder, record: Record, kind: str) -> pa.Table | None:
    found = next((file for file in record.files if file.kind == kind), None)
    if found is None:
        return None
    try:
        return pq.ParquetFile(folder.root / found.path).read()
    except (pa.ArrowException, OSError) as error:
        raise StudyError(f"reading {found.path}", str(error), "remove it and run the study again") from error


def _choose(plan: Plan, records: Sequence[Record], count: int, seed: int | None) -> list[tuple[Batch, Record]]:
    by_hash = {record.hash: record for record in records}
    able = [(batch, by_hash[batch.hash]) for batch in plan.batches if batch.hash in by_hash]
    if not able:
        raise _refusal(records, plan)
    return random.Random(seed).sample(able, min(count, len(able)))


def _refuse_unplanned(folder: Folder, plan: Plan) -> None:
    records, planned = list(folder.records(lambda _: None)), {batch.hash for batch in plan.batches}
    if not any(record.hash in planned for record in records):
        raise _refusal(records, plan)


def _refusal(records: Sequence[Record], plan: Plan) -> StudyError:
    if not records:
        return StudyError("computing a study again", "no batch of it is finished", "run it first")
    reasons = explain([record.ingredients for record in records], [batch.ingredients for batch in plan.batches])
    return StudyError(
        "computing a study again",
        "; ".join(reasons),
        "do it where models, measures and versions are those of the study",
    )
