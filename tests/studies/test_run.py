"""Running a study: the same tables every time, nothing done twice, and what fails is a row and not the end."""

import errno
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from gentrace.errors import StudyError
from gentrace.studies import HopelessRun, LocalEngine, Staged, Task, load_spec, open_study
from gentrace.studies import work as working
from gentrace.studies.folder import Folder
from gentrace.studies.plan import Recipe
from gentrace.studies.spec import Spec
from tests.studies.made import WORDS, fails_on, made_spec, parts, records, run, said_about


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "study"
    summary, said = run(made_spec(keep={"traces": True}), out)
    assert summary.ok
    assert (summary.generations, summary.batches, summary.reused, said) == (14, 6, 0, [])
    return out


def user_spec(folder: Path, **changes: Any) -> Spec:
    """The study with a measure of the user's own, as a file in a folder."""
    (folder / "s.toml").write_text(made_toml(**changes))
    return load_spec(folder / "s.toml")


def made_toml(word: str = "{word}", tokens: str = "3", more: str = "") -> str:
    rows = ", ".join(f'{{word = "{entry}"}}' for entry in WORDS)
    return (
        f'models = "story"\nbatch_size = 3\nmeasures = ["own:check", "first_token_mass"]\n{more}\n'
        f'[prompts]\nrows = [{rows}]\ntemplate = "A {word}"\n[decoding]\nmax_new_tokens = {tokens}\n'
    )


def test_two_runs_give_the_same_bytes(whole: Path, tmp_path: Path) -> None:
    run(made_spec(keep={"traces": True}), tmp_path / "again")
    assert parts(tmp_path / "again") == parts(whole)
    assert len(parts(whole)) == 6 * 3 + 14


def test_the_comparison_of_bytes_can_fail(whole: Path, tmp_path: Path) -> None:
    run(made_spec(keep={"traces": True}, seeds=1), tmp_path / "other")
    same = set(parts(tmp_path / "other").values()) & set(parts(whole).values())
    assert not {path for path, digest in parts(whole).items() if digest in same and "traces" not in path}


def test_the_same_command_again_does_nothing(whole: Path) -> None:
    before = parts(whole), records(whole), (whole / "manifest.json").read_bytes()
    summary, said = run(made_spec(keep={"traces": True}), whole)
    assert (summary.batches, summary.reused, summary.new_tokens) == (0, 6, 0)
    assert said == ["6 of 6 batches are finished already"]
    assert (parts(whole), records(whole), (whole / "manifest.json").read_bytes()) == before


def test_only_what_is_missing_is_done_also_elsewhere_with_only_the_folder(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "moved"
    shutil.copytree(whole, out)
    before = parts(out)
    for name in sorted(records(out))[1:3]:
        (out / "commits" / name).unlink()
    summary, said = run(None, out)
    assert (summary.batches, summary.reused) == (2, 4)
    assert "unfinished files of a run that was interrupted" in said[0]
    assert parts(out) == before


def test_a_lost_and_a_damaged_part_are_made_again(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "lost"
    shutil.copytree(whole, out)
    before = parts(out)
    lost, *_, damaged = sorted((out / "heads").iterdir())
    lost.unlink()
    data = damaged.read_bytes()
    damaged.write_bytes(data[:40] + bytes([data[40] ^ 1]) + data[41:])
    summary, said = run(None, out)
    assert f"is done again: heads/{lost.name} is missing" in said_about(said, "missing")
    assert f"is done again: heads/{damaged.name} is not what was written" in said_about(said, "not what")
    assert (summary.batches, summary.reused) == (2, 4)
    assert parts(out) == before


def test_a_damaged_record_costs_its_own_batch_and_nothing_else(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "damaged"
    shutil.copytree(whole, out)
    before, kept = parts(out), records(out)
    cut, garbled, exchanged, *_ = sorted((out / "commits").iterdir())
    cut.write_bytes(cut.read_bytes()[:100])
    garbled.write_bytes(garbled.read_bytes().replace(b'"failed": 0', b'"failed": 1'))
    exchanged.write_bytes(sorted((out / "commits").iterdir())[-1].read_bytes())
    with pytest.raises(StudyError, match=f"reading {cut}. it is damaged: .*run the study again, with its SPEC"):
        open_study(out)
    summary, said = run(None, out)
    assert (summary.batches, summary.reused, summary.ok) == (3, 3, True)
    for path, why in ((cut, "Unterminated string"), (garbled, "its sum does"), (exchanged, "it is that of another")):
        line = said_about(said, path.name)
        assert re.fullmatch(rf"batch \d is done again: its record commits/{path.name} is damaged: {why}.*", line)
    assert len(said) == 4
    assert parts(out) == before
    assert {name for name, when in records(out).items() if kept[name] == when} == {
        path.name for path in (out / "commits").iterdir() if path not in (cut, garbled, exchanged)
    }
    # Of a batch that is planned no more, what there is stays until it is asked away.
    cut.write_text("")
    shorter = made_spec(keep={"traces": True}, decoding=[{"max_new_tokens": 2}])
    _, said = run(shorter, out)
    assert "6 finished batches are planned no more; they stay" in said[-1]
    assert "1 whose records are damaged, --prune removes them" in said[-1]
    assert before.items() <= parts(out).items()
    run(shorter, out, prune=True)
    assert not before.items() & parts(out).items()
    assert len(parts(out)) == 3 * 3 + 7


def test_a_damaged_list_of_prompts_is_named_and_written_anew(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "prompts"
    shutil.copytree(whole, out)
    path = next(out.glob("prompts-*"))
    good = path.read_bytes()
    path.write_bytes(good[:40] + bytes([good[40] ^ 1]) + good[41:])
    with pytest.raises(StudyError, match=f"reading {path}. it is not what was written. run the study again, with its"):
        run(None, out)
    summary, _ = run(made_spec(keep={"traces": True}), out)
    assert (summary.batches, summary.reused) == (0, 6)
    assert path.read_bytes() == good


def test_a_changed_setting_does_again_only_what_it_changes(tmp_path: Path) -> None:
    greedy, sampled = {"max_new_tokens": 6}, {"do_sample": True, "max_new_tokens": 6}
    run(made_spec(decoding=[greedy, sampled]), tmp_path)
    before = records(tmp_path)
    changed = made_spec(decoding=[greedy, {**sampled, "top_k": 5}, {"name": "long", "max_new_tokens": 8}])
    summary, said = run(changed, tmp_path)
    assert (summary.batches, summary.reused) == (6, 3)
    assert "3 finished batches not reused: decoding.top_k is new: 5" in said
    assert "3 finished batches are planned no more; they stay" in said_about(said, "planned no more")
    assert before.items() <= records(tmp_path).items()
    study = open_study(tmp_path)
    assert len(study.generations()) == 21
    assert set(study.tokens(["decoding"])["decoding"]) == {"greedy", "sample", "long"}
    # Back again: nothing is done, because nothing was thrown away.
    summary, said = run(made_spec(decoding=[greedy, sampled]), tmp_path)
    assert (summary.batches, summary.reused) == (0, 6)
    summary, said = run(None, tmp_path, prune=True)
    assert "removed 6 batches that are planned no more" in said[-1]
    assert len(records(tmp_path)) == 6
    assert len(open_study(tmp_path).generations()) == 14


def test_what_fails_is_a_row_and_the_rest_goes_on(tmp_path: Path) -> None:
    mend = fails_on(tmp_path / "own.py", "dog")
    out = tmp_path / "out"
    summary, _ = run(user_spec(tmp_path), out)
    assert (summary.ok, summary.failed, summary.generations) == (False, 1, 7)
    study = open_study(out)
    (failure,) = study.failures().to_dict("records")
    assert (failure["prompt"], failure["try"], failure["stage"]) == ("A dog", 1, "measure check")
    assert failure["error"] == "ValueError: no dog please"
    heads = study.generations()
    # The failing measure is missing for one text; whatever else was measured is there.
    assert heads["check"].isna().sum() == 1
    assert not study.heads()["first_token_mass"].isna().any()
    # Failures are finished too: they are not tried again by themselves.
    assert run(None, out)[0].batches == 0
    summary, said = run(None, out, retry_failed=True)
    assert summary.batches == 1
    assert "1 of its generations failed" in said_about(said, "tried again")
    assert open_study(out).failures()["try"].tolist() == [2]
    mend()
    summary, said = run(load_spec(tmp_path / "s.toml"), out)
    assert (summary.ok, summary.batches) == (True, 3)
    assert re.fullmatch(
        r"3 finished batches not reused: measure check\.source was [0-9a-f]{12}…, is [0-9a-f]{12}…", said[0]
    )
    assert open_study(out).failures().empty


def break_generation(monkeypatch: pytest.MonkeyPatch, word: str) -> None:
    original = working.generate_batch

    def generate(loaded: Any, texts: list[str], *args: Any, **kwargs: Any) -> Any:
        if any(word in text for text in texts):
            raise RuntimeError(f"cannot say {word}")
        return original(loaded, texts, *args, **kwargs)

    monkeypatch.setattr(working, "generate_batch", generate)


def test_one_bad_prompt_does_not_cost_its_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(made_spec(), tmp_path / "good")
    break_generation(monkeypatch, "bird")
    summary, _ = run(made_spec(), tmp_path / "bad")
    assert summary.failed == 2
    good, bad = open_study(tmp_path / "good"), open_study(tmp_path / "bad")
    assert bad.failures()["error"].tolist() == ["RuntimeError: cannot say bird"] * 2
    assert bad.failures()["prompt"].tolist() == ["Once there was a bird."] * 2
    alone = bad.generations()["alone"]
    assert alone.sum() == 2 * 2
    texts = good.generations()["completion"]
    assert bad.generations()["completion"].to_dict() == {number: texts[number] for number in alone.index}


def test_a_hopeless_run_is_stopped_and_keeps_what_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    break_generation(monkeypatch, "Once")
    with pytest.raises(HopelessRun, match="3 of 3 generations failed, the last with: RuntimeError: cannot say Once"):
        run(made_spec(max_failures=2), tmp_path / "count")
    assert len(open_study(tmp_path / "count").failures()) == 3
    with pytest.raises(HopelessRun, match="10 of 10 generations failed"):
        run(made_spec(max_failures=0.5), tmp_path / "share")
    summary, _ = run(made_spec(max_failures=1.0), tmp_path / "never")
    assert summary.failed == 14
    assert not (tmp_path / "count" / "lock").exists()


def test_a_full_disk_is_one_clear_error_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(made_spec(), tmp_path / "reference")
    original, calls = os.fsync, [0]

    def fsync(descriptor: int) -> None:
        calls[0] += 1
        if calls[0] > 40:
            raise OSError(errno.ENOSPC, "No space left on device")
        original(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(StudyError, match="free some space and run the same command again"):
        run(made_spec(), tmp_path / "full")
    monkeypatch.setattr(os, "fsync", original)
    done = records(tmp_path / "full")
    assert 0 < len(done) < 6
    run(made_spec(), tmp_path / "full")
    assert parts(tmp_path / "full") == parts(tmp_path / "reference")
    assert done.items() <= records(tmp_path / "full").items()


def test_folders_of_something_else_are_refused(whole: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("important")
    with pytest.raises(StudyError, match="and is no study"):
        run(made_spec(), tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]
    (tmp_path / "file").write_text("")
    with pytest.raises(StudyError, match="it is a file"):
        run(made_spec(), tmp_path / "file")
    old = tmp_path / "old"
    shutil.copytree(whole, old)
    text = (old / "manifest.json").read_text().replace('"format": 1', '"format": 0')
    (old / "manifest.json").write_text(text)
    before = parts(old)
    for attempt in (lambda: run(made_spec(), old), lambda: run(None, old), lambda: open_study(old)):
        with pytest.raises(StudyError, match="its format is 0; this gentrace reads format 1"):
            attempt()
    assert (parts(old), (old / "manifest.json").read_text()) == (before, text)


def test_user_code_travels_with_the_folder(tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.mkdir()
    fails_on(there / "own.py", "no such word", count=5)
    run(user_spec(there), there / "out")
    shutil.move(there / "out", tmp_path / "out")
    shutil.rmtree(there)
    for name in sorted(records(tmp_path / "out"))[:2]:
        (tmp_path / "out" / "commits" / name).unlink()
    assert run(None, tmp_path / "out")[0].batches == 2
    assert set(open_study(tmp_path / "out").generations()["check"]) == {5.0}


class Clumsy:
    """An engine that does batches in another order, some twice, and leaves the last ones undone."""

    device = None

    def __init__(self, undone: int = 0) -> None:
        self.undone = undone

    def run(
        self, tasks: Sequence[Task], recipe: Recipe, folder: Folder, say: Callable[[str], object]
    ) -> Iterator[Staged]:
        mine = list(reversed(tasks))[: len(tasks) - self.undone]
        yield from LocalEngine().run([*mine, *mine[:2]], recipe, folder, say)


def test_the_tables_do_not_depend_on_the_engine(whole: Path, tmp_path: Path) -> None:
    spec = made_spec(keep={"traces": True})
    with pytest.raises(StudyError, match="the engine left 2 batches undone"):
        run(spec, tmp_path, engine=Clumsy(undone=2))
    assert len(records(tmp_path)) == 4
    summary, _ = run(spec, tmp_path, engine=Clumsy())
    assert (summary.batches, summary.reused) == (2, 4)
    assert parts(tmp_path) == parts(whole)
    assert open_study(tmp_path).tokens().equals(open_study(whole).tokens())


def test_prompts_that_cannot_be_read_are_no_trouble_of_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "q.txt").write_text("a")

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "q.txt")

    monkeypatch.setattr("gentrace.studies.run.read_prompts", refuse)
    with pytest.raises(StudyError, match="reading prompts from"):
        run(made_spec(prompts=str(tmp_path / "q.txt")), tmp_path / "out")
