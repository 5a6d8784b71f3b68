"""A process that runs studies in children that are killed, again and again, until one of them comes to its end.

Usage: python -m tests.studies.killing ROOT MODE SEED, where MODE is "moments" (SIGKILL after a random time) or "steps"
(a child kills itself before its n-th change to the disk, n growing by one from child to child). Studies are run so, one
after another, until enough children died in the middle of work. Prints a line of JSON
for each child: how it ended, and what the folder held afterwards. Children are forked, so the imports are paid once.
"""

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from gentrace.studies import open_study, run_study
from gentrace.studies.folder import Folder
from gentrace.studies.verify import check_sums
from tests.studies.made import made_spec, parts

SPEC: dict[str, Any] = {"keep": {"traces": True, "steps": True}}
ENOUGH = 4
"""Children that must have died, or come to their end, when some batches were finished and others were not."""
MOST_ROUNDS = 20


def count_changes(limit: int) -> None:
    """Let this process kill itself before its n-th change to the disk."""
    seen = [0]

    def counted(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            seen[0] += 1
            if seen[0] == limit:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **kwargs)

        return call

    for name in ("fsync", "replace", "rename", "link", "unlink", "mkdir"):
        setattr(os, name, counted(getattr(os, name)))


def child(out: Path, limit: int | None) -> int:
    """Run the study in a new process and return the process's id."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        if limit is not None:
            count_changes(limit)
        run_study(made_spec(**SPEC), out, progress=False, say=lambda line: None)
        code = 0
    finally:
        os._exit(code)


def held(out: Path) -> dict[str, Any]:
    """What counts in a folder: the files of finished batches, with digests, and whether all of them are whole."""
    folder = Folder(out)
    finished = list(folder.records())
    files = parts(out)
    kept = {file.path: files.get(file.path) for record in finished for file in record.files}
    study = None
    if (out / "manifest.json").exists():
        opened = open_study(out)
        study = len(opened.tokens(["generation"])), len(opened.heads(["generation"]))
    return {"files": kept, "damaged": check_sums(folder, finished)[1], "study": study}


def rounds(root: Path, mode: str, chance: random.Random) -> Iterator[dict[str, Any]]:
    """Studies from beginning to end, each in a folder of its own, until enough children died in the middle of work."""
    began = time.monotonic()
    os.waitpid(child(root / "reference", None), 0)
    whole, middle = time.monotonic() - began, 0
    total = len(held(root / "reference")["files"])
    for number in range(MOST_ROUNDS):
        out, status, step = root / f"round{number}", 1, 0
        while status != 0:
            step += 1
            pid = child(out, step if mode == "steps" else None)
            if mode == "moments":
                # A machine that grew slower must not keep the study from ever coming to its end.
                time.sleep(chance.uniform(0, whole * (1 + 0.05 * step)))
                os.kill(pid, signal.SIGKILL)
            status = os.waitpid(pid, 0)[1]
            found = held(out)
            middle += 0 < len(found["files"]) < total
            yield {"round": out.name, "status": status, **found}
        if middle >= ENOUGH:
            return


def main() -> None:
    torch.set_num_threads(1)
    for end in rounds(Path(sys.argv[1]), sys.argv[2], random.Random(int(sys.argv[3]))):
        print(json.dumps(end), flush=True)


if __name__ == "__main__":
    main()
