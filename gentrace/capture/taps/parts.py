"""Queries, keys, masks and biases in one layout, taken out of the layout in which a module put them.

Modules arrange sequences and heads in the leading axes of their scores as they like: ``[query, key]`` of one head,
``[batch · head, query, key]``, ``[batch, head, query, key]`` or, with heads that share keys, ``[batch, kv_head, group,
query, key]``. All of them become ``[batch, head, query, key]``.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gentrace.capture.shapes import visible_scores
from gentrace.stitch.scores import ScoreRule, dot_products, scores_from

UNSEEN = 50.0
"""How far below the largest score of its row a hidden one lies at least: no weight is left there."""
ROUNDINGS = 16
"""Roundings that scores and what is recomputed may be apart, of the sum of the products' sizes."""


class Unreadable(Exception):
    """The chain is not understood; the message says why."""


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """Attention taken apart; masks and biases broadcast, ``[batch or 1, head or 1, query or 1, key]``."""

    query: Tensor
    """[batch, head, query, dim]."""
    key: Tensor
    """[batch, kv_head, key, dim]."""
    mask: Tensor | None
    """True where visible, or numbers that were added."""
    bias: Tensor | None
    sinks: Tensor | None
    """[head]."""
    scale: float
    softcap: float | None
    heads: tuple[int, int] | None
    """Sequences and heads; None where the module never told them apart, as in ``[1, batch · head, query, dim]``."""

    def separated(self, heads: tuple[int, int]) -> "Parts":
        """The same with sequences and heads told apart."""
        query, key, mask, bias = (_separate(part, heads) for part in (self.query, self.key, self.mask, self.bias))
        if query is None or key is None:
            raise Unreadable("no queries")
        return replace(self, query=query, key=key, mask=mask, bias=bias, heads=heads)


def heads_of(shapes: list[torch.Size]) -> tuple[int, int] | None:
    """Sequences and heads, told from the first of the scores' shapes that has an axis for each."""
    return next(((shape[0], shape[1:-2].numel()) for shape in shapes if len(shape) >= 4), None)


def arrange(tensor: Tensor, axes: int, heads: tuple[int, int] | None, *, grouped: bool = False) -> Tensor:
    """Bring a tensor that broadcasts against scores to ``[batch or 1, head or 1, …, …]``.

    Args:
        tensor: The tensor.
        axes: How many axes the scores have: ``[query, key]``, with ``batch · head`` in front, with ``batch, head`` or
            with ``batch, kv_head, group``.
        heads: Sequences and heads.
        grouped: Whether heads that share what the tensor holds may be one.
    """
    if tensor.dim() > axes or axes > 5:
        raise Unreadable(f"{tensor.dim()} axes beside scores of {axes}")
    while tensor.dim() < axes or tensor.dim() < 3:
        tensor = tensor[None]
    if tensor.dim() == 3:
        if len(tensor) == 1 or heads is None:
            return tensor[None]
        return _whole(_separate(tensor[None], heads))
    if tensor.dim() == 4:
        return tensor
    if tensor.shape[2] == 1 and (grouped or tensor.shape[1] == 1):
        return tensor[:, :, 0]
    if heads is None:
        raise Unreadable("heads in groups")
    # Groups have the size that makes them the heads.
    kv_heads, group = tensor.shape[1:3]
    wanted = (heads[1] // group if kv_heads == 1 else kv_heads), (heads[1] // kv_heads if group == 1 else group)
    return tensor.expand(-1, *wanted, -1, -1).flatten(1, 2)


def repeats(key: Tensor, value: Tensor) -> int:
    """How many neighbouring heads have the same keys and values, because a module repeated them for its queries."""
    count = key.shape[1]
    for group in range(count, 1, -1):
        if count % group == 0 and all(
            bool((heads == heads[:, :, :1]).all()) and bool(heads.any())
            for heads in (tensor.detach().unflatten(1, (-1, group)) for tensor in (key, value))
        ):
            return group
    return 1


def agrees(parts: Parts, scores: Tensor, shifted: bool) -> bool:
    """Whether two rows of the scores are what the parts give."""
    query, key, mask, bias = (
        None if part is None else part.detach() for part in (parts.query, parts.key, parts.mask, parts.bias)
    )
    if query is None or key is None:
        return False
    found = arrange(scores.detach(), scores.dim(), parts.heads)[..., : key.shape[2]]
    middle, last = query.shape[2] // 2, query.shape[2] - 1
    rows = slice(middle, last + 1, max(1, last - middle))
    query, found = query[:, :, rows], found[:, :, rows].float()
    open_, added = torch.ones((), dtype=torch.bool, device=key.device), torch.zeros((), device=key.device)
    for part in (mask, bias):
        if part is None:
            continue
        cut = part if part.shape[2] == 1 else part[:, :, rows]
        if cut.dtype == torch.bool:
            open_ = open_ & cut
        else:
            shown = visible_scores(cut)
            open_, added = open_ & shown, added + torch.where(shown, cut.float(), 0.0)
    if open_.dim() and not bool((open_ == open_[:, :1]).all()):
        raise Unreadable("heads that see different keys")
    everything = torch.ones(found.shape[2:], dtype=torch.bool, device=key.device)
    expected = scores_from(query, key, everything, ScoreRule(parts.scale, parts.softcap)) + added
    size = dot_products(query.abs(), key.abs()) * abs(parts.scale) + added.abs() + 1
    eps = max(torch.finfo(tensor.dtype).eps for tensor in (query, key, scores))
    open_ = open_.expand(found.shape)
    top, base = (torch.where(open_, tensor, -torch.inf).amax(-1, keepdim=True) for tensor in (found, expected))
    seen = top > -torch.inf
    if shifted:
        found, expected = found - top, expected - base
        top = torch.zeros_like(top)
    near = (found - expected).abs() <= ROUNDINGS * eps * size
    gone = found < torch.where(seen, top, 0.0) - UNSEEN
    return bool((torch.where(open_, near, gone) | ~seen).all())


def _separate(tensor: Tensor | None, heads: tuple[int, int]) -> Tensor | None:
    if tensor is None or tensor.shape[1] == 1:
        return tensor
    if tensor.shape[1] != heads[0] * heads[1]:
        raise Unreadable(f"{tensor.shape[1]} rows of heads for {heads}")
    return tensor[0].unflatten(0, heads)


def _whole(tensor: Tensor | None) -> Tensor:
    if tensor is None:
        raise Unreadable("nothing to arrange")
    return tensor
