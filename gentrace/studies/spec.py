"""What a study is to do, as one frozen value: the same whether it comes from TOML, YAML or Python.

Nothing is loaded here but the names that can be checked at once. Where a value came from a file, an error says its line
and column.
"""

import string
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from gentrace.errors import StudyError
from gentrace.studies.decoding import Decoding
from gentrace.studies.documents import Document, read_document
from gentrace.studies.errors import Misplaced, Problem, SpecError
from gentrace.studies.problems import dotted, in_order, listed, nearest, problems_of

Scalar: TypeAlias = str | int | float | bool | None
"""What a field of a prompt's row may hold."""
Dtype: TypeAlias = Literal["float32", "bfloat16", "float16"]


class Frozen(BaseModel):
    """No unknown keys, no changes afterwards, no silent conversions from text to numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def _named(value: Any, key: str) -> Any:
    return {key: value} if isinstance(value, str) else value


def _listed(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _many(value: Any) -> Any:
    """One thing where several may stand counts as a list of one."""
    return tuple(value) if isinstance(value, list | tuple) else (value,)


class ModelSpec(Frozen):
    """A model to generate with. A plain text stands for its name."""

    name: str = Field(min_length=1)
    """"story" (bundled), "smollm2" (fetched once), a folder, or a Hugging Face name."""
    dtype: Dtype | None = None
    """What the weights become; None keeps what the model's configuration says."""
    device: str | None = None
    """Such as "cpu" or "cuda"; None leaves the choice to the engine."""
    kernel: str | None = None
    """Attention implementation, such as "sdpa" or "eager"; None keeps the model's own choice."""


class PromptsSpec(Frozen):
    """Where prompts come from: ``texts``, ``rows`` or a ``file``. A plain text stands for a file, a list for texts."""

    texts: Annotated[tuple[str, ...] | None, BeforeValidator(_listed)] = None
    """The prompts themselves."""
    rows: Annotated[tuple[dict[str, Scalar], ...] | None, BeforeValidator(_listed)] = None
    """Rows of fields, as a file would hold them."""
    file: str | None = Field(default=None, validate_default=True)
    """A .txt (one prompt a line), .jsonl, .csv or .parquet file, or a folder of a Hugging Face data set or of Parquet
    files; relative to the specification."""
    split: str | None = None
    """Which split of a data set's folder."""
    field: str = "text"
    """The field that holds the prompt, where there is no template."""
    template: str | None = None
    """The prompt with ``{field}`` where a row's fields go; ``{{`` stands for a brace."""
    factors: dict[str, str] = Field(default_factory=dict)
    """Columns of the results, and the fields that they are filled from. A list of fields keeps their names."""
    id: str | None = None
    """The field that names a prompt; without it, a prompt is named by a digest of its text."""
    limit: int | None = Field(default=None, ge=1)
    """How many rows to take, from the first."""

    @field_validator("factors", mode="before")
    @classmethod
    def _named_factors(cls, value: Any) -> Any:
        return {name: name for name in value} if isinstance(value, list | tuple) else value

    @field_validator("template")
    @classmethod
    def _valid_template(cls, value: str | None) -> str | None:
        if value is not None:
            fields = template_fields(value)
            if not fields:
                raise ValueError("no {field} in the template: every prompt would be the same; name a field of the rows")
            if any(not name.isidentifier() for name in fields):
                raise ValueError(f"fields {fields}: write plain names such as {{question}}; for a brace write {{{{")
        return value

    @field_validator("file")
    @classmethod
    def _one_source(cls, value: str | None, info: ValidationInfo) -> str | None:
        # What is wrong itself is not in info.data, and was given nevertheless.
        given = [name for name in ("texts", "rows") if info.data.get(name, ()) is not None]
        given += [] if value is None else ["file"]
        if len(given) != 1:
            raise ValueError(f"{' and '.join(given) or 'no source'}: give one of texts, rows and file")
        return value

    @field_validator("template", "factors", "id")
    @classmethod
    def _with_fields(cls, value: Any, info: ValidationInfo) -> Any:
        if value and info.data.get("texts") is not None:
            raise ValueError(f"texts have no fields: give rows or a file for {info.field_name}")
        return value


class Keep(Frozen):
    """What stays of each generation, beside the tables."""

    traces: bool = False
    """Whether to save whole traces."""
    heads: Annotated[tuple[Annotated[tuple[int, int], BeforeValidator(_listed)], ...], BeforeValidator(_listed)] = ()
    """``[layer, head]`` of the only heads whose attention is saved."""
    values: bool = False
    """Whether to record value vectors too."""
    steps: bool = False
    """Whether the table of heads holds each measure's values step by step, beside their mean."""
    top_k: int = Field(default=10, ge=1)
    """Alternatives kept per position, in traces."""

    @field_validator("heads")
    @classmethod
    def _one_amount(cls, value: tuple[tuple[int, int], ...], info: ValidationInfo) -> tuple[tuple[int, int], ...]:
        if value and info.data.get("traces"):
            raise ValueError("traces and heads: keep whole traces or chosen heads, not both")
        if len(set(value)) < len(value):
            raise ValueError("a head stands here twice: remove one")
        return value


class MeasureSpec(Frozen):
    """A measure, by its registered name or as ``module:function``. A plain text stands for it."""

    measure: str = Field(min_length=1)
    name: str | None = None
    """What its column is called; without it, the measure's own name."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Arguments of the function."""

    @property
    def column(self) -> str:
        """The name of its column."""
        return self.name or self.measure.rpartition(":")[2]

    @field_validator("measure")
    @classmethod
    def _known(cls, value: str) -> str:
        module, colon, function = value.partition(":")
        if colon:
            if not all(part.isidentifier() for part in (*module.split("."), function)):
                raise ValueError(f"{value!r}: write module:function")
            return value
        from gentrace.analysis import measures

        if value not in measures():
            raise ValueError(f"no measure is called {value!r}{nearest(value, measures())}; known: {listed(measures())}")
        return value

    @field_validator("options")
    @classmethod
    def _fitting(cls, value: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        name = info.data.get("measure")
        if name is not None and ":" not in name:
            import inspect

            from gentrace.analysis import find

            known = list(inspect.signature(find(name)).parameters)[1:]
            for option in value:
                if option not in known:
                    raise ValueError(f"{name} has no option {option!r}; it has {listed(known)}")
        return value


class Spec(Frozen):
    """A study. Make one in Python, or read one with `load_spec`."""

    name: str = "study"
    models: Annotated[
        tuple[Annotated[ModelSpec, BeforeValidator(lambda value: _named(value, "name"))], ...], BeforeValidator(_many)
    ] = Field(min_length=1)
    prompts: Annotated[PromptsSpec, BeforeValidator(lambda value: _source(value))]
    decoding: Annotated[tuple[Decoding, ...], BeforeValidator(_many)] = Field(
        default_factory=lambda: (Decoding(),), min_length=1
    )
    """Grids of decoding settings; see `Decoding`."""
    seeds: Annotated[tuple[int, ...], BeforeValidator(_many)] = Field(default=(0,), min_length=1)
    """Each prompt is generated from once with each seed."""
    layers: Annotated[tuple[int, ...] | None, BeforeValidator(lambda value: _layers(value))] = None
    """Layers to record; None, or "all" in a file, for all of them."""
    keep: Keep = Field(default_factory=Keep)
    measures: Annotated[
        tuple[Annotated[MeasureSpec, BeforeValidator(lambda value: _named(_by_name(value), "measure"))], ...],
        BeforeValidator(_many),
    ] = ()
    batch_size: int = Field(default=8, ge=1)
    """Prompts that are generated from together."""
    max_failures: int | float = 0.5
    """Stop when more generations of one run fail than this: a count, or a share of those tried (a float; judged after
    ten)."""
    threads: int | None = Field(default=None, ge=1)
    """Threads that torch computes with; None leaves them as they are. Another number can change a row's last bits."""

    _document: Document | None = PrivateAttr(default=None)

    @field_validator("layers")
    @classmethod
    def _real_layers(cls, value: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if value is not None and (any(layer < 0 for layer in value) or len(set(value)) < len(value)):
            raise ValueError('give each layer number once, 0 or more, or "all"')
        return value

    @field_validator("max_failures")
    @classmethod
    def _sensible(cls, value: float) -> float:
        if value < 0 or (isinstance(value, float) and value > 1):
            raise ValueError("give a count such as 10, or a share between 0.0 and 1.0")
        return value

    @field_validator("models", "decoding", "seeds", "measures")
    @classmethod
    def _unique(cls, value: tuple[Any, ...], info: ValidationInfo) -> tuple[Any, ...]:
        what = "decoding settings" if info.field_name == "decoding" else info.field_name
        seen: set[str] = set()
        for place, one in enumerate(value):
            for name in _names(one):
                if name in seen:
                    raise Misplaced(f"two {what} are called {name}: give each its own name", place)
                seen.add(name)
        return value

    @field_validator("keep")
    @classmethod
    def _recorded(cls, value: Keep, info: ValidationInfo) -> Keep:
        layers = info.data.get("layers")
        for place, head in enumerate(value.heads):
            if layers is not None and head[0] not in layers:
                raise Misplaced(f"head {list(head)} is in a layer that layers leaves out: add it there", "heads", place)
        return value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Spec) and self.model_dump() == other.model_dump()

    @property
    def base(self) -> Path:
        """The folder that relative paths and a user's modules are looked for in."""
        return Path.cwd() if self._document is None else self._document.path.parent

    def where(self, *location: str | int) -> str:
        """Where a value stands: ``file:line:column``, or its path if the study was made in Python."""
        return dotted(location) if self._document is None else self._document.where(location)


def load_spec(path: Path | str) -> Spec:
    """Read a study's specification.

    Args:
        path: A .toml, .yaml or .yml file.

    Raises:
        SpecError: If something in it is wrong; it names every line and column.
        StudyError: If it is no such file.
        OSError: If it cannot be read.
    """
    document = read_document(Path(path))
    spec = parse_spec(document.values, document)
    spec._document = document
    return spec


def parse_spec(values: Mapping[str, Any], document: Document | None = None) -> Spec:
    """Validate plain values.

    Args:
        values: What a file holds.
        document: Where they stand in the file, if they come from one.

    Raises:
        SpecError: If something is wrong.
    """
    try:
        return Spec.model_validate(values)
    except ValidationError as error:
        problems = problems_of(error, Spec, values, document)
    raise SpecError("the study" if document is None else document.path.name, problems)


def template_fields(template: str) -> list[str]:
    """The fields that a template names.

    Raises:
        ValueError: If its braces do not fit together.
    """
    found = [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]
    return list(dict.fromkeys(found))


def _names(one: Any) -> list[str]:
    """What one entry of a list is called, each of which may stand there once."""
    if isinstance(one, Decoding):
        return [setting.name for setting in one.settings()]
    return [one.name if isinstance(one, ModelSpec) else one.column if isinstance(one, MeasureSpec) else str(one)]


def _by_name(value: Any) -> Any:
    """A function as ``module:function``, so that a worker elsewhere can find it."""
    if not callable(value):
        return value
    module, name = getattr(value, "__module__", ""), getattr(value, "__qualname__", "")
    if module == "__main__" or not name.isidentifier():
        raise ValueError(f"{name or value!r} cannot be found by its name: put it into a module, at its top")
    from gentrace.analysis import measures

    return name if measures().get(name) is value else f"{module}:{name}"


def _layers(value: Any) -> Any:
    return None if value is None or value == "all" else _many(value)


def _source(value: Any) -> Any:
    if isinstance(value, str):
        return {"file": value}
    if isinstance(value, list | tuple):
        return {"rows" if any(isinstance(entry, dict) for entry in value) else "texts": value}
    return value


def refuse(spec: Spec, what: str, *location: str | int) -> StudyError:
    """An error about one value of a specification, found only when it was put to use.

    Args:
        spec: The study.
        what: What was seen, and what to change.
        *location: Which value.
    """
    return refuse_all(spec, [Problem(spec.where(*location), what)])


def refuse_all(spec: Spec, problems: list[Problem]) -> StudyError:
    """An error about several values of a specification.

    Args:
        spec: The study.
        problems: At least one.
    """
    source = "the study" if spec._document is None else spec._document.path.name
    return SpecError(source, in_order(problems))
