"""transformers' own way: the eager kernel with ``output_attentions=True``, a tuple of ragged tuples."""

from typing import Any

from torch import Tensor

from scripts.peers.case import Case, Refused, Variant, stitched


def variants(case: Case) -> list[Variant | Refused]:
    """One variant."""
    model = case.twin("eager")

    def run() -> Any:
        out = model.generate(case.ids, **case.options, output_attentions=True, return_dict_in_generate=True)
        return out.sequences, out.attentions

    def matrix(steps: Any) -> Tensor:
        return stitched([step[case.layer][0, case.head] for step in steps])

    return [Variant("transformers, eager, output_attentions", run, lambda steps: steps, matrix)]
