"""One query against its keys, component by component, as plain data.

From two vectors to one weight there are only a few steps, and each is a number here: products, their sum, the scale,
the softcap, the bias, the log-sum-exp, the exponential. A view that shows them has to add nothing up.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float32, Int
from torch import Tensor

from gentrace.errors import AttentionUnavailable, ViewError
from gentrace.stitch.rotary import RotaryRule
from gentrace.stitch.scores import ScoreTerms
from gentrace.trace import derive
from gentrace.trace.info import Kind, LayerInfo
from gentrace.trace.trace import Trace
from gentrace.views.cells import Side, Span, check_size, choose_layer, sides
from gentrace.views.timeline import choose_heads, model_name

NEURON_CELLS = 160_000
"""Keys times components: what a browser still shows at once, with a slider over the keys."""
WHOSE = {"self": "", "cross": " · cross-attention", "encoder": " · encoder attention"}


@dataclass(frozen=True, slots=True, eq=False)
class Vectors:
    """A query and its keys."""

    query: Float32[Tensor, " dim"]
    """[dim] the query vector."""
    keys: Float32[Tensor, "key dim"]
    """[key, dim] the key vectors."""

    @property
    def products(self) -> Float32[Tensor, "key dim"]:
        """[key, dim] component by component, query times key."""
        return self.keys * self.query

    @property
    def sums(self) -> Float32[Tensor, " key"]:
        """[key] the products of each key added up: query · key."""
        return self.products.sum(-1)

    def sum_at(self, place: int) -> float:
        """Query · key of one of the keys, counted from 0."""
        return float((self.keys[place] * self.query).sum())


@dataclass(frozen=True, slots=True)
class Line:
    """One step on the way from products to a weight."""

    text: str
    """What is done."""
    value: float
    """What it gives."""


@dataclass(frozen=True, slots=True, eq=False)
class Neuron:
    """Everything between one query vector and its weights."""

    model: str
    """Name of the model."""
    title: str
    """What it is, for people."""
    kind: Kind
    """Which attention of the layer."""
    head: int
    """Query head."""
    kv_head: int
    """Key/value head that serves it."""
    query: int
    """Position that looks."""
    queries: Side
    """That position alone."""
    keys: Side
    """The keys shown; weights are shares of the whole row also if others are left out."""
    after: Vectors
    """As recorded: after rotation and any normalisation, as they entered the kernel."""
    before: Vectors | None
    """Before rotation; None where no rule was given."""
    rule: RotaryRule | None
    """How the layer rotates, if it was given."""
    terms: ScoreTerms
    """The row's terms, each over the keys shown."""

    @property
    def order(self) -> Int[Tensor, " dim"]:
        """[dim] the components in the order they are shown: those of a rotation pair side by side."""
        everything = torch.arange(len(self.after.query))
        if self.rule is None:
            return everything
        paired = self.rule.pairs.flatten()
        return torch.cat([paired, everything[~torch.isin(everything, paired)]])

    @property
    def component_names(self) -> list[str]:
        """[dim] what each component is called, in the order they are shown."""
        names = [f"component {component}" for component in self.order.tolist()]
        if self.rule is None:
            return names
        turned = self.rule.dim
        return [
            f"{name}, pair {place // 2}" if place < turned else f"{name}, not rotated"
            for place, name in enumerate(names)
        ]

    def by_pair(self, vectors: Vectors, places: slice = slice(None)) -> Float32[Tensor, "key pair"]:
        """Each rotation pair's share in the sum; components that are not rotated have their own.

        Args:
            vectors: Those after or before rotation.
            places: Which of the keys shown, counted from 0.

        Returns:
            ``[key, pair]``, from the fastest pair to the slowest.
        """
        products = vectors.keys[places][:, self.order] * vectors.query[self.order]
        if self.rule is None:
            return products
        turned = self.rule.dim
        paired = products[:, :turned].unflatten(-1, (-1, 2)).sum(-1)
        return torch.cat([paired, products[:, turned:]], -1)

    def ledger(self, key: int) -> tuple[Line, ...]:
        """The way from products to the weight of one key, each line worked out from the line before.

        Args:
            key: A position among those shown.
        """
        place = key - self.keys.positions.start
        return tuple(self._lines(place))

    def _lines(self, place: int) -> Iterator[Line]:
        terms = self.terms
        if self.before is not None:
            yield Line("Σ q × k before RoPE", self.before.sum_at(place))
        value = self.after.sum_at(place)
        yield Line(f"q · k = Σ of {len(self.after.query)} products", value)
        value *= terms.scale
        yield Line(f"× scale {terms.scale:.6g}", value)
        if terms.softcap is not None:
            value = terms.softcap * float(torch.tensor(value / terms.softcap).tanh())
            yield Line(f"softcap: {terms.softcap:g} tanh(· / {terms.softcap:g})", value)
        bias = float(terms.bias[place])
        if bool((terms.bias != 0).any()):
            value += bias
            yield Line(f"+ bias {bias:.5g}", value)
        if not bool(terms.visible[place]):
            value = -torch.inf
            yield Line("mask: hidden from this query", value)
        sink = "" if terms.sink is None else f", sink {terms.sink:.4g} in it"
        value -= terms.logsumexp
        yield Line(f"− log Σ exp {terms.logsumexp:.6g}{sink}", value)
        yield Line("exp: the weight", float(torch.tensor(value).exp()))


def read_neuron(
    trace: Trace,
    layer: int,
    head: int,
    query: int,
    keys: Span = None,
    kind: Kind = "self",
    rotary: RotaryRule | None = None,
) -> Neuron:
    """One query and its keys.

    Args:
        trace: A finished trace.
        layer: The model's layer number.
        head: Query head.
        query: Position that looks.
        keys: The keys; None for those that the query may look at.
        kind: Which attention of the layer.
        rotary: How the layer rotates.

    Raises:
        AttentionUnavailable: If only the layer's scores were seen.
        ViewError: If the trace has no such layer, head or position, or the row was never seen, or the rule does not
            fit the layer.
        ViewBudgetError: If there are too many keys; raised before they are read.
    """
    info = choose_layer(trace, layer, kind)
    attempted = f"drawing a neuron view of layer {layer}, head {head}, query {query}"
    choose_heads(info, head)
    rows = trace.counts(info)[0]
    if not 0 <= query < rows:
        change = f"choose one from 0 to {rows - 1}; the last sampled token never looks"
        raise ViewError(attempted, f"the trace has rows 0 … {rows - 1}", change)
    if derive.has(trace, info, "scores"):
        seen = f"{info.name} computes attention by itself, and only the scores that entered its softmax were seen"
        raise AttentionUnavailable(attempted, seen, "choose another layer, or draw its scores with attention_map()")
    _check_rule(attempted, info, rotary)
    row = derive.visible_keys(trace, info).reach(slice(query, query + 1))
    if keys is None and row.some.stop > 0:
        keys = (row.some.start, row.some.stop)
    query_side, key_side = sides(trace, info, (query, query + 1), keys)
    shown = key_side.positions
    knobs = "choose fewer keys with keys=(start, stop)"
    check_size(attempted, f"components of {len(shown)} keys", len(shown) * info.head_dim, NEURON_CELLS, knobs)
    terms = trace.score_terms(layer, head, query, kind=kind)
    if bool(terms.dot.isnan().all()) or not bool(terms.visible.any()):
        raise ViewError(attempted, "the row was never seen, or sees nothing", "choose another query")
    kv_head = head * info.kv_heads // info.heads
    vector = trace.store.slab(info.tensor("queries"), head)[query].float()
    matrix = trace.store.slab(info.tensor("keys"), kv_head)[shown.start : shown.stop].float()
    after, before = Vectors(vector, matrix), None
    if rotary is not None:
        unrotated = rotary.unrotate(vector[None], torch.tensor([query]))[0]
        before = Vectors(unrotated, rotary.unrotate(matrix, torch.tensor(shown)))
    title = f"layer {layer} · head {head}{WHOSE[kind]}"
    cut = _cut(terms, shown)
    return Neuron(
        model_name(trace), title, kind, head, kv_head, query, query_side, key_side, after, before, rotary, cut
    )  # fmt: skip


def strongest_key(neuron: Neuron) -> int:
    """The key with the largest weight; the first key, where heads park what they do not need, only if alone."""
    positions = neuron.keys.positions
    weights = neuron.terms.weight.nan_to_num(nan=-1.0)
    skip = int(positions.start == 0 and neuron.query > 0 and bool((weights[1:] > 0).any()))
    return positions[skip + int(weights[skip:].argmax())]


def _check_rule(attempted: str, info: LayerInfo, rotary: RotaryRule | None) -> None:
    if rotary is None:
        return
    if info.kind == "cross":
        raise ViewError(attempted, "rotary= with cross-attention, whose keys stand in another text", "leave it out")
    if rotary.start + rotary.dim > info.head_dim:
        seen = f"a rule for components {rotary.start} … {rotary.start + rotary.dim - 1}, and {info.head_dim} components"
        raise ViewError(attempted, seen, "give the rule of this model: RotaryRule.of(model, layer)")


def _cut(terms: ScoreTerms, shown: range) -> ScoreTerms:
    """The terms of the keys shown."""
    span = slice(shown.start, shown.stop)
    return ScoreTerms(
        terms.dot[span], terms.scale, terms.bias[span], terms.softcap, terms.visible[span], terms.score[span],
        terms.sink, terms.logsumexp, terms.weight[span],
    )  # fmt: skip
