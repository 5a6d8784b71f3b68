"""Kill a study with SIGKILL at random moments, many times, and check that nothing finished was lost, changed or torn.

Children of this process run a small study of the story model into one folder after another. Each is killed; the next
goes on. After every kill all sums are checked, and that finished batches stay as they were; at the end of each study
its tables and traces must be those of a run that nobody disturbed, byte for byte.

    python scripts/kill_study.py --kills 100                  SIGKILL after a random time
    python scripts/kill_study.py --kills 100 --mode steps     before the n-th change to the disk, n = 1, 2, 3, …
    python scripts/kill_study.py --kills 20 --workers 2       the same, of a run with worker processes
    python scripts/kill_study.py --kills 20 --ray             the same, of runs on a Ray cluster that outlives them
"""

import argparse
import random
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from gentrace.studies import Engine, PoolEngine, RayEngine
from tests.studies.killing import SPEC, check_ends, rounds
from tests.studies.made import made_spec, run
from tests.studies.nodes import first_node


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="kills in the middle of the work (default 100)")
    parser.add_argument("--mode", choices=("moments", "steps"), default="moments")
    parser.add_argument("--workers", type=int, default=0, help="worker processes; 0 for none")
    parser.add_argument("--ray", action="store_true", help="start a Ray cluster, with room for two workers")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    # Whoever ends this process ends the nodes that it started, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        root = Path(folder)
        engine: Engine | None = PoolEngine(options.workers) if options.workers else None
        if options.ray:
            address, _ = stack.enter_context(first_node("--num-cpus", "2", RAY_AUTH_MODE="disabled"))
            engine = RayEngine(address, options.workers or None)
        run(made_spec(**SPEC), root / "whole")
        ends: list[dict[str, Any]] = []
        for end in rounds(root, options.mode, random.Random(options.seed), options.kills, engine):
            ends.append(end)
            if end["status"] == 0:
                print(f"{end['round']} is at its end, {len(ends)} runs so far", flush=True)
        middle = check_ends(root, ends, root / "whole")
    studies, killed = len({end["round"] for end in ends}), sum(end["status"] != 0 for end in ends)
    print(
        f"{killed} kills, {middle} of them in the middle of the work, in {studies} studies: nothing lost, changed, "
        f"torn or done twice ({time.monotonic() - began:.0f} s)"
    )


if __name__ == "__main__":
    main()
