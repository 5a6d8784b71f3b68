"""A file that grows is the trace that was streamed into it, whenever its writer stops."""

import copy
import json
import os
import pickle
import random
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import gentrace
from gentrace.errors import SpillError
from gentrace.trace.body import describe_start
from gentrace.trace.growing import GrowingFile
from tests.trace.steps import BODY, LAYER, is_right, keys, same, start, step
from tests.trace.streaming import META, Runs, Stream, made, tensors_of

WHOLE: Runs = [[0, None]]
PADDED: Runs = [[3, 9], [11, None]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "growing.safetensors"


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("runs", "encoder_runs"), [(WHOLE, WHOLE), (PADDED, [[2, 6], [9, None]])])
def test_a_closed_file_is_the_trace(path: Path, runs: Runs, encoder_runs: Runs, seed: int) -> None:
    dtype = (torch.float32, torch.bfloat16, torch.float16, torch.float64)[seed]
    trace = made(encoder=7 * (seed % 2), dtype=dtype, seed=seed)
    # The small capacity has to grow.
    stream = Stream(trace, path, runs, encoder_runs, (8, 64)[seed // 2], seed)
    stream.write(0, 9, axis="encoder")
    stream.write(0, 6)
    stream.seal()
    for stop in (9, 10, 17, len(trace.tokens)):
        stream.write(max(0, stop - random.Random(seed).randint(1, 12)), stop)
        stream.file.commit(stop)
    stream.write(0, len(trace.tokens))
    stream.close(sums=seed == 1)
    loaded = gentrace.load(path)
    for name, tensor in tensors_of(trace).items():
        assert same(loaded.store.tensor(name) if "tokens" not in name else tensors_of(loaded)[name], tensor), name
        if tensor.dim() == 3:
            assert same(loaded.store.slab(name, 0), tensor[0])
    assert (loaded.meta, loaded.fidelity, loaded.layers) == (trace.meta, trace.fidelity, trace.layers)
    # Everything that a trace holds is in its saved bytes.
    trace.save(path.with_name("plain"))
    for index, other in enumerate((loaded, copy.deepcopy(loaded), pickle.loads(pickle.dumps(loaded.store)))):
        if isinstance(other, gentrace.Trace):
            other.save(path.with_name(f"again{index}"))
            assert path.with_name(f"again{index}").read_bytes() == path.with_name("plain").read_bytes()
        else:
            assert same(other.tensor("masks.0.start"), trace.store.tensor("masks.0.start"))


def test_the_library_reads_it_in_every_state(path: Path) -> None:
    stream = Stream(made(), path, WHOLE, WHOLE, 32, 0)
    stream.write(0, 8)
    stream.seal()
    stream.file.commit(8)
    for close in (False, True):
        if close:
            stream.write(0, 22)
            stream.close()
        with safe_open(path, framework="pt") as file:
            found = file.get_tensor("layers.0.self.keys")
        assert found.shape == (2, 32, 8)
        assert same(found[:, :8], stream.tensors["layers.0.self.keys"][:, :8])


@pytest.mark.parametrize("runs", [WHOLE, PADDED])
def test_what_was_committed_is_read_while_the_file_grows(path: Path, runs: Runs) -> None:
    trace = made(encoder=5)
    stream = Stream(trace, path, runs, WHOLE, 40, 1)
    with pytest.raises(gentrace.TraceFormatError, match="stopped before its first forward ended"):
        gentrace.load(path)
    stream.write(0, 5, axis="encoder")
    stream.write(0, 6)
    stream.seal()
    assert gentrace.load(path).length == 0
    stream.file.commit(5, "encoder")
    for length in (6, 13, 21, 9):
        stream.write(0, length)
        stream.file.commit(stream.places["position"][length - 1] + 1)
        loaded = gentrace.load(path)
        assert (loaded.length, loaded.meta.complete, loaded.encoder_length) == (length, False, 5)
        for name in ("queries", "keys", "values"):
            assert same(getattr(loaded, name)(0), trace.store.tensor(f"layers.0.self.{name}")[:, :length])
            assert same(getattr(loaded, name)(0, kind="encoder"), trace.store.tensor(f"layers.0.encoder.{name}"))
        # Causal rows see nothing behind them, so a shorter trace has the same weights.
        whole = trace.attention(0)[:, :length, :length]
        torch.testing.assert_close(loaded.attention(0), whole, atol=1e-6, rtol=0)
        assert same(loaded.scores(2), trace.scores(2)[:, :length, :length])
        assert loaded.tokens.texts == tuple(f"[{token}]" for token in trace.tokens.ids[:length].tolist())
        assert loaded.tokens.prompt_length == 5
        assert same(loaded.tokens.logprobs, trace.tokens.logprobs[:length])
        assert loaded.tokens.top_texts[1] == tuple(f"[{token}]" for token in trace.tokens.top_ids[1].tolist())
        loaded.save(path.with_name("compact"))
        again = gentrace.load(path.with_name("compact"))
        assert not again.meta.complete
        assert same(again.attention(0), loaded.attention(0))
        assert again.tokens.texts == loaded.tokens.texts


def test_what_nobody_wrote_is_unknown(path: Path) -> None:
    file = GrowingFile(path, 16)
    start(file, 4)
    file.allocate("tokens.rank", torch.int64, ("position",))
    file.allocate("tokens.entropy", torch.float32, ("position",))
    file.write("tokens.entropy", 2, torch.tensor([0.5]))
    file.seal(BODY | {"tokens": {"texts": ["a", "b"], "prompt_length": 4}})
    file.commit(6)
    trace = gentrace.load(path)
    assert trace.keys(0).isnan().any(-1).all(0).tolist() == [False] * 4 + [True] * 2
    assert trace.tokens.entropy.tolist()[2] == 0.5
    assert trace.tokens.entropy.isnan().tolist() == [True, True, False, True, True, True]
    assert trace.tokens.rank.tolist() == [-1] * 6
    assert trace.tokens.top_ids.shape == (6, 0)
    assert trace.tokens.texts == ("a", "b", "[3]", "[4]", "[-1]", "[-1]")
    assert trace.attention(0)[0].isnan().all(-1).tolist() == [False] * 4 + [True] * 2
    # Written after all, it is what was written.
    step(file, 4)
    step(file, 5)
    assert same(gentrace.load(path).keys(0), keys(0, 6))


def test_a_layer_may_show_itself_later(path: Path) -> None:
    file = GrowingFile(path, 16)
    start(file, 4)
    step(file, 4)
    for name in ("queries", "keys"):
        file.allocate(f"layers.7.self.{name}", torch.float32, (2, "position", 4))
        file.write(f"layers.7.self.{name}", 5, keys(5, 6))
    assert [layer.index for layer in gentrace.load(path).layers] == [0]
    file.seal(describe_start([LAYER, replace(LAYER, index=7)], {(0, "self"): 0, (7, "self"): 0}, META, 4))
    step(file, 5)
    trace = gentrace.load(path)
    assert [layer.index for layer in trace.layers] == [0, 7]
    assert same(trace.keys(7)[:, 5:], keys(5, 6))
    assert bool(trace.keys(7)[:, :5].isnan().all())


def test_a_header_and_a_body_too_long_for_their_room_get_more(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gentrace.trace.growing.HEADER_ROOM", 4096 - 8)
    monkeypatch.setattr("gentrace.trace.growing.BODY_ROOM", 1024)
    file = GrowingFile(path, 16)
    for number in range(100):
        file.allocate(f"layers.{number}.self.values", torch.float32, (2, "position", 4))
    start(file, 4)
    for texts in (10, 1000, 100_000):
        file.describe(BODY | {"tokens": {"texts": ["word"] * texts, "prompt_length": 4}})
        step(file, 4)
        assert gentrace.load(path).tokens.texts == ("word",) * 5
    assert file.committed == 5
    with safe_open(path, framework="pt") as library:
        assert same(library.get_tensor("layers.0.self.keys")[:, :5], keys(0, 5))


def test_rows_that_do_not_fit_are_refused(path: Path) -> None:
    file = GrowingFile(path, 16)
    start(file, 4)
    for rows in (torch.zeros(3, 1, 4), torch.zeros(2, 1, 5), torch.zeros(2, 4), torch.zeros(2, 1, 4).double()):
        with pytest.raises(gentrace.CaptureError, match=r"rows of shape .* for \(2, 'position', 4\)"):
            file.write("layers.0.self.keys", 4, rows)
    with pytest.raises(SpillError, match="exists"):
        GrowingFile(path, 16)
    with pytest.raises(SpillError, match="no such folder"):
        GrowingFile(path.parent / "missing" / "file", 16)
    file.abandon()
    file.abandon()
    with pytest.raises(SpillError, match="closed"):
        step(file, 4)
    assert gentrace.load(path).length == 4


def damage(path: Path, change: Callable[[bytearray, int], None]) -> None:
    raw = bytearray(path.read_bytes())
    change(raw, struct.unpack("<Q", raw[:8])[0])
    path.write_bytes(raw)


def test_damage_is_noticed(path: Path) -> None:
    file = GrowingFile(path, 16)
    start(file, 4)
    whole = path.read_bytes()

    def flip(raw: bytearray, room: int, *places: int) -> None:
        for place in places:
            raw[place] ^= 1

    damage(path, lambda raw, room: flip(raw, room, 200))
    assert is_right(path) == 4
    damage(path, lambda raw, room: flip(raw, room, 8 + room + 4096 + 200))
    with pytest.raises(gentrace.TraceFormatError, match="neither copy"):
        gentrace.load(path)
    path.write_bytes(whole.replace(b"growing-1", b"growing-9"))
    with pytest.raises(gentrace.TraceFormatError, match=r"growing-9.*update gentrace"):
        gentrace.load(path)
    for word, value in ((2, 10**12), (2, -5), (4, 99 << 40), (4, 2**40 - 1), (4, 3)):
        path.write_bytes(whole)
        place = 8 + struct.unpack("<Q", whole[:8])[0] + 8 * word
        damage(path, lambda raw, _, at=place, put=value: raw.__setitem__(slice(at, at + 8), struct.pack("<q", put)))
        if value == -5:
            assert gentrace.load(path).length == 0
            continue
        with pytest.raises(gentrace.TraceFormatError):
            gentrace.load(path)
    for keep in (0.01, 0.5, 0.999):
        path.write_bytes(whole[: int(len(whole) * keep)])
        with pytest.raises(gentrace.TraceFormatError):
            gentrace.load(path)


def test_sums_notice_a_changed_byte(path: Path) -> None:
    stream = Stream(made(), path, WHOLE, WHOLE, 32, 0)
    stream.write(0, 22)
    stream.seal()
    stream.close(sums=True)
    raw = path.read_bytes()
    header = json.loads(raw[8 : 8 + struct.unpack("<Q", raw[:8])[0]])
    place = 8 + struct.unpack("<Q", raw[:8])[0] + header["layers.0.self.keys"]["data_offsets"][0] + 8 * 4 * 3
    damage(path, lambda raw, _: raw.__setitem__(place, raw[place] ^ 1))
    loaded = gentrace.load(path)
    assert same(loaded.store.slab("layers.0.self.keys", 1), stream.tensors["layers.0.self.keys"][1])
    with pytest.raises(gentrace.TraceFormatError, match="sums"):
        loaded.keys(0)


def test_committing_for_good_waits_for_the_disk(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    file = GrowingFile(path, 16)
    start(file, 4)
    assert not synced
    with_sync = GrowingFile(path.with_name("other"), 16, sync=True)
    start(with_sync, 4)
    before = len(synced)
    step(with_sync, 4)
    assert len(synced) == before + 2
