"""What recording costs, step by step: two generations at once that take turns at every token, one of them recorded.

On a machine that others use too, two generations of four seconds may differ by a tenth for no reason. Steps that follow
each other by milliseconds differ less, and there are many of them. So two copies of a model that share their weights
generate the same text in two threads, and never at the same time: at each token one waits for the other. For each step
the median over all rounds is taken, recorded and plain, and the sums of these medians are compared. How far two plain
generations seem to differ in the same way, `--blank` says. Prints Markdown; exits with 1 if a ratio passes the limit.

    python scripts/bench_steps.py [--model smollm2,story] [--settings 96+64,768+32,1500+32] [--batch 1,4]
        [--kernels sdpa,eager] [--rounds 8] [--seconds 60] [--limit 1.03] [--blank]

While anything is recorded, a look-up in the attention registry takes a microsecond longer for every model; here the
plain steps pay for that as well. `scripts/bench_overhead.py`, which alternates whole generations, has no such leak.
"""

import argparse
import contextlib
import copy
import gc
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

# In place of this folder, which holds a coverage.py that other packages would take for theirs.
sys.path[0] = str(Path(__file__).resolve().parents[1])

import gentrace  # noqa: E402
from scripts.bench_overhead import cases_of  # noqa: E402
from scripts.bench_parts import machine, rounds_of, table_line  # noqa: E402

HEAD = (
    "model",
    "kernel",
    "prompt + new",
    "batch",
    "recorded / plain",
    "of a step",
    "begin and end, ms",
    "plain, ms",
    "rounds",
)


class Turns:
    """Two threads that never work at the same time."""

    def __init__(self, first: str, second: str) -> None:
        """Begin with the first one's turn."""
        self._changed = threading.Condition()
        self._turn: str | None = first
        self._other = {first: second, second: first}
        self._ended: set[str] = set()

    def wait(self, name: str) -> None:
        """Wait for one's turn."""
        with self._changed:
            self._changed.wait_for(lambda: self._turn == name)

    def over(self, name: str, *, ended: bool = False) -> None:
        """One's turn is over; or it was the last one."""
        with self._changed:
            self._ended |= {name} if ended else set()
            other = self._other[name]
            self._turn = name if other in self._ended else other
            self._changed.notify_all()


class Baton(LogitsProcessor):
    """Changes no scores; notes how long a turn took, hands over, and waits for the next one."""

    def __init__(self, turns: Turns, name: str) -> None:
        """Begin to wait, and then the clock."""
        self.seconds: list[float] = []
        self._turns, self._name = turns, name
        turns.wait(name)
        self._began = time.perf_counter()

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """A step's scores are there."""
        self.seconds.append(time.perf_counter() - self._began)
        self._turns.over(self._name)
        self._turns.wait(self._name)
        self._began = time.perf_counter()
        return scores

    def end(self) -> None:
        """The last turn ends."""
        self.seconds.append(time.perf_counter() - self._began)
        self._turns.over(self._name, ended=True)


@dataclass
class Round:
    """What both took."""

    plain: list[float]
    """[turn] seconds: up to the first token's scores, then a step each, then what comes after the last one's."""
    recorded: list[float]
    """[turn] the same."""


class Pair:
    """A model that is not recorded, a copy of it that is, and a thread for each, since threads are slow to warm."""

    def __init__(self, model: Any, recorded: Callable[[Any], AbstractContextManager[Any]] = gentrace.record) -> None:
        """Copy the model; the copy holds the same weights, and is recorded by what is given."""
        self.recorded = recorded
        weights = [*model.parameters(), *model.buffers()]
        self.models = {"plain": model, "recorded": copy.deepcopy(model, {id(weight): weight for weight in weights})}
        self.threads = {name: ThreadPoolExecutor(1) for name in self.models}


def one_round(pair: Pair, ids: Tensor, new: int, first: str) -> Round:
    """Generate with both in turn.

    Raises:
        RuntimeError: If the two wrote different texts.
    """
    order = ("plain", "recorded") if first == "plain" else ("recorded", "plain")
    turns, batons, texts = Turns(*order), dict[str, Baton](), dict[str, Tensor]()

    def work(name: str, model: Any) -> None:
        baton = batons[name] = Baton(turns, name)
        more: dict[str, Any] = {"max_new_tokens": new, "min_new_tokens": new, "do_sample": False, "pad_token_id": 0}
        more |= {"attention_mask": torch.ones_like(ids), "logits_processor": LogitsProcessorList([baton])}
        try:
            if name == "recorded":
                with pair.recorded(model):
                    texts[name] = model.generate(ids, **more)
            else:
                texts[name] = model.generate(ids, **more)
        finally:
            baton.end()

    gc.collect()
    running = [pair.threads[name].submit(work, name, model) for name, model in pair.models.items()]
    for each in running:
        each.result()
    if not torch.equal(texts["plain"], texts["recorded"]):
        raise RuntimeError("the recorded generation wrote another text than the plain one")
    return Round(batons["plain"].seconds, batons["recorded"].seconds)


def medians(rounds: Sequence[list[float]]) -> list[float]:
    """[turn] the median over rounds."""
    return [statistics.median(turn) for turn in zip(*rounds, strict=True)]


def figures(rounds: Sequence[Round]) -> tuple[float, float, float, float]:
    """Ratio of the whole; ratio of a step; milliseconds that begin and end take longer; milliseconds of plain."""
    plain, recorded = medians([each.plain for each in rounds]), medians([each.recorded for each in rounds])
    steps = sum(recorded[1:-1]) / sum(plain[1:-1])
    ends = recorded[0] - plain[0] + recorded[-1] - plain[-1]
    return sum(recorded) / sum(plain), steps, ends * 1e3, sum(plain) * 1e3


def measure(
    pair: Pair, ids: Tensor, new: int, least: int, seconds: float, play: Callable[..., Round] = one_round
) -> list[Round]:
    """Rounds, after two that do not count, in which either begins in turn."""
    for first in pair.models:
        play(pair, ids, new, first)
    order = ("plain", "recorded")
    return [play(pair, ids, new, order[number % 2]) for number in rounds_of(least, seconds)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a row for each setting; 1 if one passed the limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2", help="demo models, folders or Hugging Face names")
    parser.add_argument("--settings", default="96+64,768+32,1500+32", help="prompt + new tokens")
    parser.add_argument("--batch", default="1")
    parser.add_argument("--kernels", default="sdpa", help="of sdpa, eager")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=60.0, help="more rounds, if they take less than this")
    parser.add_argument("--limit", type=float, default=1.03)
    parser.add_argument("--blank", action="store_true", help="record nothing, to see what is noise")
    options = parser.parse_args(arguments)
    print(f"# What recording costs, step by step\n\n{machine('cpu')}\n")
    print(f"{table_line(HEAD)}\n{table_line('---' for _ in HEAD)}", flush=True)
    worst = 0.0
    for name, case in cases_of(options):
        pair = Pair(case.model, contextlib.nullcontext) if options.blank else Pair(case.model)
        rounds = measure(pair, case.ids, case.new, options.rounds, options.seconds)
        whole, step, ends, plain = figures(rounds)
        cells = [*name, f"{whole:.3f}", f"{step:.3f}", f"{ends:.1f}", f"{plain:.0f}"]
        print(table_line([*cells, str(len(rounds))]), flush=True)
        worst = max(worst, whole)
    # Nothing measured is no pass.
    passed = 0 < worst <= options.limit
    print(f"\nLargest ratio: {worst:.3f}, {'within' if passed else 'OVER'} the limit of {options.limit:.2f}.")
    return int(not passed)


if __name__ == "__main__":
    sys.exit(main())
