"""The interface tap: seeing what transformers' attention-function registry is called with.

Modules look up their kernel with ``AttentionInterface.get_interface`` at every forward and hand themselves over as its
first argument. While any recorder is active, that look-up returns the same kernel with an observer behind it; a call
from a module that nobody records goes straight through. Watching the look-up rather than single entries also sees
eager attention, which has no entry, and kernels that the user registered.
"""

import contextlib
import functools
import threading
from collections.abc import Callable, Generator
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_utils import AttentionInterface

from gentrace.capture.taps.calls import Observer, VectorCall
from gentrace.errors import CaptureError

Kernel = Callable[..., tuple[Tensor, Any]]


SEEN = "_gentrace_seen"
"""Attribute of modules in a compiled graph: the list of what their kernels saw."""

_lock = threading.Lock()
_observers: dict[int, Observer] = {}
_observed_kernels: dict[tuple[Kernel, str], Kernel] = {}
_original = AttentionInterface.get_interface


def watch(modules: list[nn.Module], observer: Observer) -> None:
    """Send the kernel calls of these modules to ``observer``, until `unwatch`.

    Raises:
        CaptureError: If one of them is already being watched; then none of them is watched by this call.
    """
    global _original
    with _lock:
        if any(id(module) in _observers for module in modules):
            raise CaptureError(
                f"recording {type(modules[0]).__name__}",
                "another recorder is recording this model already",
                "leave the other `with gentrace.record(...)` block first",
            )
        if not _observers:
            _original = AttentionInterface.get_interface
            AttentionInterface.get_interface = _watched_look_up
        _observers.update((id(module), observer) for module in modules)


def unwatch(modules: list[nn.Module], observer: Observer) -> None:
    """Stop watching these modules; the registry is as it was once nobody watches any. Twice is harmless."""
    with _lock:
        for module in modules:
            if _observers.get(id(module)) is observer:
                del _observers[id(module)]
        if not _observers:
            AttentionInterface.get_interface = _original


def _watched_look_up(self: AttentionInterface, attn_implementation: str, default: Kernel) -> Kernel:
    kernel = _original(self, attn_implementation, default)
    # A plain dictionary, since torch.compile traces through this and warns of functools' caches.
    observed = _observed_kernels.get((kernel, attn_implementation))
    if observed is None:
        observed = _observed_kernels[kernel, attn_implementation] = _observed(kernel, attn_implementation)
    return observed


class _Depth(threading.local):
    """How many kernels deep a thread is."""

    inside = 0


_depth = _Depth()


def inside_kernel() -> bool:
    """Whether this thread is inside a kernel of the registry, whose softmax is no attention of its own."""
    return _depth.inside > 0


@contextlib.contextmanager
def own_work() -> Generator[None]:
    """What the recorder computes in here is no attention of the model either."""
    _depth.inside += 1
    try:
        yield
    finally:
        _depth.inside -= 1


def unwatched_look_up(registry: AttentionInterface, implementation: str, default: Kernel) -> Kernel:
    """The kernel that a registry holds, without an observer."""
    return _original(registry, implementation, default)


def seen_by_graph(kernel: Kernel, implementation: str) -> Kernel:
    """The kernel as a compiler traces it: what it sees becomes an output of the graph."""

    def call(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *args: Any, **options: Any
    ) -> tuple[Tensor, Any]:
        result = kernel(module, query, key, value, *args, **options)
        mask = args[0] if args else options.get("attention_mask")
        seen = getattr(module, SEEN, None)
        if seen is not None:
            seen.append((implementation, query, key, value, mask, options, result[0]))
        return result

    return call


def _observed(kernel: Kernel, implementation: str) -> Kernel:
    @functools.wraps(kernel)
    def call(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *args: Any, **options: Any
    ) -> tuple[Tensor, Any]:
        observer = _observers.get(id(module))
        if observer is None:
            return kernel(module, query, key, value, *args, **options)
        # A compiler must not trace the steady path; what it would trace instead is closed to it.
        if torch.compiler.is_compiling() or (seen := observer.following()) is None:
            return observed(observer, module, query, key, value, args, options)
        result = kernel(module, query, key, value, *args, **options)
        mask = args[0] if args else options.get("attention_mask")
        seen.append((module, implementation, query, key, value, mask, options, result[0]))
        return result

    def observed(
        observer: Observer,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        args: tuple[Any, ...],
        options: dict[str, Any],
    ) -> tuple[Tensor, Any]:
        _depth.inside += 1
        try:
            result = kernel(module, query, key, value, *args, **options)
            mask = args[0] if args else options.get("attention_mask")
            observer.see_attention(VectorCall(module, implementation, query, key, value, mask, options, result[0]))
        finally:
            _depth.inside -= 1
        return result

    return call
