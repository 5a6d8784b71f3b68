"""The corpus: reproducible, filled in, and with a cast that stays the same."""

import random
import re

import pytest
import story_corpus
from story_corpus import favor, favor_some, make_cast, stories, with_article, write


def test_the_same_seed_writes_the_same_stories() -> None:
    assert stories(200, 7) == stories(200, 7)
    assert stories(200, 7)[:50] == stories(50, 7)
    assert not set(stories(200, 7)) & set(stories(200, 8))


def test_stories_differ() -> None:
    texts = stories(500, 3)
    assert len(set(texts)) == 500
    assert len({text.split(".")[0] for text in texts}) > 400


def test_nothing_of_the_grammar_shows() -> None:
    for text in stories(1000, 4):
        assert not re.search(r"[{}\[\]|]|  | [.,!?]|\ba [aeiou]", text), text


def test_choices_nest_and_slots_may_hold_slots() -> None:
    cast = {"who": "{name}", "name": "Maia"}
    drawn = {write(random.Random(seed), "[a|b [c|d]] {who}", cast) for seed in range(50)}
    assert drawn == {"a Maia", "b c Maia", "b d Maia"}


def test_every_slot_of_every_template_has_a_value() -> None:
    cast = make_cast(random.Random(0)) | dict.fromkeys(("elder", "spot_x", "item_x", "a_item_x"), "")
    for name, templates in vars(story_corpus).items():
        if name.isupper() and isinstance(templates, list):
            for template in templates:
                assert not set(re.findall(r"{(\w+)}", template)) - set(cast), (name, template)


def test_the_two_friends_have_two_names() -> None:
    for seed in range(500):
        cast = make_cast(random.Random(seed))
        assert cast["hero"] != cast["friend"]
        assert cast["place"] != cast["place2"]


def test_favorites_come_first() -> None:
    rng = random.Random(0)
    drawn = [favor(rng, "abc") for _ in range(6000)]
    assert [drawn.count(letter) / 6000 for letter in "abc"] == pytest.approx([6 / 11, 3 / 11, 2 / 11], abs=0.03)
    assert {tuple(sorted(favor_some(rng, "abc", 3))) for _ in range(20)} == {("a", "b", "c")}


def test_the_article_fits() -> None:
    assert with_article("old key") == "an old key"
    assert with_article("red key") == "a red key"
