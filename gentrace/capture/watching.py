"""Showing somebody each step of a generation while it goes on.

It costs nothing while nobody watches, and changes nothing of what is recorded. An observer that fails ends the watching
and not the generation: hours of work must not hang on a picture of them.
"""

import threading
import warnings
from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from gentrace.capture.decoding.generation import Generation
from gentrace.capture.glance import FedIds, Glance
from gentrace.capture.run import Run
from gentrace.capture.shares import text_columns
from gentrace.errors import CaptureError, UnsupportedModel

Observer = Callable[[Glance], object]


def warn(error: Exception) -> None:
    """Say that nothing more is shown of a generation."""
    said = str(error) or type(error).__name__
    warnings.warn(f"watching ended, the model goes on: {said}", RuntimeWarning, stacklevel=2)


class _Watched:
    """The sequence that is watched, in one run."""

    def __init__(self, run: Run, slot: int) -> None:
        self.run = run
        """Keeps the run's id from being given to another one."""
        self.fed = FedIds(run, slot)
        self.failed = False
        """Whether nothing more can be shown of it."""
        self.over = False
        """Whether it has ended before others of its batch."""
        self.newest: Glance | None = None
        self._first = 0
        self._rows: Tensor | None = None

    def predicted_by(self, column: int) -> Tensor | None:
        """``[vocab]`` logits of a column, if it is among the newest forward's."""
        place = column - self._first
        return None if self._rows is None or not 0 <= place < len(self._rows) else self._rows[place]

    def keep(self, first: int, rows: Tensor | None) -> None:
        """Keep logits ``[row, vocab]`` of the columns from ``first`` on, which the next forward may overwrite."""
        self._first, self._rows = first, None if rows is None else rows.detach().clone()


class Watch:
    """Shows an observer the steps of one sequence of each run."""

    def __init__(self, observer: Observer, sequence: int, on_error: Callable[[Exception], object]) -> None:
        """Begin with no run.

        Args:
            observer: Called with a glance after each forward and, once more, when the generation has ended.
            sequence: The sequence's place in the batch.
            on_error: Told why nothing more is shown of a generation.
        """
        self._observer = observer
        self._slot = sequence
        self._on_error = on_error
        self._watched: dict[int, _Watched] = {}
        self._lock = threading.RLock()

    def step(self, run: Run, generation: Generation | None, fed: int, logits: Tensor | None) -> None:
        """A forward was recorded.

        Args:
            run: Where.
            generation: What it belongs to, if anything.
            fed: Column of its first token.
            logits: ``[batch, row, vocab]`` those of its newest rows, if there are any.
        """
        self._show(run, lambda watched: self._glance(watched, generation, fed, logits))

    def ended(self, run: Run) -> None:
        """A generation has ended, and its run is settled."""
        if id(run) in self._watched:
            self._show(run, _last)
            del self._watched[id(run)]

    def _show(self, run: Run, make: Callable[[_Watched], Glance | None]) -> None:
        with self._lock:
            watched = self._watched.setdefault(id(run), _Watched(run, self._slot))
            if watched.failed:
                return
            try:
                glance = make(watched)
                if glance is not None:
                    self._observer(glance)
            except Exception as error:
                watched.failed = True
                self._on_error(error)

    def _glance(
        self, watched: _Watched, generation: Generation | None, fed: int, logits: Tensor | None
    ) -> Glance | None:
        run, slot = watched.run, self._slot
        if generation is not None and generation.beams is not None:
            raise UnsupportedModel(
                "watching a beam search", "its hypotheses change places at every step", "look at the finished traces"
            )
        if not 0 <= slot < run.batch:
            seen = f"there are {run.batch} in this batch, counted from 0"
            raise CaptureError(f"watching sequence {slot}", seen, "choose one of them")
        watched.over |= _has_ended(run, generation, slot)
        if watched.over:
            return None
        lane = None if generation is None else generation.lane
        watched.fed.take(lane)
        column = _newest_column(run, generation, slot, fed)
        if column is None:
            return None
        stop = None if generation is None else generation.prompt_stop
        before = watched.predicted_by(column - 1)
        first = run.stop if logits is None else max(column, run.stop - logits.shape[1])
        watched.keep(first, None if logits is None else logits[slot, first - run.stop :])
        prompt_stop = (run.prompt_stop if generation is None else run.stop) if stop is None else stop
        after = watched.predicted_by(column)
        watched.newest = Glance(run, lane, watched.fed, slot, column, prompt_stop, before, after)
        return watched.newest


def _has_ended(run: Run, generation: Generation | None, slot: int) -> bool:
    """Whether what is fed for a sequence is only padding, since others of its batch go on."""
    if generation is None or run.batch == 1 or not generation.done:
        return False
    return bool(generation.done[-1].expand(run.batch)[slot])


def _newest_column(run: Run, generation: Generation | None, slot: int, fed: int) -> int | None:
    """The newest column that is known to be text; None if there is none."""
    if generation is None or run.stop <= run.padding_stop:
        columns = text_columns(run, run.stop)[slot].nonzero().flatten()
        return int(columns[-1]) if len(columns) else None
    # Nobody knows yet which drafts will be accepted.
    return max(fed, generation.columns - 1) if generation.drafts else run.stop - 1


def _last(watched: _Watched) -> Glance | None:
    """The end of a generation that was not cut short: its last token is known now."""
    run, newest = watched.run, watched.newest
    if newest is None or run.sequences is None or run.lengths is None:
        return None
    end = run.prompt_stop - run.columns + int(run.lengths[newest.slot]) - 1
    token = int(run.sequences[newest.slot, int(run.lengths[newest.slot]) - 1])
    logits = watched.predicted_by(end - 1)
    return replace(newest, column=end - 1, prompt_stop=run.prompt_stop, before=None, logits=logits, last=token)
