"""From a finished run to one frozen trace per sequence: padding taken off, rows cut, masks made into rules."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from gentrace.capture.decoding.hypotheses import beams_of, drafts_of
from gentrace.capture.decoding.tokens import PendingTokens, Readouts, ReadTokens, gather_readouts
from gentrace.capture.descriptions import describe, placeholders_of
from gentrace.capture.fidelity import TOLERANCE
from gentrace.capture.layers import LayerRun, ScoreLayer, VectorLayer
from gentrace.capture.masks import MaskColumns, assemble
from gentrace.capture.rows import FileRows, Rows
from gentrace.capture.run import Run
from gentrace.capture.shares import Share, shares_of
from gentrace.trace.info import Fidelity, Kind, LayerFidelity, LayerInfo, Meta, OtherLayer
from gentrace.trace.store import MemoryStore
from gentrace.trace.trace import Trace


@torch.no_grad()
def finish(run: Run, model: nn.Module, tokenizer: Any, top_k: int, others: tuple[OtherLayer, ...] = ()) -> list[Trace]:
    """Freeze a run.

    Args:
        run: The run; its buffers may be handed over to the traces.
        model: The model, for what the trace says of itself.
        tokenizer: For texts, or None.
        top_k: Alternatives per position.
        others: The model's layers without attention.

    Returns:
        One trace per sequence, in the order in which they were returned.

    Raises:
        UnsupportedModel: If the tokens that were fed are not those that generate returned.
    """
    readouts = gather_readouts(run.readouts) if run.spill is None else run.spill.readouts()
    parts = _Parts(run, readouts, describe(run, model), tokenizer, top_k)
    parts.others = others
    shares = shares_of(run, placeholders_of(model))
    traces = [_freeze(parts, share) for share in shares]
    if run.spill is None:
        return traces
    return [run.spill.complete(trace, share) for trace, share in zip(traces, shares, strict=True)]


@dataclass(frozen=True, slots=True, eq=False)
class _Columns:
    """A layer with its mask, and which columns' keys are known."""

    layer: LayerRun
    mask: MaskColumns
    known: Tensor


class _Parts:
    """What the sequences of a run have in common."""

    def __init__(self, run: Run, readouts: Readouts | None, meta: Meta, tokenizer: Any, top_k: int) -> None:
        self.run = run
        self.readouts = readouts
        self.meta = meta
        self.tokenizer = tokenizer
        self.top_k = top_k
        self.others: tuple[OtherLayer, ...] = ()
        masks: dict[tuple[int, ...], MaskColumns] = {}
        self.layers: list[_Columns] = []
        for source in (run, *([] if run.encoder is None else [run.encoder])):
            for layer in (source.layers[place] for place in sorted(source.layers, key=_order)):
                # Layers that were shown the same masks hold the same objects.
                key = tuple(id(placed) for placed in layer.fragments)
                if key not in masks:
                    masks[key] = MaskColumns(layer.fragments, source.batch, source.stop, len(masks))
                self.layers.append(_Columns(layer, masks[key], _covered(layer, source.stop)))


def _order(place: tuple[Kind, int]) -> tuple[int, int]:
    return ("self", "cross", "encoder").index(place[0]), place[1]


def _freeze(parts: _Parts, share: Share) -> Trace:
    run = parts.run
    share = replace(share, encoder=share.encoder or _unseen_encoder(share, parts.layers))
    tensors: dict[str, Tensor] = {}
    used: dict[tuple[int, Kind], int] = {}
    infos: list[LayerInfo] = []
    for columns in parts.layers:
        info, (queries, keys) = columns.layer.info, _axes(columns.layer.info.kind, share)
        used[info.index, info.kind] = columns.mask.number
        if isinstance(columns.layer, VectorLayer):
            tensors |= _vectors(columns, columns.layer, queries, keys)
        elif isinstance(columns.layer, ScoreLayer):
            tensors[info.tensor("scores")] = assemble(columns.layer.scores, queries, keys, -torch.inf)
        infos.append(columns.layer.described())
        name = f"masks.{columns.mask.number}"
        if f"{name}.start" not in tensors:
            visible = columns.mask.of(queries, keys)
            tensors |= {f"{name}.{part}": getattr(visible, part) for part in ("start", "stop", "rows", "bits")}
    if run.segments is not None and run.segments.shape[1] >= share.fed:
        tensors["segments"] = run.segments[int(share.slots[0]), share.rows.clamp(max=run.segments.shape[1] - 1)].cpu()
    encoder, tokenizer, top_k = share.encoder, parts.tokenizer, parts.top_k
    return Trace(
        tuple(infos),
        share.fed,
        fidelity_of(run, share),
        parts.meta,
        used,
        MemoryStore(tensors),
        PendingTokens(share, parts.readouts, run.hidden, run.head, tokenizer, top_k),
        encoder_length=0 if encoder is None else encoder.fed,
        other_layers=parts.others,
        beams=beams_of(run, share, tokenizer),
        drafts=drafts_of(run, share, tokenizer),
        read_encoder_tokens=None if encoder is None else ReadTokens(encoder.ids, encoder.kinds, tokenizer),
    )


def _unseen_encoder(share: Share, layers: list[_Columns]) -> Share | None:
    """A share for keys of cross-attention whose encoder did not run while recording."""
    lengths = {columns.layer.keys_known() for columns in layers if columns.layer.info.kind == "cross"}
    if not lengths:
        return None
    length = max(lengths)
    unknown = torch.full((length,), -1)
    kinds = ("embedding",) * length
    return Share(0, share.slots[:1].expand(length), torch.arange(length), length, unknown, length, kinds)


def _axes(kind: Kind, share: Share) -> tuple[Share, Share]:
    """Whose queries and whose keys a kind of attention has."""
    if kind == "self" or share.encoder is None:
        return share, share
    return (share.encoder if kind == "encoder" else share), share.encoder


def _vectors(columns: _Columns, layer: VectorLayer, queries: Share, keys: Share) -> dict[str, Tensor]:
    info, known = layer.info, columns.known[keys.rows]
    tensors: dict[str, Tensor] = {}
    if not isinstance(layer.queries, FileRows):
        tensors[info.tensor("queries")] = _take(layer.queries, queries, columns.mask.seen[queries.rows])
        tensors[info.tensor("keys")] = _take(layer.keys, _at(keys, queries, layer), known)
        if layer.values is not None:
            tensors[info.tensor("values")] = _take(layer.values, _at(keys, queries, layer), known)
    if layer.biases.blocks:
        tensors[info.tensor("bias")] = assemble(layer.biases, queries, keys, 0.0)
    return tensors


def _at(keys: Share, queries: Share, layer: VectorLayer) -> Share:
    """The keys' share in the slots of the layer's own run; the encoder's keys are kept there once for each beam."""
    if layer.info.kind != "cross":
        return keys
    return replace(keys, slots=queries.slots[:1].expand(len(keys.slots)))


def _covered(layer: LayerRun, width: int) -> Tensor:
    spans = layer.key_spans if isinstance(layer, VectorLayer) else []
    covered = torch.zeros(max([width, *(stop for _, stop in spans)]), dtype=torch.bool)
    for start, stop in spans:
        covered[start:stop] = True
    return covered


def _take(rows: Rows, share: Share, present: Tensor) -> Tensor:
    """One sequence's rows, ``[head, position, dim]`` on the host, NaN where nothing was recorded."""
    slot = share.slot
    if slot is not None and share.unbroken and share.fed:
        taken = rows.of_slot(slot, int(share.rows[0]), share.fed)
        # A view would keep the whole batch's buffer alive.
        taken = taken.clone() if rows.shared(share.fed) else taken
    else:
        taken = rows.of_slots(share.slots[: share.fed], share.rows)
    if not bool(present.all()):
        taken[:, ~present] = torch.nan
    return taken


def fidelity_of(run: Run, share: Share) -> Fidelity:
    """The checks that fall on one sequence's own rows."""
    found: dict[Kind, dict[int, LayerFidelity]] = {"self": {}, "cross": {}, "encoder": {}}
    dtype = torch.float32
    for source, own in ((run, share), (run.encoder, share.encoder)):
        if source is None or own is None:
            continue
        place = {column: position for position, column in enumerate(own.rows.tolist())}
        slots = own.slots.tolist()
        for kind, number in sorted(source.layers):
            layer = source.layers[kind, number]
            dtype = layer.dtype
            worst: dict[int, float] = {}
            for check in layer.checks:
                errors = check.errors.tolist()
                for index, row in enumerate(check.rows):
                    if row in place:
                        worst[place[row]] = errors[slots[place[row]]][index]
            error = max(worst.values(), key=lambda value: (value != value, value)) if worst else float("nan")
            found[kind][number] = LayerFidelity(error, tuple(sorted(worst)))
    return Fidelity(found["self"], TOLERANCE.get(dtype, 1e-4), found["cross"], found["encoder"])
