"""Kernels of the flash kind, which are given padding as ``[batch, key]`` and are causal by themselves.

None runs on a CPU, so one is written here from their definition, and registered under such a name.
"""

from collections.abc import Generator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import flash_attention_mask

from tests.capture.test_generation import check, own_text, padded
from tests.capture.test_steady import write
from tests.models import tiny

NAME = "flash_by_hand"


def flash_by_hand(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention as flash kernels define it: the last query stands at the last key; padded rows give zeros."""
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    rows, columns = query.shape[2], key.shape[2]
    row, column = torch.arange(rows)[:, None] + columns - rows, torch.arange(columns)
    visible = column <= row
    if sliding_window is not None:
        visible = visible & (column > row - sliding_window)
    visible = visible.expand(len(query), 1, -1, -1)
    if attention_mask is not None:
        visible = visible & attention_mask[:, None, None, -columns:].bool()
    scores = (query @ key.transpose(-1, -2)) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    weights = scores.masked_fill(~visible, -torch.inf).softmax(-1).nan_to_num()
    return (weights @ value).transpose(1, 2).contiguous(), None


@pytest.fixture(autouse=True)
def registered() -> Generator[None]:
    AttentionInterface.register(NAME, flash_by_hand)
    AttentionMaskInterface.register(NAME, flash_attention_mask)
    yield
    del AttentionInterface._global_mapping[NAME]
    del AttentionMaskInterface._global_mapping[NAME]


@pytest.mark.parametrize("name", ["llama", "mistral", "qwen3", "gemma3"])
@pytest.mark.parametrize("lengths", [[9], [6, 6], [9, 4]])
def test_flash(name: str, lengths: list[int]) -> None:
    model = tiny(name)
    # Setting it by its method would look for a kernel to download.
    model.config._attn_implementation_internal = NAME
    ids, mask = padded(lengths)
    traces, sequences = write(model, ids, mask, 14)
    assert all(trace.meta.kernel == NAME for trace in traces)
    model.set_attn_implementation("eager")
    for trace, row, own in zip(traces, sequences, mask, strict=True):
        check(trace, model, own_text(row, own))
