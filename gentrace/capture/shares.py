"""Which part of a run belongs to each returned sequence: its columns without padding, and where they were computed."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from gentrace.capture.run import Run
from gentrace.errors import UnsupportedModel


@dataclass(frozen=True, slots=True, eq=False)
class Share:
    """One sequence's share of a run."""

    entry: int
    """The sequence's number among those that the run returned."""
    slots: Tensor
    """[position] the batch slot in which each row was computed; one and the same unless beams were searched."""
    columns: Tensor
    """[position] the run's column of each token, the last sampled one included."""
    fed: int
    """How many of them were fed to the model."""
    ids: Tensor
    """[position] token ids."""
    prompt_length: int
    kinds: tuple[str, ...]
    """[position] what stands there: text, a placeholder, a learned prefix or vectors."""
    encoder: "Share | None" = None
    """The share of the encoder's run, if there is one."""

    @property
    def rows(self) -> Tensor:
        """[position] the columns that were fed."""
        return self.columns[: self.fed]

    @property
    def slot(self) -> int | None:
        """The slot, if there is only one."""
        first = int(self.slots[0])
        return first if bool((self.slots[: max(1, self.fed)] == first).all()) else None

    @property
    def unbroken(self) -> bool:
        """Whether the columns are one run in one slot: no padding inside, no beams."""
        return self.slot is not None and (self.fed == 0 or int(self.rows[-1] - self.rows[0]) == self.fed - 1)


def shares_of(run: Run, placeholders: Mapping[int, str]) -> list[Share]:
    """One share per sequence, in the order in which they were returned.

    Args:
        run: The run.
        placeholders: Token ids that stand for something else than text, and for what.

    Raises:
        UnsupportedModel: If the tokens that were fed are not those that generate returned.
    """
    slots, totals, offset = _slots(run)
    count = len(totals)
    width = max(int(totals.max()), run.stop) if count else run.stop
    ids = _fed_ids(run, slots, width)
    if run.sequences is not None:
        returned = run.sequences.cpu()
        place = slice(offset, offset + returned.shape[1])
        _check_fed(run, ids[:, place], returned, totals - offset)
        ids[:, place] = returned
    fed = torch.full((count,), run.stop) if run.sequences is None else (totals - 1).clamp(max=run.stop)
    keep = _text(run, slots, width)
    shares = []
    for entry in range(count):
        columns = keep[entry, : totals[entry]].nonzero().flatten()
        own = slots[entry]
        shares.append(
            Share(
                entry,
                own[columns.clamp(max=len(own) - 1)],
                columns,
                int((columns < fed[entry]).sum()),
                ids[entry, columns],
                int((columns < run.prompt_stop).sum()),
                _kinds(ids[entry, columns], columns, offset if run.columns else 0, placeholders),
                None if run.encoder is None else _encoder_share(run.encoder, int(own[0]), run.batch),
            )
        )
    return shares


def _slots(run: Run) -> tuple[Tensor, Tensor, int]:
    """Slots ``[sequence, column]``, one past each sequence's last column, and the column of its first token."""
    if run.sequences is None or run.lengths is None:
        slots = torch.arange(run.batch)[:, None].expand(-1, max(1, run.stop))
        return slots, torch.full((run.batch,), run.stop), 0
    offset = run.prompt_stop - run.columns
    totals = offset + run.lengths.cpu()
    width = max(1, int(totals.max()), run.stop)
    if run.ancestry is None:
        return torch.arange(run.batch)[:, None].expand(-1, width), totals, offset
    prompt = run.ancestry[:, :1].expand(-1, max(0, run.prompt_stop - 1))
    slots = torch.cat([prompt, run.ancestry], 1)
    slots = torch.nn.functional.pad(slots, (0, max(0, width - slots.shape[1])), value=-1)
    return slots.clamp_min(0), totals, offset


def _fed_ids(run: Run, slots: Tensor, width: int) -> Tensor:
    """``[sequence, column]`` ids that were fed in each sequence's slots; −1 where they are unknown."""
    ids = torch.full((run.batch, width), -1, dtype=torch.int64)
    columns = torch.arange(slots.shape[1])
    own = torch.full((len(slots), width), -1, dtype=torch.int64)
    for start, given in run.ids:
        shown = given[:, : max(0, width - start)].cpu()
        ids[:, start : start + shown.shape[1]] = shown
    shared = min(width, slots.shape[1])
    own[:, :shared] = ids[slots[:, :shared], columns[:shared]]
    return own


def _check_fed(run: Run, fed: Tensor, returned: Tensor, lengths: Tensor) -> None:
    """Every token that was fed has to be the returned one; else the rows belong to another text."""
    width = min(fed.shape[1], returned.shape[1])
    column = torch.arange(width)
    start = run.prompt_stop - run.columns
    counts = (column < lengths[:, None] - 1) & (column + start < run.stop) & (fed[:, :width] >= 0)
    counts &= _text(run, None, start + width)[:, start:].expand(len(fed), -1) if run.ancestry is None else True
    wrong = counts & (fed[:, :width] != returned[:, :width])
    if bool(wrong.any()):
        sequence, place = wrong.nonzero()[0].tolist()
        raise UnsupportedModel(
            "recording a generation",
            f"token {int(fed[sequence, place])} was fed at position {place + start} of sequence {sequence}, generate "
            f"returned {int(returned[sequence, place])} there",
            "this way of generating is not supported",
        )


def text_columns(run: Run, width: int) -> Tensor:
    """``[slot, column]`` which of the first ``width`` columns are text and not padding."""
    return _text(run, None, width)


def _text(run: Run, slots: Tensor | None, width: int) -> Tensor:
    """``[sequence, column]`` which columns are text and not padding."""
    keep = torch.ones(run.batch, width, dtype=torch.bool)
    if run.padding is not None:
        first = max(0, run.padding_stop - run.padding.shape[1])
        shown = run.padding.cpu().bool()
        shown = shown.repeat_interleave(run.batch // len(shown), 0)[:, : max(0, width - first)]
        keep[:, first : first + shown.shape[1]] = shown
    return keep if slots is None else keep[slots[:, 0]]


def _encoder_share(run: Run, slot: int, batch: int) -> Share:
    """The share of the encoder's run that a decoder's slot looks at; several beams look at the same."""
    entry = slot // max(1, batch // run.batch)
    columns = _text(run, None, run.stop)[entry].nonzero().flatten()
    ids = torch.full((run.stop,), -1, dtype=torch.int64)
    for start, given in run.ids:
        ids[start : start + given.shape[1]] = given[entry].cpu()
    count = len(columns)
    kinds = (run.input_kind,) * count
    return Share(entry, torch.full((count,), entry), columns, count, ids[columns], count, kinds)


def _kinds(ids: Tensor, columns: Tensor, text_start: int, placeholders: Mapping[int, str]) -> tuple[str, ...]:
    """What stands at each position; columns before ``text_start`` belong to a prefix that is no part of the text."""
    kinds = []
    for token, column in zip(ids.tolist(), columns.tolist(), strict=True):
        unknown = "virtual" if column < text_start else "embedding"
        kinds.append(unknown if token < 0 else placeholders.get(token, "text"))
    return tuple(kinds)
