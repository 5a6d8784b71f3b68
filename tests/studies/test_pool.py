"""Worker processes: the same tables as one process makes, also when workers are killed, and none is left behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gentrace.studies import PoolEngine, load_spec, open_study
from gentrace.studies.lock import started
from tests.studies.made import deadly_spec, parts, run, said_about, workers_seen

PATIENCE = 240
"""Seconds for things that take five on an idle machine."""


def wait_until(test: Callable[[], bool], process: "subprocess.Popen[str] | None" = None) -> None:
    until = time.monotonic() + PATIENCE
    while not test():
        assert time.monotonic() < until
        assert process is None or process.poll() is None, process.communicate()
        time.sleep(0.05)


def blocks(process: int, which: signal.Signals) -> bool:
    """Whether a process does not hear of a signal."""
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{process}/status").read_text().splitlines())
    return bool(int(status["SigBlk"], 16) >> which - 1 & 1)


def test_a_killed_worker_changes_nothing(tmp_path: Path) -> None:
    marker = tmp_path / "killed"
    spec = load_spec(deadly_spec(tmp_path, str(marker)))
    summary, said = run(spec, tmp_path / "pool", engine=PoolEngine(workers=2))
    assert (summary.ok, summary.batches) == (True, 8)
    assert "(killed by SIGKILL): the batch is done again" in said_about(said, "died")
    workers = workers_seen(tmp_path)
    assert len(workers) >= 2
    assert os.getpid() not in workers
    # The marker is there now, so nobody is killed.
    run(spec, tmp_path / "local")
    assert parts(tmp_path / "pool") == parts(tmp_path / "local")
    assert open_study(tmp_path / "pool").failures().empty


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_workers_end_with_their_parent(how: signal.Signals, tmp_path: Path) -> None:
    spec, out = deadly_spec(tmp_path, "waiting"), tmp_path / "out"
    command = [sys.executable, "-m", "gentrace", "study", "run", str(spec), "--out", str(out), "--workers", "2"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    wait_until(lambda: len(workers_seen(tmp_path)) == 2, process)
    assert all(blocks(worker, signal.SIGINT) for worker in workers_seen(tmp_path))
    # A terminal sends Ctrl-C to all of them.
    os.killpg(process.pid, how) if how == signal.SIGINT else process.kill()
    _, said = process.communicate(timeout=PATIENCE)
    wait_until(lambda: not any(started(worker) for worker in workers_seen(tmp_path)))
    if how == signal.SIGINT:
        assert process.returncode == 1
        assert said.splitlines()[-1] == "Error: stopped; the same command goes on"
        assert "Traceback" not in said
        assert not (out / "lock").exists()
