"""TransformerLens 4's bridge: patterns caught by hooks while it generates, or a cache of the finished text.

Only patterns are kept in both, which is less than it keeps if nobody says so.
"""

from typing import Any

from torch import Tensor

from scripts.peers.case import Case, Refused, Variant, stitched

HOOKED = "TransformerLens, hooks while generating"
CACHED = "TransformerLens, return_cache"


def is_pattern(name: str) -> bool:
    """Whether a hook point gives attention weights."""
    return name.endswith("attn.hook_pattern")


def variants(case: Case) -> list[Variant | Refused]:
    """Two variants; the second takes one sequence at a time."""
    from transformer_lens.model_bridge import TransformerBridge

    bridge: Any = TransformerBridge.boot_transformers(
        case.name, hf_model=case.twin("eager"), tokenizer=case.tokenizer, device=str(case.ids.device)
    )
    name = f"blocks.{case.layer}.attn.hook_pattern"
    options = {"max_new_tokens": case.new, "do_sample": False, "stop_at_eos": False, "verbose": False}

    def hooked() -> Any:
        steps: dict[str, list[Tensor]] = {}

        def keep(pattern: Tensor, hook: Any) -> None:
            steps.setdefault(hook.name, []).append(pattern)

        with bridge.hooks(fwd_hooks=[(is_pattern, keep)]):
            ids = bridge.generate(case.ids, **options)
        return ids, steps

    def cached() -> Any:
        return bridge.generate(case.ids, **options, return_cache=True, names_filter=is_pattern)

    def stitch(steps: Any) -> Tensor:
        return stitched([step[0, case.head] for step in steps[name]])

    def look_up(cache: Any) -> Tensor:
        return cache[name][0, case.head, : case.rows, : case.rows].cpu()

    found: list[Variant | Refused] = [Variant(HOOKED, hooked, lambda steps: steps, stitch)]
    if case.ids.shape[0] > 1:
        return [*found, Refused(CACHED, "return_cache takes one sequence at a time")]
    return [*found, Variant(CACHED, cached, dict, look_up)]
