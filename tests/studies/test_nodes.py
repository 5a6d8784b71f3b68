"""A Ray cluster of two nodes that somebody else started with ``ray start``: shared GPUs, and the loss of a node."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from gentrace.studies import load_spec, open_study
from gentrace.studies.lock import started
from tests.studies.made import WORDS, parts, run, workers_seen
from tests.studies.nodes import first_node, node
from tests.studies.test_pool import PATIENCE, wait_until

HELD = """
import json
import os
import sys
import time
from pathlib import Path


def check(trace, folder):
    '''Leave the worker's number in a folder, wait for leave to go on, and say what Ray gave the worker.'''
    folder = Path(folder)
    mine = folder / f"worker-{os.getpid()}"
    new = not mine.exists()
    mine.touch()
    until = time.monotonic() + 600
    while not (folder / "go").exists() and time.monotonic() < until:
        time.sleep(0.05)
    if new:
        mine.write_text(json.dumps(given()))
    return float(len(trace.tokens))


def given():
    ray = sys.modules.get("ray")
    # Asked anything else in a process that is no worker of it, Ray begins a cluster of its own.
    if ray is None or not ray.is_initialized():
        return {}
    assigned, left, until = ray.get_runtime_context().get_assigned_resources(), {}, time.monotonic() + 60
    # What nodes have left is told around by and by.
    while "GPU" in assigned and (left := ray.available_resources()).get("GPU") and time.monotonic() < until:
        time.sleep(0.05)
    return {"assigned": assigned, "ids": ray.get_gpu_ids(), "left": left.get("GPU", 0)}
"""


@dataclass
class Nodes:
    """Two nodes on this machine, with a CPU each; the first has a GPU that is there in Ray's books only."""

    address: str
    other: "subprocess.Popen[bytes]"
    """The second node, the leader of a group of processes."""
    folder: Path
    """Where a study's specification, its workers' marks and its results are."""

    def study(self, out: str, *options: str) -> "subprocess.Popen[str]":
        """Begin to run the study here; its workers wait until `go`."""
        shutil.rmtree(self.folder / "marks", ignore_errors=True)
        (self.folder / "marks").mkdir()
        command = [sys.executable, "-m", "gentrace", "study", "run", str(self.folder / "s.toml")]
        command += ["--out", str(self.folder / out), "--engine", "ray", "--address", self.address, *options]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def workers(self) -> set[int]:
        """Whoever has worked on the study that runs now."""
        return workers_seen(self.folder / "marks")

    def go(self) -> None:
        """Let the workers do their work."""
        (self.folder / "marks" / "go").touch()


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    folder = tmp_path_factory.mktemp("nodes")
    (folder / "token").write_text("0123456789abcdef" * 4)
    shown = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(folder / "token")}
    rows = ", ".join(f'{{word = "{word}"}}' for word in WORDS)
    (folder / "own.py").write_text(HELD)
    (folder / "s.toml").write_text(
        'models = {name = "story", device = "cpu"}\nbatch_size = 2\nthreads = 1\nkeep = {traces = true}\n'
        f'measures = [{{measure = "own:check", options = {{folder = "{folder / "marks"}"}}}}]\n'
        f'[prompts]\nrows = [{rows}]\ntemplate = "A {{word}}"\n[decoding]\nmax_new_tokens = 4\n'
    )
    with (
        first_node("--num-cpus", "1", "--num-gpus", "1", **shown) as (address, _),
        node("--address", address, "--node-ip-address", "127.0.0.2", "--num-cpus", "1", **shown) as other,
        pytest.MonkeyPatch.context() as patch,
    ):
        # As it is for somebody who has a token and said nothing of it.
        patch.delenv("RAY_AUTH_MODE", raising=False)
        patch.setenv("RAY_AUTH_TOKEN_PATH", shown["RAY_AUTH_TOKEN_PATH"])
        yield Nodes(address, other, folder)


def finished(process: "subprocess.Popen[str]") -> list[str]:
    """What a run said that came to its end."""
    out, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, said
    assert "7 of 7 generations are in" in out
    return said.splitlines()


def test_two_replicas_share_a_gpu(nodes: Nodes) -> None:
    process = nodes.study("shared", "--gpus", "0.5", "--cpus", "0.5")
    try:
        wait_until(lambda: len(nodes.workers()) == 2, process)
        nodes.go()
        finished(process)
    finally:
        process.kill()
    assert len(nodes.workers()) == 2
    for worker in nodes.workers():
        given = json.loads((nodes.folder / "marks" / f"worker-{worker}").read_text())
        # Ray's own account, from within the worker, while both were there.
        assert (given["assigned"]["GPU"], given["assigned"]["CPU"], given["left"]) == (0.5, 0.5, 0)
        assert [str(one) for one in given["ids"]] == ["0"]


def test_a_killed_worker_and_a_lost_node_change_nothing(nodes: Nodes) -> None:
    process = nodes.study("lost")
    try:
        wait_until(lambda: len(nodes.workers()) == 2, process)
        os.kill(min(nodes.workers()), signal.SIGKILL)
        # Each node has room for one worker, so one of the three is gone, and one is on the node that goes now.
        wait_until(lambda: len(nodes.workers()) == 3, process)
        os.killpg(nodes.other.pid, signal.SIGKILL)
        nodes.other.wait()
        wait_until(lambda: sum(started(worker) is not None for worker in nodes.workers()) == 1, process)
        nodes.go()
        said = finished(process)
    finally:
        process.kill()
    deaths = [line for line in said if "a worker died during batch" in line]
    assert len(deaths) == 2
    assert all(line.endswith(": the batch is done again") for line in deaths)
    assert not any("Traceback" in line for line in said)
    # The leave to go on is there, so nobody waits.
    run(load_spec(nodes.folder / "s.toml"), nodes.folder / "local")
    assert len(parts(nodes.folder / "local")) == 4 * 3 + 7
    for out in ("shared", "lost"):
        assert parts(nodes.folder / out) == parts(nodes.folder / "local")
        assert open_study(nodes.folder / out).failures().empty
