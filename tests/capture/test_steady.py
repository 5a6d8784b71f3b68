"""The steady path records the same as the full one, for as long as it may; and it hands over where it may not."""

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LogitsProcessor,
    LogitsProcessorList,
    MistralConfig,
    PreTrainedModel,
)

import gentrace
from gentrace.capture.steady import Lane
from tests.capture.test_generation import check, own_text, padded
from tests.models import COMMON, SDPA_TYPES, configs, prompt, tiny
from tests.zoo.build import build

PACKAGE = Path(gentrace.__file__).parent
LONG = COMMON | {"max_position_embeddings": 512}
EXPECTED = {
    ("dynamic", name)
    for name in ("llama", "mistral", "qwen2", "qwen3", "gemma3", "phi3", "gpt2", "gpt_neox", "olmo2", "gpt_oss")
} | {("static", name) for name in ("llama", "qwen3", "gpt2", "gpt_neox", "olmo2")}


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How many forwards began on the steady path, and how often it was left."""
    counted: Counter[str] = Counter()

    def watch(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            result = original(*args)
            counted[name] += result is not False
            return result

        return call

    for name in ("begins", "close"):
        monkeypatch.setattr(Lane, name, watch(name, getattr(Lane, name)))
    return counted


def write(model: PreTrainedModel, ids: Tensor, mask: Tensor, new: int, **options: Any) -> tuple[list[Any], Tensor]:
    options = {"max_new_tokens": new, "min_new_tokens": new, "do_sample": False} | options
    with gentrace.record(model) as recorder:
        sequences = model.generate(ids, attention_mask=mask, **options)
    return recorder.traces, sequences


@pytest.mark.parametrize(
    ("cache", "name", "kernel"),
    [
        (*what, kernel)
        for what in sorted(EXPECTED)
        for kernel in ("sdpa", "eager")
        if what[1] in SDPA_TYPES or kernel == "eager"
    ],
)
def test_types_take_it(name: str, kernel: str, cache: str, steps: Counter[str]) -> None:
    model = AutoModelForCausalLM.from_config(configs()[name], attn_implementation=kernel).eval()
    ids, mask = padded([5, 3])
    options = {} if cache == "dynamic" else {"cache_implementation": "static", "disable_compile": True}
    traces, sequences = write(model, ids, mask, 12, **options)
    assert steps == {"begins": 11, "close": 1}
    for trace, row, own in zip(traces, sequences, mask, strict=True):
        check(trace, model, own_text(row, own))


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize("window", [None, 3, 70, 100])
@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_many_steps(kernel: str, window: int | None, cache: str, steps: Counter[str]) -> None:
    if cache == "static" and window is not None:
        # Whether a window slides inside a buffer is the business of the full path.
        window = None
    config = LlamaConfig(**LONG) if window is None else MistralConfig(**LONG, sliding_window=window)
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=kernel).eval()
    ids, mask = padded([9, 4])
    options = {} if cache == "dynamic" else {"cache_implementation": "static", "disable_compile": True}
    traces, sequences = write(model, ids, mask, 150, **options)
    assert steps["begins"] == 149
    for trace, row, own in zip(traces, sequences, mask, strict=True):
        check(trace, model, own_text(row, own))
        assert len(trace.fidelity.layers[0].rows) > 2


class Switch(LogitsProcessor):
    """Changes something about the model at some steps; scores stay as they are."""

    def __init__(self, at: dict[int, Callable[[], object]]) -> None:
        self.at = at
        self.step = 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.at.get(self.step, lambda: None)()
        self.step += 1
        return scores


def test_another_kernel_in_the_middle(steps: Counter[str]) -> None:
    model = tiny("llama")
    ids, mask = padded([6])
    switch = Switch(
        {5: lambda: model.set_attn_implementation("eager"), 11: lambda: model.set_attn_implementation("sdpa")}
    )
    traces, sequences = write(model, ids, mask, 20, logits_processor=LogitsProcessorList([switch]))
    check(traces[0], model, sequences[0])
    # The masks that eager attention is given say what was expected.
    assert steps == {"begins": 19, "close": 1}


@pytest.mark.parametrize("step", [0, 1, 2, 4, 11])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
def test_the_full_path_takes_over_anywhere(
    step: int, batch: int, kernel: str, monkeypatch: pytest.MonkeyPatch, steps: Counter[str]
) -> None:
    model = tiny("llama", kernel)
    ids, mask = padded([6, 4][:batch])
    ended = Counter[str]()
    rows = Lane._rows

    def sometimes(self: Lane) -> Any:
        ended["steps"] += 1
        found = rows(self)
        return None if ended["steps"] == step + 1 else found

    monkeypatch.setattr(Lane, "_rows", sometimes)
    traces, sequences = write(model, ids, mask, 14)
    assert ended["steps"] == 13
    assert steps == {"begins": 13, "close": 2}
    for trace, row, own in zip(traces, sequences, mask, strict=True):
        check(trace, model, own_text(row, own))


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_a_model_that_runs_inside_for_the_first_time(layer: int, steps: Counter[str]) -> None:
    """What lies in the layers before it was seen already, and is recorded all the same; its own attention is not."""
    model, inside = tiny("llama"), tiny("gpt2")
    model.model.layers[layer].inside = inside

    def consult(_: object, args: tuple[Tensor, ...]) -> None:
        if calls["forwards"] == 8:
            inside(inputs_embeds=torch.zeros(1, 3, inside.config.n_embd))
        calls["forwards"] += 1

    calls = Counter[str]()
    ids, mask = padded([6])
    handle = model.model.layers[layer].register_forward_pre_hook(consult)
    traces, sequences = write(model, ids, mask, 14)
    handle.remove()
    assert calls["forwards"] == 14
    assert steps == {"begins": 13, "close": 2}
    check(traces[0], model, sequences[0])


def test_rows_that_a_layer_leaves_out_are_not_made_up(steps: Counter[str]) -> None:
    model = tiny("llama")
    layer = model.model.layers[2]
    stop = Switch({7: lambda: setattr(layer, "forward", lambda states, **_: states)})
    ids, mask = padded([6])
    traces, _ = write(model, ids, mask, 12, logits_processor=LogitsProcessorList([stop]))
    known = ~traces[0].attention(2)[0].isnan().any(-1)
    assert known.tolist() == [True] * (6 + 7) + [False] * 4
    assert not traces[0].attention(1).isnan().any()
    assert steps["close"] >= 1


def test_ctrl_c_in_the_middle_of_a_step(steps: Counter[str]) -> None:
    model = tiny("llama")
    count = Counter[str]()

    def interrupt(*_: object) -> None:
        count["forwards"] += 1
        if count["forwards"] == 9:
            raise KeyboardInterrupt

    handle = model.model.layers[1].register_forward_pre_hook(interrupt)
    with gentrace.record(model) as recorder:
        with pytest.raises(KeyboardInterrupt):
            model.generate(prompt(6), max_new_tokens=20, do_sample=False)
        handle.remove()
        after = model.generate(prompt(5, seed=3), max_new_tokens=8, min_new_tokens=8, do_sample=False)
    cut, whole = recorder.traces
    assert cut.length == 6 + 7
    assert not cut.meta.complete
    check(whole, model, after[0])
    assert steps["begins"] == 8 + 7


def test_sampling_keeps_both_distributions(steps: Counter[str]) -> None:
    model = tiny("llama")
    ids = prompt(6)
    options = {"do_sample": True, "temperature": 0.7, "top_k": 20, "max_new_tokens": 16, "min_new_tokens": 16}
    torch.manual_seed(5)
    with gentrace.record(model) as recorder:
        result = model.generate(ids, return_dict_in_generate=True, output_scores=True, output_logits=True, **options)
    assert steps["begins"] == 15
    tokens = recorder.trace.tokens
    for step, (scores, logits) in enumerate(zip(result.scores, result.logits, strict=True)):
        token = result.sequences[0, 6 + step]
        assert float(tokens.sampled_logprobs[6 + step]) == pytest.approx(
            float(scores.log_softmax(-1)[0, token]), abs=1e-5
        )
        assert float(tokens.logprobs[6 + step]) == pytest.approx(float(logits.log_softmax(-1)[0, token]), abs=1e-5)


def test_a_prompt_read_in_chunks_uses_up_no_tries(steps: Counter[str]) -> None:
    model = tiny("llama")
    ids, mask = padded([30])
    traces, sequences = write(model, ids, mask, 6, prefill_chunk_size=2)
    assert steps == {"begins": 5, "close": 1}
    check(traces[0], model, sequences[0])


class Forbids(LogitsProcessor):
    """Forbids token 5."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return scores.index_fill(1, torch.tensor([5]), -torch.inf)


class Needs(LogitsProcessor):
    """Wants to be told more than generate tells."""

    def __call__(self, input_ids: Tensor, scores: Tensor, temper: float) -> Tensor:
        return scores * temper


class Own(LogitsProcessorList):
    """A list with its own way of calling."""

    def __call__(self, input_ids: Tensor, scores: Tensor, **options: Any) -> Tensor:
        return super().__call__(input_ids, scores, **options) * 2.0


@pytest.mark.parametrize("own", [False, True])
def test_processors_do_what_they_would_alone(own: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("llama")
    if own:
        made = model._get_logits_processor
        monkeypatch.setattr(
            model, "_get_logits_processor", lambda *given, **named: Own(made(*given, **named)), raising=False
        )
    options: dict[str, Any] = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False, "output_scores": True}
    options |= {"return_dict_in_generate": True, "repetition_penalty": 1.3}
    options["logits_processor"] = LogitsProcessorList([Forbids()])
    alone = model.generate(prompt(5), **options)
    with gentrace.record(model) as recorder:
        recorded = model.generate(prompt(5), **options)
    assert torch.equal(alone.sequences, recorded.sequences)
    assert all(map(torch.equal, alone.scores, recorded.scores))
    for place, scores in enumerate(alone.scores):
        token = alone.sequences[0, 5 + place]
        kept = float(recorder.trace.tokens.sampled_logprobs[5 + place])
        assert kept == pytest.approx(float(scores.log_softmax(-1)[0, token]), abs=1e-5)


def test_a_step_that_was_handed_over_leads_back(steps: Counter[str]) -> None:
    """The rest of a step may go the full path; what lies inside the model is known at the next one all the same."""
    model = tiny("llama")
    ids, mask = padded([6])

    def spell_out(
        module: object, args: tuple[Any, ...], given: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        seen = given["past_key_values"].get_seq_length()
        return args, given | ({"attention_mask": torch.zeros(1, 1, 1, seen)} if seen == 10 else {})

    handle = model.model.layers[1].self_attn.register_forward_pre_hook(spell_out, with_kwargs=True)
    traces, sequences = write(model, ids, mask, 20)
    handle.remove()
    check(traces[0], model, sequences[0])
    assert steps == {"begins": 19, "close": 2}


@pytest.mark.parametrize("layers", [(), None])
def test_tokens_alone_of_attention_that_calls_no_kernel(layers: tuple[int, ...] | None, steps: Counter[str]) -> None:
    """It does not go through the registry, so it is seen in the middle of a step that nobody expected it in."""
    model = build("causal", "gptj")
    with gentrace.record(model, layers=layers) as recorder:
        text = model.generate(prompt(5), max_new_tokens=8, min_new_tokens=8, do_sample=False)
    assert recorder.trace.length == 12
    expected = model(text).logits[0, :-1].log_softmax(-1).gather(1, text[0, 1:, None])[:, 0]
    assert (recorder.trace.tokens.logprobs[1:] - expected).abs().max() < 1e-5
    assert steps["begins"] == (7 if layers == () else 0)


def test_a_processor_that_is_told_too_little_is_refused_as_alone() -> None:
    model = tiny("llama")
    options = {"max_new_tokens": 3, "logits_processor": LogitsProcessorList([Needs()])}
    with pytest.raises(ValueError, match="required parameters") as alone:
        model.generate(prompt(5), **options)
    with pytest.raises(ValueError, match="required parameters") as recorded, gentrace.record(model):
        model.generate(prompt(5), **options)
    assert str(alone.value) == str(recorded.value)


class Operations(TorchDispatchMode):
    """Counts tensor operations."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def operations(layers: int, new: int, recorded: bool) -> int:
    model = AutoModelForCausalLM.from_config(LlamaConfig(**COMMON | {"num_hidden_layers": layers})).eval()
    options = {"max_new_tokens": new, "min_new_tokens": new, "do_sample": False}
    with Operations() as counted:
        if recorded:
            with gentrace.record(model):
                model.generate(prompt(4), **options)
        else:
            model.generate(prompt(4), **options)
    return counted.count


def test_a_layer_costs_no_operation_at_most_steps() -> None:
    """64 more steps cost a layer one copy of its rows, not 64; the rest of a step's cost does not know the layers."""
    more = {
        layers: [operations(layers, new, True) - operations(layers, new, False) for new in (8, 72)] for layers in (2, 6)
    }
    few, many = more[2][1] - more[2][0], more[6][1] - more[6][0]
    a_layer = (many - few) / 4
    assert a_layer <= 16
    assert few / 64 <= 12


def test_a_layer_costs_few_calls() -> None:
    def calls(layers: int, new: int) -> int:
        model = AutoModelForCausalLM.from_config(LlamaConfig(**COMMON | {"num_hidden_layers": layers})).eval()
        counted = Counter[str]()

        def profile(frame: Any, event: str, _: object) -> None:
            if event == "call" and frame.f_code.co_filename.startswith(str(PACKAGE)):
                counted["calls"] += 1

        with gentrace.record(model):
            sys.setprofile(profile)
            try:
                model.generate(prompt(4), max_new_tokens=new, min_new_tokens=new, do_sample=False)
            finally:
                sys.setprofile(None)
        return counted["calls"]

    few, many = (calls(layers, 72) - calls(layers, 8) for layers in (2, 6))
    # The kernel's observer, the hand-over, the step's comparison and the cache's; the rest are copies now and then.
    assert (many - few) / 4 / 64 <= 6
    assert few / 64 <= 40
