"""How long a cache is, how it keeps its keys, and which run filled it."""

import weakref
from typing import Any

from torch import Tensor
from transformers.cache_utils import BaseQuantizedLayer, Cache, EncoderDecoderCache, StaticLayer

from gentrace.capture.run import Run
from gentrace.errors import UnsupportedModel


class CacheLinks:
    """Which run filled which cache; caches are not kept alive."""

    def __init__(self) -> None:
        """Begin without any."""
        self._runs: dict[int, tuple[weakref.ref[Any], Run]] = {}

    def run_of(self, cache: Any) -> Run | None:
        """The run that a cache was filled in."""
        reference, run = self._runs.get(id(cache), (None, None))
        return run if reference is not None and reference() is cache else None

    def link(self, cache: Any, run: Run) -> None:
        """Note that a run filled this cache."""
        if cache is not None and self.run_of(cache) is not run:
            self._runs[id(cache)] = (weakref.ref(cache), run)


def length_of(cache: Any, linked: Run | None) -> int | None:
    """Positions that a cache holds; None if it does not tell.

    Args:
        cache: What the model was given as cache, or None.
        linked: The run that filled it.

    Raises:
        UnsupportedModel: If its keys change while they are kept, or it keeps none.
    """
    if cache is None:
        return 0
    if not hasattr(cache, "get_seq_length"):
        return None
    if linked is None and any(isinstance(layer, BaseQuantizedLayer) for layer in getattr(cache, "layers", ())):
        raise UnsupportedModel(
            "recording with a quantized cache", "its keys change after they are cached", "use a dynamic or static cache"
        )
    try:
        length = cache.get_seq_length()
    except ValueError as error:
        raise UnsupportedModel(
            "recording a model's cache",
            f"{type(cache).__name__} holds no attention layer: {error}",
            "there is no attention",
        ) from error
    if isinstance(length, Tensor):
        # Reading a length off the device would wait for it; what was fed since is known here.
        on_host = length.device.type == "cpu" or linked is None
        return int(length) if on_host else linked.stop  # type: ignore[union-attr]
    return int(length)


def grows(cache: Any) -> bool:
    """Whether a cache makes new keys at every step instead of writing into those that it has."""
    if isinstance(cache, EncoderDecoderCache):
        cache = cache.self_attention_cache
    return isinstance(cache, Cache) and not any(isinstance(layer, StaticLayer) for layer in cache.layers)


def cache_of(output: Any) -> Cache | None:
    """The cache that a forward hands back."""
    parts = output if isinstance(output, tuple) else (getattr(output, "past_key_values", None),)
    return next((part for part in parts if isinstance(part, Cache)), None)
