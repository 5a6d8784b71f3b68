"""From two vectors to a weight: the numbers add up, and the figure shows those."""

import json
import re
from dataclasses import replace
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
import torch
from transformers import BartConfig, BartForConditionalGeneration

import gentrace
from gentrace.errors import AttentionUnavailable, ViewBudgetError, ViewError
from gentrace.stitch.rotary import RotaryRule
from gentrace.trace.store import MemoryStore
from gentrace.trace.trace import Trace
from gentrace.views.neuron_terms import Neuron, read_neuron, strongest_key
from gentrace.views.neuron_view import neuron_view
from tests.models import prompt, tiny
from tests.views.made import HOSTILE, random_trace, untouchable
from tests.views.made_kinds import by_hand, causal, translator
from tests.views.test_attention_map import assert_escaped

SHORT = RotaryRule.from_base(100.0, 4)


def generated(name: str, kernel: str = "sdpa") -> Trace:
    ids, model = prompt(8), tiny(name, kernel)
    with gentrace.record(model) as recorder:
        model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, min_new_tokens=6, do_sample=False)
    return recorder.trace


def assert_adds_up(neuron: Neuron, trace: Trace, layer: int) -> None:
    """Every step is worked out from the one before; each must meet the trace's own."""
    terms = trace.score_terms(layer, neuron.head, neuron.query, kind=neuron.kind)
    shown = neuron.keys.positions
    torch.testing.assert_close(neuron.after.sums, terms.dot[shown.start : shown.stop], atol=1e-5, rtol=1e-5)
    for key in shown:
        lines = {line.text.split(" ")[0]: line.value for line in neuron.ledger(key)}
        assert lines["q"] == pytest.approx(float(terms.dot[key]), abs=1e-5, rel=1e-5)
        assert lines["×"] == pytest.approx(float(terms.dot[key]) * terms.scale, abs=1e-5, rel=1e-5)
        last = [line.value for line in neuron.ledger(key) if line.text[0] not in "−e"][-1]
        assert last == pytest.approx(float(terms.score[key]), abs=1e-5, rel=1e-5)
        assert lines["exp:"] == pytest.approx(float(terms.weight[key]), abs=1e-5)


@pytest.mark.parametrize(
    ("name", "kernel"),
    [
        ("llama", "sdpa"), ("gpt2", "sdpa"), ("gpt_neox", "sdpa"), ("qwen3", "sdpa"), ("mistral", "sdpa"),
        ("gemma2", "eager"), ("gpt_oss", "eager"), ("deepseek_v3", "sdpa"),
    ],
)  # fmt: skip
def test_the_numbers_add_up_for_any_model_at_any_step(name: str, kernel: str) -> None:
    trace = generated(name, kernel)
    for layer, head, query in ((0, 3, 0), (1, 2, 7), (2, 1, 12)):
        neuron = read_neuron(trace, layer, head, query)
        assert_adds_up(neuron, trace, layer)
        window = trace.layer(layer).window
        assert list(neuron.keys.positions) == list(
            range(0 if window is None else max(0, query - window + 1), query + 1)
        )
    texts = " ".join(line.text for line in neuron.ledger(neuron.query))
    assert ("softcap" in texts) == (name == "gemma2")
    assert ("sink" in texts) == (name == "gpt_oss")


def test_bias_and_mask_are_lines_of_their_own() -> None:
    trace = causal()
    bias = torch.arange(36.0).reshape(1, 6, 6) / 9
    tensors = {name: trace.store.tensor(name) for name in trace.store.names()} | {"layers.0.self.bias": bias}
    biased = replace(trace, store=MemoryStore(tensors))
    neuron = read_neuron(biased, 0, 3, 4, keys=(2, 6))
    terms = biased.score_terms(0, 3, 4)
    weights = torch.softmax(by_hand(trace, 3)[1][4, :5] + bias[0, 4, :5], -1)
    lines = neuron.ledger(3)
    assert [line.text.split(" ")[0] for line in lines] == ["q", "×", "+", "−", "exp:"]
    assert lines[2].text == f"+ bias {27 / 9:.5g}"
    assert lines[-1].value == pytest.approx(float(weights[3]), abs=1e-6)
    assert lines[-1].value == pytest.approx(float(terms.weight[3]), abs=1e-6)
    hidden = neuron.ledger(5)
    assert "mask" in hidden[3].text
    assert [line.value for line in hidden[3:]] == [-torch.inf, -torch.inf, 0.0]


def test_cross_attention_by_the_textbook() -> None:
    trace = translator()
    neuron = read_neuron(trace, 0, 1, 2, kind="cross")
    weights, scores = by_hand(trace, 1, "cross")
    assert neuron.keys.labels == tuple(f"en{place}" for place in range(6))
    torch.testing.assert_close(neuron.after.sums * 0.5, scores[2])
    assert [neuron.ledger(key)[-1].value for key in range(6)] == pytest.approx(weights[2].tolist(), abs=1e-6)
    with pytest.raises(ViewError, match="another text"):
        read_neuron(trace, 0, 1, 2, kind="cross", rotary=SHORT)


def test_cross_attention_of_a_generation() -> None:
    torch.manual_seed(0)
    sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    model = BartForConditionalGeneration(BartConfig(vocab_size=40, max_position_embeddings=32, **sizes, **heads)).eval()
    with gentrace.record(model) as recorder:
        model.generate(torch.arange(4, 11)[None], max_new_tokens=5, min_new_tokens=5, do_sample=False)
    neuron = read_neuron(recorder.trace, 0, 1, 3, kind="cross")
    assert len(neuron.keys.positions) == 7
    assert_adds_up(neuron, recorder.trace, 0)


def test_pairs_stand_side_by_side_and_add_up() -> None:
    trace = causal()
    neuron = read_neuron(trace, 0, 3, 4, rotary=SHORT)
    assert neuron.order.tolist() == [0, 2, 1, 3]
    assert neuron.component_names[1] == "component 2, pair 0"
    products = neuron.after.products
    shares = neuron.by_pair(neuron.after)
    torch.testing.assert_close(shares, torch.stack([products[:, [0, 2]].sum(-1), products[:, [1, 3]].sum(-1)], -1))
    torch.testing.assert_close(shares.sum(-1), trace.score_terms(0, 3, 4).dot[:5])
    partial = read_neuron(trace, 0, 3, 4, rotary=RotaryRule((0.5,), "interleaved"))
    assert partial.component_names == [
        "component 0, pair 0", "component 1, pair 0", "component 2, not rotated", "component 3, not rotated",
    ]  # fmt: skip
    assert partial.by_pair(partial.after).shape == (5, 3)
    assert partial.before is not None
    torch.testing.assert_close(partial.before.keys[:, 2:], partial.after.keys[:, 2:])


def test_before_rotation_a_key_at_the_query_has_the_same_sum() -> None:
    neuron = read_neuron(causal(), 0, 3, 4, rotary=SHORT)
    assert neuron.before is not None
    assert float(neuron.before.sums[4]) == pytest.approx(float(neuron.after.sums[4]), abs=1e-5)
    assert float((neuron.before.sums[:4] - neuron.after.sums[:4]).abs().max()) > 0.05
    assert neuron.ledger(1)[0].value == pytest.approx(float(neuron.before.sums[1]), abs=1e-6)


def test_grouped_queries_meet_their_own_keys() -> None:
    trace = causal(heads=4, kv_heads=2)
    for head, kv_head in ((0, 0), (1, 0), (2, 1), (3, 1)):
        neuron = read_neuron(trace, 0, head, 5)
        assert neuron.kv_head == kv_head
        assert torch.equal(neuron.after.keys, trace.keys(0)[kv_head])
        assert torch.equal(neuron.after.query, trace.queries(0)[head, 5])


def test_the_strongest_key_is_not_the_first() -> None:
    trace = causal()
    weights = by_hand(trace, 3, is_causal=True)[0]
    for query in range(1, 6):
        assert strongest_key(read_neuron(trace, 0, 3, query)) == 1 + int(weights[query, 1:].argmax())
    assert strongest_key(read_neuron(trace, 0, 3, 0)) == 0


def maps(figure: go.Figure) -> list[go.Heatmap]:
    return [trace for trace in figure.data if trace.type == "heatmap"]


def test_the_figure_shows_these_numbers() -> None:
    trace = causal()
    figure = neuron_view(trace, 0, 3, 4, 2, rotary=SHORT)
    neuron = read_neuron(trace, 0, 3, 4, rotary=SHORT)
    order = neuron.order
    assert neuron.before is not None
    for half, vectors in zip((maps(figure)[:3], maps(figure)[3:]), (neuron.after, neuron.before), strict=True):
        for shown, expected in zip(half, (vectors.query[None], vectors.keys, vectors.products), strict=True):
            np.testing.assert_array_equal(np.asarray(shown.z), expected[:, order].numpy())
    assert [shown.visible for shown in maps(figure)] == [True] * 3 + [False] * 3
    bars = next(trace for trace in figure.data if trace.name == "weight")
    np.testing.assert_allclose(bars.x, trace.score_terms(0, 3, 4).weight[:5], rtol=1e-6)
    assert [text.split("<br>")[-1].split()[0] for text in bars.hovertext] == [f"{weight:.5f}" for weight in bars.x]
    ledger = next(trace for trace in figure.data if trace.name == "ledger")
    numbers = [float(text.split()[0].replace("−", "-")) for text in ledger.text]
    assert numbers == pytest.approx([line.value for line in neuron.ledger(2)], abs=1e-5)
    up, down = (next(one for one in figure.data if one.name == name) for name in ("adds to q · k", "takes from q · k"))
    shares = np.nansum([up.y, down.y], 0)
    np.testing.assert_allclose(shares, neuron.by_pair(neuron.after)[2].numpy(), rtol=1e-6)
    assert (np.asarray(up.y)[~np.isnan(up.y)] >= 0).all()
    assert (np.asarray(down.y)[~np.isnan(down.y)] < 0).all()


def test_the_slider_has_every_key() -> None:
    figure = neuron_view(causal(), 0, 3, 4, 2)
    (slider,) = figure.layout.sliders
    assert slider.active == 2
    assert [step.label for step in slider.steps] == [f"{key} w{key}" for key in range(5)]
    neuron = read_neuron(causal(), 0, 3, 4)
    names = [figure.data[place].name for place in slider.steps[0].args[0]["traces"]]
    for key, step in enumerate(slider.steps):
        state = dict(zip(names, step.args[0]["data"], strict=True))
        assert state["ledger"]["text"][-1].split()[0] == f"{neuron.ledger(key)[-1].value:.5f}"
        assert state["this key"]["y"][0] == key - 0.5


def test_without_a_rule_the_figure_says_so() -> None:
    figure = neuron_view(causal(), 0, 3, 4)
    assert "rotary=" in figure.layout.title.subtitle.text
    assert not figure.layout.updatemenus
    turned = neuron_view(causal(), 0, 3, 4, rotary=SHORT, rope="before")
    assert [shown.visible for shown in maps(turned)] == [False] * 3 + [True] * 3
    assert turned.layout.updatemenus[0].active == 1
    with pytest.raises(ViewError, match="does not hold the angles"):
        neuron_view(causal(), 0, 3, 4, rope="before")


def test_bad_requests_are_refused_by_name() -> None:
    trace = causal()
    with pytest.raises(AttentionUnavailable, match="only the scores"):
        neuron_view(causal(scores_only=True), 0, 0, 3)
    for more, match in (
        ({"query": 6}, "rows 0 … 5"),
        ({"head": 9}, "heads 0 … 3"),
        ({"layer": 4}, "layers recorded: 0"),
        ({"key": 5}, "key=5, but keys 0 … 4"),
        ({"keys": (3, 9)}, "positions 0 … 5"),
        ({"rotary": RotaryRule.from_base(10.0, 6)}, "4 components"),
        ({"rope": "during"}, "rope='during'"),
    ):
        with pytest.raises(ViewError, match=match):
            neuron_view(trace, **{"layer": 0, "head": 3, "query": 4} | more)  # type: ignore[arg-type]
    with pytest.raises(ViewError, match="never seen"):
        neuron_view(random_trace(9, 4, unseen=3), 0, 0, 1)


def test_too_many_keys_are_refused_before_they_are_read() -> None:
    trace = random_trace(50_001, 4)
    masks = {name: trace.store.tensor(name) for name in trace.store.names() if name.startswith("masks")}
    refusing = untouchable(trace).store

    class OnlyMasks(MemoryStore):
        def tensor(self, name: str) -> torch.Tensor:
            return masks[name] if name in masks else refusing.tensor(name)

        def slab(self, name: str, index: int) -> torch.Tensor:
            return refusing.slab(name, index)

    with pytest.raises(ViewBudgetError, match="keys="):
        neuron_view(replace(trace, store=OnlyMasks(masks)), 0, 0, 49_999)


@pytest.mark.parametrize("dark", [False, True])
def test_hostile_tokens_are_escaped(dark: bool) -> None:
    trace = random_trace(len(HOSTILE), 4, texts=HOSTILE)
    assert_escaped(neuron_view(trace, 0, 1, 15, rotary=SHORT, dark=dark))


def ledger_of(page: Any) -> list[float]:
    texts = page.evaluate(
        """() => document.querySelector('.plotly-graph-div')._fullData.find(one => one.name === 'ledger').text"""
    )
    shown = page.text_content(".main-svg")
    assert all(re.sub(r"\s", "", text) in re.sub(r"\s", "", shown) for text in texts)
    return [float(text.split()[0].replace("−", "-")) for text in texts]


@pytest.mark.browser
@pytest.mark.parametrize("width", [1100, 390])
def test_the_slider_and_the_buttons_work_in_a_browser(shown: Any, width: int) -> None:
    trace = causal()
    neuron = read_neuron(trace, 0, 3, 4, rotary=SHORT)
    page = shown(neuron_view(trace, 0, 3, 4, 1, rotary=SHORT, dark=width == 390), width)
    assert ledger_of(page) == pytest.approx([line.value for line in neuron.ledger(1)], abs=1e-5)
    rail = page.query_selector(".slider-rail-touch-rect").bounding_box()
    page.mouse.click(rail["x"] + rail["width"] - 3, rail["y"] + rail["height"] / 2)
    page.wait_for_timeout(300)
    assert ledger_of(page) == pytest.approx([line.value for line in neuron.ledger(4)], abs=1e-5)
    visible = "() => document.querySelector('.plotly-graph-div')._fullData.slice(0, 6).map(one => one.visible)"
    assert page.evaluate(visible) == [True] * 3 + [False] * 3
    page.click(".updatemenu-button >> text=before RoPE")
    page.wait_for_timeout(300)
    assert page.evaluate(visible) == [False] * 3 + [True] * 3
    for selector in (".gtitle", ".gtitle-subtitle", ".slider-group", ".updatemenu-button", ".textpoint"):
        for element in page.query_selector_all(selector):
            box = element.bounding_box()
            if box and box["width"]:
                assert box["x"] >= 0, selector
                assert box["x"] + box["width"] <= width + 1, (selector, element.text_content())


def test_the_payload_is_small() -> None:
    figure = neuron_view(random_trace(257, 20), 0, 0, 255)
    assert len(json.dumps(json.loads(figure.to_json() or ""))) < 600_000
