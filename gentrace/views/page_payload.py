"""What a replay page is given: a JSON object of what is said, and one block of numbers."""

import base64
from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any, TypeAlias

import torch

from gentrace.trace.info import Kind, LayerInfo
from gentrace.trace.trace import Trace
from gentrace.views import theme
from gentrace.views.genealogy import Hypothesis, genealogy
from gentrace.views.labels import running
from gentrace.views.timeline import FULL_ROWS, LOG_FLOOR, Panel, Step, Timeline, key_count, panel

Chosen: TypeAlias = Sequence[tuple[LayerInfo, tuple[int, ...]]]
"""Layers, each with the heads of it that are shown."""

PRECISION = "Numbers in this page: weights to 0.4 %, scores to 0.004 where the weight is above 1e-6; coarser below."


def cells(trace: Trace, rows: range, kind: Kind) -> int:
    """Cells of these rows: of the lower triangle in self-attention, of all the encoder's keys in cross-attention."""
    if kind == "self":
        return (rows.stop * (rows.stop + 1) - rows.start * (rows.start + 1)) // 2
    return len(rows) * key_count(trace, rows, kind)


def payload(trace: Trace, line: Timeline, chosen: Chosen, *, beams: bool) -> dict[str, Any]:
    """Everything but the matrices, ready for JSON."""
    meta, generated = trace.meta, len(line.labels) - line.prompt_length
    facts = [f"{line.prompt_length} tokens given, {generated} written", meta.kernel, meta.dtype]
    heads = [{"layer": info.index, "head": head, "kind": info.kind} for info, own in chosen for head in own]
    return {
        "model": line.model,
        "facts": " · ".join(facts if meta.complete else [*facts, "cut short"]),
        "labels": line.labels,
        "running": line.running,
        "probabilities": [_short(value) for value in line.probabilities],
        "promptLength": line.prompt_length,
        "rows": [line.rows.start, line.rows.stop],
        "start": line.start,
        "hasSampled": line.has_sampled,
        "steps": [_step(step) for step in line.steps],
        "source": _source(trace, line),
        "tree": _tree(trace, line) if beams and trace.beams is not None and trace.beams.steps else None,
        "heads": heads,
        "fullColour": FULL_ROWS,
        "logFloor": LOG_FLOOR,
        "precision": PRECISION,
        "themes": {"light": asdict(theme.LIGHT), "dark": asdict(theme.DARK)},
    }


def matrices(trace: Trace, chosen: Chosen, rows: range) -> str:
    """All heads' row denominators (float32), then all heads' cells (float16), in base64; little-endian."""
    denominators, codes = [], []
    for info, own in chosen:
        for head in own:
            denominator, numbers = _encode(panel(trace, info.index, head, rows, info.kind), rows)
            denominators.append(denominator)
            codes.append(numbers)
    return base64.b64encode(b"".join(denominators + codes)).decode()


def _step(step: Step) -> dict[str, Any]:
    said = {
        "query": step.query,
        "predicts": step.predicts,
        "probability": _short(step.probability),
        "logprob": _short(step.logprob),
        "sampled": _short(step.sampled),
        "rank": step.rank,
        "alternatives": [
            {
                "label": one.label,
                "probability": _short(one.probability),
                "sampled": _short(one.sampled),
                "chosen": one.chosen,
            }
            for one in step.alternatives
        ],
    }
    ghosts = [
        {"position": one.position, "label": one.label, "probability": _short(one.probability)} for one in step.ghosts
    ]
    return said | ({"ghosts": ghosts} if ghosts else {})


def _source(trace: Trace, line: Timeline) -> dict[str, Any] | None:
    """What the encoder read; without flowing text if that was not text."""
    if not line.encoder:
        return None
    read = trace.encoder_tokens
    if read is None:
        return {"labels": line.encoder, "running": None}
    known = (read.ids >= 0).tolist()
    texts = [running(read.texts[at]) if known[at] else name for at, name in enumerate(line.encoder)]
    return {"labels": line.encoder, "running": texts}


def _tree(trace: Trace, line: Timeline) -> dict[str, Any]:
    """A beam search, its hypotheses column by column."""
    tree = genealogy(trace)
    start = tree.positions.start
    columns = {
        one.name: [_tidy(getattr(hypothesis, one.name)) for hypothesis in tree.hypotheses] for one in fields(Hypothesis)
    }
    return {
        "width": tree.width,
        "candidates": tree.candidates,
        "start": start,
        "root": line.labels[start - 1],
        "hypotheses": columns,
    }


def _tidy(value: Any) -> Any:
    return _short(value) if isinstance(value, float) else value


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")


def _encode(one: Panel, rows: range) -> tuple[bytes, bytes]:
    """A head's rows as log-denominators, and its cells as log-weights: score = log-weight + denominator."""
    best = one.scores.nan_to_num(nan=-torch.inf).argmax(-1, keepdim=True)
    denominator = (one.scores.gather(-1, best) - one.weights.gather(-1, best).log())[:, 0]
    # A row that sees nothing has no denominator; its weights are 0 and its scores −inf whatever stands here.
    denominator = denominator.where(one.scores.gather(-1, best)[:, 0] != -torch.inf, 0.0)
    logs = one.scores - denominator[:, None]
    if one.kind == "self":
        logs = logs[torch.arange(rows.stop) <= torch.arange(rows.start, rows.stop)[:, None]]
    return denominator.numpy().astype("<f4").tobytes(), logs.numpy().astype("<f2").tobytes()
