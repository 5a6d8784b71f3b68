"""A study of millions of rows in the study's own format, without a model: only what a reader needs is there."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from gentrace.studies.folder import Folder, Record
from gentrace.studies.tables import schema_of
from tests.studies.made import made_spec

LAYERS, HEADS, MEASURE = 16, 16, "attention_entropy"
TOKENS = 20
SETTINGS = ("greedy", "sample")


def value_of(generation: np.ndarray, layer: np.ndarray, head: np.ndarray) -> np.ndarray:
    """What a head did, so that any mean can be worked out without reading a table."""
    return 1 + ((generation * 7 + layer * 3 + head) % 11) / 10 + layer / 100


def write_big_study(root: Path, parts: int, generations: int, prompts: int) -> None:
    """Write ``parts`` of ``generations`` each, all heads of each; every prompt stands in many of them.

    Args:
        root: A new folder.
        parts: How many; the first half is greedy, the rest sampled.
        generations: In each part.
        prompts: How many prompts there are.
    """
    folder = Folder(root)
    folder.make()
    factors = {"size": pa.int64()}
    plan: dict[str, list[Any]] = {
        name: []
        for name in ("number", "generation", "model", "decoding", "seed", "prompt", "prompt_id", "prompt_tokens",
                     "batch", "refused")
    }  # fmt: skip
    for part in range(parts):
        numbers = np.arange(part * generations, (part + 1) * generations)
        setting, digest = SETTINGS[part >= parts // 2], f"{part:032x}" * 2
        prompt = numbers % prompts
        whose = {
            "generation": [f"{number:016x}" for number in numbers],
            "model": ["story"] * generations,
            "decoding": [setting] * generations,
            "seed": [0] * generations,
            "prompt_id": [f"prompt {one}" for one in prompt],
        }
        own = whose | {"number": numbers, "prompt": prompt, "prompt_tokens": [5] * generations}
        for name, values in (own | {"batch": [digest] * generations, "refused": [None] * generations}).items():
            plan[name] += list(values)
        cells = LAYERS * HEADS
        place, times = np.tile(np.arange(cells), generations), np.repeat(np.arange(generations), cells)
        step, steps = np.tile(np.arange(TOKENS), generations), np.repeat(np.arange(generations), TOKENS)
        tables: dict[str, dict[str, Any]] = {
            "heads": {name: pa.array(values).take(pa.array(times)) for name, values in whose.items()}
            | {"size": (prompt % 3)[times], "layer": place // HEADS, "head": place % HEADS}
            | {MEASURE: value_of(numbers[times], place // HEADS, place % HEADS)},
            "tokens": {name: pa.array(values).take(pa.array(steps)) for name, values in whose.items()}
            | {"position": 5 + step, "generated": np.ones(len(step), dtype=bool), "entropy": step / TOKENS},
            "generations": whose | {"size": prompt % 3, "prompt_tokens": [5] * generations},
        }
        files = [
            folder.stage_table(kind, digest, _table(values, schema_of(kind, factors) | more))
            for kind, values, more in (
                ("heads", tables["heads"], {MEASURE: pa.float64()}),
                ("tokens", tables["tokens"], {}),
                ("generations", tables["generations"], {}),
            )
        ]
        ingredients = {"decoding": [setting, {}], "model": {"name": "story"}, "seed": 0}
        folder.commit(Record(digest, ingredients, tuple(files), 0, 1, 0, None, 0.0, {}, ""))
    spec = made_spec(measures=[MEASURE]).model_dump(mode="json")
    manifest = {"name": "big", "spec": spec, "factors": {"size": "int64"}, "generations": parts * generations}
    manifest |= {"plan": "0" * 64, "models": {"story": {}}, "versions": {}, "host": {}, "code": [], "time": ""}
    listed = {"prompt_id": [f"prompt {one}" for one in range(prompts)], "text": ["Once"] * prompts}
    folder.begin(manifest, {"plan": pa.table(plan), "prompts": pa.table(listed)}, {})


def _table(values: dict[str, Any], types: dict[str, pa.DataType]) -> pa.Table:
    count = len(next(iter(values.values())))
    columns = {
        name: pa.array(values[name], kind) if name in values and not isinstance(values[name], pa.Array)
        else values.get(name, pa.nulls(count, kind))
        for name, kind in types.items()
    }  # fmt: skip
    return pa.table(columns, schema=pa.schema(list(types.items())))
