"""The lock: a live owner is respected, a dead one is not, and nobody has to compare clocks."""

import os
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from gentrace.errors import StudyError
from gentrace.studies import LockedError
from gentrace.studies.lock import Lock, Owner, _text, started, this_host
from tests.studies.made import made_spec, run

HOLD = """
import sys, time
from pathlib import Path
from gentrace.studies.lock import Lock
with Lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def holder(path: Path) -> "subprocess.Popen[str]":
    """Another process that holds the lock."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_live_owner_is_respected_and_a_killed_one_is_not(tmp_path: Path) -> None:
    path, said = tmp_path / "lock", list[str]()
    process = holder(path)
    try:
        with pytest.raises(LockedError, match=f"process {process.pid} on .* is working there"), Lock(path):
            pass
        with pytest.raises(LockedError, match="is working there"):
            run(made_spec(), tmp_path)
        assert sorted(entry.name for entry in tmp_path.iterdir() if entry.is_file()) == ["lock", "lock.guard"]
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
    with Lock(path, say=said.append) as lock:
        lock.check()
    assert said == [f"taking over the lock of process {process.pid} on {lock.owner.name}: the process is gone"]
    assert not path.exists()


def test_a_zombie_is_dead(tmp_path: Path) -> None:
    process = holder(tmp_path / "lock")
    process.kill()
    time.sleep(0.2)
    # Not waited for yet, so its number is still taken.
    with Lock(tmp_path / "lock", say=lambda line: None):
        pass
    process.communicate()


def put(path: Path, **changes: object) -> Owner:
    """A lock of some other owner."""
    mine = Owner(os.getpid(), this_host(), started(os.getpid()) or "", "elsewhere", "token")
    owner = replace(mine, **changes)
    path.write_text(_text(owner, 0))
    return owner


def test_a_number_that_came_back_is_not_the_owner(tmp_path: Path) -> None:
    put(tmp_path / "lock")
    with pytest.raises(LockedError), Lock(tmp_path / "lock"):
        pass
    put(tmp_path / "lock", start="1")
    said: list[str] = []
    with Lock(tmp_path / "lock", say=said.append):
        pass
    assert "its number belongs to another process now" in said[0]


def test_an_owner_elsewhere_is_watched(tmp_path: Path) -> None:
    path, said = tmp_path / "lock", list[str]()
    owner = put(path, host="another machine")
    with Lock(path, say=said.append, beat=0.05, patience=0.3):
        assert "watching for 0 s" in said[0]
        assert "nothing was heard of it" in said[1]
    put(path, host="another machine")
    stop = threading.Event()

    def beat() -> None:
        count = 0
        while not stop.wait(0.05):
            count += 1
            path.write_text(_text(owner, count))

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(LockedError, match="on elsewhere is working there"), Lock(path, say=said.append, patience=5):
            pass
    finally:
        stop.set()
        thread.join()


def test_an_owner_counts_while_it_works(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with Lock(path, beat=0.02) as lock:
        first = path.read_text()
        time.sleep(0.3)
        second = path.read_text()
        assert first != second
        assert first.partition(" ")[2] == second.partition(" ")[2]
        assert int(second.partition(" ")[0]) > int(first.partition(" ")[0])
        lock.check()


def test_whoever_lost_the_lock_does_not_commit_and_does_not_remove_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with Lock(path) as lock:
        other = put(path)
        with pytest.raises(StudyError, match="took the folder over"):
            lock.check()
    assert str(asdict(other)["token"]) in path.read_text()


def test_a_torn_lock_is_nobodys(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("0000 {")
    with Lock(tmp_path / "lock", say=lambda line: None):
        pass


def test_a_dead_owner_may_be_followed_by_a_live_one_at_any_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, original, calls = tmp_path / "lock", Lock._dead, list[str]()
    put(path, start="1")

    def overtaken(lock: Lock, owner: Owner | None, count: str) -> str | None:
        found = original(lock, owner, count)
        if not calls:
            # Between looking and removing, another process takes the dead owner's lock over.
            put(path, token="of a live one")
        calls.append(str(found))
        return found

    monkeypatch.setattr(Lock, "_dead", overtaken)
    with pytest.raises(LockedError, match="is working there"), Lock(path, say=lambda line: None):
        pass
    assert calls == ["its number belongs to another process now", "None"]
    assert "of a live one" in path.read_text()


def test_only_one_of_many_gets_it(tmp_path: Path) -> None:
    put(tmp_path / "lock", start="1")
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom gentrace.studies.lock import Lock\n"
        "from gentrace.errors import StudyError\nPath(sys.argv[2]).touch()\n"
        "while not Path(sys.argv[1] + '.go').exists(): time.sleep(0.001)\n"
        "try:\n  with Lock(Path(sys.argv[1]), say=lambda line: None): print('got'); time.sleep(3)\n"
        "except StudyError: print('refused')\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "lock")]
    many = [
        subprocess.Popen([*command, str(tmp_path / f"ready{n}")], stdout=subprocess.PIPE, text=True) for n in range(4)
    ]
    while len(list(tmp_path.glob("ready*"))) < 4:
        time.sleep(0.01)
    (tmp_path / "lock.go").touch()
    assert sorted(process.communicate()[0].strip() for process in many) == ["got", "refused", "refused", "refused"]
