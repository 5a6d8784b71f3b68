"""Every named model type, under each kernel: the trace equals a full eager forward and eager's own fragments."""

import pytest
import torch

import gentrace
from tests.models import SDPA_TYPES, TYPES, prompt, tiny
from tests.oracle import distance, full_forward, stitched

CASES = [(name, "eager") for name in TYPES] + [(name, "sdpa") for name in SDPA_TYPES]
PROMPT, NEW = 9, 6


@pytest.mark.usefixtures("large_or_small")
@pytest.mark.parametrize(("name", "kernel"), CASES)
def test_attention_equals_a_full_eager_forward(name: str, kernel: str) -> None:
    model, ids = tiny(name, kernel), prompt(PROMPT)
    with gentrace.record(model) as recorder:
        out = model.generate(ids, max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False)
    trace = recorder.trace
    expected, logits = full_forward(model, out[0, :-1])
    assert trace.length == PROMPT + NEW - 1
    assert [info.index for info in trace.layers] == [0, 1, 2]
    for layer, reference in enumerate(expected):
        assert distance(trace.attention(layer), reference) <= 1e-5
        assert distance(trace.attention(layer, 1), reference[1]) <= 1e-5
    logprobs = logits.log_softmax(-1).gather(-1, out[0, 1:, None])[:, 0]
    assert distance(trace.tokens.logprobs[1:], logprobs) <= 1e-4
    assert trace.fidelity.error <= 1e-5
    assert all(trace.fidelity.layers[layer].rows for layer in range(3))


@pytest.mark.parametrize("name", TYPES)
def test_attention_equals_eager_fragments(name: str) -> None:
    model, ids = tiny(name, "eager"), prompt(PROMPT, seed=3)
    expected = stitched(model, ids, NEW, do_sample=False)
    with gentrace.record(model) as recorder:
        model.generate(ids, max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False)
    for layer, reference in enumerate(expected):
        assert distance(recorder.trace.attention(layer), reference) <= 1e-5


@pytest.mark.parametrize("name", TYPES)
def test_scores_soften_to_attention(name: str) -> None:
    model = tiny(name, "eager")
    with gentrace.record(model) as recorder:
        model.generate(prompt(PROMPT), max_new_tokens=NEW, do_sample=False)
    trace = recorder.trace
    for info in trace.layers:
        scores = trace.scores(info.index)
        if info.sinks is not None:
            sink = torch.tensor(info.sinks)[:, None, None].expand(-1, trace.length, 1)
            weights = torch.cat([scores, sink], -1).softmax(-1)[..., :-1]
        else:
            weights = scores.softmax(-1)
        assert distance(trace.attention(info.index), weights) <= 1e-6
        assert bool((scores.isneginf() == (trace.attention(info.index) == 0)).all())


@pytest.mark.parametrize("name", TYPES)
def test_score_terms_add_up(name: str) -> None:
    model = tiny(name, "eager")
    with gentrace.record(model) as recorder:
        model.generate(prompt(PROMPT), max_new_tokens=NEW, do_sample=False)
    trace = recorder.trace
    for info in trace.layers:
        row, head = trace.length - 2, info.heads - 1
        terms = trace.score_terms(info.index, head, row)
        score = terms.dot * terms.scale
        if terms.softcap is not None:
            score = terms.softcap * torch.tanh(score / terms.softcap)
        score = (score + terms.bias).masked_fill(~terms.visible, -torch.inf)
        assert distance(terms.score.exp(), score.exp()) <= 1e-5
        assert distance(terms.weight, (score - terms.logsumexp).exp()) <= 1e-5
        assert distance(terms.weight, trace.attention(info.index, head)[row]) <= 1e-6
        query, key = trace.queries(info.index)[head, row], trace.keys(info.index)[head * info.kv_heads // info.heads]
        assert distance(terms.dot, (key * query).sum(-1)) <= 1e-4


def test_layer_info_tells_each_type_apart() -> None:
    def layers(name: str) -> tuple[gentrace.Trace, ...]:
        model = tiny(name, "eager")
        with gentrace.record(model) as recorder:
            model.generate(prompt(PROMPT), max_new_tokens=2, do_sample=False)
        return recorder.trace.layers

    assert [info.window for info in layers("gemma3")] == [5, None, 5]
    assert {info.softcap for info in layers("gemma2")} == {2.0}
    assert layers("gemma2")[0].scale == pytest.approx(7**-0.5)
    assert [info.sinks is not None for info in layers("gpt_oss")] == [True] * 3
    assert {(info.heads, info.kv_heads, info.head_dim) for info in layers("deepseek_v3")} == {(4, 4, 20)}
    assert [info.scale for info in layers("gpt2")] == pytest.approx([12**-0.5 / n for n in (1, 2, 3)])
    assert {(info.heads, info.kv_heads, info.source, info.kind) for info in layers("llama")} == {
        (4, 2, "interface", "self")
    }
    assert layers("llama")[1].name == "model.layers.1.self_attn"
