"""``gentrace study`` as a user meets it."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gentrace.studies import open_study
from gentrace.studies.commands import study
from tests.studies.made import fails_on, records

SPEC = """
models = "story"
batch_size = 2
measures = ["attention_entropy"]
prompts = ["Once there was a cat.", "Once there was a dog in a big park.", "One day"]
[decoding]
do_sample = [false, true]
max_new_tokens = 10
"""


def call(*arguments: object) -> Result:
    return CliRunner().invoke(study, [str(argument) for argument in arguments])


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "s.toml"
    path.write_text(SPEC)
    return path


def test_check_run_verify(spec: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    checked = call("check", spec, "--out", out)
    assert checked.exit_code == 0, checked.output
    for line in ("generations  6", "batches      4", "new tokens   at most 60", "settings     greedy, sample"):
        assert line in checked.output
    assert not out.exists()
    ran = call("run", spec, "--out", out)
    assert ran.exit_code == 0, ran.output
    assert f"6 of 6 generations are in {out}: 4 batches done, 0 reused, 60 new tokens" in ran.output
    assert len(open_study(out).generations()) == 6
    assert "0 batches done, 4 reused" in call("run", "--out", out).output
    assert "batches      4, 4 of them finished" in call("check", spec, "--out", out).output
    verified = call("verify", out, "--batches", 2, "--audit-batches", "--sample", 2, "--seed", 1)
    assert verified.exit_code == 0, verified.output
    assert "the largest difference is 0.0e+00" in verified.output
    assert "batching changed 0 of 2 texts" in verified.output
    damaged = next((out / "tokens").iterdir())
    damaged.write_bytes(damaged.read_bytes()[:-4] + b"XXXX")
    assert call("verify", out, "--batches", 0).exit_code == 1


def test_the_estimate_is_near_what_comes(spec: Path, tmp_path: Path) -> None:
    checked = call("check", spec)
    (line,) = [line for line in checked.output.splitlines() if line.startswith("bytes")]
    number, unit = line.split("about ")[1].split()[:2]
    estimated = float(number) * {"B": 1, "kB": 1e3, "MB": 1e6}[unit]
    call("run", spec, "--out", tmp_path / "out")
    real = sum(
        path.stat().st_size
        for kind in ("tokens", "heads", "generations")
        for path in (tmp_path / "out" / kind).iterdir()
    )
    assert 0.5 < estimated / real < 2.5


def test_failures_end_in_a_non_zero_code(spec: Path, tmp_path: Path) -> None:
    fails_on(tmp_path / "own.py", "dog")
    spec.write_text(SPEC.replace('"attention_entropy"', '"own:check"'))
    checked = call("check", spec)
    assert checked.exit_code == 1
    assert "trouble      measure check: ValueError: no dog please" in checked.output
    ran = call("run", spec, "--out", tmp_path / "out")
    assert ran.exit_code == 1
    assert "4 of 6 generations are in" in ran.output
    said = ran.output[ran.output.index("Error:") :].splitlines()
    assert said[:2] == [
        "Error: 2 generations failed:",
        "  measure check: ValueError: no dog please (2 times, first with 'Once there was a dog in a big park.')",
    ]
    assert "--retry-failed tries them again" in said[2]
    assert len(records(tmp_path / "out")) == 4
    again = call("run", spec, "--out", tmp_path / "out")
    assert (again.exit_code, "4 reused" in again.output) == (1, True)


def test_mistakes_are_named(spec: Path, tmp_path: Path) -> None:
    spec.write_text(SPEC.replace("max_new_tokens = 10", "max_new_tokens = 0\ntemprature = 1"))
    for command in (("check", spec), ("run", spec, "--out", tmp_path / "out")):
        result = call(*command)
        assert result.exit_code == 1
        assert "s.toml:8:18: decoding.max_new_tokens is 0: input should be greater" in result.output
        assert "s.toml:9:1: unknown key 'temprature' (did you mean 'temperature'?)" in result.output
    assert not (tmp_path / "out").exists()
    # What only shows when the prompts are read and the measures looked for has a line too, and leaves no folder either.
    spec.write_text(SPEC.replace('prompts = ["Once', 'prompts = {file = "q.txt"}\nseeds = [0]\n# ["Once'))
    (tmp_path / "q.txt").write_text("\n\n")
    assert "s.toml:5:19: q.txt holds no prompts" in call("run", spec, "--out", tmp_path / "out").output
    (tmp_path / "own.py").write_text("def check(trace):\n    return 1.0\n")
    spec.write_text(SPEC.replace('"attention_entropy"', '"own:chek", "no:check"'))
    said = call("run", spec, "--out", tmp_path / "out").output
    assert "s.toml:4:13: importing the measure own:chek. own has no function 'chek' (did you mean 'check'?)" in said
    assert "s.toml:4:25: importing the measure no:check. ModuleNotFoundError" in said
    assert not (tmp_path / "out").exists()
    assert "there is no manifest.json" in call("run", "--out", tmp_path / "nothing").output
    assert not (tmp_path / "nothing").exists()
    assert "No such file" in call("check", tmp_path / "missing.toml").output
    assert call("verify", tmp_path).exit_code == 1
