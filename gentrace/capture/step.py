"""One forward of the model: the fragments that its layers show, and how they are put into the run.

This is the path that every layer takes at every step: it copies two slices and appends one reference. Masks are looked
at once per forward, not once per layer.
"""

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from gentrace.capture.fidelity import check_rows
from gentrace.capture.run import LayerRun, Placed, Run
from gentrace.errors import CaptureError, UnsupportedModel
from gentrace.stitch.mask import FragmentMask, read_mask, unmasked
from gentrace.stitch.plan import Landing, plan_landing
from gentrace.stitch.scores import ScoreRule
from gentrace.trace.info import LayerInfo

CHECK_EVERY = 4


class Settings:
    """What a recorder was asked to keep."""

    def __init__(self, layers: Collection[int] | None, values: bool, top_k: int, verify: bool) -> None:
        """Keep the settings."""
        self.layers = None if layers is None else frozenset(layers)
        self.values = values
        self.top_k = top_k
        self.verify = verify


class Site:
    """What stays the same about an attention module; looked up once, since `nn.Module` attributes are slow to miss."""

    def __init__(self, module: nn.Module, name: str, number: int, settings: Settings) -> None:
        """Look at the module.

        Raises:
            UnsupportedModel: If its attention is not causal self-attention.
        """
        own = getattr(module, "layer_idx", None)
        self.module = module
        self.name = name
        self.number = own if isinstance(own, int) else number
        self.wanted = settings.layers is None or self.number in settings.layers
        self.causal = bool(getattr(module, "is_causal", True))
        if self.wanted and (not self.causal or getattr(module, "is_cross_attention", False)):
            raise UnsupportedModel(
                f"recording attention of {name} ({type(module).__name__})",
                "attention that is not causal self-attention",
                "encoders and cross-attention are not supported yet",
            )


class Step:
    """One forward of the recorded model."""

    def __init__(self, run: Run, module: nn.Module, fed: int, queries: int, number: int) -> None:
        """Begin.

        Args:
            run: Where to record.
            module: The module whose forward this is.
            fed: Positions fed before.
            queries: Positions that this forward feeds.
            number: How many forwards the run had before.
        """
        self.run = run
        self.module = module
        self.fed = fed
        self.queries = queries
        self.number = number
        self.hidden: Tensor | None = None
        self.decoder: nn.Module | None = None
        self.cache: Any = None
        self.cache_grows = False
        self.calls: list[tuple[Site, str, tuple[Tensor, Tensor, Tensor, Any], dict[str, Any], Tensor]] = []
        self.all_rows = True
        self.may_be_reordered = False
        self.sites: set[int] = set()
        self._recorded = 0
        self._placed: dict[tuple[Any, ...], Placed] = {}
        self._masks: list[Any] = []

    def see(
        self,
        site: Site,
        implementation: str,
        inputs: tuple[Tensor, Tensor, Tensor, Any],
        options: dict[str, Any],
        output: Tensor,
        settings: Settings,
    ) -> None:
        """Record one layer's kernel call."""
        query, key, value, mask = inputs
        number = site.number
        again = number in self.sites
        self.sites.add(number)
        if not site.wanted:
            return
        if again:
            raise UnsupportedModel(
                f"recording attention of layer {number} in {site.name}",
                "a second kernel call for the same layer in one forward",
                "layers that attend twice are not supported yet; exclude it with layers=",
            )
        placed = self._place(site, implementation, key.shape[2], mask, options)
        layer = self.run.layers.get(number)
        if layer is None:
            layer = self.run.layers[number] = self._begin_layer(site, inputs, options, settings)
            self.run.kernel = implementation
        elif query.shape[0] != self.run.batch or query.shape[2] != self.queries:
            raise self._misfit(site, query, key)
        order, self._recorded = self._recorded, self._recorded + 1
        if self.may_be_reordered and order == 0:
            self._refuse_reordered(layer, key, placed.landing)
        layer.write(query, key, value, placed.landing, self.run.limit, grows=self.cache_grows)
        layer.fragments.append(placed)
        bias = options.get("position_bias")
        added = placed.mask.bias if bias is None else _sum(placed.mask.bias, bias)
        if added is not None:
            layer.biases.append((placed.landing, added.detach()))
        if settings.verify and (rows := self._rows_to_check(order)):
            layer.flush(self.run.limit)
            buffers = layer.queries.data, layer.keys.data
            rule = ScoreRule(layer.info.scale, layer.info.softcap, layer.sinks)
            where = (placed.landing, placed.mask)
            layer.checks.append(check_rows(buffers, value.detach(), output.detach(), where, rule, rows, added))

    def _refuse_reordered(self, layer: LayerRun, key: Tensor, landing: Landing) -> None:
        """Compare the newest key that was known before; a loop of one's own may have shuffled the cache's batch."""
        place = min(layer.known, landing.query_start) - 1
        # On an accelerator the comparison would wait for the device; there the fidelity check has to notice.
        if place < landing.key_start or key.device.type != "cpu":
            return
        layer.flush(self.run.limit)
        now, before = key[:, :, place - landing.key_start].detach(), layer.keys.data[:, :, place]
        if not torch.allclose(now.float(), before.float(), rtol=1e-2, atol=1e-2, equal_nan=True):
            raise UnsupportedModel(
                f"recording attention of {layer.info.name}",
                f"the cache's key at position {place} is not the one that was recorded there",
                "caches that are reordered or changed between forwards are not supported yet",
            )

    def _place(self, site: Site, implementation: str, keys: int, mask: Any, options: dict[str, Any]) -> Placed:
        """Decide where a fragment lands, once for all layers that are shown the same keys and mask."""
        causal = options.get("is_causal")
        causal = site.causal if causal is None else causal
        flash = "flash" in implementation and (mask is None or (isinstance(mask, Tensor) and mask.dim() == 2))
        window = options.get("sliding_window") if flash else None
        what = (keys, id(mask), causal, window)
        placed = self._placed.get(what)
        if placed is None:
            known = self.fed if self.number else 0
            landing = plan_landing(fed=self.fed, queries=self.queries, keys=keys, known=known)
            if flash:
                # Flash kernels align causality to the last key and are given padding, if any, as [batch, key].
                read = unmasked(landing, causal=causal, window=window)
            else:
                read = self._read_mask(implementation, keys, mask, causal, landing)
            placed = Placed(landing, read)
            self._placed[what] = placed
            # Keeps the mask alive while its id stands for it.
            self._masks.append(mask)
        return placed

    def _read_mask(self, implementation: str, keys: int, mask: Any, causal: bool, landing: Landing) -> FragmentMask:
        if mask is None:
            if keys > landing.keys and self.queries == 1:
                raise CaptureError(
                    f"reading attention at position {self.fed}",
                    f"{keys} keys and no mask: the kernel attends to unused cache capacity",
                    "pass an attention mask",
                )
            # Eager attention does what its mask says; the other kernels are causal by themselves when they get none.
            is_causal = implementation != "eager" and causal and self.queries > 1
            return unmasked(landing, causal=is_causal, aligned_left=True)
        if not isinstance(mask, Tensor):
            mask = _flex_mask(mask, self.queries, keys)
        if mask.dim() != 4:
            raise UnsupportedModel(
                f"reading the mask that {implementation} was given",
                f"a tensor of shape {tuple(mask.shape)} where [batch, head, query, key] was expected",
                "use sdpa or eager attention",
            )
        return read_mask(mask.detach(), landing)

    def _misfit(self, site: Site, query: Tensor, key: Tensor) -> UnsupportedModel:
        return UnsupportedModel(
            f"recording attention of {site.name} ({type(site.module).__name__})",
            f"queries {tuple(query.shape)} and keys {tuple(key.shape)} in a forward of {self.run.batch} sequences and "
            f"{self.queries} positions",
            "this is not self-attention over the fed tokens; exclude the layer with layers=",
        )

    def _begin_layer(
        self,
        site: Site,
        inputs: tuple[Tensor, Tensor, Tensor, Any],
        options: dict[str, Any],
        settings: Settings,
    ) -> LayerRun:
        query, key, value, _ = inputs
        module = site.module
        fits = query.shape[0] == self.run.batch and query.shape[2] == self.queries
        if not fits or query.shape[-1] != key.shape[-1] or query.shape[1] % key.shape[1]:
            raise self._misfit(site, query, key)
        if options.get("cache") is not None:
            raise UnsupportedModel(
                f"recording attention of {site.name}", "a paged cache (continuous batching)", "use generate without it"
            )
        sinks = options.get("s_aux")
        sinks = getattr(module, "sinks", None) if sinks is None else sinks
        scale = options.get("scaling")
        window = options.get("sliding_window")
        window = getattr(module, "sliding_window", None) if window is None else window
        info = LayerInfo(
            index=site.number,
            name=site.name,
            kind="self",
            heads=query.shape[1],
            kv_heads=key.shape[1],
            head_dim=query.shape[3],
            scale=float(query.shape[3] ** -0.5 if scale is None else scale),
            softcap=options.get("softcap"),
            window=window if isinstance(window, int) and window > 0 else None,
            # Read when the run is finished: reading values here would wait for the device.
            sinks=None,
            source="interface",
        )
        rows = self.run.reserve(query, self.fed), self.run.reserve(key, max(0, self.fed + self.queries - key.shape[2]))
        values = self.run.reserve(value, max(0, self.fed + self.queries - key.shape[2])) if settings.values else None
        detached = None if sinks is None else sinks.detach().flatten().clone()
        return LayerRun(info, detached, *rows, values)

    def _rows_to_check(self, order: int) -> tuple[int, ...]:
        """Two rows of every layer in a prefill; after that one layer in turn, at every fourth step."""
        last = self.fed + self.queries - 1
        if self.queries > 1 or not self.number:
            return tuple(sorted({self.fed + self.queries // 2, last}))
        turn, rest = divmod(self.number, CHECK_EVERY)
        return (last,) if rest == 1 and turn % len(self.run.layers) == order else ()


def _sum(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    if first is None or second is None:
        return first if second is None else second
    return first + second


def _flex_mask(mask: Any, queries: int, keys: int) -> Tensor:
    """The booleans that a flex-attention ``BlockMask`` stands for."""
    from torch.nn.attention.flex_attention import create_mask

    batch = mask.shape[0]
    device = mask.kv_num_blocks.device
    return create_mask(mask.mask_mod, batch, None, queries, keys, device=str(device))
