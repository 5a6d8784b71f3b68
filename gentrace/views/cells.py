"""One matrix to draw, as plain data: which tokens look, which are looked at, and the numbers between them.

Every view of attention begins here, so that ranges, the three kinds of attention, rows that were never seen and traces
without a tokenizer are settled once. A view gets a `Cells` and only has to paint it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch

from gentrace.axes import Matrix, Visible
from gentrace.errors import AttentionUnavailable, ViewBudgetError, ViewError
from gentrace.trace.info import Kind, LayerInfo
from gentrace.trace.trace import Trace
from gentrace.views.labels import label
from gentrace.views.timeline import What, check_recorded, choose_heads, full_colour, model_name

Span: TypeAlias = slice | tuple[int, int] | Literal["prompt", "generated"] | None
"""Positions: a slice, first and one past the last, those that were given or written, or None for all."""
FirstKey = Literal["mask", "keep"]
"""Whether the first key's column is set aside, grey and outside of the colour scale."""

MEAN_CELLS = 20_000_000
"""Cells of a mean; more than can be drawn, so that it can be measured too."""

_WHOSE = {"self": "self-attention", "cross": "cross-attention", "encoder": "encoder attention"}


@dataclass(frozen=True, slots=True)
class Side:
    """One axis of a matrix."""

    axis: str
    """"query" or "key"."""
    positions: range
    """The positions shown."""
    labels: tuple[str, ...]
    """[position] displayable text of each of them."""
    prompt_length: int | None
    """Positions before this one were given, the others written; None where nothing is written, as in an encoder."""

    @property
    def names(self) -> list[str]:
        """[position] position and text of each, for tooltips."""
        return [f"{position} {text}" for position, text in zip(self.positions, self.labels, strict=True)]


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """Attention of one head, or the mean of several, between some queries and some keys."""

    model: str
    """Name of the model."""
    title: str
    """What it is, for people."""
    pairs: tuple[tuple[int, int], ...]
    """Layer and head of every matrix in it."""
    kind: Kind
    """Which attention of the layers."""
    queries: Side
    keys: Side
    weights: Matrix
    """[query, key] 0 … 1; 0 where masked, NaN in rows never seen."""
    scores: Matrix
    """[query, key] what went into softmax; −inf where masked, NaN in rows never seen."""

    @property
    def visible(self) -> Visible:
        """[query, key] where the query could look."""
        return self.scores.isfinite()

    @property
    def unseen(self) -> list[int]:
        """Query positions that were never recorded."""
        rows = self.weights.isnan().all(-1).tolist()
        return [position for position, missing in zip(self.queries.positions, rows, strict=True) if missing]

    @property
    def causal(self) -> bool:
        """Whether no query shown looks at a later key."""
        query = torch.tensor(self.queries.positions)[:, None]
        return not bool((self.visible & (torch.tensor(self.keys.positions) > query)).any())

    def values(self, what: What) -> Matrix:
        """[query, key] weights or scores where the query could look, NaN elsewhere."""
        chosen = self.weights if what == "weights" else self.scores
        return chosen.where(self.visible, torch.nan)


@dataclass(frozen=True, slots=True)
class Scale:
    """The values that get the first and the last colour."""

    low: float
    high: float


def read_cells(
    trace: Trace, layer: int, head: int, queries: Span = None, keys: Span = None, kind: Kind = "self"
) -> Cells:
    """One head between some queries and some keys.

    Args:
        trace: A finished trace.
        layer: The model's layer number.
        head: Query head.
        queries: Positions that look.
        keys: Positions that are looked at.
        kind: Which attention of the layer.

    Raises:
        ViewError: If the trace has no such layer, head or position.
    """
    info = choose_layer(trace, layer, kind)
    choose_heads(info, head)
    query_side, key_side = sides(trace, info, queries, keys)
    weights, scores = _matrices(trace, info, head, query_side.positions, key_side.positions)
    title = f"layer {layer} · head {head}{titled(kind)}"
    return Cells(model_name(trace), title, ((layer, head),), kind, query_side, key_side, weights, scores)


def mean(
    trace: Trace,
    layers: int | Sequence[int] | None = None,
    heads: int | Sequence[int] | None = None,
    *,
    last: int | None = None,
    queries: Span = None,
    keys: Span = None,
    kind: Kind = "self",
) -> Cells:
    """The mean of several heads' attention, to be drawn by `attention_map`.

    Args:
        trace: A finished trace.
        layers: Layer numbers; None for all recorded.
        heads: Query heads of each of these layers; None for all.
        last: Of these matrices, layer by layer, only the last so many.
        queries: Positions that look.
        keys: Positions that are looked at.
        kind: Which attention of the layers.

    Returns:
        The mean weights, and of the scores the mean over the matrices in which the query may look at the key.

    Raises:
        ViewError: If the trace has no such layer, head or position, or nothing is left to average.
        ViewBudgetError: If a matrix would be too big; raised before it is computed.
    """
    pairs = choose_pairs(trace, layers, heads, kind)
    if last is not None:
        if not 1 <= last <= len(pairs):
            seen = f"{len(pairs)} matrices are chosen"
            raise ViewError(f"averaging the last {last} matrices", seen, f"give last= from 1 to {len(pairs)}")
        pairs = pairs[-last:]
    rows, columns = (len(one.positions) for one in sides(trace, choose_layer(trace, pairs[0][0], kind), queries, keys))
    attempted = f"averaging matrices of {rows} queries and {columns} keys"
    check_size(attempted, "cells", rows * columns, MEAN_CELLS, "choose fewer with queries= and keys=")
    first, count = read_cells(trace, *pairs[0], queries, keys, kind), 0
    weights, scores = torch.zeros_like(first.weights), torch.zeros_like(first.scores)
    for pair in pairs:
        one = read_cells(trace, *pair, queries, keys, kind)
        weights += one.weights / len(pairs)
        scores += one.scores.where(one.scores != -torch.inf, 0.0)
        count = count + (one.scores != -torch.inf).int()
    scores = scores / count
    scores = scores.where(torch.as_tensor(count) > 0, -torch.inf)
    title = _mean_title(pairs, last, kind)
    return Cells(first.model, title, tuple(pairs), kind, first.queries, first.keys, weights, scores)


def sides(trace: Trace, info: LayerInfo, queries: Span, keys: Span) -> tuple[Side, Side]:
    """Who looks and who is looked at.

    Raises:
        ViewError: If there are no such positions.
    """
    encoder = {"self": (False, False), "cross": (False, True), "encoder": (True, True)}[info.kind]
    both = zip(("query", "key"), trace.counts(info), (queries, keys), encoder, strict=True)
    query_side, key_side = (_side(trace, axis, count, span, inside) for axis, count, span, inside in both)
    return query_side, key_side


def titled(kind: Kind) -> str:
    """What a title ends with, so that nobody takes one kind of attention for another."""
    return "" if kind == "self" else f" · {_WHOSE[kind]}"


def choose_layer(trace: Trace, layer: int, kind: Kind) -> LayerInfo:
    """The layer asked for.

    Raises:
        ViewError: If it was not recorded.
    """
    check_recorded(trace, f"drawing {_WHOSE[kind]} of layer {layer}")
    try:
        return trace.layer(layer, kind)
    except AttentionUnavailable as error:
        known = ", ".join(str(info.index) for info in trace.layers if info.kind == kind) or "none"
        attempted = f"drawing {_WHOSE[kind]} of layer {layer}"
        raise ViewError(attempted, f"layers recorded: {known}", "choose one of them, or another kind=") from error


def choose_pairs(
    trace: Trace, layers: int | Sequence[int] | None, heads: int | Sequence[int] | None, kind: Kind
) -> list[tuple[int, int]]:
    """Layer and head of every matrix asked for, layer by layer.

    Where layers differ in their heads, None means all of each.

    Raises:
        ViewError: If the trace has no such layer or head, or none is asked for.
    """
    check_recorded(trace, f"drawing {_WHOSE[kind]}")
    wanted = [info.index for info in trace.layers if info.kind == kind] if layers is None else layers
    chosen = [wanted] if isinstance(wanted, int) else list(dict.fromkeys(wanted))
    if not chosen:
        raise ViewError(f"drawing {_WHOSE[kind]}", "no layer of this kind is chosen", "choose others with layers=")
    infos = [choose_layer(trace, layer, kind) for layer in chosen]
    return [(info.index, head) for info in infos for head in choose_heads(info, heads)]


def check_word(attempted: str, name: str, value: object, known: Sequence[object]) -> None:
    """Check one of a few words.

    Raises:
        ViewError: If it is none of them.
    """
    if value not in known:
        raise ViewError(attempted, f"{name}={value!r}", f"choose one of {', '.join(map(repr, known))}")


def check_size(attempted: str, unit: str, size: int, budget: int, knobs: str) -> None:
    """Refuse a picture that is too big, before anything of its size is allocated.

    Args:
        attempted: What was to be drawn.
        unit: What is counted.
        size: How many there would be.
        budget: How many fit.
        knobs: What to change.

    Raises:
        ViewBudgetError: If ``size`` is more than ``budget``.
    """
    if size > budget:
        raise ViewBudgetError(attempted, f"{size:,} {unit}; at most {budget:,} fit", knobs)


def sets_first_aside(shown: Sequence[Cells], sink: FirstKey | None) -> bool:
    """Whether the first key's column is set aside.

    Most heads of a causal model park there what they do not need, so None sets it aside if nobody shown looks ahead.
    An encoder's first position means something, so there None keeps it.
    """
    keys = shown[0].keys.positions
    if keys.start != 0 or len(keys) < 2 or sink == "keep":
        return False
    return sink == "mask" or (shown[0].kind == "self" and all(one.causal for one in shown))


def weight_scale(shown: Iterable[Cells], *, skip_first_key: bool) -> Scale:
    """From 0 to a weight so large that nine rows in ten stay below it with their strongest."""
    return Scale(0.0, full_colour([one.weights for one in shown], skip_first_key=skip_first_key))


def score_scale(shown: Sequence[Cells], *, skip_first_key: bool) -> Scale:
    """The scores without their extreme fiftieths."""
    # Every n-th value: torch's quantile refuses more than 16 million.
    stride = 1 + sum(one.scores.numel() for one in shown) // 1_000_000
    parts = [one.scores[:, int(skip_first_key) :].flatten()[::stride] for one in shown]
    finite = torch.cat([part[part.isfinite()] for part in parts])
    if not len(finite):
        return Scale(0.0, 1.0)
    low, high = float(finite.quantile(0.02)), float(finite.quantile(0.98))
    return Scale(low, max(high, low + 1e-6))


def _side(trace: Trace, axis: str, count: int, span: Span, inside_encoder: bool) -> Side:
    tokens = trace.encoder_tokens if inside_encoder else trace.tokens
    prompt = None if inside_encoder or tokens is None else tokens.prompt_length
    knob = "queries=" if axis == "query" else "keys="
    positions = choose_positions(axis, count, span, prompt, knob)
    texts = tokens.texts if tokens is not None else tuple(f"[{position}]" for position in range(count))
    return Side(axis, positions, tuple(label(texts[position]) for position in positions), prompt)


def choose_positions(axis: str, count: int, span: Span, prompt: int | None, knob: str) -> range:
    """The positions asked for.

    Args:
        axis: Whose positions they are, for messages.
        count: How many there are.
        span: Which of them.
        prompt: How many were given; None where nothing is written.
        knob: The argument that chooses them.

    Raises:
        ViewError: If there are no such positions.
    """
    if isinstance(span, str):
        check_word(f"choosing {axis} positions", knob.rstrip("="), span, ("prompt", "generated"))
        end = count if prompt is None else min(prompt, count)
        span = slice(0, end) if span == "prompt" else slice(end, count)
    elif isinstance(span, tuple):
        if not 0 <= span[0] < span[1] <= count:
            change = f"give {knob}(start, stop) with 0 <= start < stop <= {count}"
            raise ViewError(f"drawing {axis} positions {span}", f"there are positions 0 … {count - 1}", change)
        span = slice(*span)
    chosen = range(count)[slice(None) if span is None else span]
    if chosen.step != 1 or not chosen:
        change = f"give {knob} a slice without a step that holds at least one position"
        raise ViewError(f"drawing {axis} positions {span}", f"there are positions 0 … {count - 1}", change)
    return chosen


def _matrices(trace: Trace, info: LayerInfo, head: int, queries: range, keys: range) -> tuple[Matrix, Matrix]:
    """Weights and scores of one head: the only place where a view reads attention."""
    weights = trace.attention(info.index, head, kind=info.kind, queries=queries, keys=keys)
    return weights, trace.scores(info.index, head, kind=info.kind, queries=queries, keys=keys)


def _mean_title(pairs: Sequence[tuple[int, int]], last: int | None, kind: Kind) -> str:
    layers = list(dict.fromkeys(layer for layer, _ in pairs))
    heads = list(dict.fromkeys(head for _, head in pairs))
    title = f"mean of {len(pairs)} heads"
    if len(layers) == 1:
        title = f"layer {layers[0]} · " + (f"mean of the last {last} heads" if last else title)
    elif len(heads) == 1:
        title = f"head {heads[0]} · mean of " + (f"the last {last} layers" if last else f"{len(layers)} layers")
    else:
        title += f" of layers {layers[0]} … {layers[-1]}" if last is None else ", the last"
    return title + titled(kind)
