"""What a sweep over the types comes to: the kept list of outcomes, what got worse, and a page for people."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers.models.auto import modeling_auto

from tests.zoo.compare import KERNELS, LIMIT, LOGPROB_LIMIT, Verdict

EXPECTED = Path(__file__).with_name("expected.json")
OUTCOMES = ("exact", "no attention", "refused", "not built", "wrong", "failed")
"""From the best to the worst."""
BAD = frozenset({"wrong", "failed"})

Expected = dict[str, dict[str, dict[str, str]]]
"""Outcomes by task, type and kernel."""


@dataclass(frozen=True, slots=True)
class Group:
    """Types that are counted together."""

    title: str
    task: str
    names: frozenset[str] | None
    """None for all types of the task."""
    bar: str
    needed: int

    def of(self, verdicts: Sequence[Verdict]) -> dict[str, str]:
        """The worst outcome of each type."""
        found: dict[str, str] = {}
        for verdict in verdicts:
            if verdict.task == self.task and (self.names is None or verdict.name in self.names):
                before = found.get(verdict.name, OUTCOMES[0])
                found[verdict.name] = max(before, verdict.outcome, key=OUTCOMES.index)
        return found


def groups(verdicts: Sequence[Verdict]) -> list[Group]:
    """The groups that any verdict belongs to; only two have a bar."""
    text = frozenset(modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES)
    speech = frozenset(verdict.name for verdict in verdicts if verdict.task == "seq2seq") - text
    every = [
        Group("causal LM", "causal", None, "165 of 189", 165),
        Group("sequence to sequence", "seq2seq", text, "30 of 37", 30),
        Group("speech to sequence, not in the list above", "seq2seq", speech, "", 0),
        Group("masked LM", "masked", None, "", 0),
    ]
    return [group for group in every if group.of(verdicts)]


def load(path: Path) -> Expected:
    """The kept list; empty if there is none."""
    return json.loads(path.read_text()) if path.exists() else {}


def outcomes(verdicts: Sequence[Verdict]) -> Expected:
    """The verdicts as a list to keep."""
    kept: Expected = {}
    for verdict in verdicts:
        kept.setdefault(verdict.task, {}).setdefault(verdict.name, {})[verdict.kernel] = verdict.outcome
    return kept


def save(path: Path, verdicts: Sequence[Verdict]) -> None:
    """Put the verdicts into the kept list; types that were not run stay as they are."""
    kept = load(path)
    for task, types in outcomes(verdicts).items():
        kept.setdefault(task, {}).update(types)
    path.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")


def worse(verdicts: Sequence[Verdict], expected: Expected) -> list[str]:
    """What got worse: exact before and not any more, or wrong or failed and not before."""
    found = []
    for verdict in verdicts:
        before = expected.get(verdict.task, {}).get(verdict.name, {}).get(verdict.kernel, "nothing")
        fell = before == "exact" or verdict.outcome in BAD
        if verdict.outcome != before and fell:
            found.append(f"{verdict.task} {verdict.name} {verdict.kernel}: {before} → {verdict.outcome}")
    ran = outcomes(verdicts)
    for task, types in ran.items():
        for name, kernels in types.items():
            for kernel, before in expected.get(task, {}).get(name, {}).items():
                if before == "exact" and kernel not in kernels:
                    found.append(f"{task} {name} {kernel}: exact → not run")
    return found


def summary(verdicts: Sequence[Verdict]) -> str:
    """Counts per group, on a few lines."""
    lines = []
    for group in groups(verdicts):
        counts = Counter(group.of(verdicts).values())
        said = ", ".join(f"{counts[outcome]} {outcome}" for outcome in OUTCOMES if counts[outcome])
        lines.append(f"{group.title}: {said}{f' (bar {group.bar})' if group.bar else ''}")
    return "\n".join(lines)


def markdown(verdicts: Sequence[Verdict], versions: dict[str, str], command: str) -> str:
    """The whole page."""
    parts = [
        "# Which model types gentrace reads",
        "One tiny random model of every type in transformers' mappings is recorded, and every layer of the trace is "
        "compared with transformers' own eager attention. **exact**: every weight of every layer within "
        f"{LIMIT:.0e}, every log-probability within {LOGPROB_LIMIT:.0e}, and no layer missing. **refused**: gentrace "
        "says that it cannot, and why.",
        _counts(verdicts),
        *(_group(group, verdicts) for group in groups(verdicts)),
        _reasons("Refused", "refused", verdicts),
        _reasons("No softmax attention", "no attention", verdicts),
        _reasons("Not built", "not built", verdicts),
        _reasons("Wrong", "wrong", verdicts),
        _reasons("Failed", "failed", verdicts),
        _how(versions, command),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _counts(verdicts: Sequence[Verdict]) -> str:
    rows = []
    for group in groups(verdicts):
        found = group.of(verdicts)
        counts = Counter(found.values())
        bar = f"{group.bar} {'✓' if counts['exact'] >= group.needed else '✗'}" if group.bar else "–"
        rows.append([group.title, len(found), *(counts[outcome] for outcome in OUTCOMES), bar])
    return _table(["mapping", "types", *OUTCOMES, "bar (exact)"], rows, numbers=range(1, 2 + len(OUTCOMES)))


def _group(group: Group, verdicts: Sequence[Verdict]) -> str:
    rows = []
    for name in sorted(group.of(verdicts)):
        own = {verdict.kernel: verdict for verdict in verdicts if (verdict.task, verdict.name) == (group.task, name)}
        errors = [verdict.error for verdict in own.values() if verdict.error == verdict.error]
        rows.append(
            [
                f"`{name}`",
                *(own[kernel].outcome if kernel in own else "–" for kernel in KERNELS),
                ", ".join(sorted({tap for verdict in own.values() for tap in verdict.taps})) or "–",
                max(verdict.layers for verdict in own.values()) or "–",
                f"{max(errors):.1e}" if errors else "–",
                ", ".join(sorted({one for verdict in own.values() for one in verdict.witnesses})) or "–",
            ]
        )
    head = ["type", *KERNELS, "tap", "layers", "largest error", "compared with"]
    return f"## {group.title[0].upper()}{group.title[1:]}\n\n{_table(head, rows, numbers=(4, 5))}"


def _reasons(title: str, outcome: str, verdicts: Sequence[Verdict]) -> str:
    """Each type of an outcome once, with its reason."""
    found: dict[str, str] = {}
    for verdict in verdicts:
        if verdict.outcome == outcome:
            found.setdefault(f"{verdict.task} `{verdict.name}`", verdict.reason)
    if not found:
        return ""
    return f"## {title}\n\n" + "\n".join(f"- {name}: {reason}" for name, reason in found.items())


def _how(versions: dict[str, str], command: str) -> str:
    said = ", ".join(f"{name} {version}" for name, version in versions.items())
    return (
        "## How this was made\n\n"
        f"`{command}` with {said}.\n\n"
        "Each model generates a few tokens greedily from one prompt and from a padded batch of two; a masked model "
        "does one plain forward of each. *Full forward*: one forward without a cache over the whole text, which only "
        "counts if its logits are those that generate had; *padded forward*: the same over the padded batch; "
        "*fragments*: the attention of generate's own forwards, stitched by hand, where the two differ within "
        "transformers itself or by more than rounding; *the same forward*: what a masked model returned."
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]], numbers: Sequence[int]) -> str:
    cells = [[str(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    pads = [str.rjust if column in numbers else str.ljust for column in range(len(head))]
    lines = [
        "| " + " | ".join(pad(cell, width) for pad, cell, width in zip(pads, row, widths, strict=True)) + " |"
        for row in cells
    ]
    rule = "|".join("-" * (width + 1) + (":" if column in numbers else "-") for column, width in enumerate(widths))
    return "\n".join([lines[0], f"|{rule}|", *lines[1:]])
