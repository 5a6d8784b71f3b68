"""Traces whose attention is chosen, weight by weight."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gentrace.stitch.mask import VisibleKeys
from gentrace.trace.info import Fidelity, Kind, LayerFidelity, LayerInfo, Meta
from gentrace.trace.store import MemoryStore
from gentrace.trace.tokens import Tokens
from gentrace.trace.trace import Trace

META = Meta("made by hand", "0" * 64, {}, "eager", "float32", {}, "2026-01-01T00:00:00+00:00")


def made_tokens(
    total: int,
    prompt_length: int = 1,
    *,
    ids: Sequence[int] | None = None,
    texts: Sequence[str] | None = None,
    logprobs: Sequence[float] | None = None,
    entropy: Sequence[float] | None = None,
    rank: Sequence[int] | None = None,
) -> Tokens:
    """Tokens with the probabilities given; without any, none are known."""
    unknown = [float("nan")] * total
    words = tuple(texts) if texts is not None else tuple(f" w{place}" for place in range(total))
    return Tokens(
        ids=torch.tensor(ids if ids is not None else range(total)),
        texts=words,
        prompt_length=prompt_length,
        logprobs=torch.tensor(logprobs or unknown),
        sampled_logprobs=torch.tensor(logprobs or unknown) / 2,
        entropy=torch.tensor(entropy or unknown),
        rank=torch.tensor(rank or [-1] * total),
        top_ids=torch.zeros(total, 0, dtype=torch.int64),
        top_logprobs=torch.zeros(total, 0),
        top_sampled_logprobs=torch.zeros(total, 0),
        top_texts=((),) * total,
        kinds=("text",) * total,
    )


def made_trace(
    weights: Mapping[int, Any],
    tokens: Tokens | None = None,
    *,
    unseen: Sequence[int] = (),
    sinks: Mapping[int, Sequence[float]] | None = None,
    kind: Kind = "self",
    encoder_tokens: Tokens | None = None,
) -> Trace:
    """A trace that attends exactly so.

    Args:
        weights: For each layer ``[head, query, key]``, rows summing to 1, to 0 (sees nothing), or to 1 − the sink's.
        tokens: The text; one token more than rows if None.
        unseen: Rows that were never recorded.
        sinks: For each layer the share that each head's learned sink takes, the same in each row.
        kind: Which attention it is.
        encoder_tokens: The encoder's text.
    """
    squares = {layer: torch.as_tensor(one, dtype=torch.float64) for layer, one in weights.items()}
    rows, keys = next(iter(squares.values())).shape[1:]
    start, stop = torch.zeros(rows, dtype=torch.long), torch.full((rows,), keys)
    start[list(unseen)] = stop[list(unseen)] = -1
    mask = VisibleKeys.from_runs(start, stop)
    tensors: dict[str, Tensor] = {f"masks.0.{part}": getattr(mask, part) for part in ("start", "stop", "rows", "bits")}
    infos: list[LayerInfo] = []
    for layer, square in squares.items():
        taken = (sinks or {}).get(layer)
        logits = None if taken is None else tuple(torch.tensor(taken, dtype=torch.float64).log().tolist())
        tensors[f"layers.{layer}.{kind}.scores"] = square.log().float()
        heads = len(square)
        infos.append(LayerInfo(layer, f"l{layer}", kind, heads, heads, 0, 1.0, None, None, logits, "scores only"))
    text = tokens or made_tokens(rows + 1)
    return Trace(
        tuple(infos),
        rows if kind != "encoder" else 0,
        Fidelity({layer: LayerFidelity(0.0, ()) for layer in squares}, 1e-4),
        META,
        {(layer, kind): 0 for layer in squares},
        MemoryStore(tensors),
        lambda: text,
        0 if kind == "self" else keys,
        None if encoder_tokens is None else lambda: encoder_tokens,
    )


def vector_trace(
    queries: Tensor, keys: Tensor, values: Tensor | None = None, tokens: Tokens | None = None, layer: int = 0
) -> Trace:
    """A causal trace of queries ``[head, query, dim]``, keys and values ``[kv_head, key, dim]``."""
    heads, length, dim = queries.shape
    mask = VisibleKeys.from_runs(torch.zeros(length, dtype=torch.long), torch.arange(length) + 1)
    tensors = {f"masks.0.{part}": getattr(mask, part) for part in ("start", "stop", "rows", "bits")}
    tensors |= {f"layers.{layer}.self.queries": queries, f"layers.{layer}.self.keys": keys}
    if values is not None:
        tensors[f"layers.{layer}.self.values"] = values
    info = LayerInfo(layer, "l", "self", heads, len(keys), dim, 1.0, None, None, None, "interface")
    text = tokens or made_tokens(length + 1)
    fidelity = Fidelity({layer: LayerFidelity(0.0, ())}, 1e-4)
    return Trace((info,), length, fidelity, META, {(layer, "self"): 0}, MemoryStore(tensors), lambda: text)


def random_weights(heads: int, length: int, seed: int = 0, *, sharp: float = 1.0) -> Tensor:
    """Causal attention ``[head, query, key]`` of random scores."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(heads, length, length, generator=generator, dtype=torch.float64) * sharp
    hidden = torch.ones(length, length).triu(1).bool()
    return scores.masked_fill(hidden, -torch.inf).softmax(-1)
