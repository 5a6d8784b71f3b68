"""The front door: a picture of a generation while it goes on.

Reading a row takes time that the model waits for, and so does drawing. So most steps of a fast model are passed over:
one is read and drawn when enough time has gone by since the one before, and always the last.
"""

import contextlib
import os
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Literal, Protocol, TextIO

from gentrace.capture.glance import Glance
from gentrace.capture.recorder import Recorder
from gentrace.errors import GentraceError, ViewError
from gentrace.liveview.frame import Camera, Frame
from gentrace.liveview.ink import can_redraw
from gentrace.liveview.notebook import MarimoCell, Notebook
from gentrace.liveview.terminal import Lines, Terminal

Where = Literal["terminal", "notebook", "lines"]


class View(Protocol):
    """Where frames are drawn."""

    every_step: bool

    def draw(self, frame: Frame) -> None:
        """Draw a frame, over the one before if that was not a finished one."""
        ...

    def say(self, message: str) -> None:
        """Say something in a line."""
        ...

    def close(self) -> None:
        """Leave the place tidy."""
        ...


def live(
    recorder: Recorder,
    *,
    layer: int | None = None,
    head: int | None = None,
    sequence: int = 0,
    where: Where | None = None,
    file: TextIO | None = None,
    every: float = 0.08,
) -> "Live":
    """Draw what the model looks at while it writes.

    Use it as a context manager, inside the recorder's block or beside it::

        with gentrace.record(model, tokenizer) as recorder, gentrace.live(recorder, layer=3):
            model.generate(**inputs, max_new_tokens=40)

    Each drawing shows one step: the newest token looks back at the text, and predicts what may come next. Numbers are
    those that the finished trace will have. Nothing of the recording changes; if drawing fails, or in a beam search,
    whose hypotheses change places, the picture ends with a line that says why, and the model goes on.

    Args:
        recorder: The recorder of the model.
        layer: Layer number; None for the last one recorded. Of an encoder-decoder it is its self-attention and its
            cross-attention.
        head: Query head; None for the mean of all.
        sequence: Which sequence of a batch, in the order in which generate returns them.
        where: "terminal", "notebook" or "lines", a plain line for each step; None to find out: lines if the output is
            neither a notebook's nor a terminal's.
        file: Where to write instead of ``sys.stdout``; not for a notebook.
        every: Seconds between two drawings, at least; lines are written for every step.

    Returns:
        The picture, to be entered with ``with``.

    Raises:
        ViewError: If an argument does not fit.
    """
    if where not in (None, "terminal", "notebook", "lines") or (where == "notebook" and file is not None):
        seen = f"where={where!r}" + (", file=…" if file is not None else "")
        raise ViewError("drawing a generation", seen, 'give "terminal", "notebook" or "lines"; a notebook has no file')
    if not every >= 0:
        raise ViewError("drawing a generation", f"every={every!r}", "give seconds, 0 or more")
    return Live(recorder, (layer, head, sequence), lambda: _open(where, file), every)


class Live:
    """A picture between enter and exit; make one with `live`."""

    def __init__(
        self,
        recorder: Recorder,
        chosen: tuple[int | None, int | None, int],
        open_view: Callable[[], View],
        every: float,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Prepare; nothing is drawn yet.

        Args:
            recorder: The recorder.
            chosen: Layer, head and sequence.
            open_view: Opens the place to draw in.
            every: Seconds between two drawings.
            clock: Seconds.
        """
        self._recorder = recorder
        self._chosen = chosen
        self._open = open_view
        self._every = every
        self._clock = clock
        self._view: View
        self._end: Callable[[], None]
        self._waiting: Glance | None = None
        self._run: object = None
        self._drawn = -float("inf")

    def __enter__(self) -> "Live":
        """Begin to watch."""
        layer, head, sequence = self._chosen
        self._camera = Camera(self._recorder._tokenizer, layer, head, self._clock)
        self._view = self._open()
        self._end = self._recorder.watch(self._see, sequence=sequence, on_error=self._fail)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Draw the last step, if it was passed over, and watch no more."""
        self._end()
        with contextlib.suppress(OSError, ValueError, GentraceError):
            if self._waiting is not None:
                self._draw(self._waiting)
            self._view.close()

    def _see(self, glance: Glance) -> None:
        if glance.run is not self._run:
            if self._waiting is not None:
                self._draw(self._waiting)
            self._run = glance.run
            self._camera.begin(glance)
        due = self._clock() - self._drawn >= self._every
        if due or glance.finished or self._view.every_step:
            self._draw(glance)
        else:
            self._waiting = glance

    def _draw(self, glance: Glance) -> None:
        self._waiting = None
        self._view.draw(self._camera.take(glance))
        # Counted from here, so that a slow terminal does not take all the time there is.
        self._drawn = self._clock()

    def _fail(self, error: Exception) -> None:
        self._waiting = None
        # Where not even that can be said, the model goes on all the same.
        with contextlib.suppress(OSError, ValueError):
            self._view.say(f"the live picture ended, the model goes on: {str(error) or type(error).__name__}")


def _open(where: Where | None, file: TextIO | None) -> View:
    stream = sys.stdout if file is None else file
    if where is None:
        notebook = file is None and (in_notebook() or in_marimo())
        where = "notebook" if notebook else "terminal" if can_redraw(stream, os.environ) else "lines"
    if where == "notebook":
        return MarimoCell() if in_marimo() else Notebook()
    return Terminal(stream) if where == "terminal" else Lines(stream)


def in_notebook() -> bool:
    """Whether this runs in a notebook of Jupyter, VS Code or Colab, and not in a terminal's IPython."""
    library = sys.modules.get("IPython")
    shell = None if library is None else library.get_ipython()
    return shell is not None and hasattr(shell, "kernel")


def in_marimo() -> bool:
    """Whether this runs in a cell of marimo."""
    library = sys.modules.get("marimo")
    return library is not None and library.running_in_notebook()
