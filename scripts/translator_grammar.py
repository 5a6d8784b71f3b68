"""What a sentence of the demo translator's corpus is: a clause without a language, written in English and in German.

Every word knows the parts of the clause that it stands for, so both sides together say which word translates which.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate

from translator_words import (
    BE,
    DETERMINERS,
    HAVE,
    IS,
    MODALS,
    SEIN,
    Noun,
    Pronoun,
    Verb,
    article,
    ending,
    third_person,
)


@dataclass(frozen=True)
class Word:
    """One word or sign of a sentence."""

    text: str
    parts: frozenset[str] = frozenset()
    """The parts of the clause that it stands for; a word of the other language that shares one is aligned with it."""


Words = list[Word]


@dataclass(frozen=True)
class Pair:
    """A sentence in both languages."""

    english: tuple[Word, ...]
    german: tuple[Word, ...]

    def aligned(self, german: int) -> list[int]:
        """The English words that a German word stands for, by number; none for a comma that only German has."""
        parts = self.german[german].parts
        return [number for number, word in enumerate(self.english) if word.parts & parts]


def text_of(words: Iterable[Word]) -> str:
    """The sentence as it is written."""
    return "".join(one.text if one.text in ".,?" else f" {one.text}" for one in words)[1:]


def ends_of(words: Iterable[Word]) -> list[int]:
    """For each word, where it ends in `text_of`, in characters."""
    return [end - 1 for end in accumulate(len(one.text) + (one.text not in ".,?") for one in words)]


def word(text: str, *parts: str) -> Word:
    """A word and the parts it stands for."""
    return Word(text, frozenset(parts))


@dataclass(frozen=True)
class Phrase:
    """Who or what: a pronoun, one or two names, or a noun with what stands before it."""

    role: str
    pronoun: Pronoun | None = None
    names: tuple[str, ...] = ()
    noun: Noun | None = None
    determiner: str = ""
    adjective: tuple[str, str] | None = None
    plural: bool = False

    @property
    def person(self) -> str:
        """Of the verb that agrees with it: "1", "2", "3" or "plural"."""
        if self.pronoun:
            return self.pronoun.person
        return "plural" if self.plural or len(self.names) > 1 else "3"

    def english(self, case: str) -> Words:
        """In English; pronouns have a nominative and another form."""
        if self.pronoun:
            form = self.pronoun.english if case == "nominative" else self.pronoun.english_object
            return [word(form, f"{self.role}.noun")]
        if self.names:
            return self._named("and")
        assert self.noun
        text = self.noun.english_plural if self.plural else self.noun.english
        adjective = [word(self.adjective[0], f"{self.role}.adjective")] if self.adjective else []
        words = [*adjective, word(text, f"{self.role}.noun")]
        before = DETERMINERS[self.determiner].english[self.plural]
        if before == "a" and words[0].text[0] in "aeiou":
            before = "an"
        return [word(before, f"{self.role}.determiner"), *words] if before else words

    def german(self, case: str, *, negated: bool = False) -> Words:
        """In German, in a case; `negated` turns a noun without a definite article into one with "kein"."""
        if self.pronoun:
            return [word(self.pronoun.german[case], f"{self.role}.noun")]
        if self.names:
            return self._named("und")
        assert self.noun
        gender = "plural" if self.plural else self.noun.gender
        determiner = DETERMINERS["no"] if negated else DETERMINERS[self.determiner]
        before, parts = article(determiner, gender, case), [f"{self.role}.determiner"]
        words = [word(before, *parts, *(["not"] if negated else []))] if before else []
        if self.adjective:
            inflected = self.adjective[1].removesuffix("e") + ending(determiner, gender, case)
            words.append(word(inflected, f"{self.role}.adjective"))
        return [*words, word(self.noun.german_form(case, plural=self.plural), f"{self.role}.noun")]

    def _named(self, between: str) -> Words:
        first, *others = [word(name, f"{self.role}.name{number}") for number, name in enumerate(self.names)]
        return [first, *(one for other in others for one in (word(between, f"{self.role}.and"), other))]


@dataclass(frozen=True)
class Clause:
    """What a clause says, in no language."""

    subject: Phrase
    verb: Verb
    tense: str
    """"present", "past", "perfect" or the English name of a modal verb."""
    accusative: Phrase | None = None
    dative: Phrase | None = None
    dative_last: bool = False
    """Whether English says "an apple to the child"."""
    negated: bool = False
    time: tuple[str, str] | None = None
    time_first: bool = False
    frequency: tuple[str, str] | None = None
    manner: tuple[str, str] | None = None
    manner_first: bool = False
    """Whether English says "quickly hops"."""
    place: tuple[tuple[str, str], Phrase] | None = None
    quality: tuple[str, str] | None = None
    """The adjective of "is small"."""

    @property
    def without_article(self) -> bool:
        """Whether "not" and the object's article are one German word."""
        return self.negated and self.accusative is not None and DETERMINERS[self.accusative.determiner].indefinite

    def english(self, *, question: bool = False) -> Words:
        """The clause in English, without its full stop."""
        helpers, main = self._english_verbs(question)
        subject = self.subject.english("nominative")
        negation = [word("not", "not")] if self.negated else []
        words = (
            [*helpers[:1], *subject, *helpers[1:]] if question else [*subject, *helpers[:1], *negation, *helpers[1:]]
        )
        words += [word(self.frequency[0], "frequency")] if self.frequency else []
        manner = [word(self.manner[0], "manner")] if self.manner else []
        words += [*manner, *main] if self.manner_first else main
        first = self.accusative.english("object") if self.accusative else []
        if self.verb.particle == "up" and self.accusative and self.accusative.pronoun:
            words, first = words[:-1], [*first, words[-1]]
        second = self.dative.english("object") if self.dative else []
        words += [*first, word("to", "to"), *second] if self.dative_last else [*second, *first]
        words += [word(self.quality[0], "quality")] if self.quality else []
        words += [] if self.manner_first else manner
        if self.place:
            preposition, where = self.place
            words += [word(preposition[0], "place.preposition"), *where.english("object")]
        time = [word(self.time[0], "time")] if self.time else []
        return [*time, *words] if self.time_first else [*words, *time]

    def german(self, order: str) -> Words:
        """The clause in German: verb "second", "first" (as in questions, or after another clause) or "last"."""
        finite, final = self._german_verbs(last=order == "last")
        subject = self.subject.german("nominative")
        time = [word(self.time[1], "time")] if self.time else []
        if order == "last":
            return [*subject, *self._middle(time), *final, finite]
        if order == "second" and self.time_first:
            return [*time, finite, *subject, *self._middle([]), *final]
        front = [finite, *subject] if order == "first" else [*subject, finite]
        return [*front, *self._middle(time), *final]

    def _middle(self, time: Words) -> Words:
        """What stands between the German verbs."""
        accusative = self.accusative.german("accusative", negated=self.without_article) if self.accusative else []
        dative = self.dative.german("dative") if self.dative else []
        words = [*dative, *accusative]
        is_short = any(one and one.pronoun for one in (self.accusative, self.dative))
        time = [*time, *([word(self.frequency[1], "frequency")] if self.frequency else [])]
        words = [*words, *time] if is_short else [*time, *words]
        words += [word("nicht", "not")] if self.negated and not self.without_article else []
        words += [word(self.quality[1], "quality")] if self.quality else []
        words += [word(self.manner[1], "manner")] if self.manner else []
        return [*words, *self._german_place()]

    def _german_place(self) -> Words:
        if not self.place:
            return []
        preposition, where = self.place
        words = where.german("dative")
        if (preposition[1], words[0].text) == ("in", "dem"):
            return [word("im", "place.preposition", "place.determiner"), *words[1:]]
        return [word(preposition[1], "place.preposition"), *words]

    def _english_verbs(self, question: bool) -> tuple[Words, Words]:
        """Helping verbs, and the main verb with its particle."""
        verb, person = self.verb, self.subject.person
        particle = [word(verb.particle, "verb")] if verb.particle else []
        base = [word(verb.english, "verb"), *particle]
        if verb is BE:
            form = [word(IS[self.tense][person], "verb")]
            return (form, []) if question or self.negated else ([], form)
        needs_do = question or self.negated
        do = word("does" if person == "3" else "do", "do")
        if self.tense == "present":
            return ([do], base) if needs_do else ([], [word(third_person(verb.english, person), "verb"), *particle])
        if self.tense == "past":
            if needs_do:
                return [word("did", "helper")], base
            return [], [word(verb.past, "verb", "helper"), *particle]
        if self.tense == "perfect":
            return [word("has" if person == "3" else "have", "helper")], [word(verb.participle, "verb"), *particle]
        if self.tense == "want":
            want = [word("want" if needs_do else third_person("want", person), "helper"), word("to", "helper")]
            return ([do, *want], base) if needs_do else (want, base)
        return [word(self.tense, "helper")], base

    def _german_verbs(self, *, last: bool) -> tuple[Word, Words]:
        """The verb that agrees with the subject, and the verbs or the piece of one that end the clause."""
        verb, person = self.verb, self.subject.person
        if verb is BE:
            return word(SEIN[self.tense][person], "verb"), []
        if self.tense == "present":
            form = verb.german[person]
            if last or not verb.prefix:
                return word(verb.prefix + form if last else form, "verb"), []
            return word(form, "verb"), [word(verb.prefix, "verb")]
        if self.tense in ("past", "perfect"):
            helper = (SEIN["present"] if verb.moves else HAVE)[person]
            return word(helper, "helper"), [word(verb.german_participle, "verb")]
        return word(MODALS[self.tense][person], "helper"), [word(verb.prefix + verb.german["plural"], "verb")]
