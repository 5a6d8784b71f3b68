"""Verifying finds what was changed, and the audit finds what batching changes."""

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gentrace.errors import StudyError
from gentrace.studies import audit_batches, open_study, verify_study
from gentrace.studies import verify as checking
from gentrace.studies.folder import Folder, Record, StagedFile, file_sum
from tests.studies.made import made_spec, run


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("verify") / "study"
    run(made_spec(keep={"steps": True, "traces": True}), out)
    return out


def verified(out: Path, **options: Any) -> checking.Verified:
    return verify_study(out, say=lambda line: None, **{"batches": 99, **options})


def test_a_study_is_what_it_says(whole: Path) -> None:
    found = verified(whole)
    assert found.ok
    study = open_study(whole)
    assert found.rows == found.identical == len(study.tokens()) + len(study.heads()) + len(study.generations())
    assert found.files == 6 * 3 + 14
    assert found.largest == 0.0


def test_changed_bytes_are_found(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "study"
    shutil.copytree(whole, out)
    first, second = sorted((out / "traces").iterdir())[:2]
    first.write_bytes(first.read_bytes()[:-1] + b"?")
    second.unlink()
    found = verified(out, batches=0)
    assert not found.ok
    assert set(found.damaged) == {
        f"traces/{first.name} is not what was written",
        f"traces/{second.name} is missing",
    }


def test_a_damaged_record_is_found_and_hides_no_other_batch(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "study"
    shutil.copytree(whole, out)
    path = min((out / "commits").iterdir())
    path.write_bytes(path.read_bytes()[:-20])
    found = verified(out)
    (line,) = found.damaged
    assert line.startswith(f"a batch is lost, its record commits/{path.name} is damaged: ")
    assert (found.ok, found.differences, found.identical) == (False, (), found.rows)
    assert 0 < found.rows < verified(whole).rows
    assert len(audit_batches(out, sample=1, say=lambda line: None)) == 1


def forge(out: Path, kind: str, column: str, value: Any) -> None:
    """Change one entry of a finished table and mend every sum, as somebody would who wants it to be believed."""
    folder = Folder(out)
    record = next(folder.records())
    old = next(file for file in record.files if file.kind == kind)
    table = pq.read_table(out / old.path)
    values = table.column(column).to_pylist()
    values[3] = value
    place = table.schema.names.index(column)
    table = table.set_column(place, column, pa.array(values, table.schema.field(column).type))
    new = folder.stage_table(kind, record.hash, table)
    files = tuple(new if file.kind == kind else file for file in record.files)
    folder.commit(Record(**{**{name: getattr(record, name) for name in record.__slots__}, "files": files}))


@pytest.mark.parametrize(("kind", "column", "value"), [("tokens", "id", 7), ("heads", "attention_entropy", 0.123)])
def test_changed_rows_are_found_by_computing_them_again(
    kind: str, column: str, value: Any, whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "study"
    shutil.copytree(whole, out)
    forge(out, kind, column, value)
    found = verified(out)
    assert not found.damaged
    (difference,) = found.differences
    assert (difference.table, difference.column, difference.stored) == (kind, column, value)
    assert found.identical == found.rows - 1
    assert f"{column} is {value!r}" in str(difference)


def test_rounding_of_another_machine_is_no_difference(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "study"
    shutil.copytree(whole, out)
    record = next(Folder(out).records())
    heads = next(file for file in record.files if file.kind == "heads")
    entropy = pq.read_table(out / heads.path).column("attention_entropy").to_pylist()[3]
    forge(out, "heads", "attention_entropy", entropy + 1e-6)
    found = verified(out)
    assert found.ok
    assert found.identical == found.rows - 1
    assert found.largest == pytest.approx(1e-6)


def test_a_study_of_other_ingredients_cannot_be_computed_again(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "study"
    shutil.copytree(whole, out)
    manifest = json.loads((out / "manifest.json").read_text())
    manifest["spec"]["seeds"] = [5]
    (out / "manifest.json").write_text(json.dumps(manifest))
    for check in (verified, lambda path: audit_batches(path, say=lambda line: None)):
        with pytest.raises(StudyError, match="seed was 0, is 5"):
            check(out)


def test_the_audit_compares_with_each_prompt_alone(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = audit_batches(whole, sample=99, say=lambda line: None)
    # Of each setting's seven prompts, one is alone in its batch already.
    assert len(found) == 12
    assert {one.mates for one in found} == {2}
    assert all(one.first is None and one.largest < 1e-4 for one in found)
    original = checking.generate_alone

    def shorter(loaded: Any, recipe: Any, one: Any, arguments: dict[str, Any]) -> Any:
        return original(loaded, recipe, one, {**arguments, "max_new_tokens": 2})

    monkeypatch.setattr(checking, "generate_alone", shorter)
    assert {one.first for one in audit_batches(whole, sample=99, say=lambda line: None)} == {2}


def test_sums_are_of_the_files(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    # SHA-256 of "abc", from FIPS 180-2.
    assert file_sum(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert StagedFile("a", "tokens", 3, "", 0, {}).generation is None
