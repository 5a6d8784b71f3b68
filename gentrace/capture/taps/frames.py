"""Finding on Python's own call stack which module computes an attention, and what its forward was given.

Looked at once for each attention, when it is first seen; afterwards the module is known.
"""

import sys
from collections.abc import Container
from types import FrameType
from typing import Any

from torch import Tensor, nn


def find_caller(known: Container[int], skip: int = 1) -> tuple[nn.Module, FrameType] | None:
    """The innermost module that is being computed, and its frame.

    Args:
        known: Ids of the modules that count. Plain layers of torch without children, such as `nn.Softmax`, never do.
        skip: Frames to leave out.
    """
    frame: FrameType | None = sys._getframe(skip)
    while frame is not None:
        module = _own_module(frame)
        if module is not None and id(module) in known and not _is_plain(module):
            return module, frame
        frame = frame.f_back
    return None


def memories(module: nn.Module) -> list[Tensor]:
    """The 3-D tensors beside the first that ``module.forward``, which is on the stack, was given.

    An attention module that looks at something else than its own input is given it as an argument of its own.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "forward" and _own_module(frame) is module:
            code = frame.f_code
            names = code.co_varnames[1 : code.co_argcount + code.co_kwonlyargcount]
            values: list[Any] = [frame.f_locals.get(name) for name in names]
            given = [value for value in values if _is_states(value)]
            return [value for value in given[1:] if _place(value) != _place(given[0])]
        frame = frame.f_back
    return []


def same_place(tensors: list[Tensor]) -> bool:
    """Whether all of these tensors, of which there is at least one, are the same data."""
    return len({_place(tensor) for tensor in tensors}) == 1


def _is_states(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() == 3 and value.is_floating_point()


def _place(tensor: Tensor) -> tuple[int, int]:
    """Where its data lies; without the address, which not every tensor has."""
    return tensor.untyped_storage()._cdata, int(tensor.storage_offset())


def _own_module(frame: FrameType) -> nn.Module | None:
    """The module whose method runs in this frame."""
    code = frame.f_code
    if not code.co_argcount or code.co_name in ("_call_impl", "_wrapped_call_impl", "_compiled_call_impl"):
        return None
    first = frame.f_locals.get(code.co_varnames[0])
    return first if isinstance(first, nn.Module) else None


def _is_plain(module: nn.Module) -> bool:
    return type(module).__module__.startswith("torch.nn.") and next(module.children(), None) is None
