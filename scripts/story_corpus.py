"""The stories that the demo model learns from, written by a small grammar.

A story is a plot (a sequence of scenes) played by a cast that stays the same from the first sentence to the last. The
model can only predict it well by looking back for who, where and what: that is the structure worth showing. In a
template, `[a|b]` chooses one of the alternatives (they nest) and `{slot}` is looked up in the cast. About one name in
five is made up from syllables, so names must be copied from the text and cannot be learned by heart. The others, like
places and things, have favorites, so that the likeliest continuation brings in somebody new where the story needs it.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence


def words(text: str) -> list[str]:
    """The words of a list written in one line."""
    return text.split()


def phrases(text: str) -> list[str]:
    """The phrases of a list with commas."""
    return text.replace("\n", " ").split(", ")


SHE = ("she", "her", "her", "girl")
HE = ("he", "his", "him", "boy")
GIRLS = words("""Lily Maia Anna Rosa Mina Clara Ella Nora Zoe Lucy Emma Ivy Sara Ruby Alma Lena Tara Molly Hana Yuki
Amina Freya Greta Ines Juno Kira Luna Petra Vera Wren""")
BOYS = words("""Tom Ben Max Leo Sam Omar Finn Hugo Jack Noah Oscar Peter Felix Adam Toby Ravi Kofi Milo Otto Ned Jonas
Emil Luca Hiro Dan Paul Theo Arlo Rafi Gus""")
ANIMALS = words("rabbit fox bear duck mouse kitten puppy owl frog hedgehog squirrel lamb pony goat turtle")
ELDERS = phrases("""the old owl, the gray goose, the baker, the postman, a tall farmer, a busy bee, the brown horse,
a sleepy cat, the fisherman, a small bird, the white cow, the gardener, an old turtle""")
ADJECTIVES = words("cute happy brave kind quiet curious clever cheerful gentle funny shy busy lively friendly")
COLORS = words("red blue green yellow white purple golden silver orange pink")
QUALITIES = words("small big shiny old new soft round tiny pretty little")
ITEMS = words("""ball key kite shell book hat bell drum cup spoon button ribbon lamp coin map feather stone box doll
flute boat scarf whistle blanket basket mirror star ring bottle bucket wagon top""")
FOODS = ["apple", "pear", "cookie", "pancake", "plum", "carrot", "muffin", "orange", "slice of bread", "piece of cake"]
DISHES = ["soup", "warm milk", "bread and honey", "apple pie", "rice and beans", "pancakes", "porridge", "hot cocoa"]
HOBBIES = phrases("""explore {her} world, play outside, sing songs, climb trees, look at the stars, read books, paint
pictures, collect stones, dance in the rain, tell stories, build towers, count the clouds, make
new friends, help {her} mother, ask questions, watch the birds, run and jump""")
FEELINGS = words("happy proud glad excited cheerful calm")
SAD = words("sad worried lonely scared upset")
WEATHER = phrases("""The sun was shining, The sky was blue, The air was warm, The wind was soft, The birds were
singing, It was a cold day, It was a bright day, There were no clouds in the sky""")
PLACES: dict[str, tuple[str, list[str]]] = {
    "garden": ("in", ["the rose bush", "the old wall", "the apple tree", "the wooden gate"]),
    "forest": ("in", ["a tall pine", "a fallen log", "the big oak tree", "a mossy rock"]),
    "river": ("by", ["the stone bridge", "the tall grass", "a flat rock", "the old boat house"]),
    "beach": ("on", ["a sand castle", "the blue boat", "a big rock", "the lighthouse"]),
    "park": ("in", ["the long bench", "the fountain", "the swings", "a maple tree"]),
    "farm": ("on", ["the red barn", "the hay", "the wooden fence", "the water trough"]),
    "market": ("at", ["the fruit stand", "the flower cart", "the bread table", "a pile of boxes"]),
    "library": ("in", ["a tall shelf", "the round table", "the big window", "the green chair"]),
    "kitchen": ("in", ["the table", "the stove", "the tall cupboard", "the back door"]),
    "hill": ("on", ["the windmill", "a lonely tree", "a gray rock", "the little hut"]),
    "lake": ("by", ["the wooden pier", "the reeds", "a round stone", "the willow tree"]),
    "village": ("in", ["the old well", "the church", "the school", "the stone wall"]),
    "barn": ("in", ["the hay", "the big door", "an old wheel", "the ladder"]),
    "meadow": ("in", ["the yellow flowers", "a crooked tree", "the long grass", "a little stream"]),
    "castle": ("in", ["the great hall", "the high tower", "the iron gate", "the stone stairs"]),
    "cave": ("in", ["a dark corner", "a smooth rock", "the narrow path", "the cold wall"]),
    "station": ("at", ["the ticket window", "the big clock", "the long bench", "the last train"]),
    "school": ("at", ["the blackboard", "the front door", "the playground", "the coat rack"]),
}

OPENINGS = [
    "{hero} is a {adj} little {kind} who [likes|loves] to {hobby}[!|.]",
    "{hero} [is|was] a {adj} [little|young] {kind}. {She} [lives|lived] in a [small|white|tiny] house near {place}.",
    "Once upon a time, there [was|lived] a {adj} [little |]{kind} named {hero}. {She} [loved|liked] to {hobby}.",
    "Once upon a time, a {adj} {kind} [called|named] {hero} lived [near|not far from] {place}.",
    "There once was {a_kind} [named|called] {hero}. {hero} was [very|always] {adj} and loved to {hobby}.",
    "In a [small|quiet|little] house near {place} lived {a_kind} named {hero}.",
    "{hero} and {friend} were [best|good|old] friends. [Every day they played together.|They did everything together.]",
    "Long ago, a {adj} {kind} named {hero} had a friend called {friend}. {friend} was a {fadj} {fkind}.",
    "This is a story about {hero}, a {adj} [little |]{kind} who [loves|likes] to {hobby}.",
    "Do you know {hero}? {hero} is a {adj} {kind}. {She} [loves|likes] to {hobby}.",
]
HABITS = [
    "Every morning {she} [wakes up early|opens the window] and [says hello to the sun|looks at {place}].",
    "[Every day|Every Sunday|Each morning], {hero} [goes to|walks to|visits] {place} [to play|with {friend}].",
    "{Her} [best|dearest] friend is {friend}, a {fadj} {fkind}.",
    "{hero} has a friend [called|named] {friend}. {friend} is a {fadj} {fkind}.",
    "{She} has {a_item}, and {she} [takes|carries] the {item} everywhere.",
    "{Her} favorite thing is {a_item}. {Her} favorite place is {place}.",
    "Everyone {at} knows {hero}, and {hero} knows everyone {at}.",
]
GOING = [
    "One [sunny |cold |quiet |]day, {hero} [went|walked|ran] to {place}. {weather}.",
    "One [morning|afternoon|evening], {hero} wanted to go to {place}. [So off {she} went.|{She} put on {her} shoes.]",
    "[One day|On Monday|On Saturday|The next day], {hero} and {friend} [went|walked] to {place} together. {weather}.",
    "{weather}, so {hero} went to {place} to {hobby}.",
    '"[Shall we|Can we] go to {place}?" asked {hero}. So they went to {place}.',
    '"Let us go to {place}[!|,]" said {hero}. So they went to {place} together.',
    '{Her} mother [said|told {obj}], "[Please go to|Take this to|Be home early from] {place}." {hero} went at once.',
]
TOGETHER = [
    "One [sunny |cold |quiet |]day, {hero} and {friend} [went|walked|ran] to {place}. {weather}.",
    "{hero} and {friend} [went|walked] to {place}. [They wanted to {hobby}.|{weather}.]",
]
LOST = [
    "{hero} [had lost|lost] {her} {color} {item}. {She} [looked|had looked] everywhere {at}.",
    "{hero} could not find {her} {item}. It was {a_quality} {color} {item}, and {she} loved it very much.",
]
FINDING = [
    "[Behind|Next to|Near] {spot}, {she} [saw|found|noticed] {a_item}.[ What a surprise!| It was beautiful.| Oh!|]",
    "{hero} [looked behind|walked past|sat down near] {spot} and [saw|found] {a_item}.",
    "Something was lying [next to|near|behind] {spot}. It was {a_item}!",
    '"[What is this|What can this be]?" [said|asked] {hero}. It was {a_item}, right [behind|next to|near] {spot}.',
    "Then {hero} saw {a_item} [next to|near|behind] {spot}. {She} picked up the {item}.",
]
WONDER = [
    '"[Whose|Whose lovely|Whose {color}] {item} is this?" {hero} [wondered|asked|thought].',
    "{hero} [held|turned|looked at] the {item} and [smiled|laughed|wondered]. It was very {quality}.",
    'The {item} was {color} and {quality}. "I will [keep it safe|show it to {friend}|take it home]," said {hero}.',
    "{She} had never seen such {a_quality} {item} before.",
    "{hero} put the {item} in {her} [pocket|bag|basket] and went on.",
]
MEETING = [
    "[Just then|Soon|After a while|At that moment], {friend} came along. "
    '"[Hello|Good morning|Hi], {hero}!" said {friend}.',
    "{hero} met {friend} near {spot}. {friend} was a {fadj} {fkind}, and {fshe} [liked|loved] to talk.",
    '"[Hello|Good day|Hi], {friend}!" [said|called] {hero}. "[Hello|Good day|Hi], {hero}!" [said|called] {friend}.',
    "{friend} was sitting near {spot}. {Fshe} waved at {hero}, and {hero} waved back.",
    "Then {friend} the {fkind} came [running|walking|hopping] out from behind {spot}.",
]
SHOWING = [
    '"Look, {friend}! I have {a_item}," said {hero}. "What {a_quality} {item}!" said {friend}.',
    "{hero} showed {friend} the {item}. {friend} [looked at|touched|admired] the {item} and smiled.",
    '"May I hold the {item}?" asked {friend}. "Of course," said {hero}, and gave {fobj} the {item}.',
    '"[Is that your {item}|Where did you find the {item}]?" asked {friend}. "I found it {at}," said {hero}.',
    '"That is my {item}!" said {friend}. "I lost it {at}." {hero} gave the {item} back to {friend}.',
]
PLAYING = [
    "{hero} and {friend} played with the {item} [all day|all afternoon|until the sun went down].",
    "They [laughed|sang|danced] and [ran|jumped|played] {at}. {hero} was {feeling}, and {friend} was {feeling} too.",
    "First {hero} played with the {item}. Then {friend} played with the {item}. They took turns.",
    "{hero} ran to {spot}, and {friend} ran after {obj}. Then {friend} ran back, and {hero} ran after {fobj}.",
    "They sat down near {spot} and shared {a_food}. {hero} ate one half, and {friend} ate the other half.",
    '"One, two, three!" they counted, and they jumped. "One, two, three!" they counted, and they jumped again.',
]
LOSING = [
    "But then {hero} could not find {her} {item}. The {item} was gone!",
    "Suddenly the {item} fell [out of {her} hand|out of {her} bag|on the ground] and rolled away.",
    'But the {item} was not there anymore. "Oh no! Where is my {item}?" cried {hero}.',
    "A strong wind came and blew the {item} away. {hero} was very {sad}.",
]
SADNESS = [
    "{hero} was [very |so |]{sad}. {She} sat down near {spot} and [cried|sighed|did not know what to do].",
    "{hero} felt {sad}. {She} looked [left and right|up and down|everywhere], but there was no {item}.",
    '"I miss my {item}," said {hero}. {She} was {sad}.',
]
COMFORT = [
    '"Do not be {sad}, {hero}," said {friend}. "We will find the {item} together."',
    '"Why are you {sad}, {hero}?" asked {friend}. "I have lost my {item}," said {hero}.',
    '{friend} [hugged|looked at] {hero}. "I will help you," {fshe} said. "[Let us look|Come with me]."',
    '"Your {item}? We can look for it {at2}," said {friend}.',
]
FOUND = [
    "And there, [behind|next to|near] {spot2}, was the {item}! {hero} was so {feeling}.",
    "At last they went to {place2}. The {item} was [lying|waiting] [near|behind] {spot2}.",
    '"Here it is!" [cried|called] {friend}. The {item} was {at2}, right behind {spot2}.',
    '{friend} looked behind {spot2} and found the {item}. "Thank you, {friend}!" said {hero}.',
]
RESCUE = [
    'Near {spot}, {hero} heard a voice. "Help! Help!" It was {friend}, and {fshe} was stuck.',
    "{hero} heard a small cry behind {spot}. {friend} had fallen down and could not get up.",
    '"Help me, {hero}!" called {friend}. {Fshe} was stuck behind {spot}.',
]
HELPING = [
    "{hero} did not wait. {She} [pulled and pulled|pushed and pulled|did not stop] until {friend} was free.",
    '"Hold on, {friend}! I am coming," said {hero}. {She} took {friend} by the hand and helped {fobj} up.',
    "{hero} had an idea. {She} gave {friend} one end of {her} scarf and pulled. Soon {friend} was free again.",
]
THANKS = [
    '"Thank you, {hero}!" said {friend}. "You are a [good|true|real] friend."',
    '"Thank you for {your_help}, {hero}," said {friend}. "You are welcome, {friend}," said {hero}.',
    "{friend} was {feeling}. {Fshe} gave {hero} {a_food} to say thank you.",
    "{hero} smiled at {friend}, and {friend} smiled at {hero}.",
]
GRATEFUL = [
    '"Thank you, {friend}!" said {hero}. "You are a [good|true|real] friend."',
    '{hero} [hugged|kissed|thanked] {friend}. "I could not have found the {item} without you," {she} said.',
]
STORM = [
    "Then dark clouds came, and it began to [rain|snow]. {hero} and {friend} ran to {spot} and waited.",
    'All at once there was thunder. "[I am scared|I do not like it]," said {friend}. "I am with you," said {hero}.',
    "The rain fell on {place}. Drip, drop, drip, drop. {hero} and {friend} hid behind {spot}.",
]
CLEARING = [
    "Soon the rain stopped, and the sun came back. There was a rainbow over {place}!",
    "After a while the sky was [blue|clear] again. {hero} and {friend} [laughed|danced] in the puddles.",
    "When it was over, everything {at} was fresh and green.",
]
GIFT = [
    "It was {friend}'s birthday. {hero} wanted to give {friend} {a_item}.",
    "Tomorrow was the birthday of {friend}. {hero} had {a_item} for {fobj}.",
    "{hero} [made|wrapped|painted] {a_item} for {friend}, because it was {fher} birthday.",
]
GIVING = [
    '"Happy birthday, {friend}!" said {hero}, and gave {fobj} the {item}. {friend} was very {feeling}.',
    '{friend} opened the box. Inside was the {color} {item}! "[Thank you|How lovely], {hero}!" said {friend}.',
    '"A {item}! I always wanted a {item}," said {friend}. {Fshe} [hugged|kissed|thanked] {hero}.',
]
GARDENING = [
    "{hero} planted a [seed|small seed] near {spot}. {She} gave it water on Monday. {She} gave it water on Tuesday.",
    "{hero} and {friend} planted a little tree {at}. Every day {hero} brought water, and every day the tree grew.",
]
GROWING = [
    'After some weeks there was a [big |tall |]flower near {spot}. "Look, it grew!" said {hero}.',
    "The tree grew and grew. In spring it was green. In summer it was full of fruit. {friend} ate {a_food}.",
]
HOMEWARD = [
    "In the evening, {hero} went home. {Her} [mother|father|grandmother] had made {dish}.",
    "When the sun went down, {hero} said goodbye to {friend} and walked home from {place}.",
    '"It is late," said {friend}. "Good night, {hero}!" "Good night, {friend}!" said {hero}.',
    "Then {hero} and {friend} went home and ate {dish}.",
    '"Where have you been, {hero}?" asked {her} [mother|father]. "I was {at} with {friend}," said {hero}.',
    '"What did you find {at}?" asked {her} [mother|father]. "I found {a_item}," said {hero}.',
]
ENDINGS = [
    "That night, {hero} [dreamed of {place}|dreamed of the {item}|slept very well].",
    "And from that day on, {hero} and {friend} [were best friends|went to {place} every day|played together].",
    "{hero} was [tired|sleepy] but {feeling}. {She} closed {her} eyes and thought of {friend}.",
    "And that is the story of {hero}, {friend} and the {color} {item}.",
    '{hero} put the {item} next to {her} bed. "Good night, {item}," {she} said.',
    "{hero} learned that [it is good to share|friends help each other|being kind makes everyone happy]. The end.",
    "And they lived happily [ever after|near {place}]. The end.",
]
ASKING = [
    '"[Have you seen|Do you have] my {item}?" {hero} asked {elder}. "No, I [have not seen|do not have] your {item}," '
    "said {elder}.",
    '{hero} went to {elder}. "[Please, where is|Can you see] my {item}?" {she} asked. "I do not know where your {item} '
    'is," said {elder}.',
]
HIDING = [
    "Was {friend} behind {spot_x}? No, {friend} was not behind {spot_x}.",
    "{hero} looked behind {spot_x}, but {friend} was not there.",
]
COLLECTING = [
    "{hero} put {a_item_x} in the basket.",
    "Then {she} found {a_item_x} and put the {item_x} in the basket.",
    "{friend} brought {a_item_x}, and it went in the basket too.",
]
PLOTS = [
    "OPENINGS HABITS GOING FINDING WONDER MEETING SHOWING PLAYING HOMEWARD ENDINGS",
    "OPENINGS GOING FINDING WONDER MEETING SHOWING ENDINGS",
    "OPENINGS HABITS HABITS GOING MEETING PLAYING HOMEWARD ENDINGS",
    "OPENINGS OWNING GOING LOSING SADNESS asking MEETING COMFORT FOUND GRATEFUL HOMEWARD ENDINGS",
    "OPENINGS OWNING GOING LOSING asking FOUND PLAYING ENDINGS",
    "OPENINGS GOING RESCUE HELPING THANKS PLAYING HOMEWARD ENDINGS",
    "OPENINGS HABITS GOING RESCUE HELPING THANKS STORM CLEARING ENDINGS",
    "OPENINGS GOING PLAYING STORM CLEARING HOMEWARD ENDINGS",
    "OPENINGS HABITS GIFT GOING MEETING GIVING THANKS PLAYING HOMEWARD ENDINGS",
    "OPENINGS GIFT GOING GIVING ENDINGS",
    "OPENINGS GOING GARDENING MEETING GROWING THANKS ENDINGS",
    "OPENINGS HABITS GOING MEETING hiding PLAYING HOMEWARD ENDINGS",
    "OPENINGS GOING collecting MEETING PLAYING HOMEWARD ENDINGS",
    "OPENINGS GOING FINDING WONDER LOSING SADNESS MEETING COMFORT asking FOUND SHOWING PLAYING STORM CLEARING HOMEWARD "
    "ENDINGS",
    "GOING FINDING WONDER MEETING SHOWING PLAYING HOMEWARD ENDINGS",
    "TOGETHER FINDING WONDER SHOWING PLAYING HOMEWARD ENDINGS",
    "TOGETHER PLAYING hiding STORM CLEARING HOMEWARD ENDINGS",
    "LOST SADNESS asking MEETING COMFORT FOUND GRATEFUL ENDINGS",
]
OWNING = [
    "{hero} had {a_item}. {She} [loved|liked] the {item} very much.",
    "{Her} [mother|father] gave {obj} {a_item}.",
]

ITEM_SCENES = {"FINDING", "OWNING", "GIFT", "LOST"}

_CHOICE = re.compile(r"\[([^\[\]]*)\]")


def write(rng: random.Random, template: str, cast: Mapping[str, str]) -> str:
    """Chooses among the alternatives of a template, innermost first, and fills its slots."""
    while match := _CHOICE.search(template):
        template = template[: match.start()] + rng.choice(match[1].split("|")) + template[match.end() :]
    while "{" in template:
        template = template.format_map(cast)
    return template


def favor(rng: random.Random, options: Sequence[str]) -> str:
    """One of the options, the earlier the likelier."""
    return rng.choices(options, [1 / rank for rank in range(1, len(options) + 1)])[0]


def favor_some(rng: random.Random, options: Sequence[str], count: int) -> list[str]:
    """Different options, the earlier the likelier."""
    found: dict[str, None] = {}
    while len(found) < count:
        found.setdefault(favor(rng, options))
    return list(found)


def with_article(noun_phrase: str) -> str:
    """Puts "a" or "an" before a noun phrase."""
    return ("an " if noun_phrase[0] in "aeiou" else "a ") + noun_phrase


def made_up_name(rng: random.Random) -> str:
    """A pronounceable name of two or three syllables."""
    syllables = [rng.choice("bdfgklmnprstvz") + rng.choice("aeiou") for _ in range(rng.choice((2, 2, 3)))]
    return ("".join(syllables) + rng.choice(("", "", "n", "l", "s"))).capitalize()


def person(rng: random.Random, prefix: str, taken: str = "") -> dict[str, str]:
    """The slots of one character; those of the friend carry the prefix "f"."""
    female = rng.random() < 0.5
    she, her, obj, child = SHE if female else HE
    name = next(name for name in favor_some(rng, GIRLS if female else BOYS, 2) if name != taken)
    if rng.random() < 0.2:
        name = made_up_name(rng)
    kind = rng.choice(ANIMALS) if rng.random() < 0.4 else rng.choice((child, child, "baby", "child"))
    known = {"she": she, "her": her, "obj": obj, "kind": kind, "adj": rng.choice(ADJECTIVES)}
    slots = {prefix + key: word for key, word in known.items()}
    capitals = {(prefix + key).capitalize(): known[key].capitalize() for key in ("she", "her")}
    return {"friend" if prefix else "hero": name} | slots | capitals


def item_phrase(rng: random.Random, item: str) -> tuple[str, str, str]:
    """The phrase that introduces an object, with its color and its quality."""
    color, quality = favor(rng, COLORS), favor(rng, QUALITIES)
    return with_article(rng.choice((f"{color} {item}", f"{quality} {color} {item}"))), color, quality


def make_cast(rng: random.Random) -> dict[str, str]:
    """Everything that stays the same through a story."""
    cast = person(rng, "")
    cast |= person(rng, "f", taken=cast["hero"])
    (place, (at, spots)), (place2, (at2, spots2)) = ((name, PLACES[name]) for name in favor_some(rng, list(PLACES), 2))
    cast |= {"place": f"the {place}", "at": f"{at} the {place}", "spot": rng.choice(spots)}
    cast |= {"place2": f"the {place2}", "at2": f"{at2} the {place2}", "spot2": rng.choice(spots2)}
    cast["item"] = favor(rng, ITEMS)
    cast["a_item"], cast["color"], cast["quality"] = item_phrase(rng, cast["item"])
    cast["a_quality"], cast["a_kind"] = with_article(cast["quality"]), with_article(cast["kind"])
    cast["hobby"], cast["weather"] = rng.choice(HOBBIES), rng.choice(WEATHER)
    cast["feeling"], cast["sad"] = favor(rng, FEELINGS), favor(rng, SAD)
    cast["a_food"], cast["dish"] = with_article(favor(rng, FOODS)), favor(rng, DISHES)
    cast["your_help"] = rng.choice(("your help", "helping me", "coming"))
    return cast


def asking(rng: random.Random, cast: Mapping[str, str]) -> str:
    """The same question put to several strangers."""
    template = rng.choice(ASKING)
    asked = favor_some(rng, ELDERS, rng.randint(2, 4))
    return " ".join(write(rng, template, {**cast, "elder": elder}) for elder in asked)


def hiding(rng: random.Random, cast: Mapping[str, str]) -> str:
    """Hide and seek: three places looked at, the last one right."""
    spots = rng.sample(sorted({spot for _, places in PLACES.values() for spot in places}), 3)
    start = "They played hide and seek {at}. {hero} counted: one, two, three, four, five. {friend} hid behind {spot_x}."
    looks = [write(rng, rng.choice(HIDING), {**cast, "spot_x": spot}) for spot in spots[:2]]
    end = 'Was {friend} behind {spot_x}? Yes! "I found you, {friend}!" said {hero}.'
    last = {**cast, "spot_x": spots[2]}
    return " ".join([write(rng, start, last), *looks, write(rng, end, last)])


def collecting(rng: random.Random, cast: Mapping[str, str]) -> str:
    """Things put in a basket one by one, then all named again."""
    items = favor_some(rng, ITEMS, rng.randint(2, 4))
    named = [item_phrase(rng, item)[0] for item in items]
    sentences = ["{hero} had an empty basket."]
    for item, phrase in zip(items, named, strict=True):
        sentences.append(write(rng, rng.choice(COLLECTING), {**cast, "item_x": item, "a_item_x": phrase}))
    listed = ", ".join(named[:-1]) + " and " + named[-1]
    sentences.append(rng.choice(("Now there was ", "What was in the basket? There was ")) + listed + " in the basket.")
    return write(rng, " ".join(sentences), cast)


def story(rng: random.Random) -> str:
    """One story: a plot played by a cast, on one line or a paragraph a scene."""
    cast, used, scenes, plot = make_cast(rng), set(), [], rng.choice(PLOTS).split()
    has_item = not ITEM_SCENES.isdisjoint(plot)
    for scene in plot:
        if scene.islower():
            scenes.append(globals()[scene](rng, cast))
            continue
        template = rng.choice([t for t in globals()[scene] if t not in used and (has_item or "item}" not in t)])
        used.add(template)
        scenes.append(write(rng, template, cast))
    return ("\n" if rng.random() < 0.15 else " ").join(scenes)


def stories(count: int, seed: int) -> list[str]:
    """Different stories; the same seed writes the same ones."""
    rng = random.Random(seed)
    found: dict[str, None] = {}
    while len(found) < count:
        found.setdefault(story(rng))
    return list(found)
