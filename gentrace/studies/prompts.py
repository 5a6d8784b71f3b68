"""From a source of rows to prompts: rendered texts with stable names and the factors that a study compares."""

import csv
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from gentrace.errors import StudyError
from gentrace.studies.errors import Problem
from gentrace.studies.problems import listed
from gentrace.studies.spec import PromptsSpec, Scalar, Spec, refuse, refuse_all, template_fields
from gentrace.studies.tables import RESERVED

Row: TypeAlias = tuple[str, Mapping[str, Any]]
"""Where a row stands, and its fields."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """One text to generate from."""

    index: int
    """Its place among the study's prompts, from 0."""
    id: str
    """Its name, which seeds and results go by."""
    text: str
    factors: dict[str, Scalar]
    """What the results are compared by: column → value."""


def read_prompts(spec: Spec) -> list[Prompt]:
    """All prompts of a study.

    Args:
        spec: The study.

    Raises:
        SpecError: If there is no prompt, a row lacks a field, or a name stands twice; it says where.
        StudyError: If the source cannot be read.
    """
    source = spec.prompts
    taken = [column for column in source.factors if column in RESERVED or "." in column]
    if taken:
        raise refuse_all(spec, [_taken(spec, column) for column in taken])
    rows = _rows(spec)
    prompts = [
        _prompt(spec, index, row)
        for index, row in enumerate(rows if source.limit is None else islice(rows, source.limit))
    ]
    if not prompts:
        what = f"{source.file} holds no prompts" if source.file else "there are no prompts"
        raise refuse(spec, f"{what}: give at least one", "prompts", "file")
    return _with_one_type(_with_own_names(spec, prompts))


def factor_types(prompts: Sequence[Prompt]) -> dict[str, pa.DataType]:
    """The column type of each factor; `read_prompts` has made all its values be of one type."""
    types: dict[str, pa.DataType] = {}
    for column in prompts[0].factors if prompts else ():
        value = next((prompt.factors[column] for prompt in prompts if prompt.factors[column] is not None), None)
        known = {"bool": pa.bool_(), "int": pa.int64(), "float": pa.float64()}
        types[column] = known.get(type(value).__name__, pa.string())
    return types


def prompt_table(prompts: Sequence[Prompt]) -> pa.Table:
    """Prompts as a table, so that a study's folder holds what it was made from."""
    columns: dict[str, Any] = {
        "prompt": pa.array([prompt.index for prompt in prompts], pa.int64()),
        "prompt_id": pa.array([prompt.id for prompt in prompts], pa.string()),
        "text": pa.array([prompt.text for prompt in prompts], pa.string()),
    }
    for column, kind in factor_types(prompts).items():
        columns[column] = pa.array([prompt.factors[column] for prompt in prompts], kind)
    return pa.table(columns)


def stored_prompts(table: pa.Table) -> list[Prompt]:
    """The prompts of `prompt_table`."""
    fixed = ("prompt", "prompt_id", "text")
    return [
        Prompt(row["prompt"], row["prompt_id"], row["text"], {name: row[name] for name in row if name not in fixed})
        for row in table.to_pylist()
    ]


def _taken(spec: Spec, column: str) -> Problem:
    change = f'factors = {{ my_{column.replace(".", "_")} = "{spec.prompts.factors[column]}" }}'
    what = f"results have a column {column!r} of their own: call it something else: {change}"
    return Problem(spec.where("prompts", "factors", column), what)


def _prompt(spec: Spec, index: int, row: Row) -> Prompt:
    """A row's prompt.

    Raises:
        SpecError: With everything that the specification asks for and the row does not have.
    """
    where, fields = row
    source = spec.prompts
    wrong: list[Problem] = []

    def refused(what: str, *asked: str) -> None:
        wrong.append(Problem(spec.where("prompts", *asked), f"{where}{what}"))

    def field(name: str, *asked: str) -> Any:
        if name not in fields:
            refused(f" has no field {name!r}; it has {listed(fields)}: add it or name another", *asked)
        return fields.get(name)

    text = ""
    if source.template is None:
        text = field(source.field, "field")
        if source.field in fields and not isinstance(text, str):
            refused(f": {source.field!r} is {text!r}: give a text, or a template", "field")
    else:
        values = {name: field(name, "template") for name in template_fields(source.template)}
        for name in (name for name in values if name in fields and values[name] is None):
            refused(f": field {name!r} is empty: fill it or leave it out", "template")
        text = "" if wrong else source.template.format_map(values)
    factors = {column: field(name, "factors", column) for column, name in source.factors.items()}
    for column, value in factors.items():
        if not (value is None or isinstance(value, str | int | float | bool)):
            refused(f": factor {column!r} is a {type(value).__name__}: give one value", "factors", column)
    given = "" if source.id is None else str(field(source.id, "id"))
    if wrong:
        raise refuse_all(spec, wrong)
    return Prompt(index, given, text, factors)


def _with_own_names(spec: Spec, prompts: list[Prompt]) -> list[Prompt]:
    """Each prompt with a name of its own: the one it was given, or a digest of its text."""
    seen: dict[str, int] = {}
    named: list[Prompt] = []
    for prompt in prompts:
        name = prompt.id or hashlib.sha256(prompt.text.encode("utf-8", "surrogatepass")).hexdigest()[:12]
        count = seen[name] = seen.get(name, 0) + 1
        if count > 1 and prompt.id:
            raise refuse(spec, f"two prompts are called {name!r}: give each its own id", "prompts", "id")
        named.append(Prompt(prompt.index, name if count == 1 else f"{name}-{count}", prompt.text, prompt.factors))
    return named


def _with_one_type(prompts: list[Prompt]) -> list[Prompt]:
    """Factors whose values are all of one type: mixed numbers become floats, other mixtures become text."""
    for column in prompts[0].factors:
        kinds = {type(prompt.factors[column]) for prompt in prompts} - {type(None)}
        if len(kinds) > 1:
            kind = float if kinds <= {int, float} else str
            for prompt in prompts:
                value = prompt.factors[column]
                prompt.factors[column] = None if value is None else kind(value)
    return prompts


def _rows(spec: Spec) -> Iterator[Row]:
    source = spec.prompts
    if source.texts is not None:
        return ((f"text {number}", {source.field: text}) for number, text in enumerate(source.texts, 1))
    if source.rows is not None:
        return ((f"row {number}", row) for number, row in enumerate(source.rows, 1))
    path = (spec.base / Path(source.file or "").expanduser()).resolve()
    if not path.exists():
        raise refuse(
            spec, f"there is no {path}: give a file or folder relative to the specification", "prompts", "file"
        )
    if path.is_dir():
        return _numbered(path.name, _folder(spec, path, source))
    readers = {".txt": _text_lines, ".jsonl": _json_lines, ".csv": _csv_lines, ".parquet": _parquet}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        what = f"{path.name} ends in {path.suffix!r}: give a {', '.join(readers)} file or a data set's folder"
        raise refuse(spec, what, "prompts", "file")
    return reader(path, source)


def _text_lines(path: Path, source: PromptsSpec) -> Iterator[Row]:
    for number, line in _lines(path):
        if line.strip():
            yield f"{path.name}:{number}", {source.field: line}


def _json_lines(path: Path, source: PromptsSpec) -> Iterator[Row]:
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise StudyError(
                "reading prompts", f"{path.name}:{number}: no valid JSON: {error}", "correct it"
            ) from error
        if not isinstance(row, dict):
            raise StudyError("reading prompts", f"{path.name}:{number}: no JSON object", "give one object a line")
        yield f"{path.name}:{number}", row


def _csv_lines(path: Path, source: PromptsSpec) -> Iterator[Row]:
    # A field may span lines, so they are handed over with their ends.
    reader = csv.DictReader((line for _, line in _lines(path, ends=True)), strict=True)
    try:
        for row in reader:
            if None in row or None in row.values():
                raise csv.Error("it has another number of fields than the header")
            yield f"{path.name}:{reader.line_num}", row
    except csv.Error as error:
        where = f"{path.name}:{reader.line_num}"
        raise StudyError("reading prompts", f"{where}: {error}", "correct the line") from error


def _lines(path: Path, *, ends: bool = False) -> Iterator[tuple[int, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        try:
            for number, line in enumerate(file, 1):
                yield number, line if ends else line.rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise StudyError("reading prompts", f"{path.name} is not UTF-8: {error}", "save it as UTF-8") from error


def _parquet(path: Path, source: PromptsSpec) -> Iterator[Row]:
    try:
        file = pq.ParquetFile(path)
        yield from _numbered(path.name, (row for batch in file.iter_batches() for row in batch.to_pylist()))
    except pa.ArrowException as error:
        raise StudyError(f"reading prompts from {path}", str(error), "give a whole Parquet file") from error


def _folder(spec: Spec, path: Path, source: PromptsSpec) -> Iterator[dict[str, Any]]:
    """A data set that `datasets` saved, or a folder of Parquet files."""
    if (path / "dataset_dict.json").is_file():
        splits = json.loads((path / "dataset_dict.json").read_text(encoding="utf-8")).get("splits", [])
        if source.split not in splits:
            what = f"{path.name} has the splits {', '.join(splits)}: choose one with split"
            raise refuse(spec, what, "prompts", "split" if source.split else "file")
        path = path / str(source.split)
    if (path / "state.json").is_file():
        import datasets

        return (dict(row) for row in datasets.Dataset.load_from_disk(str(path)))
    files = sorted(path.rglob("*.parquet"))
    if not files:
        what = f"{path.name} is no folder of a data set: there is no state.json and no Parquet file in it"
        raise refuse(spec, what, "prompts", "file")
    found = ds.dataset([str(file) for file in files], format="parquet")
    return (row for batch in found.to_batches() for row in batch.to_pylist())


def _numbered(name: str, rows: Iterable[dict[str, Any]]) -> Iterator[Row]:
    return ((f"{name}, row {number}", row) for number, row in enumerate(rows, 1))
