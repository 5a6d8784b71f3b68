"""Following tensors through the functions of torch: products to softmax, and weights to values.

Tensors are known by identity and held weakly: what a chain holds on to, such as the queries, lives as long as the
scores that were made of it.
"""

import types
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Generic, Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from gentrace.capture.fidelity import Check
from gentrace.capture.taps.chains import Chain, assign, prolong
from gentrace.capture.taps.interface import inside_kernel
from gentrace.capture.taps.products import PRODUCTS, Mixture, factors_of, read_mixture, read_scores

SOFTMAXES: frozenset[Any] = frozenset({F.softmax, torch.softmax, torch.special.softmax, Tensor.softmax})
FUSED: frozenset[Any] = frozenset({F.scaled_dot_product_attention})
SPECIAL: frozenset[Any] = frozenset(
    {*SOFTMAXES, *FUSED, *PRODUCTS, F.multi_head_attention_forward, Tensor.__setitem__, torch.zeros}
)
DROPOUTS: frozenset[Any] = frozenset({F.dropout, torch.dropout})
KEPT_WEIGHTS = frozenset(
    {"t", "transpose", "permute", "__get__", "to", "float", "type", "type_as", "view", "reshape", "contiguous"}
    | {"detach", "normalize", "div", "mul", "clone", "half", "bfloat16", "unsqueeze", "squeeze", "__getitem__"}
)
"""Functions that make weights of weights."""

Value = TypeVar("Value")


class Attention(Protocol):
    """An attention whose weights are followed."""

    met: bool
    """Whether they have met the values, or never will."""
    dropout: float
    """Share of them that was dropped at random."""


Followed = TypeVar("Followed", bound=Attention)


class _Ties(Generic[Value]):
    """What is known of tensors, as long as they live."""

    def __init__(self) -> None:
        self.known: dict[int, tuple[weakref.ref[Tensor], Value]] = {}

    def put(self, tensor: Tensor, value: Value) -> None:
        key, known = id(tensor), self.known
        known[key] = weakref.ref(tensor, lambda _: known.pop(key, None)), value

    def get(self, tensor: Tensor) -> Value | None:
        found = self.known.get(id(tensor))
        return found[1] if found is not None and found[0]() is tensor else None

    def clear(self) -> None:
        self.known.clear()


class Following(TorchFunctionMode, Generic[Followed]):
    """Sees every function of torch on this thread while it is entered."""

    def __init__(
        self,
        see_fused: Callable[[tuple[Any, ...], dict[str, Any], Tensor], None],
        see_softmax: Callable[[Chain, Tensor, int], Followed | None],
        see_mixture: Callable[[Followed, Mixture | None], None],
    ) -> None:
        """Prepare.

        Args:
            see_fused: Told of arguments and output of a fused kernel.
            see_softmax: Told of scores that are about to enter a softmax along an axis, and of their chain; returns
                what is to be followed.
            see_mixture: Told when its weights have met the values, or None if they are something else than weights.
        """
        super().__init__()
        self._see_fused = see_fused
        self._see_softmax = see_softmax
        self._see_mixture = see_mixture
        self._chains: _Ties[Chain] = _Ties()
        self._weights: _Ties[Followed] = _Ties()
        self._parameters: _Ties[bool] = _Ties()
        self._zeros: _Ties[bool] = _Ties()

    def close(self) -> None:
        """Forget everything."""
        for ties in (self._chains, self._weights, self._parameters, self._zeros):
            ties.clear()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in SPECIAL and not inside_kernel():
            return self._special(func, args, kwargs or {})
        result = func(*args, **kwargs) if kwargs else func(*args)
        # Most of what comes here is a look at a shape or a device.
        if isinstance(result, Tensor) or (isinstance(result, tuple | list) and type(result) is not torch.Size):
            name = getattr(func, "__name__", "")
            if name in KEPT_WEIGHTS:
                self._follow_parameter(args, result)
            if self._weights.known or self._chains.known:
                self._follow(func, args, kwargs or {}, result)
        return result

    def _special(self, func: Any, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        if func is F.multi_head_attention_forward:
            # It would run unseen, since a function that the mode was told of does not tell of its parts.
            with self:
                return _OPEN_MULTI_HEAD(*args, **options)
        if func in SOFTMAXES:
            return self._softmax(func, args, options)
        result = func(*args, **options)
        if func in FUSED:
            self._see_fused(args, options, result)
        elif func in PRODUCTS:
            self._multiply(func, args, options, result)
        elif func is Tensor.__setitem__:
            self._assign(*args)
        elif isinstance(result, Tensor):
            self._zeros.put(result, True)
        return result

    def _softmax(self, func: Any, args: tuple[Any, ...], options: dict[str, Any]) -> Tensor:
        scores = args[0] if args else options["input"]
        dim = options.get("dim", args[1] if len(args) > 1 else None)
        chain = self._chains.get(scores)
        followed = None
        if chain is not None and isinstance(dim, int):
            followed = self._see_softmax(chain, scores, dim)
        weights = func(*args, **options)
        if followed is not None:
            self._weights.put(weights, followed)
        return weights

    def _multiply(self, func: Any, args: tuple[Any, ...], options: dict[str, Any], result: Tensor) -> None:
        factors = factors_of(func, args, options)
        if factors is None:
            self._follow(func, args, options, result)
            return
        for factor in factors:
            followed = self._weights.get(factor)
            if followed is not None and not followed.met:
                self._see_mixture(followed, read_mixture(func, args, options, result, factor))
                return
        if any(isinstance(factor, nn.Parameter) or self._parameters.get(factor) for factor in factors):
            self._follow(func, args, options, result)
            return
        product = read_scores(func, args, options, result)
        if product is not None and not product.is_by_heads:
            self._chains.put(result, Chain(product, (), known=False))
            return
        if product is not None and product.added is not None and self._zeros.get(product.added):
            product = replace(product, added=None)
        self._chains.put(result, Chain(product))

    def _follow(self, func: Any, args: tuple[Any, ...], options: dict[str, Any], result: Any) -> None:
        given = list(_tensors((*args, *options.values())))
        if self._weights.known and self._follow_weights(given, result, _dropped(func, args, options)):
            return
        found = [(tensor, chain) for tensor in given if (chain := self._chains.get(tensor)) is not None]
        if not found:
            return
        scores, chain = next(((tensor, chain) for tensor, chain in found if chain.readable), found[0])
        if (func is F.linear or func in PRODUCTS) and scores.dim() < 4:
            # A projection of hidden states; only of four axes could it be one that mixes heads.
            return
        others = [other for tensor, other in found if tensor is not scores]
        for part in _tensors((result,)):
            self._chains.put(part, prolong(chain, scores, others, (func, args, options), part))

    def _follow_weights(self, given: list[Tensor], result: Any, dropped: float) -> bool:
        found = {id(one): one for tensor in given if (one := self._weights.get(tensor)) is not None and not one.met}
        if len(found) == 1:
            (followed,) = found.values()
            followed.dropout = max(followed.dropout, dropped)
            for part in _tensors((result,)):
                self._weights.put(part, followed)
        elif found:
            for one in found.values():
                self._see_mixture(one, None)
        return bool(found)

    def _assign(self, tensor: Tensor, place: Any, value: Any) -> None:
        chain = self._chains.get(tensor)
        if chain is not None:
            self._chains.put(tensor, assign(chain, tensor, place, value))
        elif isinstance(value, Tensor) and (part := self._chains.get(value)) is not None:
            self._chains.put(tensor, part.broken())

    def _follow_parameter(self, args: tuple[Any, ...], result: Any) -> None:
        first = args[0] if args else None
        if not isinstance(first, Tensor) or not isinstance(result, Tensor) or result is first:
            return
        # Asking whether something is a parameter is slow.
        if nn.Parameter in type(first).__mro__ or self._parameters.get(first):
            others = (arg for arg in args[1:] if isinstance(arg, Tensor) and arg.dim())
            known = all(isinstance(arg, nn.Parameter) or self._parameters.get(arg) for arg in others)
            if known:
                self._parameters.put(result, True)


def rows_of(scores: Tensor) -> slice:
    """The row in the middle and the last one."""
    middle, last = scores.shape[-2] // 2, scores.shape[-2] - 1
    return slice(middle, last + 1, max(1, last - middle))


def check_mixture(sample: Tensor, scores: Tensor, mixture: Mixture) -> Check | None:
    """Mix the values with the softmax of the scores and compare two rows with what the module computed.

    Dropout and whatever else changes the weights on their way shows itself here.

    Args:
        sample: Two rows of the scores, as they entered softmax.
        scores: All of them, ``[…, query, key]``.
        mixture: What their weights were multiplied with.
    """
    if mixture.shape != scores.shape or mixture.value.dim() != scores.dim():
        return None
    rows = range(scores.shape[-2])[rows_of(scores)]
    expected = sample.float().softmax(-1) @ mixture.value.detach().float()
    found = mixture.output.detach()[..., rows_of(scores), :].float()
    difference = (found - expected).abs().amax(-1)
    size = found.abs().amax(-1).clamp_min(torch.finfo(torch.float32).tiny)
    return Check(tuple(rows), difference / size)


def _dropped(func: Any, args: tuple[Any, ...], options: dict[str, Any]) -> float:
    """The share of its input that a function sets to zero at random."""
    if func not in DROPOUTS:
        return 0.0
    given = dict(zip(("input", "p", "training" if func is F.dropout else "train"), args, strict=False)) | options
    return float(given.get("p", 0.5)) if given.get("training", given.get("train", True)) else 0.0


def _tensors(values: Any) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, tuple | list):
            yield from _tensors(value)


_OPEN_MULTI_HEAD = types.FunctionType(
    F.multi_head_attention_forward.__code__,
    F.multi_head_attention_forward.__globals__ | {"has_torch_function": lambda _: False},
    "multi_head_attention_forward",
    F.multi_head_attention_forward.__defaults__,
    F.multi_head_attention_forward.__closure__,
)
