#!/usr/bin/env python
"""Facts in the prompt against facts in the weights: which heads look at the context when the answer follows it?

"The capital of Germany is" is asked alone, after a misleading sentence about Germany, and after the same sentence about
another country. The city of the sentence is the same in both, so that what differs is only whether it matters. The
wording counts: after "In 2031 the capital of Germany was moved to Madrid" SmolLM2 gave that city once for 36 countries,
so it is not the sentence used here. Only the sentence about the same country repeats the country's name, so that heads
which look for what followed a name before (induction) are among those that look at the city more. Run

    python scripts/studies/facts.py [--model story] [--quick]
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[2])

import numpy as np  # noqa: E402
from scipy.stats import binomtest  # noqa: E402

from gentrace.errors import ViewError  # noqa: E402
from gentrace.studies import Study  # noqa: E402
from gentrace.views.study_contrast import Difference, read_contrast  # noqa: E402
from gentrace.views.study_tables import number  # noqa: E402
from scripts.studies import fact_measures  # noqa: E402
from scripts.studies.capitals import CAPITALS  # noqa: E402
from scripts.studies.running import Options, interval, options, share, study_of  # noqa: E402

NONE, MISLEADING, OTHER = "no context", "misleading", "other country"
STRONGEST = 5


@dataclass(frozen=True)
class Found:
    """What the model answered, and which heads looked at the city."""

    right: dict[str, tuple[int, int]]
    """Condition → answers with the true capital, and questions."""
    followed: dict[str, tuple[int, int]]
    """Condition → answers with the sentence's city, and questions."""
    fewer: tuple[int, int, float]
    """Countries whose true capital was said without context only, after the misleading sentence only, and the p of
    McNemar's exact test between these."""
    relevant: Difference
    """Attention to the city, misleading − other country, in pairs of the same country."""
    answered: Difference | None
    """Attention to the city after misleading sentences, answer followed it − did not; None if one never happened."""


def specification(asked: Options) -> dict[str, Any]:
    """Each country in three conditions."""
    countries = list(CAPITALS)[:6] if asked.quick else list(CAPITALS)
    rows: list[dict[str, str]] = []
    for place, country in enumerate(countries):
        city = CAPITALS[countries[(place + 5) % len(countries)]]
        other = countries[(place + 3) % len(countries)]
        question = f"The capital of {country} is"
        for condition, text in (
            (NONE, question),
            (MISLEADING, f"In the new atlas, the capital of {country} is {city}. {question}"),
            (OTHER, f"In the new atlas, the capital of {other} is {city}. {question}"),
        ):
            rows.append({"text": text, "condition": condition, "country": country})
    return {
        "name": "facts in the prompt and in the weights",
        "prompts": {"rows": rows, "factors": ["condition", "country"]},
        "decoding": {"max_new_tokens": 5},
        "measures": [fact_measures.answers_capital, fact_measures.answers_context, fact_measures.city_attention],
        "keep": {"traces": True},
        "batch_size": 9,
    }


def find(study: Study) -> Found:
    """Count answers, compare heads."""
    generations = study.generations(["condition", "country", "answers_capital", "answers_context"])
    right, followed = {}, {}
    for condition, rows in generations.groupby("condition", observed=True):
        right[str(condition)] = int(rows["answers_capital"].sum()), len(rows)
        followed[str(condition)] = int(rows["answers_context"].sum()), int(rows["answers_context"].notna().sum())
    answers = generations.pivot_table("answers_capital", "country", "condition", observed=True)
    lost = int((answers[NONE] > answers[MISLEADING]).sum())
    won = int((answers[NONE] < answers[MISLEADING]).sum())
    p = float(binomtest(lost, lost + won).pvalue) if lost + won else 1.0
    relevant = read_contrast(study, "city_attention", "condition", (MISLEADING, OTHER), units="country")
    try:
        answered = read_contrast(
            study, "city_attention", "answers_context", (1, 0), units="country", where={"condition": MISLEADING}
        )
    except ViewError:
        answered = None
    return Found(right, followed, (lost, won, p), relevant, answered)


def tell(found: Found) -> str:
    """The finding in words."""
    lines = [
        f"the true capital: without context {share(*found.right[NONE])}, after a misleading sentence "
        f"{share(*found.right[MISLEADING])}, after the same about another country {share(*found.right[OTHER])}; "
        f"the misleading sentence took it from {found.fewer[0]} countries and gave it to {found.fewer[1]}, p = "
        f"{number(found.fewer[2])} (McNemar’s exact test over countries)",
        f"the sentence's city: after a misleading sentence {share(*found.followed[MISLEADING])}, after the same about "
        f"another country {share(*found.followed[OTHER])}",
        f"attention to the city, when the sentence is about the country asked for: {_heads(found.relevant)}",
    ]
    if found.answered is None:
        lines.append("attention to the city by answer: all answers were of one kind, so there is nothing to compare")
    else:
        lines.append(f"attention to the city, when the answer is that city: {_heads(found.answered)}")
    lines.append(
        "intervals of shares are Clopper–Pearson, of differences percentile bootstrap, both 95 %; counts of heads are "
        "at p ≤ 0.05 after correction for their number (Benjamini–Hochberg); the strongest were picked out of all, so "
        "that their differences are likely a little smaller. Looking is not yet causing, and only a sentence about the "
        "same country repeats its name, which induction heads follow whatever the question"
    )
    return "\n".join(lines)


def _heads(one: Difference) -> str:
    clear = one.p_adjusted <= 0.05
    more, less = (int((clear & (side * one.difference > 0)).sum()) for side in (1, -1))
    order = np.argsort(-np.where(clear, one.difference, -np.inf))[:STRONGEST]
    names = [
        f"layer {one.sample.cells[place][0]} head {one.sample.cells[place][1]} by "
        + interval(one.difference[place], one.low[place], one.high[place])
        for place in order
        if clear[place] and one.difference[place] > 0
    ]
    listed = f"; most: {', '.join(names)}" if names else ""
    smallest = number(float(np.nanmin(one.p_adjusted)))
    return (
        f"{more} of {len(clear)} heads look at it more, {less} less ({one.test}, {one.units}; smallest corrected p "
        f"{smallest}){listed}"
    )


def main(arguments: list[str] | None = None) -> Found:
    """Run the study, print its finding, write its report."""
    asked = options("facts", (__doc__ or "").split("\n")[0], arguments)
    study = study_of(specification(asked), asked)
    found = find(study)
    print(tell(found))
    if asked.report is not None:
        from gentrace.reports import report

        sides = [("condition", (MISLEADING, OTHER))]
        report(study, asked.report, finding=tell(found), contrasts=sides, units="country")
        print(asked.report)
    return found


if __name__ == "__main__":
    main()
