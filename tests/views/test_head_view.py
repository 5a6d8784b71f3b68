"""Lines between tokens: which are chosen, and what each state of the figure shows."""

import base64
import json
from importlib import import_module

import numpy as np
import plotly.graph_objects as go
import pytest
import torch

from gentrace.errors import ViewError
from gentrace.views import head_view
from gentrace.views.head_lines import LINES, HeadLines, read_lines
from gentrace.views.head_view import THICKEST
from tests.views.made import HOSTILE, random_trace
from tests.views.made_kinds import by_hand, causal, sentences, translator
from tests.views.test_attention_map import assert_escaped


def as_set(lines: HeadLines) -> set[tuple[int, int]]:
    return set(zip(lines.queries.tolist(), lines.keys.tolist(), strict=True))


def decoded(value: object) -> np.ndarray:
    """Numbers of a trace, as a list or as Plotly's base64."""
    if isinstance(value, dict):
        return np.frombuffer(base64.b64decode(value["bdata"]), np.dtype(value["dtype"]))
    return np.asarray(value, np.float64)


def ribbons(x: object, y: object) -> set[tuple[int, int, float]]:
    """Query, key and weight of each ribbon."""
    x, y = decoded(x).reshape(-1, 5), decoded(y).reshape(-1, 5)
    assert (x[:, :4] == [0, 1, 1, 0]).all()
    assert np.isnan(y[:, 4]).all()
    middle, thick = (y[:, [0, 1]] + y[:, [3, 2]]) / 2, (y[:, 3] - y[:, 0]) / THICKEST
    np.testing.assert_allclose(thick, (y[:, 2] - y[:, 1]) / THICKEST, atol=1e-5)
    return {(round(a), round(b), round(w, 4)) for (a, b), w in zip(middle.tolist(), thick.tolist(), strict=True)}


def state(figure: go.Figure, label: str, slider: int | None) -> list[dict]:
    """What a slider's step (or, with None, a button) puts into the moving traces."""
    steps = figure.layout.updatemenus[0].buttons if slider is None else figure.layout.sliders[slider].steps
    (step,) = [one for one in steps if one.label == label]
    assert step.method == "animate"
    assert list(step.args[0]["traces"]) == list(range(len(figure.data) - len(step.args[0]["data"]), len(figure.data)))
    return step.args[0]["data"]


def test_the_chosen_lines_by_brute_force() -> None:
    trace = causal()
    bundle = read_lines(trace, 0, least=0.1)
    assert bundle.first_aside
    for one in bundle.heads:
        weights = by_hand(trace, one.head, is_causal=True)[0]
        assert as_set(one) == {(q, k) for q in range(6) for k in range(1, q + 1) if weights[q, k] >= 0.1}
        torch.testing.assert_close(one.weights, weights[one.queries, one.keys])
    kept = read_lines(trace, 0, 2, least=0.1, sink="keep").heads[0]
    assert (0, 0) in as_set(kept)


def test_of_too_many_lines_the_strongest_stay() -> None:
    trace = random_trace(200, 10)
    all_of_them = read_lines(trace, 0, least=0.0)
    weights = torch.stack([trace.attention(0, head) for head in range(2)])[:, :, 1:]
    visible = torch.ones(199, 199).tril().bool()[:, 1:].expand(2, -1, -1)
    assert sum(len(one.weights) for one in all_of_them.heads) == LINES
    assert all_of_them.left_out == int((weights[visible] > 1e-9).sum()) - LINES
    floor = weights[visible].sort(descending=True).values[LINES - 1]
    assert min(one.weights.min() for one in all_of_them.heads) == pytest.approx(float(floor))
    assert f"{all_of_them.left_out:,} weaker left out" in head_view(trace, 0, least=0.0).layout.title.subtitle.text


def test_a_ribbon_is_as_thick_as_its_weight() -> None:
    trace = causal()
    figure, bundle = head_view(trace, 0, least=0.1), read_lines(trace, 0, least=0.1)
    for drawn, one in zip(figure.data[:4], bundle.heads, strict=True):
        expected = sorted(zip(one.queries.tolist(), one.keys.tolist(), one.weights.tolist(), strict=True))
        np.testing.assert_allclose(sorted(ribbons(drawn.x, drawn.y)), expected, atol=2e-4)


def test_a_slider_shows_one_token_alone() -> None:
    trace = causal()
    figure, weights = head_view(trace, 0, least=0.1), by_hand(trace, 2, is_causal=True)[0]
    veil, *ours, box, numbers = state(figure, "4 w4", 0)
    assert (min(veil["x"]), max(veil["x"])) == (0, 1)
    shown = {(query, key) for query, key, _ in ribbons(ours[2]["x"], ours[2]["y"])}
    assert shown == {(4, key) for key in range(1, 5) if weights[4, key] >= 0.1}
    assert (min(box["y"]), max(box["y"])) == (3.5, 4.5)
    every = torch.stack([by_hand(trace, head, is_causal=True)[0] for head in range(4)])
    strongest = {key: f"{every[:, 4, key].max():.2f}" for key in range(1, 5) if every[:, 4, key].max() >= 0.1}
    assert dict(zip(numbers["y"], numbers["text"], strict=True)) == strongest
    _, *ours, _, _ = state(figure, "1 w1", 1)
    assert {key for one in ours for _, key, _ in ribbons(one["x"], one["y"])} == {1}
    veil, *ours = state(figure, "every token", 0)
    assert not list(veil["x"])
    assert not any(list(one["x"]) for one in ours)


def test_a_focus_is_the_state_of_its_slider() -> None:
    figure = head_view(causal(), 0, focus=4)
    assert figure.layout.sliders[0].steps[figure.layout.sliders[0].active].label == "4 w4"
    moving = figure.data[-len(state(figure, "4 w4", 0)) :]
    for shown, expected in zip(moving, state(figure, "4 w4", 0), strict=True):
        np.testing.assert_array_equal(decoded(shown.y), decoded(expected["y"]))
    with pytest.raises(ViewError, match="queries 3 … 5 are shown"):
        head_view(causal(), 0, queries="generated", focus=1)


def test_the_figure_does_not_start_to_play() -> None:
    assert not head_view(causal(), 0).frames


def test_the_legend_toggles_a_head_in_every_state() -> None:
    figure = head_view(causal(), 0, [1, 3])
    shown = [trace for trace in figure.data if trace.legendgroup]
    assert [(trace.legendgroup, bool(trace.showlegend)) for trace in shown] == [
        ("1", True),
        ("3", True),
        ("1", False),
        ("3", False),
    ]
    assert [trace.fillcolor.split(",")[:3] for trace in shown[:2]] == [
        trace.fillcolor.split(",")[:3] for trace in shown[2:]
    ]
    assert all(trace.showlegend is False for trace in figure.data if not trace.legendgroup)


@pytest.mark.parametrize(
    ("pair", "queries", "keys"),
    [("A→A", {0, 1}, {0, 1}), ("A→B", {0, 1}, {2, 3, 4}), ("B→A", {2, 3, 4}, {0, 1}), ("B→B", {2, 3, 4}, {2, 3, 4})],
)
def test_sentence_pairs(pair: str, queries: set[int], keys: set[int]) -> None:
    figure = head_view(sentences(), 0, least=0.0, pair=pair)  # type: ignore[arg-type]
    _, *ours, _, _ = state(figure, pair, None)
    for head, one in enumerate(ours):
        shown = {(query, key) for query, key, _ in ribbons(one["x"], one["y"])}
        assert shown == {(query, key) for query in queries for key in keys}
        np.testing.assert_array_equal(decoded(figure.data[-len(ours) - 2 + head].y), decoded(one["y"]))
    assert figure.layout.updatemenus[0].active == ["all", "A→A", "A→B", "B→A", "B→B"].index(pair)


def test_no_pair_without_two_sentences() -> None:
    assert not head_view(causal(), 0).layout.updatemenus
    with pytest.raises(ViewError, match="token_type_ids"):
        head_view(causal(), 0, pair="A→B")


def test_cross_attention_has_the_encoder_on_the_right() -> None:
    figure = head_view(translator(), 0, kind="cross", least=0.0)
    left, right = [trace for trace in figure.data if (trace.name or "").endswith(" names")]
    assert list(left.text) == ["&lt;/s&gt;", "der", "␣Hund", "␣&lt;b&gt;"]
    assert list(right.text) == [f"en{place}" for place in range(6)]
    assert {(q, k) for q, k, _ in ribbons(figure.data[0].x, figure.data[0].y)} == {
        (q, k) for q in range(4) for k in range(6)
    }


def test_tooltips_tell_the_strongest_lines() -> None:
    trace = causal()
    bars = [one for one in head_view(trace, 0, 2, least=0.01).data if one.type == "bar"]
    row = by_hand(trace, 2, is_causal=True)[0][5, 1:]
    first = f"{float(row.max()):.4f}  {1 + int(row.argmax())} w{1 + int(row.argmax())}  (head 2)"
    assert bars[0].hovertext[5].split("<br>")[:2] == ["<b>5 w5</b> looks at", first]
    column = by_hand(trace, 2, is_causal=True)[0][:, 4]
    assert bars[1].hovertext[4].split("<br>")[1].startswith(f"{float(column.max()):.4f}  {int(column.argmax())} w")
    assert "nothing with" in bars[0].hovertext[0]


def test_hostile_tokens_and_rows_never_seen() -> None:
    assert_escaped(head_view(random_trace(len(HOSTILE), 4, texts=HOSTILE), 0, dark=True))
    assert all(2 not in one.queries for one in read_lines(random_trace(9, 5, unseen=3), 0).heads)
    assert head_view(causal(length=1), 0).data


def test_the_menu_puts_another_layers_picture_in_place() -> None:
    trace = random_trace(9, 4, heads=3, layers=(0, 2, 5))
    figure = head_view(trace, (2, 0), least=0.1, sink="keep")
    (menu,) = figure.layout.updatemenus
    assert [button.label for button in menu.buttons] == ["layer 2", "layer 0"]
    assert "layer 2" in figure.layout.title.text
    written = json.loads(figure.to_json() or "")["layout"]["updatemenus"][0]["buttons"]
    for layer, button in zip((2, 0), written, strict=True):
        alone = json.loads(head_view(trace, layer, least=0.1, sink="keep").to_json() or "")
        frame = button["args"][0]
        assert frame["traces"] == list(range(len(figure.data)))
        for own, part in zip(alone["data"], frame["data"], strict=True):
            assert {name: own[name] for name in part} == part
        weights = trace.attention(layer)
        for head in range(3):
            expected = {
                (query, key, round(float(weights[head, query, key]), 4))
                for query in range(8)
                for key in range(query + 1)
                if weights[head, query, key] >= 0.1
            }
            found = ribbons(frame["data"][head]["x"], frame["data"][head]["y"])
            assert {one[:2] for one in found} == {one[:2] for one in expected}
            assert sorted(one[2] for one in found) == pytest.approx(sorted(one[2] for one in expected), abs=2e-4)
        assert frame["layout"]["title.text"] == alone["layout"]["title"]["text"]
        for place, slider in enumerate(alone["layout"]["sliders"]):
            assert frame["layout"][f"sliders[{place}].steps"] == slider["steps"]


def test_a_menu_of_every_layer_of_a_pair_keeps_the_buttons_of_the_sentences() -> None:
    figure = head_view(sentences())
    assert [one.name for one in figure.layout.updatemenus] == [None]
    many = head_view(random_trace(9, 4, layers=(0, 1)))
    assert [one.name for one in many.layout.updatemenus] == ["layers"]


def test_layers_share_the_room_for_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_module("gentrace.views.head_view"), "MENU_LINES", 20)
    figure = head_view(random_trace(30, 4, layers=(0, 1)), least=0.0)
    assert "10 lines" in figure.layout.title.subtitle.text
