"""Memory for the rows of queries that a steady path holds.

A step leaves a small row in every layer. Copied beside each other when the step ends, in one operation, they keep none
of the model's own memory alive, in which its keys lie too, and a compiled graph may write its next results over them.
Layers hear of their rows when somebody needs them or when the memory is full, and not at every step.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from gentrace.capture.layers import VectorLayer


class Shelf:
    """The rows of layers that have one shape."""

    def __init__(self, layers: list[VectorLayer], places: list[int], steps: int, like: Tensor) -> None:
        """Allocate.

        Args:
            layers: The layers.
            places: Where a step's rows of these layers are, among all of them.
            steps: None of the layers may hold more rows than this.
            like: ``[batch, head, 1, dim]`` one of the rows.
        """
        self.layers = layers
        self.count = 0
        """Steps whose rows are in the memory."""
        self._places = places
        self._told = [0] * len(layers)
        """Steps of which each layer knows."""
        self._batch = len(like)
        # A buffer made in inference mode could not be written to outside of it.
        with torch.inference_mode(False):
            self._memory = like.new_empty(steps, len(layers) * len(like), *like.shape[1:])
        self._of_step = self._memory.unbind()

    def take(self, rows: list[Tensor]) -> bool:
        """Copy what belongs here of all layers' rows; says whether there is no room for more."""
        own = rows if len(self.layers) == len(rows) else [rows[place] for place in self._places]
        torch.cat(own, out=self._of_step[self.count])
        self.count += 1
        return self.count == len(self._of_step)

    def tell(self, index: int) -> None:
        """Let a layer hold all rows of its own that it does not know of."""
        first = self._told[index]
        if first < self.count:
            rows = self._memory[first : self.count, index * self._batch : (index + 1) * self._batch, :, 0]
            self.layers[index].hold(rows.permute(1, 2, 0, 3))
            self._told[index] = self.count

    def clear(self, limit: int) -> None:
        """Let all layers write their rows, and begin again; the run may reach ``limit`` positions."""
        for index, layer in enumerate(self.layers):
            self.tell(index)
            layer.flush(limit)
        self.count, self._told = 0, [0] * len(self.layers)


class Staging:
    """The rows of all layers of a steady path."""

    def __init__(self, layers: Sequence[tuple[VectorLayer, int]]) -> None:
        """Begin empty.

        Args:
            layers: Each layer, and how many rows it may hold at most.
        """
        self._layers = layers
        self._shelves: list[Shelf] = []
        self._found: dict[int, tuple[Shelf, int]] = {}

    def take(self, rows: list[Tensor], limit: int) -> None:
        """A step ended with these rows.

        Args:
            rows: [layer] ``[batch, head, 1, dim]``.
            limit: Positions that the run may reach.
        """
        if not self._shelves:
            self._sort(rows)
        for shelf in self._shelves:
            if shelf.take(rows):
                shelf.clear(limit)

    def tell(self, layer: VectorLayer) -> None:
        """Let a layer hold all its rows of steps that ended."""
        shelf, index = self._found.get(id(layer), (None, 0))
        if shelf is not None:
            shelf.tell(index)

    def clear(self, limit: int) -> None:
        """Let all layers write their rows, and begin again."""
        for shelf in self._shelves:
            shelf.clear(limit)

    def _sort(self, rows: list[Tensor]) -> None:
        """Put layers together whose rows have one shape."""
        groups: dict[tuple[object, ...], list[int]] = {}
        for place, ((_, keeps), row) in enumerate(zip(self._layers, rows, strict=True)):
            groups.setdefault((row.shape, row.dtype, row.device, keeps), []).append(place)
        for places in groups.values():
            layers = [self._layers[place][0] for place in places]
            shelf = Shelf(layers, places, self._layers[places[0]][1], rows[places[0]])
            self._shelves.append(shelf)
            self._found |= {id(layer): (shelf, index) for index, layer in enumerate(layers)}
