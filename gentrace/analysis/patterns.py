"""Three patterns that heads are known for: the token before, the same token earlier, and what followed it.

Each pattern says for every row which keys it expects. A mass is the weight that a head gives to them, row by row:
NaN in rows for which the pattern expects no key. A score is the mean of the masses over rows. Row p is token p looking
back; ids decide what is the same token, and an unknown id (−1) is like no other. A key that a sliding window hides from
a row is expected all the same, and its weight is 0.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from gentrace.analysis.blocks import Block, Queries, key_tokens, per_row
from gentrace.analysis.errors import MeasureError
from gentrace.analysis.measure import Measure
from gentrace.analysis.registry import register
from gentrace.trace.info import Kind
from gentrace.trace.trace import Trace

Pattern = Callable[[Int[Tensor, " key"], range], Bool[Tensor, "query key"]]


@register
def previous_token_mass(
    trace: Trace, *, layers: Sequence[int] | None = None, kind: Kind = "self", queries: Queries = "all"
) -> Measure:
    """Each row's attention to the token just before it, key p − 1; NaN in row 0, which has none.

    Its mean over rows is `previous_token_score`.

    Args:
        trace: The trace.
        layers: Layer numbers, or None for all.
        kind: Which attention, "self" or "encoder".
        queries: Which rows.

    Returns:
        ``[layer, head, query]``, a share of attention, 0 … 1.

    Raises:
        AttentionUnavailable: If a layer was not recorded.
        MeasureError: If the rows do not exist or the kind is "cross".
    """
    return _mass(trace, "previous_token_mass", _previous, layers, kind, queries)


@register
def duplicate_token_mass(
    trace: Trace, *, layers: Sequence[int] | None = None, kind: Kind = "self", queries: Queries = "all"
) -> Measure:
    """Each row's attention to earlier places of its own token; NaN in rows whose token is new.

    Its mean over rows is `duplicate_token_score`.

    Args:
        trace: The trace.
        layers: Layer numbers, or None for all.
        kind: Which attention, "self" or "encoder".
        queries: Which rows.

    Returns:
        ``[layer, head, query]``, a share of attention, 0 … 1.

    Raises:
        AttentionUnavailable: If a layer was not recorded.
        MeasureError: If the rows do not exist or the kind is "cross".
    """
    return _mass(trace, "duplicate_token_mass", _duplicate, layers, kind, queries)


@register
def induction_mass(
    trace: Trace, *, layers: Sequence[int] | None = None, kind: Kind = "self", queries: Queries = "all"
) -> Measure:
    """Each row's attention to the tokens that followed its own token earlier; NaN in rows that have none.

    A token that repeats the one before it also follows it, but looking at oneself is not counted: keys lie before p.
    The mean over rows is `induction_score`.

    Args:
        trace: The trace.
        layers: Layer numbers, or None for all.
        kind: Which attention, "self" or "encoder".
        queries: Which rows.

    Returns:
        ``[layer, head, query]``, a share of attention, 0 … 1.

    Raises:
        AttentionUnavailable: If a layer was not recorded.
        MeasureError: If the rows do not exist or the kind is "cross".
    """
    return _mass(trace, "induction_mass", _induction, layers, kind, queries)


@register
def previous_token_score(
    trace: Trace, *, layers: Sequence[int] | None = None, kind: Kind = "self", queries: Queries = "all"
) -> Measure:
    """How much a head is a previous-token head: the mean of `previous_token_mass` over rows.

    As in Olsson et al. 2022, "In-context Learning and Induction Heads", where such heads are the first half of the
    induction circuit.

    Args:
        trace: The trace.
        layers: Layer numbers, or None for all.
        kind: Which attention, "self" or "encoder".
        queries: Which rows.

    Returns:
        ``[layer, head]``, a share of attention, 0 … 1.

    Raises:
        AttentionUnavailable: If a layer was not recorded.
        MeasureError: If the rows do not exist or the kind is "cross".
    """
    return _score(previous_token_mass(trace, layers=layers, kind=kind, queries=queries))


@register
def duplicate_token_score(
    trace: Trace, *, layers: Sequence[int] | None = None, kind: Kind = "self", queries: Queries = "all"
) -> Measure:
    """How much a head is a duplicate-token head: the mean of `duplicate_token_mass` over rows with a repeated token.

    As in Wang et al. 2022, "Interpretability in the Wild", section 3; rows whose token is new say nothing and are left
    out. NaN in a text without repetitions.

    Args:
        trace: The trace.
        layers: Layer numbers, or None for all.
        kind: Which attention, "self" or "encoder".
        queries: Which rows.

    Returns:
        ``[layer, head]``, a share of attention, 0 … 1.

    Raises:
        AttentionUnavailable: If a layer was not recorded.
        MeasureError: If the rows do not exist or the kind is "cross".
    """
    return _score(duplicate_token_mass(trace, layers=layers, kind=kind, queries=queries))


@register
def induction_score(
    trace: Trace, *, layers: Sequence[int] | None = None, kind: Kind = "self", queries: Queries = "all"
) -> Measure:
    """How much a head is an induction head: the mean of `induction_mass` over rows with a repeated token.

    The prefix-matching score of Olsson et al. 2022, "In-context Learning and Induction Heads", which they take on
    random tokens repeated; on ordinary text it also counts heads that look there for another reason. NaN in a text
    without repetitions.

    Args:
        trace: The trace.
        layers: Layer numbers, or None for all.
        kind: Which attention, "self" or "encoder".
        queries: Which rows.

    Returns:
        ``[layer, head]``, a share of attention, 0 … 1.

    Raises:
        AttentionUnavailable: If a layer was not recorded.
        MeasureError: If the rows do not exist or the kind is "cross".
    """
    return _score(induction_mass(trace, layers=layers, kind=kind, queries=queries))


def _previous(ids: Int[Tensor, " key"], queries: range) -> Bool[Tensor, "query key"]:
    return _positions(queries) - 1 == torch.arange(len(ids))


def _duplicate(ids: Int[Tensor, " key"], queries: range) -> Bool[Tensor, "query key"]:
    return _same(ids, ids, queries) & (torch.arange(len(ids)) < _positions(queries))


def _induction(ids: Int[Tensor, " key"], queries: range) -> Bool[Tensor, "query key"]:
    before = torch.cat([torch.tensor([-1]), ids[:-1]])
    return _same(ids, before, queries) & (torch.arange(len(ids)) < _positions(queries))


def _positions(queries: range) -> Int[Tensor, "query one"]:
    return torch.arange(queries.start, queries.stop)[:, None]


def _same(ids: Int[Tensor, " key"], others: Int[Tensor, " key"], queries: range) -> Bool[Tensor, "query key"]:
    own = ids[queries.start : queries.stop, None]
    return (own == others) & (own >= 0)


def _mass(
    trace: Trace, name: str, pattern: Pattern, layers: Sequence[int] | None, kind: Kind, queries: Queries
) -> Measure:
    if kind == "cross":
        raise MeasureError(f"measuring {name}", "keys of cross-attention are in another text", "use self")
    keys = trace.encoder_length if kind == "encoder" else trace.length
    ids = key_tokens(trace, kind).ids[:keys]

    def reduce(block: Block) -> Tensor:
        expected = pattern(ids, block.queries)
        mass = torch.einsum("hqk,qk->hq", block.weights, expected.double())
        return mass.masked_fill_(~expected.any(-1), torch.nan)

    return per_row(trace, name, "share", reduce, layers=layers, kind=kind, queries=queries)


def _score(mass: Measure) -> Measure:
    return replace(mass.mean("query"), name=mass.name.replace("_mass", "_score"))
