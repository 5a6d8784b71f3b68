"""How cost grows: the exponents of time and bytes in length, layers, heads and batch, beside those expected.

Small random Llama-type models are recorded, one size growing at a time, and a straight line is put through the
logarithms by least squares. Its slope is the exponent: 1 where doubling the size doubles the cost, 0 where size does
not matter. Three costs:

- bytes: everything that the traces hold (queries, keys, the prompt's hidden states, tokens);
- a step: seconds that recording adds to a decoding step, from pairs of plain and recorded generations in turn, the
  prompt's own forward left out;
- one head: seconds until the ``[query, key]`` weights of one head are derived.

Prints Markdown; exits with 1 if bytes do not grow as expected. Times are CPU seconds of one thread (on CUDA: seconds
with the device awaited), with an interval from drawing the rounds again; they do not fail the run, since they depend on
what else the machine does.

    python scripts/bench_scale.py [--lengths 512,1024,2048,4096] [--layers 2,4,8,16] [--heads 2,4,8,16]
        [--batch 1,2,4,8] [--rounds 9] [--steps 24] [--device cuda]
"""

import argparse
import math
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

# In place of this folder, which holds a coverage.py that other packages would take for theirs.
sys.path[0] = str(Path(__file__).resolve().parents[1])

import gentrace  # noqa: E402
from scripts.bench_parts import bytes_held, clock_of, machine, table_line  # noqa: E402

HEAD_DIM = 32
EXPECTED: dict[str, dict[str, tuple[float, float]]] = {
    "bytes": {"length": (1, 1), "layers": (1, 1), "heads": (1, 1), "batch": (1, 1)},
    "a step": {"length": (0, 0), "layers": (1, 1), "heads": (0, 1), "batch": (0, 1)},
    "one head": {"length": (2, 2), "layers": (0, 0), "heads": (0, 0), "batch": (0, 0)},
}
"""The least and the largest exponent expected; between them where a fixed cost per call hides a growing one."""
SLACK = 0.15
"""How far the exponent of bytes may be off: every trace holds some bytes that do not grow."""
UNSURE = 0.5
"""Exponents of time with a wider interval on either side are not judged."""
DRAWS = 400
"""How often the rounds are drawn again for an interval."""


@dataclass(frozen=True)
class Size:
    """What grows."""

    length: int
    """Tokens of the prompt."""
    layers: int
    heads: int
    batch: int


@dataclass
class Costs:
    """What one size cost, a number a round."""

    bytes: list[float] = field(default_factory=list[float])
    step: list[float] = field(default_factory=list[float])
    """Seconds that recording adds to a decoding step; may be negative by noise."""
    head: list[float] = field(default_factory=list[float])
    """Seconds to derive one head."""

    def all(self, what: str) -> list[float]:
        """A cost by its name in `EXPECTED`."""
        return {"bytes": self.bytes, "a step": self.step, "one head": self.head}[what]

    def of(self, what: str) -> float:
        """Its median."""
        return statistics.median(self.all(what))


@dataclass(frozen=True)
class Fit:
    """A straight line through logarithms."""

    exponent: float
    r_squared: float
    """The share of the logarithms' variance that lies on the line: low where the exponent is 0."""


class Steps:
    """A stopping criterion that never stops and notes when each step ended."""

    def __init__(self, device: str) -> None:
        """Nothing noted yet."""
        self.times: list[float] = []
        self._cuda = torch.device(device).type == "cuda"
        self._now = time.perf_counter if self._cuda else time.process_time

    def __call__(self, ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """Called by generate after each token."""
        if self._cuda:
            torch.cuda.synchronize()
        self.times.append(self._now())
        return torch.zeros(ids.shape[0], dtype=torch.bool, device=ids.device)

    def mean(self) -> float:
        """Seconds a step, without the first, which reads the prompt."""
        return (self.times[-1] - self.times[0]) / (len(self.times) - 1)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, fit and print; 1 if bytes grow otherwise than expected."""
    options = read_arguments(arguments)
    torch.set_num_threads(options.threads)
    print(f"# How cost grows\n\n{machine(options.device)}; {options.rounds} rounds, {options.steps} steps\n")
    found: dict[Size, Costs] = {}
    series = {name: list(sizes_of(options, name)) for name in EXPECTED["bytes"]}
    for size in dict.fromkeys(size for sizes in series.values() for size in sizes):
        found[size] = measure(size, options)
    wrong = print_exponents(series, found)
    print_measured(series, found)
    if wrong:
        print(f"\nBytes do not grow as expected with: {', '.join(wrong)}.")
    return int(bool(wrong))


def read_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", default="512,1024,2048,4096", dest="length")
    parser.add_argument("--layers", default="2,4,8,16")
    parser.add_argument("--heads", default="2,4,8,16")
    parser.add_argument("--batch", default="1,2,4,8")
    parser.add_argument("--base", default="512,4,4,1", help="the other sizes while one grows, in this order")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    for name in ("length", "layers", "heads", "batch", "base"):
        numbers = [int(part) for part in getattr(options, name).split(",")]
        if name != "base" and len({*numbers}) < 2:
            parser.error(f"--{name}: a line needs two sizes")
        setattr(options, name, numbers)
    return options


def sizes_of(options: argparse.Namespace, name: str) -> Iterator[Size]:
    """The sizes that differ in one thing."""
    base = Size(*options.base)
    return (replace(base, **{name: number}) for number in getattr(options, name))


def model_of(size: Size, steps: int, device: str) -> Any:
    """A random model; heads grow at a fixed width of each."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=256,
        hidden_size=HEAD_DIM * size.heads,
        intermediate_size=2 * HEAD_DIM * size.heads,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads,
        max_position_embeddings=size.length + steps + 1,
        eos_token_id=None,
        pad_token_id=0,
    )
    model: Any = LlamaForCausalLM(config).eval()
    return model.to(device)


def measure(size: Size, options: argparse.Namespace) -> Costs:
    """Generate plainly and recorded in turn."""
    model = model_of(size, options.steps, options.device)
    ids = torch.randint(1, 256, (size.batch, size.length), device=options.device)
    timed, costs = clock_of(options.device), Costs()

    def plain() -> float:
        steps = Steps(options.device)
        model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=options.steps + 1,
            do_sample=False,
            stopping_criteria=[steps],
        )
        return steps.mean()

    def recorded() -> tuple[float, Any]:
        with gentrace.record(model) as recorder:
            mean = plain()
        return mean, recorder.traces

    recorded()
    before = timed(plain)[2]
    for _ in range(options.rounds):
        (mean, traces), after = timed(recorded)[2], timed(plain)[2]
        costs.step.append(mean - (before + after) / 2)
        before = after
        wall, cpu, _ = timed(partial(traces[0].attention, size.layers // 2, size.heads - 1))
        costs.head.append(wall if ids.is_cuda else cpu)
        costs.bytes.append(bytes_held(traces, model.parameters()))
    return costs


def fit(sizes: Sequence[float], costs: Sequence[float]) -> Fit | None:
    """The exponent by least squares on logarithms; None if fewer than two costs are positive."""
    points = [(math.log(size), math.log(cost)) for size, cost in zip(sizes, costs, strict=True) if cost > 0]
    if len(points) < 2:
        return None
    x, y = np.array(points).T
    design = np.stack([x, np.ones_like(x)], axis=1)
    solved, *_ = np.linalg.lstsq(design, y, rcond=None)
    left = float(((y - design @ solved) ** 2).sum())
    whole = float(((y - y.mean()) ** 2).sum())
    return Fit(float(solved[0]), 1 - left / whole if whole else 1.0)


def interval(sizes: Sequence[float], rounds: Sequence[Sequence[float]]) -> float:
    """Half the width of the exponent's 95 % interval when the rounds of every size are drawn again, by bootstrap."""
    random = np.random.default_rng(0)
    exponents: list[float] = []
    for _ in range(DRAWS):
        line = fit(sizes, [float(np.median(random.choice(some, len(some)))) for some in rounds])
        if line is not None:
            exponents.append(line.exponent)
    if not exponents:
        return math.inf
    low, high = np.quantile(exponents, [0.025, 0.975])
    return float(high - low) / 2


def print_exponents(series: dict[str, list[Size]], found: dict[Size, Costs]) -> list[str]:
    """The table of exponents; the sizes with which bytes grow otherwise than expected."""
    heads = ("cost", "grows with", "exponent", "95 % ±", "R²", "expected", "verdict")
    print(f"{table_line(heads)}\n{table_line('---' for _ in heads)}")
    wrong: list[str] = []
    for what, name, (least, most) in [(cost, *pair) for cost, pairs in EXPECTED.items() for pair in pairs.items()]:
        wanted = f"{least:g}" if least == most else f"{least:g} … {most:g}"
        numbers = [getattr(size, name) for size in series[name]]
        line = fit(numbers, [found[size].of(what) for size in series[name]])
        error = interval(numbers, [found[size].all(what) for size in series[name]])
        if line is None:
            print(table_line([what, name, "—", "—", "—", wanted, "lost in the noise"]))
            continue
        outside = max(least - line.exponent, line.exponent - most) > SLACK + error
        if what == "bytes" and outside:
            wrong.append(name)
        verdict = "too noisy to say" if error > UNSURE else "otherwise" if outside else "as expected"
        figures = [f"{value:.2f}" for value in (line.exponent, error, line.r_squared)]
        print(table_line([what, name, *figures, wanted, verdict]))
    return wrong


def print_measured(series: dict[str, list[Size]], found: dict[Size, Costs]) -> None:
    """The medians that the lines went through."""
    heads = ("grows", "length", "layers", "heads", "batch", "bytes", "a step, µs", "one head, ms")
    print(f"\n{table_line(heads)}\n{table_line('---' for _ in heads)}")
    for name, sizes in series.items():
        for size in sizes:
            costs = found[size]
            numbers = [str(number) for number in (size.length, size.layers, size.heads, size.batch)]
            times = [f"{costs.of('a step') * 1e6:.0f}", f"{costs.of('one head') * 1e3:.2f}"]
            print(table_line([name, *numbers, f"{costs.of('bytes'):,.0f}", *times]))


if __name__ == "__main__":
    sys.exit(main())
