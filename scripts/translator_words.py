"""The words of the demo translator's two languages, and the tables by which German bends them."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Noun:
    """A noun in both languages."""

    english: str
    english_plural: str
    gender: str
    """"m", "f" or "n"."""
    german: str
    german_plural: str
    weak: bool
    """Whether it takes the plural's form in every case of the singular but the nominative, like "Elefant"."""
    groups: tuple[str, ...] = ()

    def german_form(self, case: str, *, plural: bool) -> str:
        """Singular or plural in a case."""
        if not plural:
            return self.german_plural if self.weak and case != "nominative" else self.german
        needs_n = case == "dative" and self.german_plural[-1] not in "ns"
        return self.german_plural + "n" * needs_n


@dataclass(frozen=True)
class Pronoun:
    """A personal pronoun in both languages."""

    english: str
    english_object: str
    person: str
    """Which form of a verb it takes: "1", "2", "3" or "plural"."""
    german: dict[str, str] = field(hash=False)
    """Its form in each case."""
    group: str = ""
    """Pronouns of one group are not subject and object of one clause: "I see me" is no sentence."""


@dataclass(frozen=True)
class Determiner:
    """What stands before a noun."""

    english: tuple[str, str]
    """Before a singular, before a plural."""
    german: str
    """What the endings go on; empty where German has nothing."""
    kind: str
    """Which endings it and the adjective after it take: "der", "ein" or "none"."""

    @property
    def indefinite(self) -> bool:
        """Whether a denied noun takes "kein" in its place."""
        return self.english[0] == "a"


@dataclass(frozen=True)
class Verb:
    """A verb in both languages."""

    english: str
    particle: str
    past: str
    participle: str
    german: dict[str, str] = field(hash=False)
    """Its present for each person, without a prefix that falls off; the plural is also the infinitive."""
    prefix: str
    german_participle: str
    moves: bool
    """Whether its perfect is built with "sein"."""
    objects: str
    """"none", "dative", "both", or the group that the accusative is of."""


PERSONS = ("1", "2", "3", "plural")
CASES = ("nominative", "accusative", "dative")


def by_person(line: str) -> dict[str, str]:
    """The four forms of a line."""
    return dict(zip(PERSONS, line.split(), strict=True))


def lines(text: str) -> list[list[str]]:
    """The words of each line."""
    return [line.split() for line in text.strip().splitlines()]


def two(text: str) -> list[tuple[str, str]]:
    """Pairs written as "small=klein"."""
    return [(english, german) for english, _, german in (one.partition("=") for one in text.split())]


def _noun(groups: str, english: str, plural: str, gender: str, german: str, german_plural: str, weak: str = "") -> Noun:
    return Noun(english, plural, gender, german, german_plural, bool(weak), tuple(groups.split(",")))


NOUNS = [
    _noun(*line)
    for line in lines("""
living elephant elephants m Elefant Elefanten weak
living bear bears m Bär Bären weak
living rabbit rabbits m Hase Hasen weak
living lion lions m Löwe Löwen weak
living boy boys m Junge Jungen weak
living farmer farmers m Bauer Bauern weak
living dog dogs m Hund Hunde
living bird birds m Vogel Vögel
living fox foxes m Fuchs Füchse
living teacher teachers m Lehrer Lehrer
living king kings m König Könige
living father fathers m Vater Väter
living brother brothers m Bruder Brüder
living friend friends m Freund Freunde
living cat cats f Katze Katzen
living mouse mice f Maus Mäuse
living cow cows f Kuh Kühe
living turtle turtles f Schildkröte Schildkröten
living woman women f Frau Frauen
living mother mothers f Mutter Mütter
living sister sisters f Schwester Schwestern
living queen queens f Königin Königinnen
living horse horses n Pferd Pferde
living pig pigs n Schwein Schweine
living child children n Kind Kinder
living girl girls n Mädchen Mädchen
living baby babies n Baby Babys
thing,food apple apples m Apfel Äpfel
thing ball balls m Ball Bälle
thing hat hats m Hut Hüte
thing key keys m Schlüssel Schlüssel
thing,paper letter letters m Brief Briefe
thing table tables m Tisch Tische
thing chair chairs m Stuhl Stühle
thing,food cake cakes m Kuchen Kuchen
thing flower flowers f Blume Blumen
thing lamp lamps f Lampe Lampen
thing,open bag bags f Tasche Taschen
thing,food pear pears f Birne Birnen
thing cup cups f Tasse Tassen
open door doors f Tür Türen
thing picture pictures n Bild Bilder
thing,paper book books n Buch Bücher
thing boat boats n Boot Boote
thing,food egg eggs n Ei Eier
open window windows n Fenster Fenster
""")
]
PLACES = [
    (tuple(line[0].split("=")), _noun("place", line[1], "", line[2], line[3], ""))
    for line in lines("""
in=in garden m Garten
in=in kitchen f Küche
in=in house n Haus
in=in forest m Wald
in=in park m Park
in=in city f Stadt
in=in village n Dorf
in=in water n Wasser
on=auf table m Tisch
on=auf street f Straße
on=auf mountain m Berg
on=auf ship n Schiff
under=unter tree m Baum
under=unter bed n Bett
behind=hinter house n Haus
behind=hinter school f Schule
""")
]
NAMES = ["Anna", "Tom", "Maia", "Lily", "Max", "Ben", "Clara", "Leo", "Emma", "Paul"]
PRONOUNS = [
    Pronoun(line[0], line[1], line[2], dict(zip(CASES, line[3:6], strict=True)), line[6])
    for line in lines("""
I me 1 ich mich mir we
you you 2 du dich dir you
he him 3 er ihn ihm he
she her 3 sie sie ihr she
we us plural wir uns uns we
they them plural sie sie ihnen they
""")
]
DETERMINERS = {
    "the": Determiner(("the", "the"), "d", "der"),
    "this": Determiner(("this", "these"), "dies", "der"),
    "a": Determiner(("a", ""), "ein", "ein"),
    "my": Determiner(("my", "my"), "mein", "ein"),
    "his": Determiner(("his", "his"), "sein", "ein"),
    "her": Determiner(("her", "her"), "ihr", "ein"),
    "our": Determiner(("our", "our"), "unser", "ein"),
    "no": Determiner(("no", "no"), "kein", "ein"),
    "two": Determiner(("", "two"), "zwei", "none"),
    "three": Determiner(("", "three"), "drei", "none"),
    "": Determiner(("", ""), "", "none"),
}
ADJECTIVES = {
    "any": two("small=klein big=groß old=alt beautiful=schön"),
    "living": two(
        "young=jung happy=glücklich sad=traurig tired=müde clever=klug hungry=hungrig brave=mutig funny=lustig"
    ),
    "thing": two(
        "new=neu long=lang round=rund heavy=schwer cheap=billig "
        "yellow=gelb red=rot blue=blau green=grün white=weiß black=schwarz"
    ),
}
MANNERS = two("quickly=schnell slowly=langsam quietly=leise loudly=laut")
FREQUENCIES = two("often=oft always=immer sometimes=manchmal")
TIMES = {
    "present": two("today=heute now=jetzt"),
    "past": two("yesterday=gestern today=heute"),
    "future": two("tomorrow=morgen today=heute"),
}
SUBORDINATORS = two("because=weil when=wenn although=obwohl before=bevor while=während")
MODALS = {
    "can": by_person("kann kannst kann können"),
    "must": by_person("muss musst muss müssen"),
    "may": by_person("darf darfst darf dürfen"),
    "should": by_person("soll sollst soll sollen"),
    "want": by_person("will willst will wollen"),
    "will": by_person("werde wirst wird werden"),
}
HAVE = by_person("habe hast hat haben")
SEIN = {"present": by_person("bin bist ist sind"), "past": by_person("war warst war waren")}
IS = {"present": by_person("am are is are"), "past": by_person("was were was were")}


def _verb(
    objects: str, english: str, past: str, participle: str, german: str, second: str, third: str, *more: str
) -> Verb:
    """A line of the table: a particle and a prefix follow a plus sign, "sein" comes last."""
    base, _, particle = english.partition("+")
    prefix, plus, infinitive = german.partition("+")
    prefix, infinitive = (prefix, infinitive) if plus else ("", german)
    present = by_person(f"{infinitive.removesuffix('en')}e {second} {third} {infinitive}")
    return Verb(base, particle, past, participle, present, prefix, more[0], "sein" in more, objects)


VERBS = [
    _verb(*line)
    for line in lines("""
any see saw seen sehen siehst sieht gesehen
any find found found finden findest findet gefunden
any paint painted painted malen malst malt gemalt
any love loved loved lieben liebst liebt geliebt
any look+for looked looked suchen suchst sucht gesucht
any forget forgot forgotten vergessen vergisst vergisst vergessen
any need needed needed brauchen brauchst braucht gebraucht
any hide hid hidden verstecken versteckst versteckt versteckt
living hear heard heard hören hörst hört gehört
living know knew known kennen kennst kennt gekannt
living visit visited visited besuchen besuchst besucht besucht
living call called called an+rufen rufst ruft angerufen
living pick+up picked picked ab+holen holst holt abgeholt
living invite invited invited ein+laden lädst lädt eingeladen
thing buy bought bought kaufen kaufst kauft gekauft
thing carry carried carried tragen trägst trägt getragen
thing wash washed washed waschen wäschst wäscht gewaschen
thing hold held held halten hältst hält gehalten
food eat ate eaten essen isst isst gegessen
paper write wrote written schreiben schreibst schreibt geschrieben
open open opened opened auf+machen machst macht aufgemacht
open close closed closed zu+machen machst macht zugemacht
dative help helped helped helfen hilfst hilft geholfen
dative thank thanked thanked danken dankst dankt gedankt
dative follow followed followed folgen folgst folgt gefolgt sein
both give gave given geben gibst gibt gegeben
both show showed shown zeigen zeigst zeigt gezeigt
both bring brought brought bringen bringst bringt gebracht
both send sent sent schicken schickst schickt geschickt
none sleep slept slept schlafen schläfst schläft geschlafen
none laugh laughed laughed lachen lachst lacht gelacht
none dance danced danced tanzen tanzt tanzt getanzt
none sing sang sung singen singst singt gesungen
none work worked worked arbeiten arbeitest arbeitet gearbeitet
none play played played spielen spielst spielt gespielt
none wait waited waited warten wartest wartet gewartet
none swim swam swum schwimmen schwimmst schwimmt geschwommen sein
none hop hopped hopped hüpfen hüpfst hüpft gehüpft sein
none crawl crawled crawled kriechen kriechst kriecht gekrochen sein
none run ran run laufen läufst läuft gelaufen sein
none jump jumped jumped springen springst springt gesprungen sein
""")
]
REPORTING = [
    _verb(*line)
    for line in lines("""
that believe believed believed glauben glaubst glaubt geglaubt
that say said said sagen sagst sagt gesagt
that hope hoped hoped hoffen hoffst hofft gehofft
""")
]
BE = Verb("be", "", "was", "been", SEIN["present"], "", "gewesen", True, "quality")


def third_person(verb: str, person: str) -> str:
    """The English present: "she carries", "they carry"."""
    if person != "3":
        return verb
    if verb.endswith(("sh", "ch", "s", "x", "o")):
        return f"{verb}es"
    return f"{verb[:-1]}ies" if verb.endswith("y") and verb[-2] not in "aeiou" else f"{verb}s"


_THE = {
    "nominative": {"m": "der", "f": "die", "n": "das", "plural": "die"},
    "accusative": {"m": "den", "f": "die", "n": "das", "plural": "die"},
    "dative": {"m": "dem", "f": "der", "n": "dem", "plural": "den"},
}
_STRONG = {
    "nominative": {"m": "er", "f": "e", "n": "es", "plural": "e"},
    "accusative": {"m": "en", "f": "e", "n": "es", "plural": "e"},
    "dative": {"m": "em", "f": "er", "n": "em", "plural": "en"},
}


def _has_no_ending(kind: str, gender: str, case: str) -> bool:
    """Where "ein" and its like stand bare, so that the adjective must show the gender."""
    return kind == "ein" and (case, gender) in {("nominative", "m"), ("nominative", "n"), ("accusative", "n")}


def article(determiner: Determiner, gender: str, case: str) -> str:
    """The German article or its like; empty where there is none."""
    if determiner.kind == "none" or (determiner.german == "ein" and gender == "plural"):
        return determiner.german if determiner.kind == "none" else ""
    if determiner.german == "d":
        return _THE[case][gender]
    return determiner.german + ("" if _has_no_ending(determiner.kind, gender, case) else _STRONG[case][gender])


def ending(determiner: Determiner, gender: str, case: str) -> str:
    """The ending of the adjective after it: strong where nothing before shows the gender, else weak."""
    if (
        not article(determiner, gender, case)
        or determiner.kind == "none"
        or _has_no_ending(determiner.kind, gender, case)
    ):
        return _STRONG[case][gender]
    if gender == "plural" or case == "dative" or (case == "accusative" and gender == "m"):
        return "en"
    return "e"
