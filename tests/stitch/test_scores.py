"""Scores and weights against numbers worked out by hand, and against torch's own attention."""

import math

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from gentrace.stitch.scores import ScoreRule, attend, dot_products, log_denominator, scores_from, weights_from


def test_one_row_by_hand() -> None:
    queries, keys = torch.tensor([[[1.0, 2.0]]]), torch.tensor([[[1.0, 0.0], [0.0, 1.0], [5.0, 5.0]]])
    visible = torch.tensor([[True, True, False]])
    rule = ScoreRule(scale=0.5, softcap=2.0, sinks=torch.tensor([0.25]))
    bias = torch.tensor([[[0.1, 0.0, 9.0]]])
    scores = scores_from(queries, keys, visible, rule, bias)
    first, second = 2 * math.tanh(0.5 / 2) + 0.1, 2 * math.tanh(1.0 / 2)
    assert scores[0, 0].tolist() == pytest.approx([first, second, -math.inf])
    total = math.exp(first) + math.exp(second) + math.exp(0.25)
    assert float(log_denominator(scores, rule.sinks)) == pytest.approx(math.log(total))
    expected = [math.exp(first) / total, math.exp(second) / total, 0.0]
    assert weights_from(scores, rule.sinks)[0, 0].tolist() == pytest.approx(expected)


def test_grouped_heads_share_keys_in_turn() -> None:
    queries = torch.tensor([[[1.0]], [[2.0]], [[3.0]], [[4.0]]])
    keys = torch.tensor([[[10.0]], [[100.0]]])
    assert dot_products(queries, keys).flatten().tolist() == [10.0, 20.0, 300.0, 400.0]


def test_a_row_that_sees_nothing_is_zero() -> None:
    scores = torch.full((1, 1, 3), -torch.inf)
    assert weights_from(scores).tolist() == [[[0.0, 0.0, 0.0]]]


@pytest.mark.parametrize("batch", [(), (2,)])
def test_attend_is_torchs_attention(batch: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(*batch, 6, 7, 8, generator=generator)
    keys, values = torch.randn(*batch, 3, 7, 8, generator=generator), torch.randn(*batch, 3, 7, 5, generator=generator)
    visible = torch.ones(7, 7).tril().bool().expand(*batch, 7, 7)
    found = attend(scores_from(queries, keys, visible, ScoreRule(0.3)), values)
    expected = scaled_dot_product_attention(
        queries, keys, values, attn_mask=visible.unsqueeze(-3), scale=0.3, enable_gqa=True
    )
    assert torch.allclose(found.transpose(-3, -2), expected, atol=1e-6)
    assert not torch.allclose(found.transpose(-3, -2), expected * 1.001, atol=1e-6)
