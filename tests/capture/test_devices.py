"""Accelerators: the step path never waits for the device, and rows stay beside their layer."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import dispatch_model
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException
from transformers import AutoModelForCausalLM, BloomConfig, GPTJConfig, PreTrainedModel

import gentrace
from tests.capture.test_generation import check
from tests.fake import fake_cuda
from tests.models import COMMON, VOCAB, configs, prompt, tiny
from tests.oracle import distance, full_forward

HOME_GROWN = {
    "bloom": BloomConfig(hidden_size=32, n_layer=2, n_head=4, vocab_size=VOCAB),
    "gptj": GPTJConfig(n_embd=32, n_layer=2, n_head=4, rotary_dim=4, vocab_size=VOCAB, n_positions=64),
}
CASES = [
    *((name, kernel) for name in ("llama", "mistral", "gpt2", "qwen3") for kernel in ("sdpa", "eager")),
    ("gemma2", "eager"),
    ("gptj", "eager"),
    ("bloom", "eager"),
]


def on_cuda(name: str, kernel: str) -> PreTrainedModel:
    config = HOME_GROWN[name] if name in HOME_GROWN else configs()[name]
    return AutoModelForCausalLM.from_config(config, attn_implementation=kernel).eval()


@torch.no_grad()
def decode(model: PreTrainedModel, ids: Tensor, steps: int, **options: Any) -> None:
    """Greedy steps as generate takes them, without its own looks at values."""
    cache, fed = None, ids
    for _ in range(steps):
        output = model(fed, past_key_values=cache, use_cache=True, logits_to_keep=1, **options)
        cache, fed = output.past_key_values, output.logits[:, -1:].argmax(-1)


@pytest.mark.parametrize(("name", "kernel"), CASES)
def test_no_step_looks_at_values(name: str, kernel: str) -> None:
    with fake_cuda():
        model = on_cuda(name, kernel)
        recorder = gentrace.record(model)
        finished = False
        # Leaving the block looks at values, once everything has run.
        with pytest.raises(DataDependentOutputException), recorder:
            decode(model, torch.ones(2, 5, dtype=torch.long), 9)
            finished = True
        assert finished
        (run,) = recorder._tracker.runs
        assert run.stop == 13
        assert all(layer.fragments for layer in run.layers.values())
        assert len(run.layers) == len(getattr(model.base_model, "layers", None) or model.base_model.h)


def test_a_look_at_values_would_be_noticed() -> None:
    with fake_cuda():
        model = on_cuda("llama", "sdpa")
        model.model.layers[1].register_forward_hook(lambda module, args, output: bool(output[0].sum() > 0))
        with pytest.raises(DataDependentOutputException):
            decode(model, torch.ones(1, 5, dtype=torch.long), 2)


def test_a_model_split_over_devices() -> None:
    def here(device: str) -> Any:
        def move(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            def moved(value: Any) -> Any:
                if isinstance(value, tuple):
                    return tuple(moved(part) for part in value)
                return value.to(device) if isinstance(value, Tensor) else value

            return moved(args), {name: moved(value) for name, value in kwargs.items()}

        return move

    with fake_cuda():
        model = on_cuda("llama", "eager")
        with torch.device("cuda:1"):
            model.model.layers[2] = on_cuda("llama", "eager").model.layers[2]
        model.model.layers[2].register_forward_pre_hook(here("cuda:1"), with_kwargs=True)
        model.model.norm.register_forward_pre_hook(here("cuda:0"), with_kwargs=True)
        recorder = gentrace.record(model)
        with pytest.raises(DataDependentOutputException), recorder:
            decode(model, torch.ones(1, 5, dtype=torch.long), 6)
        (run,) = recorder._tracker.runs
        devices = [str(run.layers["self", number].queries.data.device) for number in range(3)]
        assert devices == ["cuda:0", "cuda:0", "cuda:1"]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("name", "kernel"), CASES[:8])
def test_on_a_cuda_device(name: str, kernel: str) -> None:
    model = tiny(name, kernel).to("cuda")
    ids = prompt(9, 2).to("cuda")
    mask = torch.ones_like(ids)
    with gentrace.record(model) as recorder:
        out = model.generate(ids, attention_mask=mask, max_new_tokens=6, do_sample=False)
    for trace, text in zip(recorder.traces, out, strict=True):
        check(trace, model, text, tolerance=1e-4)
    assert COMMON["num_hidden_layers"] == len(recorder.traces[0].layers)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("name", "kernel"), CASES[:8])
def test_no_step_waits_for_a_cuda_device(name: str, kernel: str) -> None:
    model = tiny(name, kernel).to("cuda")
    ids = prompt(9, 2).to("cuda")
    with gentrace.record(model) as recorder:
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            decode(model, ids, 80)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert all(trace.length == 9 + 79 for trace in recorder.traces)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
def test_more_steps_wait_no_more_often_than_without_recording(kernel: str) -> None:
    model = tiny("llama", kernel).to("cuda")
    ids = prompt(9, 2).to("cuda")

    def waits(new: int, *, recorded: bool) -> int:
        options = {"attention_mask": torch.ones_like(ids), "max_new_tokens": new, "min_new_tokens": new}
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                if recorded:
                    with gentrace.record(model):
                        model.generate(ids, do_sample=False, **options)
                else:
                    model.generate(ids, do_sample=False, **options)
            return sum("synchronizing" in str(one.message) for one in caught)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    def extra(new: int) -> int:
        return waits(new, recorded=True) - waits(new, recorded=False)

    # generate waits at every step by itself; the end of a recording may wait, its steps do not.
    extra(20)
    assert extra(90) <= extra(20)


def test_layers_that_are_fetched_from_disk(tmp_path: Path) -> None:
    parts = ["model.embed_tokens", "model.layers.0", "model.layers.2", "model.norm", "model.rotary_emb", "lm_head"]
    places = dict.fromkeys(parts, "cpu") | {"model.layers.1": "disk"}
    model = dispatch_model(tiny("llama"), device_map=places, main_device="cpu", offload_dir=str(tmp_path))
    with gentrace.record(model) as recorder:
        out = model.generate(prompt(8), max_new_tokens=5, do_sample=False)
    check(recorder.trace, tiny("llama"), out[0])


@pytest.mark.filterwarnings("ignore")
def test_quantized_weights() -> None:
    model = torch.ao.quantization.quantize_dynamic(tiny("llama"), {nn.Linear}, dtype=torch.qint8)
    ids = prompt(8)
    # Such layers round by the largest value of a forward, so only the same forward is an oracle.
    with gentrace.record(model) as recorder, torch.no_grad():
        model(ids, use_cache=False)
    expected, _ = full_forward(model, ids[0])
    for layer, reference in enumerate(expected):
        assert distance(recorder.trace.attention(layer), reference) <= 1e-5
