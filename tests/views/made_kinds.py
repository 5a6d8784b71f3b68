"""Traces made by hand of every kind of attention, beside those of `tests.views.made`."""

import math
from dataclasses import replace

import torch
from torch import Tensor

from gentrace.stitch.mask import VisibleKeys
from gentrace.trace.decoding import Beams, BeamStep, Draft
from gentrace.trace.info import Fidelity, Kind, LayerInfo, Meta
from gentrace.trace.store import MemoryStore
from gentrace.trace.tokens import Tokens
from gentrace.trace.trace import Trace
from tests.views.made import made_tokens

META = Meta("made by hand", "0" * 64, {}, "sdpa", "float32", {}, "2026-01-01T00:00:00+00:00")


def _mask(number: int, start: Tensor, stop: Tensor) -> dict[str, Tensor]:
    mask = VisibleKeys.from_runs(start, stop)
    return {f"masks.{number}.{part}": getattr(mask, part) for part in ("start", "stop", "rows", "bits")}


def _info(kind: Kind, heads: int, kv_heads: int, source: str = "interface") -> LayerInfo:
    return LayerInfo(0, "layers.0", kind, heads, kv_heads, 4, 0.5, None, None, None, source)


def _read_only(texts: list[str]) -> Tokens:
    return Tokens.unpredicted(torch.arange(len(texts)), tuple(texts), ("text",) * len(texts))


def translator() -> Trace:
    """An encoder-decoder: six tokens read, one given to the decoder, four written, with all three kinds."""
    generator = torch.Generator().manual_seed(1)
    steps, given = torch.arange(4), torch.zeros(6, dtype=torch.long)
    tensors = {
        **_mask(0, torch.zeros(4, dtype=torch.long), steps + 1),
        **_mask(1, torch.zeros(4, dtype=torch.long), torch.full((4,), 6)),
        **_mask(2, given, torch.full((6,), 6)),
    }
    for kind, queries, keys in (("self", 4, 4), ("cross", 4, 6), ("encoder", 6, 6)):
        tensors[f"layers.0.{kind}.queries"] = torch.randn(2, queries, 4, generator=generator)
        tensors[f"layers.0.{kind}.keys"] = torch.randn(2, keys, 4, generator=generator)
    infos = tuple(_info(kind, 2, 2) for kind in ("self", "cross", "encoder"))
    tokens, read = (
        made_tokens(["</s>", "der", " Hund", " <b>", "."], 1),
        _read_only([f"en{place}" for place in range(6)]),
    )
    masks: dict[tuple[int, Kind], int] = {(0, "self"): 0, (0, "cross"): 1, (0, "encoder"): 2}
    store = MemoryStore(tensors)
    return Trace(infos, 4, Fidelity({}, 1e-4), META, masks, store, lambda: tokens, 6, lambda: read)


def sentences() -> Trace:
    """An encoder of a sentence pair: "a b" and "c d e", every token seeing all."""
    generator = torch.Generator().manual_seed(2)
    tensors = _mask(0, torch.zeros(5, dtype=torch.long), torch.full((5,), 5))
    tensors["layers.0.self.queries"] = torch.randn(2, 5, 4, generator=generator)
    tensors["layers.0.self.keys"] = torch.randn(2, 5, 4, generator=generator)
    tensors["segments"] = torch.tensor([0, 0, 1, 1, 1])
    tokens = _read_only(list("abcde"))
    masks: dict[tuple[int, Kind], int] = {(0, "self"): 0}
    return Trace((_info("self", 2, 2),), 5, Fidelity({}, 1e-4), META, masks, MemoryStore(tensors), lambda: tokens)


def causal(heads: int = 4, kv_heads: int = 2, length: int = 6, *, scores_only: bool = False) -> Trace:
    """A decoder with grouped queries; or one of which only scores are known, which are query + key."""
    generator = torch.Generator().manual_seed(3)
    steps = torch.arange(length)
    tensors = _mask(0, torch.zeros(length, dtype=torch.long), steps + 1)
    if scores_only:
        scores = (steps[:, None] + steps).float().masked_fill(steps > steps[:, None], -torch.inf)
        tensors["layers.0.self.scores"] = scores.repeat(heads, 1, 1)
    else:
        tensors["layers.0.self.queries"] = torch.randn(heads, length, 4, generator=generator)
        tensors["layers.0.self.keys"] = torch.randn(kv_heads, length, 4, generator=generator)
    tokens = made_tokens([f"w{place}" for place in range(length + 1)], 3)
    info = _info("self", heads, kv_heads, "functional, scores only" if scores_only else "interface")
    masks: dict[tuple[int, Kind], int] = {(0, "self"): 0}
    return Trace((info,), length, Fidelity({}, 1e-4), META, masks, MemoryStore(tensors), lambda: tokens)


def by_hand(trace: Trace, head: int, kind: Kind = "self", *, is_causal: bool = False) -> tuple[Tensor, Tensor]:
    """Weights and scores of one head from the stored vectors, by the textbook, without `gentrace.stitch`."""
    queries, keys = (trace.store.tensor(f"layers.0.{kind}.{part}") for part in ("queries", "keys"))
    group = len(queries) // len(keys)
    scores = torch.einsum("qd,kd->qk", queries[head], keys[head // group]) * 0.5
    if is_causal:
        scores = scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), -torch.inf)
    powers = scores.exp()
    return powers / powers.sum(-1, keepdim=True), scores


def searched(trace: Trace) -> Trace:
    """A trace with a search of two beams over its last four tokens, whose branches end at different steps."""
    first, words = len(trace.tokens) - 4, trace.tokens.texts
    rows = [
        # At each step: the beam continued, the token, the summed score, the beam it goes on in, whether it ended.
        [(0, words[first], -1.0, 0, False), (0, " <i>loses", -2.0, 1, False), (0, " gone", -3.0, -1, False)],
        [(0, words[first + 1], -1.5, 0, False), (1, " late", -2.5, 1, False), (0, " gone", -4.0, -1, False)],
        [(0, words[first + 2], -1.75, 0, False), (0, " twin", -2.75, 1, False), (1, " gone", -5.0, -1, False)],
        [(1, " ends", -3.0, -1, True), (0, words[first + 3], -3.5, 0, False), (1, " gone", -6.0, -1, False)],
    ]
    steps = []
    for at, row in enumerate(rows):
        parents, texts, scores, beams, ended = zip(*row, strict=True)
        chosen = texts.index(words[first + at])
        logprobs = tuple(-0.25 * (rank + 1) for rank in range(3))
        steps.append(BeamStep(first + at, parents, (7, 8, 9), texts, scores, logprobs, beams, ended, chosen))
    return replace(trace, beams=Beams(2, tuple(steps)))


def drafted(trace: Trace) -> Trace:
    """A trace in which two drafts were rejected together, and one more two tokens later."""
    at = len(trace.tokens) - 4
    drafts = (
        Draft(at, 5, " <b>wrong", math.log(0.125)),
        Draft(at + 1, 6, " too", math.log(0.5), follows=True),
        Draft(at + 2, 5, "again", math.log(0.0625)),
    )
    return replace(trace, drafts=drafts)
