"""What is drawn of one step, as plain data, before it is a terminal's or a page's."""

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gentrace.capture.decoding.texts import Splitter, single_texts, split_text
from gentrace.capture.glance import Glance
from gentrace.trace.info import Kind

STRONGEST = 5
"""Alternatives, and tokens looked at, that are named."""


@dataclass(frozen=True, slots=True)
class Text:
    """Tokens, and how the newest one looks at them."""

    pieces: tuple[str, ...]
    """[position] each token's share of the text, as it is: whatever a model may write."""
    weights: tuple[float, ...]
    """[key] 0 … 1 for the tokens that it looks back at, which are all or the first ones; empty if no layer is read."""

    @property
    def shares(self) -> tuple[float, ...]:
        """[position] 0 … 1 how strongly to paint each token.

        The first token often takes nearly everything, so full is the strongest of the others.
        """
        full = max(self.weights[1:], default=0.0) or max(self.weights, default=0.0) or 1.0
        shares = tuple(min(1.0, weight / full) for weight in self.weights)
        return shares + (0.0,) * (len(self.pieces) - len(shares))

    @property
    def strongest(self) -> tuple[tuple[str, float], ...]:
        """The tokens that are looked at most, and their weights."""
        places = heapq.nlargest(STRONGEST, range(len(self.weights)), key=lambda place: self.weights[place])
        return tuple((self.pieces[place], self.weights[place]) for place in places)


@dataclass(frozen=True, slots=True)
class Frame:
    """One step."""

    title: str
    """Whose attention it is."""
    text: Text
    source: Text | None
    """What the encoder was given, under cross-attention; None without an encoder."""
    position: int
    """The newest token that looked back."""
    prompt_length: int
    probability: float | None
    """Of the newest token under the model itself, 0 … 1."""
    next: tuple[tuple[str, float], ...]
    """What may follow `position`, best first, with probabilities."""
    rate: float | None
    """Generated tokens a second; None before there are two."""
    finished: bool

    @property
    def generated(self) -> int:
        """Tokens that were generated."""
        return len(self.text.pieces) - self.prompt_length


class Camera:
    """Makes frames of glances at one run after the other."""

    def __init__(self, tokenizer: Any, layer: int | None, head: int | None, clock: Callable[[], float]) -> None:
        """Choose what to look at.

        Args:
            tokenizer: For texts, or None.
            layer: Layer number; None for the last one recorded.
            head: Query head; None for the mean of all.
            clock: Seconds.
        """
        self._tokenizer = tokenizer
        self._layer = layer
        self._head = head
        self._clock = clock
        self._ids: list[int] = []
        self._pieces: list[str] = []
        self._splitter = Splitter(tokenizer)
        self._begun: tuple[float, int] | None = None
        self._source: tuple[str, ...] = ()

    def begin(self, glance: Glance) -> None:
        """A generation shows itself for the first time."""
        self._begun = self._clock(), len(glance.ids)
        self._source = split_text(self._tokenizer, list(ids)) if (ids := glance.encoder_ids) else ()

    def take(self, glance: Glance) -> Frame:
        """Read what is to be drawn.

        Raises:
            AttentionUnavailable: If the layer or head was not recorded.
        """
        ids = glance.ids
        pieces = self._split(ids)
        layer, weights = self._row(glance, "self")
        _, cross = self._row(glance, "cross")
        return Frame(
            title=self._title(layer, glance),
            text=Text(pieces, weights),
            source=Text(self._source, cross) if cross else None,
            position=glance.position,
            prompt_length=glance.prompt_length,
            probability=glance.probability,
            next=tuple((self._single(token), share) for token, share in glance.alternatives(STRONGEST)),
            rate=self._rate(len(ids)),
            finished=glance.finished,
        )

    def _row(self, glance: Glance, kind: Kind) -> tuple[int | None, tuple[float, ...]]:
        numbers = [info.index for info in glance.layers if info.kind == kind]
        if not numbers:
            return None, ()
        layer = max(numbers) if self._layer is None else self._layer
        row = glance.attention(layer, self._head, kind=kind)
        return layer, tuple((row if self._head is not None else row.mean(0)).tolist())

    def _title(self, layer: int | None, glance: Glance) -> str:
        if layer is None:
            return "no layer is recorded"
        if self._head is not None:
            return f"layer {layer} · head {self._head}"
        heads = next(info.heads for info in glance.layers if info.index == layer and info.kind == "self")
        return f"layer {layer} · mean of {heads} heads" if heads > 1 else f"layer {layer} · its only head"

    def _split(self, ids: tuple[int, ...]) -> tuple[str, ...]:
        if list(ids[: len(self._ids)]) != self._ids:
            self._ids, self._pieces, self._splitter = [], [], Splitter(self._tokenizer)
        for token in ids[len(self._ids) :]:
            self._pieces.append(self._piece(token))
        self._ids = list(ids)
        return tuple(self._pieces)

    def _piece(self, token: int) -> str:
        if self._tokenizer is None:
            return f"[{token}]"
        return self._splitter.add(token) if token >= 0 else ""

    def _single(self, token: int) -> str:
        return single_texts(self._tokenizer, [[token]])[0][0]

    def _rate(self, length: int) -> float | None:
        if self._begun is None:
            return None
        seconds, tokens = self._clock() - self._begun[0], length - self._begun[1]
        return tokens / seconds if tokens > 0 and seconds > 0 else None
