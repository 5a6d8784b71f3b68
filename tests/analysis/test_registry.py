"""Measures by name: all of them run on a trace alone, say their units and cite their sources."""

import inspect
import re
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

import gentrace.analysis
from gentrace.analysis import Measure, MeasureError, evaluate, find, measures, register, registry
from gentrace.trace.trace import Trace
from tests.analysis.made import made_tokens, vector_trace

AXES = {"layer", "head", "query", "key", "position", "span", "statistic", "other_layer", "other_head"}


def whole_trace() -> Trace:
    """Twelve tokens, some of them twice, with values and probabilities."""
    generator = torch.Generator().manual_seed(0)
    queries, keys, values = (torch.randn(2, 11, 4, generator=generator) for _ in range(3))
    logprobs = [float("nan"), *(-torch.rand(11, generator=generator)).tolist()]
    tokens = made_tokens(12, 5, ids=[1, 2, 3, 1, 2, 3, 1, 4, 5, 4, 5, 6], logprobs=logprobs)
    return vector_trace(queries, keys, values, tokens, layer=3)


@pytest.mark.parametrize("name", measures())
def test_every_measure_runs_on_a_trace_alone(name: str) -> None:
    trace = whole_trace()
    before = {key: trace.store.tensor(key).clone() for key in trace.store.names()}
    found = evaluate(trace, name)
    assert set(found.axes) <= AXES
    assert found.name.startswith(name)
    assert found.unit
    assert found.values.dtype == np.float64
    for key, tensor in before.items():
        assert torch.equal(trace.store.tensor(key), tensor)
    np.testing.assert_array_equal(found.values, evaluate(trace, name).values)


@pytest.mark.parametrize("name", measures())
def test_every_measure_cites_a_source_or_one_that_does(name: str) -> None:
    function = find(name)
    text = inspect.getdoc(function) or ""
    cited = re.search(r"\b(19|20)\d\d\b", text)
    own = {other for other in re.findall(r"`(\w+)`", text) if other in measures()}
    assert cited or own
    assert "Returns:" in text


def test_names_are_in_order_and_cannot_be_changed() -> None:
    known = measures()
    assert list(known) == sorted(known)
    assert {"attention_entropy", "induction_score", "span_mass", "token_surprise"} <= set(known)
    with pytest.raises(TypeError):
        known["mine"] = find("sink_mass")  # pyright: ignore[reportIndexIssue]


def test_a_function_stands_where_a_name_can(monkeypatch: pytest.MonkeyPatch) -> None:
    def tokens_in_all(trace: Trace, *, more: int = 0) -> float:
        return len(trace.tokens) + more

    found = evaluate(whole_trace(), tokens_in_all, more=3)  # pyright: ignore[reportArgumentType]
    assert (found.name, found.axes, float(found)) == ("tokens_in_all", (), 15)

    monkeypatch.setattr(registry, "_MEASURES", dict(registry._MEASURES))

    def mine(trace: Trace) -> Measure:
        return Measure("mine", float(trace.length), (), "tokens", {})  # pyright: ignore[reportArgumentType]

    assert register(mine) is mine
    assert register(mine) is mine
    assert float(evaluate(whole_trace(), "mine")) == 11
    assert "mine" in measures()
    other: Any = lambda trace: mine(trace)  # noqa: E731
    other.__name__ = "mine"
    with pytest.raises(MeasureError, match="registering the measure mine"):
        register(other)


def test_what_is_no_measure_is_refused() -> None:
    with pytest.raises(MeasureError, match=r"looking for the measure 'entropy'\. known: attention_entropy, "):
        evaluate(whole_trace(), "entropy")
    for answer in (None, [1, 2], "text", torch.zeros(2)):
        with pytest.raises(MeasureError, match=r"measuring with <lambda>\. it returned"):
            evaluate(whole_trace(), lambda _, answer=answer: answer)


def test_the_door() -> None:
    assert gentrace.analysis.__all__ == sorted(gentrace.analysis.__all__)
    for name in gentrace.analysis.__all__:
        assert getattr(gentrace.analysis, name) is not None
    assert set(measures()) <= set(gentrace.analysis.__all__)


def test_scipy_and_scikit_learn_are_imported_when_they_are_needed() -> None:
    code = "import sys, gentrace.analysis; print(*(name in sys.modules for name in ('scipy', 'sklearn', 'pandas')))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.split() == ["False", "False", "False"]
