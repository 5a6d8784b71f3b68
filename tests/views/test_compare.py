"""Two traces over one text or two: the numbers stand where the tokens stand."""

from dataclasses import replace
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
import torch

from gentrace.errors import ViewBudgetError, ViewError
from gentrace.trace.trace import Trace
from gentrace.views import theme
from gentrace.views.compare import compare
from gentrace.views.comparison import Part, read_comparison
from tests.views.made import HOSTILE, made_tokens, random_trace, untouchable
from tests.views.made_kinds import by_hand, causal, sentences, translator
from tests.views.test_attention_map import assert_escaped


def spoken(texts: list[str], prompt: int = 2) -> Trace:
    """A trace of a text whose last token never looked; as many as there are positions decide its numbers."""
    return random_trace(len(texts), prompt, texts=texts)


LOVE, HATE = spoken(["I", " love", " you", "."]), spoken(["I", " hate", " you", "!"])


def maps(figure: go.Figure) -> dict[str, list[go.Heatmap]]:
    found: dict[str, list[go.Heatmap]] = {}
    for trace in figure.data:
        if trace.type == "heatmap":
            found.setdefault(trace.name, []).append(trace)
    return found


def lower(weights: torch.Tensor) -> torch.Tensor:
    return weights.masked_fill(torch.ones_like(weights, dtype=torch.bool).triu(1), torch.nan)


def test_two_prompts_token_by_token() -> None:
    other = replace(random_trace(5, 2), read_tokens=HATE.read_tokens, length=3)
    found = read_comparison((LOVE, other), (Part(0, 1), Part(0, 0)))
    assert [group.label for group in found.keys] == ["I", "␣love|␣hate", "␣you"]
    assert found.keys[1].name == "1 ␣love | 1 ␣hate"
    assert (found.lonely, found.merged, found.aside) == (0, 0, 1)
    first, second = LOVE.attention(0, 1), other.attention(0, 0)[:3, :3]
    torch.testing.assert_close(found.first, lower(first), equal_nan=True)
    torch.testing.assert_close(found.second, lower(second), equal_nan=True)
    torch.testing.assert_close(found.difference, lower(second - first), equal_nan=True)


def test_two_tokenizers_add_up_along_keys_and_average_along_queries() -> None:
    fine = spoken(["un", "believ", "able", " story", " end"])
    coarse = spoken(["unbelievable", " st", "ory", " end"])
    found = read_comparison((fine, coarse), (Part(0, 0), Part(0, 0)), sink="keep")
    assert [group.name for group in found.keys] == ["0–2 unbelievable | 0 unbelievable", "3 ␣story | 1–2 ␣story"]
    assert found.merged == 2
    mine, theirs = fine.attention(0, 0), coarse.attention(0, 0)
    # By hand: the first three rows see only themselves, so their block's share is 1.
    assert found.first[0, 0] == pytest.approx(1.0, abs=1e-6)
    assert found.first[1].tolist() == pytest.approx([float(mine[3, :3].sum()), float(mine[3, 3])], abs=1e-6)
    expected = [float(theirs[1:3, 0].mean()), float(theirs[1:3, 1:3].sum(-1).mean())]
    assert found.second[1].tolist() == pytest.approx(expected, abs=1e-6)
    assert found.first[0, 1].isnan()
    for matrix in (found.first, found.second):
        torch.testing.assert_close(matrix.nansum(-1), torch.ones(2))
    subtitle = compare(fine, coarse, 0, 0).layout.title.subtitle.text
    assert "keys summed, queries averaged" in subtitle


def test_two_continuations_of_one_prompt() -> None:
    first = spoken(["Once", " upon", " a", " time", " he", " sat", " x"])
    second = spoken(["Once", " upon", " a", " hill", " stood", " y"])
    found = read_comparison((first, second), (Part(0, 0), Part(0, 0)))
    assert [group.missing for group in found.queries] == [None] * 5 + [1]
    assert found.second[5].isnan().all()
    assert found.difference[5].isnan().all()
    assert not found.first[5].isnan().any()
    figure = compare(first, second, 0, 0)
    assert "2 only in one text" not in figure.layout.title.subtitle.text
    assert "1 only in one text" in figure.layout.title.subtitle.text
    shades = [trace for trace in figure.data if trace.name == "not in this text"]
    assert [len(shade.x) // 5 for shade in shades] == [0, 0, 1, 1, 1, 1]


def test_ranges_are_those_of_the_first_trace() -> None:
    first, second = spoken(list("abcdef"), 3), spoken(list("abXcdefgh"), 4)
    found = read_comparison((first, second), (Part(0, 0), Part(0, 0)), queries="generated", keys=(1, 3))
    assert [group.name for group in found.queries] == ["3 d | 4 d", "4 e | 5 e", "– | 6 f", "– | 7 g"]
    assert [group.label for group in found.queries][1:] == ["e", "–|f", "–|g"]
    assert [group.missing for group in found.queries] == [None, None, 0, 0]
    assert [group.name for group in found.keys] == ["1 b", "– | 2 X", "2 c | 3 c"]
    torch.testing.assert_close(found.first[:2, [0, 2]], first.attention(0, 0)[3:5, 1:3])
    torch.testing.assert_close(found.second, second.attention(0, 0)[4:8, 1:4])
    assert found.first[:, 1].isnan().all()
    assert found.first[2:].isnan().all()
    assert found.aside == 0


def test_heads_of_one_trace_and_their_mean() -> None:
    trace = causal()
    found = read_comparison((trace, trace), (Part(0, 3), Part(0, None)))
    weights = [by_hand(trace, head, is_causal=True)[0] for head in range(4)]
    torch.testing.assert_close(found.first, lower(weights[3]), equal_nan=True)
    torch.testing.assert_close(found.second, lower(torch.stack(weights).mean(0)), equal_nan=True)
    assert found.title.endswith("layer 0 · head 3 | layer 0 · mean of heads")


def test_a_trace_with_itself_differs_nowhere() -> None:
    figure = compare(causal(), causal(), 0, 2)
    difference = np.concatenate([np.asarray(one.z) for one in maps(figure)["difference"]], 1)
    assert np.nanmax(np.abs(difference)) == 0
    assert "aligned token by token" in figure.layout.title.subtitle.text


@pytest.mark.parametrize("kind", ["cross", "encoder"])
def test_all_kinds(kind: Any) -> None:
    trace = translator()
    found = read_comparison((trace, trace), (Part(0, 0), Part(0, 1)), kind=kind)
    torch.testing.assert_close(found.first, by_hand(trace, 0, kind)[0])
    torch.testing.assert_close(found.second, by_hand(trace, 1, kind)[0])
    assert found.keys[0].label == "en0"
    assert found.queries[0].label == ("en0" if kind == "encoder" else "</s>")
    assert found.aside == 0
    with pytest.raises(ViewError, match="layers recorded"):
        compare(trace, sentences(), 0, 0, kind=kind)


def test_the_two_share_a_scale_and_the_difference_is_around_zero() -> None:
    trace = causal()
    figure = compare(trace, trace, 0, 3, head_b=1, names=("three", "<one>"))
    shown = maps(figure)
    assert {one.coloraxis for name in ("three", "&lt;one&gt;") for one in shown[name]} == {"coloraxis", None}
    assert shown["difference"][0].coloraxis == "coloraxis2"
    assert figure.layout.coloraxis2.cmin == -figure.layout.coloraxis2.cmax
    assert {colour for _, colour in shown["three"][1].colorscale} == {theme.LIGHT.unseen}
    rest, first = shown["difference"]
    weights = [by_hand(trace, head, is_causal=True)[0].numpy() for head in (3, 1)]
    np.testing.assert_allclose(first.z[:, 0], (weights[1] - weights[0])[:, 0], atol=1e-6)
    np.testing.assert_allclose(rest.customdata[5, 2], [weights[0][5, 3], weights[1][5, 3]], rtol=1e-5)
    np.testing.assert_allclose(shown["three"][0].customdata[5, 2], weights[1][5, 3], rtol=1e-5)
    np.testing.assert_allclose(shown["&lt;one&gt;"][0].customdata[5, 2], weights[0][5, 3], rtol=1e-5)
    assert "first key grey" in figure.layout.title.subtitle.text
    assert len(maps(compare(trace, trace, 0, 3, sink="keep"))["first"]) == 1
    headings = [note.text for note in figure.layout.annotations]
    assert headings == ["<b>three</b>", "<b>&lt;one&gt;</b>", "<b>&lt;one&gt; − three</b>"]


def test_rows_that_were_never_seen_are_grey() -> None:
    seen, partly = random_trace(7, 3), random_trace(7, 3, unseen=2)
    found = read_comparison((seen, partly), (Part(0, 0), Part(0, 0)))
    assert found.second[:2].isnan().all()
    assert found.difference[:2].isnan().all()
    assert not found.difference[2, :3].isnan().any()
    assert found.unseen == ((), (0, 1))
    bands = [one for one in compare(seen, partly, 0, 0).data if one.name == "never seen"]
    assert [[edge for edge in one.y if edge is not None][::4] for one in bands] == [[], [-0.5, 0.5], [-0.5, 0.5]]


def test_bad_requests_are_refused_by_name() -> None:
    for more, match in (
        ({"head": 7}, "heads 0 … 1"),
        ({"layer_b": 3}, "layers recorded: 0"),
        ({"queries": (1, 9)}, "positions 0 … 2"),
        ({"sink": "hide"}, "sink='hide'"),
        ({"columns": 2}, "columns=2"),
    ):
        with pytest.raises(ViewError, match=match):
            compare(LOVE, HATE, **{"layer": 0, "head": 0} | more)  # type: ignore[arg-type]


def test_too_many_cells_are_refused_before_they_are_computed() -> None:
    long = untouchable(random_trace(700, 4))
    with pytest.raises(ViewBudgetError, match="queries= and keys="):
        compare(long, long, 0, 0)


@pytest.mark.parametrize("dark", [False, True])
def test_hostile_tokens_are_escaped(dark: bool) -> None:
    trace, other = (random_trace(len(HOSTILE), 4, texts=texts) for texts in (HOSTILE, HOSTILE[::-1]))
    assert_escaped(compare(trace, other, 0, 0, names=("<b>", "</script>"), dark=dark))


@pytest.mark.browser
@pytest.mark.parametrize(("width", "columns"), [(1200, 3), (390, 1)])
def test_tooltips_tell_both_tokens_and_both_numbers(shown: Any, width: int, columns: int) -> None:
    first, second = spoken([*"abcdef"], 3), spoken([*"abXdef"], 3)
    second = replace(random_trace(8, 3), read_tokens=lambda: made_tokens([*"abXdef"], 3), length=5)
    found = read_comparison((first, second), (Part(0, 0), Part(0, 0)))
    page = shown(compare(first, second, 0, 0, columns=columns, names=("one", "two"), dark=columns == 1), width)
    for panel, axes in enumerate(("", "3", "5")):
        left, top = page.evaluate(
            """axes => {
                const plot = document.querySelector('.plotly-graph-div'), full = plot._fullLayout;
                window.scrollTo(0, 0);
                const box = plot.getBoundingClientRect(), x = full['xaxis' + axes], y = full['yaxis' + axes];
                return [box.left + x._offset + x.l2p(2), box.top + y._offset + y.l2p(4)];
            }""",
            axes,
        )
        page.evaluate("top => window.scrollTo(0, top - 300)", top)
        page.mouse.move(left + 1, top - page.evaluate("window.scrollY") + 1)
        page.mouse.move(left, top - page.evaluate("window.scrollY"))
        page.wait_for_timeout(200)
        text = page.text_content(".hoverlayer .hovertext")
        assert "query 4 e" in text, panel
        assert "key 2 c | 2 X" in text, panel
        assert f"one {float(found.first[4, 2]):.4g}" in text
        assert f"two {float(found.second[4, 2]):.4g}" in text
    for selector in (".gtitle", ".gtitle-subtitle", ".cb", ".annotation"):
        for element in page.query_selector_all(selector):
            box = element.bounding_box()
            if box and box["width"]:
                assert box["x"] >= 0, selector
                assert box["x"] + box["width"] <= width + 1, selector


def test_means_of_several_heads_with_numbers() -> None:
    first, second = random_trace(7, 3, heads=3, layers=(0, 1)), random_trace(7, 3, heads=3, layers=(0, 1), window=3)
    figure = compare(first, second, 1, last=2, annotate=True, sink="keep")
    a, b = (trace.attention(1)[-2:].mean(0) for trace in (first, second))
    lower = torch.ones(6, 6, dtype=torch.bool).tril()
    shown = [torch.as_tensor(np.asarray(one.z)) for one in figure.data[:3]]
    for matrix, expected in zip(shown, (a, b, b - a), strict=True):
        seen = matrix.isfinite()
        torch.testing.assert_close(matrix[seen], expected[seen])
    assert (shown[0].isfinite() == lower).all()
    assert [one.texttemplate for one in figure.data[:3]] == ["%{z:.4f}", "%{z:.4f}", "%{z:+.4f}"]
    assert "layer 1 · mean of the last 2 heads" in figure.layout.title.text
    across = compare(first, second, head=2, last=2, sink="keep")
    expected = torch.stack([first.attention(layer, 2) for layer in (0, 1)]).mean(0)
    torch.testing.assert_close(torch.as_tensor(np.asarray(across.data[0].z))[lower], expected[lower])
    long = random_trace(40, 3)
    with pytest.raises(ViewBudgetError, match="with numbers"):
        compare(long, long, 0, 0, annotate=True)
