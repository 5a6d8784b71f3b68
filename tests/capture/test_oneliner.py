"""`gentrace.generate`: text in, a trace out."""

from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import gentrace
from gentrace.capture.oneliners import encode, read
from gentrace.demo import load_story_model
from tests.capture.test_texts import byte_level
from tests.models import tiny


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=256, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, pad_token_id=0
    )
    return LlamaForCausalLM(config).eval()


def test_a_text_in_a_trace_out(model: LlamaForCausalLM) -> None:
    trace = gentrace.generate(model, byte_level(), "Once upon a time 漢", max_new_tokens=5, do_sample=False)
    assert isinstance(trace, gentrace.Trace)
    assert trace.tokens.text.startswith("Once upon a time 漢")
    assert len(trace.tokens) - trace.tokens.prompt_length == 5
    assert trace.meta.generation["max_new_tokens"] == 5
    assert trace.meta.kernel == "sdpa"


def test_a_list_in_a_list_out(model: LlamaForCausalLM) -> None:
    texts = ["Once upon", "A", "Some longer text"]
    traces = gentrace.generate(model, byte_level(), texts, layers=[1], max_new_tokens=3, do_sample=False)
    assert isinstance(traces, list)
    for text, trace in zip(texts, traces, strict=True):
        assert trace.tokens.text.startswith(text)
        assert trace.tokens.prompt_length == len(text)
        alone = gentrace.generate(model, byte_level(), text, layers=[1], max_new_tokens=3, do_sample=False)
        assert isinstance(alone, gentrace.Trace)
        assert torch.allclose(trace.attention(1), alone.attention(1), atol=1e-5)
    several = gentrace.generate(model, byte_level(), "A", num_return_sequences=2, do_sample=True, max_new_tokens=2)
    assert isinstance(several, list)
    assert len(several) == 2


def test_prompts_without_tokens_are_refused(model: LlamaForCausalLM) -> None:
    with pytest.raises(gentrace.CaptureError, match="prompt 1 has no tokens"):
        gentrace.generate(model, byte_level(), ["a", ""])
    with pytest.raises(gentrace.CaptureError, match="list of prompts is empty"):
        gentrace.generate(model, byte_level(), [])


def test_padding_is_on_the_left(model: LlamaForCausalLM) -> None:
    inputs = encode(byte_level(), ["abc", "d"], model)
    assert inputs["attention_mask"].tolist() == [[1, 1, 1], [0, 0, 1]]
    assert inputs["input_ids"][1, -1] == inputs["input_ids"].new_tensor(byte_level().encode("d"))


def test_changed_weights_are_not_read_as_the_recordings(recwarn: pytest.WarningsRecorder) -> None:
    model = tiny("llama")
    with gentrace.record(model) as recorder:
        model.generate(torch.tensor([[5, 6, 7, 8]]), max_new_tokens=3, do_sample=False)
    with torch.no_grad():
        model.lm_head.weight.mul_(2)
    with pytest.warns(RuntimeWarning, match="weights changed"):
        tokens = recorder.trace.tokens
    assert tokens.logprobs[1:4].isnan().all()
    assert not tokens.logprobs[4:].isnan().any()


def test_infidelity_is_warned_of() -> None:
    model = tiny("llama")

    def wrong(module: Any, query: Any, key: Any, value: torch.Tensor, *_: Any, **__: Any) -> tuple[torch.Tensor, None]:
        return value.repeat_interleave(2, 1).transpose(1, 2), None

    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register("wrong", wrong)
    try:
        model.set_attn_implementation("wrong")
        with (
            pytest.warns(gentrace.FidelityWarning, match=r"layer 0: .* at rows \[2, 3\]"),
            gentrace.record(model) as recorder,
            torch.no_grad(),
        ):
            model(torch.tensor([[5, 6, 7, 8]]))
        assert recorder.trace.fidelity.error > 0.1
        with gentrace.record(model, verify=False) as recorder, torch.no_grad():
            model(torch.tensor([[5, 6, 7, 8]]))
        assert recorder.trace.fidelity.error != recorder.trace.fidelity.error
    finally:
        del ALL_ATTENTION_FUNCTIONS._global_mapping["wrong"]


def test_reading_a_completion_gives_the_trace_of_its_generation() -> None:
    model, tokenizer = load_story_model()
    with gentrace.record(model, tokenizer) as recorder:
        ids = tokenizer("Once upon a time", return_tensors="pt")["input_ids"]
        model.generate(ids, max_new_tokens=12, do_sample=False, pad_token_id=tokenizer.eos_token_id)
    generated = recorder.trace
    completion = "".join(generated.tokens.texts[generated.tokens.prompt_length :])
    trace = read(model, tokenizer, "Once upon a time", completion)
    assert trace.tokens.ids.tolist() == generated.tokens.ids.tolist()
    assert trace.tokens.prompt_length == generated.tokens.prompt_length
    count = generated.length
    for layer in range(4):
        found = trace.attention(layer)[:, :count, :count]
        assert torch.allclose(found, generated.attention(layer), atol=1e-5)
        finite = generated.scores(layer).isfinite()
        assert torch.allclose(
            trace.scores(layer)[:, :count, :count][finite], generated.scores(layer)[finite], atol=1e-4
        )
    assert torch.allclose(trace.tokens.logprobs[1:], generated.tokens.logprobs[1:], atol=1e-4)
    assert bool(trace.tokens.sampled_logprobs.isnan().all())
    with pytest.raises(gentrace.CaptureError, match="it has no tokens"):
        read(model, tokenizer, "Once", "")


def test_an_encoders_prompts_are_padded_on_the_right() -> None:
    from transformers import BartConfig, BartForConditionalGeneration

    torch.manual_seed(0)
    config = BartConfig(
        vocab_size=256, d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, pad_token_id=0, decoder_start_token_id=1,
    )  # fmt: skip
    model = BartForConditionalGeneration(config).eval()
    options = {"max_new_tokens": 4, "do_sample": False, "num_beams": 1}
    together = gentrace.generate(model, byte_level(), ["abcd", "e"], **options)
    alone = gentrace.generate(model, byte_level(), "e", **options)
    assert isinstance(together, list)
    assert isinstance(alone, gentrace.Trace)
    for kind in ("encoder", "cross"):
        assert torch.allclose(together[1].attention(0, kind=kind), alone.attention(0, kind=kind), atol=1e-6)
    with pytest.raises(gentrace.UnsupportedModel, match="encoder-decoder model"):
        read(model, byte_level(), "abc", "d")
