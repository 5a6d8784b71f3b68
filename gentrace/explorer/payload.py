"""What the plan says, read from the traces: plain data for the page's JSON, and packed numbers.

Layers are read one after the other and within them heads, so that no more than one matrix exists at a time.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from gentrace.axes import Matrix
from gentrace.explorer import codec
from gentrace.explorer.plan import LayerPlan, block_edges
from gentrace.trace import derive
from gentrace.trace.tokens import Tokens
from gentrace.trace.trace import Trace
from gentrace.views import theme
from gentrace.views.labels import label, running
from gentrace.views.timeline import FULL_ROWS, model_name


def payload(
    traces: Mapping[str, Trace], plans: Sequence[LayerPlan], title: str, link: Mapping[str, str] | None = None
) -> tuple[dict[str, Any], list[str]]:
    """Everything that the page shows.

    Args:
        traces: Finished traces by name.
        plans: What of them is shown.
        title: Title of the page.
        link: How the page asks for numbers (see `gentrace.explorer.answers`); None if they travel in it.

    Returns:
        Plain data ready for JSON, and the packed parts that it refers to by number: none where a link is given, and
        the numbers are then the places of the plans.
    """
    parts: list[str] = []
    shown = [_trace(trace, name) for name, trace in traces.items()]
    for number, one in enumerate(plans):
        trace = list(traces.values())[one.place]
        places = (number, {}) if link else _packed(trace, one, parts)
        shown[one.place]["layers"].append(_layer(trace, one, *places))
        stop = one.queries.stop if one.info.kind == "self" else 0
        shown[one.place]["stop"] = max(shown[one.place]["stop"], stop)
    for place, trace in enumerate(traces.values()):
        stop = shown[place].pop("stop") or trace.length
        shown[place]["text"] = _tokens(trace.tokens, stop + 1) | {"drafts": _drafts(trace)}
        encoder = trace.encoder_tokens
        shown[place]["source"] = None if encoder is None else _tokens(encoder, len(encoder))
    data = {
        "title": running(title),
        "link": link,
        "traces": shown,
        "low": codec.LOW,
        "error": codec.ERROR,
        "fullColour": FULL_ROWS,
        "themes": {"light": asdict(theme.LIGHT), "dark": asdict(theme.DARK)},
        "bytes": sum(one.size for one in plans),
    }
    return data, parts


def _trace(trace: Trace, name: str) -> dict[str, Any]:
    given = trace.tokens.prompt_length
    written = len(trace.tokens) - given
    read = f"{given} token{'s' * (given != 1)} given"
    facts = [f"{read}, {written} written" if written else read, trace.meta.kernel, trace.meta.dtype]
    error = trace.fidelity.error
    return {
        "name": running(name),
        "model": running(model_name(trace)),
        "facts": " · ".join(facts if trace.meta.complete else [*facts, "cut short"]),
        "fidelity": None if error != error else f"{error:.1e}",
        "segments": None if trace.segments is None else trace.segments.tolist(),
        "beams": _beams(trace),
        "layers": [],
        "stop": 0,
    }


def _beams(trace: Trace) -> dict[str, Any] | None:
    """The hypotheses of a beam search, step by step."""
    if trace.beams is None:
        return None
    steps = [
        {
            "position": step.position,
            "chosen": step.chosen,
            "candidates": [
                {
                    "parent": step.parents[at],
                    "label": label(text),
                    "score": _short(step.scores[at]),
                    "logprob": _short(step.logprobs[at]),
                    "beam": step.beams[at],
                    "ended": step.ended[at],
                }
                for at, text in enumerate(step.texts)
            ],
        }
        for step in trace.beams.steps
    ]
    return {"width": trace.beams.width, "steps": steps} if steps else None


def _drafts(trace: Trace) -> list[dict[str, Any]]:
    """Drafted tokens that the model rejected."""
    return [
        {
            "position": draft.position,
            "label": label(draft.text),
            "running": running(draft.text),
            "logprob": _short(draft.logprob),
        }
        for draft in trace.drafts
    ]


def _tokens(tokens: Tokens, stop: int) -> dict[str, Any]:
    """The text up to a position; words that come up again and again are written once."""
    words: dict[str, int] = {}
    count = min(stop, len(tokens))
    ids, top_ids = tokens.ids[:count].tolist(), tokens.top_ids[:count].tolist()
    top, sampled = tokens.top_logprobs[:count].exp().tolist(), tokens.top_sampled_logprobs[:count].exp().tolist()
    alternatives = [
        [
            [words.setdefault(label(text), len(words)), _short(top[at][k]), _short(sampled[at][k]), int(chosen)]
            for k, text in enumerate(tokens.top_texts[at])
            if top[at][k] == top[at][k]
            for chosen in [top_ids[at][k] == ids[at]]
        ]
        for at in range(count)
    ]
    return {
        "labels": [label(text) for text in tokens.texts[:count]],
        "running": [running(text) for text in tokens.texts[:count]],
        "promptLength": tokens.prompt_length,
        "logprobs": _numbers(tokens.logprobs[:count]),
        "sampled": _numbers(tokens.sampled_logprobs[:count].exp()),
        "entropy": _numbers(tokens.entropy[:count]),
        "rank": [None if rank < 0 else rank for rank in tokens.rank[:count].tolist()],
        "words": list(words),
        "alternatives": alternatives,
    }


def _numbers(values: Tensor) -> list[float | None]:
    return [_short(value) for value in values.tolist()]


def _short(value: float) -> float | None:
    """Five significant digits; None for what JSON has no word for."""
    return float(f"{value:.5g}") if abs(value) < float("inf") else None


def _packed(trace: Trace, one: LayerPlan, parts: list[str]) -> tuple[int, dict[str, int]]:
    """Where among the parts a layer's pictures have been put, and its exact heads."""
    parts.append(codec.pack(*_codes(trace, one)))
    place = len(parts) - 1
    exact: dict[str, int] = {}
    for head in one.exact:
        parts.append(codec.pack(*_vectors(trace, one, head)))
        exact[str(head)] = len(parts) - 1
    return place, exact


def _layer(trace: Trace, one: LayerPlan, place: int, exact: Mapping[str, int]) -> dict[str, Any]:
    info, rows = one.info, len(one.queries)
    return {
        "index": info.index,
        "kind": info.kind,
        "heads": list(one.heads),
        "queries": [one.queries.start, one.queries.stop],
        "keys": one.keys,
        "causal": one.causal,
        "whole": sorted(one.whole),
        "queryEdges": [one.queries.start + edge for edge in block_edges(rows, one.pool)] if one.pool else None,
        "keyEdges": block_edges(one.keys, one.pool) if one.pool else None,
        "square": one.square,
        "part": place,
        "exact": dict(exact),
        "dim": 0 if derive.has(trace, info, "scores") else info.head_dim,
        "scale": info.scale,
        "softcap": info.softcap,
        "sinks": None if info.sinks is None else list(info.sinks),
        "finished": one.finished,
        "window": info.window,
    }


def _codes(trace: Trace, one: LayerPlan) -> Iterator[Tensor]:
    """Whole heads' cells, then the others' blocks."""
    for whole in (True, False):
        yield from (head_codes(trace, one, head) for head in one.heads if (head in one.whole) == whole)


def head_codes(trace: Trace, one: LayerPlan, head: int) -> Tensor:
    """The bytes of one head's picture: its cells if it travels whole, else its blocks; a triangle's lower part."""
    if head in one.whole:
        codes = codec.quantise(_weights(trace, one, head))
        return codec.lower(codes, one.queries.start) if one.causal else codes
    codes = codec.quantise(_blocks(trace, one, head))
    return codec.lower(codes, 0) if one.square else codes


def _weights(trace: Trace, one: LayerPlan, head: int) -> Matrix:
    return trace.attention(one.info.index, head, kind=one.info.kind, queries=one.queries, keys=range(one.keys))


def _blocks(trace: Trace, one: LayerPlan, head: int) -> Matrix:
    """One head's largest weights by block."""
    assert one.pool is not None
    if (len(one.queries), one.keys) == trace.counts(one.info):
        return trace.overview(one.info.index, head, one.pool, kind=one.info.kind).values
    rows, columns = block_edges(len(one.queries), one.pool), block_edges(one.keys, one.pool)
    by_row = []
    for start, stop in pairwise(rows):
        shown = range(one.queries.start + start, one.queries.start + stop)
        window = trace.attention(one.info.index, head, kind=one.info.kind, queries=shown, keys=range(one.keys))
        seen = window[~window.isnan().any(-1)]
        by_row.append(seen.amax(0) if len(seen) else window[0])
    pooled = [torch.stack(by_row)[:, a:b].amax(-1) for a, b in pairwise(columns)]
    return torch.stack(pooled, -1)


def _vectors(trace: Trace, one: LayerPlan, head: int) -> Iterator[Tensor]:
    """Queries, keys, first and one past the last visible key of each row and, if needed, scores of one head."""
    info, rows = one.info, slice(one.queries.start, one.queries.stop)
    if not derive.has(trace, info, "scores"):
        kv_head = head * info.kv_heads // info.heads
        yield trace.queries(info.index, kind=info.kind)[head, rows].float()
        yield trace.keys(info.index, kind=info.kind)[kv_head, : one.keys].float()
    visible = derive.visible_keys(trace, info)
    yield visible.start[rows].to(torch.int32)
    yield visible.stop[rows].to(torch.int32)
    if one.finished:
        yield trace.scores(info.index, head, kind=info.kind, queries=one.queries, keys=range(one.keys))
