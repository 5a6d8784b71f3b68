"""Reading a study back: tables of any size by column and filter, traces one by one.

Only what a record names counts, so a study can be read while it is still running, and never half a batch of it. Nothing
in a folder is executed by reading it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from pyarrow.fs import LocalFileSystem, SubTreeFileSystem
from torch import Tensor

from gentrace.errors import StudyError
from gentrace.studies.filters import Filter, expression_of, values_of
from gentrace.studies.folder import SHORT, Folder, Record
from gentrace.studies.kept import head_places
from gentrace.studies.spec import Spec, parse_spec
from gentrace.studies.tables import STEPS, UNIT, WHOSE, schema_of
from gentrace.trace.file import load
from gentrace.trace.trace import Trace

if TYPE_CHECKING:
    import pandas as pd

TYPES: dict[str, pa.DataType] = {
    str(kind): kind
    for kind in (
        pa.string(),
        pa.bool_(),
        pa.int32(),
        pa.int64(),
        pa.float32(),
        pa.float64(),
        pa.list_(pa.float32()),
    )
}
"""Column types by the names that records call them."""


class Column(NamedTuple):
    """Where a measure's values are."""

    table: str
    """"heads", "tokens" or "generations"."""
    unit: str
    """Unit of the values."""
    steps: bool = False
    """Whether a head's values step by step were kept too, in the column ``NAME.steps``."""


def open_study(path: Path | str) -> "Study":
    """Open a study's folder.

    Args:
        path: The folder that a run wrote, finished or not.

    Raises:
        StudyError: If it is no study, or one of another format.
    """
    return Study(Folder(path))


class Study:
    """A study's results, as they were when it was opened."""

    def __init__(self, folder: Folder) -> None:
        """Read what the folder is, and which batches are finished."""
        self.folder = folder
        self.manifest: dict[str, Any] = folder.manifest()
        """Specification, models, versions, seeds and the plan's digest."""
        self._plan = folder.table("plan")
        self._planned: dict[str, str] = {}
        """The record's name of each planned batch, in the plan's order, with its digest."""
        for digest in self._plan.column("batch").to_pylist():
            if digest is not None:
                self._planned.setdefault(digest[:SHORT], digest)
        finished = folder.finished()
        found = (folder.record(digest) for name, digest in self._planned.items() if name in finished)
        same: dict[str, dict[str, str]] = {}
        self.records: tuple[Record, ...] = tuple(_slim(record, same) for record in found if record is not None)
        """The finished batches, in the plan's order; of their ingredients only what tells their rows apart."""

    def __repr__(self) -> str:
        done = f"{len(self.records)} of {len(self._planned)} batches"
        return f"<Study {self.manifest['name']}: {self.manifest['generations']} generations, {done}>"

    @cached_property
    def spec(self) -> Spec:
        """What was asked for."""
        return parse_spec(self.manifest["spec"])

    @property
    def factors(self) -> tuple[str, ...]:
        """The columns that the prompts were compared by."""
        return tuple(self.manifest["factors"])

    @property
    def measures(self) -> dict[str, Column]:
        """The columns that measures made: name → its table and its unit."""
        return self._measures

    @cached_property
    def _measures(self) -> dict[str, Column]:
        found: dict[str, Column] = {}
        stepwise: set[str] = set()
        for record in self.records:
            for file in record.files:
                if file.kind not in ("heads", "tokens", "generations"):
                    continue
                new = set(file.columns) - set(schema_of(file.kind, {})) - set(self.factors) - set(found) - stepwise
                if not new:
                    continue
                schema = pq.read_schema(self.folder.root / file.path)
                for name in (name for name in file.columns if name in new):
                    if name.endswith(STEPS):
                        stepwise.add(name)
                    else:
                        unit = (schema.field(name).metadata or {}).get(UNIT, b"").decode()
                        found[name] = Column(file.kind, unit)
        return {name: column._replace(steps=name + STEPS in stepwise) for name, column in found.items()}

    @property
    def complete(self) -> bool:
        """Whether every planned batch is finished; some of their generations may have failed."""
        return len(self.records) == len(self._planned)

    def dataset(self, table: str) -> ds.Dataset:
        """A table as a data set of pyarrow, of which nothing is read yet.

        A part's model, setting and seed are known without opening it, so a filter on them passes it over.

        Args:
            table: "generations", "tokens", "heads" or "failures".

        Raises:
            StudyError: If there is no such table.
        """
        factors = {name: TYPES[kind] for name, kind in self.manifest["factors"].items()}
        try:
            columns = schema_of(table, factors)
        except KeyError:
            raise StudyError(
                f"reading the table {table!r}", "there is none", "choose generations, tokens, heads or failures"
            ) from None
        files: list[str] = []
        known: list[pc.Expression] = []
        for record in self.records:
            setting = record.ingredients["decoding"][0]
            always = {
                "model": record.ingredients["model"]["name"],
                "decoding": setting,
                "seed": record.ingredients["seed"],
            }
            for file in record.files:
                if file.kind == table:
                    files.append(file.path)
                    known.append(values_of(always))
                    columns |= {name: TYPES[kind] for name, kind in file.columns.items() if name not in columns}
        place = SubTreeFileSystem(str(self.folder.root.resolve()), LocalFileSystem())
        return ds.FileSystemDataset.from_paths(
            files,
            schema=pa.schema(list(columns.items())),
            format=ds.ParquetFileFormat(),
            filesystem=place,
            partitions=known,
        )

    def tokens(self, columns: Sequence[str] | None = None, **where: Filter) -> "pd.DataFrame":
        """One row a token: position, id, text, probabilities, and the measures that tokens have.

        Args:
            columns: Which columns to read; None for all.
            **where: Column → a value, a list of values, or a ``(low, high)`` tuple with None for no bound; only rows
                that fit are read.

        Raises:
            StudyError: If there is no such column.
        """
        return self._frame("tokens", columns, where)

    def heads(self, columns: Sequence[str] | None = None, **where: Filter) -> "pd.DataFrame":
        """One row a head and generation: the measures that heads have; arguments as of `tokens`.

        Raises:
            StudyError: If there is no such column.
        """
        return self._frame("heads", columns, where)

    def generations(self, columns: Sequence[str] | None = None, **where: Filter) -> "pd.DataFrame":
        """One row a finished generation, by its number in the study, which `trace` takes; arguments as of `tokens`.

        Raises:
            StudyError: If there is no such column.
        """
        frame = self._frame("generations", columns, where, also="generation")
        numbers = dict(zip(self._column("generation"), self._column("number"), strict=True))
        frame.insert(0, "number", [numbers[name] for name in frame["generation"]])
        frame = frame.set_index("number").sort_index()
        return frame if columns is None or "generation" in columns else frame.drop(columns="generation")

    def failures(self) -> "pd.DataFrame":
        """One row for each thing that failed: the prompt, what was being done, the error, and which try it was.

        A generation that could not even be tried, such as one with too long a prompt, has try 0.
        """
        frame = self._frame("failures", None, {})
        refused = self._plan.filter(pc.field("refused").is_valid())
        if not len(refused):
            return frame
        import pandas as pd

        prompts = {row["prompt_id"]: row for row in self.prompts().to_dict("records")}
        rows = [
            {name: row[name] for name in WHOSE}
            | {name: prompts[row["prompt_id"]][name] for name in self.factors}
            | {"prompt": prompts[row["prompt_id"]]["text"], "stage": "plan", "error": row["refused"], "try": 0}
            for row in refused.to_pylist()
        ]
        return pd.concat([pd.DataFrame(rows, columns=list(frame.columns)), frame], ignore_index=True)

    def prompts(self) -> "pd.DataFrame":
        """One row a prompt: its name, its text and its factors."""
        return self.folder.table("prompts").to_pandas()

    def plan(self) -> "pd.DataFrame":
        """One row a planned generation: its number, what it is, its batch, or why it was refused."""
        return self._plan.to_pandas()

    def batches(self, table: str, columns: Sequence[str] | None = None, **where: Filter) -> Iterator["pd.DataFrame"]:
        """A table piece by piece, for what does not fit into memory.

        Args:
            table: Which one.
            columns: Which columns; None for all.
            **where: Which rows, as of `tokens`.

        Raises:
            StudyError: If there is no such table or column.
        """
        # With threads, pyarrow reads on without a bound while a piece is worked on.
        scanner = self._scanner(table, columns, where, use_threads=False, fragment_readahead=1, batch_readahead=2)
        repeated = self._repeated(scanner.projected_schema)
        for batch in scanner.to_batches():
            if len(batch):
                yield _encoded(batch, repeated).to_pandas()

    def trace(self, generation: int | str) -> Trace:
        """A generation's trace.

        Args:
            generation: Its number, as in `generations`, or its name.

        Raises:
            StudyError: If there is no such generation, it is not finished, or its trace was not kept.
        """
        if self.manifest["spec"]["keep"]["heads"]:
            raise StudyError(
                f"reading the trace of generation {generation}",
                f"only the heads {self.manifest['spec']['keep']['heads']} were kept",
                "use attention(generation, layer, head) or scores(…)",
            )
        return load(self.trace_path(generation))

    def attention(self, generation: int | str, layer: int, head: int) -> Tensor:
        """``[query, key]`` attention of a head, from a whole trace or from one of chosen heads.

        Raises:
            StudyError: If it was not kept.
        """
        trace, place = self._kept(generation, layer, head)
        return trace.attention(layer, place)

    def scores(self, generation: int | str, layer: int, head: int) -> Tensor:
        """``[query, key]`` what went into a head's softmax; see `attention`.

        Raises:
            StudyError: If it was not kept.
        """
        trace, place = self._kept(generation, layer, head)
        return trace.scores(layer, place)

    def _kept(self, generation: int | str, layer: int, head: int) -> tuple[Trace, int]:
        heads = [(int(one), int(other)) for one, other in self.manifest["spec"]["keep"]["heads"]]
        if heads and (layer, head) not in heads:
            raise StudyError(f"reading head {head} of layer {layer}", f"only {heads} were kept", "choose one of them")
        return load(self.trace_path(generation)), head_places(heads)[layer, head] if heads else head

    def trace_path(self, generation: int | str) -> Path:
        """The file of a generation's trace, such as for ``gentrace view``.

        Args:
            generation: Its number, as in `generations`, or its name.

        Raises:
            StudyError: If there is no such generation, it is not finished, or its trace was not kept.
        """
        doing = f"reading the trace of generation {generation}"
        column = self._column("number" if isinstance(generation, int) else "generation")
        if generation not in column:
            raise StudyError(doing, f"the study has generations 0 … {len(column) - 1}", "choose one of them")
        row = self._plan.slice(column.index(generation), 1).to_pylist()[0]
        if row["refused"] is not None:
            raise StudyError(doing, f"it could not be tried: {row['refused']}", "choose another")
        record = next((record for record in self.records if record.hash == row["batch"]), None)
        if record is None:
            raise StudyError(doing, "its batch is not finished", "run the study on, and open it again")
        found = [file for file in record.files if file.generation == row["generation"]]
        if not found:
            kept = self.manifest["spec"]["keep"]["traces"] or self.manifest["spec"]["keep"]["heads"]
            change = "see failures()" if kept else "run the study with keep.traces = true"
            raise StudyError(doing, "it failed" if kept else "traces were not kept", change)
        return self.folder.root / found[0].path

    def _column(self, name: str) -> list[Any]:
        return self._plan.column(name).to_pylist()

    def _scanner(
        self, table: str, columns: Sequence[str] | None, where: dict[str, Filter], **options: Any
    ) -> ds.Scanner:
        found = self.dataset(table)
        known = found.schema.names
        for name in (*(columns or ()), *where):
            if name not in known:
                raise StudyError(f"reading {table}", f"there is no column {name!r}", f"there are {', '.join(known)}")
        read = None if columns is None else list(columns)
        return found.scanner(columns=read, filter=expression_of(where), **options)

    def _frame(
        self, table: str, columns: Sequence[str] | None, where: dict[str, Filter], also: str | None = None
    ) -> "pd.DataFrame":
        """A table as pandas, in the plan's order; what says whose a row is becomes categories, which are small."""
        read = columns if columns is None or also is None or also in columns else [also, *columns]
        scanner = self._scanner(table, read, where)
        repeated = self._repeated(scanner.projected_schema)
        batches = [_encoded(batch, repeated) for batch in scanner.to_batches() if len(batch)]
        found = pa.Table.from_batches(batches).unify_dictionaries() if batches else scanner.to_table()
        return found.to_pandas()

    def _repeated(self, schema: pa.Schema) -> list[str]:
        """The columns that say whose a row is, as text."""
        known = [name for name in (*WHOSE, *self.factors) if name in schema.names]
        return [name for name in known if schema.field(name).type == pa.string()]


def _slim(record: Record, same: dict[str, dict[str, str]]) -> Record:
    """A record without its prompts and versions, which many batches would fill the memory with."""
    kept = {name: record.ingredients[name] for name in ("decoding", "seed")}
    kept["model"] = {"name": record.ingredients["model"]["name"]}
    files = [replace(file, columns=same.setdefault(repr(file.columns), file.columns)) for file in record.files]
    return replace(record, ingredients=kept, files=tuple(files))


def _encoded(batch: pa.RecordBatch, repeated: Sequence[str]) -> pa.RecordBatch:
    columns = [
        batch.column(name).dictionary_encode() if name in repeated else batch.column(name)
        for name in batch.schema.names
    ]
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)
