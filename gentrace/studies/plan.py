"""What a study will do, fixed before it begins: every generation, which batch it belongs to, and each batch's digest.

A greedy answer can change with the prompts that share its batch (transformers issue 25921), because the padding changes
the order of additions. So the composition of every batch follows from the specification alone, and everything that can
change a row goes into the batch's digest. A finished batch is known by that digest: it is reused if and only if the
same digest is planned again, wherever in the plan.
"""

import hashlib
import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

import gentrace
from gentrace.errors import StudyError
from gentrace.studies.decoding import Setting
from gentrace.studies.errors import Problem
from gentrace.studies.measuring import ReadyMeasure, ready_measures
from gentrace.studies.models import LoadedModel, open_model
from gentrace.studies.prompts import Prompt, factor_types
from gentrace.studies.spec import ModelSpec, Spec, refuse, refuse_all
from gentrace.studies.tables import Whose

FORMAT = 1
"""Version of the folder's format."""
PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "pyarrow")
"""Packages whose versions can change a row, beside gentrace."""


@dataclass(frozen=True, slots=True)
class Generation:
    """One text to generate."""

    number: int
    """Its place in the study: models, then settings, then seeds, then prompts in their own order."""
    whose: Whose
    prompt: Prompt
    prompt_tokens: int
    draw: int
    """Seed of its own random draws, from the study's seed and the prompt's name."""
    refused: str | None = None
    """Why it cannot be generated at all; it is in no batch then."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """What all batches of a study share; enough for a worker, with a batch, to do its part."""

    spec: Spec
    base: Path
    """Where a model's relative folder starts from."""
    folders: tuple[Path, ...]
    """Where a user's modules are looked for."""
    factors: dict[str, pa.DataType]
    threads: int
    """Threads that torch computes with, whoever the worker is: another number can change a row's last bits."""


@dataclass(frozen=True, slots=True)
class Batch:
    """The unit of work and of commit: some prompts that are generated from together."""

    number: int
    hash: str
    """SHA-256 of ``ingredients``: everything that can change a row."""
    model: ModelSpec
    setting: Setting
    generations: tuple[Generation, ...]
    ingredients: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Plan:
    """All of a study."""

    recipe: Recipe
    prompts: Sequence[Prompt]
    generations: Sequence[Generation]
    batches: Sequence[Batch]
    models: Mapping[str, dict[str, Any]]
    """What of each model can change a result."""
    versions: Mapping[str, str]
    measures: Sequence[ReadyMeasure]

    @property
    def spec(self) -> Spec:
        """The study's specification."""
        return self.recipe.spec

    @property
    def hash(self) -> str:
        """SHA-256 over all batches and all refused generations."""
        refused = [[one.whose.generation, one.refused] for one in self.refused()]
        return digest([[batch.hash for batch in self.batches], refused])

    def refused(self) -> Iterator[Generation]:
        """The generations that cannot be."""
        return (generation for generation in self.generations if generation.refused is not None)


@dataclass(slots=True)
class Models:
    """The study's models, one in memory at a time."""

    base: Path
    device: str | None = None
    elsewhere: bool = False
    """Whether batches are done by other processes: models are then only looked at, on the CPU."""
    _open: dict[str, LoadedModel] = field(default_factory=dict[str, LoadedModel])

    def get(self, spec: ModelSpec) -> LoadedModel:
        """A loaded model; the one before it is let go.

        Raises:
            StudyError: If it cannot be loaded.
        """
        key = spec.model_dump_json()
        if key not in self._open:
            self.close()
            self._open[key] = self._looked_at(spec) if self.elsewhere else open_model(spec, self.base, self.device)
        return self._open[key]

    def close(self) -> None:
        """Let go of the model in memory."""
        self._open.clear()

    def _looked_at(self, spec: ModelSpec) -> LoadedModel:
        """A model on the CPU, as the workers will have it on their devices."""
        loaded = open_model(spec.model_copy(update={"device": None}), self.base)
        meant = torch.device(spec.device or self.device or "cpu").type
        return replace(loaded, spec=spec, identity=loaded.identity | {"device": meant})


def make_plan(spec: Spec, prompts: Sequence[Prompt], models: Models, *, folders: Sequence[Path]) -> Plan:
    """Plan a study.

    Args:
        spec: What to do.
        prompts: Its prompts.
        models: Where to get its models; each is loaded once, for its tokenizer and its digests.
        folders: Where a user's modules are looked for.

    Raises:
        SpecError: If a measure cannot be found, or a layer or a head does not exist.
        StudyError: If a model cannot be loaded.
    """
    recipe = Recipe(spec, models.base.resolve(), tuple(folders), factor_types(prompts), torch.get_num_threads())
    measures = _measures(spec, folders)
    shared: dict[str, Any] = {
        "format": FORMAT,
        "layers": None if spec.layers is None else sorted(spec.layers),
        "keep": spec.keep.model_dump(mode="json"),
        "measures": [measure.ingredients for measure in measures],
        "threads": spec.threads,
        "versions": versions(),
        "factor_types": {name: str(kind) for name, kind in recipe.factors.items()},
    }
    generations: list[Generation] = []
    batches: list[Batch] = []
    identities: dict[str, dict[str, Any]] = {}
    settings = [setting for block, grid in enumerate(spec.decoding) for setting in grid.settings(block)]
    for place, model_spec in enumerate(spec.models):
        loaded = models.get(model_spec)
        _check_layers(spec, loaded)
        identities[model_spec.name] = loaded.identity
        counts = [loaded.count(prompt.text) for prompt in prompts]
        for setting in settings:
            for seed in spec.seeds:
                few = [
                    _generation(len(generations) + n, loaded, setting, seed, prompt, counts[n])
                    for n, prompt in enumerate(prompts)
                ]
                generations += few
                own = {"model": loaded.identity, "decoding": [setting.name, setting.arguments], "seed": seed}
                batches += _batches(len(batches), model_spec, setting, few, spec.batch_size, shared | own)
        if all(one.refused for one in generations[-len(prompts) :]):
            raise refuse(spec, f"no prompt fits {model_spec.name}: {generations[-1].refused}", "models", place)
    return Plan(recipe, prompts, generations, batches, identities, versions(), measures)


def versions() -> dict[str, str]:
    """Package → version, of everything that can change a row."""
    return {"gentrace": gentrace.__version__, **{name: version(name) for name in PACKAGES}}


def plan_table(plan: Plan) -> pa.Table:
    """A plan as a table, one row a generation, so that a reader needs no model to know it."""
    batch_of = {one.number: batch.hash for batch in plan.batches for one in batch.generations}
    rows = plan.generations
    columns: dict[str, Any] = {
        "number": pa.array([one.number for one in rows], pa.int64()),
        "generation": pa.array([one.whose.generation for one in rows], pa.string()),
        "model": pa.array([one.whose.model for one in rows], pa.string()),
        "decoding": pa.array([one.whose.decoding for one in rows], pa.string()),
        "seed": pa.array([one.whose.seed for one in rows], pa.int64()),
        "prompt": pa.array([one.prompt.index for one in rows], pa.int64()),
        "prompt_id": pa.array([one.prompt.id for one in rows], pa.string()),
        "prompt_tokens": pa.array([one.prompt_tokens for one in rows], pa.int32()),
        "batch": pa.array([batch_of.get(one.number) for one in rows], pa.string()),
        "refused": pa.array([one.refused for one in rows], pa.string()),
    }
    return pa.table(columns)


def digest(value: Any) -> str:
    """SHA-256 of a JSON value, whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def draw_seed(seed: int, prompt_id: str) -> int:
    """The seed of one generation's random draws: the same for every model and setting, whatever the order."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{prompt_id}".encode()).digest()[:8], "big") >> 1


def host() -> dict[str, Any]:
    """Where a run takes place. Nothing here goes into a digest: results may be finished on another machine."""
    return {
        "machine": platform.machine(),
        "system": platform.system(),
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
    }


def _generation(
    number: int, loaded: LoadedModel, setting: Setting, seed: int, prompt: Prompt, tokens: int
) -> Generation:
    name = digest([loaded.spec.name, setting.name, seed, prompt.id])[:16]
    whose = Whose(name, loaded.spec.name, setting.name, seed, prompt.id, prompt.factors)
    new, context = setting.arguments["max_new_tokens"], loaded.context
    refused = None
    if not tokens:
        refused = "the prompt has no tokens"
    elif context is not None and tokens + new > context:
        refused = f"{tokens} tokens and {new} new ones are more than the model's context of {context}"
    return Generation(number, whose, prompt, tokens, draw_seed(seed, prompt.id), refused)


def _batches(
    first: int,
    model: ModelSpec,
    setting: Setting,
    generations: Sequence[Generation],
    size: int,
    ingredients: dict[str, Any],
) -> list[Batch]:
    """Batches of similar length, the longest first, so that what does not fit into memory shows at once."""
    able = [one for one in generations if one.refused is None]
    able.sort(key=lambda one: (-one.prompt_tokens, one.prompt.id))
    groups = [tuple(able[start : start + size]) for start in range(0, len(able), size)]
    made: list[Batch] = []
    for place, group in enumerate(groups):
        prompts = [[one.prompt.id, digest(one.prompt.text), one.prompt.factors] for one in group]
        own = ingredients | {"prompts": prompts}
        made.append(Batch(first + place, digest(own), model, setting, group, own))
    return made


def _measures(spec: Spec, folders: Sequence[Path]) -> list[ReadyMeasure]:
    found: list[ReadyMeasure] = []
    wrong: list[Problem] = []
    for place, one in enumerate(spec.measures):
        try:
            found += ready_measures([one], folders)
        except StudyError as error:
            wrong.append(Problem(spec.where("measures", place), str(error).rstrip(".")))
    if wrong:
        raise refuse_all(spec, wrong)
    return found


def _check_layers(spec: Spec, loaded: LoadedModel) -> None:
    count, name = loaded.layer_count, loaded.spec.name
    wrong = [
        Problem(spec.where("layers", place), f"{name} has layers 0 … {count - 1}, not {layer}")
        for place, layer in enumerate(spec.layers or ())
        if layer >= count
    ]
    heads = getattr(loaded.model.config.get_text_config(), "num_attention_heads", None)
    for place, (layer, head) in enumerate(spec.keep.heads):
        if not 0 <= layer < count or head < 0 or (isinstance(heads, int) and head >= heads):
            what = f"{name} has layers 0 … {count - 1} with heads 0 … {(heads or 0) - 1}, not [{layer}, {head}]"
            wrong.append(Problem(spec.where("keep", "heads", place), what))
    if wrong:
        raise refuse_all(spec, wrong)
