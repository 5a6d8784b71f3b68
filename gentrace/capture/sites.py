"""Which attention of the model a call is: its kind, its layer number, and whether it was asked for.

A module that one forward calls several times, as models with shared layers do, is as many sites as it has calls.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from gentrace.capture.taps.calls import Call
from gentrace.capture.taps.frames import memories, same_place
from gentrace.trace.info import Kind


class Settings:
    """What a recorder was asked to keep."""

    def __init__(
        self,
        layers: Collection[int] | None,
        values: bool,
        top_k: int,
        verify: bool,
        spill_dir: Path | None = None,
        goes_on: bool = False,
    ) -> None:
        """Keep the settings."""
        self.spill_dir = spill_dir
        self.goes_on = goes_on
        self.layers = None if layers is None else frozenset(layers)
        self.values = values
        self.top_k = top_k
        self.verify = verify


@dataclass(frozen=True, slots=True, eq=False)
class Site:
    """One attention of the model; looked up once, since attributes of modules are slow to miss."""

    module: nn.Module
    name: str
    kind: Kind
    number: int
    """The layer number, in the model's own count."""
    wanted: bool
    causal: bool
    """What the module says of itself; kernels believe it when they are given no mask."""


class Sites:
    """The sites of one model, found as they are first used."""

    def __init__(self, names: Mapping[int, str], settings: Settings) -> None:
        """Begin with none.

        Args:
            names: Module paths by the modules' ids.
            settings: Which layers were asked for.
        """
        self._names = names
        self._settings = settings
        self.known: dict[tuple[int, int, bool], Site] = {}
        """Per module, number of its call in a forward, and whether the encoder ran."""
        self._taken: set[tuple[Kind, int]] = set()

    def name(self, module: nn.Module) -> str:
        """The module's path inside the model."""
        return self._names.get(id(module)) or type(module).__name__

    def numbers(self) -> set[int]:
        """Layer numbers seen so far."""
        return {number for _, number in self._taken}

    def names(self, kind: Kind) -> list[str]:
        """Module paths of the sites of one kind."""
        return [site.name for site in self.known.values() if site.kind == kind]

    def find(self, call: Call, nth: int, own_keys: int | None, *, encoder: bool, crosses: bool) -> Site:
        """Find out what a call is that is not `known` yet.

        Args:
            call: The call; its module's forward is on the stack.
            nth: How many calls of the same module came before it in this forward.
            own_keys: Positions that self-attention looks at in this forward; None if that is unknown.
            encoder: Whether the encoder of an encoder-decoder model is running.
            crosses: Whether there is an encoder that cross-attention could look at.
        """
        kind = "encoder" if encoder else self._kind(call, own_keys, crosses)
        number = self._number(call.module, kind, nth)
        wanted = self._settings.layers is None or number in self._settings.layers
        causal = bool(getattr(call.module, "is_causal", True))
        site = Site(call.module, self.name(call.module), kind, number, wanted, causal)
        self.known[id(call.module), nth, encoder] = site
        self._taken.add((kind, number))
        return site

    def _kind(self, call: Call, own_keys: int | None, crosses: bool) -> Kind:
        if getattr(call.module, "is_cross_attention", False):
            return "cross"
        homemade = not type(call.module).__module__.startswith("transformers.")
        if not homemade and not crosses and call.keys == own_keys:
            return "self"
        given = memories(call.module)
        seen = any(call.keys in memory.shape[:2] for memory in given)
        # One memory of its own, as keys and values, is another text; separate keys and values may be the same text's.
        own = homemade and same_place(given)
        return "cross" if seen and (crosses or own or call.keys != own_keys) else "self"

    def _number(self, module: nn.Module, kind: Kind, nth: int) -> int:
        own = getattr(module, "layer_idx", None)
        if not isinstance(own, int):
            places = re.findall(r"(?:^|\.)(\d+)(?=\.|$)", self.name(module))
            own = int(places[0]) if places else 0
        if nth or (kind, own) in self._taken:
            own = sum(taken == kind for taken, _ in self._taken)
            while (kind, own) in self._taken:
                own += 1
        return own
