"""Matrix products in one layout, whichever of torch's functions computed them.

Attention is two products: of queries with keys, and of weights with values. The functions that compute them name and
order their operands differently; here each becomes ``[…, row, inner]``, ``[…, inner, column]`` and what came out.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

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
SUMS: frozenset[Any] = frozenset({torch.baddbmm, Tensor.baddbmm})


@dataclass(frozen=True, slots=True, eq=False)
class Product:
    """Scores as a product, and what was added to it in the same go."""

    query: Tensor
    """[…, query, dim]."""
    key: Tensor
    """[…, key, dim]."""
    shape: torch.Size
    """Of the scores, […, query, key]."""
    added: Tensor | None = None
    """Broadcasts against the scores."""
    alpha: Any = 1
    """Factor on the product."""
    beta: Any = 1
    """Factor on what was added."""

    @property
    def is_by_heads(self) -> bool:
        """Whether its leading axes may be sequences and heads: a third is for heads that share their keys."""
        return self.key.dim() < 5 or (self.key.dim() == 5 and (self.key.shape[2] == 1 or not self.key.stride(2)))


@dataclass(frozen=True, slots=True, eq=False)
class Mixture:
    """Values mixed by weights."""

    value: Tensor
    """[…, key, value_dim]."""
    output: Tensor
    """[…, query, value_dim]."""
    shape: torch.Size
    """Of the weights, […, query, key]."""


def factors_of(func: Any, args: tuple[Any, ...], options: Mapping[str, Any]) -> tuple[Tensor, Tensor] | None:
    """The two tensors that one of `PRODUCTS` multiplies; None if there are not two."""
    if func is torch.einsum:
        given = args[1:] if len(args) > 2 else (args[1] if len(args) == 2 else ())
    elif func in SUMS:
        given = (*args[1:3], *(options[name] for name in ("batch1", "batch2") if name in options))
    else:
        given = (*args[:2], *(options[name] for name in ("input", "other", "mat2") if name in options))
    tensors = [tensor for tensor in given if isinstance(tensor, Tensor)]
    return (tensors[0], tensors[1]) if len(tensors) == 2 else None


def read_scores(func: Any, args: tuple[Any, ...], options: Mapping[str, Any], result: Tensor) -> Product | None:
    """Read a product as that of queries and keys.

    Args:
        func: One of `PRODUCTS`.
        args: Its arguments.
        options: Its keyword arguments.
        result: What it returned.

    Returns:
        The product, or None if its result is not ``[…, query, key]``.
    """
    factors = factors_of(func, args, options)
    if factors is None or "out" in options:
        return None
    left, right = factors
    if func is torch.einsum:
        terms = _terms(args[0], left, right, result)
        if terms is None or len(terms[2]) < 2:
            return None
        first, second, out = terms
        row, column = out[-2:]
        if column in first:
            left, right, first, second = right, left, second, first
        inner = _only([letter for letter in first if letter in second and letter not in out])
        if inner is None or row in second or column in first or row not in first or column not in second:
            return None
        lead = out[:-2]
        return Product(
            _align(left, first, lead + row + inner), _align(right, second, lead + column + inner), result.shape
        )
    if left.dim() < 2 or right.dim() < 2:
        return None
    if func in SUMS:
        added = args[0] if args else options["input"]
        return Product(
            left, right.transpose(-1, -2), result.shape, added, options.get("alpha", 1), options.get("beta", 1)
        )
    return Product(left, right.transpose(-1, -2), result.shape)


def read_mixture(
    func: Any, args: tuple[Any, ...], options: Mapping[str, Any], result: Tensor, weights: Tensor
) -> Mixture | None:
    """Read a product as that of weights and values.

    Args:
        func: One of `PRODUCTS`.
        args: Its arguments.
        options: Its keyword arguments.
        result: What it returned.
        weights: Which of the two the weights are, ``[…, query, key]``.

    Returns:
        The mixture, or None if the product is none.
    """
    factors = factors_of(func, args, options)
    if factors is None or func in SUMS:
        return None
    left, right = factors
    if func is torch.einsum:
        terms = _terms(args[0], left, right, result)
        if terms is None:
            return None
        first, second, out = terms
        if right is weights:
            left, right, first, second = right, left, second, first
        row, inner = first[-2:]
        column = _only([letter for letter in second if letter not in first])
        if column is None or inner not in second or inner in out or row in second:
            return None
        lead = first[:-2]
        if {*lead, row, column} != set(out):
            return None
        value, output = _align(right, second, lead + inner + column), _align(result, out, lead + row + column)
        return Mixture(value, output, weights.shape)
    if left is not weights or right.dim() < 2:
        return None
    return Mixture(right, result, weights.shape)


def _terms(equation: Any, left: Tensor, right: Tensor, result: Tensor) -> tuple[str, str, str] | None:
    """The letters of both operands and of the result, one an axis, the ellipsis spelled out."""
    if not isinstance(equation, str) or "->" not in equation:
        return None
    inputs, out = equation.replace(" ", "").split("->")
    first, second = inputs.split(",")
    spare = [letter for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ" if letter not in equation]

    def spelled(term: str, tensor: Tensor) -> str:
        hidden = tensor.dim() - len(term.replace("...", ""))
        return term.replace("...", "".join(spare[-hidden:]) if hidden else "")

    terms = spelled(first, left), spelled(second, right), spelled(out, result)
    return terms if all(len(set(term)) == len(term) for term in terms) else None


def _only(letters: list[str]) -> str | None:
    return letters[0] if len(letters) == 1 else None


def _align(tensor: Tensor, has: str, wanted: str) -> Tensor:
    """Put axes in the wanted order; one that the tensor lacks has size 1."""
    ordered = tensor.permute([has.index(letter) for letter in wanted if letter in has])
    for place, letter in enumerate(wanted):
        if letter not in has:
            ordered = ordered.unsqueeze(place)
    return ordered
