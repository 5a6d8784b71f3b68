"""What recording costs, beside other ways to see attention: the same generation, in turn, in one process.

Every round runs plain, one way, plain, the next way, plain … and compares each with the mean of its two plain
neighbours, so that a machine that slows down or speeds up meanwhile does not show. Recordings are compared with plain
generation under the same kernel, peers with plain generation under sdpa. Memory is measured in a fresh process for each
way. Prints Markdown; exits with 1 if the median of a recording passes the limit.

    python scripts/bench_overhead.py [--model smollm2,story] [--settings 96+64,768+32,1500+32] [--batch 1,4]
        [--kernels sdpa,eager,static] [--peers hf,lens,nnsight] [--rounds 7] [--seconds 30] [--limit 1.03]
        [--device cuda]
    python scripts/bench_overhead.py --quick
    python scripts/bench_overhead.py --make-env FOLDER      # the peers' environment; then run with its Python

"static" is sdpa with a static cache and generate's own compilation of the decoding step; graphs are compiled before
the clock starts.
"""

import argparse
import importlib
import itertools
import json
import math
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

# In place of this folder, which holds a coverage.py that other packages would take for theirs.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from gentrace.demo import load  # noqa: E402
from scripts.bench_parts import (  # noqa: E402
    Pairs,
    PeakMemory,
    bytes_held,
    clock_of,
    interleaved,
    machine,
    table_line,
)
from scripts.peers import environment, recording  # noqa: E402
from scripts.peers.case import Case, Refused, Variant, short  # noqa: E402

PEERS = {"hf": "eager", "lens": "lens", "nnsight": "tracing"}
FIGURES = (
    "wall, median",
    "95 % of the median",
    "spread",
    "rounds",
    "CPU, median",
    "plain, s",
    "kept",
    "peak above plain",
    "one head's matrix, s",
)
HEAD = ("prompt + new", "batch", "what", *FIGURES, "note")
QUICK: dict[str, Any] = {"model": "story", "settings": "24+8", "rounds": 2, "seconds": 0.0, "limit": math.inf}
SAME = 1e-4
"""How far another way's matrix may be from the recorded one before the table says so."""


@dataclass(frozen=True)
class Setting:
    """One group of rows."""

    prompt: int
    new: int
    batch: int


@dataclass
class Prepared:
    """A variant that has run once."""

    variant: Variant
    kept: int
    """Bytes held afterwards."""
    notes: list[str]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure every setting; 1 if a recording failed or passed the limit."""
    options = read_arguments(arguments)
    if options.make_env:
        print(environment.make(Path(options.make_env)))
        return 0
    if options.threads:
        torch.set_num_threads(options.threads)
    torch._dynamo.config.recompile_limit = 64  # a graph for each way and setting
    if options.child:
        print(json.dumps(memory_of(options)))
        return 0
    packages = ("transformer-lens", "nnsight") if options.peers else ()
    print(f"# What recording costs\n\n{machine(options.device, packages)}; {options.rounds} rounds or more\n")
    medians: list[float] = []
    for name in options.model:
        for kernel in options.kernels:
            medians += section(options, name, kernel)
    # Nothing measured is no pass.
    worst = max(medians, default=math.inf)
    passed = bool(medians) and worst <= options.limit
    verdict = "within" if passed else "OVER"
    print(f"Largest median of a recording: {worst:.3f}, {verdict} the limit of {options.limit:.2f}.")
    return int(not passed)


def read_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line; lists arrive separated by commas."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2", help="demo models, folders or Hugging Face names")
    parser.add_argument("--settings", default="96+64,768+32,1500+32", help="prompt + new tokens")
    parser.add_argument("--batch", default="1")
    parser.add_argument("--kernels", default="sdpa", help="of sdpa, eager, static")
    parser.add_argument("--variants", default="all", help=f"all, or of {','.join(recording.NAMES)}")
    parser.add_argument("--peers", default="none", help=f"none, all, or of {','.join(PEERS)}; only beside sdpa")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=30.0, help="more rounds, if they take less than this")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--limit", type=float, default=1.03)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--no-memory", action="store_true", help="leave out the processes that measure memory")
    parser.add_argument("--quick", action="store_true", help="a small model and two rounds, without a limit")
    parser.add_argument("--make-env", metavar="FOLDER", help="make the peers' environment and stop")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--child-source", default="", help=argparse.SUPPRESS)
    parser.add_argument("--child-setting", type=int, nargs=3, help=argparse.SUPPRESS)
    if parser.parse_args(arguments).quick:
        parser.set_defaults(**QUICK)
    options = parser.parse_args(arguments)
    for name in ("model", "settings", "batch", "kernels", "variants", "peers"):
        setattr(options, name, getattr(options, name).split(","))
    options.variants = recording.NAMES if options.variants == ["all"] else options.variants
    named: dict[str, list[str]] = {"none": [], "all": list(PEERS)}
    options.peers = named.get(options.peers[0], options.peers)
    wrong = {*options.peers} - {*PEERS} | {*options.variants} - {*recording.NAMES}
    wrong |= {*options.kernels} - {"sdpa", "eager", "static"}
    if wrong:
        parser.error(f"unknown: {', '.join(sorted(wrong))}")
    return options


def section(options: argparse.Namespace, name: str, kernel: str) -> list[float]:
    """Print the table of one model under one kernel; the recordings' medians."""
    print(f"## {name}, {kernel}\n\n{table_line(HEAD)}\n{table_line('---' for _ in HEAD)}", flush=True)
    model, tokenizer = load(name, device=options.device)
    medians: list[float] = []
    for setting in options.settings:
        for batch in options.batch:
            prompt, new = (int(part) for part in setting.split("+"))
            one = Setting(prompt, new, int(batch))
            torch._dynamo.reset()
            try:
                case = made(name, model, tokenizer, kernel, one)
                reference = case.plain()
            except Exception as error:
                # A machine without a compiler, a text longer than the model: a row says so.
                print(row(one, "plain", [], short(error)), flush=True)
                continue
            medians += rows(options, kernel, one, case, reference)
    print()
    return medians


def made(name: str, model: Any, tokenizer: Any, kernel: str, setting: Setting) -> Case:
    """A random prompt for a model under a kernel.

    Raises:
        ValueError: If the model has fewer positions.
    """
    model.set_attn_implementation("sdpa" if kernel == "static" else kernel)
    most = getattr(model.config, "max_position_embeddings", None) or math.inf
    if setting.prompt + setting.new > most:
        raise ValueError(f"the model has {most} positions")
    random = torch.Generator().manual_seed(0)
    ids = torch.randint(100, model.config.vocab_size, (setting.batch, setting.prompt), generator=random)
    ids = ids.to(model.device)
    options: dict[str, Any] = {"max_new_tokens": setting.new, "min_new_tokens": setting.new, "do_sample": False}
    options["attention_mask"] = torch.ones_like(ids)
    if kernel == "static":
        from transformers import CompileConfig

        config: Any = CompileConfig()
        # By itself generate compiles on accelerators only; this is its own switch for a CPU.
        config._compile_all_devices = True
        options |= {"cache_implementation": "static", "compile_config": config}
    return Case(name, model, tokenizer, ids, setting.new, options)


def cases_of(options: argparse.Namespace) -> Iterator[tuple[list[str], Case]]:
    """Every case that lists of names and numbers ask for, but for texts longer than the model, and what to call it."""
    asked = (getattr(options, name).split(",") for name in ("model", "kernels", "settings", "batch"))
    for name, kernel, setting, batch in itertools.product(*asked):
        prompt, new = (int(part) for part in setting.split("+"))
        try:
            case = made(name, *load(name), kernel, Setting(prompt, new, int(batch)))
        except ValueError:
            continue
        yield [name, kernel, f"{prompt} + {new}", batch], case


def ways(kernel: str, case: Case, variants: Sequence[str], peers: Sequence[str]) -> list[Variant | Refused]:
    """The recordings, and beside sdpa the peers."""
    found: list[Variant | Refused] = [*recording.variants(case, variants)]
    wanted = peers if kernel == "sdpa" else []
    for name in wanted:
        try:
            peer = importlib.import_module(f"scripts.peers.{PEERS[name]}").variants(case)
            found += [replace(way, source=name) for way in peer]
        except Exception as error:
            # Whatever stops a peer (not installed, a model it does not know) is that peer's row.
            found.append(Refused(name, short(error)))
    return found


def rows(options: argparse.Namespace, kernel: str, setting: Setting, case: Case, reference: Tensor) -> list[float]:
    """Print a row for each way; the recordings' medians, infinite where a recording failed."""
    medians: list[float] = []
    ready: list[Prepared] = []
    wanted: Tensor | None = None
    refused: list[Refused] = []
    for way in ways(kernel, case, options.variants, options.peers):
        try:
            if isinstance(way, Refused):
                refused.append(way)
                continue
            prepared, matrix = prepare(case, way, reference, wanted)
            wanted = matrix if wanted is None else wanted
            ready.append(prepared)
        except Exception as error:
            refused.append(Refused(way.name, short(error)))
            if isinstance(way, Variant) and way.judged:
                medians.append(math.inf)
    before = graphs()
    variants = [(each.variant.name, partial(held_after, each.variant), each.variant.matrix) for each in ready]
    found = interleaved(case.plain, variants, options.rounds, clock_of(options.device), options.seconds)
    late = ["compiled again while it was measured"] if graphs() != before else []
    peaks = peaks_above_plain(options, kernel, setting, case.name, [each.variant for each in ready])
    for each in ready:
        cells = measured(each, found[each.variant.name], peaks.get(each.variant.name, "—"))
        print(row(setting, each.variant.name, cells, "; ".join(each.notes + late)), flush=True)
    for way in refused:
        print(row(setting, way.name, [], way.reason), flush=True)
    return medians + [found[each.variant.name].median("wall") for each in ready if each.variant.judged]


def prepare(case: Case, way: Variant, reference: Tensor, wanted: Tensor | None) -> tuple[Prepared, Tensor | None]:
    """Run a way twice before the clock starts, and compare its tokens and its matrix with what they should be."""
    way.run()
    ids, held = way.run()
    notes = [] if torch.equal(ids, reference) else ["other tokens than plain"]
    kept = bytes_held(way.keep(held), case.weights())
    matrix = None if way.matrix is None else way.matrix(held)
    if matrix is not None and wanted is not None and not notes:
        far = float((matrix - wanted).abs().max())
        if not far <= SAME:
            notes.append(f"its matrix differs by {far:.1e}")
    return Prepared(way, kept, notes), matrix


def held_after(way: Variant) -> Any:
    """One run; what is held, without the ids."""
    return way.run()[1]


def graphs() -> int:
    """Graphs compiled so far."""
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


def measured(prepared: Prepared, pairs: Pairs, peak: str) -> list[str]:
    """The cells of a row that hold figures."""
    return [
        f"{pairs.median('wall'):.3f}",
        pairs.certain(),
        pairs.spread(),
        f"{len(pairs.all)}",
        f"{pairs.median('cpu'):.3f}",
        f"{pairs.median('plain'):.2f}",
        f"{prepared.kept / 1e6:.2f} MB",
        peak,
        "—" if prepared.variant.matrix is None else f"{pairs.median('after'):.3f}",
    ]


def row(setting: Setting, name: str, cells: Sequence[str], note: str) -> str:
    """A line of the table; without figures, dashes."""
    figures = list(cells) or ["—"] * len(FIGURES)
    return table_line([f"{setting.prompt} + {setting.new}", str(setting.batch), name, *figures, note])


def peaks_above_plain(
    options: argparse.Namespace, kernel: str, setting: Setting, model: str, ways: Sequence[Variant]
) -> dict[str, str]:
    """For each way, by how much its peak memory passes that of a plain generation; each in a process of its own."""
    if options.no_memory or kernel == "static":
        return {}
    command = [sys.executable, str(Path(__file__).resolve()), "--model", model, "--kernels", kernel, "--device"]
    command += [options.device, "--threads", str(options.threads), "--child-setting"]
    command += [str(setting.prompt), str(setting.new), str(setting.batch)]
    found: dict[str, dict[str, int]] = {}
    for name, source in [("plain", ""), *((way.name, way.source) for way in ways)]:
        done = subprocess.run([*command, "--child", name, "--child-source", source], capture_output=True, text=True)
        if done.returncode == 0:
            found[name] = json.loads(done.stdout.splitlines()[-1])
    plain = found.pop("plain", {})
    return {
        name: " and ".join(f"{(rise[where] - plain[where]) / 1e6:.1f} MB ({where})" for where in rise)
        for name, rise in found.items()
        if plain
    }


def memory_of(options: argparse.Namespace) -> dict[str, int]:
    """How far one generation, and the matrix got from it, lift this process' memory."""
    kernel, source = options.kernels[0], options.child_source
    setting = Setting(*options.child_setting)
    model, tokenizer = load(options.model[0], device=options.device)
    # What is imported, built and allocated at first use does not count: a short generation goes first.
    for size in (Setting(8, 2, setting.batch), setting):
        case = made(options.model[0], model, tokenizer, kernel, size)
        found = ways(kernel, case, [source], [source] if source in PEERS else [])
        way = next((way for way in found if way.name == options.child and isinstance(way, Variant)), None)
        peak = PeakMemory(options.device)
        ids, held = (case.plain(), None) if way is None else way.run()
        matrix = None if way is None or way.matrix is None else way.matrix(held)
        rise = peak.rise()
        del ids, held, matrix
    return rise


if __name__ == "__main__":
    sys.exit(main())
