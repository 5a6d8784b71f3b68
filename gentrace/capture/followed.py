"""Following the model's own cache: where it keeps the keys that a kernel was given, so that many are read at a time."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicLayer, DynamicSlidingWindowLayer, StaticLayer

from gentrace.capture.sites import Site
from gentrace.capture.taps.calls import VectorCall

HOLD_FOLLOWED = 64
"""Rows of queries to hold before they are copied together with the keys that the cache has for them."""


@dataclass(frozen=True, slots=True, eq=False)
class Followable:
    """What is kept of an attention that was recorded: how the next forward's may follow, and no queries or outputs."""

    site: Site
    module: nn.Module
    key: Tensor
    """[batch, kv_head, key, dim] keys as the kernel was given them, which the model's cache holds too."""
    rows: int
    """Rows of queries."""
    row_bytes: int
    """Bytes of one of them, in all sequences and heads."""
    kernel: str
    masked: bool
    """Whether the kernel was given a mask."""
    plain: bool
    """Whether it was called with nothing that a single row's call might lack, or see otherwise."""

    @classmethod
    def of(cls, site: Site, call: VectorCall) -> "Followable":
        """Look at a call."""
        query, mask, options = call.query, call.mask, call.options
        known = mask is None or (isinstance(mask, Tensor) and mask.dim() == 4)
        # Flash kernels keep to a window by themselves.
        windowed = mask is None and "flash" in call.kernel and options.get("sliding_window") is not None
        added = options.get("position_bias") is not None or bool(options.get("dropout"))
        plain = known and not windowed and not added and call.source == "interface"
        rows = query.shape[2]
        return cls(site, call.module, call.key, rows, query.nbytes // rows, call.kernel, mask is not None, plain)


@dataclass(slots=True, eq=False)
class Followed:
    """The layer of the model's own cache that a recorded layer's new keys are read from, many at a time."""

    cache: Any
    slides: bool
    """Whether it forgets the oldest keys, and hands out more of them than it keeps."""
    in_place: bool
    """Whether new keys are written into the ones that are there."""
    holds_rows: int
    """Rows that may wait before they are read, since it forgets them later than that."""

    def rows(self, start: int, stop: int, *, values: bool) -> tuple[Tensor, Tensor | None]:
        """``[batch, kv_head, row, dim]`` keys, and values if they are wanted, of positions ``start … stop``."""
        keys = self.cache.keys
        # A step that was cut short may have left one row more than was recorded, so nothing is counted from the end.
        oldest = self.cache.cumulative_length - keys.shape[2] if self.slides else 0
        first, count = start - oldest, stop - start
        return keys.narrow(2, first, count), self.cache.values.narrow(2, first, count) if values else None


class Caches:
    """Where a model's cache keeps which kernel's keys, after a forward."""

    def __init__(self, cache: Cache) -> None:
        """Look at the cache's layers; those that keep keys in a way that is not known here are left out."""
        layers: list[Any] = list(cache.layers)
        updates = [(layer, type(layer).update) for layer in layers if getattr(layer, "keys", None) is not None]
        whole = (DynamicLayer.update, StaticLayer.update)
        self._whole: dict[int, Any] = {id(layer.keys): layer for layer, update in updates if update in whole}
        self._sliding: list[Any] = [
            layer for layer, update in updates if update is DynamicSlidingWindowLayer.update and not layer.record_past
        ]

    def follow(self, key: Tensor) -> Followed | None:
        """The cache's layer behind the keys ``[batch, kv_head, key, dim]`` that a kernel was given, if there is one."""
        layer = self._whole.get(id(key))
        if layer is not None and layer.keys is key:
            return Followed(layer, False, type(layer).update is StaticLayer.update, HOLD_FOLLOWED)
        for layer in self._sliding:
            room = min(HOLD_FOLLOWED, layer.sliding_window - 2)
            if room > 0 and layer.keys[0, 0, -1].data_ptr() == key[0, 0, -1].data_ptr():
                return Followed(layer, True, False, room)
        return None
