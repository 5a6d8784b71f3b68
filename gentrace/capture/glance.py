"""One step of a generation, to be looked at while the generation goes on.

A glance knows where things lie and reads them only when it is asked, so that whoever draws now and then pays for what
is drawn.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from gentrace.capture.newest import row_of
from gentrace.capture.run import Run
from gentrace.capture.shares import text_columns
from gentrace.capture.steady import Lane
from gentrace.errors import AttentionUnavailable
from gentrace.trace.info import Kind, LayerInfo


class FedIds:
    """The ids that one sequence of a run was fed, brought to the host when somebody reads them."""

    def __init__(self, run: Run, slot: int) -> None:
        """Begin with what the run was fed before."""
        self._run = run
        self._slot = slot
        self._known: list[int] = []
        self._waiting: list[tuple[int, Tensor]] = []
        self._taken = 0

    def take(self, lane: Lane | None) -> None:
        """Take note of what the newest forward was fed; a steady path holds its own."""
        self._waiting += [(start, ids[self._slot]) for start, ids in self._run.ids[self._taken :]]
        self._taken = len(self._run.ids)
        if lane is not None and lane._ids:
            self._waiting.append((lane.fed, lane._ids[-1][self._slot]))

    def read(self) -> list[int]:
        """[column] all of them; −1 where unknown."""
        known = self._known
        for start, ids in self._waiting:
            known += [-1] * (start - len(known))
            known[start : start + len(ids)] = ids.tolist()
        self._waiting = []
        return known


@dataclass(frozen=True, slots=True, eq=False)
class Glance:
    """One sequence of a generation after one of its steps.

    Token `position` has just looked back; the token after it is not chosen yet. Read a glance before the model's next
    forward begins: later, what it reads from may have been overwritten.
    """

    run: Run
    """What is collected, of all sequences."""
    lane: Lane | None
    """The steady path that the step took."""
    fed: FedIds
    slot: int
    """The sequence's place in the batch."""
    column: int
    """The column of the newest token that looked back, padding counted."""
    prompt_stop: int
    """One past the prompt's last column."""
    before: Tensor | None
    """[vocab] logits that the token in this column was chosen from; None if unknown."""
    logits: Tensor | None
    """[vocab] logits that its row predicts; None where the model has no such output."""
    last: int | None = None
    """The last token of a generation that has ended, which never looks back."""

    @property
    def finished(self) -> bool:
        """Whether the generation has ended: then the last of `ids` never looked back."""
        return self.last is not None

    @property
    def position(self) -> int:
        """The newest token that looked back, in the sequence's own positions."""
        return len(self._columns("self")) - 1

    @property
    def ids(self) -> tuple[int, ...]:
        """[position] the text so far, without padding; −1 where an id is unknown."""
        fed = self.fed.read()
        ids = tuple(fed[column] for column in self._columns("self").tolist())
        return ids if self.last is None else (*ids, self.last)

    @property
    def prompt_length(self) -> int:
        """Tokens that were given."""
        return int((self._columns("self") < self.prompt_stop).sum())

    @property
    def probability(self) -> float | None:
        """Of the last of `ids` under the model itself, 0 … 1; None if unknown, as in a prompt."""
        logits, token = (self.before, self.fed.read()[self.column]) if self.last is None else (self.logits, self.last)
        return None if logits is None or token < 0 else float(logits.float().softmax(-1)[token])

    @property
    def layers(self) -> tuple[LayerInfo, ...]:
        """The layers that are recorded."""
        return tuple(layer.info for layer in self.run.layers.values())

    @property
    def encoder_ids(self) -> tuple[int, ...]:
        """[position] the encoder's input, which cross-attention looks at; −1 where it is no token."""
        encoder, columns = self.run.encoder, self._columns("cross").tolist()
        ids = dict.fromkeys(columns, -1)
        if encoder is not None:
            entry = self._encoder_entry(encoder)
            for start, given in encoder.ids:
                known = enumerate(given[entry].tolist(), start)
                ids |= {column: token for column, token in known if column in ids}
        return tuple(ids.values())

    def attention(self, layer: int, head: int | None = None, *, kind: Kind = "self") -> Tensor:
        """How token `position` looks back.

        Args:
            layer: The model's layer number.
            head: One query head, or None for all.
            kind: "self", or "cross" for a look at the encoder's positions.

        Returns:
            float32 ``[head, key]`` or ``[key]`` on the CPU, over the tokens up to `position` or over the encoder's. It
            is the row that `Trace.attention` will have there.

        Raises:
            AttentionUnavailable: If the layer is not recorded, has no such head, or did not attend in this step.
            SpillError: If the disk took no more of the recording.
        """
        found = self.run.layers.get((kind, layer))
        attempted = f"watching {kind} attention of layer {layer}"
        if found is None or kind == "encoder":
            recorded = ", ".join(str(info.index) for info in self.layers if info.kind == kind) or "none"
            raise AttentionUnavailable(attempted, f"layers recorded: {recorded}", "choose one of them")
        if head is not None and not 0 <= head < found.info.heads:
            heads = f"{found.info.name} has heads 0 … {found.info.heads - 1}"
            raise AttentionUnavailable(f"{attempted}, head {head}", heads, "choose one of them")
        if self.run.spill is not None and self.run.spill.failure is not None:
            raise self.run.spill.failure
        # A result of inference mode could not be used outside of it.
        with torch.inference_mode(False), torch.no_grad():
            row = row_of(self.run, self.lane, found, self.slot, self.column)
            if row is not None:
                row = row[:, self._columns(kind)]
                return row if head is None else row[head]
        seen = f"{found.info.name} did not attend at position {self.position}"
        raise AttentionUnavailable(attempted, seen, "choose another layer")

    def alternatives(self, count: int) -> tuple[tuple[int, float], ...]:
        """The likeliest tokens to follow `position`, best first: ids, and probabilities under the model itself.

        They are not in the trace before the token is chosen. Empty where the model has no such output.
        """
        if self.logits is None:
            return ()
        values, ids = self.logits.float().softmax(-1).topk(min(count, len(self.logits)))
        return tuple(zip(ids.tolist(), values.tolist(), strict=True))

    def _columns(self, kind: Kind) -> Tensor:
        """[position] the columns of keys that are no padding."""
        encoder = self.run.encoder
        if kind == "self":
            return text_columns(self.run, self.column + 1)[self.slot].nonzero().flatten()
        if encoder is not None:
            return text_columns(encoder, encoder.stop)[self._encoder_entry(encoder)].nonzero().flatten()
        known = [layer.keys_known() for (of, _), layer in self.run.layers.items() if of == "cross"]
        return torch.arange(max(known, default=0))

    def _encoder_entry(self, encoder: Run) -> int:
        return self.slot // max(1, self.run.batch // encoder.batch)
