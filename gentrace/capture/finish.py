"""From a finished run to one frozen trace per sequence: padding taken off, rows cut, masks made into rules."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import torch
import transformers
from torch import Tensor, nn

import gentrace
from gentrace.capture.fidelity import TOLERANCE
from gentrace.capture.run import LayerRun, Placed, Rows, Run
from gentrace.capture.tokens import PendingTokens, Readouts, gather_readouts
from gentrace.stitch.mask import VisibleKeys
from gentrace.trace.info import Fidelity, Kind, LayerFidelity, LayerInfo, Meta
from gentrace.trace.store import MemoryStore
from gentrace.trace.trace import Trace

SLACK = 1.1


@dataclass(frozen=True, slots=True, eq=False)
class Share:
    """One sequence's share of a run."""

    entry: int
    """Place in the batch."""
    columns: Tensor
    """[position] the run's column of each token, the last sampled one included."""
    fed: int
    """How many of them were fed to the model."""
    ids: Tensor
    """[position] token ids."""
    prompt_length: int

    @property
    def rows(self) -> Tensor:
        """[position] the columns that were fed."""
        return self.columns[: self.fed]

    @property
    def unbroken(self) -> bool:
        """Whether the columns are one run, as they are unless padding lies inside."""
        return self.fed == 0 or int(self.rows[-1] - self.rows[0]) == self.fed - 1


@torch.no_grad()
def finish(run: Run, model: nn.Module, tokenizer: Any, top_k: int) -> list[Trace]:
    """Freeze a run.

    Args:
        run: The run; its buffers may be handed over to the traces.
        model: The model, for what the trace says of itself.
        tokenizer: For texts, or None.
        top_k: Alternatives per position.

    Returns:
        One trace per sequence, in the batch's order.
    """
    readouts = gather_readouts(run.readouts)
    meta = describe(run, model)
    masks: dict[tuple[int, ...], _MaskColumns] = {}
    layers: list[_Columns] = []
    for number in sorted(run.layers):
        layer = run.layers[number]
        # Layers that were shown the same masks hold the same objects.
        key = tuple(id(placed) for placed in layer.fragments)
        if key not in masks:
            masks[key] = _MaskColumns(layer.fragments, run, len(masks))
        layers.append(_Columns(layer, masks[key], _covered(layer.key_spans, run.stop)))
    return [_freeze(run, share, layers, readouts, meta, tokenizer, top_k) for share in _shares(run)]


@dataclass(frozen=True, slots=True, eq=False)
class _Columns:
    """A layer with its mask, and which columns' keys are known."""

    layer: LayerRun
    mask: "_MaskColumns"
    known: Tensor


def _shares(run: Run) -> list[Share]:
    """Which columns belong to which sequence."""
    offset, totals = 0, torch.full((run.batch,), run.stop)
    if run.sequences is not None and run.lengths is not None:
        offset = run.prompt_stop - run.columns
        totals = offset + run.lengths
    width = max(int(totals.max()), run.stop)
    ids = torch.full((run.batch, width), -1, dtype=torch.int64)
    for start, given in run.ids:
        shown = given[:, : max(0, width - start)]
        ids[:, start : start + shown.shape[1]] = shown.cpu()
    if run.sequences is not None:
        ids[:, offset : offset + run.sequences.shape[1]] = run.sequences.cpu()
    keep = torch.ones(run.batch, width, dtype=torch.bool)
    if run.padding is not None:
        first = max(0, run.padding_stop - run.padding.shape[1])
        keep[:, first : run.padding_stop] = run.padding.cpu().bool()
    fed = run.stop if run.sequences is None else torch.minimum(totals - 1, torch.tensor(run.stop))
    fed = torch.as_tensor(fed).expand(run.batch)
    shares = []
    for entry in range(run.batch):
        columns = keep[entry, : totals[entry]].nonzero().flatten()
        shares.append(
            Share(
                entry,
                columns,
                int((columns < fed[entry]).sum()),
                ids[entry, columns],
                int((columns < run.prompt_stop).sum()),
            )
        )
    return shares


def _freeze(
    run: Run,
    share: Share,
    layers: Sequence[_Columns],
    readouts: Readouts | None,
    meta: Meta,
    tokenizer: Any,
    top_k: int,
) -> Trace:
    tensors: dict[str, Tensor] = {}
    used: dict[tuple[int, Kind], int] = {}
    infos: list[LayerInfo] = []
    for columns in layers:
        layer, known = columns.layer, columns.known[share.rows]
        number = layer.info.index
        prefix = f"layers.{number}.self"
        tensors[f"{prefix}.queries"] = _take(layer.queries, share, columns.mask.seen[share.rows])
        tensors[f"{prefix}.keys"] = _take(layer.keys, share, known)
        if layer.values is not None:
            tensors[f"{prefix}.values"] = _take(layer.values, share, known)
        if layer.biases:
            tensors[f"{prefix}.bias"] = _bias(layer, share, run.stop)
        sinks = None if layer.sinks is None else tuple(layer.sinks.float().tolist())
        infos.append(replace(layer.info, sinks=sinks))
        used[number, "self"] = columns.mask.number
    for mask in {columns.mask.number: columns.mask for columns in layers}.values():
        visible = mask.of(share)
        parts = ("start", "stop", "rows", "bits")
        tensors |= {f"masks.{mask.number}.{part}": getattr(visible, part) for part in parts}
    pending = PendingTokens(
        share.ids, share.prompt_length, share.columns, share.entry, readouts, run.hidden, run.head, tokenizer, top_k
    )
    return Trace(tuple(infos), share.fed, fidelity_of(run, share), meta, used, MemoryStore(tensors), pending)


def fidelity_of(run: Run, share: Share) -> Fidelity:
    """The checks that fall on one sequence's own rows."""
    place = {column: position for position, column in enumerate(share.rows.tolist())}
    layers = {}
    dtype = torch.float32
    for number in sorted(run.layers):
        layer = run.layers[number]
        dtype = layer.queries.data.dtype
        worst: dict[int, float] = {}
        if layer.checks:
            rows = [row for check in layer.checks for row in check.rows]
            errors = torch.cat([check.errors[share.entry] for check in layer.checks]).tolist()
            worst = {place[row]: error for row, error in zip(rows, errors, strict=True) if row in place}
        error = max(worst.values(), key=lambda value: (value != value, value)) if worst else float("nan")
        layers[number] = LayerFidelity(error, tuple(sorted(worst)))
    return Fidelity(layers, TOLERANCE.get(dtype, 1e-4))


def describe(run: Run, model: nn.Module) -> Meta:
    """Where a run's traces come from."""
    config = getattr(model, "config", None)
    settings = config.to_dict() if config is not None else {}
    dtypes = {str(layer.queries.data.dtype).removeprefix("torch.") for layer in run.layers.values()}
    return Meta(
        model=str(getattr(config, "_name_or_path", "") or type(model).__name__),
        config_hash=hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest(),
        generation=run.generation,
        kernel=run.kernel,
        dtype=", ".join(sorted(dtypes)),
        versions={
            "gentrace": gentrace.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        complete=run.complete,
    )


class _MaskColumns:
    """The masks of all fragments of a layer, for the whole batch, over the run's columns."""

    def __init__(self, fragments: Sequence[Placed], run: Run, number: int) -> None:
        self.number = number
        self._start = torch.full((run.batch, run.stop), -1, dtype=torch.int64)
        self._stop = torch.full((run.batch, run.stop), -1, dtype=torch.int64)
        self._dense: dict[int, tuple[int, Tensor]] = {}
        for placed in fragments:
            landing = placed.landing
            if landing.query_stop > run.stop:
                continue
            rows = slice(landing.query_start, landing.query_stop)
            self._start[:, rows] = placed.mask.start.cpu()
            self._stop[:, rows] = placed.mask.stop.cpu()
            for row in range(landing.query_start, landing.query_stop):
                self._dense.pop(row, None)
            if placed.mask.dense is not None:
                dense = placed.mask.dense.cpu()
                self._dense |= {
                    landing.query_start + i: (landing.key_start, dense[:, i]) for i in range(landing.queries)
                }
        self.seen = self._start[0] >= 0

    def of(self, share: Share) -> VisibleKeys:
        """The mask of one sequence, in its own positions."""
        rows = share.rows
        seen = self.seen[rows]
        start, stop = self._start[share.entry, rows], self._stop[share.entry, rows]
        if share.unbroken and not self._dense:
            first = rows[0] if share.fed else 0
            start, stop = ((edge - first).clamp(0, share.fed) for edge in (start, stop))
            visible = VisibleKeys.from_runs(start, stop)
        else:
            visible = VisibleKeys.from_dense(self._dense_rows(share, start, stop))
        visible.start[~seen] = -1
        visible.stop[~seen] = -1
        return visible

    def _dense_rows(self, share: Share, start: Tensor, stop: Tensor) -> Tensor:
        rows = share.rows
        visible = (rows >= start[:, None]) & (rows < stop[:, None])
        for position, row in enumerate(rows.tolist()):
            if row in self._dense:
                key_start, dense = self._dense[row]
                line = torch.zeros(int(rows[-1]) + 1, dtype=torch.bool)
                shown = dense[min(share.entry, len(dense) - 1)][: len(line) - key_start]
                line[key_start : key_start + len(shown)] = shown
                visible[position] = line[rows]
        return visible


def _covered(spans: Sequence[tuple[int, int]], width: int) -> Tensor:
    covered = torch.zeros(width, dtype=torch.bool)
    for start, stop in spans:
        covered[start:stop] = True
    return covered


def _take(rows: Rows, share: Share, present: Tensor) -> Tensor:
    """One sequence's rows, ``[head, position, dim]`` on the host, NaN where nothing was recorded."""
    data = rows.data[share.entry]
    if share.unbroken and share.fed:
        taken = data.narrow(1, int(share.rows[0]), share.fed)
        # A view would keep the whole batch's buffer alive.
        roomy = rows.data.numel() > SLACK * taken.numel()
        taken = taken.cpu().clone() if roomy else taken.cpu()
    else:
        taken = data[:, share.rows.to(data.device)].cpu()
    if not bool(present.all()):
        taken[:, ~present] = torch.nan
    return taken


def _bias(layer: LayerRun, share: Share, width: int) -> Tensor:
    """What was added to the scores, ``[head or 1, query, key]``."""
    heads = layer.biases[0][1].shape[1]
    bias = torch.zeros(heads, width, width)
    for landing, added in layer.biases:
        if landing.query_stop <= width:
            own = added[min(share.entry, len(added) - 1), ..., : landing.keys].float().cpu()
            bias[:, landing.query_start : landing.query_stop, landing.key_start : landing.query_stop] = own
    return bias[:, share.rows][:, :, share.rows]
