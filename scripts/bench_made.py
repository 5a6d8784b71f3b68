"""What the benches of pages share: traces that nobody recorded, and a browser that does nothing by itself."""

import torch

from gentrace.stitch.mask import VisibleKeys
from gentrace.trace.info import Fidelity, LayerFidelity, LayerInfo, Meta
from gentrace.trace.store import MemoryStore
from gentrace.trace.tokens import Tokens
from gentrace.trace.trace import Trace

DIM, PROMPT, ALTERNATIVES = 32, 32, 10
TEXT = "the fox,. and a little bear found old red key in garden who likes to explore her world! Maia"
FLAGS = [
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--disable-quic",
    "--disable-gpu",
]


def made_trace(length: int, layers: int, heads: int, sharpness: float) -> Trace:
    """A trace of ``length + 1`` tokens with random queries and keys and an attention sink, different in every layer.

    Args:
        length: Positions that were fed.
        layers: Layers.
        heads: Heads of each.
        sharpness: Factor on the queries: the larger, the less even attention is.
    """
    generator = torch.Generator().manual_seed(length)
    total = length + 1
    mask = VisibleKeys.from_runs(torch.zeros(length), torch.arange(1, total))
    tensors = {f"masks.0.{part}": getattr(mask, part) for part in ("start", "stop", "rows", "bits")}
    for layer in range(layers):
        queries = torch.randn(heads, length, DIM, generator=generator)
        keys = torch.randn(heads, length, DIM, generator=generator)
        queries[..., 0], keys[..., 0] = 4.0, 0.0
        keys[:, 0, 0] = 6.0
        tensors[f"layers.{layer}.self.queries"], tensors[f"layers.{layer}.self.keys"] = queries * sharpness, keys
    infos = tuple(
        LayerInfo(layer, f"layers.{layer}", "self", heads, heads, DIM, DIM**-0.5, None, None, None, "interface")
        for layer in range(layers)
    )
    fidelity = Fidelity({layer: LayerFidelity(0.0, (0,)) for layer in range(layers)}, 1e-4)
    meta = Meta("synthetic", "0" * 64, {}, "none", "float32", {}, "2026-01-01T00:00:00+00:00")
    masks = {(layer, "self"): 0 for layer in range(layers)}
    tokens = _tokens(total, generator)
    return Trace(infos, length, fidelity, meta, masks, MemoryStore(tensors), lambda: tokens)


def _tokens(total: int, generator: torch.Generator) -> Tokens:
    words = TEXT.split()
    ids = torch.randint(0, len(words), (total,), generator=generator)
    logprobs = torch.randn(total, 200, generator=generator).mul(3).log_softmax(-1).sort(-1, descending=True).values
    top_ids = torch.arange(ALTERNATIVES).add(100).repeat(total, 1)
    top_ids[:, 0] = ids
    sampled = logprobs[:, :ALTERNATIVES].mul(1.4).log_softmax(-1)
    texts = tuple(" " + words[index] for index in ids.tolist())
    return Tokens(
        ids=ids,
        texts=texts,
        prompt_length=PROMPT,
        logprobs=logprobs[:, 0],
        sampled_logprobs=sampled[:, 0],
        entropy=-logprobs[:, 0],
        rank=torch.zeros(total, dtype=torch.long),
        top_ids=top_ids,
        top_logprobs=logprobs[:, :ALTERNATIVES],
        top_sampled_logprobs=sampled,
        top_texts=tuple((text, *(f" {word}" for word in words[1:ALTERNATIVES])) for text in texts),
        kinds=("text",) * total,
    )
