"""Value-weighted attention, by hand and against the definition."""

import numpy as np
import pytest
import torch

from gentrace.analysis import MeasureError, blocks, value_norms, value_weighted_attention
from gentrace.errors import AttentionUnavailable
from gentrace.trace.trace import Trace
from tests.analysis.made import vector_trace


def by_hand() -> Trace:
    """Two heads over one key/value head; scores are the keys themselves, so weights go as 1 : 2 : 3."""
    keys = torch.tensor([1.0, 2.0, 3.0]).log()[None, :, None]
    values = torch.tensor([[[0.0, 0.0], [3.0, 4.0], [0.0, -2.0]]])
    return vector_trace(torch.ones(2, 3, 1), keys, values, layer=6)


def test_norms_by_hand() -> None:
    measure = value_norms(by_hand())
    assert measure.axes == ("layer", "head", "key")
    assert measure[6].values.tolist() == [[0, 5, 2], [0, 5, 2]]


def test_weighted_norms_by_hand() -> None:
    measure = value_weighted_attention(by_hand())
    expected = [[0, 0, 0], [0, 10 / 3, 0], [0, 10 / 6, 1]]
    assert measure[6, 1].values == pytest.approx(np.array(expected), abs=1e-6)
    assert measure.unit == "length"
    shares = value_weighted_attention(by_hand(), normalize=True, queries=(1, 3))
    assert shares[6, 0].values == pytest.approx(np.array([[0, 1, 0], [0, 5 / 8, 3 / 8]]), abs=1e-6)


def test_the_output_projection_is_each_heads_own_part() -> None:
    # Head 0 doubles the first component, head 1 keeps only the second.
    projection = torch.tensor([[2.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 1.0]])
    norms = value_norms(by_hand(), output={6: projection})
    assert norms.name == "projected_value_norms"
    assert norms[6].values == pytest.approx(np.array([[0, np.sqrt(36 + 16), 2], [0, 4, 2]]))
    weighted = value_weighted_attention(by_hand(), output={6: projection})
    assert weighted[6, 1, 2].values == pytest.approx([0, 8 / 6, 1], abs=1e-6)


def test_grouped_heads_against_the_definition() -> None:
    generator = torch.Generator().manual_seed(0)
    queries, keys = torch.randn(4, 9, 3, generator=generator), torch.randn(2, 9, 3, generator=generator)
    values, output = torch.randn(2, 9, 5, generator=generator), torch.randn(7, 20, generator=generator)
    trace = vector_trace(queries, keys, values)
    measure = value_weighted_attention(trace, output={0: output})
    for head in range(4):
        moved = trace.attention(0, head)[:, :, None] * (values[head // 2] @ output[:, head * 5 : head * 5 + 5].T)
        np.testing.assert_allclose(measure[0, head].values, moved.norm(dim=-1), atol=1e-5)
        np.testing.assert_allclose(value_norms(trace)[0, head].values, values[head // 2].norm(dim=-1), atol=1e-5)


def test_what_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MeasureError, match=r"its projection: none"):
        value_norms(by_hand(), output={0: torch.zeros(2, 4)})
    with pytest.raises(MeasureError, match=r"its projection: of shape \(4, 2\)"):
        value_norms(by_hand(), output={6: torch.zeros(4, 2)})
    with pytest.raises(AttentionUnavailable, match="record with values=True"):
        value_weighted_attention(vector_trace(torch.ones(1, 3, 1), torch.ones(1, 3, 1)))
    monkeypatch.setattr(blocks, "LARGEST", 17)
    with pytest.raises(MeasureError, match=r"18 numbers"):
        value_weighted_attention(by_hand())
