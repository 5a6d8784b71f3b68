"""Records a tiny model of every type that transformers maps and compares each trace with transformers' own attention.

    python scripts/coverage.py [--task causal] [--type llama --type gpt2] [--jobs 2] [--markdown COVERAGE.md]

That a hook was called says little: a layer may be missing, a mask misread, a row may stand in the wrong place. So every
type is built, run and compared, and the outcomes are kept in ``tests/zoo/expected.json``. Exits with 1 if any type got
worse than it is there; ``--update`` rewrites the list.
"""

import argparse
import multiprocessing
import platform
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
import transformers

# In place of this folder, whose name for this file other packages look for.
sys.path[0] = str(Path(__file__).resolve().parents[1])

import gentrace  # noqa: E402
from tests.zoo import TASKS, types  # noqa: E402
from tests.zoo.compare import Setting, Verdict, verdicts  # noqa: E402
from tests.zoo.report import EXPECTED, load, markdown, save, summary, worse  # noqa: E402


def main(arguments: Sequence[str]) -> int:
    options = parse(arguments)
    setting = Setting(options.length, options.new, options.seed, options.seconds)
    cases = [(task, name, setting) for task in options.task or TASKS for name in types(task)]
    unknown = sorted(set(options.type or ()) - {name for _, name, _ in cases})
    if unknown:
        raise SystemExit(f"no such type: {', '.join(unknown)}")
    found: list[Verdict] = []
    for some in run([case for case in cases if not options.type or case[1] in options.type], options.jobs):
        for verdict in some:
            print(verdict.line(), flush=True)
        found += some
    print(summary(found))
    if options.markdown is not None:
        versions = {module.__name__: module.__version__ for module in (gentrace, transformers, torch)}
        versions["Python"] = platform.python_version()
        command = " ".join(["python scripts/coverage.py", *arguments])
        options.markdown.write_text(markdown(found, versions, command))
    if options.update:
        save(options.expect, found)
        return 0
    fallen = worse(found, load(options.expect))
    for line in fallen:
        print(f"worse: {line}")
    return 1 if fallen else 0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    usual = Setting()
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--task", action="append", choices=TASKS, help="only this task; may be repeated")
    parser.add_argument("--type", action="append", help="only this type; may be repeated")
    parser.add_argument("--seed", type=int, default=usual.seed, help="of weights and prompts")
    parser.add_argument("--length", type=int, default=usual.length, help="tokens of a prompt")
    parser.add_argument("--new", type=int, default=usual.new, help="tokens to generate")
    parser.add_argument("--seconds", type=int, default=usual.seconds, help="that a type may take with one kernel")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--markdown", type=Path, help="write a report here")
    parser.add_argument("--expect", type=Path, default=EXPECTED, help="the list of outcomes to compare with")
    parser.add_argument("--update", action="store_true", help="rewrite that list instead")
    return parser.parse_args(arguments)


def run(cases: Sequence[tuple[str, str, Setting]], jobs: int) -> Iterator[list[Verdict]]:
    if jobs == 1:
        quieten()
        yield from map(judge, cases)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, initializer=quieten) as pool:
        yield from pool.map(judge, cases)


def quieten() -> None:
    """One thread, since the models are tiny, and no advice."""
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()


def judge(case: tuple[str, str, Setting]) -> list[Verdict]:
    return verdicts(*case)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
