"""Where rows of queries, keys and values are put while a run goes on: in memory, off a device, or in a file.

All of them are addressed by position and say nothing about layers.
"""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from gentrace.errors import SpillError
from gentrace.trace.growing import GrowingFile

ROOM_TO_GROW = 256
WORTH_LENDING = 2**17
"""Bytes below which rows are always copied, which is little work then."""
BLOCK = 4096
"""Rows that are moved from one file to another at a time."""

Charge = Callable[[int], None]


def memory_like(like: Tensor, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
    """Memory of this shape on the device of ``like``, and with its data type if none is given; for use in any mode."""
    if not torch.is_inference_mode_enabled():
        return like.new_empty(shape, dtype=dtype)
    # A buffer made in inference mode could not be written to outside of it.
    with torch.inference_mode(False):
        return like.new_empty(shape, dtype=dtype)


def may_wait(newer: Tensor, older: Tensor) -> bool:
    """Whether what a model makes anew at each step can be looked at some steps later, judged by two in a row.

    Not on an accelerator, nor where the model uses the same memory again. Whoever waits has to compare versions, which
    tensors of inference mode have not.
    """
    return newer.device.type == "cpu" and not newer.is_inference() and newer.data_ptr() != older.data_ptr()


def detached(tensor: Tensor) -> Tensor:
    """The tensor without its history; itself, where it has none, since detaching is not free."""
    return tensor.detach() if tensor.requires_grad else tensor


class Rows(Protocol):
    """``[batch, head, position, dim]`` rows that are written at their positions."""

    dtype: torch.dtype

    def write(self, fragment: Tensor, start: int, limit: int) -> None:
        """Copy ``[batch, head, row, dim]`` to positions ``start …``, growing to at most ``limit`` ahead of need."""
        ...

    def lend(self, fragment: Tensor, limit: int) -> None:
        """The same from position 0 on, of rows that nobody will write over; they may be copied later, or never."""
        ...

    def between(self, start: int, stop: int) -> Tensor | None:
        """``[batch, head, row, dim]`` rows that were written; None if they cannot be had before the run has ended."""
        ...

    def settle(self) -> None:
        """Wait for what is on its way."""
        ...

    def of_slot(self, slot: int, start: int, count: int) -> Tensor:
        """``[head, row, dim]`` rows of one slot on the host, settled; they may share memory with the others."""
        ...

    def of_slots(self, slots: Tensor, columns: Tensor) -> Tensor:
        """``[head, row, dim]`` one row per entry of ``slots`` and ``columns``, on the host, settled."""
        ...

    def shared(self, count: int) -> bool:
        """Whether ``count`` rows of one slot are much less than what their memory holds."""
        ...


SLACK = 1.1


class BufferRows:
    """Rows in one buffer on the layer's own device."""

    def __init__(self, like: Tensor, capacity: int, charge: Charge) -> None:
        """Allocate.

        Args:
            like: ``[batch, head, position, dim]`` a fragment; gives batch, head, dim, dtype and device.
            capacity: Positions to make room for.
            charge: Told of bytes before they are allocated.
        """
        batch, heads, _, dim = like.shape
        self.dtype = like.dtype
        self._charge = charge
        charge(batch * heads * capacity * dim * like.element_size())
        self.data = memory_like(like, batch, heads, capacity, dim)
        self._lent: Tensor | None = None
        """[batch, head, position, dim] the first rows, as long as they lie where the model put them."""

    def write(self, fragment: Tensor, start: int, limit: int) -> None:
        """Copy the rows, growing if need be."""
        count = fragment.shape[2]
        if start + count > self.data.shape[2]:
            self._grow(start + count, limit)
        if self._lent is not None and start < self._lent.shape[2]:
            self._take_over()
        self.data.narrow(2, start, count).copy_(detached(fragment))

    def lend(self, fragment: Tensor, limit: int) -> None:
        """Keep the rows where they are, if they are many and their memory holds nothing else."""
        whole = fragment.untyped_storage().nbytes() <= SLACK * fragment.nbytes
        if self._lent is None and whole and fragment.nbytes >= WORTH_LENDING:
            self._lent = fragment.detach()
        else:
            self.write(fragment, 0, limit)

    def between(self, start: int, stop: int) -> Tensor:
        """A view of the rows."""
        if self._lent is not None and start < self._lent.shape[2]:
            if stop <= self._lent.shape[2]:
                return self._lent.narrow(2, start, stop - start)
            self._take_over()
        return self.data.narrow(2, start, stop - start)

    def settle(self) -> None:
        """Nothing is on its way."""

    def of_slot(self, slot: int, start: int, count: int) -> Tensor:
        """One slot's rows; a view, if they lie on the host."""
        self._take_over()
        return self.data[slot].narrow(1, start, count).cpu()

    def of_slots(self, slots: Tensor, columns: Tensor) -> Tensor:
        """Rows of several slots."""
        self._take_over()
        slots, columns = slots.to(self.data.device), columns.to(self.data.device)
        return self.data[slots, :, columns].transpose(0, 1).contiguous().cpu()

    def shared(self, count: int) -> bool:
        """Whether the buffer holds much more than so many rows of one slot."""
        return self.data.shape[0] * self.data.shape[2] > SLACK * count

    def _take_over(self) -> None:
        """Copy what is lent."""
        lent, self._lent = self._lent, None
        if lent is not None:
            self.data.narrow(2, 0, lent.shape[2]).copy_(lent)

    def _grow(self, needed: int, limit: int) -> None:
        old = self.data
        capacity = max(needed, min(limit, needed + max(ROOM_TO_GROW, needed // 4)))
        self._charge(old.nbytes // old.shape[2] * (capacity - old.shape[2]))
        self.data = memory_like(old, *old.shape[:2], capacity, old.shape[3])
        first = 0 if self._lent is None else self._lent.shape[2]
        self.data[:, :, first : old.shape[2]].copy_(old[:, :, first:])
        # Else what is lent would take its memory twice.
        self._take_over()


class Courier:
    """Carries blocks from a CUDA device to pinned memory of the host, beside the model's own stream."""

    def __init__(self, device: torch.device) -> None:
        """Open a stream of its own."""
        self._device = device
        self._stream: Any = torch.cuda.Stream(device)

    def send(self, block: Tensor) -> Tensor:
        """Begin to copy a contiguous block; the result may be read after `wait`."""
        target = torch.empty(block.shape, dtype=block.dtype, pin_memory=True)
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            target.copy_(block, non_blocking=True)
        # Else the allocator would hand the block's memory to the model before it has been copied.
        block.record_stream(self._stream)
        return target

    def wait(self) -> None:
        """Wait until everything that was sent has arrived."""
        self._stream.synchronize()


class Carrier(Protocol):
    """What `StagedRows` needs of a courier."""

    def send(self, block: Tensor) -> Tensor:
        """Begin to copy a block to the host."""
        ...

    def wait(self) -> None:
        """Wait for all blocks."""
        ...


class StagedRows:
    """Rows of a device, staged in blocks there and sent to the host without waiting."""

    def __init__(self, like: Tensor, charge: Charge, courier: Carrier) -> None:
        """Begin without blocks.

        Args:
            like: ``[batch, head, position, dim]`` a fragment.
            charge: Told of bytes before they are allocated.
            courier: Who carries the blocks.
        """
        self.dtype = like.dtype
        self._charge = charge
        self._courier = courier
        self._sizes = like.shape[0], like.shape[1], like.shape[3]
        self._blocks: list[tuple[int, Tensor]] = []
        self._newest: tuple[int, Tensor] | None = None
        self._whole: Tensor | None = None

    def write(self, fragment: Tensor, start: int, limit: int) -> None:
        """Stage the rows and send them off."""
        # A copy, since a compiled graph writes its next results over these.
        block = fragment.detach().clone(memory_format=torch.contiguous_format)
        self._charge(block.nbytes)
        self._newest = start, block
        self._blocks.append((start, self._courier.send(block)))
        self._whole = None

    def lend(self, fragment: Tensor, limit: int) -> None:
        """Write them; they do not stay where they are."""
        self.write(fragment, 0, limit)

    def between(self, start: int, stop: int) -> Tensor | None:
        """The rows, if they were written last: those still lie on the device."""
        if self._newest is None:
            return None
        first, block = self._newest
        inside = first <= start and stop <= first + block.shape[2]
        return block.narrow(2, start - first, stop - start) if inside else None

    def settle(self) -> None:
        """Wait for the blocks."""
        self._courier.wait()
        self._newest = None

    def of_slot(self, slot: int, start: int, count: int) -> Tensor:
        """One slot's rows."""
        return self._assembled()[slot].narrow(1, start, count)

    def of_slots(self, slots: Tensor, columns: Tensor) -> Tensor:
        """Rows of several slots."""
        return self._assembled()[slots, :, columns].transpose(0, 1).contiguous()

    def shared(self, count: int) -> bool:
        """Whether the blocks hold much more than so many rows of one slot."""
        return self._sizes[0] * self._assembled().shape[2] > SLACK * count

    def _assembled(self) -> Tensor:
        """All blocks at their places; a later one replaces what it covers."""
        if self._whole is None:
            self.settle()
            stop = max((first + block.shape[2] for first, block in self._blocks), default=0)
            batch, heads, dim = self._sizes
            whole = torch.empty(batch, heads, stop, dim, dtype=self.dtype)
            for first, block in self._blocks:
                whole.narrow(2, first, block.shape[2]).copy_(block)
            self._whole = whole
            self._blocks = [(0, whole)]
        return self._whole


class Keeper(Protocol):
    """Who decides what happens when a disk is full."""

    failure: SpillError | None

    def fail(self, error: SpillError) -> None:
        """Stop by raising the error, or let the model go on without being recorded."""
        ...


class FileRows:
    """Rows that go to the files of their sequences, one for each slot."""

    def __init__(self, like: Tensor, files: list[GrowingFile], name: str, keeper: Keeper) -> None:
        """Make room in the files.

        Args:
            like: ``[batch, head, position, dim]`` a fragment.
            files: One file per slot.
            name: The tensor's name there.
            keeper: Who is told of a full disk.
        """
        self.dtype = like.dtype
        self.name = name
        self._files = files
        self._keeper = keeper
        if keeper.failure is None:
            try:
                for file in files:
                    file.allocate(name, like.dtype, (like.shape[1], "position", like.shape[3]))
            except SpillError as error:
                keeper.fail(error)

    def write(self, fragment: Tensor, start: int, limit: int) -> None:
        """Write the rows to the files, which grow by themselves."""
        if self._keeper.failure is not None:
            return
        host = fragment.detach().cpu()
        try:
            for file, rows in zip(self._files, host, strict=True):
                file.write(self.name, start, rows)
        except SpillError as error:
            self._keeper.fail(error)

    def lend(self, fragment: Tensor, limit: int) -> None:
        """Write them; they do not stay where they are."""
        self.write(fragment, 0, limit)

    def between(self, start: int, stop: int) -> Tensor | None:
        """The rows, read back; None once the disk was full."""
        if self._keeper.failure is not None:
            return None
        return torch.stack([file.read(self.name, start, stop) for file in self._files])

    def settle(self) -> None:
        """Nothing is on its way."""

    def of_slot(self, slot: int, start: int, count: int) -> Tensor:
        """One slot's rows, read back."""
        return self._files[slot].read(self.name, start, start + count)

    def of_slots(self, slots: Tensor, columns: Tensor) -> Tensor:
        """Rows of several slots, read back one by one."""
        pairs = zip(slots.tolist(), columns.tolist(), strict=True)
        return torch.cat([self.of_slot(slot, column, 1) for slot, column in pairs], 1)

    def shared(self, count: int) -> bool:
        """What is read back shares nothing."""
        return False


def copy_rows(source: Rows, target: Rows, batch: int, stop: int, limit: int) -> None:
    """Write the rows of ``batch`` slots before ``stop`` to other rows, a block at a time."""
    for start in range(0, stop, BLOCK):
        count = min(stop - start, BLOCK)
        target.write(torch.stack([source.of_slot(slot, start, count) for slot in range(batch)]), start, limit)
