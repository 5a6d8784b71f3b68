"""One forward of the model: the fragments that its layers show, and how they are put into the run.

This is the full path, which prefills take, and steps that do not go on like the one before. Masks are looked at once
per forward, not once per layer.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from gentrace.capture.fidelity import Shown, Sight, check_rows, check_together, local_rows, sight_of
from gentrace.capture.followed import Followable
from gentrace.capture.kernels import begin_layer, place_with_mask
from gentrace.capture.layers import Patches, Placed, ScoreLayer, VectorLayer, newest
from gentrace.capture.rows import detached
from gentrace.capture.run import Run
from gentrace.capture.shapes import arrange_scores, separate_batch, visible_scores
from gentrace.capture.sites import Settings, Site, Sites
from gentrace.capture.taps.calls import Call, ScoreCall, VectorCall
from gentrace.capture.taps.interface import own_work
from gentrace.errors import CaptureError, UnsupportedModel
from gentrace.stitch.mask import unmasked
from gentrace.stitch.plan import Landing, plan_cross, plan_landing
from gentrace.stitch.scores import ScoreRule
from gentrace.trace.info import LayerInfo

CHECK_EVERY = 4
TOGETHER = 2**18
"""Bytes of queries up to which an attention waits for the forward's end."""


class Step:
    """One forward of the recorded model, or of its encoder."""

    def __init__(self, batch: int, module: nn.Module, queries: int, *, encoder: bool = False) -> None:
        """Begin.

        Args:
            batch: Sequences in this forward.
            module: The module whose forward this is.
            queries: Positions that this forward feeds; 0 if only its attention will tell.
            encoder: Whether it is a forward of an encoder-decoder model's encoder.
        """
        self.batch = batch
        self.module = module
        self.queries = queries
        self.encoder = encoder
        self.unplaced = True
        """Whether run and positions are still to be found out."""
        self.fed = 0
        """Positions fed before."""
        self.number = 0
        """Forwards that the run had before."""
        self.run: Run
        self.ids: Tensor | None = None
        self.inputs: dict[str, Any] = {}
        self.hidden: Tensor | None = None
        self.decoder: nn.Module | None = None
        self.cache: Any = None
        self.cache_grows = False
        self.calls: list[tuple[Site, VectorCall]] = []
        """Attentions of few rows, to be recorded when the forward has ended."""
        self.roles: dict[int, str] = {}
        """What the models inside, by their ids, are to the recording."""
        self.followable: list[Followable] = []
        """Attentions that were recorded, as the next forward may go on with them."""
        self.all_rows = True
        self.may_be_reordered = False
        self.fresh = 0
        """The first position whose row is recorded; those before are known already, in the slots of their time."""
        self.shuffled = False
        """Whether beam search has shuffled the batch since the rows before were recorded."""
        self.crosses = False
        """Whether there is something beside the text that attention may look at."""
        self.dropout = False
        """Whether a kernel dropped weights at random."""
        self.seen = 0
        """Attentions seen, recorded or not."""
        self._newest: tuple[nn.Module, Tensor] | None = None
        self._times: dict[int, int] = {}
        self._recorded = 0
        self._placed: dict[tuple[Any, ...], Placed] = {}
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}
        self._masks: list[Any] = []
        self._sights: dict[tuple[int, tuple[int, ...]], tuple[Placed, Sight]] = {}
        """What checked rows see, once for all layers that are shown the same."""
        self._unchecked: list[tuple[VectorLayer, Shown]] = []

    def locate(self, run: Run, fed: int) -> None:
        """Record into this run, from position ``fed`` on."""
        self.run, self.fed, self.number, self.unplaced = run, fed, run.forwards, False

    def see(self, call: Call, sites: Sites, settings: Settings) -> None:
        """Record one attention."""
        module = call.module
        nth = self._times.get(id(module), 0)
        if isinstance(call, VectorCall):
            if nth and self._is_repeated(call):
                return
            self._newest = module, call.query
            self.queries = self.queries or call.query.shape[2]
        self._times[id(module)] = nth + 1
        site = sites.known.get((id(module), nth, self.encoder))
        if site is None:
            crosses = self.crosses or self.run.encoder is not None
            site = sites.find(call, nth, self.fed + self.queries, encoder=self.encoder, crosses=crosses)
        self.seen += 1
        if not site.wanted:
            return
        if isinstance(call, ScoreCall):
            self._see_scores(site, call)
        elif (self.queries == 1 and self.number) or (call.source == "interface" and call.query.nbytes <= TOGETHER):
            # Few rows are cheaper to record for all layers in one go, after the forward.
            self.calls.append((site, call))
        else:
            self._record(site, call, settings)

    def finish(self, settings: Settings) -> None:
        """Record what was put off."""
        # An encoder ends inside the model around it, which may still be watched for softmax.
        with own_work():
            for site, call in self.calls:
                self._record(site, call, settings)
            self.calls = []
            self._check_waiting()

    def _check_waiting(self) -> None:
        """Check the rows that waited for others."""
        groups: dict[Any, list[tuple[VectorLayer, Shown]]] = {}
        for layer, shown in self._unchecked:
            groups.setdefault(shown.alike, []).append((layer, shown))
        self._unchecked = []
        for group in groups.values():
            checks = check_together([shown for _, shown in group])
            for (layer, _), check in zip(group, checks, strict=True):
                layer.checks.append(check)

    def attended_twice(self) -> bool:
        """Whether a module attended several times."""
        return len(self._times) != self.seen

    def unwanted(self, sites: Sites) -> list[int]:
        """Ids of the modules that attended without being asked for."""
        return [module for module in self._times if not sites.known[module, 0, self.encoder].wanted]

    def _record(self, site: Site, call: VectorCall, settings: Settings) -> None:
        self._see_vectors(site, call, settings)
        if self.cache is not None:
            self.followable.append(Followable.of(site, call))

    def _is_repeated(self, call: VectorCall) -> bool:
        """Whether a module attends with the same queries again, as it does to mix values in two parts."""
        if self._newest is None or self._newest[0] is not call.module:
            return False
        query = self._newest[1]
        return query.data_ptr() == call.query.data_ptr() and query.shape == call.query.shape

    def _see_vectors(self, site: Site, call: VectorCall, settings: Settings) -> None:
        if call.source != "interface":
            separate_batch(call, self.run.batch)
        query, key, value = call.query, call.key, call.value
        if self._is_cut(site, call):
            self._see_newest(site, call, settings)
            return
        if query.shape[0] != self.run.batch or query.shape[2] != self.queries:
            raise self._misfit(site, query, key)
        placed = self._place(site, call)
        where = site.kind, site.number
        layer = self.run.layers.get(where)
        if layer is None:
            layer = self.run.layers[where] = begin_layer(self.run, site, call, self.fed, settings)
            self.run.kernel = call.kernel
        if not isinstance(layer, VectorLayer):
            raise self._changed(site)
        order, self._recorded = self._recorded, self._recorded + 1
        added = self._added(call, placed)
        if self.fresh > self.fed:
            query, placed, added = newest(query, placed, added, self.fresh - self.fed)
        if site.kind == "cross":
            layer.write_cross(query, key, value, placed.landing, self.run.limit)
        else:
            if self.may_be_reordered and order == 0:
                self._refuse_reordered(layer, key, placed.landing)
            layer.write(query, key, value, placed.landing, self.run.limit, grows=self.cache_grows)
        layer.fragments.append(placed)
        if placed.reading is not None:
            layer.unsettled.append(placed)
        if added is not None:
            layer.biases.write(added, placed.landing)
        dropout = bool(call.options.get("dropout"))
        self.dropout |= dropout
        if settings.verify and not dropout and (rows := self._rows_to_check(order)):
            layer.flush(self.run.limit)
            rule = ScoreRule(layer.info.scale, layer.info.softcap, layer.sinks)
            shown = self._shown(layer, call, placed, rule, rows, added)
            if shown.is_small:
                # Else a few rows would keep the whole layer's output alive.
                shown.output = shown.output.clone()
                self._unchecked.append((layer, shown))
            else:
                layer.checks.append(check_rows(shown))

    def _is_cut(self, site: Site, call: VectorCall) -> bool:
        """Whether a layer that borrows its keys computes only the rows that somebody will read."""
        fewer = 0 < call.query.shape[2] < self.queries <= call.key.shape[2]
        return fewer and site.kind == "self" and bool(getattr(site.module, "is_kv_shared_layer", False))

    def _see_newest(self, site: Site, call: VectorCall, settings: Settings) -> None:
        """Record a call whose queries are the newest of this forward's; rows before them do not exist."""
        whole = self.fed, self.queries, self._placed
        self.queries = call.query.shape[2]
        self.fed, self._placed = whole[0] + whole[1] - self.queries, {}
        try:
            self._see_vectors(site, call, settings)
        finally:
            self.fed, self.queries, self._placed = whole

    def _shown(
        self,
        layer: VectorLayer,
        call: VectorCall,
        placed: Placed,
        rule: ScoreRule,
        rows: tuple[int, ...],
        added: Tensor | None,
    ) -> Shown:
        landing = placed.landing
        skipped = call.query.shape[2] - landing.queries
        # Rows that have left their device cannot be looked at; and after a beam search has shuffled its slots, recorded
        # keys lie in the slots in which they were computed, the kernel's in those of now.
        recorded = layer.keys.between(landing.key_start, landing.key_stop)
        keys = detached(call.key)[:, :, : landing.keys] if recorded is None or self.shuffled else recorded
        if placed.reading is not None and (extra := placed.reading.added()) is not None:
            added = extra if added is None else added + extra
        what = id(placed), rows
        if what not in self._sights:
            self._sights[what] = placed, sight_of(landing, placed.mask, rows, keys.device)
        local = local_rows(landing, rows)
        given = slice(local.start + skipped, local.stop + skipped, local.step)
        queries = layer.recorded_queries(rows)
        if queries is None:
            queries = detached(call.query)[:, :, given]
        return Shown(
            queries,
            keys,
            detached(call.value)[:, :, : landing.keys],
            detached(call.output)[:, given],
            self._sights[what][1],
            rule,
            rows,
            None if added is None else added[:, :, local, : landing.keys],
        )

    def _see_scores(self, site: Site, call: ScoreCall) -> None:
        scores = arrange_scores(call.scores, self.run.batch, self.queries)
        landing = self._landing(site, scores.shape[-1])
        if self.fresh > self.fed:
            skipped = self.fresh - self.fed
            scores, landing = scores[:, :, skipped:], replace(landing, query_start=self.fresh)
        visible = visible_scores(scores)
        # Heads may hide different keys: the mask says what any of them sees, the scores say the rest.
        placed = Placed.of(landing, visible.any(1, keepdim=True))
        layer = self.run.layers.get((site.kind, site.number))
        if layer is None:
            layer = self.run.layers[site.kind, site.number] = self._begin_scores(site, scores, call.source)
        if not isinstance(layer, ScoreLayer):
            raise self._changed(site)
        kept = scores.detach().masked_fill(~visible, -torch.inf)[..., : landing.keys]
        layer.scores.write(kept.contiguous(), landing)
        layer.fragments.append(placed)
        # The weights meet the values later in the same forward; the list is filled then.
        layer.pending_checks.append((self.fed, self.run.batch, call.checks))

    def _begin_scores(self, site: Site, scores: Tensor, source: str) -> ScoreLayer:
        self.run.kernel = self.run.kernel or "softmax"
        info = LayerInfo(
            index=site.number,
            name=site.name,
            kind=site.kind,
            heads=scores.shape[1],
            kv_heads=scores.shape[1],
            head_dim=0,
            scale=1.0,
            softcap=None,
            window=None,
            sinks=None,
            source=f"{source}, scores only",
        )
        return ScoreLayer(info, scores=Patches(self.run.charge))

    def _added(self, call: VectorCall, placed: Placed) -> Tensor | None:
        """What was added to the scores beside hiding keys; one copy for all layers that are given the same."""
        bias = call.options.get("position_bias")
        if bias is None:
            return placed.mask.bias
        if id(bias) not in self._kept:
            own = bias.detach()[..., : placed.landing.keys].float()
            own = own.clone() if placed.mask.bias is None else own + placed.mask.bias
            self._kept[id(bias)] = bias, own
        return self._kept[id(bias)][1]

    def _refuse_reordered(self, layer: VectorLayer, key: Tensor, landing: Landing) -> None:
        """Compare the newest key that was known before; a loop of one's own may have shuffled the cache's batch."""
        place = min(layer.known, landing.query_start) - 1
        # On an accelerator the comparison would wait for the device; there the fidelity check has to notice.
        if place < landing.key_start or key.device.type != "cpu":
            return
        layer.flush(self.run.limit)
        now, before = key[:, :, place - landing.key_start, None].detach(), layer.keys.between(place, place + 1)
        if before is not None and not torch.allclose(now.float(), before.float(), rtol=1e-2, atol=1e-2, equal_nan=True):
            raise UnsupportedModel(
                f"recording attention of {layer.info.name}",
                f"the cache's key at position {place} is not the one that was recorded there",
                "caches that are reordered or changed between forwards are not supported yet",
            )

    def _landing(self, site: Site, keys: int) -> Landing:
        if site.kind == "cross":
            return plan_cross(fed=self.fed, queries=self.queries, keys=keys)
        known = self.fed if self.number else 0
        return plan_landing(fed=self.fed, queries=self.queries, keys=keys, known=known)

    def _place(self, site: Site, call: VectorCall) -> Placed:
        """Decide where a fragment lands, once for all layers that are shown the same keys and mask."""
        keys, mask, kernel, device = call.key.shape[2], call.mask, call.kernel, call.query.device
        causal = call.options.get("is_causal")
        causal = site.causal and site.kind == "self" if causal is None else causal
        flash = "flash" in kernel and (mask is None or (isinstance(mask, Tensor) and mask.dim() == 2))
        window = call.options.get("sliding_window") if flash else None
        what = (keys, id(mask), causal, window, site.kind == "cross")
        placed = self._placed.get(what)
        if placed is None:
            landing = self._landing(site, keys)
            if flash:
                # Flash kernels align causality to the last key and are given padding, if any, as [batch, key].
                first = None if mask is None else landing.key_start + mask[:, : landing.keys].ne(0).int().argmax(-1)
                visible = unmasked(landing, causal=causal, window=window, device=device, first=first)
                placed = Placed(landing, visible)
            elif mask is None:
                # Eager attention does what its mask says; the others are causal by themselves when they get none.
                is_causal = kernel != "eager" and causal and self.queries > 1
                if keys > landing.keys and not is_causal:
                    raise CaptureError(
                        f"reading attention at position {self.fed}",
                        f"{keys} keys for {landing.keys} tokens and no mask: some of them stand for no token",
                        "pass an attention mask, or exclude the layer with layers=",
                    )
                placed = Placed(landing, unmasked(landing, causal=is_causal, aligned_left=True, device=device))
            else:
                placed = place_with_mask(kernel, mask, keys, landing)
            self._placed[what] = placed
            # Keeps the mask alive while its id stands for it.
            self._masks.append(mask)
        return placed

    def _misfit(self, site: Site, query: Tensor, key: Tensor) -> UnsupportedModel:
        change = "this is not attention of the fed tokens; exclude the layer with layers="
        if query.shape[0] < self.run.batch:
            change = (
                "several rows of the input make one sequence (codebooks), or its positions come before its sequences; "
                "such models are not supported"
            )
        return UnsupportedModel(
            f"recording attention of {site.name} ({type(site.module).__name__})",
            f"queries {tuple(query.shape)} and keys {tuple(key.shape)} in a forward of {self.run.batch} sequences and "
            f"{self.queries} positions",
            change,
        )

    def _changed(self, site: Site) -> UnsupportedModel:
        return UnsupportedModel(
            f"recording attention of {site.name} ({type(site.module).__name__})",
            "in one forward its queries and keys were seen, in another only its scores",
            "exclude the layer with layers=",
        )

    def _rows_to_check(self, order: int) -> tuple[int, ...]:
        """Two rows of every layer in a prefill; after that one layer in turn, at every fourth step."""
        last = self.fed + self.queries - 1
        if self.fresh > self.fed:
            return (last,)
        if self.queries > 1 or not self.number:
            return tuple(sorted({self.fed + self.queries // 2, last}))
        turn, rest = divmod(self.number, CHECK_EVERY)
        return (last,) if rest == 1 and turn % max(1, len(self.run.layers)) == order else ()
