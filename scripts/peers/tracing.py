"""nnsight: what a traced generation reads at every step, the eager kernel's weights or sdpa's queries and keys."""

from operator import attrgetter
from typing import Any

import torch
from torch import Tensor

from scripts.peers.case import Case, Refused, Variant, stitched

WEIGHTS = "nnsight, eager, attention weights"
VECTORS = "nnsight, sdpa, queries and keys"


def variants(case: Case) -> list[Variant | Refused]:
    """Two variants."""
    return [_weights(case), _vectors(case)]


def _traced(case: Case, kernel: str) -> tuple[Any, list[Any], list[Any]]:
    """The model as nnsight sees it, and its attention modules, as nnsight sees them and as they are."""
    from nnsight import TransformersModel

    twin = case.twin(kernel)
    traced: Any = TransformersModel(twin, tokenizer=case.tokenizer)
    found = {name: module for name, module in twin.named_modules() if name.endswith(".attn") or "self_attn" in name}
    found = {name: module for name, module in found.items() if hasattr(module, "layer_idx")}
    return traced, [_envoy(traced, name) for name in found], list(found.values())


def _envoy(traced: Any, name: str) -> Any:
    """What stands for a module, by the module's name."""
    for part in name.split("."):
        traced = traced[int(part)] if part.isdigit() else attrgetter(part)(traced)
    return traced


def _inputs(case: Case) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The prompt as one encoding, and the other options: nnsight makes a batch of encodings only."""
    options = {name: value for name, value in case.options.items() if name != "attention_mask"}
    return {"input_ids": case.ids, "attention_mask": case.options["attention_mask"]}, options


def _weights(case: Case) -> Variant:
    import nnsight

    traced, layers, _ = _traced(case, "eager")
    inputs, options = _inputs(case)
    new = case.new

    def run() -> Any:
        with traced.generate(inputs, **options) as tracer:
            steps = nnsight.save([])
            for _ in tracer.iter[:new]:
                steps.append([layer.output[1] for layer in layers])
            ids = tracer.result.save()
        return ids, steps

    def matrix(steps: Any) -> Tensor:
        return stitched([step[case.layer][0, case.head] for step in steps])

    return Variant(WEIGHTS, run, lambda steps: steps, matrix)


def _vectors(case: Case) -> Variant:
    import nnsight

    traced, layers, modules = _traced(case, "sdpa")
    inputs, options = _inputs(case)
    new = case.new

    def fresh(arguments: Any) -> tuple[Tensor, Tensor]:
        """A step's queries, and the keys that it added."""
        queries, keys = arguments[1:3]
        return queries, keys[:, :, -queries.shape[2] :].clone()

    def run() -> Any:
        with traced.generate(inputs, **options) as tracer:
            steps = nnsight.save([])
            for _ in tracer.iter[:new]:
                steps.append([fresh(layer.source.attention_interface_1.inputs[0]) for layer in layers])
            ids = tracer.result.save()
        return ids, steps

    def matrix(steps: Any) -> Tensor:
        queries = torch.cat([step[case.layer][0][0, case.head] for step in steps])
        groups = case.model.config.num_attention_heads // steps[0][case.layer][1].shape[1]
        keys = torch.cat([step[case.layer][1][0, case.head // groups] for step in steps])
        scores = (queries.float() @ keys.float().T * modules[case.layer].scaling).cpu()
        return scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -torch.inf).softmax(-1)

    return Variant(VECTORS, run, lambda steps: steps, matrix)
