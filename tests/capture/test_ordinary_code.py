"""What people's own code does around a recording: it neither breaks that code nor is fooled by it."""

import copy
import gc
import pickle
import threading
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaForSequenceClassification, LlamaForTokenClassification
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import gentrace
from tests.capture.test_generation import check
from tests.models import configs, prompt, tiny
from tests.oracle import distance, full_forward


@torch.no_grad()
def test_logits_changed_in_place_do_not_change_the_trace() -> None:
    model, given, text, cache = tiny("llama"), prompt(6), prompt(6), None
    with gentrace.record(model) as recorder:
        for _ in range(5):
            output = model(given, past_key_values=cache, use_cache=True)
            logits, cache = output.logits[:, -1], output.past_key_values
            logits[logits < logits.topk(3).values[:, -1:]] = -torch.inf
            given = logits.softmax(-1).multinomial(1, generator=torch.Generator().manual_seed(0))
            text = torch.cat([text, given], -1)
    check(recorder.trace, model, text[0, :-1])


@pytest.mark.parametrize("with_mask", [False, True])
def test_a_kernel_that_wraps_sdpa(with_mask: bool) -> None:
    def mine(*args: Any, **options: Any) -> Any:
        return sdpa_attention_forward(*args, **options)

    ALL_ATTENTION_FUNCTIONS.register("mine", mine)
    if with_mask:
        ALL_MASK_ATTENTION_FUNCTIONS.register("mine", sdpa_mask)
    try:
        model = tiny("llama")
        model.set_attn_implementation("mine")
        with gentrace.record(model) as recorder:
            out = model.generate(prompt(7), max_new_tokens=4, do_sample=False)
        assert recorder.trace.meta.kernel == "mine"
        check(recorder.trace, model, out[0])
    finally:
        del ALL_ATTENTION_FUNCTIONS._global_mapping["mine"]
        ALL_MASK_ATTENTION_FUNCTIONS._global_mapping.pop("mine", None)


def test_traces_cannot_be_read_while_a_generation_goes_on() -> None:
    model, refused = tiny("llama"), []

    class Read:
        def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
            try:
                _ = recorder.traces
            except gentrace.CaptureError as error:
                refused.append(str(error))
            return scores

    with gentrace.record(model) as recorder:
        out = model.generate(prompt(5), max_new_tokens=4, do_sample=False, logits_processor=[Read()])
    assert len(refused) == 4
    assert "still going on" in refused[0]
    check(recorder.trace, model, out[0])


def test_leaving_the_block_before_generate_returns_is_not_called_complete() -> None:
    model, reached, go_on = tiny("llama"), threading.Event(), threading.Event()

    class Wait:
        calls = 0

        def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
            self.calls += 1
            if self.calls == 3:
                reached.set()
                go_on.wait()
            return scores

    settings = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False, "logits_processor": [Wait()]}
    with gentrace.record(model) as recorder:
        thread = threading.Thread(target=model.generate, args=(prompt(5),), kwargs=settings)
        thread.start()
        reached.wait()
    go_on.set()
    thread.join()
    assert not recorder.trace.meta.complete
    assert recorder.trace.length == 7


@torch.no_grad()
def test_a_loop_over_tuples() -> None:
    model, given, text, cache = tiny("gemma3"), prompt(6), prompt(6), None
    with gentrace.record(model) as recorder:
        for _ in range(4):
            logits, cache, *_ = model(given, past_key_values=cache, use_cache=True, return_dict=False)
            given = logits[:, -1:].argmax(-1)
            text = torch.cat([text, given], -1)
    check(recorder.trace, model, text[0, :-1])


def test_odd_generation_settings_can_be_saved(tmp_path: Path) -> None:
    model = tiny("llama")
    with gentrace.record(model) as recorder:
        model.generate(prompt(5), sequence_bias={(3,): -2.0}, max_new_tokens=2)
    recorder.trace.save(tmp_path / "t.safetensors")
    assert gentrace.load(tmp_path / "t.safetensors").meta == recorder.trace.meta


@pytest.mark.parametrize("reentrant", [False, True])
def test_training_goes_on_as_it_would(reentrant: bool) -> None:
    model, ids = tiny("llama").train(), prompt(6)
    model.activation_checkpointing_enable({"use_reentrant": reentrant})
    model.enable_input_require_grads()
    model(ids, labels=ids, use_cache=False).loss.backward()
    expected = model.lm_head.weight.grad.clone()
    model.zero_grad()
    with gentrace.record(model) as recorder:
        model(ids, labels=ids, use_cache=False).loss.backward()
    assert torch.equal(model.lm_head.weight.grad, expected)
    assert not recorder.trace.queries(0).requires_grad
    check(recorder.trace, model.eval(), ids[0])


def test_a_compiled_model() -> None:
    model, ids = tiny("llama"), prompt(7)
    compiled = torch.compile(model, backend="eager")
    with gentrace.record(compiled) as recorder, torch.no_grad():
        compiled(ids, use_cache=False)
    check(recorder.trace, model, ids[0])
    with torch.no_grad():
        compiled(ids, use_cache=False)
    assert len(recorder.traces) == 1


def test_what_the_user_changes_afterwards_does_not_matter() -> None:
    model = tiny("llama")
    ids, mask = prompt(6, 2), torch.tensor([[0, 0, 1, 1, 1, 1], [1] * 6])
    with gentrace.record(model) as recorder:
        out = model.generate(ids, attention_mask=mask, max_new_tokens=3, do_sample=False)
    kept = out.clone()
    out.zero_()
    mask.fill_(1)
    check(recorder.traces[0], model, kept[0, 2:])
    check(recorder.traces[1], model, kept[1])


@torch.no_grad()
def test_a_reordered_cache_is_refused() -> None:
    model, ids = tiny("llama"), prompt(6, 2)
    with pytest.raises(gentrace.UnsupportedModel, match="reordered"), gentrace.record(model):
        cache = model(ids, use_cache=True).past_key_values
        cache.reorder_cache(torch.tensor([1, 0]))
        model(ids[:, :1], past_key_values=cache)


def test_a_trace_keeps_neither_the_model_nor_the_batch_alive() -> None:
    model = tiny("llama")
    with gentrace.record(model) as recorder:
        model.generate(prompt(6, 4), attention_mask=torch.ones(4, 6).long(), max_new_tokens=3, do_sample=False)
    trace = recorder.traces[0]
    buffers = [weakref.ref(layer.queries.data) for run in recorder._tracker.runs for layer in run.layers.values()]
    assert all(buffer() is not None for buffer in buffers)
    gone = weakref.ref(recorder)
    del recorder
    gc.collect()
    assert gone() is None
    assert all(buffer() is None for buffer in buffers)
    _ = trace.tokens
    alive = weakref.ref(model)
    del model
    gc.collect()
    assert alive() is None
    assert trace.attention(0).shape == (4, trace.length, trace.length)


def test_traces_can_be_pickled_and_copied(tmp_path: Path) -> None:
    model = tiny("llama")
    with gentrace.record(model) as recorder:
        model.generate(prompt(6), max_new_tokens=3, do_sample=False)
    recorder.trace.save(tmp_path / "t.safetensors")
    for trace in (recorder.trace, gentrace.load(tmp_path / "t.safetensors")):
        for again in (pickle.loads(pickle.dumps(trace)), copy.deepcopy(trace)):
            assert again.to_pandas().equals(trace.to_pandas())
            assert distance(again.attention(1), trace.attention(1)) <= 1e-6


def test_the_budget_holds_while_a_loop_grows() -> None:
    model, cache, given = tiny("llama"), None, prompt(6)
    with (
        pytest.raises(gentrace.CaptureBudgetError, match="max_bytes is 300,000"),
        gentrace.record(model, max_bytes=300_000) as recorder,
        torch.no_grad(),
    ):
        for _ in range(600):
            output = model(given, past_key_values=cache, use_cache=True)
            cache, given = output.past_key_values, output.logits[:, -1:].argmax(-1)
    (run,) = recorder._tracker.runs
    buffers = [rows.data for layer in run.layers.values() for rows in (layer.queries, layer.keys)]
    assert sum(buffer.nbytes for buffer in buffers) == run.held <= 300_000


def test_classifiers_have_no_token_probabilities() -> None:
    ids = prompt(6)
    for kind in (LlamaForSequenceClassification, LlamaForTokenClassification):
        model = kind(configs()["llama"]).eval()
        with gentrace.record(model) as recorder, torch.no_grad():
            model(ids)
        assert recorder.trace.tokens.ids.tolist() == ids[0].tolist()
        assert bool(recorder.trace.tokens.logprobs.isnan().all())
        assert recorder.trace.fidelity.error <= 1e-5


def test_of_two_models_in_one_module_the_first_is_recorded() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = tiny("llama"), tiny("mistral")

    both = Two()
    with gentrace.record(both) as recorder:
        both.second.generate(prompt(4), max_new_tokens=2)
        out = both.first.generate(prompt(5), max_new_tokens=3, do_sample=False)
    check(recorder.trace, both.first, out[0])


def test_a_mask_of_minus_a_billion_hides() -> None:
    model, ids = tiny("llama", "eager"), prompt(6)
    mask = torch.zeros(1, 1, 6, 6).masked_fill(~torch.ones(6, 6).tril().bool(), -1e9)
    with gentrace.record(model) as recorder, torch.no_grad():
        model(ids, attention_mask=mask)
    assert bool((recorder.trace.scores(0)[0].isneginf() == ~torch.ones(6, 6).tril().bool()).all())
    check(recorder.trace, model, ids[0])


def test_logits_of_chosen_rows_are_not_taken_for_the_last() -> None:
    model, ids = tiny("llama"), prompt(6)
    with gentrace.record(model) as recorder, torch.no_grad():
        model(ids, logits_to_keep=torch.tensor([2, 4]))
    assert bool(recorder.trace.tokens.logprobs.isnan().all())
    assert distance(recorder.trace.attention(1), full_forward(model, ids[0])[0][1]) <= 1e-5


def test_one_token_is_checked_too() -> None:
    model = tiny("llama")
    with gentrace.record(model) as recorder:
        model.generate(prompt(1), max_new_tokens=1, do_sample=False)
    assert [layer.rows for layer in recorder.trace.fidelity.layers.values()] == [(0,)] * 3


@pytest.mark.parametrize("layers", [2, [-1], ["1"], [1.0]])
def test_layers_that_are_no_layer_numbers(layers: Any) -> None:
    with pytest.raises(gentrace.CaptureError, match="layer numbers"):
        gentrace.record(tiny("llama"), layers=layers)
