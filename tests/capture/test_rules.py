"""Masks wait on the steady path before anybody looks at them; what they said when they were used is what counts."""

from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers.models.llama import modeling_llama

import gentrace
from gentrace.capture import rules
from gentrace.capture.kernels import place_with_mask
from gentrace.errors import CaptureError
from gentrace.stitch.plan import plan_landing
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


PROMPT = 9


@st.composite
def shown(draw: st.DrawFn) -> tuple[Tensor, int, int | None, bool]:
    """``[batch, row, key]`` what rows see, padding and window of keys, capacity, and whether masks are numbers."""
    batch, steps = draw(st.sampled_from([1, 3])), draw(st.integers(2, 9))
    window = draw(st.sampled_from([PROMPT + 20, 5, 12]))
    capacity = draw(st.sampled_from([None, PROMPT + 12])) if window > PROMPT + 12 else None
    key = torch.arange(PROMPT + steps)
    row = torch.arange(PROMPT - 1, PROMPT + steps)[:, None]
    padding = torch.tensor(draw(st.lists(st.integers(0, 4), min_size=batch, max_size=batch)))
    visible = (key <= row) & (key > row - window) & (key >= padding[:, None, None])
    for step, offset in draw(st.lists(st.tuples(st.integers(1, steps), st.integers(0, 4)), max_size=2)):
        place = PROMPT + step - 1 - offset
        visible[draw(st.integers(0, batch - 1)), step, place] ^= True
    return visible, window, capacity, draw(st.booleans())


@given(shown(), st.sampled_from([rules.WAITING_BYTES, 300]))
def test_what_masks_of_many_steps_say_is_in_their_fragments(
    case: tuple[Tensor, int, int | None, bool], most: int
) -> None:
    visible, window, capacity, numbers = case
    batch, rows, _ = visible.shape

    def mask_of(row: int) -> tuple[Tensor, int]:
        fed = PROMPT - 1 + row
        keys = capacity or min(fed + 1, window)
        seen = torch.zeros(batch, 1, 1, keys, dtype=torch.bool)
        count = min(fed + 1, keys)
        seen[:, 0, 0, :count] = visible[:, row, fed + 1 - count : fed + 1]
        if batch > 1 and bool((seen == seen[:1]).all()):
            # A mask may stand for all sequences.
            seen = seen[:1] if row % 2 else seen
        return torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min) if numbers else seen, keys

    mask, keys = mask_of(0)
    landing = plan_landing(fed=PROMPT - 1, queries=1, keys=keys, known=PROMPT - 1)
    with mock.patch.object(rules, "WAITING_BYTES", most):
        rule = rules.MaskRule(place_with_mask("eager", mask, keys, landing), "eager", keys, masked=True)
        for row in range(1, rows):
            assert rule.admit(*mask_of(row), PROMPT - 1 + row)
        found = torch.zeros_like(visible)
        for placed in rule.fragments(PROMPT - 1 + rows):
            place, said = placed.landing, placed.mask
            assert said.bias is None
            for query in range(place.queries):
                local, key = place.query_start + query - PROMPT + 1, torch.arange(place.key_start, place.key_stop)
                sees = (key >= said.start[:, query, None]) & (key < said.stop[:, query, None])
                if said.dense is not None:
                    sees = said.dense[:, query]
                found[:, local, place.key_start : place.key_stop] = sees
    assert found[:, 1:].equal(visible[:, 1:])


@pytest.mark.parametrize("cache", [None, "static"])
@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize("padding", [(0, 0, 0, 0), (0, 2, 1, 0)])
def test_masks_of_a_batch_are_compared_many_at_a_time(
    cache: str | None, kernel: str, padding: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[int] = []
    look: Any = rules.MaskRule._look_at  # pyright: ignore[reportPrivateUsage]

    def counted(self: Any, mask: Tensor, keys: int, fed: int) -> None:
        looked.append(fed)
        look(self, mask, keys, fed)

    monkeypatch.setattr(rules.MaskRule, "_look_at", counted)
    ids = prompt(LENGTH, batch=4)
    mask = (torch.arange(LENGTH) >= torch.tensor(padding)[:, None]).long()
    model: Any = tiny("llama", kernel)
    options = {} if cache is None else {"cache_implementation": cache}
    with gentrace.record(model) as recorder:
        model.generate(ids, attention_mask=mask, max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False, **options)
    # The first two tell whether others may wait. Where nothing has to be hidden, sdpa is given no mask.
    given = kernel == "eager" or cache is not None or any(padding)
    assert looked == ([LENGTH, LENGTH + 1] if given else [])
    assert [trace.length for trace in recorder.traces] == [LENGTH + NEW - 1 - hidden for hidden in padding]
