"""Layers without softmax attention: listed with their kind, and refused where there is nothing else."""

from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    FalconMambaConfig,
    MambaConfig,
    PreTrainedConfig,
    RwkvConfig,
)

import gentrace
from tests.capture.test_generation import check
from tests.models import VOCAB, prompt
from tests.zoo import build

HYBRIDS = ("qwen3_next", "jamba", "bamba", "zamba", "recurrent_gemma", "lfm2_moe", "granitemoehybrid", "nemotron_h")


@pytest.mark.parametrize("name", HYBRIDS)
def test_layers_beside_attention_are_listed(name: str, tmp_path: Path) -> None:
    model, ids = build("causal", name), prompt(9)
    with gentrace.record(model) as recorder:
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=5, do_sample=False)
    trace = recorder.trace
    assert trace.layers
    assert trace.other_layers
    seen = sorted([info.index for info in trace.layers] + [other.index for other in trace.other_layers])
    assert seen == list(range(len(seen)))
    other = trace.other_layers[0]
    with pytest.raises(gentrace.AttentionUnavailable, match=f"layer of kind {other.kind}, without softmax attention"):
        trace.attention(other.index)
    assert isinstance(model.get_submodule(other.name), torch.nn.Module)
    trace.save(tmp_path / "t.safetensors")
    assert gentrace.load(tmp_path / "t.safetensors").other_layers == trace.other_layers
    if name in ("qwen3_next", "jamba", "bamba"):
        check(trace, model, out[0])


def test_the_kinds_are_the_configurations_words() -> None:
    model = build("causal", "qwen3_next")
    with gentrace.record(model) as recorder:
        model.generate(prompt(5), max_new_tokens=2, do_sample=False)
    kinds = model.config.layer_types
    assert {other.index: other.kind for other in recorder.trace.other_layers} == {
        index: kind for index, kind in enumerate(kinds) if kind != "full_attention"
    }


@pytest.mark.parametrize(
    "config",
    [
        MambaConfig(vocab_size=VOCAB, hidden_size=16, num_hidden_layers=1),
        FalconMambaConfig(vocab_size=VOCAB, hidden_size=16, num_hidden_layers=1),
        RwkvConfig(vocab_size=VOCAB, hidden_size=16, num_hidden_layers=2),
    ],
    ids=["mamba", "falcon_mamba", "rwkv"],
)
def test_models_without_attention_are_refused_before_they_run(config: PreTrainedConfig) -> None:
    model = AutoModelForCausalLM.from_config(config).eval()
    with pytest.raises(gentrace.UnsupportedModel, match="none of its modules computes softmax attention"):
        gentrace.record(model)
