"""What recording costs: the same generation with and without it, in turn, in one process.

Every round runs plain, recorded, plain, and compares the recorded run with the mean of its two neighbours, so that a
machine that slows down or speeds up meanwhile does not show. Prints Markdown; exits with an error if a median passes
the limit.

    python scripts/bench_overhead.py [--model smollm2] [--settings 96+64,768+32] [--rounds 7] [--limit 1.05]
"""

import argparse
import platform
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

import gentrace
from gentrace.demo import load


def main() -> int:
    """Measure each setting and print a table."""
    arguments = read_arguments()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    model, _ = load(arguments.model)
    model.set_attn_implementation(arguments.kernel)
    print(f"{arguments.model}, {arguments.kernel}, {platform.machine()}, {torch.get_num_threads()} threads, ", end="")
    print(f"torch {torch.__version__}, {arguments.rounds} rounds; ratio of recorded to plain generation\n")
    print("| prompt + new | median wall | spread | median CPU | plain, s | bytes kept | largest error |")
    print("|---|---|---|---|---|---|---|")
    worst = 0.0
    for setting in arguments.settings.split(","):
        prompt, new = (int(part) for part in setting.split("+"))
        worst = max(worst, measure(model, prompt, new, arguments.batch, arguments.rounds))
    return int(worst > arguments.limit)


def read_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--kernel", default="sdpa")
    parser.add_argument("--settings", default="96+64,768+32")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--limit", type=float, default=1.05)
    return parser.parse_args()


def measure(model: Any, prompt: int, new: int, batch: int, rounds: int) -> float:
    """Print one line of the table and return its median ratio."""
    ids = torch.randint(100, model.config.vocab_size, (batch, prompt), generator=torch.Generator().manual_seed(0))
    options = {"attention_mask": torch.ones_like(ids), "max_new_tokens": new, "min_new_tokens": new, "do_sample": False}
    recorders: list[Any] = []

    def plain() -> None:
        model.generate(ids, **options)

    def recorded() -> None:
        with gentrace.record(model) as recorder:
            model.generate(ids, **options)
        recorders[:] = [recorder]

    plain()
    recorded()
    walls, cpus, plains = [], [], []
    for _ in range(rounds):
        before, between, after = timed(plain), timed(recorded), timed(plain)
        walls.append(2 * between[0] / (before[0] + after[0]))
        cpus.append(2 * between[1] / (before[1] + after[1]))
        plains.append((before[0] + after[0]) / 2)
    traces = recorders[0].traces
    kept = sum(trace.store.tensor(name).nbytes for trace in traces for name in trace.store.names())
    error = max(trace.fidelity.error for trace in traces)
    ratio = statistics.median(walls)
    spread = f"{min(walls):.3f} … {max(walls):.3f}"
    print(f"| {prompt} + {new} | {ratio:.3f} | {spread} | {statistics.median(cpus):.3f} ", end="")
    print(f"| {statistics.median(plains):.2f} | {kept / 1e6:.1f} MB | {error:.1e} |", flush=True)
    return ratio


def timed(work: Callable[[], None]) -> tuple[float, float]:
    """Wall and process CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


if __name__ == "__main__":
    sys.exit(main())
