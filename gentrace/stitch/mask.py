"""Masks as rules.

Nearly every attention mask lets a row see one unbroken run of keys: causal, sliding-window, chunked, padded,
bidirectional and prefix masks all do. Two integers a row then say everything, in any mixture of these rules, without
trusting what a configuration claims: they are read off the mask that the kernel was really given. Rows that are not
one run are kept as packed bits.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gentrace.axes import Visible
from gentrace.errors import UnsupportedModel
from gentrace.stitch.plan import Landing


@dataclass(frozen=True, slots=True)
class Reach:
    """What a run of rows sees."""

    queries: slice
    """The rows."""
    some: slice
    """Columns outside of which no row sees anything; empty if no row sees anything at all."""
    every: slice
    """Columns that every row sees; empty if there are none, or if some rows must be looked up one by one."""


PIECE = 2**22
"""Entries of a mask that are looked at together."""


@dataclass(frozen=True, slots=True, eq=False)
class VisibleKeys:
    """Which keys each query of one sequence may see."""

    start: Tensor
    """[query] int32, first visible key."""
    stop: Tensor
    """[query] int32, one past the last visible key."""
    rows: Tensor
    """[row] int32, the queries whose visible keys are not one run."""
    bits: Tensor
    """[row, byte] uint8, their visible keys, packed little-endian."""

    @classmethod
    def from_runs(cls, start: Tensor, stop: Tensor) -> "VisibleKeys":
        """Make a mask in which every row is one run."""
        empty = torch.zeros(0, dtype=torch.int32), torch.zeros(0, 0, dtype=torch.uint8)
        return cls(start.to(torch.int32), stop.to(torch.int32), *empty)

    @classmethod
    def from_dense(cls, visible: Visible) -> "VisibleKeys":
        """Compress ``[query, key]`` booleans."""
        start, stop, one_run = find_runs(visible)
        rows = (~one_run).nonzero().flatten()
        packed = np.packbits(visible[rows].numpy(), axis=-1, bitorder="little")
        return cls(start.to(torch.int32), stop.to(torch.int32), rows.to(torch.int32), torch.from_numpy(packed))

    def dense(self, keys: int, queries: slice = slice(None), columns: slice = slice(None)) -> Visible:
        """Expand to booleans.

        Args:
            keys: Number of key columns.
            queries: Which query rows.
            columns: Which of the key columns.

        Returns:
            ``[query, key]``, true where the query may look.
        """
        first_row, last_row, _ = queries.indices(len(self.start))
        first, last, _ = columns.indices(keys)
        column = torch.arange(first, last)
        visible = (column >= self.start[queries, None]) & (column < self.stop[queries, None])
        broken = (self.rows >= first_row) & (self.rows < last_row)
        if bool(broken.any()):
            # Only the bytes that hold these columns are unpacked.
            packed, skipped = self.bits[broken, first // 8 : -(-last // 8)], first % 8
            bits = np.unpackbits(packed.numpy(), axis=-1, count=skipped + last - first, bitorder="little")
            visible[self.rows[broken].long() - first_row] = torch.from_numpy(bits[:, skipped:]).bool()
        return visible

    def reach(self, queries: slice) -> Reach:
        """What some rows see, so that columns that none of them sees need not be looked at.

        Args:
            queries: The rows, from start to stop.
        """
        start, stop = self.start[queries], self.stop[queries]
        sees = stop > start
        if not bool(sees.any()):
            return Reach(queries, slice(0, 0), slice(0, 0))
        some = slice(int(start[sees].min()), int(stop[sees].max()))
        broken = (self.rows >= queries.start) & (self.rows < queries.stop)
        if bool(broken.any()) or not bool(sees.all()):
            return Reach(queries, some, slice(0, 0))
        return Reach(queries, some, slice(int(start.max()), int(stop.min())))

    def hide(self, scores: Tensor, reach: Reach, columns: slice) -> None:
        """Put −inf where rows may not look.

        Args:
            scores: ``[..., query, key]``, changed in place.
            reach: The rows, and what they see.
            columns: The columns, from start to stop.
        """
        edges = [columns]
        if reach.every.stop > reach.every.start:
            before = slice(columns.start, min(columns.stop, reach.every.start))
            edges = [before, slice(max(columns.start, reach.every.stop), columns.stop)]
        for edge in edges:
            if edge.stop > edge.start:
                visible = self.dense(edge.stop, reach.queries, edge).to(scores.device)
                part = scores[..., edge.start - columns.start : edge.stop - columns.start]
                part.masked_fill_(~visible, -torch.inf)


@dataclass(frozen=True, slots=True, eq=False)
class FragmentMask:
    """The mask of one fragment, in absolute positions."""

    start: Tensor
    """[batch or 1, query], first visible position."""
    stop: Tensor
    """[batch or 1, query], one past the last visible position."""
    dense: Tensor | None
    """[batch or 1, query, key] booleans over the fragment's keys, only if some row is not one run."""
    bias: Tensor | None
    """[batch or 1, head or 1, query, key] what was added to the scores beside hiding keys, only if anything was."""


def find_runs(visible: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Find each row's run of visible keys.

    Args:
        visible: ``[..., query, key]`` booleans.

    Returns:
        First visible column, one past the last, and whether all between them are visible; each ``[..., query]``. A row
        that sees nothing is the empty run (0, 0).
    """
    keys = visible.shape[-1]
    if visible.dim() > 1 and visible.shape[-2] > 1 and visible.numel() > PIECE:
        # What is computed on the way takes several times the mask's own memory.
        rows = max(1, PIECE * visible.shape[-2] // visible.numel())
        parts = [find_runs(part) for part in visible.split(rows, -2)]
        return tuple(torch.cat(pieces, -1) for pieces in zip(*parts, strict=True))  # type: ignore[return-value]
    # On an accelerator the question whether it is one would wait for the device.
    if visible.device.type == "cpu" and (runs := _triangle(visible)) is not None:
        return runs
    column = torch.arange(keys, device=visible.device, dtype=torch.int32)
    zero = column.new_zeros(())
    stop = torch.where(visible, column + 1, zero).amax(-1)
    start = torch.minimum(keys - torch.where(visible, keys - column, zero).amax(-1), stop)
    return start, stop, visible.sum(-1) == stop - start


def _triangle(visible: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
    """The runs of a mask in which each row sees one key more than the row before, from one first key on.

    Most prompts' masks are such ones, and to compare one with what it should be costs less than to search its rows.

    Args:
        visible: ``[..., query, key]`` booleans.

    Returns:
        As `find_runs`; None if it is another mask.
    """
    queries, keys = visible.shape[-2:]
    if not queries or not keys:
        return None
    newest = visible[..., -1, :].int()
    first = newest.argmax(-1, keepdim=True).int()
    behind = torch.arange(queries - 1, -1, -1, dtype=torch.int32)
    stop = first + newest.sum(-1, keepdim=True, dtype=torch.int32) - behind
    stop = stop.where(stop > first, 0)
    start = torch.minimum(first, stop)
    column, padded = torch.arange(keys, dtype=torch.int32), bool(first.any())
    # Windows and prefixes show in the oldest row already.
    for rows in (slice(0, 1), slice(None)):
        expected = column < stop[..., rows, None]
        if padded:
            expected &= column >= start[..., rows, None]
        if not torch.equal(expected, visible[..., rows, :]):
            return None
    return start, stop, torch.ones_like(start, dtype=torch.bool)


def unmasked(
    landing: Landing,
    *,
    causal: bool,
    window: int | None = None,
    aligned_left: bool = False,
    device: torch.device | None = None,
    first: Tensor | None = None,
) -> FragmentMask:
    """The mask of a kernel that was given none.

    Args:
        landing: Where the fragment lands.
        causal: Whether the kernel itself hides later keys.
        window: Newest keys that the kernel itself lets a row see.
        aligned_left: Whether a causal kernel aligns its triangle to the first key instead of to the last.
        device: Where to keep the edges.
        first: ``[batch]`` position of each sequence's first token, if columns before it are padding that the kernel
            leaves out; rows there see nothing.
    """
    position = torch.arange(landing.query_start, landing.query_stop, device=device)
    stop = torch.full_like(position, landing.key_stop)
    if causal:
        stop = position + 1 if not aligned_left else position + (landing.key_start + 1 - landing.query_start)
    start = torch.full_like(position, landing.key_start)
    if window is not None:
        start = torch.maximum(start, position - window + 1)
    if first is not None:
        start, stop = torch.maximum(start, first[:, None]), stop[None].expand(len(first), -1)
        return FragmentMask(torch.minimum(start, stop), stop, None, None)
    return FragmentMask(start[None], stop[None], None, None)


@dataclass(frozen=True, slots=True, eq=False)
class MaskReading:
    """A mask that was taken down, and what its values will say once somebody may wait for them."""

    landing: Landing
    keys: int
    """Key columns, unused capacity included."""
    mask: Tensor
    """[batch or 1, head or 1, query, key] as the kernel was given it, without unused capacity."""
    visible: Tensor
    """[batch or 1, head or 1, query, key] where rows may look."""
    start: Tensor
    stop: Tensor
    """[batch or 1, query] the runs of visible positions."""
    findings: Tensor
    """[4] whether capacity beyond the tokens is visible, heads differ, something is added, all rows are runs."""

    def provisional(self) -> FragmentMask:
        """The mask without having looked at its values."""
        return FragmentMask(self.start, self.stop, self.visible[:, 0], None)

    def added(self) -> Tensor | None:
        """``[batch or 1, head or 1, query, key]`` what the mask adds where rows may look; None for booleans."""
        if self.mask.dtype == torch.bool:
            return None
        return torch.where(self.visible, self.mask, self.mask.new_zeros(())).float()

    def settled(self) -> FragmentMask:
        """The mask, its values looked at.

        Raises:
            UnsupportedModel: If heads see different keys, or a row sees a key that stands for no token.
        """
        surplus, heads_differ, adds, all_runs = self.findings.tolist()
        first, last = self.landing.query_start, self.landing.query_stop - 1
        if surplus:
            raise UnsupportedModel(
                f"reading the attention mask of positions {first} … {last}",
                f"{self.keys} keys for {self.landing.keys} tokens, and some of those beyond are visible",
                "keys that stand for no single token are not supported; exclude the layer with layers=",
            )
        if heads_differ:
            raise UnsupportedModel(
                "reading an attention mask",
                f"its {self.visible.shape[1]} heads see different keys (mask of shape {tuple(self.mask.shape)})",
                "masks that differ by head are not supported; exclude the layer with layers=",
            )
        # The mask may be the caller's own buffer.
        dense = None if all_runs else self.visible[:, 0].clone()
        return FragmentMask(self.start, self.stop, dense, self.added() if adds else None)


def look_at_mask(mask: Tensor, landing: Landing) -> MaskReading:
    """Take down the mask that a kernel was given, without waiting for its values.

    Args:
        mask: ``[batch or 1, head or 1, query or 1, key]``, booleans (true: visible) or numbers added to the scores.
        landing: Where the fragment lands.
    """
    mask = mask.expand(-1, -1, landing.queries, -1)
    keys = mask.shape[-1]
    surplus = _open(mask[..., landing.keys :]).any()
    mask = mask[..., : landing.keys]
    visible = _open(mask)
    adds = torch.zeros_like(surplus) if mask.dtype == torch.bool else torch.logical_and(visible, mask).any()
    start, stop, one_run = find_runs(visible[:, 0])
    differ = (visible != visible[:, :1]).any() if visible.shape[1] > 1 else torch.zeros_like(surplus)
    findings = torch.stack([surplus, differ, adds, one_run.all()])
    start, stop = start + landing.key_start, stop + landing.key_start
    return MaskReading(landing, keys, mask, visible, start, stop, findings)


def read_mask(mask: Tensor, landing: Landing) -> FragmentMask:
    """Read the mask that a kernel was given.

    Args:
        mask: ``[batch or 1, head or 1, query or 1, key]``, booleans (true: visible) or numbers added to the scores.
        landing: Where the fragment lands.

    Returns:
        The runs of visible positions, and what does not fit into them.

    Raises:
        UnsupportedModel: If heads see different keys, or a row sees a key that stands for no token.
    """
    return look_at_mask(mask, landing).settled()


def _open(mask: Tensor) -> Tensor:
    """Where a mask lets rows look. People write −1e9 for −inf; no position bias comes near it."""
    return mask if mask.dtype == torch.bool else mask > max(torch.finfo(mask.dtype).min / 2, -1e8)
