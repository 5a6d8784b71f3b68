"""References that gentrace did not compute: transformers' own eager attention, stitched or in one full forward."""

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel


def full_forward(model: PreTrainedModel, ids: Tensor) -> tuple[list[Tensor], Tensor]:
    """Eager attention and logits of one forward over the whole text, without a cache.

    Args:
        model: The model; its kernel is eager for the time being.
        ids: ``[position]`` token ids that were fed.

    Returns:
        Per layer ``[head, query, key]``, and logits ``[position, vocab]``.
    """
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        with torch.no_grad():
            output = model(ids[None], output_attentions=True, use_cache=False)
    finally:
        model.set_attn_implementation(before)
    return [attention[0] for attention in output.attentions], output.logits[0]


def stitched(model: PreTrainedModel, ids: Tensor, new: int, **options: Any) -> list[Tensor]:
    """Generate with eager ``output_attentions`` and put its ragged tuples together by hand.

    Only for one unpadded sequence and caches that show every key: a step's rows are right-aligned below the diagonal.

    Returns:
        Per layer ``[head, query, key]``.
    """
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        output = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=new,
            min_new_tokens=new,
            output_attentions=True,
            return_dict_in_generate=True,
            **options,
        )
    finally:
        model.set_attn_implementation(before)
    total = ids.shape[1] + new - 1
    layers = []
    for layer in range(len(output.attentions[0])):
        matrix = torch.zeros(output.attentions[0][layer].shape[1], total, total)
        row = 0
        for step in output.attentions:
            block = step[layer][0]
            if row and block.shape[1] > 1:
                row = 0
            stop = row + block.shape[1]
            keys = min(block.shape[2], stop)
            matrix[:, row:stop, stop - keys : stop] = block[:, :, :keys]
            row = stop
        layers.append(matrix)
    return layers


def distance(found: Tensor, expected: Tensor) -> float:
    """Largest absolute difference; refuses shapes that would broadcast, and NaN."""
    if found.shape != expected.shape:
        raise AssertionError(f"shapes differ: {tuple(found.shape)} and {tuple(expected.shape)}")
    return float((found.float() - expected.float()).abs().max()) if not found.isnan().any() else float("nan")
