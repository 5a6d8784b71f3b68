"""A Ray cluster that a study starts itself: the same tables as one process makes, also when an actor is killed."""

import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gentrace.errors import StudyError
from gentrace.studies import RayEngine, load_spec, open_study
from gentrace.studies.cluster import connected
from tests.studies.made import deadly_spec, made_spec, parts, run, said_about, workers_seen


def test_a_missing_extra_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(StudyError, match=r"install it: pip install 'gentrace-attention\[ray\]'"):
        run(made_spec(), tmp_path, engine=RayEngine())


def test_an_address_without_a_cluster_is_one_clear_error() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
    with pytest.raises(StudyError, match=f"connecting to Ray at 127.0.0.1:{port}. nobody answers there"):
        connected(f"127.0.0.1:{port}", 5).__enter__()
    with pytest.raises(StudyError, match='neither "host:port" nor "auto"'):
        connected("somewhere", 5).__enter__()


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    with connected(None, 60) as cluster:
        assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
        yield cluster
    assert not cluster.is_initialized()
    assert "RAY_USAGE_STATS_ENABLED" not in os.environ


def test_a_killed_actor_changes_nothing(ray: Any, tmp_path: Path) -> None:
    spec = load_spec(deadly_spec(tmp_path, str(tmp_path / "killed")))
    summary, said = run(spec, tmp_path / "ray", engine=RayEngine(workers=2, cpus=0.5))
    assert (summary.ok, summary.batches) == (True, 8)
    assert "(lost by Ray: The actor died unexpectedly before" in said_about(said, "the batch is done again")
    workers = workers_seen(tmp_path)
    assert len(workers) >= 2
    assert os.getpid() not in workers
    # The marker is there now, so nobody is killed.
    run(load_spec(tmp_path / "s.toml"), tmp_path / "local")
    assert parts(tmp_path / "ray") == parts(tmp_path / "local")
    assert open_study(tmp_path / "ray").failures().empty


def test_too_much_is_not_waited_for(ray: Any, tmp_path: Path) -> None:
    with pytest.raises(
        StudyError, match=r"one needs 1 CPU and 64 GPU; this machine has \d+ CPU and \d+ GPU. ask for less"
    ):
        run(made_spec(), tmp_path, engine=RayEngine(gpus=64))


def test_what_stops_a_worker_is_told_here(ray: Any, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("def check(trace):\n    return 1.0\n")
    (tmp_path / "s.toml").write_text(
        'models = "story"\nprompts = ["Once"]\nmeasures = ["own:check"]\nthreads = 1\n[decoding]\nmax_new_tokens = 2\n'
    )
    spec = load_spec(tmp_path / "s.toml")

    class Later(RayEngine):
        """Changes the measure after the study was planned."""

        def run(self, *args: Any, **kwargs: Any) -> Any:
            (tmp_path / "own.py").write_text("def check(trace):\n    return 2.0\n")
            return super().run(*args, **kwargs)

    with pytest.raises(StudyError, match=r"the plan and this worker differ: measure check.source was .*…, is .*…"):
        run(spec, tmp_path / "out", engine=Later(workers=1, cpus=0.5))
    assert not list((tmp_path / "out" / "commits").iterdir())
