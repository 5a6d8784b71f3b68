"""Recording to disk: the rows of a run go to files while it goes on, one file for each of its sequences.

A file is a trace's own from the first forward on (see `gentrace.trace.growing`), so a process that is killed leaves
traces behind that can be opened, and what was written need not be kept in memory.
"""

import itertools
import os
import tempfile
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gentrace.capture.decoding.distributions import reduce_waiting
from gentrace.capture.decoding.probabilities import Readout
from gentrace.capture.decoding.texts import split_text
from gentrace.capture.decoding.tokens import Readouts, gather_readouts
from gentrace.capture.descriptions import describe
from gentrace.capture.layers import Placed, VectorLayer
from gentrace.capture.rows import FileRows
from gentrace.capture.run import Run
from gentrace.capture.shares import Share, text_columns
from gentrace.errors import SpillError, UnsupportedModel
from gentrace.trace.body import TOKEN_TENSORS, describe_start, describe_trace
from gentrace.trace.file import load
from gentrace.trace.growing import GrowingFile
from gentrace.trace.info import Kind, Meta
from gentrace.trace.trace import Trace

STEPS = 16
"""Forwards after which what was recorded is committed."""
FIRST_ROOM = 1024
"""Positions to make room for where it is not known how far a run may go."""
MORE_TEXT = 1.25
"""By how much the text has to grow before it is written again."""

READOUT_FIELDS = {
    "logprobs": "logprob",
    "entropy": "entropy",
    "rank": "rank",
    "top_ids": "top_ids",
    "top_logprobs": "top_logprobs",
    "sampled_logprobs": "sampled_logprob",
    "top_sampled_logprobs": "top_sampled_logprobs",
}
"""A trace's tensors of tokens, and what they are called in a readout."""

Runs = list[list[int | None]]


class Spill:
    """The files of one run."""

    def __init__(self, folder: Path, run: Run, top_k: int, tokenizer: Any, *, goes_on: bool) -> None:
        """Make the files.

        Args:
            folder: Where.
            run: The run that is about to begin.
            top_k: Alternatives per position.
            tokenizer: For texts, or None.
            goes_on: Whether the model goes on unrecorded when the disk is full.

        Raises:
            SpillError: If they cannot be made.
        """
        self.folder = folder
        self.failure: SpillError | None = None
        self._run = run
        self._top_k = top_k
        self._tokenizer = tokenizer
        self._goes_on = goes_on
        self._masks: dict[tuple[Kind, int], int] = {}
        self._written: dict[tuple[Kind, int], int] = {}
        """Per layer, how many of its fragments' masks are in the files."""
        self._mask_count = 0
        self._no_runs: set[int] = set()
        """Masks of which some rows are not one run of columns."""
        self._ids_written = 0
        self._reduced: set[int] = set()
        """Columns of tokens whose distributions are in the files."""
        self._texts_at = 0
        self._columns: list[Runs] = []
        self._meta: Meta | None = None
        self.files: list[GrowingFile] = []
        room = run.limit + 1 if run.is_limited else FIRST_ROOM
        for _ in range(run.batch):
            self.files.append(GrowingFile(_free_name(folder), room))
        self._place_tokens()

    @property
    def is_due(self) -> bool:
        """Whether it is time to commit what was recorded since."""
        return self._run.forwards % STEPS == 0

    def fail(self, error: SpillError) -> None:
        """The disk is full: stop, or let the model go on without being recorded.

        Raises:
            SpillError: The error itself, if the model is to stop.
        """
        for file in self.files:
            file.abandon()
        if self.failure is None:
            self.failure = error
            if self._goes_on:
                warnings.warn(f"recording ended, the model goes on: {error}", RuntimeWarning, stacklevel=2)
        if not self._goes_on:
            raise error

    def after_forward(self, model: nn.Module) -> None:
        """Commit what was recorded by a forward of this model, if it is time to.

        Raises:
            SpillError: If the disk is full and the model is to stop.
        """
        if self._meta is None:
            self._meta = describe(self._run, model)
        if self._run.forwards == 1 or self.is_due:
            self.commit()

    def commit(self) -> None:
        """Write rows, masks, ids and probabilities that are new, and say that they are there.

        Raises:
            SpillError: If the disk is full and the model is to stop.
        """
        if self.failure is not None or self._meta is None:
            return
        run = self._run
        try:
            run.flush()
            reduce_waiting(run, self._top_k)
            if not self._columns:
                self._columns = [_runs_of(keep) for keep in text_columns(run, run.stop)]
            known = len(self._masks)
            self._write_masks()
            self._write_ids()
            self._write_readouts()
            grown = run.stop >= MORE_TEXT * self._texts_at
            if grown or len(self._masks) != known:
                self._describe()
            for file in self.files:
                file.commit(run.stop)
        except SpillError as error:
            self.fail(error)

    def complete(self, trace: Trace, share: Share) -> Trace:
        """Put what is known in the end into a sequence's file, and open it.

        Args:
            trace: The sequence's trace, without the tensors that are in the file already.
            share: Its share of the run.

        Raises:
            SpillError: If the disk is full.
            UnsupportedModel: If the sequence's rows are not all in one slot.
        """
        if share.slot is None:
            raise refuse_beams()
        file = self.files[share.slot]
        if self.failure is not None:
            return load(file.path)
        body = describe_trace(trace)
        numbers = {(kind, index): number for index, kind, number in body["masks"]}
        own = {place: self._masks[place] for place in numbers if place in self._masks}
        others = sorted({number for place, number in numbers.items() if place not in own})
        moved = {number: self._mask_count + place for place, number in enumerate(others)}
        body["masks"] = [[i, kind, own.get((kind, i), moved.get(number))] for i, kind, number in body["masks"]]
        for name in trace.store.names():
            if not name.startswith("masks."):
                file.add(name, trace.store.tensor(name))
        if trace.encoder_tokens is not None:
            file.add("encoder.ids", trace.encoder_tokens.ids)
        for number, place in moved.items():
            for part in ("start", "stop", "rows", "bits"):
                file.add(f"masks.{place}.{part}", trace.store.tensor(f"masks.{number}.{part}"))
        for place, number in {number: int(numbers[where]) for where, number in own.items()}.items():
            self._rewrite_mask(file, place, number, trace, share)
        for name in TOKEN_TENSORS:
            _write_positions(file, f"tokens.{name}", getattr(trace.tokens, name), share.columns)
        file.close(body | {"columns": _runs_of_columns(share.columns)})
        return load(file.path)

    def aside(self, states: Tensor) -> Tensor:
        """The same values, read from a file without a name when they are looked at.

        Raises:
            SpillError: If the disk is full and the model is to stop.
        """
        host = states.cpu().contiguous()
        descriptor, path = tempfile.mkstemp(dir=self.folder, prefix=".states.")
        name = Path(path)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(host.flatten().view(torch.uint8).numpy().data)
            mapped = torch.from_file(str(name), shared=False, size=host.numel(), dtype=host.dtype)
        except OSError as error:
            change = "make room on the disk, or record without spill_dir"
            self.fail(SpillError(f"writing {host.nbytes} bytes of hidden states to {self.folder}", str(error), change))
            return host
        finally:
            # The mapping keeps the bytes; nobody else has a use for the name.
            name.unlink()
        return mapped.view(host.shape)

    def readouts(self) -> Readouts | None:
        """All distributions that were reduced, read back."""
        columns = sorted(self._reduced)
        if not columns or self.failure is not None:
            return None
        where = torch.tensor(columns)
        found = {
            name: torch.stack([file.read(f"tokens.{name}", 0, columns[-1] + 1)[where] for file in self.files], 1)
            for name in ("ids", *READOUT_FIELDS)
        }
        sequences = self._run.sequences
        if sequences is not None and columns[-1] == self._run.stop:
            # The last token was never fed.
            found["ids"][-1] = sequences[:, -1].cpu()
        return Readouts(where, Readout(found["ids"], **{field: found[name] for name, field in READOUT_FIELDS.items()}))

    def read_apart(self) -> dict[int, Readout]:
        """The same, column by column."""
        found = self.readouts()
        if found is None:
            return {}
        columns = enumerate(found.columns.tolist())
        return {column: found.readout.each(lambda values, entry=entry: values[entry]) for entry, column in columns}

    def _place_tokens(self) -> None:
        for file in self.files:
            for name in ("ids", "rank"):
                file.allocate(f"tokens.{name}", torch.int64, ("position",))
            for name in ("logprobs", "sampled_logprobs", "entropy"):
                file.allocate(f"tokens.{name}", torch.float32, ("position",))
            file.allocate("tokens.top_ids", torch.int64, ("position", self._top_k))
            for name in ("top_logprobs", "top_sampled_logprobs"):
                file.allocate(f"tokens.{name}", torch.float32, ("position", self._top_k))

    def _spilled(self) -> dict[tuple[Kind, int], VectorLayer]:
        """The layers whose rows are in the files."""
        return {
            place: layer
            for place, layer in self._run.layers.items()
            if isinstance(layer, VectorLayer) and isinstance(layer.queries, FileRows)
        }

    def _write_masks(self) -> None:
        """Write the new fragments' masks, once for all layers that share them.

        A layer that goes its own way from now on gets a mask of its own.
        """
        groups: dict[tuple[int | None, tuple[int, ...]], list[tuple[Kind, int]]] = {}
        layers = self._spilled()
        for place, layer in layers.items():
            new = tuple(id(placed) for placed in layer.fragments[self._written.get(place, 0) :])
            groups.setdefault((self._masks.get(place), new), []).append(place)
        taken: set[int] = set()
        for (number, _), places in groups.items():
            first, start = layers[places[0]], self._written.get(places[0], 0)
            if number is None or number in taken:
                number, start = self._mask_count, 0
                self._mask_count += 1
                for file in self.files:
                    for part in ("start", "stop"):
                        file.allocate(f"masks.{number}.{part}", torch.int32, ("position",))
            taken.add(number)
            self._write_fragments(number, first.fragments[start:])
            for place in places:
                self._masks[place] = number
                self._written[place] = len(layers[place].fragments)

    def _write_fragments(self, number: int, fragments: Iterable[Placed]) -> None:
        for placed in fragments:
            placed.settle()
            start, stop = placed.mask.start, placed.mask.stop
            if placed.mask.dense is not None:
                # Runs would show keys that these rows do not see; the rows count as unseen until the file is complete.
                start, stop = torch.full_like(start, -1), torch.full_like(stop, -1)
                self._no_runs.add(number)
            for slot, file in enumerate(self.files):
                for part, edges in (("start", start), ("stop", stop)):
                    own = edges[min(slot, len(edges) - 1)].to(torch.int32).cpu()
                    file.write(f"masks.{number}.{part}", placed.landing.query_start, own)

    def _rewrite_mask(self, file: GrowingFile, place: int, number: int, trace: Trace, share: Share) -> None:
        """Write a mask whose rows were no runs of columns, as which it could not be streamed."""
        if place not in self._no_runs:
            return
        start, stop, rows, bits = (
            trace.store.tensor(f"masks.{number}.{part}") for part in ("start", "stop", "rows", "bits")
        )
        if len(rows):
            file.add(f"masks.{place}.rows", rows)
            file.add(f"masks.{place}.bits", bits)
        # Positions as columns again, which is how the file counts.
        column = torch.cat([share.rows, share.rows[-1:] + 1])
        first = column[start.clamp_min(0).long()].masked_fill(start < 0, -1)
        last = (column[(stop.long() - 1).clamp_min(0)] + 1).masked_fill(stop < 0, -1)
        last = torch.where(stop > start, last, first)
        for part, edges in (("start", first), ("stop", last)):
            _write_positions(file, f"masks.{place}.{part}", edges.to(torch.int32), share.rows)

    def _write_ids(self) -> None:
        new, self._ids_written = self._run.ids[self._ids_written :], len(self._run.ids)
        for start, ids in new:
            for slot, file in enumerate(self.files):
                file.write("tokens.ids", start, ids[slot].cpu())

    def _write_readouts(self) -> None:
        """Write the distributions that were reduced since, and forget them."""
        found = gather_readouts(self._run.readouts)
        if found is None:
            return
        self._reduced.update(found.columns.tolist())
        for name, field in READOUT_FIELDS.items():
            values: Tensor = getattr(found.readout, field)
            if values.dim() > 2:
                unknown = torch.nan if values.is_floating_point() else -1
                values = torch.nn.functional.pad(values, (0, self._top_k - values.shape[-1]), value=unknown)
            for slot, file in enumerate(self.files):
                _write_positions(file, f"tokens.{name}", values[:, slot], found.columns)
        self._run.taken_apart.clear()

    def _describe(self) -> None:
        """Tell readers of the layers and the text so far."""
        run = self._run
        self._texts_at = max(1, run.stop)
        infos = [layer.described() for layer in self._spilled().values()]
        masks: dict[tuple[int, Kind], int] = {(index, kind): n for (kind, index), n in self._masks.items()}
        assert self._meta is not None
        text = text_columns(run, run.stop)
        for slot, file in enumerate(self.files):
            keep = text[slot]
            prompt = int(keep[: run.prompt_stop].sum())
            body = describe_start(infos, masks, self._meta, prompt, self._columns[slot])
            if self._tokenizer is not None:
                ids = file.read("tokens.ids", 0, run.stop)[keep]
                body["tokens"]["texts"] = list(split_text(self._tokenizer, ids.tolist()))
            file.seal(body)


def _free_name(folder: Path) -> Path:
    taken = (folder / f"trace-{number:04d}.safetensors" for number in itertools.count(1))
    return next(path for path in taken if not path.exists())


def _runs_of(keep: Tensor) -> Runs:
    """The runs of columns that are text, the last of them without an end; ``keep [column]`` says which are, so far."""
    runs = _runs_of_columns(keep.nonzero().flatten())
    if runs and runs[-1][1] == len(keep):
        runs[-1][1] = None
        return runs
    return [*runs, [len(keep), None]]


def _runs_of_columns(columns: Tensor) -> Runs:
    runs: Runs = []
    for column in columns.tolist():
        if runs and runs[-1][1] == column:
            runs[-1][1] = column + 1
        else:
            runs.append([column, column + 1])
    return runs


def _write_positions(file: GrowingFile, name: str, values: Tensor, columns: Tensor) -> None:
    place = 0
    for first, stop in _runs_of_columns(columns):
        assert first is not None
        assert stop is not None
        file.write(name, first, values[place : place + stop - first])
        place += stop - first


def refuse_beams() -> UnsupportedModel:
    """What to say of a search whose sequences have no slots of their own."""
    return UnsupportedModel(
        "recording a beam search to disk",
        "its rows move from slot to slot, so that no sequence has a file of its own",
        "record it without spill_dir",
    )
