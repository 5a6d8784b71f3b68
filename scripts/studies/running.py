"""What the three studies share: their options, the way from a specification to an open study, and figures in words.

A study's script says what to ask and what to make of the answer; generating, resuming and tables are the runner's.
"""

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scipy.stats import binomtest

import gentrace
from gentrace.studies import Study, parse_spec, run_study
from gentrace.views.study_tables import number


@dataclass(frozen=True)
class Options:
    """What the command line asked for."""

    model: str
    out: Path
    report: Path | None
    quick: bool
    threads: int | None


def options(name: str, description: str, arguments: list[str] | None) -> Options:
    """Read the options of a study's script."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--model", default=None, help="smollm2 (default), story (default with --quick), or another")
    parser.add_argument("--out", type=Path, default=Path("studies") / name, help="the study's folder; it is resumed")
    parser.add_argument("--report", type=Path, help="where the report goes (default: report.html in the folder)")
    parser.add_argument("--no-report", action="store_true", help="print the finding only")
    parser.add_argument("--quick", action="store_true", help="a few prompts of the story model, to see it work")
    parser.add_argument("--threads", type=int, help="threads that torch computes with")
    found = parser.parse_args(arguments)
    model = found.model or ("story" if found.quick else "smollm2")
    report = None if found.no_report else found.report or found.out / "report.html"
    return Options(model, found.out, report, found.quick, found.threads)


def study_of(values: dict[str, Any], asked: Options) -> Study:
    """Run a specification, or go on with it, and open what it wrote."""
    start = time.monotonic()
    spec = parse_spec({"models": asked.model, "threads": asked.threads} | values)
    summary = run_study(spec, asked.out, progress=sys.stderr.isatty(), say=lambda line: print(line, file=sys.stderr))
    if not summary.ok:
        print(f"{summary.failed} generations failed; see open_study({str(asked.out)!r}).failures()")
    print(f"{summary.generations} generations, {summary.new_tokens} new tokens, {time.monotonic() - start:.0f} s")
    return gentrace.open_study(asked.out)


def share(count: int, total: int) -> str:
    """A count of a total, with the 95 % interval of the share: Clopper & Pearson 1934, by SciPy."""
    if not total:
        return "0 of 0"
    ends = binomtest(count, total).proportion_ci(method="exact")
    return f"{count} of {total} ({count / total:.0%}, 95 % interval {ends.low:.0%} … {ends.high:.0%})"


def interval(value: float, low: float, high: float, unit: str = "") -> str:
    """A figure with its interval."""
    return f"{number(value)}{f' {unit}' if unit else ''} [{number(low)} … {number(high)}]"
