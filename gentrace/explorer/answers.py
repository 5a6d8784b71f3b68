"""What a page asks for after it has opened: bytes of one head, never more than a socket takes well.

A page that is served, or shown by a notebook's kernel, carries the text and no matrix. It asks for a head's picture,
for windows of weights and scores, and for queries and keys; each answer is read from the trace then and there.
"""

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gentrace.errors import ViewError
from gentrace.explorer.payload import head_codes
from gentrace.explorer.plan import LayerPlan
from gentrace.trace import derive
from gentrace.trace.trace import Trace

MOST = 960_000
"""Bytes of an answer."""


class Answers:
    """Answers questions about some traces, one at a time.

    Every question is a mapping with ``what``, ``part`` (the place of a layer in the plan) and ``head``:

    ``codes``
        A byte a cell of the head's picture, as `gentrace.explorer.codec` has it.
    ``window``
        ``queries`` and ``keys``, each a pair of positions: float32 weights ``[query, key]``, and after them scores,
        which the "mean" of a layer's heads has not.
    ``query``
        ``query``: float32 ``[dim]``, that position's query vector.
    ``keys``
        ``keys``, a pair of positions: float32 ``[key, dim]``.
    """

    def __init__(self, traces: Mapping[str, Trace], plans: Sequence[LayerPlan]) -> None:
        """Keep what may be asked about.

        Args:
            traces: Finished traces by name.
            plans: Their layers, in the order in which a page numbers them.
        """
        self._traces = list(traces.values())
        self._plans = list(plans)
        self._turn = threading.Lock()

    def answer(self, question: Mapping[str, Any]) -> bytes:
        """The bytes that a question asks for.

        Raises:
            ViewError: If it asks for something that the page does not show, or for too much at once.
        """
        plan = self._plan(question)
        # One at a time: torch uses every core for one answer, and memory stays that of one.
        with self._turn:
            parts = self._read(plan, question)
            return b"".join(part.contiguous().numpy().tobytes() for part in parts)

    def _plan(self, question: Mapping[str, Any]) -> LayerPlan:
        part = question.get("part")
        if type(part) is not int or not 0 <= part < len(self._plans):
            raise _refused(question, f"the page has parts 0 … {len(self._plans) - 1}")
        return self._plans[part]

    def _read(self, plan: LayerPlan, question: Mapping[str, Any]) -> list[Tensor]:
        trace, info = self._traces[plan.place], plan.info
        what, head = question.get("what"), question.get("head")
        if what == "window" and head == "mean":
            rows, keys = _window(plan, question)
            # Head by head: what one window takes is also what the mean of many takes.
            weights = torch.zeros(len(rows), len(keys))
            for one in plan.heads:
                weights += trace.attention(info.index, one, kind=info.kind, queries=rows, keys=keys)
            return [weights / len(plan.heads)]
        if type(head) is not int or head not in plan.heads:
            raise _refused(question, f"the page has heads {', '.join(map(str, plan.heads))}")
        if what == "codes":
            return [head_codes(trace, plan, head)]
        if what == "window":
            rows, keys = _window(plan, question)
            weights = trace.attention(info.index, head, kind=info.kind, queries=rows, keys=keys)
            return [weights, trace.scores(info.index, head, kind=info.kind, queries=rows, keys=keys)]
        if what in ("query", "keys") and not derive.has(trace, info, "scores"):
            return [self._vectors(plan, question, head)]
        raise _refused(
            question, "a page asks for codes, a window, a query or keys, the last two where they were recorded"
        )

    def _vectors(self, plan: LayerPlan, question: Mapping[str, Any], head: int) -> Tensor:
        trace, info = self._traces[plan.place], plan.info
        if question["what"] == "query":
            row = question.get("query")
            if type(row) is not int or row not in plan.queries:
                raise _refused(question, f"rows {plan.queries.start} … {plan.queries.stop - 1} are shown")
            return trace.store.slab(info.tensor("queries"), head)[row].float()
        keys = _pair(question, "keys", range(plan.keys))
        if 4 * len(keys) * info.head_dim > MOST:
            raise _refused(question, f"at most {MOST // (4 * info.head_dim)} keys at a time")
        return trace.store.slab(info.tensor("keys"), head * info.kv_heads // info.heads)[keys.start : keys.stop].float()


def _window(plan: LayerPlan, question: Mapping[str, Any]) -> tuple[range, range]:
    """Rows and columns of a question."""
    rows, keys = _pair(question, "queries", plan.queries), _pair(question, "keys", range(plan.keys))
    if 8 * len(rows) * len(keys) > MOST:
        raise _refused(question, f"{len(rows)} × {len(keys)} cells; at most {MOST // 8} at a time")
    return rows, keys


def _pair(question: Mapping[str, Any], name: str, inside: range) -> range:
    """Two positions of a question as a range that is not empty."""
    pair = question.get(name)
    if (
        not isinstance(pair, list)
        or len(pair) != 2
        or any(type(end) is not int for end in pair)
        or not inside.start <= pair[0] < pair[1] <= inside.stop
    ):
        raise _refused(question, f"{name} are a pair of positions from {inside.start} to {inside.stop}")
    return range(pair[0], pair[1])


def _refused(question: Mapping[str, Any], seen: str) -> ViewError:
    return ViewError(f"answering a page that asks for {dict(question)!r:.200}", seen, "reload the page")
