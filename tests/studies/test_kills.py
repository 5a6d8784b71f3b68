"""``kill -9`` at any moment: what was finished stays as it is, and in the end nothing is missing or twice."""

import json
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from gentrace.studies import open_study
from tests.studies.killing import SPEC
from tests.studies.made import made_spec, parts, run


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "study"
    run(made_spec(**SPEC), out)
    return out


def kill_until_done(root: Path, mode: str, seed: int) -> list[dict[str, Any]]:
    """What each child left behind."""
    command = [sys.executable, "-m", "tests.studies.killing", str(root), mode, str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["moments", "steps"])
def test_killed_runs_lose_and_repeat_nothing(mode: str, whole: Path, tmp_path: Path) -> None:
    ends = kill_until_done(tmp_path, mode, seed=0)
    assert parts(tmp_path / "reference") == parts(whole)
    killed_in_the_middle = 0
    for name in dict.fromkeys(end["round"] for end in ends):
        mine = [end for end in ends if end["round"] == name]
        # Only the last came to its end.
        assert [end["status"] for end in mine] == [signal.SIGKILL] * (len(mine) - 1) + [0]
        assert not any(end["damaged"] for end in mine)
        for before, after in pairwise(mine):
            # A finished batch never changes and never goes away.
            assert before["files"].items() <= after["files"].items()
            killed_in_the_middle += 0 < len(before["files"]) < len(parts(whole))
        out = tmp_path / name
        assert parts(out) == parts(whole)
        killed, reference = open_study(out), open_study(whole)
        for table in ("generations", "tokens", "heads"):
            assert getattr(killed, table)().equals(getattr(reference, table)())
        assert not [path.name for path in out.rglob("*") if path.name.endswith(".part") or path.name == "lock"]
    # Otherwise nothing was tested.
    assert killed_in_the_middle >= 3
