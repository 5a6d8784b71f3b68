"""Recordings on disk are the same as recordings in memory, and outlive whoever made them."""

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import gentrace
from tests.capture.test_generation import padded
from tests.models import prompt, tiny
from tests.oracle import distance

NAMES = ("llama", "mistral", "gemma2", "gpt2", "qwen3", "gpt_oss", "deepseek_v3")


class Words:
    """A tokenizer that needs no file."""

    def decode(self, ids: Any, **_: Any) -> str:
        return "".join(f"<{int(token)}>" for token in (ids if isinstance(ids, list | Tensor) else [ids]))

    def batch_decode(self, rows: Any, **_: Any) -> list[str]:
        return [self.decode(row) for row in rows]


def same(spilled: gentrace.Trace, kept: gentrace.Trace) -> None:
    """Everything but the time is equal, to the last bit."""
    assert spilled.layers == kept.layers
    assert spilled.length == kept.length
    assert spilled.fidelity.layers.keys() == kept.fidelity.layers.keys()
    assert spilled.meta.generation == kept.meta.generation
    for info in kept.layers:
        where = {"kind": info.kind}
        assert spilled.attention(info.index, **where).equal(kept.attention(info.index, **where))
        assert spilled.scores(info.index, **where).equal(kept.scores(info.index, **where))
        if info.head_dim:
            assert spilled.queries(info.index, **where).equal(kept.queries(info.index, **where))
    assert spilled.to_pandas().equals(kept.to_pandas())
    for name in ("top_ids", "top_logprobs", "top_sampled_logprobs"):
        assert torch.equal(getattr(spilled.tokens, name).nan_to_num(7), getattr(kept.tokens, name).nan_to_num(7))
    assert spilled.tokens.texts == kept.tokens.texts
    assert spilled.tokens.top_texts == kept.tokens.top_texts


def both(
    model: Any, folder: Path, ids: Tensor, mask: Tensor, record: dict[str, Any], **options: Any
) -> tuple[Any, Any]:
    traces = []
    for spill in (None, folder):
        torch.manual_seed(3)
        with gentrace.record(model, Words(), spill_dir=spill, **record) as recorder:
            model.generate(ids, attention_mask=mask, **options)
        traces.append(recorder.traces)
    return traces[0], traces[1]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("cache", ["dynamic", "static", "none"])
def test_the_same_as_in_memory(name: str, cache: str, tmp_path: Path) -> None:
    model = tiny(name, "eager")
    ids, mask = padded([9, 4])
    options = {
        "dynamic": {},
        "static": {"cache_implementation": "static", "disable_compile": True},
        "none": {"use_cache": False},
    }[cache]
    kept, spilled = both(
        model, tmp_path, ids, mask, {"values": True}, max_new_tokens=40, min_new_tokens=40, do_sample=False, **options
    )
    for one, other in zip(kept, spilled, strict=True):
        same(other, one)
    files = sorted(tmp_path.iterdir())
    assert [path.name for path in files] == ["trace-0001.safetensors", "trace-0002.safetensors"]
    same(gentrace.load(files[1]), kept[1])


def test_sequences_that_end_early_and_samples(tmp_path: Path) -> None:
    model = tiny("llama")
    ids, mask = padded([6, 3])
    kept, spilled = both(
        model, tmp_path, ids, mask, {}, max_new_tokens=60, do_sample=True, temperature=1.5, num_return_sequences=2
    )
    assert len({trace.length for trace in kept}) > 1
    for one, other in zip(kept, spilled, strict=True):
        same(other, one)


def test_masks_that_are_no_runs(tmp_path: Path) -> None:
    model = tiny("llama")
    ids = prompt(8)
    mask = torch.tensor([[1, 1, 0, 1, 1, 0, 1, 1]])
    kept, spilled = both(model, tmp_path, ids, mask, {}, max_new_tokens=20, min_new_tokens=20, do_sample=False)
    same(spilled[0], kept[0])


def test_position_biases_and_scores_stay_beside_the_rows(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    from tests.capture.test_devices import HOME_GROWN

    model = AutoModelForCausalLM.from_config(HOME_GROWN["bloom"]).eval()
    kept, spilled = both(
        model, tmp_path, prompt(7), torch.ones(1, 7).long(), {}, max_new_tokens=20, min_new_tokens=20, do_sample=False
    )
    same(spilled[0], kept[0])


def test_encoders_and_what_decoders_see_of_them(tmp_path: Path) -> None:
    from transformers import BartConfig, BartForConditionalGeneration

    config = BartConfig(
        vocab_size=97,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_position_embeddings=64,
    )
    torch.manual_seed(0)
    model = BartForConditionalGeneration(config).eval()
    kept, spilled = both(
        model,
        tmp_path,
        prompt(7),
        torch.ones(1, 7).long(),
        {},
        max_new_tokens=20,
        min_new_tokens=20,
        do_sample=False,
        num_beams=1,
    )
    same(spilled[0], kept[0])
    assert spilled[0].encoder_tokens.ids.equal(kept[0].encoder_tokens.ids)


def test_a_loop_of_ones_own_grows_its_file(tmp_path: Path) -> None:
    model = tiny("llama")
    traces = []
    for spill in (None, tmp_path):
        with gentrace.record(model, spill_dir=spill) as recorder, torch.no_grad():
            cache, fed = None, prompt(4)
            for _ in range(120):
                output = model(fed, past_key_values=cache, use_cache=True)
                cache, fed = output.past_key_values, output.logits[:, -1:].argmax(-1)
        traces.append(recorder.trace)
    same(traces[1], traces[0])


def test_a_chat_goes_on_in_a_file_of_its_own(tmp_path: Path) -> None:
    model = tiny("llama")
    options = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False, "return_dict_in_generate": True}
    traces = []
    for spill in (None, tmp_path):
        with gentrace.record(model, spill_dir=spill) as recorder:
            first = model.generate(prompt(5), **options)
            more = torch.cat([first.sequences, prompt(3, seed=2)], 1)
            model.generate(more, past_key_values=first.past_key_values, **options)
        traces.append(recorder.traces)
    for kept, spilled in zip(*traces, strict=True):
        same(spilled, kept)


def test_beams_are_refused(tmp_path: Path) -> None:
    model = tiny("llama")
    with pytest.raises(gentrace.UnsupportedModel, match="slot"), gentrace.record(model, spill_dir=tmp_path):
        model.generate(prompt(5), max_new_tokens=4, num_beams=2, do_sample=False)


def test_the_folder_has_to_be_there(tmp_path: Path) -> None:
    with pytest.raises(gentrace.CaptureError, match="no folder"):
        gentrace.record(tiny("llama"), spill_dir=tmp_path / "nowhere")


WRITER = """
import sys, torch, gentrace
from tests.models import prompt, tiny
from tests.capture.test_spill import Words
model = tiny("llama")
model.register_forward_hook(lambda *_: print("forward", flush=True))
with gentrace.record(model, Words(), spill_dir=sys.argv[1]) as recorder:
    model.generate(prompt(6), max_new_tokens=100, min_new_tokens=100, do_sample=False)
"""


@pytest.mark.parametrize("forwards", [2, 17, 40, 70, 99])
def test_a_killed_process_leaves_a_trace(forwards: int, tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", WRITER, tmp_path], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        for _ in range(forwards):
            assert child.stdout.readline() == "forward\n"
        child.send_signal(signal.SIGKILL)
    (path,) = tmp_path.glob("*.safetensors")
    trace = gentrace.load(path)
    assert not trace.meta.complete
    assert "cut short" in repr(trace)
    # What was announced last may not have been recorded yet; before it, every sixteenth forward was committed.
    assert trace.length >= 6 + max(0, 16 * ((forwards - 1) // 16) - 1)
    model = tiny("llama")
    whole = model.generate(prompt(6), max_new_tokens=100, min_new_tokens=100, do_sample=False)[0]
    assert trace.tokens.ids.tolist() == whole[: trace.length].tolist()
    assert trace.tokens.prompt_length == 6
    assert trace.tokens.texts[:6] == tuple(f"<{token}>" for token in whole[:6].tolist())
    with gentrace.record(model) as recorder, torch.no_grad():
        model(whole[None, : trace.length])
    for info in trace.layers:
        assert distance(trace.attention(info.index), recorder.trace.attention(info.index)) <= 1e-5
    if trace.length > 8:
        known = trace.tokens.logprobs[7:-1]
        assert distance(known, recorder.trace.tokens.logprobs[7 : trace.length - 1]) <= 1e-4


LIMITED = """
import signal, sys, warnings
import gentrace
from tests.models import prompt, tiny
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
model = tiny("llama")
options = dict(max_new_tokens=400, min_new_tokens=400, do_sample=False)
model.generate(prompt(6), **options | dict(max_new_tokens=2, min_new_tokens=2))
from gentrace.trace import sparse
real = sparse.os.pwrite
taken = [0]
def pwrite(descriptor, data, offset):
    taken[0] += memoryview(data).nbytes
    if taken[0] > 700_000:
        raise OSError(28, "No space left on device")
    return real(descriptor, data, offset)
sparse.os.pwrite = pwrite
try:
    recorder = gentrace.record(model, spill_dir=sys.argv[1], disk_full=sys.argv[2])
    with warnings.catch_warnings(record=True) as caught, recorder:
        warnings.simplefilter("always")
        text = model.generate(prompt(6), **options)
    print("tokens", text.shape[1], [str(one.message) for one in caught if "recording ended" in str(one.message)])
    print("length", recorder.trace.length, recorder.trace.meta.complete)
except gentrace.SpillError as error:
    print("error", isinstance(error, OSError), error)
"""


@pytest.mark.parametrize("choice", ["stop", "go on"])
def test_a_full_disk(choice: str, tmp_path: Path) -> None:
    run = subprocess.run([sys.executable, "-c", LIMITED, tmp_path, choice], capture_output=True, text=True, check=True)
    (path,) = tmp_path.glob("*.safetensors")
    trace = gentrace.load(path)
    assert not trace.meta.complete
    assert 6 < trace.length < 400
    assert not trace.attention(2).isnan().any()
    if choice == "stop":
        assert run.stdout.startswith("error True")
        assert "No space left on device" in run.stdout
        assert "are safe, and gentrace.load reads them" in run.stdout
    else:
        assert run.stdout.startswith("tokens 406 ['recording ended, the model goes on: ")
        assert run.stdout.count("recording ended") == 1
        assert f"length {trace.length} False" in run.stdout
