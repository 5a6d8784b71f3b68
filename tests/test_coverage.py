"""A fast share of ``scripts/coverage.py``: at least one type of every mechanism is as exact as the kept list says.

And the comparison itself is put to the test: it has to notice a wrong number and a missing layer.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import pytest

import gentrace
from tests.zoo import build, model_inputs
from tests.zoo.compare import LIMIT, Setting, Verdict, Wrong, closest, verdicts
from tests.zoo.oracle import Reference, full_reference, generate, stitched_reference
from tests.zoo.report import EXPECTED, Expected, load, worse

MECHANISMS: dict[str, dict[str, tuple[str, ...]]] = {
    "causal": {
        "rope and grouped queries": ("llama", "qwen2", "olmo2", "phi3", "stablelm", "glm4", "starcoder2"),
        "one key head for all": ("gpt_bigcode", "gemma"),
        "learned positions": ("gpt2", "opt", "biogpt", "openai-gpt", "ctrl"),
        "alibi": ("bloom", "mpt", "falcon"),
        "outside of the registry": ("gptj", "gpt_neo", "codegen", "xglm", "gpt_neox_japanese"),
        "latent attention": ("deepseek_v2", "deepseek_v3", "minicpm3", "longcat_flash"),
        "sinks": ("gpt_oss", "granite_swa", "mimo_v2_flash"),
        "softcap": ("gemma2", "vaultgemma"),
        "sliding windows": ("mistral", "gemma3_text", "cohere2", "modernbert-decoder", "ministral"),
        "chunks": ("llama4_text",),
        "keys shared between layers": ("gemma3n_text",),
        "differential": ("diffllama",),
        "sparse": ("deepseek_v32", "doge"),
        "beside linear layers": (
            "qwen3_next",
            "bamba",
            "zamba2",
            "falcon_h1",
            "lfm2",
            "recurrent_gemma",
            "kimi_linear",
        ),
        "experts": ("mixtral", "qwen3_moe"),
        "encoders that write": ("bert", "roberta", "roformer"),
        "layers used again": ("hrm_text",),
    },
    "seq2seq": {
        "text": ("bart", "t5", "mt5", "marian", "fsmt", "bigbird_pegasus", "t5gemma", "encoder-decoder"),
        "speech": ("whisper", "moonshine", "speech_to_text"),
        "speech before text": ("qwen2_audio", "granite_speech"),
    },
    "masked": {
        "encoders": ("bert", "modernbert", "deberta-v2", "esm", "roformer", "distilbert", "mpnet", "squeezebert"),
        "encoder and decoder": ("bart",),
    },
}
NONE = (("causal", "mamba"), ("masked", "fnet"))

EXPECTATIONS = load(EXPECTED)
CASES = [(task, name) for task, mechanisms in MECHANISMS.items() for names in mechanisms.values() for name in names]


def test_the_share_is_large_enough() -> None:
    assert len(CASES) == len(set(CASES)) >= 45


@pytest.mark.parametrize(("task", "name"), CASES)
def test_a_type_is_exact(task: str, name: str) -> None:
    found = {verdict.kernel: verdict for verdict in verdicts(task, name, Setting())}
    assert found.keys() == EXPECTATIONS[task][name].keys()
    for kernel, verdict in found.items():
        assert verdict.outcome == EXPECTATIONS[task][name][kernel] == "exact", verdict.line()
        assert not any(note.startswith("warned") for note in verdict.notes), verdict.line()


@pytest.mark.parametrize(("task", "name"), NONE)
def test_what_has_no_attention_is_refused(task: str, name: str) -> None:
    (verdict,) = verdicts(task, name, Setting())
    assert verdict.outcome == "no attention", verdict.line()


def test_the_kept_list_has_nothing_wrong() -> None:
    bad = [
        f"{task} {name} {kernel}: {outcome}"
        for task, types in EXPECTATIONS.items()
        for name, kernels in types.items()
        for kernel, outcome in kernels.items()
        if outcome in ("wrong", "failed")
    ]
    assert not bad


def recorded(kernel: str = "eager") -> tuple[gentrace.Trace, Reference]:
    model = build("causal", "qwen2", kernel)
    with gentrace.record(model) as recorder:
        done = generate(model, model_inputs("causal", model, length=9), new=4)
    reference = full_reference(model, done, 0)
    assert reference is not None
    return recorder.trace, reference


def test_both_witnesses_agree() -> None:
    model = build("causal", "qwen2")
    done = generate(model, model_inputs("causal", model, length=9), new=4)
    whole, parts = full_reference(model, done, 0), stitched_reference(model, done, 4, 0)
    assert whole is not None
    assert len(whole.matrices["self"]) == len(parts.matrices["self"]) == 4
    for one, other in zip(whole.matrices["self"], parts.matrices["self"], strict=True):
        assert one.shape == other.shape == (4, 12, 12)
        assert float((one - other).abs().max()) <= LIMIT


def test_a_wrong_number_is_noticed() -> None:
    trace, reference = recorded()
    assert closest(trace, iter([reference]), "qwen2")[1] <= LIMIT
    matrices = [layer.clone() for layer in reference.matrices["self"]]
    matrices[2][1, 7, 3] += 1e-3
    perturbed = dataclasses.replace(reference, matrices={"self": matrices})
    assert closest(trace, iter([perturbed]), "qwen2")[1] == pytest.approx(1e-3, abs=LIMIT)


def test_a_missing_layer_is_noticed() -> None:
    trace, reference = recorded()
    without = dataclasses.replace(trace, layers=trace.layers[:1] + trace.layers[2:])
    with pytest.raises(Wrong, match=r"layers missing: self attention of layers \[0, 2, 3\] was traced"):
        closest(without, iter([reference]), "qwen2")


def test_the_verdict_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = gentrace.record

    def some(model: Any, **options: Any) -> Any:
        return whole(model, layers=[0, 1, 3], **options)

    monkeypatch.setattr(gentrace, "record", some)
    (verdict,) = verdicts("causal", "qwen2", Setting(), ("eager",))
    assert (verdict.outcome, verdict.reason.split(":")[0]) == ("wrong", "layers missing")
    monkeypatch.setattr(gentrace, "record", whole)
    right = gentrace.Trace.attention

    @functools.wraps(right)
    def shifted(*args: Any, **options: Any) -> Any:
        return right(*args, **options).roll(1, -2)

    monkeypatch.setattr(gentrace.Trace, "attention", shifted)
    (verdict,) = verdicts("causal", "qwen2", Setting(), ("eager",))
    assert (verdict.outcome, verdict.reason.split(" by")[0]) == ("wrong", "attention differs")


def test_what_got_worse() -> None:
    before: Expected = {"causal": {"a": {"eager": "exact", "sdpa": "exact"}, "b": {"eager": "refused"}}}

    def now(name: str, kernel: str, outcome: str) -> Verdict:
        return Verdict("causal", name, kernel, outcome)

    same = [now("a", "eager", "exact"), now("a", "sdpa", "exact"), now("b", "eager", "exact")]
    assert worse(same, before) == []
    fallen = [now("a", "eager", "refused"), now("b", "eager", "failed"), now("c", "eager", "wrong")]
    assert worse(fallen, before) == [
        "causal a eager: exact → refused",
        "causal b eager: refused → failed",
        "causal c eager: nothing → wrong",
        "causal a sdpa: exact → not run",
    ]


@pytest.mark.parametrize("page", ["README.md", "scripts/COVERAGE.md"])
def test_what_the_pages_say_is_the_kept_list(page: str) -> None:
    text = (Path(__file__).parent.parent / page).read_text(encoding="utf-8")
    rows = {
        cells[1].strip(): [cell.strip() for cell in cells[2:4]]
        for line in text.splitlines()
        if len(cells := line.split("|")) > 5
    }
    for task, titles in {"causal": ("causal LM",), "masked": ("masked LM",)}.items():
        kept = EXPECTATIONS[task]
        exact = sum(set(kernels.values()) == {"exact"} for kernels in kept.values())
        assert rows[titles[0]] == [str(len(kept)), str(exact)]
    kept = EXPECTATIONS["seq2seq"]
    titles = ("sequence to sequence", "speech to sequence")
    found = [cells for title, cells in rows.items() if title.startswith(titles)]
    assert [sum(int(cells[place]) for cells in found) for place in (0, 1)] == [
        len(kept),
        sum(set(kernels.values()) == {"exact"} for kernels in kept.values()),
    ]
