"""The recorder's hooks on modules: how they are told from others, taken off and put back."""

import threading
from collections.abc import Iterable
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle

HOOK = -1
"""Number of our hooks; torch counts its own from 0."""

Taken = list[tuple[dict[int, Any], Any]]


def fix_number(handle: RemovableHandle) -> RemovableHandle:
    """Give a hook the same number in every recording, since compiled code is guarded by the numbers of hooks."""
    for reference in (handle.hooks_dict_ref, *handle.extra_dict_ref):
        hooks = reference()
        if hooks is not None and handle.id in hooks:
            hooks[HOOK] = hooks.pop(handle.id)
    handle.id = HOOK
    return handle


class Resting:
    """Hooks that are off their modules for a while.

    On a steady path, hooks of the models inside have nothing to tell. But hooks are the module's and not a thread's, so
    they rest only while one thread alone uses the model, and are back before another one gets to them.
    """

    def __init__(self) -> None:
        """Begin with none."""
        self._lock = threading.Lock()
        self._threads: set[int] = set()
        self._taken: Taken = []
        self._ended = False

    def wake(self) -> bool:
        """Put all hooks back, since this thread is about to need them; says whether any had been off."""
        with self._lock:
            self._threads.add(threading.get_ident())
            taken, self._taken = self._taken, []
            put_back(taken)
            return bool(taken)

    def rest(self, modules: list[nn.Module]) -> None:
        """Take the hooks off these modules, if this thread alone uses the model."""
        with self._lock:
            if len(self._threads) == 1 and not self._taken and not self._ended:
                self._taken = [one for module in modules for one in take_off(hooks_of(module))]

    def end(self) -> None:
        """Let no hook rest from now on; those that are off stay off."""
        with self._lock:
            self._ended, self._taken = True, []


def hooks_of(module: nn.Module) -> tuple[dict[int, Any], ...]:
    """Where a module keeps its hooks."""
    return (
        module._forward_pre_hooks,
        module._forward_pre_hooks_with_kwargs,
        module._forward_hooks,
        module._forward_hooks_always_called,
    )


def take_off(places: Iterable[dict[int, Any]]) -> Taken:
    """Take the recorder's hooks off; returns what puts them back."""
    return [(hooks, hooks.pop(HOOK)) for hooks in places if HOOK in hooks]


def put_back(taken: Taken) -> None:
    """Put hooks back where they were."""
    for hooks, hook in taken:
        hooks[HOOK] = hook
