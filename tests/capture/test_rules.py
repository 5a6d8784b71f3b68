"""Masks wait on the steady path before anybody looks at them; what they said when they were used is what counts."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.models.llama import modeling_llama

import gentrace
from gentrace.capture import rules
from gentrace.errors import CaptureError
from tests.models import prompt, tiny
from tests.oracle import distance, stitched

NEW = 14
LENGTH = 6


@pytest.fixture
def change(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[int, Tensor], Tensor]], None]:
    """Lets a test change the masks that a Llama makes, given the position of their last row."""

    def install(changed: Callable[[int, Tensor], Tensor]) -> None:
        make: Any = modeling_llama.create_causal_mask  # pyright: ignore[reportPrivateImportUsage]

        def call(*args: Any, **options: Any) -> Tensor:
            mask: Tensor = make(*args, **options)
            return changed(mask.shape[-1] - 1, mask)

        monkeypatch.setattr(modeling_llama, "create_causal_mask", call)

    return install


def uneven(position: int, mask: Tensor) -> Tensor:
    """Some steps hide a token in the middle, one weakens another."""
    mask = mask.clone()
    if position in (8, 9, 13):
        mask[..., -1, 2] = torch.finfo(mask.dtype).min
    if position in (11, 16):
        mask[..., -1, 1] = -1.5
    return mask


def in_one_buffer(position: int, mask: Tensor, buffer: Tensor = torch.zeros(1, 1, 1, 64)) -> Tensor:  # noqa: B008
    """The same, but each step's mask is written over the one before."""
    mask = uneven(position, mask)
    return mask if mask.shape[2] > 1 else buffer[..., : mask.shape[-1]].copy_(mask)


@pytest.mark.parametrize("changed", [uneven, in_one_buffer])
@pytest.mark.parametrize("most", [rules.WAITING_BYTES, 200])
def test_odd_masks_are_read_as_they_were(
    changed: Callable[[int, Tensor], Tensor], most: int, change: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules, "WAITING_BYTES", most)
    change(changed)
    ids = prompt(LENGTH)
    model: Any = tiny("llama", "eager")
    rows: list[Tensor] = []
    with gentrace.record(model) as recorder:
        recorder.watch(lambda glance: rows.append(glance.attention(1)))
        model.generate(ids, max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False)
    for layer, expected in enumerate(stitched(model, ids, NEW)):
        assert distance(recorder.trace.attention(layer), expected) < 1e-6
    assert all(layer.error < 1e-5 for layer in recorder.trace.fidelity.layers.values())
    assert len(rows) == NEW + 1
    whole = recorder.trace.attention(1)
    for position, row in zip(range(LENGTH - 1, LENGTH + NEW - 1), rows, strict=False):
        assert distance(row, whole[:, position, : position + 1]) < 1e-6


@pytest.mark.parametrize("changed", [uneven, in_one_buffer])
def test_without_somebody_who_watches(changed: Callable[[int, Tensor], Tensor], change: Any) -> None:
    change(changed)
    ids = prompt(LENGTH)
    model: Any = tiny("llama", "eager")
    with gentrace.record(model) as recorder:
        model.generate(ids, max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False)
    for layer, expected in enumerate(stitched(model, ids, NEW)):
        assert distance(recorder.trace.attention(layer), expected) < 1e-6


def test_a_mask_that_is_written_over_later_is_an_error(change: Any) -> None:
    masks: dict[int, Tensor] = {}

    def late(position: int, mask: Tensor) -> Tensor:
        masks[position] = mask.clone()
        if position == 12:
            masks[10][..., 3] = torch.finfo(mask.dtype).min
        return masks[position]

    change(late)
    model: Any = tiny("llama", "eager")
    with pytest.raises(CaptureError, match="position 10"), gentrace.record(model):
        model.generate(prompt(LENGTH), max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False)
