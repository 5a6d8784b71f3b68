"""The bundled translator: small, offline, right on new sentences, and with cross-attention worth looking at."""

import socket
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
import translator_training as training
from click.testing import CliRunner
from transformers import AutoModelForSeq2SeqLM, BartForConditionalGeneration
from translator_corpus import pairs
from translator_grammar import Pair, text_of

import gentrace
from gentrace.cli import main
from gentrace.demo import load

FOLDER = Path(str(files("gentrace.demo") / "translator"))
ELEPHANT = "She sees the small elephant."
GERMAN = "Sie sieht den kleinen Elefanten."


@pytest.fixture(scope="module")
def translator() -> tuple[Any, Any]:
    return load("translator")


@pytest.fixture(scope="module")
def eager() -> Any:
    return AutoModelForSeq2SeqLM.from_pretrained(FOLDER, dtype=torch.float32, attn_implementation="eager").eval()


@pytest.fixture(scope="module")
def held_out() -> list[Pair]:
    return pairs(100, training.VALIDATION_SEED)


@pytest.fixture(scope="module")
def trace(translator: tuple[Any, Any]) -> gentrace.Trace:
    found = gentrace.generate(*translator, "She wants to see the small elephant.", max_new_tokens=30)
    assert isinstance(found, gentrace.Trace)
    return found


def test_the_model_is_bundled_and_small(translator: tuple[Any, Any]) -> None:
    sizes = {file.name: file.stat().st_size for file in FOLDER.iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"} <= set(sizes)
    assert sum(sizes.values()) <= 3e6
    model, tokenizer = translator
    assert isinstance(model, BartForConditionalGeneration)
    assert not model.training
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert model.config._name_or_path == "translator"
    assert tokenizer.model_max_length == model.config.max_position_embeddings


def test_it_loads_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    load("translator")


@pytest.mark.parametrize("text", ["🙂 café", "日本語", "a\n\n\tb  c ", "<s> <b>x</b> </script>", " .,!?'"])
def test_any_text_survives_the_tokenizer(translator: tuple[Any, Any], text: str) -> None:
    tokenizer = translator[1]
    ids = tokenizer(text)["input_ids"]
    assert ids[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(ids[:-1]) == text


def test_sentences_it_never_saw_are_translated(translator: tuple[Any, Any], held_out: list[Pair]) -> None:
    wanted = [text_of(pair.german) for pair in held_out]
    found = training.translations(*translator, [text_of(pair.english) for pair in held_out])
    right = sum(one == other for one, other in zip(wanted, found, strict=True))
    assert right >= training.EXACT_THRESHOLD * len(held_out) - 1
    assert training.translations(*translator, [ELEPHANT]) == [GERMAN]


def test_the_helped_head_looks_at_what_is_translated_next(
    eager: Any, translator: tuple[Any, Any], held_out: list[Pair]
) -> None:
    examples = [training.encode(translator[1], pair) for pair in held_out]
    assert training.aligned_rows(eager, examples)[training.HELPED] >= training.ALIGNED_THRESHOLD
    torch.manual_seed(0)
    untrained = BartForConditionalGeneration(eager.config).eval()
    assert training.aligned_rows(untrained, examples).max() < 0.4


def test_training_starts_without_the_structure(translator: tuple[Any, Any], held_out: list[Pair]) -> None:
    start = training.new_model(training.Recipe(), translator[1]).eval()
    start.set_attn_implementation("eager")
    examples = [training.encode(translator[1], pair) for pair in held_out]
    assert training.aligned_rows(start, examples).max() < 0.4


def test_the_diagonal_would_not_do(translator: tuple[Any, Any], held_out: list[Pair]) -> None:
    examples = [training.encode(translator[1], pair) for pair in held_out]
    rows = [(query, found) for one in examples for query, found in enumerate(one.aligned) if found]
    assert sum(query in found for query, found in rows) / len(rows) < 0.5


def test_cross_attention_is_what_eager_attention_says(trace: gentrace.Trace, eager: Any) -> None:
    assert trace.encoder_tokens is not None
    with torch.no_grad():
        output = eager(
            input_ids=trace.encoder_tokens.ids[None],
            decoder_input_ids=trace.tokens.ids[None, : trace.length],
            output_attentions=True,
        )
    for kind, expected in (
        ("self", output.decoder_attentions),
        ("cross", output.cross_attentions),
        ("encoder", output.encoder_attentions),
    ):
        for layer in range(2):
            torch.testing.assert_close(trace.attention(layer, kind=kind), expected[layer][0], atol=1e-5, rtol=0)


def test_recording_changes_no_token(trace: gentrace.Trace, translator: tuple[Any, Any]) -> None:
    model, tokenizer = translator
    inputs = tokenizer("She wants to see the small elephant.", return_tensors="pt")
    assert model.generate(**inputs, max_new_tokens=30)[0].tolist() == trace.tokens.ids.tolist()
    assert trace.tokens.text == "<s>Sie will den kleinen Elefanten sehen.</s>"


def test_the_verb_at_the_end_looks_back_at_the_verb(trace: gentrace.Trace) -> None:
    assert trace.encoder_tokens is not None
    layer, head = training.HELPED
    before_verb = next(place for place, text in enumerate(trace.tokens.texts) if text.startswith(" seh")) - 1
    looked_at = trace.attention(layer, head, kind="cross")[before_verb].argmax()
    assert trace.encoder_tokens.texts[looked_at] == " see"


def test_the_command_line_translates(tmp_path: Path) -> None:
    out, page = tmp_path / "trace.safetensors", tmp_path / "page.html"
    options = ["run", "--model", "translator", "--prompt", ELEPHANT, "--out", str(out), "--html", str(page)]
    result = CliRunner().invoke(main, options)
    assert result.exit_code == 0, result.output
    saved = gentrace.load(out)
    assert saved.tokens.text == f"<s>{GERMAN}</s>"
    assert "elephant" in saved.encoder_tokens.text  # type: ignore[union-attr]
    assert {info.kind for info in saved.layers} == {"self", "cross", "encoder"}
    assert "<!doctype html>" in page.read_text(encoding="utf-8")[:200].lower()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--prompt", "small " * 80), "either is limited to the model's context of 64"),
        (("--prompt", ELEPHANT, "--max-new-tokens", "64"), "64 are to be written"),
        (("--prompt", ELEPHANT, "--layers", "2"), "layers [2] do not exist: the model has layers 0 … 1"),
        (("--prompt", ELEPHANT, "--completion", str(FOLDER / "tokenizer_config.json")), "either is limited"),
    ],
)
def test_what_does_not_fit_is_one_clear_line(options: tuple[str, ...], message: str, tmp_path: Path) -> None:
    out = tmp_path / "trace.safetensors"
    result = CliRunner().invoke(main, ["run", "--model", "translator", *options, "--out", str(out)])
    assert result.exit_code == 1
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not out.exists()


def test_a_finished_translation_is_not_read(tmp_path: Path) -> None:
    written, out = tmp_path / "written.txt", tmp_path / "trace.safetensors"
    written.write_text(GERMAN, encoding="utf-8")
    options = ["run", "--model", "translator", "--prompt", ELEPHANT, "--completion", str(written), "--out", str(out)]
    result = CliRunner().invoke(main, options)
    assert result.exit_code == 1
    assert "an encoder-decoder model" in result.stderr
