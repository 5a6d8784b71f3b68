"""Measures as columns, on values chosen by hand, and a study's tables against its own traces measured again."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gentrace import analysis
from gentrace.analysis import Measure, MeasureError
from gentrace.studies import open_study
from gentrace.studies.measuring import columns_of
from tests.studies.made import WORDS, made_spec, run

NAN = float("nan")


def test_heads_are_averaged_along_the_text_and_absent_ones_left_out() -> None:
    values = np.array([[[1.0, 3.0, NAN], [5.0, 7.0, 9.0]], [[2.0, 2.0, 2.0], [NAN, NAN, NAN]]])
    found = Measure(
        "m",
        values,
        ("layer", "head", "query"),
        "",
        {"layer": (2, 5), "head": (0, 1), "query": (1, 2, 4)},
        absent=frozenset({(5, 1)}),
    )
    (column,) = columns_of(found, "m", {2: 2, 5: 1}, steps=True)
    assert column.column == "m"
    assert column.heads == {(2, 0): 2.0, (2, 1): 7.0, (5, 0): 2.0}
    assert column.steps is not None
    assert set(column.steps) == {(2, 0), (2, 1), (5, 0)}
    np.testing.assert_array_equal(column.steps[2, 1], [NAN, 5.0, 7.0, NAN, 9.0])
    assert columns_of(found, "m", {2: 2, 5: 1}, steps=False)[0].steps is None


def test_spans_become_columns() -> None:
    values = np.array([[[[0.25, 0.75], [0.5, 0.5]]]])
    axes = {"layer": (0,), "head": (0,), "query": (0, 1), "span": ("prompt", "rest")}
    first, second = columns_of(Measure("m", values, tuple(axes), "share", axes), "mine", {0: 1}, steps=True)
    assert (first.column, first.heads, first.steps) == ("mine.prompt", {(0, 0): 0.375}, {(0, 0): [0.25, 0.5]})
    assert (second.column, second.heads) == ("mine.rest", {(0, 0): 0.625})


def test_what_has_no_heads() -> None:
    along = Measure("m", np.array([1.0, 2.0]), ("position",), "", {"position": (3, 5)})
    (column,) = columns_of(along, "m", {}, steps=True)
    assert (column.positions, column.heads, column.scalar) == ({3: 1.0, 5: 2.0}, None, None)
    (column,) = columns_of(Measure("m", np.array(4.0), (), "", {}), "m", {}, steps=True)
    assert (column.scalar, column.positions) == (4.0, None)


@pytest.mark.parametrize(
    "axes",
    [("query", "key"), ("layer", "head", "query", "key"), ("layer", "head", "other_layer", "other_head"), ("layer",)],
)
def test_what_fits_no_table_is_refused(axes: tuple[str, ...]) -> None:
    found = Measure("m", np.zeros((1,) * len(axes)), axes, "", dict.fromkeys(axes, (0,)))
    with pytest.raises(MeasureError, match="wrap it in a function"):
        columns_of(found, "m", {0: 1}, steps=False)


def test_the_tables_say_what_the_traces_say(tmp_path: Path) -> None:
    """Everything in the tables, computed again from the saved traces by other code."""
    measures: list[Any] = [
        "attention_entropy",
        {"measure": "lookback_ratio", "name": "look", "options": {"per_token": False}},
        "span_mass",
        "token_surprise",
        "gentrace.analysis:previous_token_score",
    ]
    run(made_spec(measures=measures, keep={"traces": True, "steps": True}), tmp_path)
    study = open_study(tmp_path)
    generations, tokens, heads = study.generations(), study.tokens(), study.heads()
    assert len(generations) == 2 * len(WORDS)
    for number, row in generations.iterrows():
        trace = study.trace(number)
        mine = tokens[tokens["generation"] == row["generation"]]
        assert row["completion"] == trace.tokens.text[len(f"Once there was a {WORDS[number % 7]}.") :]
        assert row["size"] == len(WORDS[number % 7])
        assert (row["prompt_tokens"], row["new_tokens"]) == (trace.tokens.prompt_length, 6)
        frame = trace.to_pandas()
        for column in ("position", "id", "text", "generated", "rank"):
            assert mine[column].tolist() == frame[column].tolist(), column
        for column in ("logprob", "sampled_logprob", "entropy"):
            np.testing.assert_array_equal(mine[column].to_numpy(), frame[column].to_numpy(dtype=np.float32))
        np.testing.assert_allclose(mine["token_surprise"], -frame["logprob"])
        own = heads[heads["generation"] == row["generation"]].set_index(["layer", "head"])
        assert len(own) == sum(info.heads for info in trace.layers)
        entropy, look = analysis.attention_entropy(trace), analysis.lookback_ratio(trace, per_token=False)
        spans, previous = analysis.span_mass(trace), analysis.previous_token_score(trace)
        for (layer, head), values in own.iterrows():
            steps = entropy[layer, head].values
            np.testing.assert_allclose(values["attention_entropy"], np.nanmean(steps), rtol=1e-12)
            np.testing.assert_array_equal(values["attention_entropy.steps"], steps.astype(np.float32))
            np.testing.assert_allclose(values["look"], np.nanmean(look[layer, head].values), rtol=1e-12)
            np.testing.assert_allclose(
                values["span_mass.prompt"], np.nanmean(spans.select(layer=layer, head=head, span="prompt").values)
            )
            np.testing.assert_allclose(values["previous_token_score"], float(previous[layer, head]), rtol=1e-12)
