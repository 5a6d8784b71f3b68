"""Recording changes nothing: not the model, not transformers, not a single token, whatever happens inside."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    PreTrainedModel,
)
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, AttentionInterface

import gentrace
from tests.models import prompt, tiny
from tests.zoo import build

HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
)


def fingerprint(model: PreTrainedModel) -> dict[str, Any]:
    """Everything that recording could leave behind: hooks by id, instance attributes, configuration, registries."""
    return {
        "hooks": [(name, kind, tuple(getattr(part, kind))) for name, part in model.named_modules() for kind in HOOKS],
        "attributes": [
            (name, key, id(value))
            for name, part in model.named_modules()
            for key, value in part.__dict__.items()
            if key not in ("training", "_cache")
        ],
        "methods": [
            getattr(getattr(model, name), "__func__", None) for name in ("forward", "generate", "_get_logits_processor")
        ],
        "config": model.config.to_json_string(use_diff=False),
        "generation_config": model.generation_config.to_json_string(),
        "kernels": {name: ALL_ATTENTION_FUNCTIONS[name] for name in ALL_ATTENTION_FUNCTIONS},
        "masks": {name: ALL_MASK_ATTENTION_FUNCTIONS[name] for name in ALL_MASK_ATTENTION_FUNCTIONS},
        "look-up": dict(vars(AttentionInterface)),
        "weights": [(name, weight._version) for name, weight in model.named_parameters()],
    }


class Stop(Exception):
    """An exception of the user's own."""


def interrupted(error: type[BaseException]) -> Callable[[PreTrainedModel], None]:
    """A use of the model that is cut short after some tokens."""

    class Interrupt:
        def __init__(self) -> None:
            self.calls = 0

        def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
            self.calls += 1
            if self.calls == 3:
                raise error
            return scores

    def use(model: PreTrainedModel) -> None:
        model.generate(prompt(5), max_new_tokens=6, do_sample=False, logits_processor=[Interrupt()])

    return use


def interrupted_in_a_layer(model: PreTrainedModel) -> None:
    def fail(*_: Any) -> None:
        raise Stop

    hook = model.model.layers[1].mlp.register_forward_hook(fail)
    try:
        model(prompt(5))
    finally:
        hook.remove()


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize(
    ("use", "raised"),
    [
        (lambda model: model.generate(prompt(5), max_new_tokens=4, do_sample=False), None),
        (lambda model: model(prompt(5)), None),
        (interrupted(Stop), Stop),
        (interrupted(KeyboardInterrupt), KeyboardInterrupt),
        (interrupted_in_a_layer, Stop),
        (
            lambda model: model.generate(prompt(5), max_new_tokens=2, cache_implementation="quantized"),
            gentrace.UnsupportedModel,
        ),
    ],
    ids=["generate", "forward", "exception", "ctrl-c", "exception-in-a-layer", "refused"],
)
def test_nothing_is_left_behind(use: Callable[..., Any], raised: type[BaseException] | None, kernel: str) -> None:
    model = tiny("llama", kernel)
    before = fingerprint(model)
    if raised is None:
        with gentrace.record(model):
            use(model)
            assert fingerprint(model) != before
    else:
        with pytest.raises(raised), gentrace.record(model):
            use(model)
    assert fingerprint(model) == before


def test_an_interrupted_generation_keeps_what_was_seen() -> None:
    model = tiny("llama")
    recorder = gentrace.record(model)
    with pytest.raises(Stop), recorder:
        interrupted(Stop)(model)
    trace = recorder.trace
    assert not trace.meta.complete
    assert trace.length == 7
    whole = model.generate(prompt(5), max_new_tokens=2, do_sample=False)
    assert trace.tokens.ids.tolist() == whole[0].tolist()


def test_the_next_recording_after_an_interrupted_one_is_whole() -> None:
    model = tiny("llama")
    with gentrace.record(model) as recorder:
        with pytest.raises(Stop):
            interrupted(Stop)(model)
        model.generate(prompt(4), max_new_tokens=3, min_new_tokens=3, do_sample=False)
    assert [trace.meta.complete for trace in recorder.traces] == [False, True]
    assert recorder.traces[1].length == 6


@pytest.mark.parametrize(
    "options",
    [{"do_sample": False}, {"do_sample": True, "top_p": 0.9}, {"do_sample": True, "num_return_sequences": 3}],
    ids=["greedy", "sampled", "three"],
)
@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt2"])
def test_tokens_are_identical(name: str, kernel: str, options: dict[str, Any]) -> None:
    model, ids = tiny(name, kernel), prompt(7, 2)

    def run() -> Tensor:
        torch.manual_seed(7)
        return model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, **options)

    plain = run()
    with gentrace.record(model):
        recorded = run()
    assert torch.equal(plain, recorded)


def test_generate_returns_what_it_always_did() -> None:
    model, ids = tiny("llama"), prompt(5)
    options = {"max_new_tokens": 4, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}
    plain = model.generate(ids, **options)
    with gentrace.record(model):
        recorded = model.generate(ids, **options)
    assert type(recorded) is type(plain)
    assert all(torch.equal(a, b) for a, b in zip(recorded.logits, plain.logits, strict=True))


def test_logits_are_bitwise_the_same() -> None:
    model, ids = tiny("gemma3"), prompt(9)
    with torch.no_grad():
        plain = model(ids).logits
        with gentrace.record(model):
            recorded = model(ids).logits
    assert torch.equal(plain, recorded)


def test_two_models_in_two_threads_do_not_see_each_other() -> None:
    names = ("llama", "gemma3")
    models = {name: tiny(name) for name in names}
    expected = {name: models[name].generate(prompt(6), max_new_tokens=12, do_sample=False) for name in names}
    traces: dict[str, gentrace.Trace] = {}
    barrier = threading.Barrier(2)

    def work(name: str) -> None:
        with gentrace.record(models[name]) as recorder:
            barrier.wait()
            models[name].generate(prompt(6), max_new_tokens=12, do_sample=False)
        traces[name] = recorder.trace

    threads = [threading.Thread(target=work, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name in names:
        assert traces[name].tokens.ids.tolist() == expected[name][0].tolist()
        assert traces[name].length == expected[name].shape[1] - 1
        assert traces[name].fidelity.error <= 1e-5


def test_one_model_in_two_threads_gives_two_whole_traces() -> None:
    model = tiny("llama")
    prompts = [prompt(6), prompt(9, seed=5)]
    expected = [model.generate(ids, max_new_tokens=10, min_new_tokens=10, do_sample=False) for ids in prompts]
    with gentrace.record(model) as recorder:
        threads = [
            threading.Thread(
                target=model.generate,
                args=(ids,),
                kwargs={"max_new_tokens": 10, "min_new_tokens": 10, "do_sample": False},
            )
            for ids in prompts
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    found = sorted((trace.tokens.ids.tolist() for trace in recorder.traces), key=len)
    assert found == [text[0].tolist() for text in expected]
    assert all(trace.fidelity.error <= 1e-5 for trace in recorder.traces)


def test_a_model_that_is_not_recorded_goes_straight_through() -> None:
    recorded, other = tiny("llama"), tiny("mistral")
    with gentrace.record(recorded) as recorder:
        other.generate(prompt(5), max_new_tokens=3, do_sample=False)
        recorded.generate(prompt(4), max_new_tokens=3, min_new_tokens=3, do_sample=False)
    assert [trace.length for trace in recorder.traces] == [6]


def test_recording_a_model_twice_at_once_is_an_error() -> None:
    model = tiny("llama")
    before = fingerprint(model)
    with gentrace.record(model) as first:
        with pytest.raises(gentrace.CaptureError, match="another recorder"), gentrace.record(model):
            pass
        with pytest.raises(gentrace.CaptureError, match="another recorder"), gentrace.record(model.model):
            pass
        model.generate(prompt(4), max_new_tokens=3, do_sample=False)
    assert first.trace.length >= 4
    assert fingerprint(model) == before
    with pytest.raises(gentrace.CaptureError, match="used before"), first:
        pass


def test_attaching_is_all_or_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("llama")
    before = fingerprint(model)
    monkeypatch.setattr("gentrace.capture.recorder.GenerateWatch", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError), gentrace.record(model):
        pass
    assert fingerprint(model) == before


def test_a_hook_or_method_of_the_users_own_survives() -> None:
    model = tiny("llama")
    calls = []
    handle = model.register_forward_hook(lambda *_: calls.append(1))
    original = model.generate
    model.generate = lambda *args, **kwargs: original(*args, **kwargs)
    mine = model.generate
    with gentrace.record(model) as recorder:
        model.generate(prompt(4), max_new_tokens=3, min_new_tokens=3, do_sample=False)
    assert len(calls) == 3
    assert recorder.trace.length == 6
    assert model.generate is mine
    handle.remove()


@pytest.mark.parametrize(
    ("options", "meaning"),
    [
        ({"cache_implementation": "quantized"}, "quantized"),
    ],
)
def test_what_is_not_supported_yet_is_refused_before_generating(options: dict[str, Any], meaning: str) -> None:
    model = tiny("llama")
    forwards = []
    model.register_forward_hook(lambda *_: forwards.append(1))
    with pytest.raises(gentrace.UnsupportedModel, match=meaning), gentrace.record(model):
        model.generate(prompt(4), max_new_tokens=3, **options)
    assert not forwards


def test_empty_recordings_and_unknown_layers_say_so() -> None:
    model = tiny("llama")
    with gentrace.record(model) as recorder:
        pass
    with pytest.raises(gentrace.CaptureError, match="was not run"):
        _ = recorder.trace
    with (
        pytest.raises(gentrace.AttentionUnavailable, match=r"layers \[7\] were asked for.*\[0, 1, 2\]"),
        gentrace.record(model, layers=[1, 7]),
    ):
        model.generate(prompt(4), max_new_tokens=2)
    with pytest.raises(gentrace.CaptureBudgetError, match="max_bytes"), gentrace.record(model, max_bytes=1000):
        model.generate(prompt(40), max_new_tokens=2)
    with pytest.raises(gentrace.CaptureError, match="spill"):
        gentrace.record(model, spill_dir="anywhere")
    with pytest.raises(gentrace.CaptureError, match="top_k"):
        gentrace.record(model, top_k=0)


@pytest.mark.parametrize("name", ["llama", "gptj"])
def test_a_forward_that_was_interrupted_does_not_spoil_the_next(name: str) -> None:
    model = tiny("llama") if name == "llama" else build("causal", name)
    ids = prompt(5)

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with gentrace.record(model) as recorder, torch.no_grad():
        layers = getattr(model.base_model, "layers", None) or model.base_model.h
        hook = layers[1].register_forward_hook(interrupt)
        with pytest.raises(KeyboardInterrupt):
            model(ids)
        hook.remove()
        model(ids, use_cache=False)
    trace = recorder.traces[-1]
    model.set_attn_implementation("eager")
    with torch.no_grad():
        expected = model(ids, output_attentions=True, use_cache=False).attentions
    for layer, reference in enumerate(expected):
        assert (trace.attention(layer) - reference[0]).abs().max() <= 1e-5
    assert torch.overrides._get_current_function_mode() is None
