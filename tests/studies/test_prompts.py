"""Prompts from every kind of source come out alike, and what is wrong in a source is named with its line."""

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gentrace.errors import StudyError
from gentrace.studies import Spec, SpecError, load_spec, parse_spec
from gentrace.studies.prompts import factor_types, prompt_table, read_prompts, stored_prompts

ROWS: list[dict[str, Any]] = [
    {"q": "What is «this»?", "level": 1, "topic": "a, b"},
    {"q": 'Two\nlines and "quotes"', "level": 2, "topic": "ü"},
    {"q": "Third", "level": 3, "topic": "c"},
]
TEXTS = ["Q: What is «this»? {1}", 'Q: Two\nlines and "quotes" {2}', "Q: Third {3}"]


def write(source: str, folder: Path) -> str:
    """Write the rows in some form, and return its name."""
    table = pa.Table.from_pylist(ROWS)
    if source == "jsonl":
        (folder / "q.jsonl").write_text("\n".join(map(json.dumps, ROWS)) + "\n\n", encoding="utf-8")
    elif source == "csv":
        with (folder / "q.csv").open("w", newline="", encoding="utf-8-sig") as file:
            writer = csv.DictWriter(file, list(ROWS[0]))
            writer.writeheader()
            writer.writerows(ROWS)
    elif source == "parquet":
        pq.write_table(table, folder / "q.parquet", row_group_size=2)
    elif source == "folder of parquet":
        (folder / "q").mkdir()
        pq.write_table(table.slice(0, 2), folder / "q" / "0.parquet")
        pq.write_table(table.slice(2), folder / "q" / "1.parquet")
        return "q"
    else:
        import datasets

        found = datasets.Dataset.from_list(ROWS)
        (datasets.DatasetDict({"test": found}) if source == "splits" else found).save_to_disk(str(folder / "q"))
        return "q"
    return f"q.{source}"


@pytest.mark.parametrize("source", ["jsonl", "csv", "parquet", "folder of parquet", "dataset", "splits"])
def test_every_source_gives_the_same_prompts(source: str, tmp_path: Path) -> None:
    name = write(source, tmp_path)
    split = "split = 'test'\n" if source == "splits" else ""
    (tmp_path / "s.toml").write_text(
        f"models = 'story'\n[prompts]\nfile = '{name}'\n{split}template = 'Q: {{q}} {{{{{{level}}}}}}'\n"
        "factors = {difficulty = 'level', topic = 'topic'}\n"
    )
    prompts = read_prompts(load_spec(tmp_path / "s.toml"))
    assert [prompt.text for prompt in prompts] == TEXTS
    assert [prompt.factors["topic"] for prompt in prompts] == [row["topic"] for row in ROWS]
    levels = [prompt.factors["difficulty"] for prompt in prompts]
    # A CSV file has no numbers.
    assert levels == (["1", "2", "3"] if source == "csv" else [1, 2, 3])
    assert [prompt.index for prompt in prompts] == [0, 1, 2]
    assert stored_prompts(prompt_table(prompts)) == prompts


def spec(**prompts: Any) -> Spec:
    return parse_spec({"models": "story", "prompts": prompts})


def test_texts_and_lines(tmp_path: Path) -> None:
    (tmp_path / "q.txt").write_bytes("first \r\n\r\n  sécond".encode())
    assert [prompt.text for prompt in read_prompts(spec(file=str(tmp_path / "q.txt")))] == ["first ", "  sécond"]
    assert [prompt.text for prompt in read_prompts(spec(texts=["a", "b", "c"], limit=2))] == ["a", "b"]


def test_names_belong_to_texts_and_not_to_their_order() -> None:
    names = {prompt.text: prompt.id for prompt in read_prompts(spec(texts=["a", "b", "c"]))}
    again = {prompt.text: prompt.id for prompt in read_prompts(spec(texts=["c", "new", "a", "b"]))}
    assert all(again[text] == name for text, name in names.items())
    assert len(set(again.values())) == 4
    # SHA-256 of "a", from any other tool.
    assert names["a"] == "ca978112ca1b"
    first, second = read_prompts(spec(texts=["a", "a"]))
    assert [first.id, second.id] == ["ca978112ca1b", "ca978112ca1b-2"]
    assert [prompt.id for prompt in read_prompts(spec(rows=[{"text": "a", "n": 7}], id="n"))] == ["7"]


def test_factors_have_one_type() -> None:
    rows = [
        {"text": "a", "x": 1, "y": 1, "z": True, "n": None},
        {"text": "b", "x": 1.5, "y": "b", "z": None, "n": None},
    ]
    prompts = read_prompts(spec(rows=rows, factors=["x", "y", "z", "n"]))
    assert [prompt.factors for prompt in prompts] == [
        {"x": 1.0, "y": "1", "z": True, "n": None},
        {"x": 1.5, "y": "b", "z": None, "n": None},
    ]
    assert list(factor_types(prompts).values()) == [pa.float64(), pa.string(), pa.bool_(), pa.string()]


@pytest.mark.parametrize(
    ("name", "text", "more", "message"),
    [
        (
            "q.jsonl",
            '{"q": "a"}\n\n{"p": "b"}\n',
            "template = '{q}'",
            "s.toml:4:12: q.jsonl:3 has no field 'q'; it has p",
        ),
        ("q.jsonl", '{"q": "a"}\n{"q": null}\n', "template = '{q}'", "q.jsonl:2: field 'q' is empty"),
        ("q.jsonl", '{"q": "a"}\n{"q"\n', "field = 'q'", "q.jsonl:2: no valid JSON"),
        ("q.jsonl", "[1]\n", "field = 'q'", "q.jsonl:1: no JSON object"),
        ("q.jsonl", '{"q": 5}\n', "field = 'q'", "q.jsonl:1: 'q' is 5: give a text, or a template"),
        ("q.jsonl", '{"q": "a", "x": [1]}\n', "field = 'q'\nfactors = ['x']", "factor 'x' is a list"),
        ("q.jsonl", '{"q": "a", "x": 1}\n' * 2, "field = 'q'\nid = 'x'", "s.toml:5:6: two prompts are called '1'"),
        ("q.jsonl", '{"q": "a"}\n', "field = 'q'\nfactors = ['head']", "results have a column 'head' of their own"),
        ("q.jsonl", "\n", "field = 'q'", "s.toml:3:8: q.jsonl holds no prompts"),
        ("q.csv", 'q,x\na,1\n"b\nc",2\nd\n', "field = 'q'", "q.csv:5: it has another number of fields"),
        ("q.csv", "", "field = 'q'", "q.csv holds no prompts"),
        ("q.txt", b"\xff\xfe", "field = 'q'", "q.txt is not UTF-8"),
        ("q.parquet", b"PAR1 no PAR1", "field = 'q'", "give a whole Parquet file"),
        ("q.doc", "a", "field = 'q'", "q.doc ends in '.doc': give a .txt, .jsonl, .csv, .parquet file"),
        (None, "", "field = 'q'", "s.toml:3:8: there is no"),
    ],
)
def test_what_is_wrong_in_a_source(
    name: str | None, text: str | bytes, more: str, message: str, tmp_path: Path
) -> None:
    if name is not None:
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    (tmp_path / "s.toml").write_text(f"models = 'story'\n[prompts]\nfile = '{name}'\n{more}\n")
    with pytest.raises(StudyError) as caught:
        read_prompts(load_spec(tmp_path / "s.toml"))
    assert message in str(caught.value)


def test_folders_without_a_data_set_are_refused(tmp_path: Path) -> None:
    (tmp_path / "q").mkdir()
    with pytest.raises(StudyError, match="no folder of a data set"):
        read_prompts(spec(file=str(tmp_path / "q")))
    (tmp_path / "q" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    with pytest.raises(StudyError, match="has the splits train, test: choose one"):
        read_prompts(spec(file=str(tmp_path / "q"), split="valid"))


def test_all_that_a_row_lacks_is_said_in_one_go(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text('{"q": "a", "size": 1}\n{"size": [2]}\n')
    (tmp_path / "s.toml").write_text(
        "models = 'story'\n[prompts]\nfile = 'q.jsonl'\ntemplate = 'Q: {q}'\nid = 'nr'\n"
        "[prompts.factors]\nlength = 'size'\nkind = 'sort'\n"
    )
    with pytest.raises(SpecError) as caught:
        read_prompts(load_spec(tmp_path / "s.toml"))
    first = [(problem.where, problem.what.partition(";")[0]) for problem in caught.value.problems]
    assert first == [
        ("s.toml:5:6", "q.jsonl:1 has no field 'nr'"),
        ("s.toml:8:8", "q.jsonl:1 has no field 'sort'"),
    ]
    (tmp_path / "q.jsonl").write_text('{"size": [2], "nr": 1, "sort": "a"}\n')
    with pytest.raises(SpecError) as caught:
        read_prompts(load_spec(tmp_path / "s.toml"))
    assert [(problem.where, problem.what) for problem in caught.value.problems] == [
        ("s.toml:4:12", "q.jsonl:1 has no field 'q'; it has size, nr, sort: add it or name another"),
        ("s.toml:7:10", "q.jsonl:1: factor 'length' is a list: give one value"),
    ]
