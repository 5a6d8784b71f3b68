"""Compiled models: the rows are those of the uncompiled one, and no graph breaks because of the recording."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters
from transformers import CompileConfig, PreTrainedModel

import gentrace
from tests.capture.test_generation import check, own_text, padded
from tests.models import prompt, tiny


@pytest.fixture(autouse=True)
def fresh_compiler() -> None:
    torch._dynamo.reset()
    counters.clear()


def compiled(name: str, kernel: str = "sdpa") -> PreTrainedModel:
    model = tiny(name, kernel)
    model.compile(fullgraph=True, backend="eager")
    return model


def uncompiled(model: PreTrainedModel) -> PreTrainedModel:
    model._compiled_call_impl = None
    return model


@pytest.mark.parametrize("name", ["llama", "mistral", "gpt2"])
@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
def test_a_compiled_generation_with_a_static_cache(name: str, kernel: str) -> None:
    model, ids = compiled(name, kernel), prompt(7)
    options: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False, "cache_implementation": "static"}
    plain = model.generate(ids, **options)
    before = counters["stats"]["unique_graphs"]
    for _ in range(3):
        with gentrace.record(model) as recorder:
            out = model.generate(ids, **options)
        assert torch.equal(out, plain)
    assert not counters["graph_break"]
    # One prefill and one decoding graph more, once, and the old ones afterwards.
    assert counters["stats"]["unique_graphs"] == before + 2
    assert torch.equal(model.generate(ids, **options), plain)
    assert counters["stats"]["unique_graphs"] == before + 2
    check(recorder.trace, uncompiled(model), out[0])


def test_a_padded_batch_and_a_dynamic_cache() -> None:
    model = compiled("llama")
    ids, mask = padded([9, 5])
    with gentrace.record(model) as recorder:
        out = model.generate(ids, attention_mask=mask, max_new_tokens=5, do_sample=False)
    assert not counters["graph_break"]
    uncompiled(model)
    for row, trace, own in zip(out, recorder.traces, mask, strict=True):
        check(trace, model, own_text(row, own))


def test_what_generate_compiles_by_itself() -> None:
    model, ids = tiny("llama"), prompt(7)
    config = CompileConfig(fullgraph=True, backend="eager", mode=None)
    config._compile_all_devices = True
    with gentrace.record(model) as recorder:
        out = model.generate(
            ids, max_new_tokens=6, do_sample=False, cache_implementation="static", compile_config=config
        )
    assert counters["stats"]["unique_graphs"] >= 1
    assert not counters["graph_break"]
    check(recorder.trace, model, out[0])


@torch.no_grad()
def test_a_compiled_wrapper() -> None:
    model, ids = tiny("llama"), prompt(7)
    wrapper = torch.compile(model, backend="eager", fullgraph=True)
    with gentrace.record(wrapper) as recorder:
        wrapper(ids, use_cache=False)
    assert not counters["graph_break"]
    check(recorder.trace, model, ids[0])
    wrapper(ids, use_cache=False)
    assert len(recorder.traces) == 1


@torch._dynamo.config.patch(recompile_limit=32)  # the cache alone makes a graph a layer
def test_single_layers_that_are_compiled() -> None:
    model, ids = tiny("llama"), prompt(7)
    for layer in model.model.layers:
        layer.compile(fullgraph=True, backend="eager")
    with gentrace.record(model) as recorder:
        out = model.generate(ids, max_new_tokens=4, do_sample=False)
    assert not counters["graph_break"]
    for layer in model.model.layers:
        layer._compiled_call_impl = None
    check(recorder.trace, model, out[0])


def test_nothing_is_left_on_a_compiled_model() -> None:
    model = compiled("llama")
    before = [dict(module.__dict__) for module in model.modules()]
    with gentrace.record(model):
        model.generate(prompt(5), max_new_tokens=3, do_sample=False)
    for module, attributes in zip(model.modules(), before, strict=True):
        assert set(module.__dict__) == set(attributes)
        assert module.__dict__.get("_compiled_call_impl") is attributes.get("_compiled_call_impl")


def test_the_count_of_breaks_would_notice_one() -> None:
    def looks(x: Tensor) -> Tensor:
        return x + 1 if bool(x.sum() > 0) else x

    torch.compile(looks, backend="eager")(torch.ones(2))
    assert counters["graph_break"]
