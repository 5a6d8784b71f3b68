"""A beam search as plain data, before it is a picture: who continued whom, and when each branch was given up.

A search keeps a branch for a while and drops it later. Whether a branch is grey therefore depends on the step that one
looks at it from: `Hypothesis.pruned` names the position at which the last of its continuations was gone.
"""

from dataclasses import dataclass, replace
from typing import Literal

from gentrace.errors import ViewError
from gentrace.trace.trace import Trace
from gentrace.views.labels import label

State = Literal["returned", "alive", "pruned"]
"""Whether a branch leads to the trace's own sequence, may still be continued (or is complete), or was given up."""


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """One continuation that the search looked at, by the token that it adds."""

    position: int
    """Position of that token."""
    rank: int
    """Place among the continuations of its step; 0 is the best."""
    parent: int | None
    """Index of the hypothesis that it continues; None for the prompt."""
    label: str
    """Displayable text of the token."""
    logprob: float
    """Of the token under the model itself, in nats."""
    score: float
    """Summed log-probability of the whole hypothesis, in nats, before any length penalty."""
    beam: int | None
    """The beam in which it goes on; None if it was pruned or ended."""
    ended: bool
    """Whether it is complete, and stood among those that a search may return."""
    returned: bool
    """Whether it is on the way to the trace's own sequence."""
    pruned: int | None
    """Position at which nothing of it was left; None if it lasted to the end of the search or is complete."""


@dataclass(frozen=True, slots=True)
class Genealogy:
    """All hypotheses of a beam search."""

    width: int
    """Hypotheses that were kept at each step."""
    candidates: int
    """Most continuations that any step looked at."""
    positions: range
    """Positions of the tokens that were added."""
    hypotheses: tuple[Hypothesis, ...]
    """Position by position, best first."""

    def state(self, index: int, position: int) -> State:
        """What a hypothesis is once the step that added ``position`` is over."""
        one = self.hypotheses[index]
        if one.returned:
            return "returned"
        return "alive" if one.pruned is None or one.pruned > position else "pruned"

    def between(self, start: int, stop: int) -> list[int]:
        """Indices of the hypotheses whose tokens stand at positions ``start`` … ``stop`` − 1."""
        return [index for index, one in enumerate(self.hypotheses) if start <= one.position < stop]


def genealogy(trace: Trace) -> Genealogy:
    """The hypotheses of the beam search that a trace came out of.

    Raises:
        ViewError: If beams were not searched.
    """
    beams = trace.beams
    if beams is None or not beams.steps:
        change = "record a generation with num_beams=2 or more"
        raise ViewError("drawing a tree of beams", "the trace holds no beam search", change)
    rows: list[list[Hypothesis]] = []
    parents: dict[int, int] = {}
    count = 0
    for step in beams.steps:
        row = [
            Hypothesis(
                position=step.position,
                rank=rank,
                parent=parents.get(step.parents[rank]),
                label=label(step.texts[rank]),
                logprob=step.logprobs[rank],
                score=step.scores[rank],
                beam=step.beams[rank] if step.beams[rank] >= 0 else None,
                # What ends behind the best ``width`` is dropped: those are there to fill the beams up.
                ended=step.ended[rank] and rank < beams.width,
                returned=rank == step.chosen,
                pruned=None,
            )
            for rank in range(len(step.ids))
        ]
        rows.append(row)
        parents = {one.beam: count + rank for rank, one in enumerate(row) if one.beam is not None}
        count += len(row)
    flat = [one for row in rows for one in row]
    first = beams.steps[0].position
    return Genealogy(
        width=beams.width,
        candidates=max(len(row) for row in rows),
        positions=range(first, first + len(rows)),
        hypotheses=tuple(_with_ends(flat, first + len(rows) - 1)),
    )


def _with_ends(hypotheses: list[Hypothesis], last: int) -> list[Hypothesis]:
    """Say of each hypothesis when the last of its continuations was gone; children come after their parents."""
    ends: list[int | None] = [0] * len(hypotheses)
    children: list[list[int]] = [[] for _ in hypotheses]
    for index in range(len(hypotheses) - 1, -1, -1):
        one = hypotheses[index]
        lasting = one.ended or one.returned or (one.beam is not None and one.position == last)
        below = [ends[child] for child in children[index]]
        if lasting or None in below:
            ends[index] = None
        elif one.beam is None:
            ends[index] = one.position
        else:
            ends[index] = max([one.position + 1, *(end for end in below if end is not None)])
        if one.parent is not None:
            children[one.parent].append(index)
    return [replace(one, pruned=end) for one, end in zip(hypotheses, ends, strict=True)]
