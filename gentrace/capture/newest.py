"""The newest row of a layer, read while its run goes on, wherever its parts lie at that moment.

Queries wait as references, keys in the kernel's arguments or the model's own cache; others are in buffers, on their way
off a device, or in a file. All of them are addressed by position. Nothing is moved by reading, so a run is the same
whether somebody looks or not.
"""

import torch
from torch import Tensor

from gentrace.capture.fidelity import visible_rows
from gentrace.capture.layers import LayerRun, Placed, ScoreLayer, VectorLayer
from gentrace.capture.run import Run
from gentrace.capture.steady import Lane
from gentrace.stitch.plan import Landing
from gentrace.stitch.scores import ScoreRule, scores_from, weights_from


def row_of(run: Run, lane: Lane | None, layer: LayerRun, slot: int, row: int) -> Tensor | None:
    """One row of attention.

    Args:
        run: The run.
        lane: The steady path that the row's forward took, if it did.
        layer: One of its layers.
        slot: A sequence's place in the batch.
        row: Column of the query; one of the newest forward's.

    Returns:
        float32 ``[head, column]`` on the host, over the columns of keys; None if the layer did not attend there.
    """
    if isinstance(layer, ScoreLayer):
        found = _scores(layer, slot, row)
    elif isinstance(layer, VectorLayer):
        if lane is not None:
            lane.tell(layer)
        placed = _placed(lane, layer, row)
        found = None if placed is None else (placed.landing, _weights(layer, placed, slot, row))
    else:
        found = None
    if found is None:
        return None
    landing, weights = found
    whole = torch.zeros(len(weights), max(landing.key_stop, layer.keys_known(), run.stop))
    whole[:, landing.key_start : landing.key_start + weights.shape[1]] = weights
    return whole


def _scores(layer: ScoreLayer, slot: int, row: int) -> tuple[Landing, Tensor] | None:
    for landing, block in reversed(layer.scores.blocks):
        if landing.query_start <= row < landing.query_stop:
            scores = block[min(slot, len(block) - 1), :, row - landing.query_start].float().cpu()
            return landing, weights_from(scores[:, None])[:, 0]
    return None


def _placed(lane: Lane | None, layer: VectorLayer, row: int) -> Placed | None:
    """Where the row's fragment lies, and its mask."""
    if lane is not None and layer.followed is not None:
        for entry in lane._wanted:
            if entry.layer is layer and entry.rule.at == row and (placed := entry.rule.newest_piece()) is not None:
                return placed
    fragments = reversed(layer.fragments)
    return next((one for one in fragments if one.landing.query_start <= row < one.landing.query_stop), None)


def _weights(layer: VectorLayer, placed: Placed, slot: int, row: int) -> Tensor:
    """``[head, key]`` over the fragment's keys."""
    landing = placed.landing
    shown = visible_rows(landing, placed.mask, (row,), torch.device("cpu"))
    visible = shown[min(slot, len(shown) - 1)]
    keys = _keys(layer, slot, landing)
    sinks = None if layer.sinks is None else layer.sinks.cpu()
    rule = ScoreRule(layer.info.scale, layer.info.softcap, sinks)
    scores = scores_from(_query(layer, slot, row), keys, visible, rule, _added(layer, placed, slot, row))
    return weights_from(scores, sinks)[:, 0]


def _query(layer: VectorLayer, slot: int, row: int) -> Tensor:
    """``[head, 1, dim]``."""
    stop = layer.known
    for rows in reversed(layer.held_queries if layer.info.kind == "self" else []):
        first = stop - rows.shape[2]
        if first <= row < stop:
            return rows[slot, :, row - first, None].detach().cpu()
        stop = first
    return layer.queries.of_slot(slot, row, 1)


def _keys(layer: VectorLayer, slot: int, landing: Landing) -> Tensor:
    """``[kv_head, key, dim]``."""
    start, stop = landing.key_start, landing.key_stop
    written = layer.known - sum(rows.shape[2] for rows in layer.held_queries)
    if not layer.held_queries or stop <= written:
        return layer.keys.of_slot(slot, start, stop - start)
    if layer.followed is not None:
        slides = layer.followed.slides
        first = written if slides else start
        newest = layer.followed.rows(first, stop, values=False)[0][slot]
    else:
        assert layer.held is not None
        key, _, place = layer.held
        first = max(start, place.key_start)
        newest = key[slot, :, first - place.key_start : stop - place.key_start]
    newest = newest.detach().cpu()
    return newest if first == start else torch.cat([layer.keys.of_slot(slot, start, first - start), newest], 1)


def _added(layer: VectorLayer, placed: Placed, slot: int, row: int) -> Tensor | None:
    """``[head or 1, 1, key]`` what was added to the row's scores, if anything was."""
    parts = [(place, block) for place, block in layer.biases.blocks if place.query_start <= row < place.query_stop][-1:]
    if placed.reading is not None and (waiting := placed.reading.added()) is not None:
        parts.append((placed.landing, waiting))
    if not parts and placed.mask.bias is not None:
        # A steady path has not handed it over yet.
        parts.append((placed.landing, placed.mask.bias))
    rows = [
        block[min(slot, len(block) - 1), :, min(row - place.query_start, block.shape[2] - 1), None].float().cpu()
        for place, block in parts
    ]
    return sum(rows[1:], rows[0]) if rows else None
