"""What happens to a product of queries and keys on its way to softmax, operation by operation.

Each operation is noted as it is called and read only when softmax shows that the product was attention. Whatever is
not known here makes the chain unreadable, and of that attention only its finished scores are kept.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from gentrace.capture.taps.products import Product

What = Literal["same", "scale", "divide", "tanh", "add", "show", "hide", "floor", "sink", "shift"]

CASTS = frozenset({"to", "float", "half", "bfloat16", "double", "type", "type_as", "contiguous", "clone", "detach"})
DROPOUTS = frozenset({"dropout"})
VIEWS = frozenset({"view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "view_as", "getitem", "expand"})
MULTIPLIED = frozenset({"mul", "rmul", "imul", "multiply"})
DIVIDED = frozenset({"div", "truediv", "itruediv", "true_divide", "divide"})
ADDED = frozenset({"add", "radd", "iadd"})
SUBTRACTED = frozenset({"sub", "isub", "subtract"})
RAISED = frozenset({"max", "maximum", "clamp", "clamp_min", "clip"})
JOINED = frozenset({"cat", "concat", "concatenate"})
MAXIMA = frozenset({"max", "amax"})


@dataclass(frozen=True, slots=True, eq=False)
class Operation:
    """One thing that was done to scores."""

    what: What
    operand: Any
    """The number or tensor it was done with."""
    shape: torch.Size
    """Of the scores, […, query, key], afterwards."""
    factor: Any = 1
    """On a sum's operand; the value that hides, where something hides."""


@dataclass(frozen=True, slots=True, eq=False)
class Chain:
    """What a tensor was made of."""

    product: Product | None
    """None if its layout is not understood."""
    operations: tuple[Operation, ...] = ()
    known: bool = True
    """Whether every operation is."""
    is_maximum: bool = False
    """Whether it is the largest score of each row."""

    @property
    def readable(self) -> bool:
        """Whether it is scores, of which all is known."""
        return self.known and self.product is not None

    def broken(self) -> "Chain":
        """The chain after something unknown."""
        return Chain(self.product, (), known=False)


def prolong(
    chain: Chain,
    scores: Tensor,
    chains: Sequence[Chain],
    call: tuple[Any, tuple[Any, ...], Mapping[str, Any]],
    result: Tensor,
) -> Chain:
    """The chain of what a function made of scores.

    Args:
        chain: The scores' own.
        scores: What the chain belongs to.
        chains: Those of the call's other tensors that have one.
        call: The function, its arguments and its keyword arguments.
        result: What it returned.
    """
    func, args, options = call
    if not chain.readable or chain.is_maximum or "out" in options:
        return chain.broken()
    name = str(getattr(func, "__name__", "")).strip("_")
    others = [value for value in (*args, *options.values()) if value is not scores]
    shape = result.shape
    if _is_same(name, scores, result, others):
        # The shape is noted all the same: it may tell heads from sequences.
        return Chain(chain.product, (*chain.operations, Operation("same", None, shape)))
    if name in MAXIMA and shape == (*scores.shape[:-1], 1) and not any(isinstance(other, Tensor) for other in others):
        return Chain(chain.product, is_maximum=True)
    operation = _operation(name, args, options, others, scores, result)
    if operation is None:
        return chain.broken()
    if operation.what == "add" and any(other.is_maximum for other in chains):
        operation = Operation("shift", None, shape)
    return Chain(chain.product, (*chain.operations, operation))


def assign(chain: Chain, scores: Tensor, place: Any, value: Any) -> Chain:
    """The chain of scores into which something was written."""
    if not chain.readable or not isinstance(place, Tensor) or place.dtype != torch.bool or isinstance(value, Tensor):
        return chain.broken()
    if place.dim() != scores.dim():
        return chain.broken()
    return Chain(chain.product, (*chain.operations, Operation("hide", place, scores.shape, value)))


def is_in_blocks(chain: Chain, scores: Tensor) -> bool:
    """Whether scores were put together from products of blocks, so that their axes are not queries and keys."""
    if chain.product is None or chain.readable:
        return False
    if not chain.product.is_by_heads:
        return True
    # One column more is a sink.
    count, columns = chain.product.shape.numel(), chain.product.shape[-1]
    return scores.numel() not in (count, count // columns * (columns + 1))


def _is_same(name: str, scores: Tensor, result: Tensor, others: list[Any]) -> bool:
    if name in CASTS:
        return result.is_floating_point() and result.shape == scores.shape
    if name in DROPOUTS:
        return True
    if name in VIEWS:
        return result.numel() == scores.numel() and result.shape[-2:] == scores.shape[-2:]
    return False


def _operation(
    name: str, args: tuple[Any, ...], options: Mapping[str, Any], others: list[Any], scores: Tensor, result: Tensor
) -> Operation | None:
    shape = result.shape
    first = bool(args) and args[0] is scores
    if name == "tanh":
        return Operation("tanh", None, shape)
    if name in JOINED:
        return _sink(args, options, scores, result)
    if shape != scores.shape or not others:
        return None
    if name in MULTIPLIED:
        return Operation("scale", others[0], shape)
    if name in DIVIDED and first and len(others) == 1:
        return Operation("divide", others[0], shape)
    if (name in ADDED or (name in SUBTRACTED and first)) and isinstance(others[0], Tensor):
        alpha = options.get("alpha", 1)
        return Operation("add", others[0], shape, alpha if name in ADDED else -alpha)
    if name == "masked_fill" and len(others) == 2:
        return Operation("hide", options.get("mask", others[0]), shape, options.get("value", others[1]))
    if name == "where" and len(others) == 2:
        return _chosen(args, options, scores, shape)
    if name in RAISED and len(others) == 1 and "max" not in options:
        return Operation("floor", others[0], shape)
    return None


def _chosen(args: tuple[Any, ...], options: Mapping[str, Any], scores: Tensor, shape: torch.Size) -> Operation | None:
    """``torch.where``, or the method, which names the scores first."""
    given = list(args) + [options[name] for name in ("condition", "input", "self", "other") if name in options]
    if len(given) != 3:
        return None
    condition, kept, other = (given[1], given[0], given[2]) if given[0] is scores else given
    if condition is scores:
        return None
    return Operation("show" if kept is scores else "hide", condition, shape, other if kept is scores else kept)


def _sink(args: tuple[Any, ...], options: Mapping[str, Any], scores: Tensor, result: Tensor) -> Operation | None:
    """One more column behind the scores."""
    parts = args[0] if args else options.get("tensors")
    if not isinstance(parts, list | tuple) or len(parts) != 2 or parts[0] is not scores:
        return None
    if result.shape != (*scores.shape[:-1], scores.shape[-1] + 1):
        return None
    return Operation("sink", parts[1], scores.shape)
