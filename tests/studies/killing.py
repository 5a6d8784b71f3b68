"""A process that runs studies in children that are killed, again and again, until one of them comes to its end.

Usage: python -m tests.studies.killing ROOT MODE SEED ENOUGH, where MODE is "moments" (SIGKILL after a random
time) or "steps" (a child kills itself before its n-th change to the disk, n growing by one from child to child).
Studies are run so, one after another, until ENOUGH children died when some batches were finished and others were not.
Prints a line of JSON for each child: how it ended, and what the folder held afterwards. Children are forked, so the
imports are paid once. `scripts/kill_study.py` does it often, also with worker processes and on Ray.
"""

import itertools
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from gentrace.studies import Engine, open_study, run_study
from gentrace.studies.folder import Folder
from gentrace.studies.verify import check_sums
from tests.studies.made import made_spec, parts

SPEC: dict[str, Any] = {"keep": {"traces": True, "steps": True}}


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


def child(out: Path, limit: int | None, engine: Engine | None = None) -> int:
    """Run the study in a new process and return the process's id."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        if limit is not None:
            count_changes(limit)
        run_study(made_spec(**SPEC), out, engine=engine, progress=False, say=lambda line: None)
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


def rounds(
    root: Path, mode: str, chance: random.Random, enough: int, engine: Engine | None = None
) -> Iterator[dict[str, Any]]:
    """Studies from beginning to end, each in a folder of its own, until enough children died in the middle of work."""
    began = time.monotonic()
    os.waitpid(child(root / "reference", None, engine), 0)
    whole, middle = time.monotonic() - began, 0
    total = len(held(root / "reference")["files"])
    for number in itertools.count():
        out, status, step = root / f"round{number}", 1, 0
        while status != 0:
            step += 1
            pid = child(out, step if mode == "steps" else None, engine)
            if mode == "moments":
                # A machine that grew slower must not keep the study from ever coming to its end.
                time.sleep(chance.uniform(0, whole * (1 + 0.05 * step)))
                os.kill(pid, signal.SIGKILL)
            status = os.waitpid(pid, 0)[1]
            found = held(out)
            middle += 0 < len(found["files"]) < total
            yield {"round": out.name, "status": status, **found}
        if middle >= enough:
            return


def check_ends(root: Path, ends: Sequence[dict[str, Any]], whole: Path) -> int:
    """Make sure that nothing was lost, changed, torn or done twice, after any kill.

    Returns:
        How many children were killed in the middle of the work.
    """
    assert parts(root / "reference") == parts(whole)
    middle = 0
    for name in dict.fromkeys(end["round"] for end in ends):
        mine = [end for end in ends if end["round"] == name]
        # Only the last came to its end.
        assert [end["status"] for end in mine] == [signal.SIGKILL] * (len(mine) - 1) + [0]
        assert not any(end["damaged"] for end in mine)
        for before, after in pairwise(mine):
            # A finished batch never changes and never goes away.
            assert before["files"].items() <= after["files"].items()
            middle += 0 < len(before["files"]) < len(parts(whole))
        out = root / name
        assert parts(out) == parts(whole)
        killed, reference = open_study(out), open_study(whole)
        for table in ("generations", "tokens", "heads"):
            assert getattr(killed, table)().equals(getattr(reference, table)())
        assert not [path.name for path in out.rglob("*") if path.name.endswith(".part") or path.name == "lock"]
    return middle


def main() -> None:
    torch.set_num_threads(1)
    root, mode, seed, enough = sys.argv[1:]
    for end in rounds(Path(root), mode, random.Random(int(seed)), int(enough)):
        print(json.dumps(end), flush=True)


if __name__ == "__main__":
    main()
