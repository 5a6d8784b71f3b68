"""Every way of generating gives each sequence the matrices of a full forward over its own text."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, StaticCache

import gentrace
from tests.models import EOS, PAD, prompt, tiny
from tests.oracle import distance, full_forward

WINDOWED = ("mistral", "gemma3", "llama")


def check(trace: gentrace.Trace, model: PreTrainedModel, ids: Tensor, tolerance: float = 1e-5) -> None:
    """Compare a whole trace with one full eager forward over its text, ``ids [position]``."""
    assert trace.tokens.ids.tolist() == ids.tolist()
    expected, logits = full_forward(model, ids[: trace.length])
    for info, reference in zip(trace.layers, expected, strict=True):
        assert distance(trace.attention(info.index), reference) <= tolerance
    logprobs = logits[: len(ids) - 1].log_softmax(-1)
    own = logprobs.gather(-1, ids[1:, None])
    assert distance(trace.tokens.logprobs[1:], own[:, 0]) <= 1e-4
    assert distance(trace.tokens.entropy[1:], -(logprobs.exp() * logprobs).sum(-1)) <= 1e-4
    assert trace.tokens.rank[1:].tolist() == (logprobs > own).sum(-1).tolist()
    assert distance(trace.tokens.top_logprobs[1:], logprobs.topk(10).values) <= 1e-4
    assert trace.fidelity.error <= 1e-5


def padded(lengths: list[int]) -> tuple[Tensor, Tensor]:
    """A left-padded batch of random prompts and its mask."""
    width = max(lengths)
    ids = prompt(width, len(lengths))
    mask = torch.stack([torch.arange(width) >= width - length for length in lengths]).long()
    return ids.masked_fill(mask == 0, PAD), mask


def own_text(row: Tensor, prompt_mask: Tensor) -> Tensor:
    """One returned row without its padding: left of the prompt, and after the end token."""
    kept = row[int((prompt_mask == 0).sum()) :]
    length = int(prompt_mask.sum())
    ends = (kept[length:] == EOS).nonzero().flatten()
    return kept if not len(ends) else kept[: length + int(ends[0]) + 1]


@pytest.mark.usefixtures("large_or_small")
@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize("name", WINDOWED)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_cache": False},
        {"cache_implementation": "static"},
        {"prefill_chunk_size": 4},
        {"prefill_chunk_size": 3, "cache_implementation": "static"},
        {"do_sample": True, "temperature": 1.7, "top_k": 20},
        {"num_return_sequences": 3, "do_sample": True},
    ],
    ids=["dynamic", "no-cache", "static", "chunked", "chunked-static", "sampled", "three-returned"],
)
def test_left_padded_batches(name: str, kernel: str, options: dict[str, Any]) -> None:
    model = tiny(name, kernel)
    ids, mask = padded([11, 4, 8])
    torch.manual_seed(0)
    with gentrace.record(model) as recorder:
        out = model.generate(ids, attention_mask=mask, max_new_tokens=7, **{"do_sample": False} | options)
    times = options.get("num_return_sequences", 1)
    assert len(recorder.traces) == 3 * times
    for index, trace in enumerate(recorder.traces):
        check(trace, model, own_text(out[index], mask[index // times]))
        assert trace.tokens.prompt_length == int(mask[index // times].sum())


def test_sequences_that_end_at_different_lengths() -> None:
    model = tiny("llama")
    ids = prompt(6, 8)
    torch.manual_seed(1)
    with torch.no_grad():
        # Makes the end token likely enough for some sequences to stop early.
        model.lm_head.weight[EOS] *= 3.0
    with gentrace.record(model) as recorder:
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=True)
    texts = [own_text(row, torch.ones(6)) for row in out]
    assert len({len(text) for text in texts}) > 2
    for trace, text in zip(recorder.traces, texts, strict=True):
        assert len(trace.tokens) == len(text)
        assert trace.length == len(text) - 1
        check(trace, model, text)


def test_a_stop_string_ends_a_sequence_without_an_end_token() -> None:
    from transformers import StoppingCriteria

    class StopAfter(StoppingCriteria):
        def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
            return torch.tensor([input_ids.shape[1] >= 6 + 2, input_ids.shape[1] >= 6 + 4])

    model = tiny("llama")
    ids = prompt(6, 2)
    with gentrace.record(model) as recorder:
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=9, do_sample=False, stopping_criteria=[StopAfter()]
        )
    assert [len(trace.tokens) for trace in recorder.traces] == [8, 10]
    for row, trace in zip(out, recorder.traces, strict=True):
        check(trace, model, row[: len(trace.tokens)])


def test_sampled_from_is_what_generate_applied() -> None:
    model = tiny("llama")
    ids, mask = padded([9, 5])
    settings = {
        "temperature": 0.6,
        "top_k": 12,
        "top_p": 0.9,
        "repetition_penalty": 1.3,
        "bad_words_ids": [[7], [11, 12]],
    }
    torch.manual_seed(0)
    with gentrace.record(model) as recorder:
        out = model.generate(
            ids,
            attention_mask=mask,
            max_new_tokens=6,
            min_new_tokens=6,
            do_sample=True,
            output_scores=True,
            return_dict_in_generate=True,
            **settings,
        )
    for index, trace in enumerate(recorder.traces):
        tokens, start = trace.tokens, trace.tokens.prompt_length
        scores = torch.stack([step[index] for step in out.scores]).log_softmax(-1)
        expected = scores.gather(-1, out.sequences[index, 9:, None])[:, 0]
        assert distance(tokens.sampled_logprobs[start:], expected) <= 1e-5
        assert bool(tokens.sampled_logprobs[:start].isnan().all())
        alternatives = scores.gather(-1, tokens.top_ids[start:]).exp()
        assert distance(tokens.top_sampled_logprobs[start:].exp(), alternatives) <= 1e-5
        assert float((tokens.sampled_logprobs - tokens.logprobs)[start:].abs().max()) > 0.1


def test_greedy_samples_from_the_model_itself() -> None:
    model = tiny("llama")
    trace = gentrace_one(model, prompt(5), max_new_tokens=4, do_sample=False)
    start = trace.tokens.prompt_length
    assert trace.tokens.sampled_logprobs[start:].tolist() == trace.tokens.logprobs[start:].tolist()


def gentrace_one(model: PreTrainedModel, ids: Tensor, **options: Any) -> gentrace.Trace:
    """Record one generation of one sequence."""
    with gentrace.record(model) as recorder:
        model.generate(ids, attention_mask=torch.ones_like(ids), **options)
    return recorder.trace


@pytest.mark.parametrize("name", WINDOWED)
def test_a_loop_of_your_own(name: str) -> None:
    model, ids = tiny(name), prompt(6, 2)
    with gentrace.record(model) as recorder, torch.no_grad():
        cache, text, given = None, ids, ids
        for _ in range(5):
            output = model(given, past_key_values=cache, use_cache=True)
            cache, given = output.past_key_values, output.logits[:, -1:].argmax(-1)
            text = torch.cat([text, given], -1)
    assert len(recorder.traces) == 2
    for row, trace in zip(text[:, :-1], recorder.traces, strict=True):
        assert trace.length == len(trace.tokens) == 10
        assert trace.tokens.prompt_length == 6
        assert bool(trace.tokens.sampled_logprobs.isnan().all())
        check(trace, model, row)


@pytest.mark.parametrize("static", [False, True])
def test_a_loop_with_a_cache_made_beforehand(static: bool) -> None:
    model, ids = tiny("gemma3"), prompt(8)
    cache = StaticCache(config=model.config, max_cache_len=20) if static else DynamicCache(config=model.config)
    with gentrace.record(model) as recorder, torch.no_grad():
        for start, stop in ((0, 5), (5, 6), (6, 8)):
            mask = torch.ones(1, stop, dtype=torch.long)
            model(ids[:, start:stop], past_key_values=cache, attention_mask=mask)
    check(recorder.trace, model, ids[0])


def test_a_cropped_cache_is_overwritten() -> None:
    model, ids = tiny("llama"), prompt(8)
    other = prompt(3, seed=9)
    cache = DynamicCache(config=model.config)
    with gentrace.record(model) as recorder, torch.no_grad():
        model(ids, past_key_values=cache)
        cache.crop(-3)
        model(other, past_key_values=cache)
    check(recorder.trace, model, torch.cat([ids[0, :5], other[0]]))


def test_every_forward_without_a_cache_is_a_trace() -> None:
    model, first, second = tiny("qwen3"), prompt(6), prompt(9, seed=4)
    with gentrace.record(model) as recorder, torch.no_grad():
        model(first, use_cache=False)
        model(second, use_cache=False)
    assert [trace.length for trace in recorder.traces] == [6, 9]
    check(recorder.traces[0], model, first[0])
    check(recorder.traces[1], model, second[0])
    with pytest.raises(gentrace.CaptureError, match=r"2 traces.*traces"):
        _ = recorder.trace


def test_right_padding_in_a_forward_never_shows() -> None:
    model, ids = tiny("llama"), prompt(9, 2)
    mask = torch.tensor([[1] * 9, [1] * 5 + [0] * 4])
    with gentrace.record(model) as recorder, torch.no_grad():
        model(ids, attention_mask=mask)
    check(recorder.traces[0], model, ids[0])
    check(recorder.traces[1], model, ids[1, :5])


def test_a_second_generate_gives_further_traces() -> None:
    model, first, second = tiny("llama"), prompt(5), prompt(7, seed=2)
    with gentrace.record(model) as recorder:
        one = model.generate(first, max_new_tokens=4, do_sample=False)
        two = model.generate(second, max_new_tokens=3, do_sample=False)
    check(recorder.traces[0], model, one[0])
    check(recorder.traces[1], model, two[0])


@pytest.mark.parametrize("name", WINDOWED)
def test_a_chat_that_began_before_recording(name: str) -> None:
    model, ids = tiny(name, "eager"), prompt(6)
    before = model.generate(ids, max_new_tokens=5, min_new_tokens=5, do_sample=False, return_dict_in_generate=True)
    turn = torch.cat([before.sequences, prompt(4, seed=5)], -1)
    with gentrace.record(model) as recorder:
        out = model.generate(
            turn,
            attention_mask=torch.ones_like(turn),
            past_key_values=before.past_key_values,
            max_new_tokens=4,
            min_new_tokens=4,
            do_sample=False,
        )
    trace, cached = recorder.trace, before.sequences.shape[1] - 1
    expected, logits = full_forward(model, out[0, :-1])
    assert trace.tokens.ids.tolist() == out[0].tolist()
    assert trace.tokens.prompt_length == turn.shape[1]
    for layer, reference in enumerate(expected):
        assert bool(trace.attention(layer)[:, :cached].isnan().all())
        assert bool(trace.scores(layer)[:, :cached].isnan().all())
        assert distance(trace.attention(layer)[:, cached:], reference[:, cached:]) <= 1e-5
    logprobs = logits.log_softmax(-1).gather(-1, out[0, 1:, None])[:, 0]
    assert bool(trace.tokens.logprobs[: cached + 1].isnan().all())
    assert distance(trace.tokens.logprobs[cached + 1 :], logprobs[cached:]) <= 1e-4


@pytest.mark.usefixtures("large_or_small")
@pytest.mark.parametrize("name", WINDOWED)
def test_a_chat_recorded_from_its_beginning_is_whole(name: str) -> None:
    model, ids = tiny(name), prompt(6)
    with gentrace.record(model) as recorder:
        one = model.generate(ids, max_new_tokens=5, min_new_tokens=5, do_sample=False, return_dict_in_generate=True)
        turn = torch.cat([one.sequences, prompt(4, seed=5)], -1)
        two = model.generate(
            turn,
            attention_mask=torch.ones_like(turn),
            past_key_values=one.past_key_values,
            max_new_tokens=4,
            min_new_tokens=4,
            do_sample=False,
        )
    check(recorder.traces[0], model, one.sequences[0])
    check(recorder.traces[1], model, two[0])


def test_a_mask_of_your_own() -> None:
    model, ids = tiny("llama"), prompt(10)
    allowed = torch.ones(10, 10).tril().bool() & (torch.rand(10, 10, generator=torch.Generator().manual_seed(0)) > 0.4)
    allowed |= torch.eye(10).bool()
    additive = torch.zeros(1, 1, 10, 10).masked_fill(~allowed, torch.finfo(torch.float32).min)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        expected = model(ids, attention_mask=additive, output_attentions=True).attentions
        with gentrace.record(model) as recorder:
            model(ids, attention_mask=additive)
    trace = recorder.trace
    assert bool((trace.scores(0)[0].isneginf() == ~allowed).all())
    for layer, reference in enumerate(expected):
        assert distance(trace.attention(layer), reference[0]) <= 1e-5


def test_a_bias_in_the_mask_is_kept_as_a_term() -> None:
    model, ids = tiny("llama", "eager"), prompt(8)
    bias = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    additive = bias.masked_fill(~torch.ones(8, 8).tril().bool(), torch.finfo(torch.float32).min)
    with torch.no_grad():
        expected = model(ids, attention_mask=additive, output_attentions=True).attentions
        with gentrace.record(model) as recorder:
            model(ids, attention_mask=additive)
    for layer, reference in enumerate(expected):
        assert distance(recorder.trace.attention(layer), reference[0]) <= 1e-5
    terms = recorder.trace.score_terms(1, 2, 6)
    assert distance(terms.bias[:7], bias[0, 2, 6, :7]) == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
def test_half_precision(dtype: torch.dtype, kernel: str) -> None:
    model, ids = tiny("qwen3", kernel, dtype=dtype), prompt(9)
    trace = gentrace_one(model, ids, max_new_tokens=6, min_new_tokens=6, do_sample=False)
    expected, _ = full_forward(model, trace.tokens.ids[:-1])
    assert trace.queries(0).dtype == dtype
    assert trace.meta.dtype == str(dtype).removeprefix("torch.")
    for layer, reference in enumerate(expected):
        assert trace.attention(layer).dtype == torch.float32
        assert distance(trace.attention(layer), reference) <= 2e-2


def test_selected_layers_and_values() -> None:
    model, ids = tiny("llama"), prompt(6)
    with gentrace.record(model, layers=[2], values=True) as recorder:
        out = model.generate(ids, max_new_tokens=4, do_sample=False)
    trace = recorder.trace
    assert [info.index for info in trace.layers] == [2]
    expected, _ = full_forward(model, out[0, :-1])
    assert distance(trace.attention(2), expected[2]) <= 1e-5
    assert trace.values(2).shape == (2, trace.length, 12)
    assert len(trace.fidelity.layers[2].rows) > 2
    with pytest.raises(gentrace.AttentionUnavailable, match="layers recorded: 2"):
        trace.attention(0)
    with pytest.raises(gentrace.AttentionUnavailable, match="heads 0 … 3"):
        trace.attention(2, 4)


def test_values_are_those_that_attention_mixes() -> None:
    model, ids = tiny("llama"), prompt(6)
    inputs = []
    hook = model.model.layers[1].self_attn.o_proj.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    with gentrace.record(model, values=True) as recorder, torch.no_grad():
        model(ids)
    hook.remove()
    trace = recorder.trace
    values = trace.values(1).repeat_interleave(2, 0)
    mixed = (trace.attention(1) @ values).transpose(0, 1).reshape(6, -1)
    assert distance(mixed, inputs[0][0]) <= 1e-5


def test_bytes_grow_with_the_length_and_not_its_square() -> None:
    model = tiny("llama")
    for length in (10, 40):
        trace = gentrace_one(model, prompt(length), max_new_tokens=5, min_new_tokens=5, do_sample=False)
        sizes = {name: trace.store.tensor(name).nbytes for name in trace.store.names()}
        rows = sum(size for name, size in sizes.items() if name.startswith("layers."))
        assert rows == 3 * (4 + 2) * 12 * (length + 4) * 4
        assert sum(sizes.values()) - rows == 2 * 4 * (length + 4)
        held = {trace.store.tensor(name).untyped_storage().data_ptr(): trace.store.tensor(name) for name in sizes}
        assert sum(tensor.untyped_storage().nbytes() for tensor in held.values()) <= 1.1 * sum(sizes.values())


def test_tokens_alone() -> None:
    model, ids = tiny("llama"), prompt(6)
    with gentrace.record(model, layers=()) as recorder:
        out = model.generate(ids, max_new_tokens=4, do_sample=False)
    assert recorder.trace.layers == ()
    assert recorder.trace.length == 9
    logprobs = full_forward(model, out[0, :-1])[1].log_softmax(-1).gather(-1, out[0, 1:, None])[:, 0]
    assert distance(recorder.trace.tokens.logprobs[1:], logprobs) <= 1e-4


def test_the_comparison_can_fail() -> None:
    model = tiny("llama")
    trace = gentrace_one(model, prompt(6), max_new_tokens=4, do_sample=False)
    other = tiny("llama", seed=1)
    with pytest.raises(AssertionError):
        check(trace, other, trace.tokens.ids)
    trace.store.tensor("layers.1.self.keys")[0, 3] *= 1.01
    with pytest.raises(AssertionError):
        check(trace, model, trace.tokens.ids)
