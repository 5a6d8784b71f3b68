"""What was run, in words: the study's models, prompts, settings, counts, versions, and what failed."""

import json
from html import escape
from typing import Any

from gentrace.reports.tables import table
from gentrace.studies import Study

FAILURES = 200
"""Failures that a report lists."""
DIGITS = 12
"""Of a digest that is shown."""


def facts(study: Study) -> list[tuple[str, Any]]:
    """Names and values, in the order in which one asks."""
    manifest, spec = study.manifest, study.spec
    frame: Any = study.generations(["generation", "new_tokens", "prompt_tokens", "fidelity"])
    failed = study.failures()
    planned = int(manifest["generations"])
    settings = sorted({record.ingredients["decoding"][0] for record in study.records})
    shown = {
        name: f"{model['class']}, {model['dtype']}, {model['kernel']} on {model['device']}, weights "
        f"{str(model['weights'])[:DIGITS]}"
        for name, model in manifest["models"].items()
    }
    errors = frame["fidelity"].dropna()
    found: list[tuple[str, Any]] = [
        (
            "generations",
            f"{len(frame)} of {planned} finished" + ("" if study.complete else "; the study is not complete"),
        ),
        ("failures", f"{len(failed)}, listed below" if len(failed) else "none"),
        ("tokens", f"{int(frame['prompt_tokens'].sum())} given, {int(frame['new_tokens'].sum())} written"),
        *((f"model {name}", text) for name, text in shown.items()),
        ("prompts", len(study.prompts())),
        ("factors", ", ".join(study.factors) or "none"),
        ("decoding", "; ".join(settings)),
        ("seeds", ", ".join(map(str, spec.seeds))),
        ("layers", "all" if spec.layers is None else ", ".join(map(str, spec.layers))),
        ("measures", ", ".join(measure.column for measure in spec.measures) or "none"),
        ("batches", f"{len(study.records)}, of up to {spec.batch_size} prompts each"),
        ("fidelity", f"largest relative error {errors.max():.1e}" if len(errors) else "not checked"),
        ("versions", ", ".join(f"{name} {number}" for name, number in manifest["versions"].items())),
        ("machine", ", ".join(f"{name} {value}" for name, value in manifest["host"].items())),
        ("begun", manifest["time"]),
        ("plan", str(manifest["plan"])[:DIGITS]),
    ]
    return found


def specification(study: Study) -> str:
    """The whole specification, folded away; rows of prompts are left to the folder."""
    spec = json.loads(study.spec.model_dump_json(exclude_defaults=True))
    for name in ("rows", "texts"):
        many = spec.get("prompts", {}).get(name)
        if many and len(many) > 10:
            spec["prompts"][name] = [*many[:10], f"… {len(many) - 10} more"]
    text = json.dumps(spec, indent=2, ensure_ascii=False)
    return f"<details><summary>the specification</summary><pre>{escape(text)}</pre></details>"


def failures(study: Study) -> str:
    """A row for each thing that failed; nothing if all went well."""
    found = study.failures()
    if not len(found):
        return ""
    rows = [
        [escape(str(row[name])) for name in ("prompt", "model", "decoding", "seed", "stage", "error", "try")]
        for row in found.head(FAILURES).to_dict("records")
    ]
    caption = f"{len(rows)} of {len(found)}"
    return table(["prompt", "model", "decoding", "seed", "stage", "error", "try"], rows, caption=caption)
