"""The functional tap: seeing the softmax or the fused kernel inside any module, whoever wrote it.

While such a module computes, a `TorchFunctionMode` sees every function of torch that it calls. A softmax is attention
when its input comes from a product of two activations, which tells it apart from a router or a classifier, whose input
comes from a product with weights. Where all that happened between product and softmax is understood, queries and keys
are recorded; otherwise what softmax is given: the finished scores, with every scale, bias and mask.
"""

import threading
from collections.abc import Container, Generator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from torch import Tensor, nn

from gentrace.capture.taps.calls import Observer, ScoreCall, VectorCall
from gentrace.capture.taps.chains import Chain, is_in_blocks
from gentrace.capture.taps.following import Following, check_mixture, rows_of
from gentrace.capture.taps.frames import find_caller
from gentrace.capture.taps.parts import Parts, Unreadable
from gentrace.capture.taps.products import Mixture
from gentrace.capture.taps.reading import Reading, Shared, mixture_parts, understand
from gentrace.errors import UnsupportedModel

_NOT_WATCHED = nullcontext()


class Attended:
    """An attention whose weights were computed and have not met the values yet."""

    def __init__(self, module: nn.Module, reading: Reading) -> None:
        """Begin.

        Args:
            module: Whose attention it is.
            reading: What is known of it.
        """
        self.module = module
        self.reading = reading
        self.parts: Parts | None = None
        """Its queries and keys, where they are understood."""
        self.scores: Tensor | None = None
        """What entered softmax, where that is recorded or may yet have to be."""
        self.sample: Tensor | None = None
        """Two rows of the scores, as they were then, as long as nothing is decided."""
        self.call: VectorCall | ScoreCall | None = None
        """What is recorded, once that is known."""
        self.met = False
        """Whether its weights have met the values, or never will."""
        self.dropout = 0.0
        """Share of the weights that was dropped at random."""


class FunctionalTap:
    """Watches the modules that a thread is computing; one for a recorder."""

    def __init__(self, modules: Mapping[int, str], observer: Observer, sources: Container[int] = ()) -> None:
        """Prepare.

        Args:
            modules: Paths of the modules that may be found computing attention, by their ids.
            observer: Who is told.
            sources: Ids of those among them that belong to a bridge of TransformerLens.
        """
        self._modules = modules
        self._observer = observer
        self._bridged = sources
        self._readings: dict[tuple[int, int], Reading] = {}
        self._thread = _Thread()

    def enter(self, module: nn.Module) -> None:
        """Begin to watch this thread while it computes ``module``; may be nested."""
        thread = self._thread
        if any(one is module for one in thread.inside):
            # Ctrl-C leaves modules without a word.
            self.close()
        if not thread.inside:
            thread.mode = Following(self._see_fused, self._see_softmax, self._see_mixture)
            thread.mode.__enter__()
            thread.times = {}
        thread.inside.append(module)

    def leave(self, module: nn.Module, completed: bool = True) -> None:
        """Undo the newest `enter`, if it was for this module and on this thread.

        Args:
            module: The module that was entered.
            completed: False if it raised an exception.
        """
        thread = self._thread
        if not thread.inside or thread.inside[-1] is not module:
            return
        thread.inside.pop()
        if thread.inside:
            return
        waiting = thread.waiting
        self.close()
        if completed:
            self._give_up(waiting)

    def close(self) -> None:
        """Watch this thread no longer, whatever it is in the middle of. Twice is harmless."""
        thread = self._thread
        mode, thread.mode = thread.mode, None
        thread.inside, thread.waiting = [], []
        if mode is not None:
            mode.__exit__(None, None, None)
            mode.close()

    def paused(self) -> AbstractContextManager[None]:
        """A context inside which this thread is not watched: a compiler would trace the watching into its graph."""
        mode = self._thread.mode
        return _NOT_WATCHED if mode is None else self._paused(mode)

    @contextmanager
    def _paused(self, mode: Following[Any]) -> Generator[None]:
        mode.__exit__(None, None, None)
        try:
            yield
        finally:
            mode.__enter__()

    def forget(self) -> None:
        """A forward of the model has ended on this thread: its masks are not needed any more."""
        self._thread.shared.forget()

    # What the mode sees

    def _see_fused(self, args: tuple[Any, ...], options: dict[str, Any], output: Tensor) -> None:
        found = find_caller(self._modules, skip=2)
        if found is not None:
            self._tell(_fused_call(found[0], args, options, output))

    def _see_softmax(self, chain: Chain, scores: Tensor, dim: int) -> Attended | None:
        """A softmax is about to be computed; what comes after may write into the scores."""
        found = find_caller(self._modules, skip=2)
        if found is None:
            return None
        if is_in_blocks(chain, scores):
            raise UnsupportedModel(
                f"recording attention of {self._modules.get(id(found[0]))} ({type(found[0]).__name__})",
                f"a softmax over scores {tuple(scores.shape)} that were put together from products of blocks",
                "attention in blocks is not supported",
            )
        module, thread = found[0], self._thread
        thread.waiting, old = [], thread.waiting
        self._give_up([one for one in old if one.module is not module])
        thread.waiting = [one for one in old if one.module is module]
        nth = thread.times.get(id(module), 0)
        thread.times[id(module)] = nth + 1
        reading = self._readings.setdefault((id(module), nth), Reading())
        attended = Attended(module, reading)
        last = dim in (-1, scores.dim() - 1)
        if reading.vectors is not False and last:
            try:
                attended.parts = understand(chain, scores, reading, thread.shared)
            except Unreadable as problem:
                self._cannot_read(attended, problem)
        else:
            reading.vectors = False
        if reading.vectors is not True:
            attended.scores = scores.movedim(dim, -1)
        if reading.vectors is False:
            attended.call = ScoreCall(module, attended.scores if attended.scores is not None else scores)
            attended.met = not last or scores.dim() < 2
        if last and scores.dim() > 1 and reading.vectors is not True:
            attended.sample = scores.detach()[..., rows_of(scores), :].clone()
        thread.waiting.append(attended)
        self._tell_waiting()
        return attended if last and scores.dim() > 1 else None

    def _see_mixture(self, attended: Attended, mixture: Mixture | None) -> None:
        """Weights have met values, or None if they met something else."""
        if attended.met:
            return
        attended.met = True
        reading, parts = attended.reading, attended.parts
        if parts is not None and attended.call is None:
            try:
                if mixture is None:
                    raise Unreadable("weights that are not only mixing values")
                parts, value, output = mixture_parts(parts, mixture, reading)
            except Unreadable as problem:
                self._cannot_read(attended, problem)
                self._score_call(attended)
            else:
                reading.vectors = True
                attended.call = _vector_call(attended.module, parts, value, output, attended.dropout)
        sample = None if attended.dropout else attended.sample
        if isinstance(attended.call, ScoreCall) and mixture is not None and sample is not None:
            check = check_mixture(sample, attended.call.scores, mixture)
            if check is not None:
                attended.call.checks.append(check)
        attended.sample = None
        self._tell_waiting()

    # What is recorded of it

    def _cannot_read(self, attended: Attended, problem: Unreadable) -> None:
        """Keep the scores from now on, unless queries and keys were recorded before."""
        attended.parts = None
        if attended.reading.vectors:
            raise UnsupportedModel(
                f"recording attention of a {type(attended.module).__name__}",
                f"its queries and keys were recorded, and now it does something else: {problem}",
                "exclude the layer with layers=",
            )
        attended.reading.vectors = False

    def _score_call(self, attended: Attended) -> None:
        if attended.scores is not None:
            attended.call = ScoreCall(attended.module, attended.scores)

    def _give_up(self, waiting: list[Attended]) -> None:
        """Record what is known of attention whose weights met no values before its module had ended."""
        for attended in waiting:
            if attended.call is None:
                attended.met = True
                self._cannot_read(attended, Unreadable("its weights meet no values"))
                self._score_call(attended)
            if attended.call is not None:
                self._tell(attended.call)

    def _tell_waiting(self) -> None:
        """Hand over what is known, in the order in which the weights were computed."""
        waiting = self._thread.waiting
        while waiting and (call := waiting[0].call) is not None:
            waiting.pop(0).scores = None
            self._tell(call)

    def _tell(self, call: VectorCall | ScoreCall) -> None:
        if id(call.module) in self._bridged:
            call.source = "lens"
        self._observer.see_attention(call)


class _Thread(threading.local):
    """What one thread is in the middle of."""

    def __init__(self) -> None:
        self.inside: list[nn.Module] = []
        self.mode: Following[Attended] | None = None
        self.shared = Shared()
        self.times: dict[int, int] = {}
        """Attentions of each module so far."""
        self.waiting: list[Attended] = []
        """Attention that is not recorded yet."""


def _vector_call(module: nn.Module, parts: Parts, value: Tensor, output: Tensor, dropout: float) -> VectorCall:
    options: dict[str, Any] = {
        "scaling": parts.scale,
        "softcap": parts.softcap,
        "is_causal": False,
        "dropout": dropout,
    }
    if parts.bias is not None:
        options["position_bias"] = parts.bias
    if parts.sinks is not None:
        options["s_aux"] = parts.sinks
    return VectorCall(module, "softmax", parts.query, parts.key, value, parts.mask, options, output, "functional")


def _fused_call(module: nn.Module, args: tuple[Any, ...], options: dict[str, Any], output: Tensor) -> VectorCall:
    names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
    given = dict(zip(names, args, strict=False)) | options
    query, key, value = (_four_axes(given[name]) for name in ("query", "key", "value"))
    said = {
        "scaling": given.get("scale"),
        "is_causal": bool(given.get("is_causal", False)),
        "dropout": given.get("dropout_p", 0.0),
    }
    mask = given.get("attn_mask")
    # Fused attention broadcasts its mask from the right.
    mask = None if mask is None else _four_axes(mask)
    return VectorCall(
        module,
        "scaled_dot_product_attention",
        query,
        key,
        value,
        mask,
        said,
        _four_axes(output).transpose(1, 2),
        "functional",
    )


def _four_axes(tensor: Tensor) -> Tensor:
    """``[batch, head, position, dim]``; what has fewer axes is one head, or one sequence's."""
    while tensor.dim() < 4:
        tensor = tensor[None]
    return tensor
