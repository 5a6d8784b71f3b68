"""A trace cut down to chosen heads, for studies that want to look at a few heads of many texts.

Only these heads' queries and the keys that they use are left. The heads are numbered anew in it, in the order in which
they were chosen within their layer; `head_places` says which is which.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from gentrace.errors import StudyError
from gentrace.trace.info import LayerInfo
from gentrace.trace.store import MemoryStore
from gentrace.trace.trace import Trace


def head_places(heads: Sequence[tuple[int, int]]) -> dict[tuple[int, int], int]:
    """For each chosen ``(layer, head)`` its number in the trace that was cut down."""
    counts: dict[int, int] = {}
    places: dict[tuple[int, int], int] = {}
    for layer, head in heads:
        places[layer, head] = counts.get(layer, 0)
        counts[layer] = places[layer, head] + 1
    return places


def keep_heads(trace: Trace, heads: Sequence[tuple[int, int]]) -> Trace:
    """The trace of some heads only.

    Args:
        trace: A decoder's trace.
        heads: ``(layer, head)`` of each.

    Raises:
        StudyError: If a head does not exist.
    """
    chosen: dict[int, list[int]] = {}
    for layer, head in heads:
        chosen.setdefault(layer, []).append(head)
    infos = {info.index: info for info in trace.layers if info.kind == "self"}
    for layer, numbers in chosen.items():
        if layer not in infos or max(numbers) >= infos[layer].heads:
            raise StudyError(f"keeping heads {numbers} of layer {layer}", "the trace has no such head", "choose others")
    tensors = {name: trace.store.tensor(name) for name in trace.store.names() if not name.startswith("layers.")}
    layers: list[LayerInfo] = []
    for layer, numbers in chosen.items():
        info = infos[layer]
        tensors |= _vectors(trace, info, numbers)
        sinks = None if info.sinks is None else tuple(info.sinks[head] for head in numbers)
        layers.append(replace(info, heads=len(numbers), kv_heads=len(numbers), sinks=sinks))
    masks: Mapping[tuple[int, str], int] = {key: mask for key, mask in trace.masks.items() if key[0] in chosen}
    used = {f"masks.{mask}" for mask in masks.values()}
    tensors = {
        name: tensor
        for name, tensor in tensors.items()
        if not name.startswith("masks.") or name.rpartition(".")[0] in used
    }
    fidelity = replace(trace.fidelity, layers={layer: trace.fidelity.layers[layer] for layer in chosen})
    return replace(trace, layers=tuple(layers), masks=masks, store=MemoryStore(tensors), fidelity=fidelity)


def _vectors(trace: Trace, info: LayerInfo, heads: list[int]) -> dict[str, Tensor]:
    prefix = info.tensor("")
    shared = [head * info.kv_heads // info.heads for head in heads]
    found: dict[str, Tensor] = {}
    for name in trace.store.names():
        if name.startswith(prefix):
            tensor, what = trace.store.tensor(name), name.removeprefix(prefix)
            if what == "bias" and tensor.shape[0] == 1:
                found[name] = tensor
            else:
                found[name] = tensor[shared if what in ("keys", "values") else heads].contiguous()
    return found
