#!/usr/bin/env python
"""Which heads look at the token before, at what followed an earlier mention, and at the first token?

A head can get a high score on ordinary text for another reason: neighbours go together, and what followed once follows
again. So every kind of head is chosen on some texts and measured on others that had no part in the choice, and
induction is chosen on random words, repeated, where nothing but the repetition can be known. Run

    python scripts/studies/heads.py [--model story] [--quick]
"""

import random
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[2])

import numpy as np  # noqa: E402
from scipy.stats import wilcoxon  # noqa: E402

from gentrace import analysis  # noqa: E402
from gentrace.demo import load  # noqa: E402
from gentrace.studies import Study  # noqa: E402
from gentrace.views.study_tables import Group, Means, Sample, means, read_sample  # noqa: E402
from scripts.studies.running import Options, interval, options, study_of  # noqa: E402

TEXTS = (
    "The old lighthouse keeper climbed the stairs every evening, lit the lamp, and wrote one line into a thick book.",
    "Bread is made from flour, water, salt and yeast; the dough rests, rises, and is baked until the crust is brown.",
    "When the rain stopped, the children ran outside to look for the rainbow, but the sky was still grey and cold.",
    "A bicycle has two wheels, a frame and a chain, and it stays upright because the rider keeps steering a little.",
    "The committee met on Tuesday to discuss the budget, the new library, and the broken bridge over the river.",
    "Whales are mammals: they breathe air, feed their young with milk, and travel thousands of miles every year.",
    "She opened the letter slowly, read it twice, and then sat by the window until the street lamps were lit.",
    "In the laboratory they cooled the metal, measured its resistance, and found that the current never faded.",
    "The market opens at dawn; farmers bring apples, cheese and honey, and the square is full of voices by seven.",
    "To repair the roof you need a ladder, a hammer, some nails, and a day without wind, which is rare in March.",
    "The orchestra tuned, the lights went down, and for a moment nobody in the great hall dared to cough.",
    "Volcanoes form where plates of rock move apart or collide, and hot stone rises from deep inside the planet.",
    "My grandfather kept bees behind the house, and every summer he gave each of us a jar with our name on it.",
    "The train was late again, so we drank coffee, counted the pigeons, and talked about the films we had seen.",
    "A good map leaves out almost everything, so that the few things which matter to the traveller can be seen.",
    "Snow fell all night, and in the morning the dog would not leave the porch until someone cleared the path.",
    "Doctors in the small clinic treated fevers, broken arms and toothache, often by the light of one lamp.",
    "The painter mixed blue and yellow, stepped back, shook her head, and covered the whole canvas with white.",
    "Two ships left the harbour at noon; one sailed north for timber, and the other sailed south for spices.",
    "If you plant garlic in autumn, it sleeps through the winter and is ready to be pulled from the soil in July.",
    "The teacher drew a circle on the board, asked what it was, and got nineteen different answers from the class.",
    "Glass is sand that was melted and cooled; lead makes it heavy, and a little iron makes it faintly green.",
    "The team lost the first game, won the second, and in the third they scored in the very last minute.",
    "At the edge of the desert there is a well, and beside the well a tree that is older than the village.",
)
KINDS = {
    "previous-token": ("previous_token_score", "text"),
    "induction": ("induction_score", "repeated"),
    "sink": ("first_token_mass", "text"),
}
"""Kind of head → the measure that tells it, and the texts it is chosen on."""
WORDS, SEED = 24, 7


@dataclass(frozen=True)
class Found:
    """The strongest head of a kind, measured on texts that had no part in its choice."""

    kind: str
    head: tuple[int, int]
    fresh: tuple[float, float, float]
    """Mean, low, high on the other half of the texts that it was chosen on."""
    other: tuple[float, float, float]
    """The same on the texts of the other sort."""
    many: int
    """Heads that are clearly of this kind: above one half by a test over texts, corrected for the number of heads."""


def specification(asked: Options) -> dict[str, Any]:
    """Ordinary texts, and random words twice over, each of which is one token."""
    count = 6 if asked.quick else len(TEXTS)
    rows = [{"kind": "text", "text": text, "half": place % 2} for place, text in enumerate(TEXTS[:count])]
    _, tokenizer = load(asked.model)
    rows += [
        {"kind": "repeated", "text": text, "half": place % 2}
        for place, text in enumerate(repeated(tokenizer, count, 12 if asked.quick else WORDS))
    ]
    return {
        "name": "previous-token, induction and sink heads",
        "prompts": {"rows": rows, "factors": ["kind", "half"]},
        "decoding": {"max_new_tokens": 8},
        "measures": [measure for measure, _ in KINDS.values()],
        "keep": {"traces": True},
        "batch_size": 6,
    }


def repeated(tokenizer: Any, count: int, words: int) -> list[str]:
    """Texts of random words, each text twice over, whose tokens are one a word and the same both times.

    Raises:
        RuntimeError: If the tokenizer has no such words.
    """
    drawn = random.Random(SEED)
    vocabulary = sorted(
        text
        for number in range(len(tokenizer))
        if (text := tokenizer.decode([number])).startswith(" ") and text[1:].isalpha() and text[1:].isascii()
    )
    found: list[str] = []
    while len(found) < count:
        chosen = drawn.sample(vocabulary, words)
        ids = tokenizer("".join(chosen * 2), add_special_tokens=False)["input_ids"]
        if len(ids) == 2 * words and ids[:words] == ids[words:]:
            found.append("".join(chosen * 2))
    return found


def find(study: Study) -> list[Found]:
    """Choose on one half, measure on the other."""
    found: list[Found] = []
    for kind, (measure, chosen_on) in KINDS.items():
        where = {"kind": chosen_on, "half": 0}
        choosing = read_sample(study, measure, where=where)
        place = int(np.nanargmax(means(choosing.groups[0]).mean))
        head = (choosing.cells[place][0], choosing.cells[place][1])
        fresh = read_sample(study, measure, where=where | {"half": 1})
        other = read_sample(study, measure, where={"kind": "text" if chosen_on == "repeated" else "repeated"})
        found.append(Found(kind, head, _at(fresh, head), _at(other, head), clearly(fresh.groups[0])))
    return found


def clearly(group: Group) -> int:
    """How many heads are above one half, by Wilcoxon's signed ranks over texts, corrected for the number of heads."""
    p = [
        float(wilcoxon(known - 0.5, alternative="greater").pvalue) if len(known) and (known != 0.5).any() else 1.0
        for known in (column[~np.isnan(column)] for column in group.values.T)
    ]
    return int((analysis.adjusted(np.array(p)) <= 0.05).sum())


def _at(sample: Sample, head: tuple[int, int]) -> tuple[float, float, float]:
    group: Group = sample.groups[0]
    summary: Means = means(group)
    place = sample.cells.index(head)
    return float(summary.mean[place]), float(summary.low[place]), float(summary.high[place])


def tell(found: list[Found], heads: int) -> str:
    """The finding in words."""
    lines = []
    for one in found:
        measure, chosen_on = KINDS[one.kind]
        other = "repeated random words" if chosen_on == "text" else "ordinary text"
        own = "ordinary text" if chosen_on == "text" else "repeated random words"
        lines.append(
            f"strongest {one.kind} head: layer {one.head[0]} head {one.head[1]}, {measure} {interval(*one.fresh)} on "
            f"{own} that had no part in choosing it, {interval(*one.other)} on {other}; {one.many} of {heads} heads "
            f"are clearly above one half"
        )
    lines.append(
        "[…]: 95 % interval, BCa bootstrap over texts; “clearly”: p ≤ 0.05 by a one-sided Wilcoxon signed-rank test "
        "over the texts that had no part in choosing, after correction for the number of heads (Benjamini–Hochberg)"
    )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> list[Found]:
    """Run the study, print its finding, write its report."""
    asked = options("heads", (__doc__ or "").split("\n")[0], arguments)
    study = study_of(specification(asked), asked)
    found = find(study)
    text = tell(found, len(study.heads(["layer", "head"]).drop_duplicates()))
    print(text)
    if asked.report is not None:
        from gentrace.reports import report

        report(study, asked.report, finding=text, contrasts=[("kind", ("repeated", "text"))])
        print(asked.report)
    return found


if __name__ == "__main__":
    main()
