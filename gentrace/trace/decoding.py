"""What decoding looked at and did not return: the hypotheses of a beam search, and drafts that were rejected."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BeamStep:
    """The continuations that a beam search looked at in one step, best first; one entry a candidate in each field."""

    position: int
    """Position of the token that they add."""
    parents: tuple[int, ...]
    """The beam that each continues, 0 … width − 1."""
    ids: tuple[int, ...]
    """The token that it adds."""
    texts: tuple[str, ...]
    """That token decoded on its own."""
    scores: tuple[float, ...]
    """Summed log-probability of the hypothesis, in nats, after processors and before any length penalty."""
    logprobs: tuple[float, ...]
    """Log-probability of the token under the model itself, in nats."""
    beams: tuple[int, ...]
    """The beam in which it goes on in the next step; −1 if it was pruned or ended."""
    ended: tuple[bool, ...]
    """Whether a stopping criterion ended it."""
    chosen: int
    """The candidate on the way to this trace's sequence; −1 after the sequence's end."""


@dataclass(frozen=True, slots=True)
class Beams:
    """The genealogy of a beam search, for the prompt that a trace continues."""

    width: int
    """Hypotheses that were kept at each step."""
    steps: tuple[BeamStep, ...]
    """In the order of the tokens."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A drafted token that the model did not accept."""

    position: int
    """Where it would have stood."""
    id: int
    """The token."""
    text: str
    """The token decoded on its own."""
    logprob: float
    """Its log-probability under the model, after the drafts before it, in nats."""
    follows: bool = False
    """Whether it stood behind another rejected draft, the one before it in the trace, and so after a text that did not
    come to be."""
