"""Nodes of a Ray cluster that no study started: begun with ``ray start``, and ended with all their processes."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager

QUICK = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_failure_threshold": "5",
}
"""Nothing is reported, and a lost node is missed within seconds."""
PATIENCE = 240
"""Seconds for what takes five on an idle machine."""


@contextmanager
def first_node(*options: str, **environment: str) -> Generator[tuple[str, "subprocess.Popen[bytes]"]]:
    """A new cluster's first node, on a port of its own.

    Args:
        *options: Of ``ray start``.
        **environment: Beside this process's.
    """
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
    # The names of Ray's sockets must be short.
    folder = tempfile.mkdtemp(prefix="gt")
    try:
        own = ["--head", "--port", str(port), "--temp-dir", folder, "--include-dashboard", "false"]
        with node(*own, *options, **environment) as process:
            yield f"127.0.0.1:{port}", process
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def node(*options: str, **environment: str) -> Generator["subprocess.Popen[bytes]"]:
    """A node, once it is up: the leader of a group of processes, which end with the block.

    Args:
        *options: Of ``ray start``.
        **environment: Beside this process's.
    """
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", *options]
    command += ["--object-store-memory", "80000000", "--block"]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command, env=os.environ | QUICK | environment, stdout=log, stderr=log, start_new_session=True
        )
        try:
            until = time.monotonic() + PATIENCE
            while b"Ray runtime started" not in (said := os.pread(log.fileno(), 100_000, 0)):
                assert time.monotonic() < until, said.decode()
                assert process.poll() is None, said.decode()
                time.sleep(0.1)
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
