"""The columns of a study's tables, and how traces become rows.

Every table begins with the same columns, which say which generation a row belongs to, so that any of them can be
filtered and compared alone. A measure's column is there in every part in which at least one generation has it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from gentrace.studies.measuring import Measured
from gentrace.trace.trace import Trace

KINDS = ("generations", "tokens", "heads", "failures")
"""The tables, one folder of parts each."""
WHOSE = {
    "generation": pa.string(),
    "model": pa.string(),
    "decoding": pa.string(),
    "seed": pa.int64(),
    "prompt_id": pa.string(),
}
"""Columns that say which generation a row belongs to; factors follow them."""
OWN: dict[str, dict[str, pa.DataType]] = {
    "generations": {
        "prompt_tokens": pa.int32(),
        "new_tokens": pa.int32(),
        "finish": pa.string(),
        "alone": pa.bool_(),
        "logprob": pa.float64(),
        "fidelity": pa.float64(),
        "completion": pa.string(),
        "trace": pa.bool_(),
    },
    "tokens": {
        "position": pa.int32(),
        "id": pa.int64(),
        "text": pa.string(),
        "generated": pa.bool_(),
        "logprob": pa.float32(),
        "sampled_logprob": pa.float32(),
        "entropy": pa.float32(),
        "rank": pa.int32(),
    },
    "heads": {"layer": pa.int32(), "head": pa.int32()},
    "failures": {"prompt": pa.string(), "stage": pa.string(), "error": pa.string(), "try": pa.int32()},
}
"""Each table's own columns, beside measures."""
STEPS = ".steps"
"""What the column with a measure's values step by step adds to the measure's name."""
UNIT = b"unit"
"""Key of a measure's unit in the metadata of its column."""
EXTRA = ("number", "prompt", "refused", "batch")
"""Columns that are added when a study is read."""
RESERVED = frozenset({*WHOSE, *EXTRA, *(column for columns in OWN.values() for column in columns)})
"""Names that no factor and no measure may have."""


@dataclass(frozen=True, slots=True)
class Whose:
    """The generation that rows belong to."""

    generation: str
    model: str
    decoding: str
    seed: int
    prompt_id: str
    factors: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Failure:
    """Something that did not work, of one generation."""

    whose: Whose
    prompt: str
    """The prompt's text."""
    stage: str
    """"generate", "measure NAME", or "worker" if no worker survives the batch."""
    error: str
    """The exception's type and message."""
    attempt: int
    """Which try it was, from 1."""


@dataclass(frozen=True, slots=True)
class Finished:
    """One generation that is done, ready to become rows."""

    whose: Whose
    trace: Trace
    measured: Sequence[Measured]
    finish: str
    """"stop" if the model ended the text, "length" if it was cut off."""
    alone: bool
    """Whether it was generated without the rest of its batch, because the batch as a whole had failed."""
    kept: bool
    """Whether its trace is kept."""


@dataclass(slots=True)
class Columns:
    """Columns that grow row by row; what a row does not have is null."""

    types: dict[str, pa.DataType]
    units: dict[str, str] = field(default_factory=dict[str, str])
    """Column → unit, of measures; a part's own schema carries them."""
    rows: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    def declare(self, measured: Iterable[Measured]) -> None:
        """Make columns for measures, in which rows may follow."""
        for one in measured:
            self.types.setdefault(one.column, pa.float64())
            self.units[one.column] = one.unit
            if one.steps is not None:
                self.types.setdefault(one.column + STEPS, pa.list_(pa.float32()))
                self.units[one.column + STEPS] = one.unit

    def table(self) -> pa.Table:
        """All of them, as they were added."""
        fields = [
            pa.field(name, kind, metadata={UNIT: self.units[name]} if self.units.get(name) else None)
            for name, kind in self.types.items()
        ]
        columns = {name: pa.array([row.get(name) for row in self.rows], kind) for name, kind in self.types.items()}
        return pa.table(columns, schema=pa.schema(fields))


def schema_of(table: str, factors: Mapping[str, pa.DataType]) -> dict[str, pa.DataType]:
    """The columns that a table has in every study with these factors."""
    return {**WHOSE, **factors, **OWN[table]}


def make_tables(
    finished: Sequence[Finished], failures: Sequence[Failure], factors: Mapping[str, pa.DataType]
) -> dict[str, pa.Table]:
    """A batch's rows.

    Args:
        finished: What is done, in the batch's order.
        failures: What is not.
        factors: Columns for the prompts' factors.

    Returns:
        A table of each of `KINDS`.
    """
    made = {kind: Columns(schema_of(kind, factors)) for kind in KINDS}
    for one in finished:
        _add_generation(made["generations"], one)
        _add_tokens(made["tokens"], one)
        _add_heads(made["heads"], one)
    for failure in failures:
        own = {"prompt": failure.prompt, "stage": failure.stage, "error": failure.error, "try": failure.attempt}
        made["failures"].rows.append(_begin(failure.whose) | own)
    return {kind: columns.table() for kind, columns in made.items()}


def _begin(whose: Whose) -> dict[str, Any]:
    return {**{name: getattr(whose, name) for name in WHOSE}, **whose.factors}


def _add_generation(columns: Columns, one: Finished) -> None:
    tokens = one.trace.tokens
    start = tokens.prompt_length
    error = one.trace.fidelity.error
    row = {
        "prompt_tokens": start,
        "new_tokens": len(tokens) - start,
        "finish": one.finish,
        "alone": one.alone,
        "logprob": float(tokens.logprobs[start:].double().sum()),
        "fidelity": None if error != error else error,
        "completion": "".join(tokens.texts[start:]),
        "trace": one.kept,
    }
    measured = [measured for measured in one.measured if measured.scalar is not None]
    columns.declare(measured)
    columns.rows.append(_begin(one.whose) | row | {each.column: each.scalar for each in measured})


def _add_tokens(columns: Columns, one: Finished) -> None:
    tokens, begin = one.trace.tokens, _begin(one.whose)
    texts = {
        name: getattr(tokens, name).tolist() for name in ("ids", "logprobs", "sampled_logprobs", "entropy", "rank")
    }
    measured = [measured for measured in one.measured if measured.positions is not None]
    columns.declare(measured)
    for position, text in enumerate(tokens.texts):
        row = {
            "position": position,
            "id": texts["ids"][position],
            "text": text,
            "generated": position >= tokens.prompt_length,
            "logprob": texts["logprobs"][position],
            "sampled_logprob": texts["sampled_logprobs"][position],
            "entropy": texts["entropy"][position],
            "rank": texts["rank"][position],
        }
        columns.rows.append(begin | row | {each.column: (each.positions or {}).get(position) for each in measured})


def _add_heads(columns: Columns, one: Finished) -> None:
    begin = _begin(one.whose)
    own = [info for info in one.trace.layers if info.kind == "self"]
    measured = [measured for measured in one.measured if measured.heads is not None]
    columns.declare(measured)
    for info in own:
        for head in range(info.heads):
            place = info.index, head
            row = {"layer": info.index, "head": head}
            row |= {each.column: (each.heads or {}).get(place) for each in measured}
            row |= {each.column + STEPS: each.steps.get(place) for each in measured if each.steps is not None}
            columns.rows.append(begin | row)
