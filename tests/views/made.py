"""Small traces made by hand, whose numbers can be worked out on paper."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gentrace.stitch.mask import VisibleKeys
from gentrace.trace.info import Fidelity, LayerFidelity, LayerInfo, Meta
from gentrace.trace.store import MemoryStore
from gentrace.trace.tokens import Tokens
from gentrace.trace.trace import Trace

HOSTILE = (
    "<s>",
    "<b>x</b>",
    "</script>",
    "&lt;",
    "\n",
    "\t",
    "😀",
    "",
    "\u200f",
    "\u202e",
    "\u200b",
    "<img src=x onerror=window.pwned=1>",
    "שלום",
    " the",
    " the",
    "]]>",
    "$payload",
    "<!--",
    "\ud800",
    "\u2028",
    "'\"`",
)
WORSE = (
    *HOSTILE,
    "\x00",
    "\x1b[31m",
    "\x9b",
    "\u2066",
    "e" + "\u0301" * 40,
    "</style><svg onload=window.pwned=1>",
    "</title><script>window.pwned=1</script>",
    "javascript:window.pwned=1",
    "${window.pwned=1}",
    "{{7*7}}",
    "https://example.com/",
    "<svg/onload=window.pwned=1>",
    "<a href='javascript:window.pwned=1'>x</a>",
    "__proto__",
    "constructor",
    "`;window.pwned=1;//",
    "%3Cscript%3E",
    "\ud83d",
    "\ude00",
    "\u2029",
    "\u202etxt.exe\u202c",
    "👨\u200d👩\u200d👧\u200d👦",
    "🏳\ufe0f\u200d🌈",
    "a\x00b",
    "o" + "\u0301\u0489" * 5000,
    "long" * 2500,
    "</script><img src=x onerror=window.pwned=1>",
    "$x$",
    "$",
    "%{x}",
    " " * 40,
    "日本語" * 20,
    "e\u0301\u0302",
)
"""These too, where a test does not count on how many there are."""


def made_tokens(
    texts: Sequence[str], prompt_length: int, k: int = 3, *, sampled: bool = True, chosen_rank: int = 0
) -> Tokens:
    """Tokens in which the distribution of entry t is (0.5, 0.25, 0.125, …) and the token that came has one rank."""
    total = len(texts)
    nan = torch.full((total,), torch.nan)
    top = torch.log(0.5 ** torch.arange(1, k + 1)).repeat(total, 1)
    top[0] = torch.nan
    logprobs = torch.full((total,), 0.5 ** (chosen_rank + 1)).log()
    logprobs[0] = torch.nan
    ids = torch.arange(total)
    top_ids = 1000 + torch.arange(k).repeat(total, 1)
    if chosen_rank < k:
        top_ids[:, chosen_rank] = ids
    top_sampled = torch.full((total, k), torch.nan)
    of_sampled = nan.clone()
    if sampled:
        # Only the two best survive, as under top_k=2: (2/3, 1/3, 0, …).
        top_sampled[prompt_length:] = torch.tensor([2 / 3, 1 / 3] + [0.0] * (k - 2)).log()
        of_sampled[prompt_length:] = top_sampled[prompt_length:, chosen_rank] if chosen_rank < k else torch.nan
    names = [[f"other{place}" for place in range(k)] for _ in texts]
    for place, text in enumerate(texts):
        if chosen_rank < k:
            names[place][chosen_rank] = text
    return Tokens(
        ids=ids,
        texts=tuple(texts),
        prompt_length=prompt_length,
        logprobs=logprobs,
        sampled_logprobs=of_sampled,
        entropy=nan,
        rank=torch.full((total,), chosen_rank).index_fill(0, torch.tensor([0]), -1),
        top_ids=top_ids,
        top_logprobs=top,
        top_sampled_logprobs=top_sampled,
        top_texts=tuple(tuple(row) if place else () for place, row in enumerate(names)),
        kinds=("text",) * total,
    )


def made_trace(
    queries: Tensor,
    keys: Tensor,
    tokens: Tokens,
    *,
    layers: Sequence[int] = (0,),
    unseen: int = 0,
    window: int | None = None,
) -> Trace:
    """A trace of given queries ``[head, query, dim]`` and keys ``[head, key, dim]``, the same in every layer.

    Layer l's queries are l + 1 times the given ones, so that layers can be told apart.
    """
    heads, length, dim = queries.shape
    rows = torch.arange(length)
    start = torch.zeros(length, dtype=torch.long) if window is None else (rows - window + 1).clamp(min=0)
    stop = rows + 1
    start[:unseen], stop[:unseen] = -1, -1
    mask = VisibleKeys.from_runs(start, stop)
    tensors = {f"masks.0.{part}": getattr(mask, part) for part in ("start", "stop", "rows", "bits")}
    for layer in layers:
        tensors[f"layers.{layer}.self.queries"] = queries * (layer + 1)
        tensors[f"layers.{layer}.self.keys"] = keys
    infos = tuple(
        LayerInfo(layer, f"layers.{layer}", "self", heads, heads, dim, 1.0, None, window, None, "interface")
        for layer in layers
    )
    fidelity = Fidelity({layer: LayerFidelity(0.0, (0,)) for layer in layers}, 1e-4)
    meta = Meta("made <by> hand", "0" * 64, {}, "sdpa", "float32", {}, "2026-01-01T00:00:00+00:00")
    masks = {(layer, "self"): 0 for layer in layers}
    return Trace(infos, length, fidelity, meta, masks, MemoryStore(tensors), lambda: tokens)


def random_trace(
    total: int, prompt_length: int, heads: int = 2, texts: Sequence[str] | None = None, **more: Any
) -> Trace:
    """A trace of ``total`` tokens with random queries and keys."""
    generator = torch.Generator().manual_seed(total)
    queries = torch.randn(heads, total - 1, 4, generator=generator) / 2
    keys = torch.randn(heads, total - 1, 4, generator=generator)
    words = texts or [f" word{place % 7}" for place in range(total)]
    return made_trace(queries, keys, made_tokens(words, prompt_length), **more)


def untouchable(trace: Trace) -> Trace:
    """The same trace with tensors that raise when they are read."""

    class Refusing(MemoryStore):
        def tensor(self, name: str) -> Tensor:
            raise AssertionError(f"{name} was read")

        def slab(self, name: str, index: int) -> Tensor:
            raise AssertionError(f"{name} was read")

    empty = Refusing({})
    return Trace(trace.layers, trace.length, trace.fidelity, trace.meta, trace.masks, empty, trace.read_tokens)
