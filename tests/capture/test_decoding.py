"""Searching, drafting, guiding: each sequence gets the rows of its own text, and what was dropped is kept apart."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel, StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

import gentrace
from gentrace.demo import load_story_model
from tests.capture.test_generation import check, own_text, padded
from tests.models import EOS, prompt, tiny

TYPES = ("llama", "mistral", "gpt2")


def generate(model: PreTrainedModel, ids: Tensor, mask: Tensor, **options: Any) -> tuple[Tensor, list[gentrace.Trace]]:
    """Record a generation, after having made sure that recording does not change it."""
    torch.manual_seed(0)
    plain = model.generate(ids, attention_mask=mask, **options)
    torch.manual_seed(0)
    with gentrace.record(model) as recorder:
        out = model.generate(ids, attention_mask=mask, **options)
    assert torch.equal(out, plain)
    return out, recorder.traces


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 3},
        {"num_beams": 4, "num_return_sequences": 3, "length_penalty": 2.0},
        {"num_beams": 4, "num_return_sequences": 4, "early_stopping": True},
        {"num_beams": 4, "num_return_sequences": 2, "early_stopping": "never", "length_penalty": -1.0},
        {"num_beams": 3, "do_sample": True, "temperature": 1.5},
        {"num_beams": 3, "use_cache": False},
        {"num_beams": 3, "cache_implementation": "static"},
        {"num_beams": 2, "prefill_chunk_size": 4},
        {"num_beams": 3, "repetition_penalty": 1.5, "no_repeat_ngram_size": 2},
    ],
    ids=["plain", "three", "early", "never", "sampled", "no-cache", "static", "chunked", "processed"],
)
def test_beam_search(name: str, options: dict[str, Any]) -> None:
    model = tiny(name)
    ids, mask = padded([9, 5])
    with torch.no_grad():
        # Makes some hypotheses end before the others.
        model.get_output_embeddings().weight[EOS] *= 2.0
    out, traces = generate(model, ids, mask, max_new_tokens=8, **options)
    returned = options.get("num_return_sequences", 1)
    assert len(traces) == 2 * returned
    for index, trace in enumerate(traces):
        check(trace, model, own_text(out[index], mask[index // returned]))


def test_beams_hold_the_genealogy() -> None:
    model = tiny("llama")
    ids = prompt(6)
    model.generation_config.return_dict_in_generate = True
    with gentrace.record(model) as recorder:
        out = model.generate(
            ids, max_new_tokens=6, num_beams=3, num_return_sequences=2, output_scores=True, length_penalty=0.0
        )
    for number, trace in enumerate(recorder.traces):
        beams = trace.beams
        assert beams is not None
        assert beams.width == 3
        generated = out.sequences[number, 6:].tolist()
        path = out.beam_indices[number].tolist()
        total = 0.0
        for step, token, parent in zip(beams.steps, generated, path, strict=False):
            if parent < 0:
                break
            assert (step.ids[step.chosen], step.parents[step.chosen]) == (token, parent)
            total += float(trace.tokens.logprobs[step.position])
            assert step.scores[step.chosen] == pytest.approx(total, abs=1e-4)
            assert step.logprobs[step.chosen] == pytest.approx(float(trace.tokens.logprobs[step.position]), abs=1e-5)
            # The best that go on are kept, in the order of their scores.
            alive = [score for score, ended in zip(step.scores, step.ended, strict=True) if not ended]
            kept = sorted((beam, score) for beam, score in zip(step.beams, step.scores, strict=True) if beam >= 0)
            assert [score for _, score in kept] == pytest.approx(sorted(alive, reverse=True)[:3])
        assert float(out.sequences_scores[number]) == pytest.approx(total, abs=1e-4)
    with gentrace.record(model) as recorder:
        model.generate(ids, max_new_tokens=2, do_sample=False)
    assert recorder.trace.beams is None


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("options", [{"do_sample": False}, {"do_sample": True}], ids=["greedy", "sampled"])
@pytest.mark.parametrize("drafter", ["another", "lookup", "good"])
def test_drafts(name: str, drafter: str, options: dict[str, Any]) -> None:
    model, ids = tiny(name), prompt(9)
    ids[0, 5:] = ids[0, :4]

    def drafting() -> dict[str, Any]:
        if drafter == "lookup":
            return {"prompt_lookup_num_tokens": 3}
        # An assistant adapts the number of its drafts, so each generation gets a fresh one.
        return {"assistant_model": tiny(name, seed=0 if drafter == "good" else 1)}

    torch.manual_seed(0)
    plain = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=20, **options, **drafting())
    torch.manual_seed(0)
    with gentrace.record(model) as recorder:
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=20, **options, **drafting())
    assert torch.equal(out, plain)
    trace = recorder.trace
    check(trace, model, out[0])
    assert bool(trace.tokens.sampled_logprobs[9:].isfinite().all())
    if drafter == "another":
        assert trace.drafts
    # Each is checked after the text itself, or after the drafts that were rejected before it.
    text = out[:, :0]
    for draft in trace.drafts:
        if not draft.follows:
            assert draft.position >= len(out[0]) or draft.id != out[0, draft.position]
            text = out[:, : draft.position]
        assert text.shape[1] == draft.position
        with torch.no_grad():
            logits = model(text, use_cache=False).logits[0, -1]
        assert draft.logprob == pytest.approx(float(logits.log_softmax(-1)[draft.id]), abs=1e-4)
        text = torch.cat([text, torch.tensor([[draft.id]])], 1)


def test_a_model_that_drafts_for_itself() -> None:
    model, ids = tiny("llama"), prompt(7)
    out, traces = generate(model, ids, torch.ones_like(ids), max_new_tokens=9, assistant_early_exit=2, do_sample=False)
    check(traces[0], model, out[0])


@pytest.mark.parametrize("name", TYPES)
def test_guidance_runs_beside_the_text(name: str) -> None:
    model = tiny(name)
    ids, mask = padded([9, 5])
    out, traces = generate(model, ids, mask, max_new_tokens=7, guidance_scale=1.7, do_sample=True)
    for index, trace in enumerate(traces):
        check(trace, model, own_text(out[index], mask[index]))
        # What was sampled from is not the model's own distribution.
        generated = slice(trace.tokens.prompt_length, None)
        assert not torch.allclose(trace.tokens.sampled_logprobs[generated], trace.tokens.logprobs[generated])


def test_a_watermark_and_its_distribution() -> None:
    from transformers import WatermarkingConfig

    model, ids = tiny("llama"), prompt(9)
    mark = WatermarkingConfig(bias=4.0, seeding_scheme="lefthash")
    out, traces = generate(model, ids, torch.ones_like(ids), max_new_tokens=7, watermarking_config=mark)
    check(traces[0], model, out[0])


def test_streamers_and_time_limits() -> None:
    class Heard(BaseStreamer):
        def __init__(self) -> None:
            self.tokens: list[int] = []

        def put(self, value: Tensor) -> None:
            self.tokens += value.flatten().tolist()

        def end(self) -> None:
            pass

    model, ids, heard = tiny("llama"), prompt(9), Heard()
    with gentrace.record(model) as recorder:
        out = model.generate(ids, max_new_tokens=7, do_sample=False, streamer=heard)
        cut = model.generate(ids, max_new_tokens=50, do_sample=False, max_time=1e-9)
    assert heard.tokens == out[0].tolist()
    check(recorder.traces[0], model, out[0])
    assert cut.shape[1] < 59
    check(recorder.traces[1], model, cut[0])


def own_loop(model: PreTrainedModel, input_ids: Tensor, **options: Any) -> Tensor:
    """A generation function of a user's own: greedy, with the cache, three tokens."""
    cache = None
    text = input_ids
    for _ in range(3):
        fed = text if cache is None else text[:, -1:]
        output = model(fed, past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        text = torch.cat([text, output.logits[:, -1:].argmax(-1)], 1)
    return text


def test_a_generation_function_of_ones_own() -> None:
    model, ids = tiny("llama"), prompt(6, 2)
    with gentrace.record(model) as recorder:
        out = model.generate(ids, custom_generate=own_loop, max_new_tokens=3)
    for trace, text in zip(recorder.traces, out, strict=True):
        check(trace, model, text)


def test_what_returns_another_text_than_it_fed_is_refused() -> None:
    def wrong(model: PreTrainedModel, input_ids: Tensor, **options: Any) -> Tensor:
        text = own_loop(model, input_ids)
        text[:, 6] += 1
        return text

    model = tiny("llama")
    with gentrace.record(model) as recorder:
        model.generate(prompt(6), custom_generate=wrong, max_new_tokens=3)
    with pytest.raises(gentrace.UnsupportedModel, match=r"was fed at position 6 of sequence 0, generate returned"):
        _ = recorder.traces


def test_stopping_criteria_of_ones_own_end_beams_too() -> None:
    class AfterThree(StoppingCriteria):
        def __call__(self, input_ids: Tensor, scores: Any, **options: Any) -> Tensor:
            return torch.full((len(input_ids),), input_ids.shape[1] >= 9)

    model, ids = tiny("llama"), prompt(6)
    criteria = StoppingCriteriaList([AfterThree()])
    out, traces = generate(model, ids, torch.ones_like(ids), max_new_tokens=9, num_beams=2, stopping_criteria=criteria)
    check(traces[0], model, out[0])


def test_stop_strings() -> None:
    model, tokenizer = load_story_model()
    ids = tokenizer("Once upon a time", return_tensors="pt")["input_ids"]
    ends = {"pad_token_id": tokenizer.eos_token_id, "do_sample": False, "tokenizer": tokenizer}
    with gentrace.record(model, tokenizer) as recorder:
        out = model.generate(ids, max_new_tokens=60, stop_strings=["."], **ends)
    trace = recorder.trace
    assert trace.tokens.texts[-1].endswith(".")
    assert trace.tokens.text.count(".") == 1
    check(trace, model, out[0])


def test_an_assistant_is_recorded_only_if_asked_for() -> None:
    model, assistant, ids = tiny("llama"), tiny("llama", seed=1), prompt(6)
    with gentrace.record(model) as recorder, gentrace.record(assistant) as beside:
        out = model.generate(ids, assistant_model=assistant, max_new_tokens=8, do_sample=False)
    check(recorder.trace, model, out[0])
    # Each of its drafts is a generation of its own.
    assert len(beside.traces) > 1
    for trace in beside.traces:
        check(trace, assistant, trace.tokens.ids)
