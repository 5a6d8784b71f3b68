"""Memory for the rows of queries that a steady path holds.

A step leaves a small row in every layer. Copied beside each other, in one operation for all layers, they keep none of
the model's own memory alive, in which its keys lie too. Rows of a small model wait for a few steps before they are
copied, unless the model writes them over, as a compiled graph may do with its results. Layers hear of their rows when
somebody needs them or when the memory is full, and not at every step.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from gentrace.capture.layers import VectorLayer
from gentrace.capture.rows import may_wait, memory_like
from gentrace.errors import CaptureError

WAITING_BYTES = 2**18
"""What rows may keep alive that wait to be copied."""
WAITING_STEPS = 32
WORTH_WAITING = 8
"""Rows are copied at every step where fewer steps than this could wait."""


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
        self._places = places
        self._count = 0
        self._told = [0] * len(layers)
        """Steps of which each layer knows."""
        self._batch = len(like)
        self._memory = memory_like(like, steps, len(layers) * len(like), *like.shape[1:])

    @property
    def room(self) -> int:
        """Steps that there is room for."""
        return len(self._memory) - self._count

    def take(self, steps: list[list[Tensor]], limit: int) -> None:
        """Copy what belongs here of the rows of all layers, of as many steps as there is room for.

        Args:
            steps: [step][layer] ``[batch, head, 1, dim]``.
            limit: Positions that the run may reach.
        """
        own = [rows[place] for rows in steps for place in self._places]
        first, self._count = self._count, self._count + len(steps)
        torch.cat(own, out=self._memory[first : self._count].flatten(0, 1))
        if not self.room:
            self.clear(limit)

    def tell(self, index: int) -> None:
        """Let a layer hold all rows of its own that it does not know of."""
        first = self._told[index]
        if first < self._count:
            rows = self._memory[first : self._count, index * self._batch : (index + 1) * self._batch, :, 0]
            self.layers[index].hold(rows.permute(1, 2, 0, 3))
            self._told[index] = self._count

    def clear(self, limit: int) -> None:
        """Let all layers write their rows, and begin again; the run may reach ``limit`` positions."""
        for index, layer in enumerate(self.layers):
            self.tell(index)
            layer.flush(limit)
        self._count, self._told = 0, [0] * len(self.layers)


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
        self._waiting: list[list[Tensor]] = []
        """[step][layer] rows that are not copied yet."""
        self._versions: list[list[int]] = []
        """[step][layer] their versions when they came, where several steps may wait."""
        self._most = 1
        """Steps that may wait in general."""
        self._room = 1
        """Steps that may wait now."""
        self._first: list[Tensor] | None = None
        """The first rows, until it is known whether several steps may wait."""
        self._learns = True

    def take(self, rows: list[Tensor], limit: int) -> None:
        """A step ended with these rows.

        Args:
            rows: [layer] ``[batch, head, 1, dim]``.
            limit: Positions that the run may reach.

        Raises:
            CaptureError: If rows that waited were written over.
        """
        self._waiting.append(rows)
        if self._most > 1:
            self._versions.append([row._version for row in rows])
        if len(self._waiting) >= self._room:
            self._copy(limit)

    def tell(self, layer: VectorLayer, limit: int) -> None:
        """Let a layer hold all its rows of steps that ended; the run may reach ``limit`` positions."""
        self._copy(limit)
        shelf, index = self._found.get(id(layer), (None, 0))
        if shelf is not None:
            shelf.tell(index)

    def clear(self, limit: int) -> None:
        """Let all layers write their rows, and begin again."""
        self._copy(limit)
        for shelf in self._shelves:
            shelf.clear(limit)

    def _copy(self, limit: int) -> None:
        """Copy the rows that wait."""
        waiting, self._waiting = self._waiting, []
        versions, self._versions = self._versions, []
        if not waiting:
            return
        if versions and [[row._version for row in rows] for rows in waiting] != versions:
            raise CaptureError(
                f"recording {len(waiting)} steps together",
                "the model has written over queries of earlier ones",
                "exclude the layers with layers=",
            )
        if not self._shelves:
            self._sort(waiting[0])
        for shelf in self._shelves:
            shelf.take(waiting, limit)
        if self._learns:
            self._learn(waiting[-1])
        self._room = min(self._most, *(shelf.room for shelf in self._shelves))

    def _learn(self, rows: list[Tensor]) -> None:
        """Find out from the first two steps how many may wait."""
        first, self._first = self._first, rows
        if first is None:
            return
        self._learns, self._first = False, None
        if all(map(may_wait, rows, first)):
            steps = min(WAITING_STEPS, WAITING_BYTES // sum(row.untyped_storage().nbytes() for row in rows))
            self._most = steps if steps >= WORTH_WAITING else 1

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
