"""Pictures of studies: every number against pandas and SciPy on tables made by hand."""

from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
from scipy import stats

from gentrace.analysis import cliffs_delta, mean_interval
from gentrace.errors import ViewError
from gentrace.views import by_step, contrast, distribution, head_map
from gentrace.views.study_contrast import read_contrast
from gentrace.views.study_tables import number, read_sample
from tests.views.made_study import BEGIN, HEADS, LAYERS, NEW, PROMPTS, MadeStudy


@pytest.fixture(scope="module")
def study() -> MadeStudy:
    return MadeStudy()


def trace(figure: go.Figure, name: str) -> Any:
    (found,) = [one for one in figure.data if one.name == name]
    return found


def test_a_map_has_each_heads_mean_over_prompts_and_its_interval(study: MadeStudy) -> None:
    figure = head_map(study, "focus")
    heat = trace(figure, "heads")
    by_prompt = study.tables["heads"].groupby(["layer", "head", "prompt_id"])["focus"].mean()
    expected = by_prompt.groupby(["layer", "head"]).mean()
    assert heat.customdata[1][2] == [5, 2]
    for row, layer in enumerate(LAYERS):
        for head in range(HEADS):
            assert heat.z[row][head] == pytest.approx(expected[layer, head])
    values = by_prompt[2, 1].to_numpy()
    own = mean_interval(values)
    assert number(own.low) in heat.text[0][1]
    assert number(own.high) in heat.text[0][1]
    assert "95 % interval (BCa bootstrap over 6 prompts)" in heat.text[0][1]
    assert figure.layout.title.text == "<b>made &lt;b&gt;</b> · focus"
    assert list(figure.layout.yaxis.ticktext) == ["2", "5"]


def test_a_map_of_some_rows_only(study: MadeStudy) -> None:
    heat = trace(head_map(study, "focus", where={"decoding": "sample", "layer": 5}), "heads")
    rows = study.tables["heads"].query("decoding == 'sample' and layer == 5 and head == 1")
    assert np.shape(heat.z) == (1, HEADS)
    assert heat.z[0][1] == pytest.approx(rows["focus"].mean())


def test_a_measure_without_heads_has_no_map_but_a_distribution(study: MadeStudy) -> None:
    with pytest.raises(ViewError, match=r"belongs to generations\. use views\.distribution"):
        head_map(study, "good")
    figure = distribution(study, "good")
    assert sorted(figure.data[0].x) == [0, 0, 0, 1, 1, 1]
    (mean,) = figure.data[1].x
    assert mean == 0.5
    assert "one number a generation" in figure.layout.title.subtitle.text


def test_a_distribution_by_group_of_generated_tokens(study: MadeStudy) -> None:
    figure = distribution(study, "doubt", by="decoding")
    rows = study.tables["tokens"].query("generated")
    expected = rows.groupby(["decoding", "prompt_id"])["doubt"].mean()
    for place, setting in enumerate(("greedy", "sample")):
        box, mean = figure.data[2 * place : 2 * place + 2]
        values = expected[setting].to_numpy()
        assert box.name == setting
        np.testing.assert_allclose(box.x, values)
        own = mean_interval(values)
        assert mean.x[0] == pytest.approx(own.value)
        assert mean.error_x.array[0] == pytest.approx(own.high - own.value)
        assert mean.error_x.arrayminus[0] == pytest.approx(own.value - own.low)
    with_prompt = distribution(study, "doubt", where={"generated": [True, False]})
    assert with_prompt.data[1].x[0] > rows["doubt"].mean() + 0.5


def test_tokens_and_heads_step_by_step(study: MadeStudy) -> None:
    line = trace(by_step(study, "doubt", by="decoding"), "decoding = greedy")
    rows = study.tables["tokens"].query("decoding == 'greedy' and generated")
    places = rows.set_index(["prompt_id", "position"])["doubt"]
    expected = [np.mean([places[name, begin + step] for name, begin in BEGIN.items()]) for step in range(NEW)]
    assert list(line.x) == list(range(NEW))
    np.testing.assert_allclose(line.y, expected)
    # A head's row p stands at the token p + 1 that it predicts: step s is row begin − 1 + s.
    line = trace(by_step(study, "focus", where={"layer": 5, "head": 0, "decoding": "sample"}), "focus")
    rows = study.tables["heads"].query("layer == 5 and head == 0 and decoding == 'sample'").set_index("prompt_id")
    expected = [
        np.mean([rows.loc[name, "focus.steps"][begin - 1 + step] for name, begin in BEGIN.items()])
        for step in range(NEW)
    ]
    np.testing.assert_allclose(line.y, expected)


def test_prompts_under_two_settings_are_compared_in_pairs(study: MadeStudy) -> None:
    found = read_contrast(study, "focus", "decoding")
    frame = study.tables["heads"].pivot_table("focus", ["layer", "head", "prompt_id"], "decoding")
    assert found.names == ("greedy", "sample")
    assert (found.paired, found.units) == (True, "6 pairs, one a prompt")
    p = []
    for place, (layer, head) in enumerate(found.sample.cells):
        pairs = frame.loc[layer, head]
        assert found.difference[place] == pytest.approx((pairs["greedy"] - pairs["sample"]).mean())
        assert found.delta[place] == pytest.approx(cliffs_delta(pairs["greedy"], pairs["sample"]).value)
        p.append(stats.wilcoxon(pairs["greedy"], pairs["sample"]).pvalue)
    np.testing.assert_allclose(found.p, p)
    np.testing.assert_allclose(found.p_adjusted, stats.false_discovery_control(p))
    figure = contrast(study, "focus", "decoding")
    text = trace(figure, "heads").text[0][1]
    assert "Wilcoxon signed-rank test over pairs" in text
    assert "95 % interval (percentile bootstrap over pairs)" in text
    assert trace(figure, "heads").z[0][1] > 0.8
    assert figure.layout.coloraxis.cmin == -figure.layout.coloraxis.cmax
    backwards = read_contrast(study, "focus", "decoding", ("sample", "greedy"))
    np.testing.assert_allclose(backwards.difference, -found.difference)


def test_prompts_of_two_sorts_are_compared_as_groups(study: MadeStudy) -> None:
    found = read_contrast(study, "doubt", "topic")
    means = study.tables["tokens"].query("generated").groupby(["topic", "prompt_id"])["doubt"]
    # A generation counts once, however many tokens it has; here all have the same number.
    first, second = means.mean()["a"], means.mean()["b"]
    assert not found.paired
    assert found.difference[0] == pytest.approx(first.mean() - second.mean())
    assert found.p[0] == pytest.approx(stats.mannwhitneyu(first, second).pvalue)
    note = contrast(study, "doubt", "topic").layout.title.subtitle.text
    assert "Mann–Whitney U test; 3 and 3 prompts" in note
    assert f"p = {number(found.p[0])}" in note
    assert number(found.low[0]) in note


def test_groups_by_what_was_measured_of_generations(study: MadeStudy) -> None:
    found = read_contrast(study, "focus", "good", (1, 0))
    rows = study.tables["heads"].query("decoding == 'greedy' and layer == 2 and head == 0").set_index("prompt_id")
    right = [f"p{number}" for number in range(PROMPTS) if number % 2]
    wrong = [f"p{number}" for number in range(PROMPTS) if not number % 2]
    assert found.difference[0] == pytest.approx(rows.loc[right, "focus"].mean() - rows.loc[wrong, "focus"].mean())
    assert [len(group.units) for group in found.sample.groups] == [3, 3]


def test_what_cannot_be_shown_is_refused_with_what_there_is(study: MadeStudy) -> None:
    with pytest.raises(ViewError, match="it has focus, doubt, good, logprob"):
        head_map(study, "nothing")
    with pytest.raises(ViewError, match=r"its groups are a, b\. name two of them"):
        contrast(study, "focus", "topic", ("a", "c"))
    with pytest.raises(ViewError, match=r"one number a generation\. run the study with keep\.steps"):
        by_step(study, "good")
    with pytest.raises(ViewError, match="no row fits"):
        distribution(study, "doubt", where={"topic": "z"})
    with pytest.raises(ViewError, match="it has heads of m0, m1"):
        head_map(MadeStudy(models=2), "focus")
    assert len(read_sample(MadeStudy(models=2), "focus", where={"model": "m0"}).cells) == 6
