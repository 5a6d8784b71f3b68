"""Which forwards take the steady path: when it is entered, and how the full path takes over in the middle of one."""

import threading
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from gentrace.capture.decoding.generation import Generation
from gentrace.capture.run import Run
from gentrace.capture.steady import Lane
from gentrace.capture.step import Step
from gentrace.capture.watching import Watch


class Thread(threading.local):
    """What one thread is in the middle of."""

    def __init__(self) -> None:
        self.step: Step | None = None
        """The forward that is being recorded."""
        self.encoder_step: Step | None = None
        """The encoder's forward, which may lie inside it."""
        self.encoder_run: Run | None = None
        """The newest encoder forward, for the decoder that follows."""
        self.given: dict[str, Any] = {}
        """Arguments of the outermost forward."""
        self.stack: list[tuple[nn.Module, str]] = []
        """Models whose forwards are going on, and what they are to the recording."""
        self.aside = False
        """Whether one of them is none of the text's."""
        self.generation: Generation | None = None
        self.lane: Lane | None = None
        """The steady path, in the middle of a forward that takes it."""
        self.newest: Run | None = None
        """The run of the newest forward, for models whose caches do not tell."""


class SteadyPath:
    """Follows the forwards that go on like the one before, for each thread separately."""

    def __init__(self) -> None:
        """Begin outside of any forward."""
        self.watches: list[Watch] = []
        """Who is shown each step."""
        self._thread = Thread()

    def continues(self, module: nn.Module, args: tuple[Any, ...], inputs: Mapping[str, Any]) -> bool:
        """A forward begins with these inputs; says whether it goes on like the one before, or is a part of such a one.

        Whoever is told so has nothing else to tell until it has `continued`.
        """
        thread = self._thread
        lane = thread.lane
        if lane is not None:
            if module is not lane.module:
                if lane.enters(module):
                    return True
                self._take_over(lane)
                return False
            # The forward before never ended, as Ctrl-C leaves it behind.
            self._leave(lane)
        generation = thread.generation
        lane = None if generation is None or generation.aside else generation.lane
        if lane is None or module is not lane.module or args or thread.stack:
            return False
        if not lane.begins(inputs):
            self._leave(lane)
            return False
        thread.lane = lane
        return True

    def take(self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, output: Tensor) -> bool:
        """Record one attention of a forward that goes on like the one before; says whether it does."""
        lane = self._thread.lane
        if lane is None:
            return False
        if lane.aside or lane.take(module, query, key, value, mask, output):
            return True
        self._take_over(lane)
        return False

    def continued(self, module: nn.Module, output: Any) -> bool:
        """A forward ended, with this output or, after an exception, with None; says whether it was such a one."""
        lane = self._thread.lane
        if lane is None:
            return False
        if module is not lane.module:
            lane.leaves()
            return True
        self._thread.lane = None
        if output is None or not lane.ends(output):
            self._leave(lane)
        generation = self._thread.generation
        if self.watches and output is not None and generation is not None and generation.run is not None:
            self._show(generation.run, lane.fed, output.logits if generation.lane is lane else None)
        return True

    def _show(self, run: Run, fed: int, logits: Tensor | None) -> None:
        """Show a forward that was recorded to whoever watches.

        Args:
            run: Where.
            fed: Column of its first token.
            logits: ``[batch, row, vocab]`` of its newest rows; None if they wait in the run.
        """
        if logits is None and run.pending is not None:
            logits = run.pending[1]
        for watch in tuple(self.watches):
            watch.step(run, self._thread.generation, fed, logits)

    def _take_over(self, lane: Lane) -> None:
        """Let the rest of the forward that is going on take the full path."""
        inner, inputs = list(lane.inner), lane.inputs
        self._leave(lane)
        thread = self._thread
        thread.given, thread.aside = dict(inputs), any(role == "aside" for _, role in inner)
        thread.stack = [(lane.module, "step"), *inner]
        self._begin_step(lane.module, thread.given, lane.fed)
        if thread.step is not None:
            thread.step.handed_over = True
            thread.step.roles.update((id(module), role) for module, role in inner)

    def _leave(self, lane: Lane) -> None:
        thread = self._thread
        thread.lane = None
        if thread.generation is not None:
            thread.generation.lane = None
        lane.close()

    def _begin_step(self, module: nn.Module, inputs: dict[str, Any], fed: int | None = None) -> None:
        """A forward begins that goes the full path.

        Args:
            module: The outermost model.
            inputs: What it is given.
            fed: Positions fed before; None to find out.
        """
        raise NotImplementedError
