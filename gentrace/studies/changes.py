"""Why a finished batch is not reused, in words: what it was made from against what is planned now."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

SHOWN = 3
"""Changes that one line names."""


def explain(old: Sequence[Mapping[str, Any]], planned: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lines that say why finished batches are done again or dropped.

    Args:
        old: What finished batches were made from.
        planned: What the plan's batches are made from.

    Returns:
        One line for each reason, with how many batches it holds for.
    """
    by_prompt: dict[str, list[int]] = defaultdict(list)
    for place, one in enumerate(planned):
        for prompt in one["prompts"]:
            by_prompt[prompt[0]].append(place)
    flat = [flattened(one) for one in planned]
    reasons = Counter(_reason(one, by_prompt, flat) for one in old)
    return [
        f"{'1 finished batch' if count == 1 else f'{count} finished batches'} not reused: {reason}"
        for reason, count in reasons.items()
    ]


def flattened(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Ingredients under dotted names, without the prompts."""
    found: dict[str, Any] = {}
    for name, entry in value.items():
        if name == "decoding":
            found |= {"decoding": entry[0], **flattened(entry[1], "decoding.")}
        elif name == "prompts" and not prefix:
            found |= {f"prompt {prompt[0]}": prompt[1:] for prompt in entry}
        elif isinstance(entry, Mapping) and entry:
            found |= flattened(entry, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = entry
    return found


def _reason(old: Mapping[str, Any], by_prompt: Mapping[str, list[int]], planned: Sequence[Mapping[str, Any]]) -> str:
    candidates = {place for prompt in old["prompts"] for place in by_prompt.get(prompt[0], ())}
    if not candidates:
        return "none of their prompts is planned any more"
    before = flattened(old)

    def differences(place: int) -> list[str]:
        return [name for name in {**before, **planned[place]} if before.get(name) != planned[place].get(name)]

    place = min(sorted(candidates), key=lambda place: len(differences(place)))
    after = planned[place]
    names = differences(place)
    prompts = [name for name in names if name.startswith("prompt ")]
    lines = [_line(name, before, after) for name in names if name not in prompts]
    if prompts:
        lines.append(_prompts(prompts, before, after))
    more = f" and {len(lines) - SHOWN} more changes" if len(lines) > SHOWN else ""
    return "; ".join(lines[:SHOWN]) + more


def _line(name: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    if name not in after:
        return f"{name} was {_short(before[name])}, is gone"
    if name not in before:
        return f"{name} is new: {_short(after[name])}"
    return f"{name} was {_short(before[name])}, is {_short(after[name])}"


def _prompts(names: Sequence[str], before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    changed = [name for name in names if name in before and name in after]
    if changed:
        return f"the text or the factors of {changed[0]} changed"
    return "other prompts share the batch"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 24 else f"{text[:12]}…"
