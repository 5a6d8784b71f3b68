"""Rows that are recomputed: the same numbers alone and together, and a wrong layer is found by itself."""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from gentrace.capture.fidelity import ALL, Shown, Sight, check_rows, check_together, sight_of
from gentrace.stitch.mask import FragmentMask
from gentrace.stitch.plan import Landing
from gentrace.stitch.scores import ScoreRule

ROWS, KEYS = (4, 7), 8


def shown(seed: int, sight: Sight, rule: ScoreRule, visible: Tensor) -> Shown:
    """Two sequences, four heads on two key heads, and what torch's own kernel makes of them."""
    random = torch.Generator().manual_seed(seed)
    queries, keys, values = (
        torch.randn(2, heads, rows, 16, generator=random) for heads, rows in ((4, 2), (2, 8), (2, 8))
    )
    output = F.scaled_dot_product_attention(
        queries, keys, values, attn_mask=visible[:, None], scale=rule.scale, enable_gqa=True
    )
    return Shown(queries, keys, values, output.transpose(1, 2).nan_to_num(), sight, rule, ROWS)


def causal(first: Tensor) -> tuple[Sight, Tensor]:
    """Rows that see the keys up to themselves, from each sequence's first token on."""
    position = torch.arange(KEYS)
    stop = position[None].expand(2, -1) + 1
    mask = FragmentMask(torch.minimum(first[:, None], stop).expand(2, KEYS), stop, None, None)
    visible = (position >= first[:, None, None]) & (position <= torch.tensor(ROWS)[:, None])
    return sight_of(Landing(0, KEYS, 0, KEYS, 0), mask, ROWS, torch.device("cpu")), visible


def test_a_kernel_is_believed_alone_and_together() -> None:
    sight, visible = causal(torch.tensor([0, 2]))
    layers = [shown(seed, sight, ScoreRule(0.25), visible) for seed in range(3)]
    assert sight.blind is None
    alone = torch.stack([check_rows(layer).errors for layer in layers])
    together = torch.stack([check.errors for check in check_together(layers)])
    assert alone.shape == (3, 2, 2)
    assert float(alone.max()) < 1e-5
    assert torch.allclose(alone, together, atol=1e-6)


def test_one_wrong_layer_is_found_among_others() -> None:
    sight, visible = causal(torch.tensor([0, 0]))
    layers = [shown(seed, sight, ScoreRule(0.25), visible) for seed in range(3)]
    layers[1].output[1, 0] *= 1.5
    errors = torch.stack([check.errors for check in check_together(layers)])
    assert abs(float(errors[1, 1, 0]) - 1 / 3) < 1e-5
    errors[1, 1, 0] = 0
    assert float(errors.max()) < 1e-5


def test_rows_that_see_nothing_count_as_right_and_others_do_not() -> None:
    sight, visible = causal(torch.tensor([0, 6]))
    assert sight.blind is not None
    assert sight.blind.tolist() == [[False, False], [True, False]]
    layer = shown(0, sight, ScoreRule(0.25), visible)
    layer.output[:] += 1
    errors = check_rows(layer).errors
    assert float(errors[1, 0]) == 0
    assert float(errors[1, 1]) > 0.1


def test_rows_that_see_everything_need_no_mask() -> None:
    layer = shown(0, ALL, ScoreRule(0.25), torch.ones(2, 2, KEYS, dtype=torch.bool))
    assert float(check_rows(layer).errors.max()) < 1e-5
    narrow = replace(layer, sight=causal(torch.tensor([0, 0]))[0])
    assert float(check_rows(narrow).errors.max()) > 1e-2
