"""Beam search: every hypothesis at each step, and which slot of the batch the rows of a returned one were computed in.

After each step the search keeps the best continuations and shuffles the cache accordingly. Recorded rows stay where
they were computed; a sequence's own rows are found by walking back through its ancestors.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from gentrace.capture.decoding.probabilities import Readout, read_out
from gentrace.capture.run import Run


@dataclass(slots=True, eq=False)
class Continuations:
    """The continuations that were looked at in one step, best first."""

    slots: Tensor
    """[batch, candidate] the batch slot that each continues."""
    ids: Tensor
    """[batch, candidate] the token that it adds."""
    scores: Tensor
    """[batch, candidate] its summed log-probability, in nats."""
    readout: Readout
    """Of the token under the row that it continues, ``[batch · candidate]``."""
    kept: Tensor | None = None
    """[batch, beam] the candidates that go on, in the order of the slots that they go on in."""
    ended: Tensor | None = None
    """[batch, candidate] whether a stopping criterion ended it."""


class Beams:
    """One beam search."""

    def __init__(self, beams: int, returned: int) -> None:
        """Begin.

        Args:
            beams: Hypotheses that are kept for each prompt.
            returned: Sequences that are returned for each.
        """
        self.beams = beams
        self.returned = returned
        self.steps: list[Continuations] = []
        self._finished: tuple[Tensor, Tensor] | None = None
        self._columns = 0

    def note_candidates(
        self, run: Run, result: tuple[Tensor, Tensor, Tensor], column: int, step: int, given: list[Tensor], top_k: int
    ) -> None:
        """Take down the best continuations of one step.

        Args:
            run: Where the search is recorded; the rows' logits are waiting in it.
            result: Their summed log-probabilities ``[batch, candidate]``, sequences ``[batch, candidate, column]`` and
                ancestors ``[batch, candidate, step]``.
            column: Column of the new token.
            step: Number of the step.
            given: ``[slot, vocab]`` the processed log-probabilities, if there are any.
            top_k: Alternatives to keep.
        """
        scores, sequences, ancestors = result
        ids, slots = sequences[:, :, column], ancestors[:, :, step].long()
        pending, run.pending = run.pending, None
        if pending is None:
            return
        self._columns = column - step
        flat = slots.flatten()
        logits = pending[1][:, -1].index_select(0, flat.to(pending[1].device))
        sampled = given[0].index_select(0, flat.to(given[0].device)) if given else None
        readout = read_out(logits, ids.flatten().to(logits.device), top_k, sampled)
        self.steps.append(Continuations(slots.clone(), ids.clone(), scores.clone(), readout))

    def note_running(self, result: tuple[Tensor, Tensor, Tensor]) -> None:
        """Take down which continuations go on: sequences, scores and ancestors of the running beams."""
        if not self.steps:
            return
        newest, step = self.steps[-1], len(self.steps) - 1
        sequences, _, ancestors = result
        slots, ids = ancestors[:, :, step].long(), sequences[:, :, self._columns + step]
        same = (newest.slots[:, None] == slots[:, :, None]) & (newest.ids[:, None] == ids[:, :, None])
        newest.kept = same.int().argmax(-1)

    def note_finished(self, ended: Tensor, result: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
        """Take down which continuations ended, and the ancestors of the best finished sequences."""
        if self.steps:
            self.steps[-1].ended = ended.clone()
        self._finished = result[0], result[2]

    def ancestors(self) -> Tensor:
        """``[sequence, step]`` slots of the returned sequences; −1 after a sequence's end."""
        if self._finished is None:
            return torch.zeros(0, 0, dtype=torch.int64)
        return self._finished[1][:, : self.returned].flatten(0, 1)[:, : len(self.steps)].long().cpu()

    def sequences(self) -> Tensor | None:
        """``[sequence, column]`` the returned texts, prompts included."""
        if self._finished is None:
            return None
        length = self._columns + int(self.lengths().max())
        return self._finished[0][:, : self.returned].flatten(0, 1)[:, :length]

    def lengths(self) -> Tensor:
        """``[sequence]`` tokens that were generated in each returned sequence."""
        return (self.ancestors() >= 0).sum(1)

    def close(self, run: Run) -> None:
        """Give the run the ancestry of what was returned, and its tokens' probabilities sequence by sequence."""
        run.ancestry = slots = self.ancestors()
        run.beams = self
        sequences = torch.arange(len(slots))
        for position in [position for position in run.readouts if position < run.prompt_stop]:
            run.readouts[position] = _pick(run.readouts[position], slots[:, 0])
        for step, looked_at in enumerate(self.steps):
            group = sequences // self.returned
            column = self._columns + step
            if run.sequences is None or column >= run.sequences.shape[1]:
                break
            ids = run.sequences[:, column].cpu()
            same = (looked_at.slots.cpu()[group] == slots[:, step, None]) & (looked_at.ids.cpu()[group] == ids[:, None])
            place = group * looked_at.ids.shape[1] + same.int().argmax(1)
            offset = run.prompt_stop - run.columns
            run.readouts[offset + column] = _pick(looked_at.readout, place)


def _pick(readout: Readout, place: Tensor) -> Readout:
    return readout.each(lambda column: column[place.to(column.device)])
