"""The benches: what they compute is right on cases done by hand, and both run and print what they promise."""

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from gentrace.demo import load
from scripts import bench_overhead, bench_own, bench_scale, bench_steps
from scripts.bench_parts import Pair, Pairs, bytes_held, interleaved, places_outside
from scripts.peers import eager, recording
from scripts.peers.case import Case, Variant, stitched

ROOT = Path(__file__).resolve().parents[1]
PROMPT, NEW = 24, 8


def run(script: str, *arguments: str) -> tuple[int, str]:
    command = [sys.executable, str(ROOT / "scripts" / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert not done.stderr, done.stderr
    return done.returncode, done.stdout


def table(text: str, number: int = 0) -> list[dict[str, str]]:
    """The rows of one of the Markdown tables that a text holds, by column."""
    blocks = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    head, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in blocks[number])
    return [dict(zip(head, row, strict=True)) for row in rows]


@pytest.fixture(scope="module")
def case() -> Case:
    model, tokenizer = load("story")
    return bench_overhead.made("story", model, tokenizer, "sdpa", bench_overhead.Setting(PROMPT, NEW, 2))


def test_a_run_is_compared_with_the_mean_of_its_neighbours() -> None:
    """Plain takes 1, 3, 5 … seconds; the variants 4 and 12: each is twice, then the ratio to its own neighbours."""
    plain, order = iter(range(1, 99, 2)), []

    def timed(work: Callable[[], Any]) -> tuple[float, float, Any]:
        result = work()
        return result, result / 2, result

    def variant(name: str, seconds: float) -> tuple[str, Callable[[], float], Callable[[Any], float]]:
        return name, lambda: order.append(name) or seconds, lambda result: result / 4

    found = interleaved(lambda: next(plain), [variant("a", 4.0), variant("b", 12.0)], 2, timed)
    assert order == ["a", "b", "b", "a"]
    # Round one: 1 a 3 b 5; round two: 7 b 9 a 11.
    assert [pair.wall for pair in found["a"].all] == [4 / 2, 4 / 10]
    assert [pair.wall for pair in found["b"].all] == [12 / 4, 12 / 8]
    assert [pair.cpu for pair in found["b"].all] == [12 / 4, 12 / 8]
    assert [pair.plain for pair in found["a"].all] == [2, 10]
    assert found["a"].median("after") == 1
    assert found["a"].median("wall") == 1.2


def test_short_runs_are_repeated_until_there_are_enough() -> None:
    found = interleaved(lambda: None, [("a", lambda: None, None)], 3, lambda work: (1.0, 1.0, work()), 0.02)
    assert len(found["a"].all) > 3


def test_the_interval_of_a_median_is_that_of_the_tables() -> None:
    """Distribution-free 95 % intervals as in textbooks: of 6 all, of 10 the 2nd to 9th, of 20 the 6th to 15th."""
    assert [places_outside(count) for count in (1, 5, 6, 10, 20)] == [-1, -1, 0, 1, 5]
    pairs = Pairs([Pair(wall / 10, 1.0, 1.0, 0.0) for wall in (9, 1, 8, 2, 7, 3, 6, 4, 5, 10)])
    assert pairs.certain() == "0.200 … 0.900"


def test_two_generations_take_turns_and_their_steps_are_compared(capsys: pytest.CaptureFixture[str]) -> None:
    model, _ = load("story")
    ids = torch.randint(100, 500, (1, 6), generator=torch.Generator().manual_seed(0))
    pair = bench_steps.Pair(model)
    assert all(a is b for a, b in zip(*(each.parameters() for each in pair.models.values()), strict=True))
    rounds = bench_steps.measure(pair, ids, 4, least=2, seconds=0)
    # Up to each of four tokens, and what comes after the last.
    assert [len(each) for one in rounds for each in (one.plain, one.recorded)] == [5] * 4
    assert bench_steps.main(["--model", "story", "--settings", "600+4"]) == 1
    assert "OVER" in capsys.readouterr().out


def test_steps_are_compared_by_their_medians() -> None:
    """Plain steps take 1 and 2 s (medians), recorded ones a tenth more; beginning and end 0.3 and 0.1 s more."""
    plain = [[1.0, 1.0, 2.0, 3.0], [9.0, 1.0, 2.0, 3.0], [1.0, 1.0, 9.0, 3.0]]
    recorded = [[1.3, 1.1, 2.2, 3.1], [1.3, 1.1, 9.0, 9.0], [0.0, 1.1, 2.2, 3.1]]
    rounds = [bench_steps.Round(a, b) for a, b in zip(plain, recorded, strict=True)]
    assert bench_steps.figures(rounds) == pytest.approx((7.7 / 7, 1.1, 400, 7000))


def test_own_time_is_counted_once_and_belongs_to_the_outermost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each reading of the clock is a second later than the one before; what is called inside reads none."""
    seconds = iter(range(99))
    monkeypatch.setattr(bench_own.time, "perf_counter", lambda: next(seconds))

    class Owner:
        def outer(self) -> int:
            return self.inner() + 1

        def inner(self) -> int:
            return 1

    clocks, plain = bench_own.Clocks(), dict(vars(Owner))
    with clocks.watching({"a": [(Owner, "outer")], "b": [(Owner, "inner")]}):
        assert (Owner().outer(), Owner().inner(), Owner().outer()) == (2, 1, 2)
    assert clocks.seconds == {"a": 2, "b": 1}
    assert dict(vars(Owner)) == plain
    assert bench_own.Share(10.0, {"a": 2.0, "b": 0.5}).ratio == pytest.approx(1 / 3)


def test_the_shares_of_a_generation_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--model", "story", "--settings", f"{PROMPT}+{NEW},600+4", "--batch", "1", "--rounds", "1"]
    bench_own.main([*options, "--variants", "defaults,tokens"])
    rows = table(capsys.readouterr().out)
    ways = ["gentrace", "gentrace, layers=()"]
    assert [(row["kernel"], row["what"]) for row in rows] == [(k, way) for k in ("sdpa", "eager") for way in ways]
    with pytest.raises(SystemExit):
        bench_own.main([*options, "--variants", "defalts"])
    for row in rows:
        own = sum(float(row[part]) for part in bench_own.ENTRIES)
        whole = float(row["whole, ms"])
        assert min(float(row[part]) for part in bench_own.ENTRIES) > 0
        # Medians of several rounds need not belong together.
        assert float(row["own / rest"]) == pytest.approx(own / (whole - own), rel=0.3)


def test_turns_alternate_until_one_has_ended() -> None:
    order: list[str] = []
    turns = bench_steps.Turns("a", "b")

    def work(name: str, times: int) -> None:
        for number in range(times):
            turns.wait(name)
            order.append(name)
            turns.over(name, ended=number == times - 1)

    other = threading.Thread(target=work, args=("b", 2))
    other.start()
    work("a", 4)
    other.join()
    assert "".join(order) == "ababaa"


def test_storages_are_counted_once_and_weights_not_at_all() -> None:
    whole, weight = torch.zeros(10), torch.zeros(7)

    def closed() -> torch.Tensor:
        return whole

    held = {"a": whole, "b": [whole[2:4], torch.zeros(3)], "c": closed, "weight": weight.view(7, 1)}
    assert bytes_held(held) == 4 * (10 + 3 + 7)
    assert bytes_held(held, [weight]) == 4 * (10 + 3)
    assert bytes_held(closed) == 40
    assert bytes_held(torch.nn.Linear(3, 3)) == 0


def test_ragged_rows_make_a_triangle() -> None:
    steps = [torch.tensor([[1.0, 0.0], [0.4, 0.6]]), torch.tensor([[0.1, 0.2, 0.7]])]
    assert stitched(steps).tolist() == torch.tensor([[1.0, 0, 0], [0.4, 0.6, 0], [0.1, 0.2, 0.7]]).tolist()


def test_bytes_of_the_peer_are_those_of_its_matrices(case: Case) -> None:
    (way,) = eager.variants(case)
    assert isinstance(way, Variant)
    ids, held = way.run()
    config = case.model.config
    cells = PROMPT * PROMPT + sum(range(PROMPT + 1, PROMPT + NEW))
    assert bytes_held(way.keep(held)) == 4 * 2 * config.num_hidden_layers * config.num_attention_heads * cells
    assert torch.equal(ids, case.plain())


def test_every_way_gives_the_same_matrix(case: Case) -> None:
    (peer,) = eager.variants(case)
    assert isinstance(peer, Variant)
    assert peer.matrix is not None
    wanted = peer.matrix(peer.run()[1])
    ways = recording.variants(case, recording.NAMES)
    assert [way.source for way in ways] == list(recording.NAMES)
    assert [way.source for way in ways if way.matrix is None] == ["tokens"]
    for way in ways:
        ids, held = way.run()
        assert torch.equal(ids, case.plain())
        if way.matrix is not None:
            assert (way.matrix(held) - wanted).abs().max() < 1e-5
        layers = {"defaults": 4, "unverified": 4, "third": 1, "one": 1, "tokens": 0}[way.source]
        assert {len(trace.layers) for trace in way.keep(held)} == {layers}


def test_a_matrix_that_differs_and_other_tokens_are_said(case: Case) -> None:
    (way,) = recording.variants(case, ["one"])
    reference = case.plain()
    prepared, matrix = bench_overhead.prepare(case, way, reference, None)
    assert not prepared.notes
    assert matrix is not None
    assert "differs by" in bench_overhead.prepare(case, way, reference, matrix + 0.5)[0].notes[0]
    assert bench_overhead.prepare(case, way, reference + 1, matrix)[0].notes == ["other tokens than plain"]


def test_a_twin_shares_weights_and_nothing_else(case: Case) -> None:
    twin = case.twin("eager")
    assert {id(weight) for weight in twin.parameters()} == {id(weight) for weight in case.model.parameters()}
    assert not {id(module) for module in twin.modules()} & {id(module) for module in case.model.modules()}
    assert (twin.config._attn_implementation, case.model.config._attn_implementation) == ("eager", "sdpa")


@pytest.mark.slow
def test_the_overhead_bench_prints_a_row_for_each_way() -> None:
    arguments = ("--quick", "--settings", "24+4,9000+1", "--variants", "defaults", "--peers", "hf,nnsight")
    code, text = run("bench_overhead.py", *arguments, "--limit", "0")
    assert code == 1
    assert "OVER the limit of 0.00" in text
    rows = {(row["prompt + new"], row["what"]): row for row in table(text)}
    for name in ("gentrace", "transformers, eager, output_attentions"):
        row = rows["24 + 4", name]
        assert float(row["wall, median"]) > 0
        assert row["kept"].endswith(" MB")
        assert row["peak above plain"].endswith(" MB (host)")
        assert not row["note"]
    assert "positions" in rows["9000 + 1", "plain"]["note"]
    missing = [row for (_, name), row in rows.items() if name == "nnsight"]
    assert all("ModuleNotFoundError" in row["note"] for row in missing)


@pytest.mark.slow
def test_the_scale_bench_prints_exponents() -> None:
    sizes = ("--lengths", "16,64", "--layers", "1,4", "--heads", "1,4", "--batch", "1,4", "--base", "64,4,2,1")
    code, text = run("bench_scale.py", *sizes, "--rounds", "2", "--steps", "4")
    rows = {(row["cost"], row["grows with"]): row for row in table(text)}
    assert set(rows) == {(what, name) for what in bench_scale.EXPECTED for name in bench_scale.EXPECTED[what]}
    assert float(rows["bytes", "batch"]["exponent"]) == pytest.approx(1, abs=0.02)
    wrong = [name for (what, name), row in rows.items() if what == "bytes" and row["verdict"] != "as expected"]
    assert code == int(bool(wrong))
    assert len(table(text, 1)) == 8


def test_an_exponent_is_found() -> None:
    sizes = [1, 2, 4, 8]
    line = bench_scale.fit(sizes, [3 * size**2 for size in sizes])
    assert line is not None
    assert line.exponent == pytest.approx(2)
    assert line.r_squared == pytest.approx(1)
    assert bench_scale.fit(sizes, [-1, -1, -1, 5]) is None
    assert bench_scale.interval(sizes, [[size] * 3 for size in sizes]) == pytest.approx(0)
    noisy = [[size * factor for factor in (0.5, 1, 2)] for size in sizes]
    assert bench_scale.interval(sizes, noisy) > 0.1
