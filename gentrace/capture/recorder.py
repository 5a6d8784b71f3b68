"""The recorder: attaches to a model on enter, collects while it runs, and hands over frozen traces.

Three things are attached, all of them removed on exit whatever happened: forward hooks on the model and its decoder,
which tell where each forward begins and ends; the interface tap, which sees each layer's queries and keys; and the
watch on ``generate``.
"""

import functools
import sys
import warnings
import weakref
from collections.abc import Callable, Collection
from os import PathLike
from pathlib import Path
from types import MethodType, TracebackType
from typing import Any, Literal

import torch
from torch import nn

from gentrace.capture.anatomy import Anatomy, parameters_of
from gentrace.capture.decoding.generation import GenerateWatch
from gentrace.capture.fidelity import TOLERANCE
from gentrace.capture.finish import finish
from gentrace.capture.run import Run
from gentrace.capture.sites import Settings
from gentrace.capture.taps import interface
from gentrace.capture.taps.compiled import CompiledWatch
from gentrace.capture.taps.functional import FunctionalTap
from gentrace.capture.taps.hooks import fix_number
from gentrace.capture.taps.lens import BridgeWatch
from gentrace.capture.tracking import Tracker
from gentrace.capture.watching import Observer, Watch, warn
from gentrace.errors import CaptureError, FidelityWarning
from gentrace.trace.trace import Trace

_through_registry: "weakref.WeakKeyDictionary[nn.Module, str]" = weakref.WeakKeyDictionary()
"""Models in which a whole forward showed no attention outside of transformers' registry, and the kernel they used."""


def record(
    model: nn.Module,
    tokenizer: Any = None,
    *,
    layers: Collection[int] | None = None,
    values: bool = False,
    top_k: int = 10,
    max_bytes: int | None = None,
    spill_dir: str | PathLike[str] | None = None,
    verify: bool = True,
    disk_full: Literal["stop", "go on"] = "stop",
) -> "Recorder":
    """Record what a model looks at while it writes.

    Use it as a context manager around your own, unchanged calls::

        with gentrace.record(model, tokenizer) as recorder:
            model.generate(**inputs, max_new_tokens=40)
        trace = recorder.trace

    Each ``generate`` inside the block gives one trace per returned sequence. So does each loop over ``model(...)``
    that passes a cache on, and each single forward without one: a finished text, or an encoder's input.

    Args:
        model: A Hugging Face model (decoder, encoder-decoder or encoder), a module around one, a compiled one, a
            ``TransformerBridge`` of TransformerLens, or any torch module whose attention calls torch's softmax or
            ``scaled_dot_product_attention``.
        tokenizer: For the tokens' texts; optional.
        layers: Layer numbers to record; None for all, empty for tokens and probabilities only.
        values: Keep value vectors too.
        top_k: Alternatives to keep per position.
        max_bytes: Bytes that the recorded queries, keys and values of one batch may take in memory. What they will take
            is known before the model computes anything, and refused then.
        spill_dir: A folder to stream the recording to instead, one file per sequence, which `gentrace.load` opens also
            after the process was killed. Scores of layers whose queries were not seen, matrices added to scores, and
            what belongs to an encoder stay in memory.
        verify: Recompute some rows and compare them with what the kernel returned; see `Trace.fidelity`.
        disk_full: With ``spill_dir``, whether a full disk ends the generation with a `SpillError`, or the model goes on
            without being recorded; what was written stays readable either way.

    Returns:
        The recorder, to be entered with ``with``.

    Raises:
        UnsupportedModel: If it is no torch module, or a model of transformers without attention.
        CaptureError: If an argument does not fit.
    """
    folder = None if spill_dir is None else Path(spill_dir)
    if folder is not None and not folder.is_dir():
        raise CaptureError("recording with spill_dir", f"{folder} is no folder", "make it first")
    if disk_full not in ("stop", "go on"):
        raise CaptureError("recording", f"disk_full={disk_full!r}", 'give "stop" or "go on"')
    if layers is not None and not all(isinstance(layer, int) and layer >= 0 for layer in _listed(layers)):
        raise CaptureError("recording", f"layers={layers!r}", "give layer numbers, such as layers=[0, 5]")
    if top_k < 1:
        raise CaptureError("recording", f"top_k={top_k}", "keep at least one alternative")
    settings = Settings(layers, values, top_k, verify, folder, disk_full == "go on")
    return Recorder(model, tokenizer, settings, max_bytes)


def _listed(layers: Any) -> list[Any]:
    """The layers as a list; anything that is no collection counts as a wrong entry."""
    return list(layers) if isinstance(layers, Collection) else [None]


class Recorder:
    """Records a model between enter and exit; make one with `record`."""

    def __init__(self, model: nn.Module, tokenizer: Any, settings: Settings, budget: int | None) -> None:
        """Prepare; nothing is attached yet."""
        self._given = model
        self._anatomy = Anatomy(model)
        self._anatomy.refuse_without_attention()
        self._model = self._anatomy.model
        self._tokenizer = tokenizer
        self._top_k = settings.top_k
        self._modules = self._anatomy.modules
        names = self._anatomy.names()
        self._tracker = Tracker(self._anatomy, names, settings, budget, tokenizer)
        self._tap = FunctionalTap(names, self._tracker, self._anatomy.bridged())
        self._tapped: dict[int, nn.Module] = {}
        self._discovered: set[int] = set()
        """Models that need no watching for attention outside of the registry, or not any more."""
        kernel = self._kernel()
        known = kernel is not None and _through_registry.get(self._model) == kernel
        if known or not self._anatomy.computes_outside_registry():
            self._discovered = {id(module) for module in self._anatomy.models()}
        self._hooks: list[Any] = []
        self._watches: list[GenerateWatch | BridgeWatch] = []
        self._compiled: CompiledWatch | None = None
        self._traces: dict[int, list[Trace]] = {}
        self._entered = False

    def __enter__(self) -> "Recorder":
        """Attach to the model.

        Raises:
            CaptureError: If this recorder was used before, or the model is being recorded already.
        """
        if self._entered:
            raise CaptureError("entering a recorder", "it was used before", "make a new one with gentrace.record(...)")
        interface.watch(self._modules, self._tracker)
        self._entered = True
        if "torch._dynamo" in sys.modules:
            # A compiled model must not trace into the tracker, whose state changes at every step.
            for name in ("forward_begins", "forward_ends", "see_attention"):
                setattr(self._tracker, name, MethodType(_untraced(getattr(Tracker, name)), self._tracker))
        try:
            self._attach()
        except BaseException:
            self._detach()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Detach from the model, whatever happened."""
        self._detach()
        self._remember(failed=kind is not None)
        for run in self._tracker.runs:
            if not run.active:
                self._tracker.put_away(run)
            if kind is None:
                warn_of_infidelity(run)
                if run.spill is not None and run.stop and not run.active:
                    self._finish(run)

    @property
    def traces(self) -> list[Trace]:
        """One trace per sequence, in the order of the calls and of generate's rows.

        Raises:
            CaptureError: If nothing was recorded.
        """
        runs = [run for run in self._tracker.runs if run.stop]
        if any(run.active for run in runs):
            raise CaptureError(
                f"reading the traces of {type(self._model).__name__}",
                "a generation is still going on",
                "read them when generate has returned",
            )
        for run in runs:
            self._finish(run)
        traces = [trace for run in runs for trace in self._traces[id(run)]]
        if not traces:
            raise CaptureError(
                f"reading the traces of {type(self._model).__name__}",
                "the model was not run while it was recorded",
                "call model.generate(...) inside the `with` block",
            )
        return traces

    @property
    def trace(self) -> Trace:
        """The only trace.

        Raises:
            CaptureError: If there is none, or more than one.
        """
        traces = self.traces
        if len(traces) > 1:
            raise CaptureError("reading recorder.trace", f"there are {len(traces)} traces", "use recorder.traces")
        return traces[0]

    def watch(
        self, observer: Observer, *, sequence: int = 0, on_error: Callable[[Exception], object] = warn
    ) -> Callable[[], None]:
        """Look at each step while the model goes on; nothing of the recording changes.

        Args:
            observer: Called in the model's own thread with a `Glance` after each forward and, once more, when a
                generation has ended. It holds the model up for as long as it takes.
            sequence: Which sequence of a batch, in the order in which generate returns them.
            on_error: Told, once for each generation, why nothing more is shown of it: the observer raised this, the
                layer that it reads is not recorded, or it is a beam search, whose hypotheses change places. The model
                goes on, and so does the recording. By default it is a RuntimeWarning.

        Returns:
            What ends it; leaving the recorder's block does too.
        """
        watch = Watch(observer, sequence, on_error)
        self._tracker.watches.append(watch)
        return functools.partial(self._unwatch, watch)

    def _unwatch(self, watch: Watch) -> None:
        if watch in self._tracker.watches:
            self._tracker.watches.remove(watch)

    def _finish(self, run: Run) -> None:
        if id(run) not in self._traces:
            run.closed = True
            self._tracker.settle(run)
            others = self._anatomy.other_layers(self._tracker.site_names())
            self._traces[id(run)] = finish(run, self._model, self._tokenizer, self._top_k, others)

    def _attach(self) -> None:
        watched = CompiledWatch(self._given, self._modules, self._anatomy.models(), self._tracker, self._tap.paused)
        self._compiled = watched
        if watched.active:
            # Compiled code is guarded by the hooks that were there when it was traced.
            self._tracker.resting.end()
        # The models inside are hooked too: a decoder's hidden states are needed, and a user may call it directly.
        for module in self._anatomy.models():
            names = parameters_of(module)

            def begin(
                module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], names: tuple[str, ...] = names
            ) -> None:
                compiling = torch.compiler.is_compiling()
                if compiling and watched.active:
                    # A graph whose call is watched as a whole.
                    return
                if not compiling:
                    if self._tracker.continues(module, args, kwargs):
                        return
                    if self._tracker.recover(module):
                        self._tap.close()
                self._tracker.forward_begins(module, dict(zip(names, args, strict=False)) | kwargs)
                if id(module) not in self._discovered and not compiling:
                    self._tap.enter(module)

            def end(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
                compiling = torch.compiler.is_compiling()
                if compiling and watched.active:
                    watched.note_output(module, output)
                    return
                if not compiling:
                    if self._tracker.continued(module, output):
                        return
                    self._tap.leave(module, output is not None)
                    self._tap.forget()
                    if output is not None:
                        self._discovered.add(id(module))
                self._tracker.forward_ends(module, output)
                self._tap_found()

            self._hooks.append(fix_number(module.register_forward_pre_hook(begin, with_kwargs=True)))
            self._hooks.append(fix_number(module.register_forward_hook(end, always_call=True)))
        generators = self._anatomy.generators()
        self._watches.extend(GenerateWatch(model, self._tracker, self._top_k) for model in generators)
        if self._anatomy.bridge is not None:
            self._watches.append(BridgeWatch(self._anatomy.bridge, self._tracker))

    def _kernel(self) -> str | None:
        """The attention kernel that the model is set to."""
        return getattr(getattr(self._model, "config", None), "_attn_implementation", None)

    def _remember(self, *, failed: bool) -> None:
        """Keep in mind that a model attends through the registry alone, so that the next recording need not look."""
        whole = all(id(module) in self._discovered for module in self._anatomy.models())
        kernel = self._kernel()
        if failed or not whole or self._tracker.functional or kernel is None:
            _through_registry.pop(self._model, None)
        else:
            _through_registry[self._model] = kernel

    def _tap_found(self) -> None:
        """Watch the modules in which the functional tap found attention, from now on only those."""
        for module in self._tracker.functional:
            if id(module) in self._tapped:
                continue
            self._tapped[id(module)] = module
            self._hooks.append(module.register_forward_pre_hook(self._enter_tapped))
            self._hooks.append(module.register_forward_hook(self._leave_tapped, always_call=True))

    def _enter_tapped(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self._tap.enter(module)

    def _leave_tapped(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self._tap.leave(module, output is not None)

    def _detach(self) -> None:
        compiled = [] if self._compiled is None else [self._compiled]
        for attached in (*self._hooks, *self._watches, *compiled):
            attached.remove()
        self._hooks, self._watches = [], []
        self._tracker.resting.end()
        self._tap.close()
        interface.unwatch(self._modules, self._tracker)


@functools.cache
def _untraced(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, closed to compilers."""
    return torch.compiler.disable(function)


def warn_of_infidelity(run: Run) -> None:
    """Warn of layers whose checked rows differ from the kernel's by more than their dtype explains."""
    bad = []
    layers = list(run.layers.items()) + ([] if run.encoder is None else list(run.encoder.layers.items()))
    layers = [(place, layer) for place, layer in layers if layer.checks]
    found = [check.errors.flatten() for _, layer in layers for check in layer.checks]
    strictest = min((TOLERANCE.get(layer.dtype, 1e-4) for _, layer in layers), default=0.0)
    # One look is enough where all is well.
    if len({errors.device for errors in found}) < 2 and (not found or bool((torch.cat(found) <= strictest).all())):
        return
    for (kind, number), layer in layers:
        rows = [row for check in layer.checks for row in check.rows]
        errors = torch.cat([check.errors.amax(0) for check in layer.checks]).tolist()
        tolerance = TOLERANCE.get(layer.dtype, 1e-4)
        # Written so that NaN counts as an error.
        wrong = {row: error for row, error in zip(rows, errors, strict=True) if not error <= tolerance}
        if wrong:
            worst = max(wrong.values(), key=lambda error: (error != error, error))
            name = f"layer {number}" if kind == "self" else f"{kind} layer {number}"
            bad.append(f"{name}: {worst:.1e} above {tolerance:.0e} at rows {sorted(wrong)[:5]}")
    if bad:
        message = "attention recomputed from the trace differs from the model's kernel: " + "; ".join(bad[:5])
        warnings.warn(message, FidelityWarning, stacklevel=3)
