"""What the model thought of each token, by hand."""

import math

import numpy as np
import pytest

from gentrace.analysis import MeasureError, token_entropy, token_rank, token_surprise
from gentrace.trace.trace import Trace
from tests.analysis.made import made_tokens, made_trace

NAN = float("nan")


def by_hand() -> Trace:
    logprobs = [NAN, math.log(0.5), math.log(0.125), 0.0]
    tokens = made_tokens(4, 2, logprobs=logprobs, entropy=[NAN, math.log(2), 1.0, 0.0], rank=[-1, 0, 7, -1])
    return made_trace({0: [np.eye(3).tolist()]}, tokens)


def test_surprise_by_hand() -> None:
    measure = token_surprise(by_hand(), unit="bits")
    assert measure.axes == ("position",)
    assert measure.coordinates["position"] == (0, 1, 2, 3)
    assert measure.values == pytest.approx([NAN, 1, 3, 0], nan_ok=True)
    assert not np.signbit(measure.values[3])
    assert token_surprise(by_hand()).values == pytest.approx([NAN, math.log(2), math.log(8), 0], nan_ok=True)
    assert token_surprise(by_hand()).unit == "nats"


def test_surprise_under_the_sampler() -> None:
    # The helper gives every token half the log-probability there.
    measure = token_surprise(by_hand(), unit="bits", under="sampler")
    assert measure.values == pytest.approx([NAN, 0.5, 1.5, 0], nan_ok=True)
    with pytest.raises(MeasureError, match='give "model" or "sampler"'):
        token_surprise(by_hand(), under="me")  # pyright: ignore[reportArgumentType]


def test_entropy_by_hand() -> None:
    assert token_entropy(by_hand(), unit="bits").values == pytest.approx([NAN, 1, 1 / math.log(2), 0], nan_ok=True)


def test_an_unknown_rank_is_nan() -> None:
    assert token_rank(by_hand()).values == pytest.approx([NAN, 0, 7, NAN], nan_ok=True)
