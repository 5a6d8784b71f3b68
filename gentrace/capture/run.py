"""What is collected while a batch of sequences goes through the model, at its absolute (padded) positions.

A run is mutable and knows no hooks.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gentrace.capture.decoding.probabilities import OutputHead, Readout, split
from gentrace.capture.layers import LayerRun
from gentrace.capture.rows import ROOM_TO_GROW, BufferRows, Courier, FileRows, Rows, StagedRows, memory_like
from gentrace.errors import CaptureBudgetError
from gentrace.trace.growing import GrowingFile
from gentrace.trace.info import Kind

ROOM_AHEAD = 4096
"""Positions to make room for at once where the run's end is known."""
UNLIMITED = 2**31
"""The limit of a run that may go on for as long as it likes."""


@dataclass(slots=True, eq=False)
class Unread:
    """A distribution that is about to be reduced."""

    position: int
    """The token that it predicted."""
    logits: Tensor
    """[batch, 1, vocab] of the model itself."""
    chosen: Tensor
    """[batch, 1] the token that followed."""
    scores: Tensor | None
    """[batch, vocab] what was really sampled from; None if nothing was, or the logits themselves."""
    sampled: bool
    """Whether anything was sampled."""


@dataclass(frozen=True, slots=True, eq=False)
class Rejected:
    """A drafted token that the model did not accept."""

    position: int
    token: Tensor
    """[] its id."""
    logprob: Tensor
    """[] its log-probability under the model."""
    instead: Tensor | None
    """[] the token that took its place, which is the same if it was accepted after all; None behind a rejected one."""


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
    files: list[GrowingFile] = field(default_factory=list)
    """One for each slot, if rows go to disk."""
    spill: Any = None
    """What writes them."""
    couriers: dict[torch.device, Courier] = field(default_factory=dict)
    """Who carries rows off each device."""
    layers: dict[tuple[Kind, int], LayerRun] = field(default_factory=dict)
    """Per kind of attention and layer number."""
    encoder: "Run | None" = None
    """The encoder's forward that this run looks back at, if the model has an encoder that was seen."""
    input_kind: str = "text"
    """What an encoder was given: text, audio, image or embedding."""
    segments: Tensor | None = None
    """[batch, position] sentence of each token, where ``token_type_ids`` were given."""
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
    reduced: list[tuple[list[int], Readout]] = field(default_factory=list)
    """Distributions that were reduced together, and the tokens' positions; to be taken apart when they are needed."""
    taken_apart: dict[int, Readout] = field(default_factory=dict)
    """Those that were taken apart; see `readouts`."""
    pending: tuple[int, Tensor] | None = None
    """A row whose next token is not known yet, and its logits ``[batch, vocab]``."""
    unread: list[Unread] = field(default_factory=list)
    """Rows whose next token is known, to be reduced together."""
    scratch: Tensor | None = None
    """float32 [3, row, vocab] memory to reduce distributions in, while the run goes on."""
    hidden: list[tuple[int, Tensor]] = field(default_factory=list)
    """Final hidden states of rows without logits: first position and ``[batch, position, hidden]``."""
    covered: int = 0
    """Positions whose rows have logits reduced or hidden states kept."""
    head: OutputHead | None = None
    ancestry: Tensor | None = None
    """[sequence, step] in beam search: the batch slot of the row that chose each token; −1 after a sequence's end."""
    beams: Any = None
    """The beam search, with all that it looked at."""
    rejected: list[Rejected] = field(default_factory=list)
    """Drafts that the model did not accept."""
    kernel: str = ""
    config: Any = None
    """The settings of the generation, if it is one."""
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

    @property
    def readouts(self) -> dict[int, Readout]:
        """Per token position t, what row t − 1 predicted."""
        waiting, self.reduced = self.reduced, []
        for positions, readout in waiting:
            self.taken_apart |= zip(positions, split(readout, self.batch), strict=True)
        return self.taken_apart

    @property
    def is_limited(self) -> bool:
        """Whether it is known how far the run may go."""
        return self.limit < UNLIMITED

    def scratch_for(self, rows: int, logits: Tensor) -> Tensor:
        """float32 ``[3, rows, vocab]`` to reduce rows of logits like these in; the same memory each time."""
        width = logits.shape[-1]
        if self.scratch is None or self.scratch.shape[2] != width or self.scratch.shape[1] < rows:
            self.scratch = memory_like(logits, 3, rows, width, dtype=torch.float32)
        return self.scratch[:, :rows]

    def reserve(self, like: Tensor, start: int, name: str | None) -> Rows:
        """Make room for rows like these fragments, which begin at ``start``, within the budget.

        Args:
            like: ``[batch, head, position, dim]`` the first fragment.
            start: Its first position.
            name: What the rows are called in a file; None if they have to stay in memory.

        Raises:
            CaptureBudgetError: If the run's buffers would take more than the budget.
            SpillError: If the rows go to files, and there is no room for them.
        """
        if self.spill is not None and name is not None:
            return FileRows(like, self.files, name, self.spill)
        if like.device.type == "cuda" and torch.cuda.is_available():
            courier = self.couriers.setdefault(like.device, Courier(like.device))
            return StagedRows(like, self.charge, courier)
        needed = start + like.shape[2]
        # On a host, memory that is never touched costs nothing.
        room = ROOM_AHEAD if self.is_limited and like.device.type == "cpu" else ROOM_TO_GROW
        return BufferRows(like, max(needed, min(self.limit, needed + room)), self.charge)

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

    def settle_masks(self) -> None:
        """Look at the values of masks that were put off."""
        for layer in self.layers.values():
            layer.settle()

    def continue_from(self, earlier: "Run", fed: int) -> None:
        """Take over what an earlier run, which holds nothing back, recorded at positions before ``fed``."""
        self.layers = {place: layer.continued(fed, self) for place, layer in earlier.layers.items()}
        self.encoder = earlier.encoder
        self.ids = list(earlier.ids)
        self.covered = min(earlier.covered, fed)
        self.hidden = list(earlier.hidden)
        self.head = earlier.head
        known = earlier.readouts if earlier.spill is None else earlier.spill.read_apart()
        self.taken_apart = {position: readout for position, readout in known.items() if position <= fed}
