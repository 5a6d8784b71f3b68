"""``kill -9`` at any moment: what was finished stays as it is, and in the end nothing is missing or twice.

A few kills only; ``scripts/kill_study.py`` does many.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.studies.killing import SPEC, check_ends
from tests.studies.made import made_spec, run

ENOUGH = 2
"""Kills in the middle of the work."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "study"
    run(made_spec(**SPEC), out)
    return out


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["moments", "steps"])
def test_killed_runs_lose_and_repeat_nothing(mode: str, whole: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.studies.killing", str(tmp_path), mode, "0", str(ENOUGH)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stderr
    ends = [json.loads(line) for line in done.stdout.splitlines()]
    # Otherwise nothing was tested.
    assert check_ends(tmp_path, ends, whole) >= ENOUGH
