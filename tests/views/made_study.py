"""A study without a folder: tables made by hand, which answer as `gentrace.views.study_tables.Tables` asks."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

NAN = float("nan")
PROMPTS, LAYERS, HEADS = 6, (2, 5), 3
BEGIN = {f"p{number}": 2 + number % 2 for number in range(PROMPTS)}
"""Tokens of each prompt."""
NEW = 4


class MadeStudy:
    """Six prompts, each continued under two settings; of head 5.2 one prompt says nothing."""

    factors = ("topic",)
    measures: Mapping[str, tuple[str, str, bool]] = {
        "focus": ("heads", "share", True),
        "doubt": ("tokens", "nats", False),
        "good": ("generations", "", False),
    }

    def __init__(self, models: int = 1) -> None:
        self.manifest = {"name": "made <b>", "spec": {"models": [{"name": f"m{place}"} for place in range(models)]}}
        rng = np.random.default_rng(0)
        generations, heads, tokens = [], [], []
        for prompt in range(PROMPTS):
            for setting in ("greedy", "sample"):
                own = {
                    "generation": f"g{prompt}{setting}",
                    "model": "m0",
                    "decoding": setting,
                    "seed": 0,
                    "prompt_id": f"p{prompt}",
                    "topic": "a" if prompt < 3 else "b",
                }
                begin = BEGIN[f"p{prompt}"]
                good = float(prompt % 2) if setting == "greedy" else NAN
                generations.append(own | {"prompt_tokens": begin, "new_tokens": NEW, "good": good})
                for layer in LAYERS:
                    for head in range(HEADS):
                        steps = rng.random(begin + NEW - 1) + (setting == "greedy") * (layer == 2 and head == 1)
                        mean = NAN if (layer, head, prompt) == (5, 2, 0) else float(steps.mean())
                        heads.append(own | {"layer": layer, "head": head, "focus": mean, "focus.steps": steps})
                for position in range(begin + NEW):
                    doubt = rng.exponential() + 3 * (position < begin)
                    row = {"position": position, "generated": position >= begin, "doubt": doubt, "entropy": doubt / 2}
                    tokens.append(own | row)
        self.tables = {
            "generations": pd.DataFrame(generations),
            "heads": pd.DataFrame(heads),
            "tokens": pd.DataFrame(tokens),
        }

    def generations(self, columns: Sequence[str] | None = None, **where: Any) -> pd.DataFrame:
        found = self.tables["generations"]
        return found if columns is None else found[list(columns)]

    def batches(self, table: str, columns: Sequence[str] | None = None, **where: Any) -> Iterator[pd.DataFrame]:
        """Five rows at a time, so that whoever adds up must add up."""
        found = self.tables[table]
        for column, value in where.items():
            found = found[found[column].isin(value if isinstance(value, list) else [value])]
        for start in range(0, len(found), 5):
            yield found[list(columns or found.columns)].iloc[start : start + 5]
