"""The functional tap: seeing the softmax or the fused kernel inside any module, whoever wrote it.

While such a module computes, a `TorchFunctionMode` sees every function of torch that it calls. A softmax is attention
when its input comes from a product of two activations, which tells it apart from a router or a classifier, whose input
comes from a product with weights. What softmax is given are the finished scores, with every scale, bias and mask.
"""

import threading
import types
from collections.abc import Callable, Container
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from gentrace.capture.calls import Observer, ScoreCall, VectorCall
from gentrace.capture.fidelity import Check
from gentrace.capture.frames import find_caller
from gentrace.capture.interface import inside_kernel

GROUPS = 4
"""Products that are remembered with all that was made of them."""

PRODUCTS: frozenset[Any] = frozenset(
    {
        torch.matmul,
        torch.bmm,
        torch.baddbmm,
        torch.einsum,
        torch.mm,
        Tensor.matmul,
        Tensor.__matmul__,
        Tensor.bmm,
        Tensor.baddbmm,
        Tensor.mm,
    }
)
SOFTMAXES: frozenset[Any] = frozenset({F.softmax, torch.softmax, torch.special.softmax, Tensor.softmax})
FUSED: frozenset[Any] = frozenset({F.scaled_dot_product_attention})


class FunctionalTap:
    """Watches the modules that a thread is computing; one for a recorder."""

    def __init__(self, modules: Container[int], observer: Observer) -> None:
        """Prepare.

        Args:
            modules: Ids of the modules that may be found computing attention.
            observer: Who is told.
        """
        self._modules = modules
        self._observer = observer
        self._thread = _Thread()

    def enter(self, module: nn.Module) -> None:
        """Begin to watch this thread while it computes ``module``; may be nested."""
        if not self._thread.inside:
            self._thread.mode = _Mode(self._see_fused, self._see_softmax)
            self._thread.mode.__enter__()
        self._thread.inside.append(module)

    def leave(self, module: nn.Module) -> None:
        """Undo the newest `enter`, if it was for this module and on this thread."""
        if not self._thread.inside or self._thread.inside[-1] is not module:
            return
        self._thread.inside.pop()
        if not self._thread.inside and self._thread.mode is not None:
            self._thread.mode.__exit__(None, None, None)
            self._thread.mode = None

    def _see_softmax(self, scores: Tensor) -> ScoreCall | None:
        found = find_caller(self._modules, skip=2)
        if found is None:
            return None
        call = ScoreCall(found[0], scores)
        self._observer.see_attention(call)
        return call

    def _see_fused(self, args: tuple[Any, ...], options: dict[str, Any], output: Tensor) -> None:
        found = find_caller(self._modules, skip=2)
        if found is not None:
            self._observer.see_attention(_vector_call(found[0], args, options, output))


class _Thread(threading.local):
    """What one thread is in the middle of."""

    def __init__(self) -> None:
        self.inside: list[nn.Module] = []
        self.mode: _Mode | None = None


class _Product:
    """What was made of a product of two activations, so far."""

    def __init__(self) -> None:
        self.tensors: dict[int, Tensor] = {}
        self.call: ScoreCall | None = None
        """The attention whose weights these are, once softmax was taken."""
        self.sample: Tensor | None = None
        """Two rows of its scores, as they were then."""


class _Mode(TorchFunctionMode):
    """Follows products to softmax, and weights to values."""

    def __init__(
        self,
        see_fused: Callable[[tuple[Any, ...], dict[str, Any], Tensor], None],
        see_softmax: Callable[[Tensor], ScoreCall | None],
    ) -> None:
        super().__init__()
        self._see_fused = see_fused
        self._see_softmax = see_softmax
        self._products: list[_Product] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        options = kwargs or {}
        if inside_kernel():
            return func(*args, **options)
        if func is F.multi_head_attention_forward:
            # It would run unseen, since a function that the mode was told of does not tell of its parts.
            with self:
                return _OPEN_MULTI_HEAD(*args, **options)
        if func in FUSED:
            output = func(*args, **options)
            self._see_fused(args, options, output)
            return output
        if func in SOFTMAXES:
            return self._softmax(func, args, options)
        result = func(*args, **options)
        if func in PRODUCTS:
            self._product(func, args, result)
        elif self._products and isinstance(result, Tensor | tuple | list):
            source = self._source(args)
            if source is not None:
                _remember(source, result)
        return result

    def _softmax(self, func: Any, args: tuple[Any, ...], options: dict[str, Any]) -> Tensor:
        scores = args[0] if args else options["input"]
        source = self._source((scores,))
        dim = options.get("dim", args[1] if len(args) > 1 else None)
        call = None
        if source is not None and isinstance(dim, int):
            # Seen before it is computed: what comes after may write into the scores.
            call = self._see_softmax(scores.movedim(dim, -1))
            call = call if scores.dim() > 1 else None
        weights = func(*args, **options)
        if call is not None and dim in (-1, scores.dim() - 1):
            product = self._begin()
            product.call, product.sample = call, scores.detach()[..., _rows_of(scores), :].clone()
            _remember(product, weights)
        return weights

    def _product(self, func: Any, args: tuple[Any, ...], result: Tensor) -> None:
        tensors = [arg for arg in args if isinstance(arg, Tensor)]
        weights = next((source for source in map(self._source_of, tensors) if source and source.call), None)
        if weights is not None and weights.call is not None and weights.sample is not None:
            check = _check(func, args, weights.sample, weights.call.scores, result)
            if check is not None:
                weights.call.checks.append(check)
            weights.call = None
        elif len(tensors) > 1 and not any(isinstance(tensor, nn.Parameter) for tensor in tensors[-2:]):
            _remember(self._begin(), result)
        elif (source := self._source(args)) is not None:
            _remember(source, result)

    def _begin(self) -> _Product:
        product = _Product()
        self._products = [*self._products[1 - GROUPS :], product]
        return product

    def _source(self, args: Any) -> _Product | None:
        """The product that any of these arguments was made of."""
        for arg in args:
            if isinstance(arg, Tensor):
                found = self._source_of(arg)
            elif isinstance(arg, list | tuple):
                found = self._source(arg)
            else:
                continue
            if found is not None:
                return found
        return None

    def _source_of(self, tensor: Tensor) -> _Product | None:
        for product in reversed(self._products):
            if id(tensor) in product.tensors:
                return product
        return None


def _remember(product: _Product, result: Any) -> None:
    if isinstance(result, Tensor):
        product.tensors[id(result)] = result
    elif isinstance(result, tuple | list):
        for part in result:
            _remember(product, part)


def _rows_of(scores: Tensor) -> slice:
    """The row in the middle and the last one."""
    middle, last = scores.shape[-2] // 2, scores.shape[-2] - 1
    return slice(middle, last + 1, max(1, last - middle))


def _check(func: Any, args: tuple[Any, ...], sample: Tensor, scores: Tensor, result: Tensor) -> Check | None:
    """Mix the values with the softmax of the scores and compare two rows with what the module computed.

    Dropout and whatever else changes the weights on their way shows itself here.
    """
    if func is torch.einsum or len(args) != 2 or args[0].shape != scores.shape or args[1].dim() != scores.dim():
        return None
    rows = range(scores.shape[-2])[_rows_of(scores)]
    expected = sample.float().softmax(-1) @ args[1].detach().float()
    found = result.detach()[..., _rows_of(scores), :].float()
    difference = (found - expected).abs().amax(-1)
    size = found.abs().amax(-1).clamp_min(torch.finfo(torch.float32).tiny)
    return Check(tuple(rows), difference / size)


def _vector_call(module: nn.Module, args: tuple[Any, ...], options: dict[str, Any], output: Tensor) -> VectorCall:
    names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
    given = dict(zip(names, args, strict=False)) | options
    query, key, value = (_four_axes(given[name]) for name in ("query", "key", "value"))
    said = {"scaling": given.get("scale"), "is_causal": bool(given.get("is_causal", False))}
    mask = given.get("attn_mask")
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


_OPEN_MULTI_HEAD = types.FunctionType(
    F.multi_head_attention_forward.__code__,
    F.multi_head_attention_forward.__globals__ | {"has_torch_function": lambda _: False},
    "multi_head_attention_forward",
    F.multi_head_attention_forward.__defaults__,
    F.multi_head_attention_forward.__closure__,
)
