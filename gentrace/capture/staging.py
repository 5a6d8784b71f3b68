"""One piece of memory for the rows of queries that a steady path holds.

A step leaves a small row in every layer. Copied beside each other when the step ends, in one operation, they keep none
of the model's own memory alive, in which its keys lie too, and a compiled graph may write its next results over them.
"""

from collections.abc import Iterable
from typing import Any

import torch

from gentrace.capture.layers import VectorLayer


class Staging:
    """Layers whose rows have one shape, and memory for some steps of them."""

    def __init__(self, layers: list[VectorLayer], steps: int) -> None:
        """Allocate.

        Args:
            layers: They hold a row each.
            steps: None of them holds more rows than this.
        """
        self._layers = layers
        like = layers[0].held_queries[-1]
        self._batch = like.shape[0]
        self._next = 0
        # A buffer made in inference mode could not be written to outside of it.
        with torch.inference_mode(False):
            self._memory = like.new_empty(steps, len(layers) * self._batch, *like.shape[1:]).unbind()

    def take(self) -> None:
        """Copy the newest row of each layer, which then holds the copy."""
        place = self._memory[self._next]
        self._next = (self._next + 1) % len(self._memory)
        torch.cat([layer.held_queries[-1] for layer in self._layers], out=place)
        for layer, row in zip(self._layers, place.split(self._batch), strict=True):
            layer.held_queries[-1] = row


def staged(holding: Iterable[tuple[VectorLayer, int]]) -> list[Staging]:
    """Memory for layers that hold a row each.

    Args:
        holding: Each layer, and how many rows it holds at most.
    """
    groups: dict[Any, list[tuple[VectorLayer, int]]] = {}
    for layer, keeps in holding:
        row = layer.held_queries[-1]
        groups.setdefault((row.shape, row.dtype, row.device), []).append((layer, keeps))
    return [Staging([layer for layer, _ in group], max(keeps for _, keeps in group)) for group in groups.values()]
