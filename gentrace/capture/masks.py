"""Masks of all of a layer's fragments, over the run's columns, and the share that one sequence has in them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from gentrace.capture.layers import Patches, Placed
from gentrace.capture.shares import Share
from gentrace.errors import UnsupportedModel
from gentrace.stitch.mask import VisibleKeys


class MaskColumns:
    """The masks that a layer was shown, for the whole batch."""

    def __init__(self, fragments: Sequence[Placed], batch: int, queries: int, number: int) -> None:
        """Put the fragments together.

        Args:
            fragments: What the layer was shown, in that order; later ones replace earlier ones.
            batch: Slots in the batch.
            queries: Columns of queries.
            number: The mask's number in the trace.
        """
        self.number = number
        self._start = torch.full((batch, queries), -1, dtype=torch.int64)
        self._stop = torch.full((batch, queries), -1, dtype=torch.int64)
        self._dense: dict[int, tuple[int, Tensor]] = {}
        for placed in fragments:
            landing = placed.landing
            # Rejected drafts and a cropped cache leave rows behind the end.
            count = min(landing.queries, queries - landing.query_start)
            rows = slice(landing.query_start, landing.query_start + max(0, count))
            self._start[:, rows] = placed.mask.start.cpu()[:, : max(0, count)]
            self._stop[:, rows] = placed.mask.stop.cpu()[:, : max(0, count)]
            for row in range(rows.start, rows.stop):
                self._dense.pop(row, None)
            if placed.mask.dense is not None:
                dense = placed.mask.dense.cpu()
                self._dense |= {rows.start + i: (landing.key_start, dense[:, i]) for i in range(max(0, count))}
        self.seen = self._start[0] >= 0

    def of(self, share: Share, keys: Share) -> VisibleKeys:
        """The mask of one sequence, in its own positions.

        Args:
            share: The sequence's queries.
            keys: What they look at: the same, or the encoder's share.
        """
        rows, slots = share.rows, share.slots[: share.fed]
        seen = self.seen[rows]
        whole = start, stop = self._start[slots, rows], self._stop[slots, rows]
        if keys.unbroken and not self._dense:
            first = keys.rows[0] if keys.fed else 0
            start, stop = ((edge - first).clamp(0, keys.fed) for edge in (start, stop))
            counts = whole[1] - whole[0]
            _refuse_padding(seen & (counts != stop - start), share)
            visible = VisibleKeys.from_runs(start, stop)
        else:
            every = torch.arange(max(1, int(stop.max()), int(keys.rows[-1]) + 1))
            dense = self._dense_rows(share, every, start, stop)
            shown = dense[:, keys.rows]
            _refuse_padding(seen & (dense.sum(-1) != shown.sum(-1)), share)
            visible = VisibleKeys.from_dense(shown)
        visible.start[~seen] = -1
        visible.stop[~seen] = -1
        return visible

    def _dense_rows(self, share: Share, columns: Tensor, start: Tensor, stop: Tensor) -> Tensor:
        visible = (columns >= start[:, None]) & (columns < stop[:, None])
        slots = share.slots.tolist()
        for position, row in enumerate(share.rows.tolist()):
            if row in self._dense:
                key_start, dense = self._dense[row]
                line = torch.zeros(int(columns[-1]) + 1, dtype=torch.bool)
                shown = dense[min(slots[position], len(dense) - 1)][: len(line) - key_start]
                line[key_start : key_start + len(shown)] = shown
                visible[position] = line[columns]
        return visible


def _refuse_padding(wrong: Tensor, share: Share) -> None:
    """Refuse rows of text that look at padding: their weights do not belong to the text alone."""
    if bool(wrong.any()):
        raise UnsupportedModel(
            "recording a padded batch",
            f"row {int(wrong.nonzero()[0])} of sequence {share.entry} looks at padding",
            "the model does not hide it; generate from one text at a time",
        )


def assemble(patches: Patches, share: Share, keys: Share, fill: float) -> Tensor:
    """One sequence's share of blocks, ``[head or 1, query, key]`` in float32.

    Args:
        patches: The blocks.
        share: The sequence's queries.
        keys: What they look at.
        fill: Value where no block lies.
    """
    rows, slots = share.rows, share.slots[: share.fed]
    width = max([int(keys.rows[-1]) + 1, *(landing.key_stop for landing, _ in patches.blocks)])
    whole = torch.full((patches.blocks[0][1].shape[1], share.fed, width), fill)
    for landing, block in patches.blocks:
        inside = (rows >= landing.query_start) & (rows < landing.query_stop)
        local = (rows[inside] - landing.query_start).clamp(max=block.shape[2] - 1)
        slot = slots[inside].clamp(max=len(block) - 1)
        part = block[slot.to(block.device), :, local.to(block.device)].float().cpu()
        whole[:, inside, landing.key_start : landing.key_stop] = part.transpose(0, 1)
    return whole[:, :, keys.rows]
