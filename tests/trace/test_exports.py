"""What other tools are handed is what they would have made themselves of the same model and text."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoTokenizer, PreTrainedTokenizerFast

import gentrace
from gentrace.errors import AttentionUnavailable
from gentrace.trace.exports import to_activation_cache, to_hf
from tests.capture.homemade import Decoder, talking
from tests.models import SDPA_TYPES, VOCAB, prompt, tiny
from tests.oracle import distance, full_forward

LAYERS = 3
ROTATED_BY_THE_BRIDGE = ("llama", "qwen3", "gemma2")


def recorded(name: str, **options: Any) -> tuple[Any, gentrace.Trace]:
    """A tiny model and the trace of one of its generations."""
    model = tiny(name, "sdpa" if name in SDPA_TYPES else "eager")
    with gentrace.record(model, **options) as recorder:
        model.generate(prompt(8), max_new_tokens=6, min_new_tokens=6, do_sample=False)
    return model, recorder.trace


def bridge_of(model: Any, folder: Path) -> Any:
    """The same weights as a TransformerLens bridge, which needs a tokenizer that was loaded from somewhere."""
    from transformer_lens.model_bridge import TransformerBridge

    words = {"<pad>": 0, "<bos>": 1, "<eos>": 2} | {f"w{number}": number for number in range(3, VOCAB)}
    special = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>"}
    PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel(words, unk_token="<pad>")), **special).save_pretrained(
        folder
    )
    model.config.architectures = [type(model).__name__]
    return TransformerBridge.boot_transformers(
        "tiny", hf_model=model, tokenizer=AutoTokenizer.from_pretrained(folder), device="cpu"
    )


@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt2", "gpt_oss"])
def test_to_hf_is_what_hugging_face_gives(name: str) -> None:
    model, trace = recorded(name)
    expected, _ = full_forward(model, trace.tokens.ids[: trace.length])
    found = to_hf(trace)
    assert len(found) == LAYERS
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == torch.float32
        assert distance(ours, theirs[None]) <= 1e-5


def test_to_hf_gives_only_what_was_recorded() -> None:
    _, trace = recorded("llama", layers=[2])
    assert torch.equal(to_hf(trace)[0][0], trace.attention(2))
    with pytest.raises(AttentionUnavailable, match=r"exporting cross attention .* 2 \(self\)"):
        to_hf(trace, "cross")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma2", "gpt_neox", "gpt2"])
def test_to_activation_cache_is_what_transformer_lens_gives(name: str, tmp_path: Path) -> None:
    model, trace = recorded(name, values=True)
    rotary = name != "gpt2"
    cache = to_activation_cache(trace, rotary=rotary)
    bridge = bridge_of(model, tmp_path)
    with torch.no_grad():
        _, expected = bridge.run_with_cache(trace.tokens.ids[None, : trace.length])
    names = ["hook_attn_scores", "hook_pattern", "hook_v"]
    names += ["hook_rot_q", "hook_rot_k"] if rotary else ["hook_q", "hook_k"]
    assert set(cache.keys()) == {f"blocks.{layer}.attn.{name}" for layer in range(LAYERS) for name in names}
    for key, ours in cache.items():
        if "hook_rot" in key and name not in ROTATED_BY_THE_BRIDGE:
            # A bridge has these hook points for every rotary model, but not every one passes its vectors through them.
            assert key not in expected
            assert distance(ours, expected[key.replace("rot_", "")]) > 0.1
            continue
        theirs = expected[key]
        if key.endswith("scores"):
            assert torch.equal(ours == -torch.inf, theirs < -1e30)
            ours, theirs = ours.clamp_min(-1e30), theirs.clamp_min(-1e30)
        assert distance(ours, theirs) <= 1e-4 * max(1.0, float(ours[ours > -1e30].abs().max()))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_an_activation_cache_is_used_as_usual() -> None:
    _, trace = recorded("llama")
    cache = to_activation_cache(trace)
    assert torch.equal(cache["pattern", 0][0], trace.attention(0))
    assert torch.equal(cache["pattern", -1][0], trace.attention(LAYERS - 1))
    assert torch.equal(cache["attn_scores", 1][0], trace.scores(1))
    assert cache["rot_q", 0].shape == (1, trace.length, 4, 12)
    assert cache["blocks.0.attn.hook_rot_k"].shape == (1, trace.length, 2, 12)
    assert "blocks.0.attn.hook_v" not in cache.keys()  # noqa: SIM118 (an ActivationCache has no `in` of its own)
    assert list(cache) == list(cache.keys())
    assert len(cache) == len(list(cache.items())) == 4 * LAYERS
    assert cache.stack_activation("pattern").shape == (LAYERS, 1, 4, trace.length, trace.length)
    assert cache.remove_batch_dim()["pattern", 0].shape == (4, trace.length, trace.length)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_layer_without_vectors_is_exported_without_them() -> None:
    model = Decoder(talking)
    with gentrace.record(model) as recorder, torch.no_grad():
        model(prompt(9) % 31)
    cache = to_activation_cache(recorder.trace, rotary=False)
    assert set(cache.keys()) == {
        f"blocks.{layer}.attn.{name}" for layer in (0, 1) for name in ("hook_attn_scores", "hook_pattern")
    }
    assert torch.equal(cache["pattern", 1][0], recorder.trace.attention(1))


def test_an_empty_trace_is_not_exported() -> None:
    _, trace = recorded("llama", layers=[])
    with pytest.raises(AttentionUnavailable, match="exporting self attention to TransformerLens"):
        to_activation_cache(trace)
