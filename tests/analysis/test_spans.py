"""Parts of a text, by tokens, characters, words and roles."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gentrace.analysis import MeasureError, Span, find_spans, role_spans
from gentrace.analysis.spans import character_span
from tests.analysis.made import made_tokens

WORDS = ("The", " cat", " sat", " on", " a", " mat", ".")


def positions(spans: tuple[Span, ...]) -> dict[str, list[int]]:
    return {span.name: sorted(span.positions) for span in spans}


def found(spans: Any, texts: tuple[str, ...] = WORDS, prompt: int = 3) -> dict[str, list[int]]:
    return positions(find_spans(made_tokens(len(texts), prompt, texts=texts), spans))


def test_prompt_and_generated() -> None:
    assert found("prompt") == {"prompt": [0, 1, 2], "generated": [3, 4, 5, 6]}


def test_by_tokens() -> None:
    wanted = {"a": (0, 2), "b": [(2, 3), (5, 7)], "c": {"tokens": (3, 4)}, "none": (4, 4), "empty": []}
    assert found(wanted) == {"a": [0, 1], "b": [2, 5, 6], "c": [3], "none": [], "empty": []}
    assert found((Span("x", (range(1, 3),)),)) == {"x": [1, 2]}


def test_by_characters_with_and_without_the_space_before() -> None:
    # "The cat sat on a mat."
    assert found({"cat": {"characters": (4, 7)}}) == {"cat": [1]}
    assert found({"cat": {"characters": (3, 7)}}) == {"cat": [1]}
    assert found({"two": {"characters": [(0, 3), (15, 20)]}}) == {"two": [0, 4, 5]}
    assert found({"one letter": {"characters": (15, 16)}}) == {"one letter": [4]}
    assert found({"none": {"characters": (5, 5)}}) == {"none": []}


def test_by_words() -> None:
    assert found({"fact": {"text": "cat sat"}}) == {"fact": [1, 2]}
    assert found({"a": {"text": "at"}}, ("at", " bat", " at")) == {"a": [0, 1, 2]}
    with pytest.raises(MeasureError, match="the text does not contain 'dog'"):
        found({"fact": {"text": "dog"}})


def test_part_of_a_character_goes_with_the_rest_of_it() -> None:
    texts = ("a", "", "", "😀", "b", "")
    assert found({"face": {"characters": (1, 2)}, "end": {"characters": (2, 3)}}, texts) == {
        "face": [1, 2, 3],
        "end": [4, 5],
    }


def test_a_stretch_within_half_a_token_is_refused() -> None:
    with pytest.raises(MeasureError, match=r"characters 8 … 8 hold no token's middle\. widen it"):
        found({"s": {"characters": (8, 9)}})


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"a": (0, 8)}, "tokens 0 … 8 of 7"),
        ({"a": (3, 2)}, "tokens 3 … 2 of 7"),
        ({"a": {"characters": (0, 22)}}, "characters 0 … 22 of 21"),
        ({"a": {"words": "x"}}, "got"),
        ({"a": "cat"}, "got 'cat'"),
        ({"a": (1, 2, 3)}, "got"),
        ({"a": [(1, "2")]}, "got"),
        ({"a": 5}, "got 5"),
        ({"a": (0.5, 2)}, "got"),
        ("parts", "got 'parts'"),
        (["prompt"], "got 'prompt'"),
        ((Span("x", (range(5, 9),)),), "tokens 5 … 9 of 7"),
    ],
)
def test_what_is_not_a_span_is_refused(wanted: Any, message: str) -> None:
    with pytest.raises(MeasureError, match=message):
        found(wanted)


@given(st.lists(st.sampled_from(["", "a", " b", "  ", "long word", "😀"]), min_size=1, max_size=12), st.data())
def test_neighbouring_stretches_share_no_token_and_leave_none_out(texts: list[str], data: st.DataObject) -> None:
    tokens = made_tokens(len(texts), texts=texts)
    size = len(tokens.text)
    cuts = sorted(data.draw(st.lists(st.integers(0, size), max_size=4)))
    seen: list[int] = []
    for start, stop in zip([0, *cuts], [*cuts, size], strict=True):
        try:
            seen += sorted(character_span(tokens, "part", (start, stop)).positions)
        except MeasureError:
            assert stop - start < max(map(len, texts))
    assert seen == (list(range(len(texts))) if size else [])


def split(text: str) -> tuple[str, ...]:
    """Markers and words as tokens of their own."""
    import re

    return tuple(re.findall(r"<\|?[^>]*>|\[/?[A-Z_]+\]|\s?\w+|\s|.", text))


def roles(text: str) -> dict[str, str]:
    tokens = made_tokens(len(split(text)), texts=split(text))
    assert tokens.text == text
    return {
        span.name: "|".join("".join(tokens.texts[run.start : run.stop]).strip() for run in span.ranges)
        for span in role_spans(tokens)
    }


CHATS = {
    "chatml": (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello you<|im_end|>\n"
        "<|im_start|>assistant\n<think>\nwho is it\n</think>\nHi!<|im_end|>\n"
        "<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\nSee you"
    ),
    "llama3": (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nHello you<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nHi!<|eot_id|>"
    ),
    "gemma": "<bos><start_of_turn>user\nHello you<end_of_turn>\n<start_of_turn>model\nHi!<end_of_turn>\n",
    "harmony": (
        "<|start|>system<|message|>Be brief.<|end|><|start|>user<|message|>Hello you<|end|>"
        "<|start|>assistant<|channel|>analysis<|message|>who is it<|end|>"
        "<|start|>assistant<|channel|>final<|message|>Hi!<|return|>"
    ),
    "phi3": "<|system|>\nBe brief.<|end|>\n<|user|>\nHello you<|end|>\n<|assistant|>\nHi!<|end|>",
    "zephyr": "<|system|>\nBe brief.</s>\n<|user|>\nHello you</s>\n<|assistant|>\nHi!",
    "llama4": (
        "<|header_start|>system<|header_end|>\n\nBe brief.<|eot|>"
        "<|header_start|>user<|header_end|>\n\nHello you<|eot|><|header_start|>assistant<|header_end|>\n\nHi!<|eot|>"
    ),
    "granite": (
        "<|start_of_role|>system<|end_of_role|>Be brief.<|end_of_text|>\n"
        "<|start_of_role|>user<|end_of_role|>Hello you<|end_of_text|>\n<|start_of_role|>assistant<|end_of_role|>Hi!"
    ),
    "deepseek": (
        "<｜begin▁of▁sentence｜><｜User｜>Hello you<｜Assistant｜>"
        "<think>\nwho is it\n</think>\n\nHi!<｜end▁of▁sentence｜>"
    ),
    "mistral": "<s>[SYSTEM_PROMPT]Be brief.[/SYSTEM_PROMPT][INST]Hello you[/INST]Hi!</s>",
}


@pytest.mark.parametrize("name", CHATS)
def test_roles_are_read_off_the_markers(name: str) -> None:
    parts = roles(CHATS[name])
    expected = {"user": "Hello you", "assistant": "Hi!"}
    if name not in ("gemma", "deepseek"):
        expected["system"] = "Be brief."
    if name in ("harmony", "deepseek"):
        expected["reasoning"] = "who is it"
    if name == "chatml":
        expected |= {"user": "Hello you|Bye", "reasoning": "who is it", "assistant": "Hi!|See you"}
    assert parts == expected


def test_reasoning_that_was_cut_off_is_reasoning() -> None:
    parts = roles("<|im_start|>assistant\n<think>so far")
    assert parts == {"reasoning": "so far", "assistant": ""}


def test_a_text_without_markers_has_no_roles() -> None:
    with pytest.raises(MeasureError, match="no chat template's markers"):
        roles("Once upon a time")


def test_roles_of_messages_in_a_template_of_any_kind() -> None:
    texts = split("### Boss: Be brief ### Me: Hello you ### Bot: Hi there")
    tokens = made_tokens(len(texts), len(texts) - 2, texts=texts)
    messages = [{"role": "system", "content": " Be brief "}, {"role": "user", "content": "Hello you"}]
    spans = role_spans(tokens, messages)
    said = {span.name: "".join(texts[place] for place in sorted(span.positions)).strip() for span in spans}
    assert said == {"system": "Be brief", "user": "Hello you", "assistant": "Hi there"}
    with pytest.raises(MeasureError, match=r"finding message 1 \(system\) in the text"):
        role_spans(tokens, messages[::-1])
