"""The two languages of the translator's corpus: reproducible, right by the grammar book, and aligned word by word."""

import pytest
from translator_corpus import pairs
from translator_grammar import Clause, Phrase, ends_of, text_of, word
from translator_words import DETERMINERS, NOUNS, PRONOUNS, VERBS, article, ending

NOUN = {noun.english: noun for noun in NOUNS}
PRONOUN = {one.english: one for one in PRONOUNS}
VERB = {verb.english: verb for verb in VERBS}
SMALL = ("small", "klein")


def small(role: str, noun: str, determiner: str = "the", *, plural: bool = False) -> Phrase:
    return Phrase(role, noun=NOUN[noun], determiner=determiner, adjective=SMALL, plural=plural)


def clause(verb: str, tense: str = "present", **more: object) -> Clause:
    return Clause(Phrase("subject", pronoun=PRONOUN["she"]), VERB[verb], tense, **more)  # type: ignore[arg-type]


def test_the_same_seed_writes_the_same_sentences() -> None:
    first = pairs(300, 7)
    assert first == pairs(300, 7)
    assert first[:50] == pairs(50, 7)
    assert len({text_of(pair.english) for pair in first}) > 290
    assert not {text_of(pair.english) for pair in first if len(pair.english) > 5} & {
        text_of(pair.english) for pair in pairs(300, 8)
    }


@pytest.mark.parametrize(
    ("said", "order", "english", "german"),
    [
        (
            clause("see", accusative=small("accusative", "elephant")),
            "second",
            "she sees the small elephant",
            "sie sieht den kleinen Elefanten",
        ),
        (
            clause("see", "want", accusative=small("accusative", "elephant")),
            "second",
            "she wants to see the small elephant",
            "sie will den kleinen Elefanten sehen",
        ),
        (
            clause("see", "past", accusative=small("accusative", "boat", "a")),
            "last",
            "she saw a small boat",
            "sie ein kleines Boot gesehen hat",
        ),
        (
            clause("open", accusative=small("accusative", "window")),
            "second",
            "she opens the small window",
            "sie macht das kleine Fenster auf",
        ),
        (
            clause("open", accusative=small("accusative", "window")),
            "last",
            "she opens the small window",
            "sie das kleine Fenster aufmacht",
        ),
        (
            clause("buy", accusative=small("accusative", "hat", "a"), negated=True),
            "second",
            "she does not buy a small hat",
            "sie kauft keinen kleinen Hut",
        ),
        (
            clause("help", dative=small("dative", "dog", "my", plural=True)),
            "second",
            "she helps my small dogs",
            "sie hilft meinen kleinen Hunden",
        ),
        (
            clause("swim", "perfect", time=("today", "heute"), time_first=True),
            "second",
            "today she has swum",
            "heute ist sie geschwommen",
        ),
        (
            clause(
                "give",
                dative=small("dative", "child"),
                accusative=small("accusative", "pear", "two", plural=True),
                dative_last=True,
            ),
            "first",
            "she gives two small pears to the small child",
            "gibt sie dem kleinen Kind zwei kleine Birnen",
        ),
        (
            clause("pick", accusative=Phrase("accusative", pronoun=PRONOUN["he"])),
            "second",
            "she picks him up",
            "sie holt ihn ab",
        ),
    ],
)
def test_clauses_are_what_a_grammar_book_says(said: Clause, order: str, english: str, german: str) -> None:
    assert text_of(said.english()) == english
    assert text_of(said.german(order)) == german


def test_a_question_is_asked_with_do() -> None:
    asked = clause("look", accusative=small("accusative", "key", "his"))
    assert text_of(asked.english(question=True)) == "does she look for his small key"
    assert text_of(asked.german("first")) == "sucht sie seinen kleinen Schlüssel"


@pytest.mark.parametrize(
    ("determiner", "case", "expected"),
    [
        ("the", "nominative", "der kleine|die kleine|das kleine|die kleinen"),
        ("the", "accusative", "den kleinen|die kleine|das kleine|die kleinen"),
        ("the", "dative", "dem kleinen|der kleinen|dem kleinen|den kleinen"),
        ("a", "nominative", "ein kleiner|eine kleine|ein kleines|kleine"),
        ("a", "dative", "einem kleinen|einer kleinen|einem kleinen|kleinen"),
        ("this", "accusative", "diesen kleinen|diese kleine|dieses kleine|diese kleinen"),
        ("our", "nominative", "unser kleiner|unsere kleine|unser kleines|unsere kleinen"),
    ],
)
def test_articles_and_adjectives_agree(determiner: str, case: str, expected: str) -> None:
    chosen = DETERMINERS[determiner]
    found = [
        f"{article(chosen, gender, case)} klein{ending(chosen, gender, case)}".strip()
        for gender in ("m", "f", "n", "plural")
    ]
    assert "|".join(found) == expected


def test_every_german_word_stands_for_something() -> None:
    for pair in pairs(1000, 4):
        for number, one in enumerate(pair.german):
            assert pair.aligned(number) or one.text == ",", text_of(pair.german)
        assert max(len(pair.english), len(pair.german)) < 40


def test_words_are_aligned_with_what_they_translate() -> None:
    said = clause("open", accusative=small("accusative", "window"))
    english = said.english()
    found = {one.text: [other.text for other in english if other.parts & one.parts] for one in said.german("second")}
    assert found == {
        "sie": ["she"],
        "macht": ["opens"],
        "das": ["the"],
        "kleine": ["small"],
        "Fenster": ["window"],
        "auf": ["opens"],
    }


def test_where_words_end() -> None:
    words = [word("Sie"), word("kommt"), word(","), word("und"), word("."), word("Er")]
    assert text_of(words) == "Sie kommt, und. Er"
    assert [text_of(words)[:end].split()[-1] for end in ends_of(words)] == [
        "Sie",
        "kommt",
        "kommt,",
        "und",
        "und.",
        "Er",
    ]
