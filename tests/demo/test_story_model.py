"""The bundled model: small, offline, fluent, and with heads that do what the demos show."""

import re
import socket
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import train_demo_models as training
from hypothesis import given
from hypothesis import strategies as st
from story_corpus import stories
from transformers import AutoModelForCausalLM, GPT2LMHeadModel, PreTrainedTokenizerFast

from gentrace.demo import load_story_model

FOLDER = Path(str(files("gentrace.demo") / "story"))
MAIA = "Maia is a cute little baby who likes to explore her world!"


def test_the_model_is_bundled_and_small() -> None:
    sizes = {file.name: file.stat().st_size for file in FOLDER.iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"} <= set(sizes)
    assert sum(sizes.values()) <= 6e6


def test_it_loads_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    model, tokenizer = load_story_model()
    assert isinstance(model, GPT2LMHeadModel)
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    assert not model.training
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert model.config.n_positions >= 512
    assert tokenizer.bos_token == tokenizer.eos_token == tokenizer.pad_token == "<|endoftext|>"
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id


def test_it_is_an_ordinary_folder() -> None:
    assert AutoModelForCausalLM.from_pretrained(FOLDER).dtype == torch.float32
    assert AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.bfloat16).dtype == torch.bfloat16


@given(st.text())
def test_any_text_survives_the_tokenizer(story: tuple[Any, Any], text: str) -> None:
    tokenizer = story[1]
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


@pytest.mark.parametrize(
    "text", ["🙂👩‍👩‍👧 café", "日本語", "a\n\n\tb  c ", "<s> <b>x</b> </script> <|endoftext|>", " .,!?'"]
)
def test_hostile_text_survives_the_tokenizer(story: tuple[Any, Any], text: str) -> None:
    tokenizer = story[1]
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def scores_of(model: Any, tokenizer: Any) -> training.HeadScores:
    return training.head_scores(model, *training.probe_rows(tokenizer, model.config.n_positions))


@pytest.fixture(scope="module")
def eager() -> Any:
    return AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32, attn_implementation="eager").eval()


def test_heads_show_structure(eager: Any, story: tuple[Any, Any]) -> None:
    scores = scores_of(eager, story[1])
    assert scores.previous_token.max() >= training.PREVIOUS_TOKEN_THRESHOLD
    assert scores.induction.max() >= training.INDUCTION_THRESHOLD


def test_untrained_heads_show_none(eager: Any, story: tuple[Any, Any]) -> None:
    torch.manual_seed(0)
    scores = scores_of(GPT2LMHeadModel(eager.config).eval(), story[1])
    assert scores.previous_token.max() < 0.1
    assert scores.induction.max() < 0.1


def test_induction_is_learned(story: tuple[Any, Any]) -> None:
    start = training.new_model(training.Recipe(), story[1].eos_token_id).eval()
    start.set_attn_implementation("eager")
    assert scores_of(start, story[1]).induction.max() < 0.1


def test_induction_needs_a_repetition(eager: Any, story: tuple[Any, Any]) -> None:
    text, repeated = training.probe_rows(story[1], eager.config.n_positions)
    half = repeated.shape[1] // 2
    fresh = torch.cat([repeated[:, :half], repeated[:, half:].flip(0)], dim=1)
    assert training.head_scores(eager, text, fresh).induction.max() < 0.1


def drawn(weights: Callable[[int, int], float], length: int) -> Any:
    """A model with one head whose weight from a query to a key is what `weights` says."""
    square = torch.tensor([[weights(query, key) for key in range(length)] for query in range(length)])
    return lambda **_: SimpleNamespace(attentions=(square[None, None],))


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        (lambda query, key: float(key == query - 1), (1, 0, 1 / 7)),
        (lambda query, key: float(key == query - 3), (0, 1, 1 / 7)),
        (lambda query, key: float(key == query - 4), (0, 0, 1 / 7)),
        (lambda query, key: float(key == query), (0, 0, 0)),
        (lambda query, key: float(key == 0), (1 / 7, 0, 1)),
    ],
    ids=["previous", "induction", "same token", "itself", "first"],
)
def test_the_measure_on_drawn_heads(weights: Callable[[int, int], float], expected: tuple[float, ...]) -> None:
    rows = torch.zeros(1, 8, dtype=torch.long)
    scores = training.head_scores(drawn(weights, 8), rows, rows)
    found = (scores.previous_token, scores.induction, scores.first_token)
    assert [value.item() for value in found] == pytest.approx(list(expected))


def words_of(text: str) -> list[str]:
    return re.findall(r"[A-Za-z']+", text)


def is_fluent(text: str, known: set[str]) -> bool:
    """At least 50 words, every one known, and six of ten groups of four consecutive words occur once only."""
    found = words_of(text)
    groups = list(zip(*(found[start:] for start in range(4)), strict=False))
    return len(found) >= 50 and set(found) <= known and len(set(groups)) >= 0.6 * len(groups)


@pytest.fixture(scope="module")
def known() -> set[str]:
    return {word for text in stories(3000, 99) for word in words_of(text)}


def continuation(model: Any, tokenizer: Any) -> str:
    inputs = tokenizer(MAIA, return_tensors="pt")
    output = model.generate(**inputs, do_sample=False, max_new_tokens=200, eos_token_id=None)
    end = output[0, inputs["input_ids"].shape[1] :]
    return tokenizer.decode(end, skip_special_tokens=True)


def test_the_story_of_maia_goes_on(story: tuple[Any, Any], known: set[str]) -> None:
    text = continuation(*story)
    assert is_fluent(text.rsplit(" ", 1)[0], known), text
    assert "Maia" in text


def test_an_untrained_model_is_not_fluent(story: tuple[Any, Any], known: set[str]) -> None:
    torch.manual_seed(0)
    text = continuation(GPT2LMHeadModel(story[0].config).eval(), story[1])
    assert not is_fluent(text, known)
    assert not is_fluent("and they laughed " * 30, known)


def test_held_out_loss(story: tuple[Any, Any]) -> None:
    model, tokenizer = story
    held_out = training.encode(tokenizer, stories(60, training.VALIDATION_SEED))
    assert training.held_out_loss(model, held_out) < 0.4


def test_late_positions_are_as_good_as_early_ones(story: tuple[Any, Any]) -> None:
    model, tokenizer = story
    _, repeated = training.probe_rows(tokenizer, model.config.n_positions)
    with torch.no_grad():
        predicted = model(input_ids=repeated).logits.argmax(-1)
    right = (predicted[:, :-1] == repeated[:, 1:]).float()
    half = repeated.shape[1] // 2
    assert right[:, half : half + 100].mean() > 0.9
    assert right[:, -100:].mean() > 0.9
    assert right[:, : half - 1].mean() < 0.1
