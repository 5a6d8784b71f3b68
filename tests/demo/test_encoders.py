"""The toy encoder's heads do what is said of them, worked out from words, positions and sentences alone."""

from collections.abc import Callable
from math import exp

import pytest
import torch

import gentrace
from gentrace.demo import load_encoder
from gentrace.demo.encoders import SHARP, TOY_HEADS
from gentrace.trace.trace import Trace

A = "Maia is a cute little baby who likes to explore her world!"
B = "Maia is a cute little baby who loves to explore her house."


@pytest.fixture(scope="module")
def trace() -> Trace:
    model, tokenizer = load_encoder("toy")
    with gentrace.record(model, tokenizer) as recorder, torch.no_grad():
        model(**tokenizer(A, B, return_tensors="pt"))
    return recorder.trace


def test_the_pair_is_joined_with_token_types(trace: Trace) -> None:
    assert trace.meta.model == "toy"
    words = [text.strip() for text in trace.tokens.texts]
    assert words[0] == "[CLS]"
    assert words.count("[SEP]") == 2
    assert "[UNK]" not in words
    assert trace.segments is not None
    assert trace.segments.tolist() == [0] * 15 + [1] * 14


SCORES: dict[str, Callable[[list[str], list[int], int, int], int]] = {
    "the same word in the other sentence": lambda w, s, q, k: (w[q] == w[k]) + (s[q] != s[k]),
    "the token before": lambda w, s, q, k: int(k == q - 1),
    "the token after": lambda w, s, q, k: int(k == q + 1),
    "[SEP]": lambda w, s, q, k: int(w[k] == "[SEP]"),
    "its own sentence": lambda w, s, q, k: int(s[q] == s[k]),
    "the other sentence": lambda w, s, q, k: int(s[q] != s[k]),
    "the same word, itself included": lambda w, s, q, k: int(w[q] == w[k]),
    "every token alike": lambda w, s, q, k: 0,
}


@pytest.mark.parametrize(("layer", "head"), [(layer, head) for layer in (0, 1) for head in range(4)])
def test_each_head_looks_at_what_is_said(trace: Trace, layer: int, head: int) -> None:
    words = [text.strip() for text in trace.tokens.texts]
    assert trace.segments is not None
    sides = trace.segments.tolist()
    count = len(words)
    found = [
        [exp(SHARP * SCORES[TOY_HEADS[layer][head]](words, sides, q, k)) for k in range(count)] for q in range(count)
    ]
    expected = torch.tensor([[value / sum(row) for value in row] for row in found])
    torch.testing.assert_close(trace.attention(layer, head), expected, atol=1e-5, rtol=1e-4)


def test_words_it_does_not_know() -> None:
    _, tokenizer = load_encoder("toy")
    assert tokenizer.tokenize("The turtle flew") == ["the", "turtle", "[UNK]"]
