"""Token texts join to the decoded text, whatever a tokenizer does to spaces and bytes."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from gentrace.capture.decoding.texts import single_texts, split_text

HARD = [
    "a 👩‍👩‍👧 family, 漢字 and ünïcödé",
    "<s> <b>x</b> </script>\n\ttabs  and   spaces ",
    "\ufffd is a real replacement character \ufffd",
    "🤖" * 100 + " end",
    "",
]


def byte_level() -> PreTrainedTokenizerFast:
    """Every byte a token: no character beyond ASCII is one token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({char: index for index, char in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def sentencepiece_like() -> PreTrainedTokenizerFast:
    """Words carry a leading ▁ and the first space of a text vanishes in decoding; unknown characters are bytes."""
    words = ["▁", "▁once", "▁upon", "a", "▁a", "▁time", "▁the", "b", "."]
    vocab = {word: index for index, word in enumerate([*words, *(f"<0x{byte:02X}>" for byte in range(256))])}
    merges = [("▁", "a")]
    tokenizer = Tokenizer(models.BPE(vocab, merges, byte_fallback=True, unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


TOKENIZERS = {"byte-level": byte_level(), "sentencepiece": sentencepiece_like()}


def decode(tokenizer: PreTrainedTokenizerFast, ids: list[int]) -> str:
    return tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("text", HARD)
def test_pieces_join_to_the_decoded_text(name: str, text: str) -> None:
    tokenizer = TOKENIZERS[name]
    ids = tokenizer.encode(text, add_special_tokens=False)
    pieces = split_text(tokenizer, ids)
    assert len(pieces) == len(ids)
    assert "".join(pieces) == decode(tokenizer, ids)


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=60, deadline=None)
@given(ids=st.lists(st.integers(0, 255), max_size=200))
def test_any_ids_join_to_the_decoded_text(name: str, ids: list[int]) -> None:
    tokenizer = TOKENIZERS[name]
    assert "".join(split_text(tokenizer, ids)) == decode(tokenizer, ids)


def test_a_character_belongs_to_the_last_of_its_tokens() -> None:
    tokenizer = TOKENIZERS["byte-level"]
    ids = tokenizer.encode("a漢b", add_special_tokens=False)
    assert split_text(tokenizer, ids) == ("a", "", "", "漢", "b")


def test_a_sentencepiece_space_belongs_to_its_word() -> None:
    tokenizer = TOKENIZERS["sentencepiece"]
    assert split_text(tokenizer, [1, 2, 4, 5]) == ("once", " upon", " a", " time")


def test_unknown_tokens_have_no_text_and_no_tokenizer_shows_ids() -> None:
    tokenizer = TOKENIZERS["sentencepiece"]
    assert split_text(tokenizer, [-1, 1, -1, 2]) == ("", "once", "", " upon")
    assert split_text(None, [5, -1]) == ("[5]", "[-1]")
    assert single_texts(None, [[3, -1], []]) == (("[3]",), ())
    assert single_texts(tokenizer, [[8, -1]]) == ((".",),)
