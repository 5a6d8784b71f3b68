"""Thumbnails of every head: what is pooled, where it stands, and what the tooltip says."""

import base64
import math
import zlib
from importlib import import_module
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
import torch

from gentrace.errors import ViewBudgetError
from gentrace.views import model_view
from gentrace.views.cells import FirstKey
from gentrace.views.close_up import AWAY
from gentrace.views.model_view import arrange, montage
from gentrace.views.thumbnails import pool, read_sheet
from tests.views.made import HOSTILE, made_tokens, made_trace, random_trace
from tests.views.made_kinds import by_hand, causal, sentences, translator
from tests.views.test_attention_map import assert_escaped


def test_a_pixel_is_the_largest_weight_beneath_it() -> None:
    values = torch.rand(40, 24, generator=torch.Generator().manual_seed(0))
    pooled = pool(values, 8)
    for row in range(8):
        for column in range(8):
            assert pooled[row, column] == values[5 * row : 5 * row + 5, 3 * column : 3 * column + 3].max()
    assert torch.equal(pool(values, 64), values)


def test_pooling_keeps_a_thin_line_and_the_gaps() -> None:
    values = torch.full((64, 64), torch.nan)
    values[torch.ones(64, 64).tril() > 0] = 0.0
    values.fill_diagonal_(0.9)
    pooled = pool(values, 16)
    assert pooled.diagonal().tolist() == pytest.approx([0.9] * 16)
    assert pooled.triu(1)[torch.ones(16, 16).triu(1) > 0].isnan().all()


def test_numbers_by_hand() -> None:
    # Every score is 0, so row p has weights 1 / (p + 1).
    trace = made_trace(torch.ones(1, 3, 1), torch.zeros(1, 3, 1), made_tokens(list("abcd"), 2))
    (one,) = read_sheet(trace).thumbnails
    assert one.first == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)
    assert one.previous == pytest.approx((1 / 2 + 1 / 3) / 2)
    assert one.itself == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)
    assert one.entropy == pytest.approx((0 + math.log(2) + math.log(3)) / 3, abs=1e-6)


def test_a_click_tells_layer_and_head() -> None:
    figure = model_view(random_trace(9, 3, heads=3, layers=(0, 2, 5, 7)))
    shown = figure.data[0]
    told = [tuple(cell) for row in shown.customdata for cell in row if len(cell)]
    assert sorted(told) == [(layer, head) for layer in (0, 2, 5, 7) for head in range(3)]
    for z_row, told_row, text_row in zip(np.asarray(shown.z), shown.customdata, shown.text, strict=True):
        for z, cell, text in zip(z_row, told_row, text_row, strict=True):
            assert math.isnan(z) == (not len(cell))
            assert not len(cell) or f"layer {cell[0]} · head {cell[1]}" in text


@pytest.mark.parametrize("trace", [random_trace(9, 3, heads=3, layers=tuple(range(11))), sentences()])
def test_each_thumbnail_stands_under_its_tooltip(trace) -> None:  # noqa: ANN001
    shown = read_sheet(trace)
    blocks = arrange(len(shown.layers), shown.most_heads)
    whole = montage(shown, blocks)
    cell = whole.shape[0] // blocks.layers
    over = model_view(trace).data[0]
    assert whole.shape == (cell * blocks.layers, cell * blocks.columns)
    for row, cells in enumerate(over.customdata):
        for column, pair in enumerate(cells):
            part = whole[row * cell : (row + 1) * cell, column * cell : (column + 1) * cell]
            if not len(pair):
                assert part.isnan().all()
                continue
            (own,) = [one for one in shown.thumbnails if (one.layer, one.head) == tuple(pair)]
            rows, columns = part.isnan().logical_not().nonzero().unbind(-1)
            inner = part[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
            assert inner.nan_to_num(nan=-1).unique().tolist() == own.pixels.nan_to_num(nan=-1).unique().tolist()


@pytest.mark.parametrize(("layers", "heads"), [(30, 9), (36, 32), (12, 12), (1, 1), (6, 12), (80, 64)])
def test_the_arrangement_holds_every_layer(layers: int, heads: int) -> None:
    blocks = arrange(layers, heads)
    places = [blocks.place(layer, head) for layer in range(layers) for head in range(heads)]
    assert len(set(places)) == layers * heads
    # Layers go down, then on to the next block.
    assert places[: heads * blocks.layers] == [(head, row) for row in range(blocks.layers) for head in range(heads)]
    assert max(column for column, _ in places) < blocks.columns
    assert max(row for _, row in places) < blocks.layers
    assert layers < 6 or 0.7 < blocks.columns / blocks.layers < 3


def test_kinds_and_the_first_key() -> None:
    trace = translator()
    cross = read_sheet(trace, kind="cross").thumbnails[1]
    torch.testing.assert_close(cross.pixels, by_hand(trace, 1, "cross")[0])
    assert math.isnan(cross.previous)
    aside = read_sheet(causal())
    assert aside.first_aside
    torch.testing.assert_close(aside.thumbnails[3].pixels.nan_to_num(), by_hand(causal(), 3, is_causal=True)[0][:, 1:])
    assert "left out" in model_view(causal()).layout.title.subtitle.text


def test_it_stays_light() -> None:
    figure = model_view(random_trace(200, 10, heads=9, layers=tuple(range(30))))
    (image,) = figure.layout.images
    png = base64.b64decode(image.source.partition(",")[2])
    width, height = (int.from_bytes(png[at : at + 4], "big") for at in (16, 20))
    assert width * height <= 2_500_000
    assert len(figure.to_json() or "") < 8_000_000
    start = png.index(b"IDAT") + 4
    assert len(zlib.decompressobj().decompress(png[start:])) == (width + 1) * height


def decoded(spec: dict[str, str]) -> np.ndarray:
    """An array as Plotly's script reads it."""
    shape = [int(count) for count in spec["shape"].split(",")]
    return np.frombuffer(base64.b64decode(spec["bdata"]), {"f4": "<f4"}[spec["dtype"]]).reshape(shape)


def entries(figure: go.Figure) -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    """What each entry of the menu is called, what it puts into the maps and what into the layout."""
    (menu,) = figure.to_dict()["layout"]["updatemenus"]
    return [(button["label"], *button["args"][:2]) for button in menu["buttons"]]


@pytest.mark.parametrize("sink", ["mask", "keep"])
def test_the_menu_shows_each_heads_weights_and_scores(sink: FirstKey) -> None:
    trace = random_trace(9, 3, heads=3, layers=(0, 4))
    (back, nothing, _), *others = entries(model_view(trace, sink=sink))
    assert (back, nothing) == ("every head", {})
    assert [name for name, _, _ in others] == [f"layer {layer} · head {head}" for layer in (0, 4) for head in range(3)]
    lower = np.tril(np.ones((8, 8), bool))
    for (_, maps, _), (layer, head) in zip(
        others, [(layer, head) for layer in (0, 4) for head in range(3)], strict=True
    ):
        # The first key, if set aside, is a map of its own.
        for name, values in (("z", trace.attention(layer, head)), ("customdata", trace.scores(layer, head))):
            parts = [decoded(spec) for spec in maps[name]]
            assert len(parts) == (2 if sink == "mask" else 1)
            whole = np.concatenate(parts[::-1], 1)
            np.testing.assert_array_equal(whole[lower], values.numpy()[lower])
            assert np.isnan(whole[~lower]).all()


def test_many_tokens_are_pooled_and_the_axes_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_module("gentrace.views.thumbnails"), "CLOSE_CELLS", 2 * 4 * 4)
    trace = random_trace(10, 3)
    figure = model_view(trace)
    weights, scores = trace.attention(0, 1)[:, 1:], trace.scores(0, 1)[:, 1:]
    _, maps, layout = entries(figure)[2]
    rest, first = (decoded(spec) for spec in maps["z"])
    told, _ = (decoded(spec) for spec in maps["customdata"])
    assert rest.shape == (3, 3)
    for row in range(3):
        np.testing.assert_allclose(first[row, 0], trace.attention(0, 1)[3 * row : 3 * row + 3, 0].max())
        for column in range(row + 1):
            block = weights[3 * row : 3 * row + 3, 3 * column : 3 * column + 3]
            place = divmod(int(block.argmax()), block.shape[1])
            assert rest[row, column] == block[place]
            assert told[row, column] == scores[3 * row + place[0], 3 * column + place[1]]
    # Three tokens were given: the first key and two thirds of a block across, a block down.
    across, down = (one for one in figure.data if one.name == "end of prompt")
    assert across.y == pytest.approx((AWAY + 0.5, AWAY + 0.5))
    assert down.x == pytest.approx((AWAY + 0.5 + 2 / 3, AWAY + 0.5 + 2 / 3))
    assert "largest of 3 × 3" in layout["title.subtitle.text"]
    assert figure.layout.xaxis.ticktext[1] == "1 … 3: ␣word1 … ␣word3"
    assert figure.layout.xaxis.ticktext[0] == "0 ␣word0"
    assert figure.layout.yaxis.ticktext[1] == "3 … 5: ␣word3 … ␣word5"


def test_too_many_heads() -> None:
    with pytest.raises(ViewBudgetError, match="size="):
        model_view(random_trace(4, 2, heads=200, layers=tuple(range(60))))


def test_rows_never_seen_and_hostile_tokens() -> None:
    assert_escaped(model_view(random_trace(len(HOSTILE), 4, texts=HOSTILE, unseen=2), dark=True))
    assert read_sheet(random_trace(9, 5, unseen=2)).thumbnails[0].pixels[:2].isnan().all()
    assert model_view(causal(length=1)).layout.images
