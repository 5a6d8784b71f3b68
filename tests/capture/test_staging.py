"""Rows of queries wait on the steady path before they are copied; what they were when they were used is what counts."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.models.llama import modeling_llama

import gentrace
from gentrace.capture import staging
from gentrace.errors import CaptureError
from tests.capture.test_generation import check
from tests.models import prompt, tiny

NEW = 40
LENGTH = 6
Turned = tuple[Tensor, Tensor]


@pytest.fixture
def change(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[int, Tensor], Tensor]], None]:
    """Lets a test change where the queries of single rows lie, given the number of the attention since the prompt."""

    def install(changed: Callable[[int, Tensor], Tensor]) -> None:
        turn: Any = modeling_llama.apply_rotary_pos_emb
        calls = [0]

        def call(query: Tensor, *args: Any, **options: Any) -> Turned:
            query, key = turn(query, *args, **options)
            if query.shape[2] == 1:
                query = changed(calls[0], query)
                calls[0] += 1
            return query, key

        monkeypatch.setattr(modeling_llama, "apply_rotary_pos_emb", call)

    return install


def record(model: Any, *, inference: bool = False) -> tuple[gentrace.Trace, Tensor]:
    with torch.inference_mode(inference), gentrace.record(model) as recorder:
        text = model.generate(prompt(LENGTH), max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False)
    return recorder.trace, text[0]


@pytest.mark.parametrize(
    ("most", "steps"), [(staging.WAITING_BYTES, [1, 1, 31, 6]), (12_000, [1, 1, 20, 11, 6]), (0, [1] * (NEW - 1))]
)
@pytest.mark.parametrize("inference", [False, True])
def test_any_number_of_steps_may_wait(
    most: int, steps: list[int], inference: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied: list[int] = []
    take = staging.Shelf.take

    def counted(self: staging.Shelf, rows: list[list[Tensor]], limit: int) -> None:
        copied.append(len(rows))
        take(self, rows, limit)

    monkeypatch.setattr(staging, "WAITING_BYTES", most)
    monkeypatch.setattr(staging.Shelf, "take", counted)
    model = tiny("llama")
    trace, text = record(model, inference=inference)
    check(trace, model, text.clone())
    # The first two tell whether others may wait. The 33rd is checked, so it is copied, and all before it. Of three
    # layers with four heads of 12 float32 numbers, 20 steps fit into 12,000 bytes.
    assert copied == ([1] * (NEW - 1) if inference else steps)


def test_queries_that_are_written_over_at_every_step(change: Any) -> None:
    memory: dict[int, Tensor] = {}
    model = tiny("llama")
    layers = model.config.num_hidden_layers
    change(lambda call, query: memory.setdefault(call % layers, torch.empty_like(query)).copy_(query))
    trace, text = record(model)
    assert len(memory) == layers
    check(trace, model, text)


def test_queries_that_are_written_over_later_are_an_error(change: Any) -> None:
    queries: dict[int, Tensor] = {}

    def late(call: int, query: Tensor) -> Tensor:
        queries[call] = query
        if call == 60:
            queries[44].zero_()
        return query

    change(late)
    with pytest.raises(CaptureError, match="written over queries"):
        record(tiny("llama"))
