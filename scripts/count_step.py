"""What one step of a recorded generation does, counted and not timed: Python calls and tensor operations.

The same generation runs with few and with many layers, and for few and for many tokens; differences say what a step
costs by itself, and what each layer adds to it. Counts do not depend on the machine. Prints Markdown.

    python scripts/count_step.py [--steps 64]
"""

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaConfig, LlamaForCausalLM

import gentrace

FEW, MANY, SHORT = 2, 12, 8
PACKAGE = str(Path(gentrace.__file__).parent)


class Operations(TorchDispatchMode):
    """Counts tensor operations by name."""

    def __init__(self) -> None:
        """Begin at zero."""
        super().__init__()
        self.counted: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count one operation and run it."""
        self.counted[str(func).removesuffix(".default")] += 1
        return func(*args, **(kwargs or {}))


def main() -> None:
    """Count and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=64)
    steps = parser.parse_args().steps
    for title, count in (("Python calls", calls), ("tensor operations", operations)):
        few, many = (more(count, layers, steps) for layers in (FEW, MANY))
        layer = {name: (many[name] - few[name]) / (MANY - FEW) / steps for name in few | many}
        step = {name: few[name] / steps - FEW * layer[name] for name in few | many}
        print(f"| {title} | of a step by itself | of each layer |\n|---|---|---|")
        print(f"| all | {sum(step.values()):.2f} | {sum(layer.values()):.2f} |")
        for name in sorted(layer, key=lambda name: -layer[name] - step[name] / 100):
            if max(layer[name], step[name]) >= 0.05:
                print(f"| `{name}` | {step[name]:.2f} | {layer[name]:.2f} |")
        print()


def more(count: Any, layers: int, steps: int) -> Counter[str]:
    """What that many more steps add."""
    long, short = count(layers, SHORT + steps), count(layers, SHORT)
    return Counter({name: long[name] - short[name] for name in long | short})


def generate(layers: int, new: int, *, recorded: bool) -> None:
    """A generation of a small model."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=1024, num_hidden_layers=layers, **sizes)).eval()
    ids = torch.arange(4)[None]
    options = {"max_new_tokens": new, "min_new_tokens": new, "do_sample": False, "attention_mask": torch.ones_like(ids)}
    if recorded:
        with gentrace.record(model):
            model.generate(ids, **options)
    else:
        model.generate(ids, **options)


def calls(layers: int, new: int) -> Counter[str]:
    """Calls of gentrace's own functions."""
    counted: Counter[str] = Counter()

    def profile(frame: Any, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(PACKAGE):
            counted[frame.f_code.co_qualname] += 1

    sys.setprofile(profile)
    try:
        generate(layers, new, recorded=True)
    finally:
        sys.setprofile(None)
    return counted


def operations(layers: int, new: int) -> Counter[str]:
    """Tensor operations that recording adds."""
    found = []
    for recorded in (True, False):
        with Operations() as counting:
            generate(layers, new, recorded=recorded)
        found.append(counting.counted)
    return Counter({name: found[0][name] - found[1][name] for name in found[0] | found[1]})


if __name__ == "__main__":
    main()
