"""The sentences that the demo translator learns from: English and German, written together by a small grammar.

Both sides of a pair are written from one clause, so the grammar knows which German word stands for which English one.
German moves words about: the second verb stands at the end, in subordinate clauses the first does too, a time put in
front drives the subject behind the verb, some verbs fall into two pieces, articles and adjectives follow gender, number
and case. So what cross-attention has to find is more than a diagonal.
"""

from __future__ import annotations

import random
from dataclasses import replace

from translator_grammar import Clause, Pair, Phrase, Word, Words, word
from translator_words import (
    ADJECTIVES,
    BE,
    FREQUENCIES,
    MANNERS,
    MODALS,
    NAMES,
    NOUNS,
    PLACES,
    PRONOUNS,
    REPORTING,
    SUBORDINATORS,
    TIMES,
    VERBS,
)

TENSES = ("present",) * 6 + ("past",) * 3 + ("perfect",) * 2 + tuple(MODALS)
USUAL = ("the",) * 8 + ("a",) * 5 + ("this", "this", "my", "his", "her", "our", "two", "three")
"""Determiners as often as they are drawn."""
LONG = 10
"""Words beyond which a sentence stands alone."""
NOUNS_OF = {
    group: [noun for noun in NOUNS if group in ("any", *noun.groups)]
    for group in ("any", "living", "thing", "food", "paper", "open")
}


class Writer:
    """Draws clauses and joins them to sentences."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)

    def pair(self) -> Pair:
        """One sentence, or now and then two."""
        first = self._sentence()
        if self.rng.random() > 0.3 or len(first.german) > LONG:
            return first
        second = self._sentence()
        if len(second.german) > LONG:
            return second
        sides = (
            (*one, *(Word(each.text, frozenset(f"next {part}" for part in each.parts)) for each in other))
            for one, other in ((first.english, second.english), (first.german, second.german))
        )
        return Pair(*sides)

    def _sentence(self) -> Pair:
        kind = self.rng.choices(("plain", "question", "joined", "turned", "reported"), (50, 10, 15, 12, 13))[0]
        stop = [word("?" if kind == "question" else ".", "stop")]
        if kind in ("plain", "question"):
            clause = self._clause(question=kind == "question", can_front=kind == "plain")
            english = clause.english(question=kind == "question")
            return _pair(english + stop, clause.german("second" if kind == "plain" else "first") + stop)
        if kind == "reported":
            verb, reported = self.rng.choice(REPORTING), self._clause()
            clause = Clause(self._subject(short=True), verb, "present")
            english = [*clause.english(), word("that", "that"), *_inner(reported.english())]
            german = [*clause.german("second"), word(","), word("dass", "that"), *_inner(reported.german("last"))]
            return _pair(english + stop, german + stop)
        link, main, inner = self.rng.choice(SUBORDINATORS), self._clause(), self._clause()
        under = [word(link[0], "link"), *_inner(inner.english())]
        german_link = "als" if link[0] == "when" and inner.tense in ("past", "perfect") else link[1]
        german_under = [word(german_link, "link"), *_inner(inner.german("last"))]
        if kind == "joined":
            return _pair(main.english() + under + stop, [*main.german("second"), word(","), *german_under, *stop])
        comma = [word(",", "comma")]
        return _pair(under + comma + main.english() + stop, german_under + comma + main.german("first") + stop)

    def _clause(self, *, question: bool = False, can_front: bool = False) -> Clause:
        rng = self.rng
        subject, verb = self._subject(), rng.choice((BE, *VERBS, *VERBS))
        if verb is BE or rng.random() < 0.06:
            quality = rng.choice(ADJECTIVES["any"] + ADJECTIVES["living"])
            tense = rng.choice(("present", "present", "past"))
            return Clause(subject, BE, tense, quality=quality, negated=not question and rng.random() < 0.2)
        tense = rng.choice(TENSES)
        # "Must not" is "darf nicht"; and a question is asked without "not".
        negated = not question and tense != "must" and rng.random() < 0.15
        clause = self._objects(Clause(subject, verb, tense, negated=negated))
        if verb.objects == "none" and not clause.negated and rng.random() < 0.35:
            clause = replace(clause, manner=rng.choice(MANNERS), manner_first=rng.random() < 0.4)
        if not clause.negated and rng.random() < 0.2:
            clause = replace(clause, place=self._place())
        if rng.random() < 0.25:
            first = can_front and rng.random() < 0.6
            return replace(clause, time=rng.choice(TIMES[_when(clause.tense)]), time_first=first)
        if not clause.negated and not clause.manner and rng.random() < 0.12:
            return replace(clause, frequency=rng.choice(FREQUENCIES))
        return clause

    def _objects(self, clause: Clause) -> Clause:
        wanted, rng = clause.verb.objects, self.rng
        if wanted == "none":
            return clause
        if wanted == "dative":
            return replace(clause, dative=self._object("dative", "living", clause.subject))
        if wanted == "both":
            given = replace(clause, accusative=self._noun("accusative", "thing"))
            receiver = self._noun("dative", "living")
            return replace(given, dative=receiver, dative_last=rng.random() < 0.4)
        return replace(clause, accusative=self._object("accusative", wanted, clause.subject))

    def _object(self, role: str, group: str, subject: Phrase) -> Phrase:
        others = [one for one in PRONOUNS if subject.pronoun is None or one.group != subject.pronoun.group]
        if group in ("living", "any") and self.rng.random() < 0.15:
            return Phrase(role, pronoun=self.rng.choice(others))
        if group == "living" and self.rng.random() < 0.15:
            return Phrase(role, names=(self.rng.choice([name for name in NAMES if name not in subject.names]),))
        return self._noun(role, group)

    def _subject(self, *, short: bool = False) -> Phrase:
        draw = self.rng.random()
        if draw < (0.7 if short else 0.42):
            return Phrase("subject", pronoun=self.rng.choice(PRONOUNS))
        if short or draw < 0.57:
            return Phrase("subject", names=tuple(self.rng.sample(NAMES, 2 if draw > 0.95 or draw < 0.46 else 1)))
        return self._noun("subject", "living")

    def _noun(self, role: str, group: str) -> Phrase:
        rng = self.rng
        noun = rng.choice(NOUNS_OF[group])
        determiner = rng.choice(USUAL)
        adjective = rng.choice(ADJECTIVES["any"] + ADJECTIVES["living" if "living" in noun.groups else "thing"])
        plural = determiner in ("two", "three") or rng.random() < 0.2
        return Phrase(
            role,
            noun=noun,
            determiner=determiner,
            adjective=adjective if rng.random() < 0.5 else None,
            plural=plural,
        )

    def _place(self) -> tuple[tuple[str, str], Phrase]:
        preposition, noun = self.rng.choice(PLACES)
        adjective = self.rng.choice(ADJECTIVES["any"]) if self.rng.random() < 0.2 else None
        return preposition, Phrase("place", noun=noun, determiner="the", adjective=adjective)


def _when(tense: str) -> str:
    return "past" if tense == "past" else "future" if tense == "will" else "present"


def _inner(words: Words) -> Words:
    """The words of a second clause, whose parts are not those of the first."""
    return [Word(one.text, frozenset(f"inner {part}" for part in one.parts)) for one in words]


def _pair(english: Words, german: Words) -> Pair:
    """Both sides, each with a capital in front."""
    first, opening = english[0], german[0]
    return Pair(
        (replace(first, text=first.text[0].upper() + first.text[1:]), *english[1:]),
        (replace(opening, text=opening.text[0].upper() + opening.text[1:]), *german[1:]),
    )


def pairs(count: int, seed: int) -> list[Pair]:
    """Pairs of sentences; the same seed writes the same ones, and more of them begin with the fewer."""
    writer = Writer(seed)
    return [writer.pair() for _ in range(count)]
