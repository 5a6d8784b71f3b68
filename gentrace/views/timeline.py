"""The replay as plain data, before it is Plotly or a page.

Step p is row p: token p looks back at keys 0 … p, and predicts token p + 1. So the alternatives of step p are entry
p + 1 of the trace's tokens. The last sampled token never queries; the last row of a plain forward predicts a token
that nobody knows.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Literal

import torch
from jaxtyping import Float32
from torch import Tensor

from gentrace.axes import Matrix
from gentrace.errors import AttentionUnavailable, ViewBudgetError, ViewError
from gentrace.trace.decoding import Draft
from gentrace.trace.info import Kind, LayerInfo
from gentrace.trace.trace import Trace
from gentrace.views.labels import label, running

What = Literal["weights", "scores"]
Sink = Literal["mask", "log", "keep"]

FULL_ROWS = 0.9
"""Share of the rows' own strongest weights that stays below full colour."""
LOG_FLOOR = 1e-4
"""Weights below this share the palest colour of the logarithmic scale."""


@dataclass(frozen=True, slots=True)
class Alternative:
    """One token that could have come next."""

    label: str
    """Displayable text."""
    probability: float
    """Under the model itself, 0 … 1."""
    sampled: float | None
    """Under the distribution really sampled from, 0 … 1; None where the trace has none."""
    chosen: bool
    """Whether this is the token that came."""


@dataclass(frozen=True, slots=True)
class Ghost:
    """A drafted token that the model rejected."""

    position: int
    """Where it would have stood."""
    label: str
    """Displayable text."""
    probability: float
    """Under the model itself, after the text and the ghosts before it, 0 … 1."""


@dataclass(frozen=True, slots=True)
class Step:
    """One row: who looks, and what comes next."""

    query: int
    """Position that looks."""
    predicts: int | None
    """Position of the token that comes next; None after the last known token."""
    probability: float | None
    """Of the token that came, under the model itself; None if unknown."""
    logprob: float | None
    """Its natural logarithm, in nats."""
    sampled: float | None
    """Probability of the token that came under the distribution really sampled from; None where nothing was sampled."""
    rank: int | None
    """How many tokens the model held for more likely; None if unknown."""
    alternatives: tuple[Alternative, ...]
    """The model's most likely tokens, best first, then the token that came if it is not among them."""
    ghosts: tuple[Ghost, ...] = ()
    """The drafts that were rejected together when the token that came took the first one's place."""


@dataclass(frozen=True, slots=True, eq=False)
class Panel:
    """One matrix of the replay."""

    layer: int
    """The model's layer number."""
    head: int | None
    """Query head, or None for the mean over ``heads``."""
    heads: tuple[int, ...]
    """The heads it shows."""
    weights: Matrix
    """[query, key] 0 … 1; 0 where masked, NaN in rows never seen. Rows start at the timeline's first row."""
    scores: Matrix
    """[query, key] what went into softmax; −inf where masked, NaN in rows never seen."""
    kind: Kind = "self"
    """Which attention of the layer: keys are the text's own positions, or the encoder's."""

    @property
    def title(self) -> str:
        """What it is, for people."""
        if self.head is not None:
            return f"layer {self.layer} · head {self.head}"
        return f"layer {self.layer} · mean of {len(self.heads)} heads"


@dataclass(frozen=True, slots=True, eq=False)
class Timeline:
    """Everything a replay shows except the matrices."""

    model: str
    """Name of the model."""
    labels: tuple[str, ...]
    """[position] displayable text of each token, the last sampled one included."""
    running: tuple[str, ...]
    """[position] the same inside flowing text."""
    probabilities: tuple[float | None, ...]
    """[position] of each token under the model itself; None if unknown."""
    prompt_length: int
    """Tokens that were given."""
    rows: range
    """The query rows shown."""
    steps: tuple[Step, ...]
    """One for each of ``rows``."""
    encoder: tuple[str, ...] = ()
    """[position] displayable text of each token that the encoder read."""

    @property
    def start(self) -> int:
        """Query row at which the replay begins: the last prompt token, which chooses the first generated one."""
        return min(max(self.prompt_length - 1, self.rows.start), self.rows.stop - 1)

    @property
    def has_sampled(self) -> bool:
        """Whether any step knows the distribution really sampled from."""
        return any(one.sampled is not None for step in self.steps for one in step.alternatives)

    @property
    def has_ghosts(self) -> bool:
        """Whether drafts were rejected at any step."""
        return any(step.ghosts for step in self.steps)


def timeline(trace: Trace, rows: tuple[int, int] | None = None) -> Timeline:
    """Everything that a replay shows except the matrices.

    Args:
        trace: A finished trace.
        rows: First query row and one past the last; None for all.

    Raises:
        ViewError: If there are no such rows.
    """
    shown = choose_rows(trace, rows)
    tokens = trace.tokens
    probabilities = tuple(_number(value) for value in tokens.logprobs.exp().tolist())
    return Timeline(
        model=model_name(trace),
        labels=tuple(label(text) for text in tokens.texts),
        running=tuple(running(text) for text in tokens.texts),
        probabilities=probabilities,
        prompt_length=tokens.prompt_length,
        rows=shown,
        steps=tuple(_steps(trace, shown)),
        encoder=encoder_labels(trace),
    )


def encoder_labels(trace: Trace) -> tuple[str, ...]:
    """Displayable text of each of the encoder's positions; those without tokens show their number."""
    read = trace.encoder_tokens
    if read is None:
        return tuple(f"[{position}]" for position in range(trace.encoder_length))
    return tuple(
        label(text) if known else f"[{position}]"
        for position, (text, known) in enumerate(zip(read.texts, (read.ids >= 0).tolist(), strict=True))
    )


def model_name(trace: Trace) -> str:
    """The model's name; of a folder only its own name, since a page is made to be shown."""
    path = PurePath(trace.meta.model)
    return path.name if path.is_absolute() and path.name else trace.meta.model


def choose_rows(trace: Trace, rows: tuple[int, int] | None) -> range:
    """Check the rows asked for.

    Raises:
        ViewError: If the trace is empty or has no such rows.
    """
    if trace.length < 1:
        raise ViewError("drawing a replay", "the trace has no rows", "record at least one forward of the model")
    if rows is None:
        return range(trace.length)
    start, stop = rows
    if not 0 <= start < stop <= trace.length:
        raise ViewError(
            f"drawing rows {start} … {stop - 1}",
            f"the trace has rows 0 … {trace.length - 1}",
            f"give rows=(start, stop) with 0 <= start < stop <= {trace.length}",
        )
    return range(start, stop)


def check_recorded(trace: Trace, attempted: str) -> None:
    """Refuse a picture of attention where only tokens were recorded.

    Raises:
        ViewError: If the trace has no layer.
    """
    if not trace.layers:
        change = (
            "record it with layers, such as record(model, layers=None); "
            "gentrace.views.token_strip shows the tokens, their probabilities and the alternatives alone"
        )
        raise ViewError(attempted, "no attention was recorded in it, only tokens", change)


def choose_layer(trace: Trace, layer: int | None, kind: Kind = "self") -> LayerInfo:
    """The layer asked for, by default the last one recorded.

    Raises:
        ViewError: If it was not recorded.
    """
    check_recorded(trace, "drawing a replay")
    recorded = [info for info in trace.layers if info.kind == kind]
    if not recorded:
        seen, others = f"the trace has no {kind}-attention", sorted({info.kind for info in trace.layers})
        change = f"choose kind={others[0]!r}" if others else "record a layer that has some"
        raise ViewError("drawing a replay", seen, change)
    if layer is None:
        return recorded[-1]
    try:
        return trace.layer(layer, kind)
    except AttentionUnavailable as error:
        known = ", ".join(str(info.index) for info in recorded)
        raise ViewError(f"drawing layer {layer}", f"layers recorded: {known}", "choose one of them") from error


def choose_layers(trace: Trace, layers: int | Sequence[int] | None, kind: Kind = "self") -> list[LayerInfo]:
    """The layers asked for, by default the last one recorded.

    Raises:
        ViewError: If one of them was not recorded.
    """
    wanted = [layers] if layers is None or isinstance(layers, int) else list(dict.fromkeys(layers)) or [None]
    return [choose_layer(trace, layer, kind) for layer in wanted]


def key_count(trace: Trace, rows: range, kind: Kind) -> int:
    """Keys that a matrix of these rows has."""
    return rows.stop if kind == "self" else trace.encoder_length


def choose_heads(info: LayerInfo, heads: int | Sequence[int] | None) -> tuple[int, ...]:
    """The heads asked for, by default all.

    Raises:
        ViewError: If the layer has no such head, or none is asked for.
    """
    if heads is None:
        return tuple(range(info.heads))
    chosen = (heads,) if isinstance(heads, int) else tuple(heads)
    wrong = [head for head in chosen if not 0 <= head < info.heads]
    if wrong or not chosen:
        raise ViewError(
            f"drawing head {wrong[0]} of layer {info.index}" if wrong else f"drawing layer {info.index} without heads",
            f"the layer has heads 0 … {info.heads - 1}",
            "choose some of them with heads=",
        )
    return tuple(dict.fromkeys(chosen))


def check_choice(name: str, value: str, known: Sequence[str]) -> None:
    """Check one of a few words.

    Raises:
        ViewError: If it is none of them.
    """
    if value not in known:
        raise ViewError("drawing a replay", f"{name}={value!r}", f"choose one of {', '.join(map(repr, known))}")


def check_budget(what: str, cells: int, budget: int, rows: range, panels: int) -> None:
    """Refuse a picture that is too big, before anything of its size is allocated.

    Raises:
        ViewBudgetError: If ``cells`` is more than ``budget``.
    """
    if cells > budget:
        raise ViewBudgetError(
            f"drawing {what} of {panels} head(s) with {len(rows)} rows",
            f"{cells:,} cells; at most {budget:,} fit",
            "choose fewer heads with heads=, fewer layers, or fewer rows with rows=(start, stop)",
        )


def panel(trace: Trace, layer: int, head: int, rows: range, kind: Kind = "self") -> Panel:
    """One head's matrix: rows ``rows``, and keys up to the last of them or all of the encoder's."""
    keys = range(key_count(trace, rows, kind))
    weights = trace.attention(layer, head, kind=kind, queries=rows, keys=keys)
    return Panel(layer, head, (head,), weights, trace.scores(layer, head, kind=kind, queries=rows, keys=keys), kind)


def mean_panel(trace: Trace, layer: int, heads: Sequence[int], rows: range, kind: Kind = "self") -> Panel:
    """The mean of some heads' weights, and of their scores."""
    weights = torch.zeros(len(rows), key_count(trace, rows, kind))
    scores = torch.zeros_like(weights)
    for head in heads:
        one = panel(trace, layer, head, rows, kind)
        weights += one.weights / len(heads)
        scores += one.scores / len(heads)
    return Panel(layer, None, tuple(heads), weights, scores, kind)


def full_colour(matrices: Sequence[Matrix], *, skip_first_key: bool) -> float:
    """The weight that gets full colour: so large that nine rows in ten stay below it with their strongest weight.

    Args:
        matrices: [query, key] weights, 0 … 1, that share one scale; NaN where there is nothing.
        skip_first_key: Leave the first key out, where most heads park what they do not need.
    """
    strongest = torch.cat([_strongest(weights, skip_first_key) for weights in matrices])
    return float(strongest.quantile(FULL_ROWS)) if len(strongest) else 1.0


def _strongest(weights: Matrix, skip_first_key: bool) -> Float32[Tensor, " row"]:
    """Each row's largest weight; rows without any are left out."""
    rest = weights[:, 1:] if skip_first_key and weights.shape[1] > 1 else weights
    strongest = rest.nan_to_num(nan=-1.0).amax(-1)
    return strongest[strongest > 0]


def _steps(trace: Trace, rows: range) -> Iterator[Step]:
    tokens = trace.tokens
    top, sampled = tokens.top_logprobs.exp().tolist(), tokens.top_sampled_logprobs.exp().tolist()
    ids, top_ids = tokens.ids.tolist(), tokens.top_ids.tolist()
    logprobs, sampled_of = tokens.logprobs.tolist(), tokens.sampled_logprobs.exp().tolist()
    ghosts = _ghosts(trace.drafts)
    for query in rows:
        next_one = query + 1
        if next_one >= len(tokens):
            yield Step(query, None, None, None, None, None, ())
            continue
        alternatives = [
            Alternative(label(text), probability, _number(sampled[next_one][k]), top_ids[next_one][k] == ids[next_one])
            for k, (text, probability) in enumerate(zip(tokens.top_texts[next_one], top[next_one], strict=False))
            if probability == probability
        ]
        logprob, probability = _number(logprobs[next_one]), _number(tokens.logprobs[next_one].exp().item())
        of_sampled = _number(sampled_of[next_one])
        if probability is not None and not any(one.chosen for one in alternatives):
            alternatives.append(Alternative(label(tokens.texts[next_one]), probability, of_sampled, True))
        rank = int(tokens.rank[next_one])
        known = rank if rank >= 0 else None
        dropped = tuple(ghosts.get(next_one, ()))
        yield Step(query, next_one, probability, logprob, of_sampled, known, tuple(alternatives), dropped)


def _ghosts(drafts: Sequence[Draft]) -> dict[int, list[Ghost]]:
    """Rejected drafts by the position of the first of those that were rejected together."""
    groups: dict[int, list[Ghost]] = {}
    start = -1
    for draft in drafts:
        start = start if draft.follows else draft.position
        ghost = Ghost(draft.position, label(draft.text), math.exp(draft.logprob))
        groups.setdefault(start, []).append(ghost)
    return groups


def _number(value: float) -> float | None:
    """None for NaN, which neither JSON nor a reader understands."""
    return None if value != value else value
