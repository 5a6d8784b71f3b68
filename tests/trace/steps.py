"""A small file that grows step by step, whose rows tell where they belong."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

import gentrace
from gentrace.trace.body import describe_start
from gentrace.trace.growing import GrowingFile
from tests.trace.streaming import META, info

LAYER = replace(info(0, dim=4), heads=2, kv_heads=2)
BODY = describe_start([LAYER], {(0, "self"): 0}, META, 4)


def same(found: Tensor, expected: Tensor) -> bool:
    """Equal to the bit, NaN included."""
    return (found.dtype, found.shape) == (expected.dtype, expected.shape) and (
        found.contiguous().flatten().view(torch.uint8).equal(expected.contiguous().flatten().view(torch.uint8))
    )


def keys(first: int, stop: int) -> Tensor:
    """``[head, row, dim]`` rows that tell where they belong."""
    return torch.arange(first, stop).float()[None, :, None] + torch.tensor([0.25, 0.5])[:, None, None].expand(2, 1, 4)


def start(file: GrowingFile, prompt: int) -> None:
    """Write a first forward and commit it."""
    for name in ("queries", "keys"):
        file.allocate(f"layers.0.self.{name}", torch.float32, (2, "position", 4))
    for name in ("start", "stop"):
        file.allocate(f"masks.0.{name}", torch.int32, ("position",))
    file.allocate("tokens.ids", torch.int64, ("position",))
    rows(file, 0, prompt)
    file.seal(BODY)
    file.commit(prompt)


def step(file: GrowingFile, position: int) -> None:
    """Write one row and commit it."""
    rows(file, position, position + 1)
    file.commit(position + 1)


def rows(file: GrowingFile, first: int, stop: int) -> None:
    """Write the rows ``first`` to ``stop`` of everything."""
    position = torch.arange(first, stop)
    for name in ("queries", "keys"):
        file.write(f"layers.0.self.{name}", first, keys(first, stop))
    file.write("masks.0.start", first, torch.zeros(stop - first, dtype=torch.int32))
    file.write("masks.0.stop", first, (position + 1).int())
    file.write("tokens.ids", first, position + 1)


def is_right(path: Path) -> int:
    """Load a file that `start` and `step` wrote, compare every row, and tell how many there are."""
    trace = gentrace.load(path)
    assert not trace.meta.complete
    for found in (trace.queries(0), trace.keys(0)):
        assert same(found, keys(0, trace.length))
    assert trace.tokens.ids.tolist() == list(range(1, trace.length + 1))
    assert trace.store.tensor("masks.0.stop").tolist() == list(range(1, trace.length + 1))
    return trace.length


def is_unsealed(path: Path) -> bool:
    """Whether loading says that there was nothing to read yet; any other error is one."""
    try:
        gentrace.load(path)
    except gentrace.TraceFormatError as error:
        if "before its first forward ended" not in str(error):
            raise
        return True
    return False
