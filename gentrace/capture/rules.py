"""What a mask is like from step to step, so that a step's mask is only compared and not read.

While one token is decoded after the other, a layer's mask goes on in one of a few ways: there is none, or each row sees
all that the cache holds from its sequence's first token on. A mask that is what was expected costs one comparison; any
other is read like a mask that was never seen before. Masks wait to be looked at until somebody asks, or until there are
many of them.
"""

import math
from typing import Any

import torch
from torch import Tensor

from gentrace.capture.fidelity import ALL, Sight, sight_of
from gentrace.capture.kernels import place_with_mask
from gentrace.capture.layers import Placed
from gentrace.capture.rows import may_wait
from gentrace.errors import CaptureError
from gentrace.stitch.mask import FragmentMask
from gentrace.stitch.plan import Landing, plan_landing

WAITING_BYTES = 2**18
"""What masks may take that wait to be looked at."""
COLUMNS_AHEAD = 256
"""Columns that an expected mask is made for beyond those that are needed."""


class MaskRule:
    """The masks of all layers that are shown the same ones, one row a step."""

    def __init__(self, placed: Placed, kernel: str, columns: int, *, masked: bool) -> None:
        """Learn from rows that were read.

        Args:
            placed: The newest of them.
            kernel: The kernel's name.
            columns: Columns of the kernel's keys.
            masked: Whether the kernel was given a mask.
        """
        self.mask: Any = None
        """The mask of the newest row that was admitted."""
        self.at = -1
        """Position of the newest row that was admitted."""
        self.pieces: list[Placed] = []
        """Rows that were not as expected."""
        self._kernel = kernel
        self._padded = columns > placed.landing.keys
        """Whether the kernel is shown more columns than there are tokens."""
        self._first = placed.mask.start[:, -1:] if masked else torch.zeros(1, 1, dtype=torch.int64)
        """[batch or 1, 1] first position that rows may see."""
        self._no_padding = not masked
        on_host = self._first.device.type == "cpu"
        self._latest_start = int(self._first.max()) if on_host else math.inf
        """The latest of these; on an accelerator, where asking would wait for it, infinite."""
        self._from = placed.landing.query_stop
        self._key_starts: list[int] = []
        self._expected: Tensor | None = None
        """[batch or 1, 1, 1, column] a mask that goes on as before."""
        self._made_for: tuple[float, torch.dtype] = (0, torch.bool)
        """How many columns were left behind when it was made, as far as that matters, and its dtype."""
        self._visible_stop = 0
        """One past its last visible column, where more columns are shown than there are tokens."""
        self._odd: Placed | None = None
        self._waits = False
        """Whether masks can be looked at later, since they are not written over for the next row."""
        self._looked: tuple[Tensor, int] | None = None
        """The newest mask that was looked at when it was used, and its version then."""
        self._waiting: list[tuple[Tensor, int, int, int]] = []
        """Masks that nobody has looked at: the mask, its version, columns of keys and the row's position."""
        self._waiting_most = 1
        self._made: dict[int, list[Placed]] = {}

    def admit(self, mask: Any, keys: int, fed: int) -> bool:
        """Take note of the row at ``fed``; says whether it could be.

        Args:
            mask: What the kernel was given.
            keys: Columns of the kernel's keys.
            fed: The row's position.
        """
        if mask is None:
            key_start = max(0, fed + 1 - keys)
            if self._padded or self._latest_start > key_start:
                return False
            if self._waiting:
                self._settle()
            self._odd = None
            self._key_starts.append(key_start)
        elif not isinstance(mask, Tensor) or mask.dim() != 4:
            return False
        elif self._waits:
            self._waiting.append((mask, mask._version, keys, fed))
            if len(self._waiting) >= self._waiting_most:
                self._settle()
        else:
            self._look_at(mask, keys, fed)
            self._learn(mask)
        self.at, self.mask = fed, mask
        return True

    def _learn(self, mask: Tensor) -> None:
        """Find out whether masks are written over, from one that was just looked at and the one before."""
        if self._looked is not None:
            before, version = self._looked
            self._waits = may_wait(mask, before) and before._version == version
            self._waiting_most = max(1, WAITING_BYTES // mask.nbytes)
        self._looked = mask, -1 if mask.is_inference() else mask._version

    def _settle(self) -> None:
        """Look at the masks that wait, one after the other.

        Raises:
            CaptureError: If one was changed since.
        """
        waiting, self._waiting = self._waiting, []
        for mask, version, _, fed in waiting:
            if mask._version != version:
                raise CaptureError(
                    f"reading the attention mask of position {fed}",
                    "the model has written over it",
                    "exclude the layer with layers=",
                )
        starts = [self._key_start(keys, fed) for _, _, keys, fed in waiting]
        if len(waiting) > 1 and self._go_on([mask for mask, _, _, _ in waiting], waiting[0][3], starts):
            self._odd = None
            self._key_starts += starts
            return
        for mask, _, keys, fed in waiting:
            self._look_at(mask, keys, fed)

    def _look_at(self, mask: Tensor, keys: int, fed: int) -> None:
        """Take down one row's mask ``[batch or 1, head or 1, 1, key]``."""
        key_start = self._key_start(keys, fed)
        if mask.device.type == "cpu" and self._is_expected(mask, fed, key_start):
            self._odd = None
            self._key_starts.append(key_start)
            return
        odd = place_with_mask(self._kernel, mask, keys, plan_landing(fed=fed, queries=1, keys=keys, known=fed))
        self._close_range(fed)
        self.pieces.append(odd)
        self._odd, self._from = odd, fed + 1

    def newest_piece(self) -> Placed | None:
        """Where the newest row lies and what it sees; None if it was handed over."""
        self._settle()
        if self._odd is not None or not self._key_starts:
            return self._odd
        mask = self.newest(torch.device("cpu"))
        return Placed(Landing(self.at, self.at + 1, int(mask.start.min()), self.at + 1, self.at), mask)

    def newest(self, device: torch.device) -> FragmentMask:
        """The newest row's mask."""
        self._settle()
        if self._odd is not None:
            return self._odd.mask
        oldest = self._key_starts[-1]
        start = torch.full((1, 1), oldest, device=device) if self._no_padding else self._first.clamp_min(oldest)
        return FragmentMask(start, torch.full((1, 1), self.at + 1, device=device), None, None)

    def bias(self) -> Tensor | None:
        """``[batch or 1, head or 1, 1, key]`` what the newest row's mask adds to scores, if anything."""
        return None if self._odd is None else self._odd.mask.bias

    def sight(self, landing: Landing, device: torch.device) -> Sight:
        """What the newest row sees.

        Args:
            landing: Where it landed.
            device: Where to compute.
        """
        self._settle()
        if self._odd is None and self._latest_start <= self._key_starts[-1] == landing.key_start:
            return ALL
        return sight_of(landing, self.newest(device), (self.at,), device)

    def fragments(self, stop: int) -> list[Placed]:
        """All rows before ``stop``, in order; the same objects for every layer that has the same rows."""
        if stop not in self._made:
            self._settle()
            self._close_range(self.at + 1)
            self._made[stop] = [_cut(placed, stop) for placed in self.pieces if placed.landing.query_start < stop]
        return self._made[stop]

    def restart(self) -> None:
        """Forget the rows that were handed out."""
        self.pieces, self._made = [], {}

    def _key_start(self, keys: int, fed: int) -> int:
        """Position of the first key that a row is shown."""
        return 0 if self._padded else max(0, fed + 1 - keys)

    def _see_all(self, key_start: int) -> bool:
        """Whether rows are expected to see every key that they are shown, which begin here."""
        return self._latest_start <= key_start and not self._padded

    def _go_on(self, masks: list[Tensor], first: int, starts: list[int]) -> bool:
        """Whether masks of rows in turn, from ``first`` on, whose keys begin at ``starts``, are as expected."""
        if len({(mask.shape[:-1], mask.dtype) for mask in masks}) > 1:
            return False
        if self._see_all(starts[0]):
            return _hide_nothing(torch.cat(masks, -1))
        widths, dtype = [mask.shape[-1] for mask in masks], masks[0].dtype
        if self._padded:
            if len(set(widths)) > 1:
                return False
            rows = range(first, first + len(masks))
            return _equal(self._make_expected(widths[0], dtype, rows, 0), torch.cat(masks, 2))
        if starts[0] != starts[-1]:
            return False
        expected = self._make_expected(widths[-1], dtype, range(first, first + 1), starts[0])
        return _equal(torch.cat([expected[..., :width] for width in widths], -1), torch.cat(masks, -1))

    def _is_expected(self, mask: Tensor, fed: int, key_start: int) -> bool:
        if self._see_all(key_start) and _hide_nothing(mask):
            return True
        width, made_for = mask.shape[-1], (min(key_start, self._latest_start), mask.dtype)
        expected = self._expected
        if expected is None or made_for != self._made_for or width > expected.shape[-1] or fed < self._visible_stop:
            rows = range(fed, fed + 1)
            expected = self._expected = self._make_expected(width + COLUMNS_AHEAD, mask.dtype, rows, key_start)
            self._made_for, self._visible_stop = made_for, fed + 1
        elif self._padded:
            expected[..., self._visible_stop : fed + 1] = mask.dtype == torch.bool
            self._visible_stop = fed + 1
        return _equal(expected[..., :width], mask)

    def _make_expected(self, width: int, dtype: torch.dtype, rows: range, key_start: int) -> Tensor:
        """``[batch or 1, 1, row, width]`` the mask of these rows."""
        # A mask made in inference mode could not be written to outside of it.
        with torch.inference_mode(False):
            visible = torch.ones(1, 1, len(rows), width, dtype=torch.bool)
            if self._padded:
                visible.tril_(rows.start)
            if self._latest_start > key_start:
                visible = visible & (torch.arange(width) >= self._first - key_start)[:, None, None]
            if dtype == torch.bool:
                return visible
            return torch.zeros(visible.shape, dtype=dtype).masked_fill_(~visible, torch.finfo(dtype).min)

    def _close_range(self, stop: int) -> None:
        """Make the rows since the last odd one, and before ``stop``, one fragment."""
        first = self._from
        count = min(stop - first, len(self._key_starts))
        if count > 0:
            device = self._first.device
            landing = Landing(first, first + count, 0, first + count, first)
            newest = torch.tensor(self._key_starts[:count], device=device)
            last = torch.arange(first, first + count, device=device) + 1
            start = torch.maximum(self._first, newest[None])
            self.pieces.append(Placed(landing, FragmentMask(start, last[None], None, None)))
        self._from, self._key_starts = first + max(count, 0), self._key_starts[max(count, 0) :]


def _hide_nothing(masks: Tensor) -> bool:
    """Whether masks let every row see every key."""
    return bool(masks.all()) if masks.dtype == torch.bool else not bool(masks.any())


def _equal(expected: Tensor, mask: Tensor) -> bool:
    """Whether a mask is the expected one, which may be the same for all sequences and is for all heads."""
    if expected.shape[0] not in (1, mask.shape[0]) or expected.shape[2:] != mask.shape[2:]:
        return False
    return torch.equal(expected.expand_as(mask), mask)


def _cut(placed: Placed, stop: int) -> Placed:
    """A fragment without the rows from ``stop`` on, which a layer may not have seen any more."""
    landing, mask = placed.landing, placed.mask
    if landing.query_stop <= stop:
        return placed
    rows = stop - landing.query_start
    shorter = FragmentMask(mask.start[:, :rows], mask.stop[:, :rows], None, None)
    return Placed(Landing(landing.query_start, stop, landing.key_start, stop, landing.copy_start), shorter)
