"""Input that is odd or wrong: a right trace, a warning that says what it is, or one clear error."""

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, PreTrainedModel

import gentrace
from gentrace.demo import load_story_model
from tests.capture.test_generation import check
from tests.models import VOCAB, prompt, tiny
from tests.oracle import distance


def with_dropout(kernel: str) -> PreTrainedModel:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=VOCAB, n_embd=48, n_layer=2, n_head=4, attn_pdrop=0.5, pad_token_id=0)
    return AutoModelForCausalLM.from_config(config, attn_implementation=kernel).train()


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
def test_dropout_is_said_and_left_out(kernel: str) -> None:
    model, ids = with_dropout(kernel), prompt(6)
    recorder = gentrace.record(model)
    with pytest.warns(UserWarning, match="is in training mode and drops attention weights"), recorder:
        model(ids)
    # The first layer's input is dropped from too, so only its softmax can be checked.
    assert distance(recorder.trace.attention(0).sum(-1), torch.ones(4, 6)) <= 1e-5
    model.eval()
    with gentrace.record(model) as recorder:
        model(ids)
    check(recorder.trace, model, ids[0])


def test_gradients_are_not_kept() -> None:
    model = tiny("llama")
    with gentrace.record(model, values=True) as recorder:
        model(prompt(6)).logits.sum().backward()
    trace = recorder.trace
    for tensor in (trace.queries(0), trace.keys(1), trace.values(2), trace.attention(0), trace.tokens.logprobs):
        assert not tensor.requires_grad


def test_half_precision_that_overflows_is_warned_of() -> None:
    model = tiny("llama", dtype=torch.float16)
    with torch.no_grad():
        model.model.layers[0].self_attn.v_proj.weight.mul_(6e4)
    with pytest.warns(gentrace.FidelityWarning, match="layer 0: nan above"), gentrace.record(model) as recorder:
        model(prompt(6))
    assert recorder.trace.fidelity.error != recorder.trace.fidelity.error
    assert not recorder.trace.attention(0).isnan().any()


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
def test_a_mask_with_holes(kernel: str) -> None:
    model, ids = tiny("llama", kernel), prompt(7)
    mask = torch.tensor([[1, 0, 1, 1, 0, 1, 1]])
    with gentrace.record(model) as recorder:
        out = model.generate(ids, attention_mask=mask, max_new_tokens=3, do_sample=False)
    check(recorder.trace, model, out[0, torch.cat([mask[0], torch.ones(3)]).bool()])


@pytest.mark.parametrize("length", [1, 2])
@pytest.mark.parametrize("new", [1, 3])
def test_very_short_texts(length: int, new: int) -> None:
    model, ids = tiny("gpt2"), prompt(length)
    with gentrace.record(model) as recorder:
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, do_sample=False)
    check(recorder.trace, model, out[0])


@pytest.mark.parametrize("shape", [(0, 4), (1, 0)])
def test_nothing_to_read(shape: tuple[int, int]) -> None:
    model = tiny("llama")
    empty = torch.zeros(shape, dtype=torch.long)
    with pytest.raises(gentrace.CaptureError, match="give at least one token"), gentrace.record(model):
        model(empty)


def test_no_new_tokens_is_transformers_own_error() -> None:
    model = tiny("llama")
    with pytest.raises(ValueError, match="must be greater than 0"), gentrace.record(model):
        model.generate(prompt(4), max_new_tokens=0)


def test_the_tokenizer_of_another_model() -> None:
    story, tokenizer = load_story_model()
    with pytest.raises(gentrace.CaptureError, match=r"the tokenizer gives token \d+, the model knows 97 tokens"):
        gentrace.generate(tiny("llama"), tokenizer, "Once upon a time there was a fox", max_new_tokens=2)
    # Texts come from whatever tokenizer was given; the numbers do not.
    ids: Any = tokenizer("Once upon a time", return_tensors="pt")["input_ids"]
    with gentrace.record(story) as recorder, torch.no_grad():
        story(ids)
    assert recorder.trace.tokens.texts == tuple(f"[{token}]" for token in ids[0].tolist())
