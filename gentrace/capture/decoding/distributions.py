"""From a forward's output to probabilities: logits wait one step for the token that follows, then they are reduced."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from gentrace.capture.decoding.generation import Generation
from gentrace.capture.decoding.probabilities import OutputHead, read_out
from gentrace.capture.run import Rejected, Run, Unread
from gentrace.capture.step import Step

READ_TOGETHER = 400_000
"""Logits that are reduced at once, so that all that is made of them stays in a processor's cache."""
WAITING_STEPS = 32
"""Steps that wait to be reduced in one go, since what has not run for a while runs slowly at first."""
WAITING_MOST = 4_000_000
"""Logits that wait at most."""


def keep_distributions(model: nn.Module, step: Step, output: Any, generation: Generation | None, top_k: int) -> None:
    """Keep a forward's newest logits until their token is known, and what the prompt's can be computed from.

    Args:
        model: The recorded model.
        step: The forward that just ended.
        output: What it returned.
        generation: The generation it belongs to, if any.
        top_k: Alternatives to keep.
    """
    run, stop = step.run, step.fed + step.queries
    logits = _logits(model, step, output)
    if step.fed and step.fed < run.covered:
        run.covered = step.fed
    if step.queries > 1 and stop - 1 > run.covered:
        _keep_hidden(step, logits, top_k)
    run.covered = max(run.covered, stop)
    if logits is None:
        return
    rows = 1
    if generation is not None and generation.drafts:
        rows = min(logits.shape[1], max(1, stop - generation.columns + 1), step.queries)
    last = logits[:, -rows:].detach()
    # A slice of a prompt's logits would keep all of them alive, and outside of generate they are the user's to change.
    # Generation writes processed scores into the logits of several drafts.
    copied = logits.shape[1] > 1 or generation is None or generation.drafts
    run.pending = stop - rows, last.clone() if copied else last


def resolve(
    run: Run, start: int, ids: Tensor | None, generation: Generation | None, top_k: int, *, whole: bool = False
) -> None:
    """Line the newest logits up with the tokens that followed, now that they are known.

    Args:
        run: The run.
        start: Position of the first column of ``ids``; tokens before it are those that were fed.
        ids: ``[batch, column]`` tokens; None where they are unknown.
        generation: The generation that the logits belong to, if any.
        top_k: Alternatives to keep.
        whole: Whether ``ids`` are the whole text, and not what the next forward is given.
    """
    if run.pending is None:
        return
    first, logits = run.pending
    run.pending = None
    rows = logits.shape[1]
    given = [] if generation is None else generation.take_scores(rows)
    for index in range(rows):
        position = first + index + 1
        if rows > 1 and not whole and position > start:
            # Drafts before this row were rejected, so it belongs to another text.
            break
        chosen = _token_at(run, position, start, ids)
        if chosen is None:
            if ids is not None and generation is not None and generation.run is run:
                # A step that generate took back after it had stopped.
                continue
            chosen = torch.full((run.batch, 1), -1, device=logits.device)
        scores = given[index] if given else None
        _add(run, position, logits[:, index : index + 1], chosen.to(logits.device), scores, generation, top_k)
    if rows > 1 and ids is not None and generation is not None:
        kept = start + ids.shape[1] if whole else start + 1
        generation.rejected += _rejected(run, first, logits, kept - 1, ids[:, kept - 1 - start])


Chosen = tuple[Tensor, list[Tensor]]
"""Tokens ``[batch, 1]``, and the one ``[batch, vocab]`` that they were sampled from, if that is known."""


def waiting_steps(logits: Tensor) -> int:
    """Steps that may wait to be reduced together, with logits like these."""
    return max(1, min(WAITING_STEPS, WAITING_MOST // logits.numel()))


def follow(run: Run, logits: list[Tensor], chosen: list[Chosen], generation: Generation, top_k: int) -> None:
    """Line the logits of steps, one row a sequence, up with the tokens that were fed after them.

    Args:
        run: The run, in which the logits before these wait.
        logits: [step] ``[batch, 1, vocab]``.
        chosen: What was fed at these steps, and perhaps at one that has not ended.
        generation: The generation that they belong to.
        top_k: Alternatives to keep.
    """
    for step, (ids, scores) in enumerate(chosen):
        if run.pending is not None:
            position, before = run.pending[0] + 1, run.pending[1]
            _add(run, position, before, ids.to(before.device), scores[0] if scores else None, generation, top_k)
            run.pending = (position, logits[step]) if step < len(logits) else None


def _rejected(run: Run, first: int, logits: Tensor, position: int, token: Tensor) -> list[Rejected]:
    """Drafts from ``position`` on, where ``token [batch]`` took the first one's place."""
    if not run.ids:
        return []
    start, fed = run.ids[-1]
    found = []
    for place in range(max(position, first + 1), start + fed.shape[1]):
        drafted = fed[0, place - start]
        logprob = logits[0, place - 1 - first].float().log_softmax(-1).gather(0, drafted[None])[0]
        found.append(Rejected(place, drafted, logprob, token[0] if place == position else None))
    return found


def _token_at(run: Run, position: int, start: int, ids: Tensor | None) -> Tensor | None:
    """``[batch, 1]`` the token at a position: among new ids, or among those that were fed before them."""
    if ids is not None and 0 <= position - start < ids.shape[1]:
        return ids[:, position - start, None]
    if position < start:
        for first, fed in reversed(run.ids):
            if first <= position < first + fed.shape[1]:
                return fed[:, position - first, None]
    return None


def _add(
    run: Run,
    position: int,
    logits: Tensor,
    chosen: Tensor,
    scores: Tensor | None,
    generation: Generation | None,
    top_k: int,
) -> None:
    sampled = scores is not None
    if generation is not None and generation.samples_raw:
        scores = None
    if run.unread and (run.unread[0].scores is None, run.unread[0].sampled) != (scores is None, sampled):
        reduce_waiting(run, top_k)
    run.unread.append(Unread(position, logits, chosen, scores, sampled))
    steps, size = len(run.unread), logits.numel()
    if (steps >= WAITING_STEPS and steps * size >= READ_TOGETHER) or (steps + 1) * size > WAITING_MOST:
        reduce_waiting(run, top_k)


def reduce_waiting(run: Run, top_k: int) -> None:
    """Reduce the distributions that are waiting, together."""
    waiting, run.unread = run.unread, []
    if not waiting:
        return
    at_once = max(1, READ_TOGETHER // waiting[0].logits.numel())
    for start in range(0, len(waiting), at_once):
        _reduce(run, waiting[start : start + at_once], top_k)


def _reduce(run: Run, waiting: list[Unread], top_k: int) -> None:
    scratch = run.scratch_for(len(waiting) * run.batch, waiting[0].logits)
    logits = torch.cat([one.logits[:, 0] for one in waiting], out=scratch[0])
    given = [one.scores for one in waiting if one.scores is not None]
    scores = torch.cat(given, out=scratch[2]) if given else None
    chosen = torch.cat([one.chosen[:, 0] for one in waiting])
    readout = read_out(logits, chosen, top_k, scores, scratch[:2])
    if waiting[0].sampled and not given:
        readout = replace(readout, sampled_logprob=readout.logprob, top_sampled_logprobs=readout.top_logprobs)
    run.reduced.append(([one.position for one in waiting], readout))


def reduce_finished(runs: list[Run], top_k: int) -> None:
    """Reduce what runs that have ended left waiting, so that logits do not add up from call to call."""
    for run in runs:
        if run.unread and not run.active:
            reduce_waiting(run, top_k)


def _logits(model: nn.Module, step: Step, output: Any) -> Tensor | None:
    """``[batch, row, vocab]`` logits over tokens that end with the last row, if the output has them."""
    if not _predicts_next(model) or step.encoder:
        return None
    logits = output if isinstance(output, Tensor) else getattr(output, "logits", None)
    if logits is None and isinstance(output, tuple) and step.module is model:
        logits = next((part for part in output if isinstance(part, Tensor) and part.dim() == 3), None)
    if not isinstance(logits, Tensor) or logits.dim() != 3 or not step.all_rows or not logits.is_floating_point():
        return None
    if not isinstance(model, PreTrainedModel):
        return logits if logits.shape[1] in (1, step.queries) and logits.shape[0] == step.run.batch else None
    return logits if logits.shape[-1] >= model.config.get_text_config(decoder=True).vocab_size else None


def _predicts_next(model: nn.Module) -> bool:
    """Whether logits are about the next token; a masked language model's are about the row's own."""
    return model.can_generate() if isinstance(model, PreTrainedModel) else True


def _keep_hidden(step: Step, logits: Tensor | None, top_k: int) -> None:
    run = step.run
    if logits is None:
        return
    if step.hidden is not None and step.hidden.shape[1] == step.queries:
        first = max(step.fed, run.covered)
        states = step.hidden[:, first - step.fed :].detach()
        run.hidden.append((first, states.clone() if run.spill is None else run.spill.aside(states)))
        if run.head is None:
            run.head = OutputHead(step.module, step.decoder) if step.decoder is not None else None
    elif logits.shape[1] == step.queries and run.ids:
        start, ids = run.ids[-1]
        for row in range(step.queries - 1):
            run.readouts[start + row + 1] = read_out(logits[:, row].detach(), ids[:, row + 1], top_k)
