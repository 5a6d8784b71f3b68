"""Memory: a recording grows by its data and by nothing else, and what is dropped is freed."""

import ctypes
import gc
import itertools
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig

import gentrace
from gentrace.capture.rows import BufferRows, StagedRows, copy_rows
from tests.capture.test_generation import check, own_text
from tests.models import COMMON, TYPES, prompt, tiny

NEW = 40
FUSED = ("gpt2",)


def resident() -> int:
    """Bytes of this process that are in memory, without those that the allocator only keeps for later."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def tensor_bytes() -> int:
    """Bytes of all tensors that Python knows of, shared storages once."""
    gc.collect()
    storages = {}
    for thing in gc.get_objects():
        if type(thing) is Tensor:
            storage = thing.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def write(model: torch.nn.Module, count: int) -> None:
    for index in range(count):
        model.generate(prompt(60, seed=index), max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False)


def data_of(traces: list[gentrace.Trace]) -> int:
    return sum(trace.store.tensor(name).nbytes for trace in traces for name in trace.store.names())


def test_a_hundred_generations_take_what_their_data_takes() -> None:
    config = LlamaConfig(**COMMON | {"hidden_size": 128, "num_attention_heads": 8, "num_key_value_heads": 8})
    model = AutoModelForCausalLM.from_config(config).eval()

    def generations(count: int) -> None:
        for index in range(count):
            model.generate(prompt(120, seed=index), max_new_tokens=8, min_new_tokens=8, do_sample=False)

    with gentrace.record(model) as recorder:
        # What the first ones take for good, such as the allocator's own pools, is not a matter of how many follow.
        generations(40)
        before = resident()
        generations(100)
        memory = resident() - before
    traces = recorder.traces
    assert len(traces) == 140
    # The prompt's hidden states wait for somebody to read the tokens.
    data = data_of(traces[40:]) + 100 * 120 * 128 * 4
    assert data > 40_000_000
    assert memory <= 1.3 * data


def test_logits_wait_for_one_generation_at_a_time() -> None:
    """The newest rows of logits are reduced when a trace is read, and before the next generation begins."""
    model = tiny("llama")
    vocab = model.config.vocab_size
    with gentrace.record(model) as recorder:
        held = []
        for seed in range(3):
            model.generate(prompt(9, seed=seed), max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False)
            held.append([len(run.unread) for run in recorder._tracker.runs])
    assert held == [[NEW], [0, NEW], [0, 0, NEW]]
    traces = recorder.traces
    assert all(not run.unread for run in recorder._tracker.runs)
    for trace in traces:
        assert not torch.isnan(trace.tokens.logprobs[-NEW:]).any()
    del traces, recorder
    gc.collect()
    shapes = [tuple(thing.shape) for thing in gc.get_objects() if type(thing) is Tensor and thing.dim() == 3]
    assert all(shape[-1] != vocab for shape in shapes)


def test_a_generation_leaves_few_objects() -> None:
    model = tiny("llama")
    with gentrace.record(model):
        write(model, 3)
        gc.collect()
        tracemalloc.start()
        write(model, 10)
        gc.collect()
        python = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
    # Objects for each layer and generation; tensors' contents are not counted here.
    assert python / 10 <= 60_000


def test_python_objects_do_not_grow_with_the_steps() -> None:
    model = tiny("llama")

    def taken(new: int) -> int:
        with gentrace.record(model):
            model.generate(prompt(8), max_new_tokens=new, min_new_tokens=new, do_sample=False)
            gc.collect()
            tracemalloc.start()
            model.generate(prompt(8), max_new_tokens=new, min_new_tokens=new, do_sample=False)
            gc.collect()
            size = tracemalloc.get_traced_memory()[0]
            tracemalloc.stop()
        return size

    # What is kept of a step beside tensors' contents: its id and its share of what is reduced together.
    assert (taken(116) - taken(20)) / 96 <= 1500


def test_dropping_a_trace_frees_it() -> None:
    model = tiny("llama")
    with gentrace.record(model) as recorder:
        write(model, 2)
    for trace in recorder.traces:
        _ = trace.tokens, trace.attention(0)
    del recorder, trace
    before = tensor_bytes()
    with gentrace.record(model) as recorder:
        write(model, 10)
    traces = recorder.traces
    for trace in traces:
        _ = trace.tokens
    assert tensor_bytes() - before >= data_of(traces)
    del recorder, trace
    held = tensor_bytes()
    dropped = data_of(traces[:5])
    del traces[:5]
    assert held - tensor_bytes() >= dropped
    del traces
    assert tensor_bytes() <= before


def test_the_cache_is_not_kept() -> None:
    model = tiny("llama")
    before = tensor_bytes()
    with gentrace.record(model, layers=[]):
        model.generate(prompt(60), max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False)
        kept = tensor_bytes() - before
    cache = 3 * 2 * (60 + NEW) * 2 * 12 * 4
    assert kept < cache
    with gentrace.record(model) as recorder:
        model.generate(prompt(60), max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False)
        (run,) = recorder._tracker.runs
        assert all(layer.followed is None and not layer.held_queries for layer in run.layers.values())
        assert run.scratch is None


class Slow:
    """A courier whose blocks arrive when somebody waits, and hold nothing before."""

    def __init__(self) -> None:
        self.sent: list[tuple[Tensor, Tensor]] = []
        self.waits = 0

    def send(self, block: Tensor) -> Tensor:
        assert block.is_contiguous()
        target = torch.full_like(block, torch.nan)
        self.sent.append((block, target))
        return target

    def wait(self) -> None:
        self.waits += 1
        for block, target in self.sent:
            target.copy_(block)


def test_staged_rows_are_those_of_a_buffer() -> None:
    """Blocks on their way off a device come together as if they had been written to one buffer."""
    torch.manual_seed(0)
    whole = torch.randn(2, 3, 40, 5)
    courier, charged = Slow(), []
    staged = StagedRows(whole, charged.append, courier)
    buffer = BufferRows(whole, 4, charged.append)
    # The third is a draft that the fourth replaces.
    for start, stop, change in ((0, 17, 0.0), (17, 18, 0.0), (18, 25, 9.0), (18, 40, 0.0)):
        fragment = whole[:, :, start:stop].clone() + change
        for rows in (staged, buffer):
            rows.write(fragment, start, 100)
        newest = staged.between(stop - 1, stop)
        assert newest is not None
        assert newest.equal(fragment[:, :, -1:])
        # A compiled graph writes its next results over this.
        fragment.fill_(-1.0)
    assert staged.between(0, 40) is None
    assert not courier.waits
    staged.settle()
    assert courier.waits == 1
    slots, columns = torch.tensor([0, 1, 1, 0]), torch.tensor([3, 39, 18, 20])
    for rows in (staged, buffer):
        assert rows.of_slot(1, 2, 38).equal(whole[1, :, 2:])
        assert rows.of_slots(slots, columns).equal(whole[slots, :, columns].transpose(0, 1))
    again = BufferRows(whole[:, :, :1], 1, charged.append)
    copy_rows(staged, again, 2, 40, 40)
    assert again.of_slot(0, 0, 40).equal(whole[0])


def test_staged_rows_can_be_wrong() -> None:
    """The courier of the test above delivers nothing by itself."""
    courier = Slow()
    staged = StagedRows(torch.zeros(1, 1, 1, 2), lambda _: None, courier)
    staged.write(torch.ones(1, 1, 1, 2), 0, 1)
    assert courier.sent[0][1].isnan().all()


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("options", [{}, {"prefill_chunk_size": 5}], ids=str)
def test_rows_that_stay_where_they_are_are_the_same(
    name: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gentrace.capture.rows.WORTH_LENDING", 0)
    stayed: list[bool] = []
    lend = BufferRows.lend

    def watched(self: BufferRows, fragment: Tensor, limit: int) -> None:
        lend(self, fragment, limit)
        stayed.append(self._lent is not None)

    monkeypatch.setattr(BufferRows, "lend", watched)
    model: Any = tiny(name, "eager")
    ids = prompt(12, 2)
    with gentrace.record(model) as recorder:
        sequences = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False, **options
        )
    for trace, row, given in zip(recorder.traces, sequences, torch.ones_like(ids), strict=True):
        check(trace, model, own_text(row, given))
    # A model that computes queries, keys and values in one piece of memory would have all of it kept.
    assert stayed == [name not in FUSED] * 3


def test_lent_rows_are_copied_when_others_meet_them() -> None:
    random = torch.Generator().manual_seed(0)
    first, second = (torch.randn(2, 3, count, 4, generator=random) for count in (40, 9))
    for start, capacity in itertools.product((0, 20, 35, 40), (43, 50)):
        held = BufferRows(first[:, :, :1], capacity, lambda _: None)
        expected = torch.cat([first, torch.zeros(2, 3, 10, 4)], 2)
        expected[:, :, start : start + 9] = second
        held._lent = first
        assert torch.equal(held.between(3, 30), first[:, :, 3:30])
        held.write(second, start, 50)
        stop = max(40, start + 9)
        # Rows that the buffer had to grow for are no reason to keep the others twice.
        assert (held._lent is None) == (start < 40 or stop > capacity)
        assert torch.equal(held.between(0, stop), expected[:, :, :stop])
        assert torch.equal(held.of_slot(1, 2, stop - 2), expected[1, :, 2:stop])
        assert held._lent is None
