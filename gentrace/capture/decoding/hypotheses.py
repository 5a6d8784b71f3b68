"""From a finished search or drafting to what a trace says of it, with texts and on the host."""

from typing import Any

from gentrace.capture.decoding.beams import Beams as Search
from gentrace.capture.decoding.texts import single_texts
from gentrace.capture.run import Rejected, Run
from gentrace.capture.shares import Share
from gentrace.trace.decoding import Beams, BeamStep, Draft


def beams_of(run: Run, share: Share, tokenizer: Any) -> Beams | None:
    """The genealogy of the search that one returned sequence came out of; None if beams were not searched."""
    search: Search | None = run.beams
    if search is None or run.ancestry is None:
        return None
    group = share.entry // search.returned
    path = run.ancestry[share.entry].tolist()
    generated = share.ids[share.prompt_length :].tolist()
    steps = [
        _step(search, number, group, share, path, generated, tokenizer)
        for number, looked_at in enumerate(search.steps)
        if looked_at.kept is not None and looked_at.ended is not None
    ]
    return Beams(search.beams, tuple(steps))


def drafts_of(run: Run, share: Share, tokenizer: Any) -> tuple[Draft, ...]:
    """The rejected drafts, in the order in which they were rejected."""
    offset = int(share.columns[0]) if len(share.columns) else 0
    rejected_ones: list[Rejected] = []
    accepted = False
    for draft in run.rejected:
        if draft.instead is not None:
            accepted = bool(draft.token == draft.instead)
        if not accepted:
            rejected_ones.append(draft)
    ids = [int(rejected.token) for rejected in rejected_ones]
    texts = single_texts(tokenizer, [[token] for token in ids])
    return tuple(
        Draft(rejected.position - offset, token, text[0], float(rejected.logprob), rejected.instead is None)
        for rejected, token, text in zip(rejected_ones, ids, texts, strict=True)
    )


def _step(
    search: Search, number: int, group: int, share: Share, path: list[int], generated: list[int], tokenizer: Any
) -> BeamStep:
    looked_at = search.steps[number]
    slots, ids = looked_at.slots[group].tolist(), looked_at.ids[group].tolist()
    count = len(ids)
    kept = [] if looked_at.kept is None else looked_at.kept[group].tolist()
    ended = [] if looked_at.ended is None else looked_at.ended[group].tolist()
    beams = [-1] * count
    for beam, candidate in enumerate(kept):
        # The search fills its beams with hypotheses that have ended when there are no others.
        beams[candidate] = -1 if ended[candidate] else beam
    logprobs = looked_at.readout.logprob.reshape(-1, count)[group].tolist()
    chosen = -1
    if number < len(generated) and path[number] >= 0:
        on_path = [(slot, token) == (path[number], generated[number]) for slot, token in zip(slots, ids, strict=True)]
        chosen = on_path.index(True) if any(on_path) else -1
    return BeamStep(
        position=share.prompt_length + number,
        parents=tuple(slot - group * search.beams for slot in slots),
        ids=tuple(ids),
        texts=tuple(text[0] for text in single_texts(tokenizer, [[token] for token in ids])),
        scores=tuple(looked_at.scores[group].tolist()),
        logprobs=tuple(logprobs),
        beams=tuple(beams),
        ended=tuple(ended),
        chosen=chosen,
    )
