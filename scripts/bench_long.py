"""A prompt of 32,768 tokens: what recording it takes, and how soon any part of it is in hand.

A small random model of the Llama type reads the prompt and writes a few tokens, in a process of its own each time:
without recording, recorded in memory, and recorded to disk. Then the file is opened in a process whose address space is
limited, and one row, a window of 200 × 200 and an overview of 512 × 512 of one head are read. Prints Markdown.

    python scripts/bench_long.py [--length 32768] [--layers 4] [--limit 3.0]
"""

import argparse
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

MATRIX = 4


def main() -> int:
    """Measure each way in a process of its own and print the tables."""
    arguments = read_arguments()
    if arguments.child:
        print(json.dumps(CHILDREN[arguments.child](arguments)))
        return 0
    length = arguments.length
    print(f"{length:,} tokens, {arguments.layers} layers, 8 heads of 32, 4 of keys, {platform.machine()}, ", end="")
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}\n")
    with tempfile.TemporaryDirectory() as folder:
        print("| | seconds | peak memory | above plain | file |\n|---|---|---|---|---|")
        plain = run("plain", arguments, folder)
        for name in ("plain", "memory", "disk"):
            found = plain if name == "plain" else run(name, arguments, folder)
            peak = found["peak"]
            above = "" if name == "plain" else f"{(peak - plain['peak']) / 1e6:.0f} MB"
            size = f"{found['file'] / 1e6:.0f} MB" if found["file"] else ""
            print(f"| {NAMES[name]} | {found['seconds']:.1f} | {peak / 1e6:.0f} MB | {above} | {size} |", flush=True)
        found = run("read", arguments, folder)
    matrix = MATRIX * length**2 / 1e9
    print(f"\nOpened with at most {arguments.limit} GB of address space; one matrix is {matrix:.1f} GB.\n")
    print("| of one head | seconds | median of |\n|---|---|---|")
    for name, seconds in found["seconds"].items():
        print(f"| {name} | {seconds:.3f} | 5 |")
    return int(max(found["seconds"].values()) > 2.0)


def read_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", type=int, default=32_768)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--new", type=int, default=8)
    parser.add_argument("--limit", type=float, default=3.0, help="GB of address space for reading")
    parser.add_argument("--child", choices=sorted(CHILDREN), help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    return parser.parse_args()


def run(name: str, arguments: argparse.Namespace, folder: str) -> dict[str, Any]:
    """Run one way in a process of its own."""
    options = ["--child", name, "--folder", folder, "--length", str(arguments.length), "--new", str(arguments.new)]
    options += ["--layers", str(arguments.layers), "--limit", str(arguments.limit)]
    done = subprocess.run([sys.executable, __file__, *options], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def write(arguments: argparse.Namespace, **options: Any) -> dict[str, Any]:
    """Generate, recorded with these options or, without any, not at all."""
    from transformers import LlamaConfig, LlamaForCausalLM

    import gentrace

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=4096,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=arguments.layers,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=arguments.length + arguments.new,
    )
    model = LlamaForCausalLM(config).eval()
    ids = torch.randint(4096, (1, arguments.length))
    settings = {"max_new_tokens": arguments.new, "min_new_tokens": arguments.new, "do_sample": False}
    start = time.perf_counter()
    if options:
        with gentrace.record(model, **options) as recorder:
            model.generate(ids, attention_mask=torch.ones_like(ids), **settings)
        seconds = time.perf_counter() - start
        trace = recorder.trace
        assert trace.length == arguments.length + arguments.new - 1
        assert trace.fidelity.error < 1e-4
    else:
        model.generate(ids, attention_mask=torch.ones_like(ids), **settings)
        seconds = time.perf_counter() - start
    files = sum(path.stat().st_blocks * 512 for path in Path(arguments.folder).glob("*.safetensors"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": seconds, "peak": peak, "file": files if "spill_dir" in options else 0}


def read(arguments: argparse.Namespace) -> dict[str, Any]:
    """Open the file with little memory and read parts of one head."""
    import gentrace

    torch.zeros(1).softmax(0)
    limit = int(arguments.limit * 1e9)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    (path,) = Path(arguments.folder).glob("*.safetensors")
    trace = gentrace.load(path)
    middle = arguments.length // 2
    layer = arguments.layers // 2
    parts = {
        "row": lambda: trace.attention(layer, 3, queries=slice(middle, middle + 1)),
        "row, term by term": lambda: trace.score_terms(layer, 3, middle),
        "200 × 200 window": lambda: trace.attention(
            layer, 3, queries=slice(-200, None), keys=slice(middle, middle + 200)
        ),
        "512 × 512 overview": lambda: trace.overview(layer, 3, 512),
    }
    return {"seconds": {name: median_seconds(part) for name, part in parts.items()}}


def median_seconds(work: Any, rounds: int = 5) -> float:
    """The median time of some rounds."""
    found = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        found.append(time.perf_counter() - start)
    return sorted(found)[rounds // 2]


NAMES = {"plain": "not recorded", "memory": "recorded in memory", "disk": "recorded to disk"}
CHILDREN: dict[str, Any] = {
    "plain": lambda arguments: write(arguments),
    "memory": lambda arguments: write(arguments, verify=True),
    "disk": lambda arguments: write(arguments, spill_dir=arguments.folder),
    "read": read,
}

if __name__ == "__main__":
    sys.exit(main())
