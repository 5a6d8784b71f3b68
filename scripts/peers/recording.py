"""gentrace itself: with its defaults, and with less to do."""

from collections.abc import Collection
from typing import Any

import gentrace
from scripts.peers.case import Case, Variant

NAMES = ("defaults", "unverified", "third", "one", "tokens")


def variants(case: Case, names: Collection[str]) -> list[Variant]:
    """The recordings that were asked for, by `NAMES`."""
    middle = case.layer
    third = range(middle % 3, case.layers, 3)
    known: dict[str, tuple[str, dict[str, Any]]] = {
        "defaults": ("gentrace", {}),
        "unverified": ("gentrace, verify=False", {"verify": False}),
        "third": (f"gentrace, {len(third)} of {case.layers} layers", {"layers": third}),
        "one": ("gentrace, 1 layer", {"layers": [middle]}),
        "tokens": ("gentrace, layers=()", {"layers": ()}),
    }
    return [_variant(case, name, *known[name]) for name in NAMES if name in names]


def _variant(case: Case, source: str, title: str, settings: dict[str, Any]) -> Variant:
    def run() -> Any:
        with gentrace.record(case.model, **settings) as recorder:
            ids = case.plain()
        return ids, recorder

    def matrix(recorder: Any) -> Any:
        return recorder.traces[0].attention(case.layer, case.head)

    def keep(recorder: Any) -> Any:
        return recorder.traces

    wanted = None if settings.get("layers") == () else matrix
    return Variant(title, run, keep, wanted, judged=True, source=source)
