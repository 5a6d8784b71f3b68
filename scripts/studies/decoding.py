#!/usr/bin/env python
"""Greedy against sampled decoding: how surprising is the text, and how much does it look back at its prompt?

Every prompt is continued twice, greedily and sampled at temperature 1, and compared with itself. Surprise is the
model's own: −ln p of each token under the distribution before any warper. Run

    python scripts/studies/decoding.py [--model story] [--quick]
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[2])

import numpy as np  # noqa: E402

from gentrace import analysis  # noqa: E402
from gentrace.studies import Study  # noqa: E402
from gentrace.views.study_contrast import Difference, read_contrast  # noqa: E402
from gentrace.views.study_tables import means, number, read_sample, read_steps  # noqa: E402
from scripts.studies.running import Options, interval, options, study_of  # noqa: E402

PROMPTS = (
    "Once upon a time there was a small village by the sea where",
    "The most important thing to know about growing tomatoes is that",
    "Last night the government announced that the new railway",
    "My favourite memory of school is the day when",
    "The scientists were surprised to find that the samples",
    "To make a good cup of tea, you should first",
    "In the middle of the forest stood a house that",
    "The history of mathematics begins with",
    "She looked at the clock and realised that",
    "A healthy diet should include plenty of",
    "The detective examined the broken window and",
    "The main difference between cats and dogs is that",
    "After three weeks at sea, the sailors finally",
    "The purpose of this meeting is to decide whether",
    "When the power went out, the whole family",
    "Learning to play the violin takes",
    "The old map showed a river that no longer",
    "Modern computers are fast because",
    "He promised to return before the winter, but",
    "The best way to travel through the mountains is",
)
GREEDY, SAMPLED = "greedy", "sample"


@dataclass(frozen=True)
class Found:
    """What differs between the two."""

    surprise: dict[str, tuple[float, float, float]]
    """Setting → mean surprise of a generated token in nats, and its interval."""
    slopes: dict[str, tuple[float, float, float]]
    """Setting → change of surprise per token along the text, the mean of the prompts' slopes."""
    slope_difference: tuple[float, float, float]
    """Of the two slopes of a prompt, greedy − sampled; the mean over prompts."""
    difference: Difference
    """Of surprise, greedy − sampled, in pairs."""
    lookback: dict[str, tuple[float, float, float]]
    """Setting → look-back ratio, mean over heads."""
    lookback_difference: Difference
    """Of its mean over heads."""
    heads: Difference
    """Of each head's look-back ratio."""


def specification(asked: Options) -> dict[str, Any]:
    """Twenty beginnings, each continued in both ways."""
    length = 12 if asked.quick else 48
    fixed = {"max_new_tokens": length, "min_new_tokens": length}
    # Larger than any vocabulary: nothing is cut off, whatever the model's own settings say.
    plain = {"do_sample": True, "temperature": 1.0, "top_k": 1_000_000, "top_p": 1.0}
    return {
        "name": "greedy against sampled",
        "prompts": {"texts": list(PROMPTS[:5] if asked.quick else PROMPTS)},
        "decoding": [{"name": GREEDY} | fixed, {"name": SAMPLED} | plain | fixed],
        "seeds": [1],
        "measures": ["token_surprise", "lookback_ratio"],
        "keep": {"traces": True, "steps": True},
        "batch_size": 5,
    }


def find(study: Study) -> Found:
    """Compare each prompt with itself."""
    surprise, slopes, lookback = {}, {}, {}
    along = read_steps(study, "token_surprise", by="decoding")
    steps = np.array([cell[0] for cell in along.cells], dtype=np.float64)
    lines: dict[str, dict[str, float]] = {}
    for group in along.groups:
        lines[group.name] = {
            unit: float(np.polyfit(steps[known], row[known], 1)[0])
            for unit, row in zip(group.units, group.values, strict=True)
            for known in [np.isfinite(row)]
        }
        slopes[group.name] = _mean(list(lines[group.name].values()))
    pairs = [lines[GREEDY][unit] - slope for unit, slope in lines[SAMPLED].items() if unit in lines[GREEDY]]
    for measure, into in (("token_surprise", surprise), ("lookback_ratio", lookback)):
        sample = read_sample(study, measure, by="decoding", cells=False)
        for group in sample.groups:
            found = means(group)
            into[group.name] = float(found.mean[0]), float(found.low[0]), float(found.high[0])
    pair = (GREEDY, SAMPLED)
    return Found(
        surprise,
        slopes,
        _mean(pairs),
        read_contrast(study, "token_surprise", "decoding", pair),
        lookback,
        read_contrast(study, "lookback_ratio", "decoding", pair, cells=False),
        read_contrast(study, "lookback_ratio", "decoding", pair),
    )


def _mean(values: list[float]) -> tuple[float, float, float]:
    mean = analysis.mean_interval(values)
    return mean.value, mean.low, mean.high


def tell(found: Found) -> str:
    """The finding in words."""
    one, all_heads = found.difference, found.lookback_difference
    clear = found.heads.p_adjusted <= 0.05
    more, less = (int((clear & (side * found.heads.difference > 0)).sum()) for side in (1, -1))
    lines = [
        "surprise of a generated token: "
        + ", ".join(f"{name} {interval(*values, 'nats')}" for name, values in found.surprise.items())
        + f"; {GREEDY} − {SAMPLED} = {interval(one.difference[0], one.low[0], one.high[0], 'nats')}, Cliff's δ "
        f"{number(one.delta[0])}, p = {number(one.p[0])} ({one.test})",
        "its change along the text: "
        + ", ".join(f"{name} {interval(*values, 'nats a token')}" for name, values in found.slopes.items())
        + f"; {GREEDY} − {SAMPLED} = {interval(*found.slope_difference, 'nats a token')}",
        "look-back ratio, mean over heads: "
        + ", ".join(f"{name} {interval(*values)}" for name, values in found.lookback.items())
        + f"; difference {interval(all_heads.difference[0], all_heads.low[0], all_heads.high[0])}, p = "
        f"{number(all_heads.p[0])} ({all_heads.test})",
        f"of {len(clear)} heads, {more} look back more and {less} less when decoding is greedy (p ≤ 0.05 after "
        "correction for the number of heads, Benjamini–Hochberg)",
        "[…]: 95 % intervals over prompts; of means and of slopes BCa, of other differences percentile bootstrap",
    ]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> Found:
    """Run the study, print its finding, write its report."""
    asked = options("decoding", (__doc__ or "").split("\n")[0], arguments)
    study = study_of(specification(asked), asked)
    found = find(study)
    print(tell(found))
    if asked.report is not None:
        from gentrace.reports import report

        report(study, asked.report, finding=tell(found))
        print(asked.report)
    return found


if __name__ == "__main__":
    main()
