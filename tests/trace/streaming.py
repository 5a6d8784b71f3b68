"""A trace made of numbers, and a way to stream it into a growing file in any splits and orders."""

import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gentrace.stitch.mask import VisibleKeys
from gentrace.trace.body import TOKEN_TENSORS, describe_start, describe_trace
from gentrace.trace.columns import Columns
from gentrace.trace.growing import GrowingFile
from gentrace.trace.info import Fidelity, Kind, LayerFidelity, LayerInfo, Meta, OtherLayer
from gentrace.trace.store import MemoryStore
from gentrace.trace.tokens import Tokens
from gentrace.trace.trace import Trace

Runs = list[list[int | None]]
META = Meta("made", "0" * 64, {"do_sample": True}, "sdpa", "float32", {"torch": "2"}, "2026-01-01T00:00:00+00:00")


def info(index: int, kind: Kind = "self", dim: int = 8, source: str = "interface") -> LayerInfo:
    """A layer of 4 query heads and 2 key heads."""
    return LayerInfo(index, f"model.{index}.{kind}", kind, 4, 2, dim, 0.5, None, None, None, source)


def words(count: int, prompt: int, k: int = 3) -> Tokens:
    """Tokens with every field filled, and unknown where a recording leaves them so."""
    ids = torch.randint(3, 90, (count,))
    top_ids = torch.randint(3, 90, (count, k))
    logprobs, sampled = -torch.rand(count), -torch.rand(count)
    logprobs[0], sampled[:prompt], top_ids[0] = torch.nan, torch.nan, -1
    return Tokens(
        ids=ids,
        texts=tuple(f" w{token}é" for token in ids.tolist()),
        prompt_length=prompt,
        logprobs=logprobs,
        sampled_logprobs=sampled,
        entropy=torch.rand(count),
        rank=torch.randint(-1, 5, (count,)),
        top_ids=top_ids,
        top_logprobs=-torch.rand(count, k),
        top_sampled_logprobs=torch.full((count, k), -torch.inf),
        top_texts=tuple(tuple(f"<{token}>" for token in row if token >= 0) for row in top_ids.tolist()),
        kinds=("text",) * count,
    )


def made(length: int = 21, encoder: int = 0, dtype: torch.dtype = torch.float32, seed: int = 0) -> Trace:
    """A trace with a plain layer, one of which only scores were seen, and cross-attention if there is an encoder."""
    torch.manual_seed(seed)
    tensors: dict[str, Tensor] = {}
    holey = torch.ones(length, length).tril().bool() & (torch.rand(length, length) > 0.4)
    position = torch.arange(length)
    masks = [VisibleKeys.from_runs(torch.zeros(length), position + 1), VisibleKeys.from_dense(holey)]
    layers, used = [info(0), info(2, dim=0, source="functional, scores only")], {(0, "self"): 0, (2, "self"): 1}
    tensors["layers.2.self.scores"] = torch.randn(4, length, length).masked_fill(~holey, -torch.inf)
    if encoder:
        layers += [info(0, "cross"), info(0, "encoder")]
        used |= {(0, "cross"): 2, (0, "encoder"): 3}
        masks += [VisibleKeys.from_runs(torch.zeros(rows), torch.full((rows,), encoder)) for rows in (length, encoder)]
    for layer in (layer for layer in layers if layer.head_dim):
        rows = encoder if layer.kind == "encoder" else length
        keys = length if layer.kind == "self" else encoder
        prefix = f"layers.{layer.index}.{layer.kind}"
        tensors[f"{prefix}.queries"] = torch.randn(4, rows, 8).to(dtype)
        tensors[f"{prefix}.keys"] = torch.randn(2, keys, 8).to(dtype)
        tensors[f"{prefix}.values"] = torch.randn(2, keys, 6).to(dtype)
    tensors["layers.0.self.bias"] = torch.randn(1, length, length)
    for number, mask in enumerate(masks):
        tensors |= {f"masks.{number}.{part}": getattr(mask, part) for part in ("start", "stop", "rows", "bits")}
    tokens = words(length + 1, 5)
    source = Tokens.unpredicted(torch.randint(3, 90, (encoder,)), ("x",) * encoder, ("text",) * encoder)
    checked = LayerFidelity(1e-7, (0, 3))
    return Trace(
        tuple(layers),
        length,
        Fidelity({0: checked}, 1e-4, {0: checked} if encoder else {}),
        META,
        used,
        MemoryStore(tensors),
        lambda: tokens,
        encoder_length=encoder,
        read_encoder_tokens=(lambda: source) if encoder else None,
        other_layers=(OtherLayer(1, "model.1", "mamba"),),
    )


def tensors_of(trace: Trace) -> dict[str, Tensor]:
    """All tensors of a trace, its tokens' as well."""
    found = {name: trace.store.tensor(name) for name in trace.store.names()}
    found |= {f"tokens.{name}": getattr(trace.tokens, name) for name in TOKEN_TENSORS}
    return found | ({} if trace.encoder_tokens is None else {"encoder.ids": trace.encoder_tokens.ids})


def axes_of(name: str) -> tuple[str, ...]:
    """Which axes of a tensor grow: (rows,) or (rows, keys)."""
    parts = name.split(".")
    if parts[0] != "layers":
        return ("encoder",) if parts[0] == "encoder" or name.startswith("masks.3") else ("position",)
    rows = "encoder" if parts[2] == "encoder" else "position"
    keys = "position" if parts[2] == "self" else "encoder"
    return {"queries": (rows,), "keys": (keys,), "values": (keys,)}.get(parts[3], (rows, keys))


class Stream:
    """Writes a trace into a growing file."""

    def __init__(self, trace: Trace, path: Path, runs: Runs, encoder_runs: Runs, capacity: int, seed: int) -> None:
        self.trace, self.random = trace, random.Random(seed)
        self.places = {
            axis: [column for run in Columns.of(given).first(count) for column in range(*run)]
            for axis, given, count in (
                ("position", runs, len(trace.tokens)),
                ("encoder", encoder_runs, trace.encoder_length),
            )
        }
        self.body: dict[str, Any] = describe_trace(trace) | {"columns": runs, "encoder_columns": encoder_runs}
        self.tensors = tensors_of(trace)
        self.file = GrowingFile(path, capacity, encoder_capacity=trace.encoder_length and capacity)
        for name, tensor in self.tensors.items():
            if not name.endswith((".rows", ".bits")):
                sizes = list(tensor.shape)
                for place, axis in enumerate(axes_of(name), 1 if name.startswith("layers.") else 0):
                    sizes[place] = axis
                self.file.allocate(name, tensor.dtype, tuple(sizes))

    def write(self, first: int, stop: int, *, axis: str = "position") -> None:
        """Write the rows of positions ``first`` to ``stop``, all tensors in a random order, some twice."""
        chosen = [name for name in self.tensors if not name.endswith((".rows", ".bits")) and axes_of(name)[0] == axis]
        for name in self.random.sample(chosen, len(chosen)):
            for start, end in self.splits(first, min(stop, self.count(name, axis))):
                if self.random.random() < 0.3:
                    self.put(name, start, end, noise=True)
                self.put(name, start, end)

    def count(self, name: str, axis: str) -> int:
        """Positions that a tensor has."""
        return self.tensors[name].shape[1 if name.startswith("layers.") else 0]

    def splits(self, first: int, stop: int) -> list[tuple[int, int]]:
        """Random pieces in a random order."""
        edges = sorted({first, stop, *(self.random.randint(first, max(first, stop)) for _ in range(3))})
        pieces = [(start, end) for start, end in pairwise(edges) if start < end]
        return self.random.sample(pieces, len(pieces))

    def put(self, name: str, start: int, stop: int, *, noise: bool = False) -> None:
        """Write some rows at their columns, each unbroken run at once; padding inside is left alone."""
        axes, tensor = axes_of(name), self.tensors[name]
        columns = self.places[axes[0]]
        pieces = [start]
        pieces += [place for place in range(start + 1, stop) if columns[place] != columns[place - 1] + 1]
        for first, last in zip(pieces, [*pieces[1:], stop], strict=True):
            rows = tensor[:, first:last] if name.startswith("layers.") else tensor[first:last]
            if name.startswith("masks."):
                rows = self.edges(rows, int(name.split(".")[1]), name.endswith("stop"))
            key_start = 0
            if len(axes) > 1:
                rows, key_start = self.in_columns(rows, axes[1], name)
            if noise:
                rows = torch.full_like(rows, 7)
            self.file.write(name, columns[first], rows, key_start=key_start)

    def edges(self, rows: Tensor, mask: int, is_stop: bool) -> Tensor:
        """Positions as columns."""
        columns = self.places["encoder" if mask > 1 else "position"]
        before = [columns[0], *(column + 1 for column in columns)]
        found = [edge if edge < 0 else before[edge] if is_stop else columns[edge] for edge in rows.tolist()]
        return torch.tensor(found, dtype=rows.dtype)

    def in_columns(self, rows: Tensor, axis: str, name: str) -> tuple[Tensor, int]:
        """A matrix's rows with padding between their keys, cut where nothing follows, and their first key's column."""
        columns = torch.tensor(self.places[axis])[: rows.shape[-1]]
        wide = torch.full((*rows.shape[:-1], int(columns[-1]) + 1), 99.0)
        wide[..., columns] = rows
        outside = -torch.inf if name.endswith("scores") else 0.0
        used = ((wide != outside) & (wide != 99)).flatten(0, 1).any(0).nonzero().flatten().tolist()
        first, last = (used[0], used[-1]) if used else (0, 0)
        return wide[..., first : last + 1], first

    def seal(self) -> None:
        """Seal with what is known after a first forward."""
        trace, columns = self.trace, (self.body["columns"], self.body["encoder_columns"])
        self.file.seal(describe_start(trace.layers, trace.masks, trace.meta, trace.tokens.prompt_length, *columns))

    def close(self, *, sums: bool = False) -> None:
        """Add what does not grow, and close."""
        for name, tensor in self.tensors.items():
            # A mask without rows of its own need not be written.
            left_out = tensor.shape.count(0) == tensor.dim() and self.random.random() < 0.5
            if name.endswith((".rows", ".bits")) and not left_out:
                self.file.add(name, tensor)
        self.file.close(self.body, sums=sums)
