"""The functional tap: queries and keys of attention that never calls the registry, or else its finished scores."""

import gc
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import gentrace
from gentrace.capture.taps import reading
from gentrace.trace.info import LayerInfo
from tests.capture import homemade
from tests.capture.homemade import VOCAB, Attend, Blocks, Decoder, Multihead
from tests.oracle import distance, full_forward
from tests.zoo.build import build

VECTORS: dict[str, Attend] = {
    "plain": homemade.plain,
    "in place": homemade.in_place,
    "written into": homemade.written_into,
    "merged": homemade.merged,
    "capped": homemade.capped,
    "alibi": homemade.alibi,
    "tempered": homemade.tempered,
    "sinks": homemade.with_sinks,
}
SCORES: dict[str, Attend] = {
    "talking": homemade.talking,
    "by keys": homemade.by_keys,
    "summed": homemade.summed,
    "noisy": homemade.noisy,
}
OLDER = (
    "bloom",
    "gptj",
    "gpt_neo",
    "codegen",
    "mpt",
    "openai-gpt",
    "xglm",
    "falcon",
    "gpt_neox_japanese",
    "megatron-bert",
    "rembert",
    "roformer",
    "mvp",
    "trocr",
)
BY_COLUMN = {"mvp", "trocr", "openai-gpt"}
"""Types that count a position for padding too."""


def ids(length: int, batch: int = 1, vocab: int = VOCAB) -> Tensor:
    return torch.randint(3, vocab, (batch, length), generator=torch.Generator().manual_seed(1))


def made_of_vectors(trace: gentrace.Trace, layer: int) -> Tensor:
    """Scores put together by hand from what the trace holds."""
    info = trace.layer(layer)
    keys = trace.keys(layer).repeat_interleave(info.heads // info.kv_heads, 0)
    scores = trace.queries(layer).float() @ keys.float().mT * info.scale
    if info.softcap is not None:
        scores = torch.tanh(scores / info.softcap) * info.softcap
    bias = torch.stack(
        [torch.stack([trace.score_terms(layer, h, q).bias for q in range(trace.length)]) for h in range(info.heads)]
    )
    return (scores + bias).masked_fill(trace.scores(layer).isneginf(), -torch.inf)


def check(trace: gentrace.Trace, expected: list[Tensor], *, vectors: bool = True) -> None:
    assert [info.index for info in trace.layers] == list(range(len(expected)))
    for layer, reference in enumerate(expected):
        assert distance(trace.attention(layer), reference) <= 1e-5
        info, scores = trace.layer(layer), trace.scores(layer)
        assert info.source == ("functional" if vectors else "functional, scores only")
        if info.sinks is not None:
            sinks = torch.tensor(info.sinks)[:, None, None].expand(-1, trace.length, 1)
            weights = torch.cat([scores, sinks], -1).softmax(-1)[..., :-1]
        else:
            weights = scores.softmax(-1)
        assert distance(weights, reference) <= 1e-5
        if vectors:
            assert distance(made_of_vectors(trace, layer).exp(), scores.exp()) <= 1e-4 * float(scores.exp().max())


@pytest.mark.parametrize("name", OLDER)
def test_older_types(name: str) -> None:
    model, prompt = build("causal", name), ids(9, 1, 50)
    with gentrace.record(model) as recorder:
        out = model.generate(prompt, max_new_tokens=6, min_new_tokens=6, do_sample=False)
    trace = recorder.trace
    assert trace.length == 14
    check(trace, full_forward(model, out[0, :-1])[0])
    assert trace.fidelity.error <= 1e-5


@pytest.mark.parametrize("name", [name for name in OLDER if name not in BY_COLUMN])
def test_a_left_padded_batch(name: str) -> None:
    model, prompt = build("causal", name), ids(9, 2, 50)
    mask = torch.ones_like(prompt)
    mask[0, :3] = 0
    with gentrace.record(model) as recorder:
        out = model.generate(prompt, attention_mask=mask, max_new_tokens=5, min_new_tokens=5, do_sample=False)
    for trace, text in zip(recorder.traces, (out[0, 3:-1], out[1, :-1]), strict=True):
        check(trace, full_forward(model, text)[0])
        assert trace.fidelity.error <= 1e-5


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", VECTORS)
def test_queries_and_keys_of_code_from_home(name: str, batch: int) -> None:
    model, prompt = Decoder(VECTORS[name]), ids(8, batch)
    with gentrace.record(model) as recorder:
        expected = model.run(prompt)
    for row, trace in enumerate(recorder.traces):
        check(trace, [weights[row] for weights in expected])
        assert trace.fidelity.error <= 1e-5
        assert all(trace.fidelity.layers[layer].rows for layer in range(2))


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", SCORES)
def test_scores_of_code_that_is_not_understood(name: str, batch: int) -> None:
    model, prompt = Decoder(SCORES[name]), ids(8, batch)
    with gentrace.record(model) as recorder:
        expected = model.run(prompt)
        model.run(prompt)
    for row, trace in enumerate(recorder.traces[:batch]):
        check(trace, [weights[row] for weights in expected], vectors=False)
    with pytest.raises(gentrace.AttentionUnavailable, match="only the scores"):
        recorder.traces[0].queries(0)


@pytest.mark.parametrize("attend", [homemade.repeated, homemade.grouped])
def test_keys_are_kept_once_for_the_heads_that_share_them(attend: Attend) -> None:
    model, prompt = Decoder(attend, kv_heads=2), ids(7, 2)
    with gentrace.record(model) as recorder:
        expected = model.run(prompt)
    for row, trace in enumerate(recorder.traces):
        check(trace, [weights[row] for weights in expected])
        assert [info.kv_heads for info in trace.layers] == [2, 2]
        assert trace.keys(0).shape == (2, 7, homemade.DIM)


def test_the_fused_kernel_shows_the_same_as_softmax_by_hand() -> None:
    prompt = ids(8, 2)
    traces = []
    for attend in (homemade.plain, homemade.fused):
        with gentrace.record(Decoder(attend)) as recorder:
            recorder._model.run(prompt)
        traces.append(recorder.traces)
    for by_hand, fused in zip(*traces, strict=True):
        assert distance(fused.attention(1), by_hand.attention(1)) <= 1e-5
        assert distance(fused.queries(1), by_hand.queries(1)) <= 1e-5
        assert distance(fused.keys(1), by_hand.keys(1)) <= 1e-5
        assert fused.layer(1).scale == pytest.approx(by_hand.layer(1).scale)


def test_terms_are_told_apart() -> None:
    def info(attend: Attend) -> LayerInfo:
        model = Decoder(attend)
        with gentrace.record(model) as recorder:
            model.run(ids(6))
        return recorder.trace.layer(1)

    root = homemade.DIM**-0.5
    assert info(homemade.plain).scale == pytest.approx(root)
    assert info(homemade.in_place).scale == pytest.approx(root)
    assert info(homemade.written_into).scale == 1
    assert info(homemade.merged).scale == pytest.approx(root)
    assert info(homemade.capped).softcap == pytest.approx(2.5)
    assert info(homemade.capped).scale == pytest.approx(root)
    assert info(homemade.alibi).scale == pytest.approx(root)
    model = Decoder(homemade.with_sinks)
    with gentrace.record(model) as recorder:
        model.run(ids(6))
    assert recorder.trace.layer(1).sinks == pytest.approx(model.layers[1].sinks.tolist())


@pytest.mark.parametrize("name", ["plain", "in place", "merged", "alibi", "tempered", "talking"])
def test_a_cache_of_its_own(name: str) -> None:
    model, text = Decoder((VECTORS | SCORES)[name]), ids(10, 2)
    whole = model.run(text)
    for layer in model.layers:
        layer.caches, layer.past = True, None
    with gentrace.record(model) as recorder, torch.no_grad():
        for piece in text.split([6, 1, 1, 2], 1):
            model(piece)
    assert [trace.length for trace in recorder.traces] == [10, 10]
    for row, trace in enumerate(recorder.traces):
        if name == "tempered":
            # Its scale grows with the number of keys: the later rows of the whole forward had the same.
            assert distance(trace.attention(0)[:, 8:], whole[0][row][:, 8:]) <= 1e-5
            continue
        check(trace, [weights[row] for weights in whole], vectors=name != "talking")


@pytest.mark.parametrize("mask", ["bool", "float"])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("need_weights", [True, False])
def test_the_layer_of_torch(batch_first: bool, need_weights: bool, mask: str) -> None:
    model, text = Multihead(batch_first, need_weights, mask), ids(7, 2)
    reference = Multihead(batch_first, True, mask)
    reference.load_state_dict(model.state_dict())
    with torch.no_grad():
        reference(text)
    with gentrace.record(model) as recorder, torch.no_grad():
        model(text)
    for row, trace in enumerate(recorder.traces):
        check(trace, [weights[row] for weights in reference.seen])
        assert trace.fidelity.error <= 1e-5


@pytest.mark.parametrize("need_weights", [True, False])
def test_the_layer_of_torch_with_padding(need_weights: bool) -> None:
    model, text = Multihead(True, need_weights, "float"), ids(7, 2)
    reference = Multihead(True, True, "float")
    padding = torch.zeros(2, 7)
    padding[1, 2:4] = -torch.inf
    with torch.no_grad():
        reference(text, padding)
    with gentrace.record(model) as recorder, torch.no_grad():
        model(text, padding)
    for row, trace in enumerate(recorder.traces):
        for layer in range(2):
            assert distance(trace.attention(layer), reference.seen[layer][row]) <= 1e-5


def test_streams_that_predict_several_tokens_are_refused() -> None:
    model = build("causal", "prophetnet")
    with pytest.raises(gentrace.UnsupportedModel, match="blocks"), gentrace.record(model), torch.no_grad():
        model(ids(9, 1, 50))


def test_attention_that_is_written_into_the_block() -> None:
    model = Blocks()
    with gentrace.record(model) as recorder, torch.no_grad():
        model(ids(8, 2))
    assert [info.name for info in recorder.traces[0].layers] == ["blocks.0", "blocks.1"]
    for row, trace in enumerate(recorder.traces):
        check(trace, [block.seen[0][row] for block in model.blocks])


def test_a_wrong_understanding_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where what is understood does not give the scores, the scores are kept."""

    def never_divided(self: object, operand: object, divide: bool, axes: int) -> None:
        return None

    monkeypatch.setattr(reading._Reader, "_multiply", never_divided)
    model = Decoder(homemade.plain)
    with gentrace.record(model) as recorder:
        expected = model.run(ids(8))
    check(recorder.trace, [weights[0] for weights in expected], vectors=False)


def test_check_can_fail() -> None:
    model = Decoder(homemade.plain)
    with gentrace.record(model) as recorder:
        expected = model.run(ids(8))
    with pytest.raises(AssertionError):
        check(recorder.trace, [weights[0].roll(1, 0) for weights in expected])
    with pytest.raises(AssertionError):
        check(recorder.trace, [weights[0] for weights in expected], vectors=False)


@pytest.mark.filterwarnings("ignore:Decoder is in training mode")
@pytest.mark.parametrize("understood", [True, False])
def test_dropout_is_not_held_against_the_trace(understood: bool) -> None:
    def dropping(q: Tensor, k: Tensor, v: Tensor, own: homemade.Attention) -> tuple[Tensor, Tensor]:
        scores = q @ k.mT if understood else torch.sin(q @ k.mT)
        weights = scores.masked_fill(~homemade.causal(q.shape[2], k.shape[2]), -torch.inf).softmax(-1)
        return torch.nn.functional.dropout(weights, 0.5, True) @ v, weights

    model = Decoder(dropping)
    with gentrace.record(model) as recorder:
        expected = model.run(ids(8))
    check(recorder.trace, [weights[0] for weights in expected], vectors=understood)
    assert not any(layer.rows for layer in recorder.trace.fidelity.layers.values())


def test_an_attention_that_changes_its_ways_is_refused() -> None:
    model = Decoder(homemade.plain)
    with pytest.raises(gentrace.UnsupportedModel, match="does something else"), gentrace.record(model):
        model.run(ids(8))
        for layer in model.layers:
            layer.attend = homemade.noisy
        model.run(ids(8))


def test_ctrl_c_leaves_no_watcher_behind() -> None:
    def interrupted(q: Tensor, k: Tensor, v: Tensor, own: homemade.Attention) -> tuple[Tensor, Tensor]:
        homemade.plain(q, k, v, own)
        raise KeyboardInterrupt

    model, before = Decoder(interrupted), torch._C._len_torch_function_stack()
    with pytest.raises(KeyboardInterrupt), gentrace.record(model):
        model.run(ids(8))
    assert torch._C._len_torch_function_stack() == before


def test_weights_of_two_softmaxes_that_are_subtracted() -> None:
    def differential(q: Tensor, k: Tensor, v: Tensor, own: homemade.Attention) -> tuple[Tensor, Tensor]:
        hidden = ~homemade.causal(q.shape[2], k.shape[2])
        first, second = ((x @ k.mT).masked_fill(hidden, -torch.inf).softmax(-1) for x in (q, -q))
        return (first - 0.5 * second) @ v, torch.cat([first, second], 1)

    model = Decoder(differential, layers=1)
    with gentrace.record(model) as recorder:
        (expected,) = model.run(ids(8))
        model.run(ids(8))
    for trace in recorder.traces:
        found = torch.cat([trace.attention(info.index) for info in trace.layers])
        assert distance(found, expected[0]) <= 1e-5


def test_scores_do_not_outlive_their_layer() -> None:
    kept: list[weakref.ref[Tensor]] = []

    def watched(attend: Attend) -> Callable[..., tuple[Tensor, Tensor]]:
        def run(q: Tensor, k: Tensor, v: Tensor, own: homemade.Attention) -> tuple[Tensor, Tensor]:
            assert all(one() is None for one in kept)
            scores = q @ k.mT
            hidden = scores.masked_fill(~homemade.causal(q.shape[2], k.shape[2]), -torch.inf)
            kept.extend([weakref.ref(scores), weakref.ref(hidden)])
            weights = hidden.softmax(-1)
            return weights @ v, weights

        return run

    model = Decoder(watched(homemade.plain))
    gc.disable()
    try:
        with gentrace.record(model) as recorder:
            model.run(ids(8))
            expected = model.run(ids(8))
    finally:
        gc.enable()
    check(recorder.traces[1], [weights[0] for weights in expected])
    assert len(kept) == 8


class Masked(nn.Module):
    """Fused attention with a mask for each head, ``[head, query, key]``."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix = nn.Embedding(50, 16), nn.Linear(16, 48)

    def forward(self, ids: Tensor) -> Tensor:
        batch, length = ids.shape
        query, key, value = self.mix(self.embed(ids)).view(batch, length, 3, 4, 4).permute(2, 0, 3, 1, 4)
        bias = torch.arange(4.0)[:, None, None] * torch.eye(length)
        return nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)


def test_a_fused_mask_is_broadcast_from_the_right() -> None:
    model, ids = Masked().eval(), torch.randint(0, 50, (4, 5))
    with gentrace.record(model) as recorder, torch.no_grad():
        model(ids)
    for trace in recorder.traces:
        diagonal = torch.stack([trace.score_terms(0, head, 2).bias for head in range(4)])[:, 2]
        assert diagonal.tolist() == [0.0, 1.0, 2.0, 3.0]
        assert trace.fidelity.error <= 1e-5


@pytest.mark.parametrize("extra", ["add_zero_attn", "add_bias_kv"])
def test_keys_that_are_no_tokens_are_refused(extra: str) -> None:
    class Extra(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(50, 16)
            self.attend = nn.MultiheadAttention(16, 4, batch_first=True, **{extra: True})

        def forward(self, ids: Tensor) -> Tensor:
            states = self.embed(ids)
            return self.attend(states, states, states, need_weights=False)[0]

    model = Extra().eval()
    with pytest.raises(gentrace.CaptureError, match="stand for no token"), gentrace.record(model), torch.no_grad():
        model(torch.randint(0, 50, (1, 5)))
