"""The lens tap: a bridge's own generation, compared with the bridge's own hook points in one forward over the text."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, BloomConfig, PreTrainedTokenizerFast

import gentrace
from tests.models import BOS, EOS, PAD, VOCAB, prompt, tiny
from tests.oracle import distance

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

NAMES = ("gpt2", "llama", "gpt_neox", "gemma2", "bloom")
TEXTS = ["w5 w6 w7 w9", "w8"]
NEW = 5
PLAIN: dict[str, Any] = {"max_new_tokens": NEW, "verbose": False, "stop_at_eos": False}
GREEDY: dict[str, Any] = PLAIN | {"do_sample": False}


def bridge_of(model: Any, folder: Path) -> Any:
    """A bridge needs a tokenizer that was loaded from somewhere."""
    from transformer_lens.model_bridge import TransformerBridge

    words = {"<pad>": PAD, "<bos>": BOS, "<eos>": EOS} | {f"w{number}": number for number in range(3, VOCAB)}
    tokenizer = Tokenizer(WordLevel(words, unk_token="<pad>"))
    tokenizer.pre_tokenizer = Whitespace()
    special = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    model.config.architectures = [type(model).__name__]
    loaded = AutoTokenizer.from_pretrained(folder)
    return TransformerBridge.boot_transformers("tiny", hf_model=model, tokenizer=loaded, device="cpu")


def made(name: str, folder: Path) -> Any:
    if name != "bloom":
        return bridge_of(tiny(name, "eager" if name == "gemma2" else "sdpa"), folder)
    torch.manual_seed(0)
    config = BloomConfig(
        vocab_size=VOCAB, hidden_size=48, n_layer=3, n_head=4, pad_token_id=PAD, bos_token_id=BOS, eos_token_id=EOS
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(6.0)
    return bridge_of(model, folder)


@pytest.fixture(scope="module", params=NAMES)
def every(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return made(request.param, tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def bridge(tmp_path: Path) -> Iterator[Any]:
    bridge = made("llama", tmp_path)
    yield bridge
    assert not left_by_us(bridge)


def left_by_us(bridge: Any) -> list[Any]:
    """Our hooks, and methods that only the instance has."""
    modules = [*bridge.modules(), *bridge.original_model.modules()]
    tables = [table for part in modules for table in (part._forward_hooks, part._forward_pre_hooks)]
    hooks = [hook for table in tables for hook in table.values()]
    ours = [hook for hook in hooks if str(getattr(hook, "__module__", "")).startswith("gentrace")]
    return ours + [name for name in bridge.__dict__ if callable(getattr(type(bridge), name, None))]


@torch.no_grad()
def check(trace: gentrace.Trace, bridge: Any, *, whole: bool = True) -> None:
    logits, cache = bridge.run_with_cache(trace.tokens.ids[None, : trace.length])
    assert [info.index for info in trace.layers] == [0, 1, 2]
    for info in trace.layers:
        assert (info.source, info.name) == ("lens", f"blocks.{info.index}.attn")
        pattern, scores = (cache[name, info.index][0] for name in ("pattern", "attn_scores"))
        assert distance(trace.attention(info.index), pattern) <= 1e-5
        # A bridge hides with the dtype's minimum.
        hidden = scores < -1e30
        assert bool((trace.scores(info.index).isneginf() == hidden).all())
        assert distance(trace.scores(info.index)[~hidden], scores[~hidden]) <= 1e-4
        queries = trace.queries(info.index)
        assert queries.shape[0] == info.heads
        assert trace.keys(info.index).shape[:2] == (info.kv_heads, trace.length)
    expected = logits[0].log_softmax(-1)
    ids = trace.tokens.ids
    known = expected[: len(ids) - 1].gather(-1, ids[1:, None])[:, 0]
    assert distance(trace.tokens.logprobs[1:], known) <= 1e-4
    assert trace.fidelity.error <= 1e-5
    assert trace.meta.complete == whole


def record(bridge: Any, run: Callable[[], Any]) -> tuple[list[gentrace.Trace], Any]:
    with gentrace.record(bridge) as recorder:
        result = run()
    return recorder.traces, result


@pytest.mark.parametrize("cached", [True, False])
def test_generate(every: Any, cached: bool) -> None:
    ids, options = prompt(9), GREEDY | {"use_past_kv_cache": cached}
    expected = every.generate(ids, **options)
    (trace,), out = record(every, lambda: every.generate(ids, **options))
    assert torch.equal(out, expected)
    assert torch.equal(trace.tokens.ids, expected[0])
    assert (trace.length, trace.tokens.prompt_length) == (13, 9)
    check(trace, every)


def test_generate_from_texts_of_several_lengths(every: Any) -> None:
    expected = every.generate(TEXTS, return_type="tokens", **GREEDY)
    traces, out = record(every, lambda: every.generate(TEXTS, return_type="tokens", **GREEDY))
    assert torch.equal(out, expected)
    for row, trace in enumerate(traces):
        length = len(trace.tokens.ids)
        assert torch.equal(trace.tokens.ids, expected[row, -length:])
        assert trace.tokens.prompt_length == length - NEW
        check(trace, every)
    assert len(traces[0].tokens.ids) == expected.shape[1] == len(traces[1].tokens.ids) + 3


def test_generate_stream(every: Any) -> None:
    ids = prompt(9)
    expected = torch.cat(list(every.generate_stream(ids, max_tokens_per_yield=2, **GREEDY)), -1)
    (trace,), chunks = record(every, lambda: list(every.generate_stream(ids, max_tokens_per_yield=2, **GREEDY)))
    assert torch.equal(torch.cat(chunks, -1), expected)
    assert torch.equal(trace.tokens.ids, expected[0])
    check(trace, every)


def test_hf_generate(every: Any) -> None:
    ids, options = prompt(9), {"max_new_tokens": NEW, "do_sample": False, "stop_at_eos": False}
    expected = every.hf_generate(ids, **options)
    (trace,), out = record(every, lambda: every.hf_generate(ids, **options))
    assert torch.equal(out, expected)
    assert torch.equal(trace.tokens.ids, expected[0])
    check(trace, every)


@torch.no_grad()
def test_a_forward(every: Any) -> None:
    ids = prompt(9)
    expected = every(ids)
    (trace,), logits = record(every, lambda: every(ids))
    assert torch.equal(logits, expected)
    assert torch.equal(trace.tokens.ids, ids[0])
    check(trace, every)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.7, "top_k": 9},
        {"top_p": 0.8},
        {"repetition_penalty": 1.7, "temperature": 1.3, "freq_penalty": 0.4},
        {"do_sample": False, "repetition_penalty": 2.0},
    ],
)
def test_what_was_sampled_from(bridge: Any, options: dict[str, Any]) -> None:
    ids = prompt(9)
    torch.manual_seed(5)
    expected = bridge.generate(ids, output_logits=True, **PLAIN, **options)
    after = torch.rand(1)
    torch.manual_seed(5)
    (trace,), out = record(bridge, lambda: bridge.generate(ids, **PLAIN, **options))
    assert torch.equal(torch.rand(1), after)
    assert torch.equal(out, expected.sequences)
    for step, logits in enumerate(expected.logits):
        text = out[0, : 9 + step]
        wanted = by_hand(logits[0].double().clone(), text, **options)[out[0, 9 + step]]
        assert float(trace.tokens.sampled_logprobs[9 + step]) == pytest.approx(float(wanted), abs=1e-5)
    check(trace, bridge)


def by_hand(
    logits: Tensor,
    text: Tensor,
    do_sample: bool = True,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    repetition_penalty: float = 1.0,
    freq_penalty: float = 0.0,
) -> Tensor:
    """Log-probabilities after TransformerLens' options, computed from what they are said to do."""
    seen = text.unique()
    logits[seen] = torch.where(logits[seen] > 0, logits[seen] / repetition_penalty, logits[seen] * repetition_penalty)
    if do_sample:
        logits = logits / temperature - freq_penalty * torch.bincount(text, minlength=VOCAB)
    if top_k is not None:
        logits[logits < logits.topk(top_k).values[-1]] = -torch.inf
    if top_p is not None:
        probabilities, order = logits.softmax(-1).sort(descending=True)
        logits[order[probabilities.cumsum(-1) - probabilities > top_p]] = -torch.inf
    return logits.log_softmax(-1)


def test_a_sequence_that_ends_early(bridge: Any) -> None:
    ids = bridge.generate(TEXTS, return_type="tokens", **GREEDY)
    options = {"max_new_tokens": NEW, "verbose": False, "do_sample": False, "eos_token_id": int(ids[1, -4])}
    traces, out = record(bridge, lambda: bridge.generate(TEXTS, return_type="tokens", **options))
    ended = traces[1].tokens.ids.tolist()
    assert ended == out[1, 3 : 3 + len(ended)].tolist()
    assert ended.index(options["eos_token_id"]) == len(ended) - 1
    assert len(ended) < len(traces[0].tokens.ids)
    for trace in traces:
        check(trace, bridge)


def test_the_cache_that_generate_returns_is_no_trace(bridge: Any) -> None:
    (trace,), (_, cache) = record(bridge, lambda: bridge.generate(prompt(9), return_cache=True, **GREEDY))
    assert cache["pattern", 0].shape[-1] == trace.length + 1
    check(trace, bridge)


def test_streams_that_are_interleaved_and_abandoned(bridge: Any) -> None:
    def run() -> Any:
        first = bridge.generate_stream(prompt(9), max_tokens_per_yield=1, **GREEDY)
        next(first)
        with torch.no_grad():
            bridge(prompt(4, seed=3))
        second = bridge.generate_stream(prompt(5, seed=4), max_tokens_per_yield=1, **GREEDY)
        for stream in (second, first, second, first):
            next(stream)
        second.close()
        return first

    traces, stream = record(bridge, run)
    assert [(trace.tokens.prompt_length, len(trace.tokens.ids)) for trace in traces] == [(9, 12), (4, 4), (5, 7)]
    expected = bridge.generate(prompt(9), **GREEDY)[0]
    assert torch.equal(traces[0].tokens.ids, expected[:12])
    # What is left of the stream goes on, unrecorded.
    assert torch.cat(list(stream), -1)[0].tolist() == expected[12:].tolist()
    for trace, whole in zip(traces, (False, True, False), strict=True):
        check(trace, bridge, whole=whole)


def test_an_interrupted_generation(bridge: Any) -> None:
    calls = []

    def interrupt(pattern: Tensor, hook: Any) -> Tensor:
        calls.append(hook)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return pattern

    recorder = gentrace.record(bridge)
    with (
        pytest.raises(KeyboardInterrupt),
        recorder,
        bridge.hooks(fwd_hooks=[("blocks.1.attn.hook_pattern", interrupt)]),
    ):
        bridge.generate(prompt(9), **GREEDY)
    assert len(recorder.trace.tokens.ids) == 12
    check(recorder.trace, bridge, whole=False)
    traces, _ = record(bridge, lambda: bridge.generate(prompt(9), **GREEDY))
    check(traces[0], bridge)


def test_hooks_of_the_user(bridge: Any) -> None:
    seen: list[Any] = []
    hooks = [
        ("blocks.1.attn.hook_attn_scores", lambda scores, hook: scores * 0.5),
        ("unembed.hook_in", lambda hidden, hook: seen.append(hook)),
    ]
    with bridge.hooks(fwd_hooks=hooks):
        (trace,), _ = record(bridge, lambda: bridge.generate(prompt(9), **GREEDY))
        fired = len(seen)
        assert bool(trace.tokens.logprobs[1:].isfinite().all())
        assert len(seen) == fired
        check(trace, bridge)
    assert trace.layers[1].scale == pytest.approx(trace.layers[0].scale / 2)


def test_compatibility_mode(bridge: Any) -> None:
    bridge.enable_compatibility_mode(disable_warnings=True)
    traces, _ = record(bridge, lambda: bridge.generate(TEXTS, **GREEDY))
    for trace in traces:
        _, cache = bridge.run_with_cache(trace.tokens.ids[None, : trace.length])
        assert distance(trace.attention(1), cache["pattern", 1][0]) <= 1e-5


def test_what_is_attached_is_seen(bridge: Any) -> None:
    with gentrace.record(bridge):
        left = left_by_us(bridge)
    assert {"generate", "_generate_tokens", "run_with_cache"} <= set(filter(lambda one: isinstance(one, str), left))
    assert any(callable(one) for one in left)


def test_check_can_fail(bridge: Any) -> None:
    (trace,), _ = record(bridge, lambda: bridge.generate(prompt(9), **GREEDY))
    hooks = [("blocks.2.attn.hook_attn_scores", lambda scores, hook: scores * 1.01)]
    with pytest.raises(AssertionError), bridge.hooks(fwd_hooks=hooks):
        check(trace, bridge)


def test_what_delegates_its_attention_is_seen_by_the_registry(tmp_path: Path) -> None:
    from transformers import OPTConfig

    torch.manual_seed(0)
    config = OPTConfig(vocab_size=VOCAB, hidden_size=48, ffn_dim=64, num_hidden_layers=2, num_attention_heads=4)
    config.word_embed_proj_dim = 48
    bridge = bridge_of(AutoModelForCausalLM.from_config(config).eval(), tmp_path)
    (trace,), _ = record(bridge, lambda: bridge.generate(prompt(9), **GREEDY))
    assert [(info.name, info.source) for info in trace.layers] == [
        ("blocks.0.attn", "interface"),
        ("blocks.1.attn", "interface"),
    ]
    _, cache = bridge.run_with_cache(trace.tokens.ids[None, : trace.length])
    for layer in range(2):
        assert distance(trace.attention(layer), cache["pattern", layer][0]) <= 1e-5
