"""The text, coloured: what is coloured by what, and whether it can be read."""

import math
from dataclasses import replace

import pytest
import torch

from gentrace.errors import ViewError
from gentrace.views import theme, token_strip
from gentrace.views.token_strip import KINDS, strip, strip_scale
from tests.views.made import HOSTILE, made_tokens, made_trace, random_trace
from tests.views.made_kinds import sentences
from tests.views.test_attention_map import assert_escaped

LINEAR = torch.tensor([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
# Machado, Oliveira and Fernandes, "A physiologically-based model for simulation of color vision deficiency", 2009,
# severity 1.0, on linear RGB.
BLINDNESS = {
    "none": torch.eye(3),
    "protan": torch.tensor(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deutan": torch.tensor(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritan": torch.tensor(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}


def lightness(colour: str, blindness: str) -> float:
    """CIE L* of a colour as someone sees it."""
    encoded = torch.tensor([part / 255 for part in theme.channels(colour)])
    linear = torch.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    y = float((LINEAR @ (BLINDNESS[blindness] @ linear).clamp(0, 1))[1])
    return 116 * y ** (1 / 3) - 16 if y > 0.008856 else 903.3 * y


def tokens_with(probabilities: list[float]):  # noqa: ANN201
    """Tokens " w0", " w1", … of which the first was not predicted; two are given."""
    tokens = made_tokens([f" w{place}" for place in range(len(probabilities) + 1)], 2)
    logprobs = torch.tensor([math.nan, *probabilities]).log()
    return replace(tokens, logprobs=logprobs, entropy=-2 * logprobs, rank=torch.tensor([-1, 0, 9, 99]))


def test_values_of_each_measure() -> None:
    tokens, all_of_them = tokens_with([0.5, 0.25, 1.0]), range(4)
    values = {by: [one.value for one in strip(tokens, by, all_of_them, 80)] for by in KINDS}
    assert values["probability"] == [None, *(pytest.approx(value) for value in (0.5, 0.25, 1.0))]
    assert values["surprise"] == [None, *(pytest.approx(value) for value in (math.log(2), math.log(4), 0))]
    assert values["rank"] == [None, 0, 9, 99]
    assert values["entropy"][2] == pytest.approx(2 * math.log(4))
    assert [one.given for one in strip(tokens, "rank", all_of_them, 80)] == [True, True, False, False]


def test_ranks_are_coloured_by_decades() -> None:
    placed = strip(tokens_with([0.5, 0.25, 1.0]), "rank", range(4), 80)
    assert strip_scale(placed, "rank").high == pytest.approx(2, abs=0.01)


def test_what_surprises_is_strongest_whatever_the_measure() -> None:
    trace = made_trace(torch.ones(1, 3, 1), torch.ones(1, 3, 1), tokens_with([0.9, 0.5, 0.01]))
    for dark in (False, True):
        colours = theme.DARK if dark else theme.LIGHT
        for by in KINDS:
            boxes = token_strip(trace, by, dark=dark).data[0]
            assert boxes.marker.color[0] == colours.unseen
            far = [theme.contrast(colour, colours.surprise[0]) for colour in boxes.marker.color[1:]]
            assert far == sorted(far), by
            assert far[2] > 4


def test_tokens_stand_where_they_are_read() -> None:
    placed = strip(made_tokens(["One", " day", "\n", "Lily", " sat"], 2), "rank", range(5), 24)
    assert [(one.text, one.line, one.left, one.right) for one in placed] == [
        ("One", 0, 0, 3),
        ("day", 0, 4, 7),
        ("↵", 0, 7, 8),
        ("Lily", 1, 0, 4),
        ("sat", 1, 5, 8),
    ]


def test_what_was_written_is_underlined() -> None:
    figure = token_strip(random_trace(9, 6))
    (line,) = [trace for trace in figure.data if trace.name == "written by the model"]
    # Three tokens, two ends and a gap each.
    assert len(line.x) == 9
    assert "underlined" in figure.layout.title.subtitle.text
    assert "underlined" not in token_strip(random_trace(9, 6), positions="prompt").layout.title.subtitle.text


def test_tooltips_tell_the_alternatives() -> None:
    told = token_strip(random_trace(9, 6)).data[0].hovertext
    assert told[0] == "<b>␣word0</b>  0, id 0, given<br>probability unknown"
    assert "<b>␣word0</b>  7, id 7, written<br>probability 50.0 %, rank 0, surprise 0.693 nats" in told[7]
    assert "as sampled 66.7 %" in told[7]
    assert "choices:<br>  50.0 %  ␣word0<br>" in told[7]
    assert "  25.0 %  other1<br>  12.5 %  other2" in told[7]


def test_a_text_that_nobody_predicted_is_grey() -> None:
    figure = token_strip(sentences(), "entropy")
    assert set(figure.data[0].marker.color) == {theme.LIGHT.unseen}


@pytest.mark.parametrize("by", ["probability", "rank"])
def test_hostile_tokens(by: str) -> None:
    figure = token_strip(random_trace(len(HOSTILE), 4, texts=HOSTILE), by, dark=True)  # type: ignore[arg-type]
    assert_escaped(figure)
    assert len(figure.data[0].x) == len(HOSTILE)
    assert all(width > 0 for width in figure.data[0].x)


@pytest.mark.parametrize("blindness", BLINDNESS)
@pytest.mark.parametrize("colours", [theme.LIGHT, theme.DARK], ids=["light", "dark"])
def test_lightness_alone_carries_the_order(colours: theme.Theme, blindness: str) -> None:
    seen = [lightness(theme.mix(colours.surprise, step / 20), blindness) for step in range(21)]
    assert seen == sorted(seen, reverse=colours is theme.LIGHT)
    assert abs(seen[0] - seen[-1]) > 50


def test_the_lightness_test_can_fail() -> None:
    seen = [lightness(theme.mix(theme.LIGHT.probability, step / 20), "none") for step in range(21)]
    assert seen != sorted(seen, reverse=True)
    assert seen != sorted(seen)


@pytest.mark.parametrize("colours", [theme.LIGHT, theme.DARK], ids=["light", "dark"])
def test_text_can_be_read_on_every_colour(colours: theme.Theme) -> None:
    for step in range(101):
        ground = theme.mix(colours.surprise, step / 100)
        assert theme.contrast(theme.ink_on(ground), ground) >= 4.5


def test_wrong_arguments() -> None:
    with pytest.raises(ViewError, match="'probability', 'surprise', 'entropy', 'rank'"):
        token_strip(random_trace(9, 6), "loss")  # type: ignore[arg-type]
    with pytest.raises(ViewError, match="at least 24"):
        token_strip(random_trace(9, 6), columns=10)
    with pytest.raises(ViewError, match="positions= a slice"):
        token_strip(random_trace(9, 6), positions=slice(20, 30))
