"""Rotation is undone exactly: against what the models' own projections put out before they turn it."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    Cohere2Config,
    CohereConfig,
    GlmConfig,
    LlamaConfig,
    PhiConfig,
    PreTrainedModel,
    SmolLM3Config,
)

import gentrace
from gentrace.errors import UnsupportedModel
from gentrace.stitch.rotary import RotaryRule
from gentrace.trace.trace import Trace
from tests.models import COMMON, prompt, tiny


def recorded(
    model: PreTrainedModel, modules: dict[str, nn.Module], *, heads_first: bool = False
) -> tuple[Trace, dict[str, Tensor]]:
    """A trace of a generation, and what some modules put out in it, ``[position, feature]`` or ``[position, …]``."""
    seen: dict[str, list[Tensor]] = {name: [] for name in modules}

    def keep(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            seen[name].append(output[0].transpose(0, 1) if heads_first else output[0])

        return hook

    handles = [module.register_forward_hook(keep(name)) for name, module in modules.items()]
    ids = prompt(9)
    with gentrace.record(model) as recorder:
        model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=7, min_new_tokens=7, do_sample=False)
    for handle in handles:
        handle.remove()
    return recorder.trace, {name: torch.cat(parts) for name, parts in seen.items()}


def by_head(features: Tensor, heads: int) -> Tensor:
    """``[head, position, dim]`` of ``[position, feature]``."""
    return features.unflatten(-1, (heads, -1)).transpose(0, 1)


def assert_undone(trace: Trace, rule: RotaryRule, layer: int, queries: Tensor, keys: Tensor) -> None:
    positions = torch.arange(trace.length)
    assert trace.length == 15
    for found, expected in ((trace.queries(layer), queries), (trace.keys(layer), keys)):
        torch.testing.assert_close(rule.unrotate(found, positions), expected, atol=2e-5, rtol=1e-4)
        assert float((found[:, 1:] - expected[:, 1:]).abs().max()) > 0.1, "nothing was turned"


@pytest.mark.parametrize("layer", [0, 2])
def test_llama_before_rotation_is_what_the_projections_put_out(layer: int) -> None:
    model = tiny("llama")
    attention = model.model.layers[layer].self_attn
    trace, seen = recorded(model, {"q": attention.q_proj, "k": attention.k_proj})
    assert_undone(trace, RotaryRule.of(model, layer), layer, by_head(seen["q"], 4), by_head(seen["k"], 2))


def test_gpt_neox_turns_a_part_of_each_vector() -> None:
    model = tiny("gpt_neox")
    trace, seen = recorded(model, {"qkv": model.gpt_neox.layers[1].attention.query_key_value})
    rule = RotaryRule.of(model, 1)
    assert (rule.dim, trace.layer(1).head_dim) == (4, 12)
    queries, keys, _ = by_head(seen["qkv"], 4).chunk(3, -1)
    torch.testing.assert_close(trace.queries(1)[..., rule.dim :], queries[..., rule.dim :])
    assert_undone(trace, rule, 1, queries, keys)


def test_qwen3_before_rotation_is_after_the_norm() -> None:
    model = tiny("qwen3")
    attention = model.model.layers[1].self_attn
    trace, seen = recorded(model, {"q": attention.q_norm, "k": attention.k_norm})
    rule = RotaryRule.of(model, 1)
    queries, keys = (one.transpose(0, 1) for one in seen.values())
    assert_undone(trace, rule, 1, queries, keys)


def test_gemma3_turns_layers_of_different_kinds_by_different_angles() -> None:
    model = tiny("gemma3")
    local, full = RotaryRule.of(model, 0), RotaryRule.of(model, 1)
    assert local.frequencies != full.frequencies
    for layer, rule, wrong in ((0, local, full), (1, full, local)):
        attention = model.model.layers[layer].self_attn
        trace, seen = recorded(model, {"q": attention.q_norm, "k": attention.k_norm}, heads_first=True)
        queries, keys = (one.transpose(0, 1) for one in seen.values())
        assert_undone(trace, rule, layer, queries, keys)
        with pytest.raises(AssertionError, match="not close"):
            assert_undone(trace, wrong, layer, queries, keys)


def test_yarn_scales_what_it_turns() -> None:
    model = tiny("gpt_oss", "eager")
    rule = RotaryRule.of(model)
    assert rule.scaling == pytest.approx(1.34657, abs=1e-4)
    attention = model.model.layers[0].self_attn
    trace, seen = recorded(model, {"q": attention.q_proj, "k": attention.k_proj})
    assert_undone(trace, rule, 0, by_head(seen["q"], 4), by_head(seen["k"], 2))


@pytest.mark.parametrize("config", [CohereConfig, GlmConfig])
def test_neighbouring_components_make_a_pair(config: Any) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config(**COMMON, head_dim=12) if config is GlmConfig else config(**COMMON))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(6.0 if parameter.dim() > 1 else 1.0)
    rule = RotaryRule.of(model.eval(), 1)
    assert rule.style == "interleaved"
    assert rule.pairs[:2].tolist() == [[0, 1], [2, 3]]
    attention = model.model.layers[1].self_attn
    trace, seen = recorded(model, {"q": attention.q_proj, "k": attention.k_proj})
    assert_undone(trace, rule, 1, by_head(seen["q"], 4), by_head(seen["k"], 2))


def test_what_the_rule_says_of_llama_by_hand() -> None:
    rule = RotaryRule.of(AutoModelForCausalLM.from_config(LlamaConfig(**COMMON)))
    assert rule == RotaryRule.from_base(10000.0, 12)
    assert rule.frequencies == pytest.approx([10000 ** (-place / 6) for place in range(6)], rel=1e-5)
    assert rule.pairs.tolist() == [[place, place + 6] for place in range(6)]
    quarter = RotaryRule((torch.pi / 2,), start=1)
    turned = quarter.rotate(torch.tensor([[7.0, 1.0, 0.0, 9.0]]), torch.tensor([1]))
    torch.testing.assert_close(turned, torch.tensor([[7.0, 0.0, 1.0, 9.0]]), atol=1e-6, rtol=0)


@settings(deadline=None)
@given(st.integers(0, 2000), st.integers(1, 8), st.sampled_from(["half", "interleaved"]), st.floats(0.5, 2.0))
def test_undoing_is_the_inverse(position: int, pairs: int, style: Any, scaling: float) -> None:
    rule = RotaryRule.from_base(10000.0, 2 * pairs, style, scaling)
    vectors = torch.randn(3, 1, 2 * pairs + 1, generator=torch.Generator().manual_seed(position))
    at = torch.tensor([position])
    torch.testing.assert_close(rule.unrotate(rule.rotate(vectors, at), at), vectors, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(rule.rotate(vectors, at)[..., -1], vectors[..., -1])


@pytest.mark.parametrize(
    ("model", "layer", "match"),
    [
        (lambda: tiny("gpt2"), 0, "no module of it holds rotary frequencies"),
        (lambda: tiny("deepseek_v3"), 0, "a part at the end"),
        (lambda: AutoModelForCausalLM.from_config(SmolLM3Config(**COMMON, no_rope_layers=[1, 0, 1])), 1, "not turned"),
        (lambda: AutoModelForCausalLM.from_config(Cohere2Config(**COMMON)), 0, "turned only if"),
        (
            lambda: AutoModelForCausalLM.from_config(
                LlamaConfig(**COMMON, rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4})
            ),
            0,
            "change with the length",
        ),
    ],
    ids=["none", "mla", "nope", "conditional", "dynamic"],
)
def test_what_the_rule_cannot_say_is_refused(model: Any, layer: int, match: str) -> None:
    with pytest.raises(UnsupportedModel, match=match):
        RotaryRule.of(model(), layer)


def test_layers_beside_one_that_is_not_turned_are() -> None:
    model = AutoModelForCausalLM.from_config(SmolLM3Config(**COMMON, no_rope_layers=[1, 0, 1]))
    assert RotaryRule.of(model, 0).dim == 12
    phi = AutoModelForCausalLM.from_config(PhiConfig(**COMMON))
    assert RotaryRule.of(phi).dim == 6


def test_a_rule_that_is_too_long_is_refused() -> None:
    with pytest.raises(ValueError, match="vectors with 4"):
        RotaryRule.from_base(10000.0, 8).rotate(torch.zeros(1, 4), torch.zeros(1, dtype=torch.long))
