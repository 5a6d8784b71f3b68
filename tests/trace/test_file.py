"""One file, whole or not at all; read lazily, and never believed when it was changed."""

import copy
import json
import os
import pickle
import struct
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import gentrace
from gentrace.trace.container import Container
from gentrace.trace.file import VERSION
from tests.models import prompt, tiny
from tests.oracle import distance
from tests.trace.streaming import made, tensors_of


@pytest.fixture(scope="module")
def trace() -> gentrace.Trace:
    model = tiny("gemma3")
    with gentrace.record(model, values=True) as recorder:
        model.generate(prompt(9), max_new_tokens=5, min_new_tokens=5, do_sample=True)
    return recorder.trace


@pytest.fixture
def saved(trace: gentrace.Trace, tmp_path: Path) -> Path:
    path = tmp_path / "trace.safetensors"
    trace.save(path)
    return path


def test_a_saved_trace_is_the_trace(trace: gentrace.Trace, saved: Path) -> None:
    loaded = gentrace.load(saved)
    assert (loaded.layers, loaded.length, loaded.meta) == (trace.layers, trace.length, trace.meta)
    assert loaded.fidelity == trace.fidelity
    for info in trace.layers:
        assert torch.equal(loaded.queries(info.index), trace.queries(info.index))
        assert torch.equal(loaded.keys(info.index), trace.keys(info.index))
        assert distance(loaded.attention(info.index), trace.attention(info.index)) <= 1e-6
        assert distance(loaded.attention(info.index, 1), trace.attention(info.index)[1]) <= 1e-6
        assert torch.equal(loaded.values(info.index), trace.values(info.index))
    assert loaded.tokens.texts == trace.tokens.texts
    assert loaded.tokens.prompt_length == trace.tokens.prompt_length
    for name in ("ids", "logprobs", "sampled_logprobs", "entropy", "rank", "top_ids", "top_logprobs"):
        assert torch.equal(getattr(loaded.tokens, name).nan_to_num(9), getattr(trace.tokens, name).nan_to_num(9))
    assert loaded.to_pandas().equals(trace.to_pandas())
    again = saved.with_name("again.safetensors")
    loaded.save(again)
    assert again.read_bytes() == saved.read_bytes()


def test_scores_with_every_peculiarity_survive(tmp_path: Path) -> None:
    model = tiny("gpt_oss", "eager")
    with gentrace.record(model) as recorder:
        model.generate(prompt(9), max_new_tokens=5, do_sample=False)
    recorder.trace.save(tmp_path / "t.safetensors")
    loaded = gentrace.load(tmp_path / "t.safetensors")
    assert loaded.layers[0].sinks is not None
    assert distance(loaded.attention(1), recorder.trace.attention(1)) <= 1e-6


def test_a_bias_and_a_holey_mask_survive(tmp_path: Path) -> None:
    model = tiny("llama", "eager")
    generator = torch.Generator().manual_seed(0)
    allowed = torch.eye(8).bool() | (torch.ones(8, 8).tril().bool() & (torch.rand(8, 8, generator=generator) > 0.5))
    mask = torch.randn(1, 4, 8, 8, generator=generator).masked_fill(~allowed, torch.finfo(torch.float32).min)
    with gentrace.record(model) as recorder, torch.no_grad():
        model(prompt(8), attention_mask=mask)
    recorder.trace.save(tmp_path / "t.safetensors")
    loaded = gentrace.load(tmp_path / "t.safetensors")
    assert distance(loaded.attention(2), recorder.trace.attention(2)) <= 1e-6
    assert distance(loaded.attention(2, 3), recorder.trace.attention(2)[3]) <= 1e-6
    assert bool((loaded.attention(2)[0] > 0).eq(allowed).all())


def test_reading_one_head_touches_only_its_bytes(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = gentrace.load(saved)
    read: list[tuple[str, slice]] = []
    original = loaded.store._read
    monkeypatch.setattr(loaded.store, "_read", lambda name, where: read.append((name, where)) or original(name, where))
    loaded.attention(1, 3)
    big = {name: where for name, where in read if not name.startswith("masks.")}
    assert big == {"layers.1.self.queries": slice(3, 4), "layers.1.self.keys": slice(1, 2)}


def test_opening_reads_no_tensor(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a tensor was read")

    monkeypatch.setattr("gentrace.trace.store.FileStore._read", refuse)
    loaded = gentrace.load(saved)
    assert loaded.length == 13
    with pytest.raises(AssertionError, match="a tensor was read"):
        loaded.queries(0)


def rewrite(path: Path, **changes: object) -> None:
    """Change the header's JSON and its own digest with it, as a forger would."""
    import hashlib

    raw = path.read_bytes()
    size = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + size])
    version, _, old = header["__metadata__"]["gentrace"].split(" ", 2)
    text = json.dumps(json.loads(old) | changes)
    header["__metadata__"]["gentrace"] = f"{version} {hashlib.sha256(text.encode()).hexdigest()} {text}"
    new = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(new)) + new + raw[8 + size :])


@pytest.mark.parametrize("keep", [0, 5, 100, 0.3, 0.99])
def test_a_truncated_file_is_refused(saved: Path, keep: float) -> None:
    raw = saved.read_bytes()
    saved.write_bytes(raw[: int(keep * len(raw)) if isinstance(keep, float) else keep])
    with pytest.raises(gentrace.TraceFormatError):
        gentrace.load(saved)


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.ones(2)}, path)
    with pytest.raises(gentrace.TraceFormatError, match="not a trace"):
        gentrace.load(path)
    path.write_text("not a trace at all, but long enough to look at" * 10)
    with pytest.raises(gentrace.TraceFormatError):
        gentrace.load(path)
    with pytest.raises(FileNotFoundError):
        gentrace.load(tmp_path / "missing.safetensors")


def test_a_pickle_is_refused_and_not_executed(tmp_path: Path) -> None:
    path, proof = tmp_path / "evil.safetensors", tmp_path / "proof"

    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return os.mkdir, (str(proof),)

    path.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(gentrace.TraceFormatError):
        gentrace.load(path)
    assert not proof.exists()
    pickle.loads(path.read_bytes())
    assert proof.exists()


def test_a_newer_version_says_so(saved: Path) -> None:
    raw = saved.read_bytes()
    saved.write_bytes(raw.replace(b'"gentrace":"%d ' % VERSION, b'"gentrace":"9 ', 1))
    with pytest.raises(gentrace.TraceFormatError, match=r"version '9'.*update gentrace"):
        gentrace.load(saved)


def test_a_changed_header_is_noticed(saved: Path) -> None:
    raw = saved.read_bytes()
    changed = raw.replace(b'\\"length\\": 13', b'\\"length\\": 12', 1)
    assert changed != raw
    saved.write_bytes(changed)
    with pytest.raises(gentrace.TraceFormatError, match="changed after it was written"):
        gentrace.load(saved)


@pytest.mark.parametrize(
    "changes",
    [
        {"length": 40},
        {"length": "13"},
        {"layers": []},
        {"layers": [{"index": 0}]},
        {"sums": {}},
        {"masks": [[0, "self", 7]]},
    ],
)
def test_a_forged_header_is_refused(saved: Path, changes: dict[str, object]) -> None:
    rewrite(saved, **changes)
    with pytest.raises(gentrace.TraceFormatError):
        gentrace.load(saved).attention(0)


def test_every_changed_byte_of_a_tensor_is_noticed(saved: Path) -> None:
    raw = bytearray(saved.read_bytes())
    size = struct.unpack("<Q", raw[:8])[0]
    where = json.loads(raw[8 : 8 + size])["layers.1.self.keys"]["data_offsets"]
    raw[8 + size + where[0] + 5] ^= 1
    saved.write_bytes(raw)
    loaded = gentrace.load(saved)
    loaded.attention(0)
    loaded.attention(1, 3)
    with pytest.raises(gentrace.TraceFormatError, match="sums"):
        loaded.attention(1, 0)


def test_a_crash_leaves_no_half_file(trace: gentrace.Trace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "trace.safetensors"
    path.write_text("what was there before")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gentrace.trace.file.os.fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        trace.save(path)
    assert [file.name for file in tmp_path.iterdir()] == ["trace.safetensors"]
    assert path.read_text() == "what was there before"
    with pytest.raises(FileNotFoundError, match="no such folder"):
        trace.save(tmp_path / "missing" / "trace.safetensors")


def test_a_killed_writer_leaves_the_old_file(saved: Path) -> None:
    before = saved.read_bytes()
    code = (
        "import os, signal, sys, gentrace, gentrace.trace.file as file\n"
        "trace = gentrace.load(sys.argv[1])\n"
        "file._flush = lambda path: os.kill(os.getpid(), signal.SIGKILL)\n"
        "trace.save(sys.argv[1])\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(saved)], check=False)
    assert done.returncode == -9
    assert saved.read_bytes() == before
    assert gentrace.load(saved).length == 13


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_the_library_reads_what_is_saved(tmp_path: Path, dtype: torch.dtype) -> None:
    path = tmp_path / "t.safetensors"
    made = made_trace(dtype)
    made.save(path)
    with safe_open(path, framework="pt") as file:
        assert set(file.keys()) == set(tensors_of(made))
        for name, tensor in tensors_of(made).items():
            found = file.get_tensor(name)
            assert found.dtype == tensor.dtype
            assert torch.equal(found.nan_to_num(9.0), tensor.nan_to_num(9.0))
    raw = path.read_bytes()
    room = struct.unpack("<Q", raw[:8])[0]
    for name, entry in json.loads(raw[8 : 8 + room]).items():
        if name != "__metadata__":
            # Readers that look at the bytes in place want each number where its type allows.
            assert (8 + room + entry["data_offsets"][0]) % tensors_of(made)[name].element_size() == 0


def made_trace(dtype: torch.dtype = torch.float32) -> gentrace.Trace:
    return made(encoder=5, dtype=dtype)


def test_saving_holds_one_head_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made_trace().save(tmp_path / "first")
    loaded, read = gentrace.load(tmp_path / "first"), list[int]()
    original = loaded.store._read
    monkeypatch.setattr(
        loaded.store, "_read", lambda name, where: read.append((found := original(name, where)).numel()) or found
    )
    loaded.save(tmp_path / "second")
    assert (tmp_path / "second").read_bytes() == (tmp_path / "first").read_bytes()
    # The largest head is one of scores, 21 by 21; the tensor has four of them.
    assert max(read) == 21 * 21


def test_a_loaded_trace_is_read_from_many_threads_and_copied(tmp_path: Path) -> None:
    trace = made_trace()
    trace.save(tmp_path / "t")
    loaded = gentrace.load(tmp_path / "t")
    stores = [loaded.store, copy.deepcopy(loaded).store, pickle.loads(pickle.dumps(loaded.store))]
    expected = trace.store.tensor("layers.0.self.queries")

    def right(index: int) -> bool:
        return torch.equal(stores[index % 3].slab("layers.0.self.queries", index % 4), expected[index % 4])

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(right, range(600)))


def test_a_file_that_shrinks_after_it_was_opened_is_damaged(saved: Path) -> None:
    loaded = gentrace.load(saved)
    os.truncate(saved, saved.stat().st_size - 5000)
    with pytest.raises(gentrace.TraceFormatError, match="the file ends"):
        for info in loaded.layers:
            loaded.queries(info.index)
            loaded.keys(info.index)
            loaded.values(info.index)


def test_a_trace_outlives_the_file_that_it_came_from(saved: Path, trace: gentrace.Trace) -> None:
    loaded = gentrace.load(saved)
    replace(trace, length=trace.length).save(saved)
    saved.unlink()
    assert torch.equal(loaded.keys(1), trace.keys(1))


def moved(entry: dict[str, Any], by: int) -> None:
    entry["data_offsets"] = [offset + by for offset in entry["data_offsets"]]


KEYS = "layers.1.self.keys"
EMPTY = b'"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
HOSTILE: dict[str, Callable[[dict[str, Any]], object]] = {
    "an overlap": lambda header: moved(header[KEYS], -8),
    "a gap": lambda header: moved(header[KEYS], 8),
    "beyond the end": lambda header: moved(header[KEYS], 10**9),
    "before the start": lambda header: moved(header[KEYS], -(10**9)),
    "a shape too large": lambda header: header[KEYS].update(shape=[2, 10**6, 16]),
    "a shape that overflows": lambda header: header[KEYS].update(shape=[2**40, 2**40, 2**40]),
    "an empty shape that overflows": lambda header: header.update(
        extra={"dtype": "F32", "shape": [0, 2**62, 2**62], "data_offsets": [0, 0]}
    ),
    "a negative shape": lambda header: header[KEYS].update(shape=[-2, -13, 16]),
    "a shape of floats": lambda header: header[KEYS].update(shape=[2.0, 13.0, 16.0]),
    "a shape of booleans": lambda header: header[KEYS].update(shape=[True]),
    "no shape": lambda header: header[KEYS].pop("shape"),
    "an unknown type": lambda header: header[KEYS].update(dtype="PICKLE"),
    "a type that is a list": lambda header: header[KEYS].update(dtype=["F32"]),
    "turned offsets": lambda header: header[KEYS]["data_offsets"].reverse(),
    "one offset": lambda header: header[KEYS]["data_offsets"].pop(),
    "no table": lambda header: header.update({KEYS: 7}),
    "metadata of numbers": lambda header: header["__metadata__"].update(more=7),
    "metadata of a list": lambda header: header.update(__metadata__=[]),
    "one tensor less": lambda header: header.pop(KEYS),
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_table_is_refused(saved: Path, change: Callable[[dict[str, Any]], object]) -> None:
    raw = saved.read_bytes()
    size = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + size])
    text = json.dumps(header).encode()
    saved.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + size :])
    assert gentrace.load(saved).length == 13
    change(header)
    text = json.dumps(header).encode()
    saved.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + size :])
    for opened in (Container.open, gentrace.load):
        with pytest.raises(gentrace.TraceFormatError, match=f"loading {saved}"):
            opened(saved)


@pytest.mark.parametrize(
    "header",
    [
        b"[]",
        b"{",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"{" + EMPTY + b"," + EMPTY + b"}",
        b"9" * 10_000,
        b"null",
        b"",
        b"NaN",
    ],
    ids=lambda header: header[:5].hex() + str(len(header)),
)
def test_a_header_that_is_no_table_is_refused(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "t"
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    for opened in (Container.open, gentrace.load):
        with pytest.raises(gentrace.TraceFormatError):
            opened(path)
    for length in (len(header) + 1, 2**31, 2**63, 2**64 - 1):
        path.write_bytes(struct.pack("<Q", length) + header)
        with pytest.raises(gentrace.TraceFormatError, match="not a safetensors file, or not all of it"):
            gentrace.load(path)
