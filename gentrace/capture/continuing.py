"""Which forwards take the steady path: when it is entered, and how the full path takes over in the middle of one."""

import threading
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from gentrace.capture.decoding.generation import Generation
from gentrace.capture.run import Run
from gentrace.capture.steady import Lane
from gentrace.capture.step import Step
from gentrace.capture.taps.calls import Call, Seen, VectorCall
from gentrace.capture.taps.hooks import Resting
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
        self.seen: list[Seen] | None = None
        """What its attentions leave there; None off the path."""
        self.missed = False
        """Whether it is in a forward whose beginning nobody was told of, since hooks were resting."""
        self.newest: Run | None = None
        """The run of the newest forward, for models whose caches do not tell."""


class SteadyPath:
    """Follows the forwards that go on like the one before, for each thread separately."""

    def __init__(self) -> None:
        """Begin outside of any forward."""
        self.watches: list[Watch] = []
        """Who is shown each step."""
        self.resting = Resting()
        """Hooks that tell nothing new on this path."""
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
                    thread.seen = lane.seen
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
        thread.lane, thread.seen = lane, lane.seen
        return True

    def following(self) -> list[Seen] | None:
        """Where to leave what is seen in a forward that so far goes on like the one before; None in any other."""
        return self._thread.seen

    def continued(self, module: nn.Module, output: Any) -> bool:
        """A forward ended, with this output or, after an exception, with None; says whether it was such a one."""
        thread = self._thread
        lane = thread.lane
        if lane is None:
            return False
        if module is not lane.module:
            lane.leaves(module)
            thread.seen = lane.seen
            return True
        if output is None:
            self._leave(lane)
            return True
        if not lane.ends(output):
            self._take_over(lane)
            return False
        thread.lane = thread.seen = None
        if self.watches and thread.generation is not None and thread.generation.run is not None:
            self._show(thread.generation.run, lane.fed, output.logits)
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
        """Let the forward that is going on take the full path, beginning with what was seen of it already."""
        self._leave(lane)
        thread = self._thread
        thread.given, thread.stack, thread.aside = dict(lane.inputs), [(lane.module, "step")], False
        self._begin_step(lane.module, thread.given, lane.fed)
        if thread.step is not None:
            thread.step.roles.update(lane.roles)
        for seen in lane.attended:
            self.see_attention(VectorCall(*seen))
        thread.stack += lane.inner
        thread.aside = any(role == "aside" for _, role in lane.inner)

    def _leave(self, lane: Lane) -> None:
        thread = self._thread
        thread.lane = thread.seen = None
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

    def see_attention(self, call: Call) -> None:
        """Record one attention on the full path."""
        raise NotImplementedError
