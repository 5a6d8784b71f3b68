"""Everything of a trace that is not a tensor, as JSON, and back again.

Nothing in it is ever executed, and no number in it is believed before it was compared with the tensors' shapes.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from gentrace.trace.decoding import Beams, BeamStep, Draft
from gentrace.trace.info import Fidelity, Kind, LayerFidelity, LayerInfo, Meta, OtherLayer
from gentrace.trace.store import Store
from gentrace.trace.tokens import Tokens
from gentrace.trace.trace import Trace

FORMAT = "gentrace"
"""Under this name a file's metadata has the format's version and what depends on it."""
WRONG = (KeyError, TypeError, ValueError, AttributeError, IndexError)
"""What a body that describes no trace leads to."""
TOKEN_TENSORS = (
    "ids",
    "logprobs",
    "sampled_logprobs",
    "entropy",
    "rank",
    "top_ids",
    "top_logprobs",
    "top_sampled_logprobs",
)


def describe_trace(trace: Trace) -> dict[str, Any]:
    """A trace's body: what `build_trace` needs beside the tensors."""
    tokens = trace.tokens
    return {
        "length": trace.length,
        "layers": [asdict(info) for info in trace.layers],
        "masks": [[index, kind, mask] for (index, kind), mask in trace.masks.items()],
        "fidelity": {
            "tolerance": trace.fidelity.tolerance,
            "layers": _checked(trace.fidelity.layers),
            "cross": _checked(trace.fidelity.cross),
            "encoder": _checked(trace.fidelity.encoder),
        },
        "meta": asdict(trace.meta),
        "tokens": {
            "texts": list(tokens.texts),
            "prompt_length": tokens.prompt_length,
            "top_texts": [list(texts) for texts in tokens.top_texts],
            "kinds": list(tokens.kinds),
        },
        "encoder": _encoder_body(trace),
        "other_layers": [asdict(other) for other in trace.other_layers],
        "beams": None if trace.beams is None else asdict(trace.beams),
        "drafts": [asdict(draft) for draft in trace.drafts],
    }


def describe_start(
    layers: Sequence[LayerInfo],
    masks: Mapping[tuple[int, Kind], int],
    meta: Meta,
    prompt_length: int,
    columns: Sequence[Sequence[int | None]] = ((0, None),),
    encoder_columns: Sequence[Sequence[int | None]] = ((0, None),),
) -> dict[str, Any]:
    """The body of a trace that has only begun.

    Args:
        layers: The layers that showed themselves.
        masks: Which stored mask each of them uses.
        meta: Where the trace comes from.
        prompt_length: Number of tokens that were given.
        columns: Runs of the recording's columns, first and one past the last (None for no end), that are the
            sequence's positions; the others are padding.
        encoder_columns: The same for the encoder's input.
    """
    return {
        "layers": [asdict(info) for info in layers],
        "masks": [[index, kind, mask] for (index, kind), mask in masks.items()],
        "meta": asdict(meta),
        "tokens": {"prompt_length": prompt_length},
        "columns": [list(run) for run in columns],
        "encoder_columns": [list(run) for run in encoder_columns],
    }


def pack(body: Mapping[str, Any]) -> str:
    """The body as text with its own digest before it."""
    text = json.dumps(body, sort_keys=True, default=str)
    return f"{digest(text)} {text}"


def unpack(packed: str) -> dict[str, Any]:
    """The body of `pack`.

    Raises:
        ValueError: If it was changed.
    """
    expected, _, text = packed.partition(" ")
    if digest(text) != expected:
        raise ValueError("its header was changed after it was written")
    try:
        body = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its header is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise ValueError("its header is not a JSON object")
    return body


def digest(text: str) -> str:
    """SHA-256 of a text, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def _checked(layers: Mapping[int, LayerFidelity]) -> list[list[Any]]:
    return [[index, layer.error, list(layer.rows)] for index, layer in layers.items()]


def _encoder_body(trace: Trace) -> dict[str, Any] | None:
    tokens = trace.encoder_tokens
    return (
        None
        if tokens is None
        else {"length": trace.encoder_length, "texts": list(tokens.texts), "kinds": list(tokens.kinds)}
    )


def build_trace(
    body: Mapping[str, Any],
    store: Store,
    read_tokens: Callable[[], Tokens] | None = None,
    read_encoder_tokens: Callable[[], Tokens] | None = None,
) -> Trace:
    """Put a body and its tensors together.

    Args:
        body: What `describe_trace` made.
        store: The tensors, which are not read.
        read_tokens: Reads the tokens, if their texts are not in the body.
        read_encoder_tokens: The same for the encoder's tokens.

    Raises:
        Exception: One of `WRONG`, if the body does not describe a trace.
    """
    layers = tuple(
        LayerInfo(**info | {"sinks": None if info["sinks"] is None else tuple(info["sinks"])})
        for info in body["layers"]
    )
    checked = [
        {index: LayerFidelity(error, tuple(rows)) for index, error, rows in body["fidelity"][kind]}
        for kind in ("layers", "cross", "encoder")
    ]
    fidelity = Fidelity(checked[0], body["fidelity"]["tolerance"], checked[1], checked[2])
    encoder = body["encoder"]
    meta = Meta(**body["meta"])
    masks = {(index, kind): mask for index, kind, mask in body["masks"]}
    return Trace(
        layers,
        body["length"],
        fidelity,
        meta,
        masks,
        store,
        read_tokens or _StoredTokens(store, body["tokens"]),
        encoder_length=0 if encoder is None else encoder["length"],
        read_encoder_tokens=None
        if encoder is None
        else read_encoder_tokens or _StoredInput(store, tuple(encoder["texts"]), tuple(encoder["kinds"])),
        other_layers=tuple(OtherLayer(**other) for other in body["other_layers"]),
        beams=None if body["beams"] is None else _beams(body["beams"]),
        drafts=tuple(Draft(**draft) for draft in body["drafts"]),
    )


def _beams(body: dict[str, Any]) -> Beams:
    def tupled(step: dict[str, Any]) -> dict[str, Any]:
        return {name: tuple(value) if isinstance(value, list) else value for name, value in step.items()}

    return Beams(body["width"], tuple(BeamStep(**tupled(step)) for step in body["steps"]))


@dataclass(frozen=True, slots=True)
class _StoredTokens:
    """Reads a file's tokens."""

    store: Store
    words: dict[str, Any]

    def __call__(self) -> Tokens:
        return Tokens(
            texts=tuple(self.words["texts"]),
            prompt_length=self.words["prompt_length"],
            top_texts=tuple(tuple(texts) for texts in self.words["top_texts"]),
            kinds=tuple(self.words["kinds"]),
            **{name: self.store.tensor(f"tokens.{name}") for name in TOKEN_TENSORS},
        )


@dataclass(frozen=True, slots=True)
class _StoredInput:
    """Reads a file's encoder tokens."""

    store: Store
    texts: tuple[str, ...]
    kinds: tuple[str, ...]

    def __call__(self) -> Tokens:
        return Tokens.unpredicted(self.store.tensor("encoder.ids"), self.texts, self.kinds)


def checked(trace: Trace, sums: Mapping[str, list[int]] | None) -> Trace:
    """The trace, once its tensors are known to be those that its header speaks of.

    Args:
        trace: The trace; no tensor is read.
        sums: The sums of the tensors, unless the file has none.

    Raises:
        ValueError: If tensors are missing, foreign, of the wrong shape or without sums.
    """
    missing = expected_names(trace) ^ set(trace.store.names())
    if missing:
        raise ValueError(f"tensors missing or foreign: {', '.join(sorted(missing)[:3])}")
    wrong = _wrong_shapes(trace) + ([] if sums is None else _unsummed(sums, trace.store))
    if wrong:
        raise ValueError(f"tensors of the wrong shape, or without sums: {', '.join(wrong[:3])}")
    return trace


def expected_names(trace: Trace) -> set[str]:
    """The tensors that belong to a trace."""
    names = {f"tokens.{name}" for name in TOKEN_TENSORS}
    names |= {"encoder.ids"} if trace.read_encoder_tokens is not None else set()
    names |= {"segments"} & set(trace.store.names())
    names |= {f"masks.{mask}.{part}" for mask in trace.masks.values() for part in ("start", "stop", "rows", "bits")}
    for info in trace.layers:
        scores_only = info.tensor("scores") in set(trace.store.names())
        names |= {info.tensor("scores")} if scores_only else {info.tensor("queries"), info.tensor("keys")}
        names |= {info.tensor(extra) for extra in ("values", "bias")} & set(trace.store.names())
    return names


def _wrong_shapes(trace: Trace) -> list[str]:
    """Tensors whose shapes contradict the header, so that no later read can go out of bounds."""
    expected: dict[str, tuple[int, ...]] = {}
    for info in trace.layers:
        queries, keys = trace.counts(info)
        if info.tensor("scores") in set(trace.store.names()):
            expected[info.tensor("scores")] = (info.heads, queries, keys)
        else:
            expected[info.tensor("queries")] = (info.heads, queries, info.head_dim)
            expected[info.tensor("keys")] = (info.kv_heads, keys, info.head_dim)
        mask = trace.masks[info.index, info.kind]
        expected |= {f"masks.{mask}.{part}": (queries,) for part in ("start", "stop")}
    return [name for name, shape in expected.items() if trace.store.shape(name) != shape]


def _unsummed(sums: Mapping[str, list[int]], store: Store) -> list[str]:
    """Tensors that the header has no sums for."""
    shapes = {name: store.shape(name) for name in store.names()}
    return [name for name, shape in shapes.items() if len(sums.get(name, ())) != (shape[0] if len(shape) > 2 else 1)]
