"""What one layer's attention leaves behind: queries and keys where a tap sees them, finished scores where it does not.

Everything is addressed by position, so a row that is computed again, by a forward without a cache or after the cache
was cropped, replaces what was there.
"""

from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from gentrace.capture.fidelity import Check
from gentrace.capture.followed import Followed
from gentrace.capture.rows import Charge, Rows, copy_rows, detached
from gentrace.stitch.mask import FragmentMask, MaskReading, look_at_mask
from gentrace.stitch.plan import Landing
from gentrace.trace.info import LayerInfo

HOLD = 16
"""Rows of queries to hold before they are copied together, where the kernel's keys are held too; see `Followed`."""
HOLD_BYTES = 2**20
"""What a layer may hold that way, beyond a few rows."""


@dataclass(slots=True, eq=False)
class Placed:
    """A fragment's place and mask; shared by all layers that see the same mask."""

    landing: Landing
    mask: FragmentMask
    reading: MaskReading | None = None
    """A mask on an accelerator, at whose values nobody has looked yet."""

    @classmethod
    def of(cls, landing: Landing, mask: Tensor) -> "Placed":
        """Place a fragment with the mask ``[batch or 1, head or 1, query or 1, key]`` that its kernel was given."""
        reading = look_at_mask(mask, landing)
        if mask.device.type == "cpu":
            return cls(landing, reading.settled())
        return cls(landing, reading.provisional(), reading)

    def settle(self) -> None:
        """Look at the mask's values, which waits for the device."""
        if self.reading is not None:
            self.mask, self.reading = self.reading.settled(), None


def newest(query: Tensor, placed: Placed, bias: Tensor | None, skipped: int) -> tuple[Tensor, Placed, Tensor | None]:
    """A fragment of self-attention without its first rows.

    Args:
        query: ``[batch, head, query, dim]`` its queries.
        placed: Its place and mask.
        bias: ``[batch or 1, head or 1, query, key]`` what was added to the scores, if anything was.
        skipped: How many rows to leave out.
    """
    landing, mask = placed.landing, placed.mask
    start = landing.query_start + skipped
    dense = None if mask.dense is None else mask.dense[:, skipped:]
    cut = FragmentMask(mask.start[:, skipped:], mask.stop[:, skipped:], dense, None)
    place = replace(landing, query_start=start, copy_start=max(landing.key_start, start))
    return query[:, :, skipped:], Placed(place, cut), None if bias is None else bias[:, :, skipped:]


class Patches:
    """``[batch or 1, head or 1, query, key]`` blocks of a matrix; a block replaces those whose rows it covers."""

    def __init__(self, charge: Charge) -> None:
        """Begin without blocks.

        Args:
            charge: Told of bytes before they are kept.
        """
        self._charge = charge
        self.blocks: list[tuple[Landing, Tensor]] = []

    def write(self, block: Tensor, landing: Landing) -> None:
        """Keep the block, which must not change afterwards."""
        first, stop = landing.query_start, landing.query_stop
        kept: list[tuple[Landing, Tensor]] = []
        for place, old in self.blocks:
            if first <= place.query_start and place.query_stop <= stop:
                self._charge(-old.nbytes)
            else:
                kept.append((place, old))
        self._charge(block.nbytes)
        self.blocks = [*kept, (landing, block)]

    def add(self, block: Tensor, landing: Landing) -> None:
        """Add to the block that lies there already, if there is one."""
        for index, (place, old) in enumerate(self.blocks):
            if place == landing:
                self.blocks[index] = place, old + block
                return
        self.write(block, landing)

    def copied(self, charge: Charge) -> "Patches":
        """The same blocks, to be continued separately."""
        other = Patches(charge)
        other.blocks = list(self.blocks)
        return other


@dataclass(slots=True, eq=False)
class LayerRun:
    """One layer's share of a run."""

    info: LayerInfo
    fragments: list[Placed] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)

    @property
    def dtype(self) -> torch.dtype:
        """Data type of what is recorded."""
        raise NotImplementedError

    def keys_known(self) -> int:
        """One past the last key that is known."""
        raise NotImplementedError

    def described(self) -> LayerInfo:
        """What a trace says of the layer; reading its sinks waits for the device."""
        return self.info

    def settle(self) -> None:
        """Look at the values of masks that were put off."""
        for placed in self.fragments:
            placed.settle()

    def flush(self, limit: int) -> None:
        """Put what is held into the buffers."""

    def continued(self, stop: int, room: "Room") -> "LayerRun":
        """A layer of its own, in another run, that knows the positions before ``stop``."""
        raise NotImplementedError


class Room(Protocol):
    """A run, as far as its layers need to know it."""

    batch: int
    limit: int

    def reserve(self, like: Tensor, start: int, name: str | None) -> Rows:
        """Make room for rows like these, which begin at ``start``; without a name they stay in memory."""
        ...

    def charge(self, added: int) -> None:
        """Count bytes that are about to be allocated."""
        ...


@dataclass(slots=True, eq=False)
class ScoreLayer(LayerRun):
    """A layer of which only the scores that entered softmax are seen."""

    scores: Patches = field(kw_only=True)
    pending_checks: list[tuple[int, int, list[Check]]] = field(default_factory=list)
    """Checks that the forward was still to make, with the position of the first row and the batch."""

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the scores."""
        return self.scores.blocks[0][1].dtype if self.scores.blocks else torch.float32

    def keys_known(self) -> int:
        """One past the last key that is known."""
        return max((landing.key_stop for landing, _ in self.scores.blocks), default=0)

    def flush(self, limit: int) -> None:
        """Take in the checks that were made since."""
        for first, batch, checks in self.pending_checks:
            for check in checks:
                errors = check.errors.reshape(batch, -1, len(check.rows)).amax(1)
                self.checks.append(Check(tuple(first + row for row in check.rows), errors))
        self.pending_checks = []

    def continued(self, stop: int, room: Room) -> "ScoreLayer":
        """A layer of its own, in another run, that knows the positions before ``stop``."""
        return ScoreLayer(self.info, list(self.fragments), list(self.checks), scores=self.scores.copied(room.charge))


@dataclass(slots=True, eq=False)
class VectorLayer(LayerRun):
    """A layer whose queries and keys are seen."""

    sinks: Tensor | None = field(kw_only=True)
    queries: Rows = field(kw_only=True)
    keys: Rows = field(kw_only=True)
    values: Rows | None = field(kw_only=True)
    biases: Patches = field(kw_only=True)
    known: int = 0
    """Positions whose keys are recorded, counted from the start."""
    key_spans: list[tuple[int, int]] = field(default_factory=list)
    unsettled: list[Placed] = field(default_factory=list)
    """Fragments whose masks' values were not looked at when they were written."""
    held_queries: list[Tensor] = field(default_factory=list)
    """[batch, head, row, dim] rows, in order, that are not in the buffers yet."""
    held: tuple[Tensor, Tensor | None, Landing] | None = None
    """The newest kernel call's keys and values, which hold the rows that belong to them."""
    followed: Followed | None = None
    """Where the rows that belong to them are kept instead, on the steady path."""

    @property
    def dtype(self) -> torch.dtype:
        """Data type of queries and keys."""
        return self.queries.dtype

    def keys_known(self) -> int:
        """One past the last key that is known."""
        return self.known

    def described(self) -> LayerInfo:
        """The same, with the sinks' values."""
        return self.info if self.sinks is None else replace(self.info, sinks=tuple(self.sinks.float().tolist()))

    def write(self, query: Tensor, key: Tensor, value: Tensor, landing: Landing, limit: int, *, grows: bool) -> None:
        """Record a fragment of self-attention, or hold it until a few can be copied together.

        A cache that grows makes new keys at every step, and the newest contain all those before; so single rows wait
        as references, and one copy in `HOLD` steps does. A cache that writes in place would change them meanwhile.
        """
        if grows and landing.queries == 1 and landing.query_start == self.known:
            self.held_queries.append(detached(query))
            self.held = key, value if self.values is not None else None, landing
            if len(self.held_queries) >= min(HOLD, landing.keys):
                self.flush(limit)
        else:
            self.flush(limit)
            # The plan is shared between layers; a layer that knows fewer keys than the run copies all that it is shown.
            start = landing.copy_start if self.known >= landing.copy_start else landing.key_start
            self._copy(query, key, value, start, landing, limit, lent=grows)
        self.known = landing.key_stop

    def hold(self, rows: Tensor) -> None:
        """Hold the next rows of queries ``[batch, head, row, dim]``, whose keys are where they are `followed`."""
        self.held_queries.append(rows)
        self.known += rows.shape[2]

    def recorded_queries(self, rows: tuple[int, ...]) -> Tensor | None:
        """``[batch, head, row, dim]`` one or two recorded rows; None if they cannot be looked at now."""
        recorded = self.queries.between(rows[0], rows[-1] + 1)
        return None if recorded is None else recorded[:, :, :: max(1, rows[-1] - rows[0])]

    def write_cross(self, query: Tensor, key: Tensor, value: Tensor, landing: Landing, limit: int) -> None:
        """Record a fragment of cross-attention, whose keys are the same at every step."""
        self.queries.write(query, landing.query_start, limit)
        if not self.known:
            self.keys.write(key, 0, limit)
            if self.values is not None:
                self.values.write(value, 0, limit)
            self.key_spans.append((0, landing.key_stop))
            self.known = landing.key_stop

    def settle(self) -> None:
        """Look at the values of masks that were put off."""
        for rows in (self.queries, self.keys, *([] if self.values is None else [self.values])):
            rows.settle()
        for placed in self.unsettled:
            placed.settle()
            if placed.mask.bias is not None:
                self.biases.add(placed.mask.bias, placed.landing)
        self.unsettled = []

    def flush(self, limit: int) -> None:
        """Copy the rows that are held."""
        if self.held_queries:
            held, self.held_queries = self.held_queries, []
            queries = held[0] if len(held) == 1 else torch.cat(held, 2)
            if self.followed is not None:
                start = self.known - queries.shape[2]
                keys, values = self.followed.rows(start, self.known, values=self.values is not None)
                self._write(queries, keys, values, start, limit)
            elif self.held is not None:
                key, value, landing = self.held
                self._copy(queries, key, value, landing.query_stop - queries.shape[2], landing, limit)
        self.held = None

    def continued(self, stop: int, room: Room) -> "VectorLayer":
        """A layer of its own, in another run, that knows the positions before ``stop``."""
        cross = self.info.kind == "cross"
        keys = self.known if cross else stop

        def copied(rows: Rows, what: str, count: int) -> Rows:
            like = torch.stack([rows.of_slot(slot, 0, min(1, count)) for slot in range(room.batch)])
            name = None if cross else self.info.tensor(what)
            other = room.reserve(like, count, name)
            copy_rows(rows, other, room.batch, count, room.limit)
            return other

        return VectorLayer(
            self.info,
            list(self.fragments),
            list(self.checks),
            sinks=self.sinks,
            queries=copied(self.queries, "queries", stop),
            keys=copied(self.keys, "keys", keys),
            values=None if self.values is None else copied(self.values, "values", keys),
            biases=self.biases.copied(room.charge),
            known=self.known if cross else min(self.known, stop),
            key_spans=list(self.key_spans),
        )

    def _copy(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor | None,
        start: int,
        landing: Landing,
        limit: int,
        *,
        lent: bool = False,
    ) -> None:
        first, count = start - landing.key_start, landing.key_stop - start
        at = landing.query_stop - query.shape[2]
        # Nobody but the kernel had the queries; keys and values are in the model's cache, where users may change them.
        if lent and not at:
            self.queries.lend(query, limit)
        else:
            self.queries.write(query, at, limit)
        values = None if value is None else value.narrow(2, first, count)
        self._write(None, key.narrow(2, first, count), values, start, limit)

    def _write(self, query: Tensor | None, key: Tensor, value: Tensor | None, start: int, limit: int) -> None:
        """Write rows from ``start`` on, which are one run of positions."""
        if query is not None:
            self.queries.write(query, start, limit)
        self.keys.write(key, start, limit)
        if self.values is not None and value is not None:
            self.values.write(value, start, limit)
        stop = start + key.shape[2]
        if self.key_spans and self.key_spans[-1][1] == start:
            start = self.key_spans.pop()[0]
        self.key_spans.append((start, stop))
