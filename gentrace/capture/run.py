"""What is collected while a batch of sequences goes through the model, at its absolute (padded) positions.

A run is mutable and knows no hooks. Everything is addressed by position, so a row that is computed again, by a forward
without a cache or after the cache was cropped, replaces what was there.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gentrace.capture.fidelity import Check
from gentrace.capture.probabilities import OutputHead, Readout
from gentrace.errors import CaptureBudgetError
from gentrace.stitch.mask import FragmentMask
from gentrace.stitch.plan import Landing
from gentrace.trace.info import LayerInfo

ROOM_TO_GROW = 256
HOLD = 16


@dataclass(frozen=True, slots=True, eq=False)
class Placed:
    """A fragment's place and mask; shared by all layers that see the same mask."""

    landing: Landing
    mask: FragmentMask


class Rows:
    """A growing ``[batch, head, position, dim]`` buffer whose rows are written at their positions."""

    def __init__(self, like: Tensor, capacity: int, charge: Callable[[int], None]) -> None:
        """Allocate.

        Args:
            like: ``[batch, head, position, dim]`` a fragment; gives batch, head, dim, dtype and device.
            capacity: Positions to make room for.
            charge: Told of bytes before they are allocated.
        """
        batch, heads, _, dim = like.shape
        self._charge = charge
        charge(batch * heads * capacity * dim * like.element_size())
        # A buffer made in inference mode could not be written to outside of it.
        with torch.inference_mode(False):
            self.data = torch.empty(batch, heads, capacity, dim, dtype=like.dtype, device=like.device)

    def write(self, fragment: Tensor, start: int, limit: int) -> None:
        """Copy ``[batch, head, row, dim]`` to positions ``start …``, growing to at most ``limit`` ahead of need."""
        count = fragment.shape[2]
        if start + count > self.data.shape[2]:
            self._grow(start + count, limit)
        self.data.narrow(2, start, count).copy_(fragment.detach())

    def _grow(self, needed: int, limit: int) -> None:
        old = self.data
        capacity = max(needed, min(limit, needed + max(ROOM_TO_GROW, needed // 4)))
        self._charge(old.nbytes // old.shape[2] * (capacity - old.shape[2]))
        with torch.inference_mode(False):
            self.data = old.new_empty(*old.shape[:2], capacity, old.shape[3])
        self.data.narrow(2, 0, old.shape[2]).copy_(old)


@dataclass(slots=True, eq=False)
class LayerRun:
    """One layer's share of a run."""

    info: LayerInfo
    sinks: Tensor | None
    queries: Rows
    keys: Rows
    values: Rows | None
    known: int = 0
    """Positions whose keys are recorded, counted from the start."""
    fragments: list[Placed] = field(default_factory=list)
    key_spans: list[tuple[int, int]] = field(default_factory=list)
    biases: list[tuple[Landing, Tensor]] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    held_queries: list[Tensor] = field(default_factory=list)
    """Single rows that are not in the buffers yet."""
    held: tuple[Tensor, Tensor | None, Landing] | None = None
    """The newest kernel call's keys and values, which hold the rows that belong to them."""

    def write(self, query: Tensor, key: Tensor, value: Tensor, landing: Landing, limit: int, *, grows: bool) -> None:
        """Record a fragment, or hold it until a few can be copied together.

        A cache that grows makes new keys at every step, and the newest contain all those before; so single rows wait
        as references, and one copy in `HOLD` steps does. A cache that writes in place would change them meanwhile.
        """
        if grows and landing.queries == 1 and landing.query_start == self.known and query.device.type == "cpu":
            # Detaching is not free, and generation needs none.
            self.held_queries.append(query.detach() if query.requires_grad else query)
            self.held = key, value if self.values is not None else None, landing
            if len(self.held_queries) >= min(HOLD, landing.keys):
                self.flush(limit)
        else:
            self.flush(limit)
            # The plan is shared between layers; a layer that knows fewer keys than the run copies all that it is shown.
            start = landing.copy_start if self.known >= landing.copy_start else landing.key_start
            self._copy(query, key, value, start, landing, limit)
        self.known = landing.query_stop

    def flush(self, limit: int) -> None:
        """Copy the rows that are held."""
        if self.held_queries and self.held is not None:
            key, value, landing = self.held
            queries = torch.cat(self.held_queries, 2)
            self.held_queries = []
            self._copy(queries, key, value, landing.query_stop - queries.shape[2], landing, limit)
        self.held = None

    def _copy(self, query: Tensor, key: Tensor, value: Tensor | None, start: int, landing: Landing, limit: int) -> None:
        first, count = start - landing.key_start, landing.query_stop - start
        self.queries.write(query, landing.query_stop - query.shape[2], limit)
        self.keys.write(key.narrow(2, first, count), start, limit)
        if self.values is not None and value is not None:
            self.values.write(value.narrow(2, first, count), start, limit)
        if self.key_spans and self.key_spans[-1][1] == start:
            start = self.key_spans.pop()[0]
        self.key_spans.append((start, landing.query_stop))


@dataclass(frozen=True, slots=True, eq=False)
class Unread:
    """A distribution that is about to be reduced."""

    position: int
    """The token that it predicted."""
    logits: Tensor
    """[batch, vocab] of the model itself."""
    chosen: Tensor
    """[batch] the token that followed."""
    scores: Tensor | None
    """[batch, vocab] what was really sampled from; None if nothing was, or the logits themselves."""
    sampled: bool
    """Whether anything was sampled."""


@dataclass(slots=True, eq=False)
class Run:
    """A batch of sequences on its way through the model."""

    batch: int
    limit: int
    """Positions that this run may reach at most, as far as is known."""
    budget: int | None
    """Bytes that its buffers may take."""
    held: int = 0
    """Bytes that they take."""
    layers: dict[int, LayerRun] = field(default_factory=dict)
    """Per layer number."""
    stop: int = 0
    """One past the last position fed."""
    prompt_stop: int = 0
    """One past the last position of the first forward or, in a generation, of the prompt."""
    ids: list[tuple[int, Tensor]] = field(default_factory=list)
    """Token ids as they were fed: first position and ``[batch, position]``."""
    padding: Tensor | None = None
    """[batch, position] attention mask of the given text: 0 marks padding."""
    padding_stop: int = 0
    """One past the position of its last column."""
    forwards: int = 0
    """Forwards that were completed."""
    readouts: dict[int, Readout] = field(default_factory=dict)
    """Per token position t, what row t − 1 predicted."""
    pending: tuple[int, Tensor] | None = None
    """A row whose next token is not known yet, and its logits ``[batch, vocab]``."""
    unread: list[Unread] = field(default_factory=list)
    """Rows whose next token is known, to be reduced together."""
    hidden: list[tuple[int, Tensor]] = field(default_factory=list)
    """Final hidden states of rows without logits: first position and ``[batch, position, hidden]``."""
    covered: int = 0
    """Positions whose rows have logits reduced or hidden states kept."""
    head: OutputHead | None = None
    kernel: str = ""
    generation: Mapping[str, Any] = field(default_factory=dict)
    sequences: Tensor | None = None
    """[batch, column] what generate returned; its columns end at the last token."""
    lengths: Tensor | None = None
    """[batch] columns of ``sequences`` that belong to each, its end token included."""
    columns: int = 0
    """Columns of ``sequences`` that were given; the last of them is at ``prompt_stop - 1``."""
    active: bool = False
    """Whether it belongs to a generation that is still going on."""
    closed: bool = False
    """Whether it has ended; a later forward on its cache begins a run of its own."""
    complete: bool = True
    """False when the generation was cut short by an exception."""

    def reserve(self, like: Tensor, start: int) -> Rows:
        """Make a buffer for fragments like this one, within the budget.

        Raises:
            CaptureBudgetError: If the run's buffers would take more than the budget.
        """
        needed = start + like.shape[2]
        return Rows(like, max(needed, min(self.limit, needed + ROOM_TO_GROW)), self.charge)

    def charge(self, added: int) -> None:
        """Count bytes that are about to be allocated.

        Raises:
            CaptureBudgetError: If they do not fit into the budget.
        """
        if self.budget is not None and self.held + added > self.budget:
            raise CaptureBudgetError(
                f"recording {self.batch} sequences",
                f"after layer {len(self.layers)} and position {self.stop} the recording would take "
                f"{self.held + added:,} bytes, max_bytes is {self.budget:,}",
                "raise max_bytes, choose fewer layers with layers=, or generate fewer tokens",
            )
        self.held += added

    def flush(self) -> None:
        """Put everything that is held into the buffers."""
        for layer in self.layers.values():
            layer.flush(self.limit)

    def continue_from(self, earlier: "Run", fed: int) -> None:
        """Take over what an earlier run, which holds nothing back, recorded at positions before ``fed``."""
        for number, layer in earlier.layers.items():
            copied = LayerRun(
                layer.info,
                layer.sinks,
                self._copy_rows(layer.queries, fed),
                self._copy_rows(layer.keys, fed),
                None if layer.values is None else self._copy_rows(layer.values, fed),
                known=min(layer.known, fed),
                fragments=list(layer.fragments),
                key_spans=list(layer.key_spans),
                biases=list(layer.biases),
                checks=list(layer.checks),
            )
            self.layers[number] = copied
        self.ids = list(earlier.ids)
        self.covered = min(earlier.covered, fed)
        self.hidden = list(earlier.hidden)
        self.head = earlier.head
        self.readouts = {position: readout for position, readout in earlier.readouts.items() if position <= fed}

    def _copy_rows(self, rows: Rows, fed: int) -> Rows:
        copied = Rows(rows.data, max(fed, min(self.limit, fed + ROOM_TO_GROW)), self.charge)
        copied.data.narrow(2, 0, fed).copy_(rows.data.narrow(2, 0, fed))
        return copied
