"""Why a finished batch is not reused, in words: what it was made from against what is planned now."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

SHOWN = 3
"""Changes that one line names."""
WIDTH = 24
"""Letters of a value that a line shows."""
ORDER = "the order of the measures"


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


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """What differs between two batches' ingredients, a phrase each, without their prompts.

    Args:
        before: What was.
        after: What is.
    """
    return _phrases(flattened(before), flattened(after))


def flattened(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Ingredients under dotted names."""
    found: dict[str, Any] = {}
    for name, entry in value.items():
        if name == "decoding":
            found |= {"decoding": entry[0], **flattened(entry[1], "decoding.")}
        elif name == "prompts" and not prefix:
            found |= {f"prompt {prompt[0]}": prompt[1:] for prompt in entry}
        elif name == "measures" and not prefix:
            found[ORDER] = [measure["name"] for measure in entry]
            for measure in entry:
                label = f"measure {measure['name']}"
                # What a registered measure computes, the version of gentrace says.
                parts = {"source": measure["code"]} if measure["code"] is not None else {}
                found |= {label: measure["measure"], **flattened(parts | measure["options"], f"{label}.")}
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
    place = min(sorted(candidates), key=lambda place: len(_differences(before, planned[place])))
    lines = _phrases(before, planned[place])
    more = f" and {len(lines) - SHOWN} more changes" if len(lines) > SHOWN else ""
    return "; ".join(lines[:SHOWN]) + more


def _differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    return [name for name in {**before, **after} if before.get(name) != after.get(name)]


def _phrases(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    names = _differences(before, after)
    own = [name for name in names if not name.startswith(("prompt ", ORDER))]
    if not own and ORDER in names:
        own = [ORDER]
    # A measure that is new or gone is one change, whatever its source and options.
    whole = {f"{name}." for name in own if name.startswith("measure ") and (name not in before or name not in after)}
    phrases = [_phrase(name, before, after) for name in own if not name.startswith(tuple(whole))]
    prompts = [name for name in names if name.startswith("prompt ")]
    return [*phrases, _prompts(prompts, before, after)] if prompts else phrases


def _phrase(name: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    if name not in after:
        return f"{name} was {_cut(before[name])}, is gone"
    if name not in before:
        return f"{name} is new: {_cut(after[name])}"
    old, new = str(before[name]), str(after[name])
    start = next((at for at, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
    start = 0 if len(old) <= WIDTH and len(new) <= WIDTH else start
    return f"{name} was {_cut(old, start)}, is {_cut(new, start)}"


def _prompts(names: Sequence[str], before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    changed = [name for name in names if name in before and name in after]
    if changed:
        return f"the text or the factors of {changed[0]} changed"
    return "other prompts share the batch"


def _cut(value: Any, differ: int = 0) -> str:
    """A value, or what of a long one stands around the place where it differs from another."""
    text = str(value)
    if len(text) <= WIDTH:
        return text
    start = 0 if differ < WIDTH // 2 else differ - WIDTH // 4
    part = text[start : start + WIDTH // 2]
    return ("…" if start else "") + part + ("…" if start + len(part) < len(text) else "")
