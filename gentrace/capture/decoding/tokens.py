"""Assembling `Tokens` from what was reduced on the way, and the prompt's share when it is first asked for."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gentrace.capture.decoding.probabilities import OutputHead, Readout, agrees, read_prompt, warn_unreadable
from gentrace.capture.decoding.texts import single_texts, split_text
from gentrace.capture.shares import Share
from gentrace.trace.tokens import Tokens

STATES_AT_ONCE = 4096


@dataclass(frozen=True, slots=True, eq=False)
class Readouts:
    """A run's readouts side by side, on the host."""

    columns: Tensor
    """[entry] the columns of the tokens they predicted."""
    readout: Readout
    """``[entry, batch]`` in place of ``[batch]``; NaN where nothing was sampled."""


def gather_readouts(readouts: dict[int, Readout]) -> Readouts | None:
    """Bring a run's readouts to the host in one transfer per quantity; None if there are none."""
    if not readouts:
        return None
    entries = [readouts[column] for column in sorted(readouts)]
    plain = {
        name: torch.stack([getattr(entry, name) for entry in entries]).cpu()
        for name in ("chosen", "logprob", "entropy", "rank", "top_ids", "top_logprobs")
    }
    sampled = [_or_nan(entry.sampled_logprob, entry.logprob) for entry in entries]
    top = [_or_nan(entry.top_sampled_logprobs, entry.top_logprobs) for entry in entries]
    readout = Readout(sampled_logprob=torch.stack(sampled).cpu(), top_sampled_logprobs=torch.stack(top).cpu(), **plain)
    return Readouts(torch.tensor(sorted(readouts)), readout)


def _or_nan(values: Tensor | None, like: Tensor) -> Tensor:
    return torch.full_like(like, torch.nan) if values is None else values


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """Tokens that are there already."""

    tokens: Tokens

    def __call__(self) -> Tokens:
        """The tokens."""
        return self.tokens


@dataclass(frozen=True, slots=True, eq=False)
class ReadTokens:
    """Tokens of an encoder's input, whose texts are made when they are first asked for."""

    ids: Tensor
    kinds: tuple[str, ...]
    tokenizer: Any

    def __call__(self) -> Tokens:
        """The tokens."""
        return Tokens.unpredicted(self.ids, split_text(self.tokenizer, self.ids.tolist()), self.kinds)

    def __reduce__(self) -> tuple[Any, ...]:
        return Known, (self(),)


class PendingTokens:
    """One sequence's tokens, put together when they are first asked for; lets go of the model's head afterwards."""

    def __init__(
        self,
        share: Share,
        readouts: Readouts | None,
        hidden: list[tuple[int, Tensor]],
        head: OutputHead | None,
        tokenizer: Any,
        top_k: int,
    ) -> None:
        """Keep what is needed.

        Args:
            share: The sequence's share of the run.
            readouts: The run's readouts.
            hidden: Final hidden states: first column and ``[batch, column, hidden]``.
            head: The model's output head, if it has one.
            tokenizer: For texts, or None.
            top_k: Alternatives per position.
        """
        self._ids = share.ids
        self._kinds = share.kinds
        self._prompt_length = share.prompt_length
        self._columns = share.columns
        self._entry = share.entry
        self._readouts = readouts
        # A view would keep the whole batch's states alive.
        slot = int(share.slots[0]) if len(share.slots) else 0
        self._hidden = [(start, states[slot].clone() if len(states) > 1 else states[0]) for start, states in hidden]
        self._head = head
        self._tokenizer = tokenizer
        self._top_k = top_k
        self._tokens: Tokens | None = None

    @torch.no_grad()
    def __call__(self) -> Tokens:
        """The tokens."""
        if self._tokens is None:
            self._tokens = self._assemble()
            self._head, self._hidden, self._readouts = None, [], None
        return self._tokens

    def __reduce__(self) -> tuple[Any, ...]:
        # Neither the model's head nor a tokenizer belongs into a pickle or a copy.
        return Known, (self(),)

    def _assemble(self) -> Tokens:
        length, top_k = len(self._ids), self._top_k
        table: dict[str, Tensor] = {
            "logprobs": torch.full((length,), torch.nan),
            "sampled_logprobs": torch.full((length,), torch.nan),
            "entropy": torch.full((length,), torch.nan),
            "rank": torch.full((length,), -1, dtype=torch.int64),
            "top_ids": torch.full((length, top_k), -1, dtype=torch.int64),
            "top_logprobs": torch.full((length, top_k), torch.nan),
            "top_sampled_logprobs": torch.full((length, top_k), torch.nan),
        }
        self._fill_from_readouts(table)
        self._fill_prompt(table)
        for values in table.values():
            values[0] = -1 if values.dtype == torch.int64 else torch.nan
        for name in ("sampled_logprobs", "top_sampled_logprobs"):
            table[name][: self._prompt_length] = torch.nan
        return Tokens(
            ids=self._ids,
            texts=split_text(self._tokenizer, self._ids.tolist()),
            prompt_length=self._prompt_length,
            kinds=self._kinds,
            top_texts=single_texts(self._tokenizer, table["top_ids"].tolist()),
            **table,
        )

    def _fill_from_readouts(self, table: dict[str, Tensor]) -> None:
        found = self._readouts
        if found is None:
            return
        # A readout belongs to the token in the column after its row, unless padding lies there.
        columns = self._columns.tolist()
        place = {before + 1: position for position, before in enumerate(columns[:-1], start=1)} | {columns[0]: 0}
        entries = [index for index, column in enumerate(found.columns.tolist()) if column in place]
        positions = torch.tensor([place[int(found.columns[index])] for index in entries], dtype=torch.int64)
        here = torch.tensor(entries, dtype=torch.int64), self._entry
        _write(table, positions, found.readout.each(lambda column: column[here]), self._ids)

    def _fill_prompt(self, table: dict[str, Tensor]) -> None:
        """Put the hidden states of rows that had no logits through the output head."""
        missing = table["top_ids"][:, 0] < 0
        found = {place: self._row_before(place) for place in range(1, len(self._columns)) if missing[place]}
        waiting = {position: row for position, row in found.items() if row is not None}
        if not waiting:
            return None
        if self._head is None:
            return warn_unreadable("the model has no output head that could be found")
        if not self._head.unchanged():
            return warn_unreadable(
                "the output head's weights changed after the recording; read trace.tokens before that"
            )
        if not self._head_agrees(self._head, table):
            return warn_unreadable("the output head does not reproduce the model's own logits outside of its forward")
        # Piece by piece, since states that were put aside in a file would all be in memory otherwise.
        for start in range(0, len(waiting), STATES_AT_ONCE):
            where = torch.tensor(list(waiting)[start : start + STATES_AT_ONCE])
            states = torch.stack([waiting[position] for position in where.tolist()])
            readout = read_prompt(self._head, states, self._ids[where].to(states.device), self._top_k)
            _write(table, where, readout, self._ids)
        return None

    def _head_agrees(self, head: OutputHead, table: dict[str, Tensor]) -> bool:
        """Check the head on a row whose logits the model itself computed; without such a row it is taken as it is."""
        for position in range(1, len(self._columns)):
            row = self._row_before(position) if table["top_ids"][position, 0] >= 0 else None
            if row is not None:
                known = table["top_ids"][position][None], table["top_logprobs"][position][None]
                try:
                    return agrees(head, row[None], *known)
                except Exception:
                    # The head of an unusual model may want anything of its decoder.
                    return False
        return True

    def _row_before(self, position: int) -> Tensor | None:
        """``[hidden]`` the final state of the token before, which lies further back where padding lies between."""
        column = int(self._columns[position - 1])
        for start, hidden in reversed(self._hidden):
            if start <= column < start + len(hidden):
                return hidden[column - start]
        return None


def _write(table: dict[str, Tensor], positions: Tensor, readout: Readout, ids: Tensor) -> None:
    """Put readouts in their places; what concerns the token itself only where it is the one that followed."""
    same = readout.chosen.cpu() == ids[positions]
    k = readout.top_ids.shape[-1]
    table["entropy"][positions] = readout.entropy.cpu()
    table["top_ids"][positions, :k] = readout.top_ids.cpu()
    table["top_logprobs"][positions, :k] = readout.top_logprobs.cpu()
    table["logprobs"][positions] = readout.logprob.cpu().masked_fill(~same, torch.nan)
    table["rank"][positions] = readout.rank.cpu().masked_fill(~same, -1)
    if readout.sampled_logprob is not None and readout.top_sampled_logprobs is not None:
        table["sampled_logprobs"][positions] = readout.sampled_logprob.cpu().masked_fill(~same, torch.nan)
        table["top_sampled_logprobs"][positions, :k] = readout.top_sampled_logprobs.cpu()
