"""A writer that is killed, or has no disk left, leaves a file with everything that it committed."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import gentrace
from gentrace.errors import SpillError
from gentrace.trace.growing import GrowingFile
from tests.trace.steps import BODY, is_right, is_unsealed, start, step

ROOT = Path(__file__).parents[2]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "growing.safetensors"


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


def story(path: Path, told: Callable[[int], object]) -> None:
    """Everything that happens to a file: growth, a rejected draft, a late tensor, texts; tells what it commits."""
    file = GrowingFile(path, 8)
    told(-1)
    start(file, 4)
    told(4)
    for position in range(4, 7):
        step(file, position)
        told(position + 1)
    file.commit(5)
    told(5)
    for position in range(5, 10):
        step(file, position)
        told(position + 1)
    file.add("layers.0.self.values", torch.ones(2, 3, 4))
    file.seal(BODY | {"tokens": {"texts": ["word"] * 3}})
    step(file, 10)
    told(11)
    file.describe(BODY)
    file.grow(32)
    step(file, 11)
    told(12)
    file.abandon()


def test_a_kill_between_any_two_bytes_leaves_what_was_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, commits, calls = os.pwrite, list[int](), 0
    monkeypatch.setattr("gentrace.trace.growing.BODY_ROOM", 2048)
    monkeypatch.setattr("gentrace.trace.growing.HEADER_ROOM", 4096 - 8)
    limit, part = 10**9, 0.0

    def pwrite(descriptor: int, data: bytes, offset: int) -> int:
        nonlocal calls
        calls += 1
        if calls < limit:
            return real(descriptor, data, offset)
        if calls == limit and part:
            whole = bytes(memoryview(data).cast("B"))
            # A word of eight bytes is written or not.
            real(descriptor, whole[: int(len(whole) * part) if len(whole) > 8 else 0], offset)
        raise Killed

    monkeypatch.setattr(os, "pwrite", pwrite)
    story(tmp_path / "whole", commits.append)
    total, expected, states = calls, list(commits), set[str]()
    assert total > 80
    for limit in range(1, total + 1):
        for part in (0.0, 0.1, 0.4):
            path, calls = tmp_path / f"{limit}.{part}", 0
            commits.clear()
            with pytest.raises(Killed):
                story(path, commits.append)
            if not path.exists():
                assert not commits
                states.add("not there")
                continue
            if is_unsealed(path):
                assert max(commits, default=-1) < 0
                states.add("not sealed")
                continue
            found = is_right(path)
            # The commit that was going on may have come through.
            following = expected[len(commits)] if len(commits) < len(expected) else -1
            assert found in (max(0, commits[-1]), following)
            states.add("sealed")
    assert states == {"not there", "not sealed", "sealed"}


KILLS = """
import os, random, signal, struct, sys, time
from pathlib import Path
import torch
from gentrace.trace.growing import GrowingFile
from tests.trace.steps import BODY, rows, start, step
torch.set_num_threads(1)
seed, folder = random.Random(int(sys.argv[1])), Path(sys.argv[2])
for number in range(15):
    read, write = os.pipe()
    child = os.fork()
    if not child:
        file = GrowingFile(folder / str(number), 8)
        start(file, 4)
        for position in range(4, 100_000):
            if position % 9 == 0:
                file.commit(position - 3)
                rows(file, position - 3, position)
            if position % 25 == 0:
                file.add(f"growing.extra.{position}", torch.ones(100))
                file.seal(BODY)
            step(file, position)
            os.write(write, struct.pack("<q", position + 1))
        os._exit(1)
    # Every other one gets as far as a first commit.
    told = os.read(read, 8) if number % 2 else b""
    time.sleep(seed.random() ** 2 * 0.2)
    os.kill(child, signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    os.close(write)
    while piece := os.read(read, 1 << 16):
        told += piece
    os.close(read)
    print(number, struct.unpack("<q", told[-8:])[0] if told else 0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that fork")
def test_a_killed_process_leaves_what_it_committed(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-c", KILLS, "1", str(tmp_path)]
    told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120, cwd=ROOT).stdout
    lengths = []
    for line in told.splitlines():
        number, committed = map(int, line.split())
        path = tmp_path / str(number)
        if not path.exists():
            assert committed == 0
            continue
        if is_unsealed(path):
            assert committed == 0
            continue
        lengths.append(is_right(path))
        # It was killed before it could tell of its last commit, or after it had gone back by 3 to write some again.
        assert committed - 3 <= lengths[-1] <= committed + 1 or committed == 0
    assert len(lengths) >= 7


def test_a_full_disk_is_one_clear_error(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, room = os.pwrite, 10**9

    def pwrite(descriptor: int, data: bytes, offset: int) -> int:
        nonlocal room
        whole = bytes(memoryview(data).cast("B"))
        if room < len(whole):
            if not room:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            whole, room = whole[:room], len(whole[:room])
        room -= len(whole)
        return real(descriptor, whole, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    file = GrowingFile(path, 16)
    start(file, 4)
    room = 100
    expected = r"writing 32 bytes of layers.0.self.queries to .*growing\.safetensors\. No space left.*the 5 columns"
    with pytest.raises(SpillError, match=expected) as raised:
        for position in range(4, 16):
            step(file, position)
    assert isinstance(raised.value, gentrace.CaptureError)
    assert (raised.value.errno, raised.value.filename) == (errno.ENOSPC, str(path))
    room = 10**9
    # What failed may lie half written: nothing is committed any more.
    with pytest.raises(SpillError, match="earlier write failed"):
        file.commit(5)
    file.abandon()
    assert is_right(path) == 5


LIMITS = """
import resource, sys
from pathlib import Path
import torch
from gentrace.errors import SpillError
from gentrace.trace.growing import GrowingFile
from tests.trace.steps import is_right, start, step
path = Path(sys.argv[1])
file = GrowingFile(path, 1000)
start(file, 4)
end = file._rooms["tokens.ids"].entry.start
resource.setrlimit(resource.RLIMIT_FSIZE, (end + 8 * 40, resource.RLIM_INFINITY))
try:
    for position in range(4, 100):
        step(file, position)
except SpillError as error:
    print(error.errno, is_right(path), file.committed, error)
try:
    GrowingFile(path.with_name("other"), 10**9).allocate("x", torch.float32, (9, "position"))
except SpillError as error:
    print(error.errno, path.with_name("other").exists())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs limits of resources")
def test_a_limit_on_file_sizes_is_the_same_error(path: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-c", LIMITS, str(path)]
    told = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=120, cwd=ROOT
    ).stdout.splitlines()
    assert told[0].startswith(f"{errno.EFBIG} 40 40 writing 8 bytes of tokens.ids to {path}. File too large.")
    assert told[1].startswith(f"{errno.EFBIG} ")


ADDRESSES = """
import resource, sys
import torch
from pathlib import Path
from safetensors import safe_open
import gentrace
from gentrace.trace.container import Container
from gentrace.trace.store import FileStore
from gentrace.trace.growing import GrowingFile
from tests.trace.steps import BODY, is_right, start, step
path = Path(sys.argv[1])
file = GrowingFile(path, 2**30)
start(file, 4)
file.add("wide", torch.arange(32.0).reshape(4, 2, 4))
file.seal(BODY)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, resource.RLIM_INFINITY))
try:
    safe_open(path, framework="pt")
except (OSError, MemoryError):
    print("cannot be mapped")
step(file, 4)
print(is_right(path), FileStore(Container.open(path), None).slab("wide", 1).sum().item())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_file_of_many_gigabytes_opens_under_a_limit_on_addresses(path: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-c", ADDRESSES, str(path)]
    told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120, cwd=ROOT).stdout
    assert told.splitlines() == ["cannot be mapped", "5 92.0"]
    assert path.stat().st_size > 32 * 2**30
    assert path.stat().st_blocks * 512 < 2**20
