"""What a watcher is shown while the model goes on is what the finished trace holds, and watching changes nothing."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel, StaticCache

import gentrace
from gentrace.capture.glance import Glance
from tests.capture.homemade import Decoder, plain, talking
from tests.capture.test_encoders import source, translator
from tests.capture.test_generation import padded
from tests.capture.test_spill import Words, same
from tests.models import prompt, tiny

STATIC = {"cache_implementation": "static", "disable_compile": True}
GREEDY = {"max_new_tokens": 20, "min_new_tokens": 20, "do_sample": False}


class Seen:
    """An observer that reads everything it can at each step."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Any]] = []

    def __call__(self, glance: Glance) -> None:
        self.steps.append(
            {
                "position": glance.position,
                "ids": glance.ids,
                "prompt": glance.prompt_length,
                "probability": glance.probability,
                "next": glance.alternatives(4),
                "finished": glance.finished,
                "encoder": glance.encoder_ids,
                "rows": {
                    (info.kind, info.index): glance.attention(info.index, kind=info.kind)
                    for info in glance.layers
                    if info.kind != "encoder"
                },
            }
        )

    def equals(self, trace: gentrace.Trace, positions: list[int]) -> None:
        """Assert that the steps are these rows of the trace, the last of them twice: once more when all was over."""
        tokens = trace.tokens
        assert [step["position"] for step in self.steps] == positions
        for step in self.steps:
            row, length = step["position"], len(step["ids"])
            assert length == row + 1 + step["finished"]
            assert step["ids"] == tuple(tokens.ids[:length].tolist())
            assert step["prompt"] == tokens.prompt_length
            assert {(info.kind, info.index) for info in trace.layers if info.kind != "encoder"} == set(step["rows"])
            for (kind, layer), weights in step["rows"].items():
                expected = trace.attention(layer, kind=kind)[:, row]
                keys = weights.shape[1]
                assert keys == (row + 1 if kind == "self" else trace.encoder_length)
                assert float((weights - expected[:, :keys]).abs().max()) <= 1e-6, (kind, layer, row)
                assert float(expected[:, keys:].abs().sum()) == 0
                assert float(weights.max()) > 0
            if length > tokens.prompt_length:
                assert step["probability"] == pytest.approx(float(tokens.logprobs[length - 1].exp()), abs=1e-5)
            assert [token for token, _ in step["next"]] == tokens.top_ids[row + 1, :4].tolist()
            assert [share for _, share in step["next"]] == pytest.approx(
                tokens.top_logprobs[row + 1, :4].exp().tolist(), abs=1e-5
            )
        assert [step["finished"] for step in self.steps] == [False] * (len(positions) - 1) + [True]


def watched(model: PreTrainedModel, sequence: int = 0, record: dict[str, Any] | None = None, **call: Any) -> Any:
    """One generation; what was seen of it, and all its traces."""
    seen = Seen()
    torch.manual_seed(3)
    with gentrace.record(model, Words(), **record or {}) as recorder:
        recorder.watch(seen, sequence=sequence)
        model.generate(**call)
    return seen, recorder.traces


@pytest.mark.parametrize(
    ("name", "kernel", "options"),
    [
        ("llama", "sdpa", {}),
        ("llama", "sdpa", STATIC),
        ("llama", "sdpa", {"use_cache": False}),
        ("llama", "sdpa", {"prefill_chunk_size": 4}),
        ("gpt2", "eager", {"do_sample": True, "temperature": 0.7}),
        ("mistral", "sdpa", {}),
        ("gemma3", "eager", STATIC),
        ("gpt_oss", "eager", {}),
    ],
)
def test_every_step_is_the_traces_row(name: str, kernel: str, options: dict[str, Any]) -> None:
    ids, mask = padded([5, 9])
    call = {"input_ids": ids, "attention_mask": mask, **GREEDY, **options}
    for sequence, length in ((0, 5), (1, 9)):
        seen, traces = watched(tiny(name, kernel), sequence, **call)
        rows = [*range(length - 1, length + 19)]
        if "prefill_chunk_size" in options:
            # The shorter text's first chunk is padding alone; of the others the prompt's length is not known yet.
            chunks, seen.steps = seen.steps[:-21], seen.steps[-21:]
            assert [step["position"] for step in chunks] == [[3], [3, 7]][sequence]
        seen.equals(traces[sequence], [*rows, rows[-1]])


@pytest.mark.parametrize("name", ["llama", "mistral"])
def test_recordings_on_disk(name: str, tmp_path: Path) -> None:
    ids, mask = padded([6])
    call = {"input_ids": ids, "attention_mask": mask, **GREEDY, "max_new_tokens": 40, "min_new_tokens": 40}
    seen, (trace,) = watched(tiny(name), record={"spill_dir": tmp_path}, **call)
    seen.equals(trace, [*range(5, 45), 44])


@pytest.mark.parametrize("name", ["bart", "t5"])
def test_encoder_decoders(name: str) -> None:
    inputs = source(name)
    for sequence in (0, 1):
        seen, traces = watched(translator(name, "sdpa" if name == "bart" else "eager"), sequence, **inputs, **GREEDY)
        trace = traces[sequence]
        seen.equals(trace, [*range(20), 19])
        assert trace.encoder_tokens is not None
        assert all(step["encoder"] == tuple(trace.encoder_tokens.ids.tolist()) for step in seen.steps)


@pytest.mark.parametrize("attend", [plain, talking])
def test_a_module_of_ones_own(attend: Any) -> None:
    model, seen = Decoder(attend).eval(), Seen()
    with gentrace.record(model) as recorder, torch.no_grad():
        recorder.watch(seen)
        model(prompt(7) % 20)
    trace = recorder.trace
    assert ("scores only" in trace.layers[0].source) == (attend is talking)
    (step,) = seen.steps
    assert len(step["rows"]) == len(trace.layers)
    for (_, layer), weights in step["rows"].items():
        assert float((weights - trace.attention(layer)[:, -1]).abs().max()) <= 1e-6


def test_a_loop_of_ones_own() -> None:
    model, seen = tiny("llama"), Seen()
    with gentrace.record(model) as recorder, torch.no_grad():
        recorder.watch(seen)
        cache = StaticCache(config=model.config, max_cache_len=32)
        for start, stop in ((0, 6), (6, 7), (7, 9), (9, 10)):
            model(prompt(12)[:, start:stop], past_key_values=cache)
    trace = recorder.trace
    assert [step["position"] for step in seen.steps] == [5, 6, 8, 9]
    for step in seen.steps:
        assert step["ids"] == tuple(prompt(12)[0, : step["position"] + 1].tolist())
        for (_, layer), weights in step["rows"].items():
            expected = trace.attention(layer)[:, step["position"], : step["position"] + 1]
            assert float((weights - expected).abs().max()) <= 1e-6


def test_what_is_shown_can_be_used_outside_of_inference_mode() -> None:
    model, seen = tiny("llama"), Seen()
    with gentrace.record(model) as recorder, torch.inference_mode():
        recorder.watch(seen)
        model.generate(prompt(5), **GREEDY)
    seen.equals(recorder.trace, [*range(4, 24), 23])
    assert not any(weights.is_inference() for step in seen.steps for weights in step["rows"].values())


def test_drafts_are_shown_once_they_are_text() -> None:
    ids = prompt(4).repeat(1, 4)
    seen, (trace,) = watched(tiny("llama"), input_ids=ids, **GREEDY, prompt_lookup_num_tokens=3)
    positions = [step["position"] for step in seen.steps]
    assert positions == sorted(positions)
    assert positions[-1] == trace.length - 1
    seen.equals(trace, positions)


def test_a_sequence_that_ends_before_the_others() -> None:
    model = tiny("llama")
    ids, mask = padded([5, 8])
    free = model.generate(ids, attention_mask=mask, **GREEDY)
    stop = int(free[0, 8 + 6])
    assert stop not in free[1, 8:].tolist()[:12]
    for sequence in (0, 1):
        call = {"input_ids": ids, "attention_mask": mask, "max_new_tokens": 12, "eos_token_id": stop}
        seen, traces = watched(model, sequence, **call, do_sample=False)
        first = [5, 8][sequence] - 1
        seen.equals(traces[sequence], [*range(first, traces[sequence].length), traces[sequence].length - 1])


@pytest.mark.parametrize(
    ("name", "options"),
    [("llama", {}), ("llama", STATIC | {"do_sample": True}), ("mistral", {"num_beams": 2}), ("gpt2", {})],
)
def test_recording_is_the_same(name: str, options: dict[str, Any]) -> None:
    ids, mask = padded([5, 9])
    call = {"input_ids": ids, "attention_mask": mask, **GREEDY, **options}
    model = tiny(name)
    torch.manual_seed(3)
    with gentrace.record(model, Words()) as recorder:
        model.generate(**call)
    seen = Seen()
    torch.manual_seed(3)
    with gentrace.record(model, Words()) as other:
        other.watch(seen, on_error=lambda _: None)
        model.generate(**call)
    for alone, shown in zip(recorder.traces, other.traces, strict=True):
        same(shown, alone)
        assert shown.fidelity == alone.fidelity
    assert bool(seen.steps) == ("num_beams" not in options)


@contextmanager
def said() -> Iterator[list[str]]:
    messages: list[str] = []
    yield messages
    assert len(messages) == 1, messages


def test_what_cannot_be_shown_is_said_once() -> None:
    model = tiny("llama")
    for options, sequence, layer, message in (
        ({"num_beams": 3}, 0, 0, "hypotheses change places"),
        ({}, 1, 0, "there are 1 in this batch"),
        ({}, 0, 9, "layers recorded: 0, 1, 2"),
    ):
        with said() as messages, gentrace.record(model) as recorder:
            recorder.watch(
                lambda glance, layer=layer: glance.attention(layer),
                sequence=sequence,
                on_error=lambda error, messages=messages: messages.append(str(error)),
            )
            model.generate(prompt(5), **GREEDY, **options)
        assert message in messages[0]
        assert recorder.traces[0].length == 24


def test_an_observer_that_fails_does_not_stop_the_model() -> None:
    model = tiny("llama")
    calls: list[int] = []

    def fails(glance: Glance) -> None:
        calls.append(glance.position)
        if len(calls) == 3:
            raise ZeroDivisionError("observer")

    alone = model.generate(prompt(5), **GREEDY)
    with gentrace.record(model) as recorder:
        recorder.watch(fails)
        with pytest.warns(RuntimeWarning, match="watching ended, the model goes on: observer"):
            sequences = model.generate(prompt(5), **GREEDY)
        again = model.generate(prompt(5), **GREEDY)
    assert calls[:3] == [4, 5, 6]
    # The next generation is watched again.
    assert len(calls) == 3 + 21
    assert sequences.equal(alone)
    assert again.equal(alone)
    assert [trace.length for trace in recorder.traces] == [24, 24]


def test_ctrl_c_in_an_observer_leaves_nothing_behind() -> None:
    model = tiny("llama")
    held: list[Glance] = []

    def interrupt(glance: Glance) -> None:
        held.append(glance)
        if len(held) == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), gentrace.record(model) as recorder:
        recorder.watch(interrupt)
        model.generate(prompt(5), **GREEDY)
    (trace,) = recorder.traces
    assert not trace.meta.complete
    assert trace.length == 5 + 6
    # The newest glance can still be read: nothing was fed since.
    weights: Tensor = held[-1].attention(1)
    assert float((weights - trace.attention(1)[:, 10, :11]).abs().max()) <= 1e-6
    assert model.generate(prompt(5), **GREEDY).shape == (1, 25)
    assert len(held) == 7


def test_watching_can_end() -> None:
    model, seen = tiny("llama"), Seen()
    with gentrace.record(model) as recorder:
        end = recorder.watch(seen)
        model.generate(prompt(5), **GREEDY)
        end()
        end()
        model.generate(prompt(5), **GREEDY)
    assert len(seen.steps) == 21
