"""What share of a recorded generation is spent in the recorder's own functions, measured while the model runs.

On a machine that others use too, two generations differ by more than recording costs. Here both sides of the ratio are
of one and the same generation: every function through which the recorder is entered is timed where it stands, with the
caches as cold as the model leaves them, and set against the rest of that generation. What is not seen: how hooks are
called, and whatever recording does to the model's own speed; the clock itself adds some tenths of a microsecond a call.
`scripts/bench_overhead.py` has no such gaps, but more noise. Prints Markdown.

    python scripts/bench_own.py [--model smollm2,story] [--settings 96+64,768+32,1500+32] [--batch 1,4]
        [--kernels sdpa,eager] [--variants defaults,unverified,third,one,tokens] [--rounds 7]
"""

import argparse
import functools
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# In place of this folder, which holds a coverage.py that other packages would take for theirs.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from gentrace.capture.continuing import SteadyPath  # noqa: E402
from gentrace.capture.decoding.generation import Generation  # noqa: E402
from gentrace.capture.recorder import Recorder  # noqa: E402
from gentrace.capture.tracking import Tracker  # noqa: E402
from scripts.bench_overhead import cases_of  # noqa: E402
from scripts.bench_parts import machine, table_line  # noqa: E402
from scripts.peers import recording  # noqa: E402
from scripts.peers.case import Variant  # noqa: E402

ENTRIES: dict[str, list[tuple[Any, str]]] = {
    "begin and end": [
        *((Recorder, name) for name in ("__init__", "__enter__", "__exit__")),
        *((Tracker, name) for name in ("generation_begins", "generation_ends")),
    ],
    "prompt": [(Tracker, name) for name in ("forward_begins", "see_attention", "forward_ends", "recover")],
    "steps": [
        *((SteadyPath, name) for name in ("continues", "following", "continued")),
        *((Generation, name) for name in ("note_scores", "note_verdict")),
    ],
}
"""The functions through which the recorder is entered, by what they belong to."""
HEAD = ("model", "kernel", "prompt + new", "batch", "what", "own / rest", "lowest … highest", *ENTRIES, "whole, ms")


class Clocks:
    """Seconds in functions of several parts; what one of them calls counts once."""

    def __init__(self) -> None:
        """Begin at zero."""
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._inside = False

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, with its time added to a part."""

        @functools.wraps(function)
        def call(*args: Any, **options: Any) -> Any:
            if self._inside:
                return function(*args, **options)
            self._inside = True
            began = time.perf_counter()
            try:
                return function(*args, **options)
            finally:
                self.seconds[part] += time.perf_counter() - began
                self._inside = False

        return call

    @contextmanager
    def watching(self, entries: dict[str, list[tuple[Any, str]]]) -> Generator[None]:
        """Time these functions of classes, until the end of the block."""
        before = [(owner, name, owner.__dict__[name]) for several in entries.values() for owner, name in several]
        try:
            for part, several in entries.items():
                for owner, name in several:
                    setattr(owner, name, self.timed(part, owner.__dict__[name]))
            yield
        finally:
            for owner, name, original in before:
                setattr(owner, name, original)


@dataclass(frozen=True)
class Share:
    """One recorded generation."""

    whole: float
    """Seconds."""
    parts: dict[str, float]
    """Seconds of them in the recorder's own functions."""

    @property
    def ratio(self) -> float:
        """Own time, for one second of the rest."""
        own = sum(self.parts.values())
        return own / (self.whole - own)


def measure(variant: Variant, rounds: int) -> list[Share]:
    """Record a generation again and again, after two times that do not count."""
    shares: list[Share] = []
    for _ in range(rounds + 2):
        clocks = Clocks()
        with clocks.watching(ENTRIES):
            began = time.perf_counter()
            variant.run()
            whole = time.perf_counter() - began
        shares.append(Share(whole, {part: clocks.seconds[part] for part in ENTRIES}))
    return shares[2:]


def cells_of(shares: Sequence[Share]) -> list[str]:
    """What a table says of some generations."""
    ratios = [share.ratio for share in shares]
    parts = [statistics.median(share.parts[part] for share in shares) * 1e3 for part in ENTRIES]
    whole = statistics.median(share.whole for share in shares) * 1e3
    spread = f"{min(ratios):.4f} … {max(ratios):.4f}"
    return [f"{statistics.median(ratios):.4f}", spread, *(f"{part:.1f}" for part in parts), f"{whole:.0f}"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a row for each setting."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2,story", help="demo models, folders or Hugging Face names")
    parser.add_argument("--settings", default="96+64,768+32,1500+32", help="prompt + new tokens")
    parser.add_argument("--batch", default="1,4")
    parser.add_argument("--kernels", default="sdpa,eager", help="of sdpa, eager")
    parser.add_argument("--variants", default="defaults", help=f"of {','.join(recording.NAMES)}")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args(arguments)
    variants = options.variants.split(",")
    if unknown := {*variants} - {*recording.NAMES}:
        parser.error(f"no variants: {', '.join(sorted(unknown))}")
    print(
        f"# What share is the recorder's own\n\n{machine('cpu')}; {options.rounds} rounds; own time in milliseconds\n"
    )
    print(f"{table_line(HEAD)}\n{table_line('---' for _ in HEAD)}", flush=True)
    for name, case in cases_of(options):
        for variant in recording.variants(case, variants):
            print(table_line([*name, variant.name, *cells_of(measure(variant, options.rounds))]), flush=True)


if __name__ == "__main__":
    main()
