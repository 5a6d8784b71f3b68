"""Compiled models: what their kernels see leaves the graph as further outputs, and no graph breaks for it.

Hooks would have to be traced into the graph, with all the state behind them. Instead, while a compiled module is
recorded, each module inside carries a list, the observed kernel appends its tensors to it (which the compiler turns
into outputs of the graph), and around the compiled call the lists are emptied into the recorder. A guard makes the
compiler trace anew for the first recording; the graphs of before are used again afterwards.
"""

import functools
import sys
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import nn
from transformers.modeling_utils import AttentionInterface

from gentrace.capture.anatomy import parameters_of
from gentrace.capture.taps.calls import Observer, VectorCall
from gentrace.capture.taps.hooks import hooks_of, put_back, take_off
from gentrace.capture.taps.interface import SEEN, Kernel, seen_by_graph, unwatched_look_up

REGISTRY = "ALL_ATTENTION_FUNCTIONS"
"""What modeling files call their registry."""

Listening = tuple[nn.Module, list[Any]]
"""A module inside a graph, and the list of what it saw."""


class Follower(Observer, Protocol):
    """Somebody who follows a model's forwards."""

    def continues(self, module: nn.Module, args: tuple[Any, ...], inputs: Mapping[str, Any]) -> bool:
        """A forward begins with these inputs; says whether it goes on like the one before."""
        ...

    def continued(self, module: nn.Module, output: Any) -> bool:
        """A forward ended; says whether it was such a one."""
        ...

    def forward_begins(self, module: nn.Module, inputs: dict[str, Any]) -> None:
        """A forward begins with these inputs."""
        ...

    def forward_ends(self, module: nn.Module, output: Any) -> None:
        """It ended, with this output or, after an exception, with None."""
        ...


class CompiledWatch:
    """Watches the compiled calls of a model until it is removed."""

    def __init__(
        self,
        given: nn.Module,
        modules: list[nn.Module],
        followed: list[nn.Module],
        follower: Follower,
        pause: Callable[[], AbstractContextManager[None]],
    ) -> None:
        """Attach to what is compiled already, and to what ``generate`` may compile.

        Args:
            given: What the user wants recorded, which may be a compiled wrapper.
            modules: The model inside, and all that it contains.
            followed: The modules whose forwards the follower has to be told of.
            follower: Who is told.
            pause: Makes a context in which the other taps are still.
        """
        self._pause = pause
        self._followed = {id(module) for module in followed}
        self._follower = follower
        self._undo: list[Callable[[], None]] = []
        self._listening: list[nn.Module] = []
        self._model = model = modules[0]
        if hasattr(given, "_orig_mod"):
            self._wrap(given, "forward", given.forward, model)
        for module in modules:
            if module._compiled_call_impl is not None:
                self._wrap(module, "_compiled_call_impl", module._compiled_call_impl, module)
        if hasattr(model, "get_compiled_call"):
            self._wrap_factory()

    @property
    def active(self) -> bool:
        """Whether anything compiled is watched."""
        return bool(self._listening)

    def remove(self) -> None:
        """Detach. Twice is harmless."""
        while self._undo:
            self._undo.pop()()
        for module in self._listening:
            module.__dict__.pop(SEEN, None)
        self._listening = []

    def note_output(self, module: nn.Module, output: Any) -> None:
        """Inside a graph: a model that is part of another one returned this."""
        seen = getattr(module, SEEN, None)
        states = output[0] if isinstance(output, tuple) else getattr(output, "last_hidden_state", None)
        if seen is not None and states is not None and module is not self._model:
            seen.append((states,))

    def _wrap_factory(self) -> None:
        original: Any = self._model.get_compiled_call

        @functools.wraps(original)
        def compiled(*args: Any, **kwargs: Any) -> Any:
            call = original(*args, **kwargs)
            self._retrace(self._model)
            return self._observed(call, self._model)

        self._replace(self._model, "get_compiled_call", compiled)

    def _wrap(self, holder: nn.Module, name: str, call: Callable[..., Any], module: nn.Module) -> None:
        self._retrace(module)
        self._replace(holder, name, self._observed(call, module))

    def _retrace(self, module: nn.Module) -> None:
        """Give the modules their lists, and have the compiler trace what calls their kernels anew."""
        new = [inner for inner in module.modules() if SEEN not in inner.__dict__]
        for inner in new:
            inner.__dict__[SEEN] = []
        self._listening += new
        for name in {type(inner).__module__ for inner in new}:
            namespace = vars(sys.modules[name])
            if isinstance(namespace.get(REGISTRY), AttentionInterface):
                self._undo.append(swap_registry(namespace))

    def _replace(self, holder: nn.Module, name: str, value: Any) -> None:
        # Modules and compiled wrappers both have ways of their own to set attributes.
        before = holder.__dict__.get(name)

        def undo() -> None:
            if before is None:
                holder.__dict__.pop(name, None)
            else:
                holder.__dict__[name] = before

        self._undo.append(undo)
        holder.__dict__[name] = value

    def _observed(self, call: Callable[..., Any], module: nn.Module) -> Callable[..., Any]:
        names = parameters_of(module)
        inside: list[Listening] = [(inner, inner.__dict__[SEEN]) for inner in module.modules()]
        seeing: list[Listening] = []
        whole = id(module) in self._followed
        hooks = hooks_of(module) if whole else ()
        follower = self._follower

        @functools.wraps(call)
        def observed(*args: Any, **kwargs: Any) -> Any:
            if torch.compiler.is_compiling():
                return call(*args, **kwargs)
            steady = whole and follower.continues(module, args, kwargs)
            if whole and not steady:
                follower.forward_begins(module, dict(zip(names, args, strict=False)) | kwargs)
            output = None
            taken = take_off(hooks)
            try:
                with self._pause():
                    output = call(*args, **kwargs)
                if not seeing or (whole and not steady):
                    # Which modules see something hardly changes once a graph has run; there may be hundreds of others.
                    seeing[:] = [one for one in inside if one[1]]
                if steady:
                    self._leave_together(seeing)
                else:
                    for inner, seen in seeing:
                        self._hand_over(inner, seen)
                return output
            finally:
                put_back(taken)
                for _, seen in inside if output is None else seeing:
                    seen.clear()
                if whole and not follower.continued(module, output):
                    follower.forward_ends(module, output)

        return observed

    def _leave_together(self, seeing: list[Listening]) -> None:
        """Leave what these modules saw on the steady path, where models inside tell nothing new."""
        following = self._follower.following()
        if following is not None:
            following += [(module, *one) for module, seen in seeing for one in seen if len(one) > 1]

    def _hand_over(self, module: nn.Module, all_seen: list[Any]) -> None:
        for seen in all_seen:
            if len(seen) == 1:
                # What a model inside returned, which its hook would have told outside of a graph.
                if not self._follower.continues(module, (), {}):
                    self._follower.forward_begins(module, {})
                if not self._follower.continued(module, seen):
                    self._follower.forward_ends(module, seen)
            elif (following := self._follower.following()) is not None:
                following.append((module, *seen))
            else:
                self._follower.see_attention(VectorCall(module, *seen))


class _Traced(AttentionInterface):
    """A registry that compiled code takes for another one than that which it was traced with."""

    def get_interface(self, attn_implementation: str, default: Kernel) -> Kernel:
        if torch.compiler.is_compiling():
            return seen_by_graph(unwatched_look_up(self, attn_implementation, default), attn_implementation)
        return super().get_interface(attn_implementation, default)


_lock = threading.Lock()
_traced: dict[int, tuple[AttentionInterface, _Traced]] = {}
_swapped: Counter[int] = Counter()


def swap_registry(namespace: dict[str, Any]) -> Callable[[], None]:
    """Put another registry with the same entries into a module, which makes the guards of compiled code fail.

    The same one is put there each time, so that what was traced for a recording serves the next one.

    Args:
        namespace: The module's globals.

    Returns:
        What puts the original one back.
    """
    with _lock:
        registry = namespace[REGISTRY]
        if not isinstance(registry, _Traced):
            if id(registry) not in _traced:
                traced = _Traced()
                traced.__dict__ = registry.__dict__
                _traced[id(registry)] = registry, traced
            namespace[REGISTRY] = _traced[id(registry)][1]
        _swapped[id(namespace)] += 1

    def undo() -> None:
        with _lock:
            _swapped[id(namespace)] -= 1
            traced = namespace[REGISTRY]
            if not _swapped[id(namespace)]:
                namespace[REGISTRY] = next(original for original, other in _traced.values() if other is traced)

    return undo
