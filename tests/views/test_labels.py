"""Token text must show as itself, whatever it is."""

import html
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gentrace.views.labels import LONGEST, escape, label, running, thinned, tick_texts, width, wrapped

SHOWN = [
    ("cat", "cat"),
    (" cat", "␣cat"),
    ("  ", "␣␣"),
    ("\n", "↵"),
    ("\t", "⇥"),
    ("\r\n", "␍↵"),
    ("\x00", "␀"),
    ("\x1b", "␛"),
    ("\x7f", "␡"),
    ("\x85", "⟨U+0085⟩"),
    ("", "∅"),
    ("\u200b", "⟨ZWSP⟩"),
    ("a\u200fb", "a⟨RLM⟩b"),
    ("\u202e", "⟨U+202E⟩"),
    ("\ufeff", "⟨BOM⟩"),
    ("\u00a0", "⍽"),
    ("\u3164", "⟨U+3164⟩"),
    ("\ud800", "⟨U+D800⟩"),
    ("\u2028", "⟨U+2028⟩"),
    ("\ufe0f", "⟨U+FE0F⟩"),
    ("\u0301", "◌\u0301"),
    ("e\u0301", "e\u0301"),
    ("e" + "\u0301" * 7, "e" + "\u0301" * 5 + "⟨U+0301⟩" * 2),
    ("❤\ufe0f", "❤\ufe0f"),
    ("👩\u200d🚀", "👩\u200d🚀"),
    ("\u200d", "⟨ZWJ⟩"),
    ("<s>", "<s>"),
    ("שלום", "שלום"),
    ("�", "�"),
]


@pytest.mark.parametrize(("text", "expected"), SHOWN)
def test_each_token_shows_as_itself(text: str, expected: str) -> None:
    assert label(text) == expected


@given(st.text())
def test_a_label_is_one_short_visible_line(text: str) -> None:
    shown = label(text)
    assert shown
    assert len(shown) <= LONGEST
    assert shown.encode()
    invisible = {"Cc", "Cs", "Zl", "Zp"}
    assert not [character for character in shown if unicodedata.category(character) in invisible]
    assert not set(shown) & set("\u202a\u202b\u202d\u202e\u2066\u2067\u2068\u200e\u200f")


def test_long_labels_lose_their_middle() -> None:
    shown = label("a" * 20 + "b" * 20)
    assert (len(shown), shown[0], shown[-1]) == (23, "a", "b")
    assert "…" in shown


def test_running_text_keeps_spaces_and_breaks_lines() -> None:
    assert "".join(map(running, ["One", " day", ".", "\n", "", "\t"])) == "One day.↵\n∅⇥"


@given(st.text(alphabet="<>&abc;lt$#36"))
def test_escaping_leaves_no_markup_and_can_be_undone(text: str) -> None:
    escaped = escape(text)
    assert not set("<>$") & set(escaped)
    assert html.unescape(escaped) == text


def test_an_entity_is_not_taken_for_the_sign_it_names() -> None:
    assert tick_texts(["&lt;", "<"]) == ["&amp;lt;", "&lt;"]


@pytest.mark.parametrize(
    ("start", "stop", "most", "expected"),
    [(0, 4, 9, [0, 1, 2, 3]), (0, 10, 5, [0, 2, 4, 6, 8]), (7, 14, 3, [7, 10, 13])],
)
def test_thinned(start: int, stop: int, most: int, expected: list[int]) -> None:
    assert thinned(start, stop, most) == expected


def test_wide_and_combining_characters_take_their_own_columns() -> None:
    assert [width(text) for text in ("ab", "日本", "e\u0301", "😀")] == [2, 4, 1, 2]


def test_wrapped_starts_a_line_where_a_word_does_not_fit_and_after_a_newline() -> None:
    places = wrapped(["abc", "␣de", "␣fgh", "↵", "i"], columns=7)
    # "abc de" | "fgh" with its space hanging left of the line | "↵" ends it | "i"
    assert places == [(0, 0), (0, 3), (1, -1), (1, 3), (2, 0)]
