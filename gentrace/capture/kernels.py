"""What a kernel was given: its mask in any of the forms that kernels take, and what it says about the layer."""

from typing import Any

from torch import Tensor

from gentrace.capture.layers import Patches, Placed, VectorLayer
from gentrace.capture.rows import Rows
from gentrace.capture.run import Run
from gentrace.capture.sites import Settings, Site
from gentrace.capture.taps.calls import VectorCall
from gentrace.errors import UnsupportedModel
from gentrace.stitch.plan import Landing
from gentrace.trace.info import LayerInfo


def begin_layer(run: Run, site: Site, call: VectorCall, fed: int, settings: Settings) -> VectorLayer:
    """Make room for a layer that shows itself for the first time.

    Args:
        run: The run it belongs to.
        site: Which attention it is.
        call: Its first call.
        fed: Position of the call's first query.
        settings: What to keep.

    Raises:
        UnsupportedModel: If queries and keys do not fit together, or the cache is paged.
        CaptureBudgetError: If the buffers would take more than the budget.
    """
    query, key, value, options = call.query, call.key, call.value, call.options
    if query.shape[-1] != key.shape[-1] or query.shape[1] % key.shape[1]:
        raise UnsupportedModel(
            f"recording attention of {site.name} ({type(site.module).__name__})",
            f"queries {tuple(query.shape)} and keys {tuple(key.shape)}, which have no dot product",
            "exclude the layer with layers=",
        )
    if options.get("cache") is not None:
        raise UnsupportedModel(
            f"recording attention of {site.name}", "a paged cache (continuous batching)", "use generate without it"
        )
    if options.get("sinks") is not None:
        raise UnsupportedModel(
            f"recording attention of {site.name} ({type(site.module).__name__})",
            "sinks that differ from query to query",
            "exclude the layer with layers=",
        )
    sinks = options.get("s_aux")
    if sinks is None and call.source == "interface":
        sinks = getattr(site.module, "sinks", None)
    scale = options.get("scaling")
    window = options.get("sliding_window")
    window = getattr(site.module, "sliding_window", None) if window is None else window
    info = LayerInfo(
        index=site.number,
        name=site.name,
        kind=site.kind,
        heads=query.shape[1],
        kv_heads=key.shape[1],
        head_dim=query.shape[3],
        scale=float(query.shape[3] ** -0.5 if scale is None else scale),
        softcap=options.get("softcap"),
        window=window if isinstance(window, int) and window > 0 and site.kind == "self" else None,
        # Read when the run is finished: reading values here would wait for the device.
        sinks=None,
        source=call.source,
    )

    def room(like: Tensor, start: int, what: str) -> Rows:
        return run.reserve(like, start, info.tensor(what) if site.kind == "self" else None)

    first = 0 if site.kind == "cross" else max(0, fed + query.shape[2] - key.shape[2])
    return VectorLayer(
        info,
        sinks=None if sinks is None else sinks.detach().flatten().clone(),
        queries=room(query, fed, "queries"),
        keys=room(key, first, "keys"),
        values=room(value, first, "values") if settings.values else None,
        biases=Patches(run.charge),
    )


def place_with_mask(kernel: str, mask: Any, keys: int, landing: Landing) -> Placed:
    """Place a fragment with a mask that hides keys or adds to scores.

    Args:
        kernel: The kernel's name.
        mask: ``[batch, head, query, key]``, or a flex-attention block mask.
        keys: Key columns that the kernel was shown.
        landing: Where the fragment lands.

    Raises:
        UnsupportedModel: If the mask has another form.
    """
    if not isinstance(mask, Tensor):
        mask = _flex_mask(mask, landing.queries, keys)
    if mask.dim() == 2:
        mask = mask[None, None]
    if mask.dim() == 3:
        mask = mask[:, None]
    if mask.dim() != 4 or mask.shape[2] not in (1, landing.queries):
        raise UnsupportedModel(
            f"reading the mask that {kernel} was given",
            f"a tensor of shape {tuple(mask.shape)} where [batch, head, query, key] was expected",
            "use sdpa or eager attention",
        )
    return Placed.of(landing, mask.detach())


def _flex_mask(mask: Any, queries: int, keys: int) -> Tensor:
    """The booleans that a flex-attention ``BlockMask`` stands for."""
    from torch.nn.attention.flex_attention import create_mask

    batch = mask.shape[0]
    device = mask.kv_num_blocks.device
    return create_mask(mask.mask_mod, batch, None, queries, keys, device=str(device))
