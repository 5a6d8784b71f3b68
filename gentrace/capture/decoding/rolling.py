"""Distributions of a generation that goes on steadily: rows of logits are put side by side and reduced many at a time.

The rows' memory is the recorder's own and used again and again, so that nothing of a step's logits is kept alive.
"""

from dataclasses import replace

import torch
from torch import Tensor

from gentrace.capture.decoding.distributions import READ_TOGETHER
from gentrace.capture.decoding.probabilities import read_out
from gentrace.capture.run import Run


class Rolling:
    """The newest rows of logits of one run, one position after the other."""

    def __init__(self, run: Run, like: Tensor, top_k: int) -> None:
        """Make room.

        Args:
            run: Where the reduced rows go.
            like: ``[batch, 1, vocab]`` logits.
            top_k: Alternatives to keep.
        """
        batch, _, vocab = like.shape
        rows = max(1, READ_TOGETHER // (batch * vocab))
        # A buffer made in inference mode could not be written to outside of it.
        with torch.inference_mode(False):
            self._room = torch.empty(2, rows, batch, vocab, device=like.device)
        self._run = run
        self._top_k = top_k
        self._first = 0
        self._count = 0
        self._chosen: list[Tensor] = []
        self._scores: list[Tensor] = []
        self._sampled = False

    def put(self, logits: Tensor, position: int) -> None:
        """Add the row ``[batch, 1, vocab]`` at a position; its token follows."""
        if not self._count:
            self._first = position
        self._room[0, self._count].copy_(logits[:, 0])
        self._count += 1

    def follow(self, ids: Tensor, scores: Tensor | None, *, sampled: bool) -> None:
        """Take note of the token ``[batch, 1]`` that followed the newest row.

        Args:
            ids: The token.
            scores: ``[batch, vocab]`` what it was really sampled from; None if that were the logits, or if nothing was.
            sampled: Whether anything was.
        """
        if len(self._chosen) == self._count:
            return
        self._chosen.append(ids)
        self._sampled = sampled
        if scores is not None:
            self._scores.append(scores)
        if self._count == self._room.shape[1]:
            self._reduce()

    def reduce(self) -> None:
        """Reduce the rows whose tokens are known; the newest may have to wait for its own."""
        complete = len(self._chosen)
        waiting = self._room[0, complete].clone() if self._count > complete else None
        self._count = complete
        self._reduce()
        if waiting is not None:
            self._room[0, 0].copy_(waiting)
            self._first, self._count = self._first + complete, 1

    def close(self) -> None:
        """Reduce what is complete; a row whose token is not known yet is left to the run."""
        self.reduce()
        if self._count:
            self._run.pending = self._first, self._room[0, 0][:, None].clone()
            self._count = 0

    def _reduce(self) -> None:
        count, self._count = self._count, 0
        if not count:
            return
        room = self._room[:, :count].flatten(1, 2)
        given = torch.cat(self._scores) if len(self._scores) == count else None
        # The rows are reduced where they lie: they are not needed afterwards.
        readout = read_out(room[0], torch.cat(self._chosen).squeeze(1), self._top_k, given, room)
        if self._sampled and given is None:
            readout = replace(readout, sampled_logprob=readout.logprob, top_sampled_logprobs=readout.top_logprobs)
        positions = list(range(self._first + 1, self._first + 1 + count))
        self._run.reduced.append((positions, readout))
        self._chosen, self._scores = [], []
