"""Decoding settings as a grid: wherever one value may stand, a list of values makes another axis of the grid."""

import itertools
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator

_Value = TypeVar("_Value")
Grid: TypeAlias = Annotated[
    tuple[_Value, ...], BeforeValidator(lambda value: tuple(value) if isinstance(value, list | tuple) else (value,))
]
"""One value, or the values of an axis."""
WARPERS = ("temperature", "top_k", "top_p", "min_p", "typical_p")
"""Arguments that change nothing where nothing is sampled."""
TAKEN = frozenset({"num_return_sequences", "generation_config", "streamer", "output_attentions", "assistant_model"})
"""Arguments of generate that a study decides itself or cannot record."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One point of the grid."""

    name: str
    """What it is called in the results."""
    arguments: dict[str, Any]
    """What generate is given."""
    block: int = 0
    """Which grid of the specification it belongs to."""


class Decoding(BaseModel):
    """A grid of arguments of ``model.generate``. What is left out stays as the model's own settings have it."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: str | None = None
    """What the setting is called in the results; of a grid, the beginning of each name."""
    max_new_tokens: Grid[Annotated[int, Field(ge=1)]] = (40,)
    min_new_tokens: Grid[Annotated[int, Field(ge=0)]] = ()
    do_sample: Grid[bool] = (False,)
    temperature: Grid[Annotated[float, Field(gt=0)]] = ()
    top_k: Grid[Annotated[int, Field(ge=1)]] = ()
    top_p: Grid[Annotated[float, Field(gt=0, le=1)]] = ()
    min_p: Grid[Annotated[float, Field(ge=0, le=1)]] = ()
    typical_p: Grid[Annotated[float, Field(gt=0, le=1)]] = ()
    repetition_penalty: Grid[Annotated[float, Field(gt=0)]] = ()
    no_repeat_ngram_size: Grid[Annotated[int, Field(ge=0)]] = ()
    num_beams: Grid[Annotated[int, Field(ge=1)]] = ()
    length_penalty: Grid[float] = ()
    options: dict[str, Any] = Field(default_factory=dict)
    """Further arguments, handed on as they are; they are no axes."""

    @field_validator("*")
    @classmethod
    def _no_repeats(cls, value: Any) -> Any:
        if isinstance(value, tuple) and len(set(map(repr, value))) < len(value):
            raise ValueError("a value stands here twice: remove one")
        return value

    @field_validator("options")
    @classmethod
    def _known(cls, value: dict[str, Any]) -> dict[str, Any]:
        if not value:
            return value
        from transformers import GenerationConfig

        known = {name for name in vars(GenerationConfig()) if not name.startswith("_")}
        for name in value:
            if name in TAKEN or name in cls.model_fields:
                raise ValueError(f"{name!r} cannot stand in options: it has a key of its own, or a study decides it")
            if name not in known:
                raise ValueError(f"generate has no setting {name!r}")
        return value

    @field_validator(*WARPERS)
    @classmethod
    def _effective(cls, value: tuple[float, ...], info: ValidationInfo) -> tuple[float, ...]:
        if value and True not in info.data.get("do_sample", (True,)):
            raise ValueError(f"{info.field_name} without sampling changes nothing: add do_sample = true")
        return value

    def settings(self, block: int = 0) -> list[Setting]:
        """The points of the grid, each once.

        Args:
            block: The grid's number in the specification.
        """
        axes = {
            name: getattr(self, name)
            for name in type(self).model_fields
            if name not in ("name", "options") and getattr(self, name)
        }
        found: dict[str, Setting] = {}
        for values in itertools.product(*axes.values()):
            arguments = dict(zip(axes, values, strict=True))
            if not arguments["do_sample"]:
                arguments = {name: value for name, value in arguments.items() if name not in WARPERS}
            varied = [
                f"{name}={value}" for name, value in arguments.items() if len(axes[name]) > 1 and name != "do_sample"
            ]
            start = [] if self.name is None else [self.name]
            if self.name is None or len(self.do_sample) > 1:
                start.append("sample" if arguments["do_sample"] else "greedy")
            setting = Setting(" ".join([*start, *varied]), arguments | self.options, block)
            found.setdefault(setting.name, setting)
        return list(found.values())
