"""The steady path: what recording does at a step of a generation that goes on like the one before.

A step that decodes one token shows nothing new but a row of queries in every layer; its key lies in the cache that the
model itself keeps. So in the middle of such a step each layer leaves references and nothing else. When the step ends,
all layers are looked at in one loop; rows, masks and probabilities are taken down many steps at a time. A step that
does not go on as before is handed to the full path, which reads everything anew.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, EncoderDecoderCache

from gentrace.capture.decoding.distributions import Chosen, follow, waiting_steps
from gentrace.capture.decoding.generation import Generation
from gentrace.capture.fidelity import Shown, check_rows
from gentrace.capture.followed import Caches, Followable, Followed
from gentrace.capture.layers import HOLD_BYTES, VectorLayer
from gentrace.capture.rules import MaskRule
from gentrace.capture.sites import Settings, Sites
from gentrace.capture.staging import Staging
from gentrace.capture.step import Step
from gentrace.capture.taps.calls import Seen
from gentrace.stitch.plan import plan_landing
from gentrace.stitch.scores import ScoreRule

CHECK_EVERY = 32
"""Steps after which one layer's newest row is recomputed, from the first on; the layers take turns."""


@dataclass(slots=True, eq=False)
class Entry:
    """One layer on the steady path."""

    module: nn.Module
    """Its attention."""
    layer: VectorLayer
    """What was recorded of it, which follows the cache from now on."""
    followed: Followed
    """Where the model keeps its keys."""
    rule: MaskRule
    """What its mask has been like."""
    keeps: int
    """Rows of queries to hold before they are copied."""
    overwritten: bool
    """Whether a compiled graph may write its next results over those of now."""
    scores: ScoreRule
    """How its scores are made."""


class Lane:
    """The steady path of one generation."""

    def __init__(
        self, step: Step, generation: Generation, settings: Settings, entries: dict[int, Entry | None]
    ) -> None:
        """Begin after a step that went the full path, such as the prefill.

        Args:
            step: That step.
            generation: What it belongs to.
            settings: What to keep.
            entries: By the ids of attention modules; None for layers that are not wanted.
        """
        self.module = step.module
        self.roles = step.roles
        """What models inside, by their ids, are to the recording."""
        self.inner: list[tuple[nn.Module, str]] = []
        """Those whose forwards are going on."""
        self.attended: list[Seen] = []
        """Attentions of the forward that is going on."""
        self.seen = self.attended
        """Where the next one belongs: there, or nowhere while a model runs that is none of the text's."""
        self.inputs: Mapping[str, Any] = {}
        """Arguments of the newest forward."""
        self.fed = step.run.stop
        """Position that the newest forward feeds."""
        self._aside = 0
        self._run = step.run
        self._generation = generation
        self._settings = settings
        self._cache = step.cache
        self._shape = (step.batch, 1)
        self._wanted = [entry for entry in entries.values() if entry is not None]
        self._rules = list({id(entry.rule): entry.rule for entry in self._wanted}.values())
        self._first = self.fed
        self._ids: list[Tensor] = []
        self._predicts = step.run.pending is not None
        self._chosen: list[Chosen] = []
        self._logits: list[Tensor] = []
        self._reads_after = 0 if step.run.pending is None else waiting_steps(step.run.pending[1])
        self._copies = any(entry.overwritten for entry in self._wanted)
        if step.run.pending is not None and self._copies:
            step.run.pending = step.run.pending[0], step.run.pending[1].clone()
        self._checked: Entry | None = None
        self._staging = Staging([(entry.layer, entry.keeps) for entry in self._wanted])
        place = itertools.count()
        self._plan = {
            module: entry and (next(place), None if entry.followed.slides else entry.followed.cache, entry.rule)
            for module, entry in entries.items()
        }
        """Per attention module: its place among all layers' rows, the part of the cache whose keys it has to be given,
        if they can be told apart, and the rule of its masks; None for one that is not wanted."""
        for entry in self._wanted:
            entry.layer.flush(self._run.limit)
            entry.layer.followed = entry.followed

    def begins(self, inputs: Mapping[str, Any]) -> bool:
        """A forward with these inputs begins; says whether it goes on as before."""
        ids = inputs.get("input_ids")
        generation = self._generation
        if ids is None or ids.shape != self._shape or inputs.get("past_key_values") is not self._cache:
            return False
        run = self._run
        if ids.storage_offset() or not ids.is_contiguous():
            # A part of something larger, which would be kept alive, or be written over.
            ids = ids.clone()
        self.fed = run.stop
        if self._predicts:
            self._chosen.append((ids, generation.take_scores(1)))
        self._ids.append(ids)
        self.inputs = inputs
        if self._settings.verify and self._wanted and run.forwards % CHECK_EVERY == 1:
            self._checked = self._wanted[run.forwards // CHECK_EVERY % len(self._wanted)]
        return True

    def enters(self, module: nn.Module) -> bool:
        """A forward of a model inside begins; says whether that happened before."""
        role = "aside" if self._aside else self.roles.get(id(module))
        if role is None:
            return False
        self.inner.append((module, role))
        if role == "aside":
            self._aside += 1
            self.seen = []
        return True

    def leaves(self, module: nn.Module) -> None:
        """It ended."""
        if not self.inner or self.inner[-1][0] is not module:
            # Its hooks were still resting when it began.
            return
        _, role = self.inner.pop()
        if role == "aside":
            self._aside -= 1
            self.seen = [] if self._aside else self.attended

    @property
    def quiet(self) -> frozenset[int]:
        """Ids of the models inside that need not tell of their forwards; none if the steps may be compiled."""
        if getattr(self._cache, "is_compileable", True):
            return frozenset()
        return frozenset(module for module, role in self.roles.items() if role == "inner" and module != id(self.module))

    def ignores(self, module: nn.Module) -> bool:
        """Whether nobody asked for this module's attention, at least not now."""
        return self._aside > 0 or self._plan.get(id(module), self) is None

    def ends(self, output: Any) -> bool:
        """The forward ended with this output; says whether it went on as before. If not, nothing of it was recorded."""
        rows = self._rows()
        if rows is None:
            return False
        run = self._run
        run.stop += 1
        run.forwards += 1
        if rows:
            self._staging.take(rows, run.limit)
        if self._checked is not None:
            self._check(self._checked)
        self.attended.clear()
        self.inputs = {}
        if self._predicts:
            self._logits.append(output.logits.clone() if self._copies else output.logits)
            if len(self._chosen) >= self._reads_after:
                self._follow()
        if run.spill is not None and run.spill.is_due:
            self._hand_over()
            run.spill.commit()
        return True

    def _rows(self) -> list[Tensor] | None:
        """[layer] ``[batch, head, 1, dim]`` the rows of the forward that ended; None if it did not go on as before."""
        plan, fed = self._plan, self.fed
        rows: list[Any] = [None] * len(self._wanted)
        taken = 0
        for module, _, query, key, _, mask, _, _ in self.attended:
            expected = plan.get(id(module))
            if expected is None:
                if id(module) in plan:
                    continue
                return None
            place, cache, rule = expected
            # Keys that are not the cache's could not be read from it later.
            if rows[place] is not None or (cache is not None and key is not cache.keys):
                return None
            if rule.at != fed:
                if not rule.admit(mask, key.shape[2], fed):
                    return None
            elif mask is not rule.mask:
                return None
            rows[place] = query
            taken += 1
        return rows if taken == len(rows) else None

    def _follow(self) -> None:
        """Line logits up with the tokens that followed."""
        follow(self._run, self._logits, self._chosen, self._generation, self._settings.top_k)
        self._logits, self._chosen = [], []

    def close(self) -> None:
        """Leave the path; what was held is in the run afterwards."""
        self._hand_over()
        for entry in self._wanted:
            entry.layer.followed = None
        self._wanted, self._plan, self._staging = [], {}, Staging([])

    def tell(self, layer: VectorLayer) -> None:
        """Let a layer know of all its rows of steps that ended."""
        self._staging.tell(layer, self._run.limit)

    def _hand_over(self) -> None:
        """Put what is held into the run."""
        run = self._run
        self._follow()
        if self._ids:
            run.ids.append((self._first, torch.cat(self._ids, 1)))
            self._first, self._ids = self._first + len(self._ids), []
        self._staging.clear(run.limit)
        for entry in self._wanted:
            pieces = entry.rule.fragments(entry.layer.known)
            entry.layer.fragments += pieces
            for placed in pieces:
                if placed.mask.bias is not None:
                    entry.layer.biases.write(placed.mask.bias, placed.landing)
            entry.layer.unsettled += [placed for placed in pieces if placed.reading is not None]
        for rule in self._rules:
            rule.restart()

    def _check(self, entry: Entry) -> None:
        """Recompute the newest row of one layer."""
        layer, self._checked = entry.layer, None
        self.tell(layer)
        layer.flush(self._run.limit)
        _, _, query, key, value, _, _, output = next(seen for seen in self.attended if seen[0] is entry.module)
        landing = plan_landing(fed=self.fed, queries=1, keys=value.shape[2], known=self.fed)
        sight = entry.rule.sight(landing, query.device)
        queries, keys = layer.recorded_queries((self.fed,)), layer.keys.between(landing.key_start, landing.key_stop)
        queries = query if queries is None else queries
        keys = key[:, :, : landing.keys] if keys is None else keys
        values, bias = value[:, :, : landing.keys], entry.rule.bias()
        shown = Shown(queries, keys, values, output, sight, entry.scores, (self.fed,), bias)
        layer.checks.append(check_rows(shown))


def settle_into(step: Step, generation: Generation, sites: Sites, settings: Settings) -> Lane | None:
    """The steady path that a step can be followed by; None if the next one has to go the full path.

    Args:
        step: A step that went the full path.
        generation: What it belongs to.
        sites: The model's attentions.
        settings: What to keep.
    """
    cache = step.cache
    if generation.beams is not None or generation.drafts or not generation.prepared or not generation.tries:
        return None
    # A generation that leaves the path again and again is cheaper off it.
    generation.tries -= 1
    if not isinstance(cache, Cache) or isinstance(cache, EncoderDecoderCache) or getattr(cache, "offloading", False):
        return None
    if step.ids is None or step.run.encoder is not None or step.attended_twice():
        return None
    entries: dict[int, Entry | None] = dict.fromkeys(step.unwanted(sites))
    followed = Caches(cache)
    rules: dict[int, MaskRule] = {}
    for shown in step.followable:
        entry = _entry(step, shown, followed, rules)
        if entry is None:
            return None
        entries[id(shown.module)] = entry
    return Lane(step, generation, settings, entries) if len(entries) == step.seen else None


def _entry(step: Step, shown: Followable, caches: Caches, rules: dict[int, MaskRule]) -> Entry | None:
    site = shown.site
    layer = step.run.layers.get((site.kind, site.number))
    if not shown.plain or shown.rows != step.queries or site.kind != "self":
        return None
    if not isinstance(layer, VectorLayer) or layer.known != step.run.stop:
        return None
    placed, followed = layer.fragments[-1], caches.follow(shown.key)
    if followed is None or placed.mask.bias is not None or placed.mask.dense is not None:
        return None
    if id(placed) not in rules:
        rules[id(placed)] = MaskRule(placed, shown.kernel, shown.key.shape[2], masked=shown.masked)
    keeps = max(1, min(followed.holds_rows, HOLD_BYTES // shown.row_bytes))
    overwritten = followed.in_place and shown.key.device.type == "cuda"
    scores = ScoreRule(layer.info.scale, layer.info.softcap, layer.sinks)
    return Entry(shown.module, layer, followed, rules[id(placed)], keeps, overwritten, scores)
