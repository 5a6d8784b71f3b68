"""A study's specification: what it accepts, and how precisely it says what is wrong."""

from pathlib import Path
from typing import Any

import pytest

from gentrace.analysis import attention_entropy
from gentrace.errors import StudyError
from gentrace.studies import Spec, SpecError, load_spec, parse_spec
from gentrace.studies.spec import ModelSpec, PromptsSpec
from tests.studies.made import made_spec

WRONG = """
name = "wrong"
models = ["story", {name = "smollm2", dtype = "int8"}]
seeds = [4, 5, 4]
layers = [1, 2]
batch_size = "many"
measures = ["attention_entropi",
  {measure = "lookback_ratio", options = {foo = 1}}]

[prompts]
file = "q.jsonl"
template = "Q: {question"
texts = ["a"]
limit = 0

[[decoding]]
max_new_tokens = [4, 0]
temprature = 1

[[decoding]]
temperature = 0.5
top_p = 2

[keep]
heads = [[0, 1]]
top_k = 0
"""

EXPECTED = [
    ("3:47", "models[1].dtype is 'int8': input should be 'float32', 'bfloat16' or 'float16'"),
    ("4:16", "two seeds are called 4: give each its own name"),
    ("6:14", "batch_size is 'many': input should be a valid integer"),
    ("7:13", "no measure is called 'attention_entropi' (did you mean 'attention_entropy'?)"),
    ("8:42", "lookback_ratio has no option 'foo'"),
    ("11:8", "texts and file: give one of texts, rows and file"),
    ("12:12", "expected '}' before end of string"),
    ("14:9", "prompts.limit is 0: input should be greater than or equal to 1"),
    ("17:22", "decoding[0].max_new_tokens[1] is 0: input should be greater than or equal to 1"),
    ("18:1", "unknown key 'temprature' (did you mean 'temperature'?)"),
    ("21:15", "temperature without sampling changes nothing: add do_sample = true"),
    ("22:9", "decoding[1].top_p is 2: input should be less than or equal to 1"),
    ("26:9", "keep.top_k is 0: input should be greater than or equal to 1"),
]


def test_every_problem_is_named_with_its_line_and_column(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_text(WRONG)
    with pytest.raises(SpecError) as caught:
        load_spec(path)
    problems = caught.value.problems
    assert [problem.where for problem in problems] == [f"study.toml:{place}" for place, _ in EXPECTED]
    for problem, (_, message) in zip(problems, EXPECTED, strict=True):
        assert message in problem.what
    assert "13 problems" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "where", "message"),
    [
        ("models = 'story'\n", "1:1", "'prompts' is missing"),
        ("models = []\nprompts = ['a']\n", "1:10", "at least 1 item"),
        ("models = 'story'\nprompts = ['a']\nmodell = 1\n", "3:1", "did you mean 'models'?"),
        ("models = 'story'\n[prompts]\ntexts = ['a']\nfile = 'b'\n", "4:8", "texts and file: give one of"),
        ("models = 'story'\n[prompts]\ntexts = ['a']\nid = 'b'\n", "4:6", "texts have no fields"),
        ("models = 'story'\n[prompts]\n", "2:1", "no source: give one of texts, rows and file"),
        (
            "models = 'story'\nprompts = {rows = [{a = 1}], template = 'no field'}\n",
            "2:41",
            "no {field} in the template",
        ),
        ("models = 'story'\nprompts = ['a']\nseeds = [1, 2, 1]\n", "3:16", "two seeds are called 1"),
        ("models = 'story'\nprompts = ['a']\nmax_failures = 1.5\n", "3:16", "a share between 0.0 and 1.0"),
        ("models = 'story'\nprompts = ['a']\nlayers = [0, -1]\n", "3:10", "each layer number once, 0 or more"),
        (
            "models = 'story'\nprompts = ['a']\nlayers = [1]\nkeep = {heads = [[0, 0]]}\n",
            "4:18",
            "head [0, 0] is in a layer",
        ),
        ("models = 'story'\nprompts = ['a']\nmeasures = 'a b:c'\n", "3:12", "write module:function"),
        (
            "models = 'story'\nprompts = ['a']\ndecoding = {options = {num_beems = 2}}\n",
            "3:23",
            "no setting 'num_beems'",
        ),
        ("models = 'story'\nprompts = ['a']\ndecoding = {do_sample = 'yes'}\n", "3:25", "valid boolean"),
        ("models = 'story'\nprompts = ['a']\ndecoding = [{}, {}]\n", "3:17", "two decoding settings are called greedy"),
    ],
)
def test_wrong_values(tmp_path: Path, text: str, where: str, message: str) -> None:
    path = tmp_path / "s.toml"
    path.write_text(text)
    with pytest.raises(SpecError) as caught:
        load_spec(path)
    (problem,) = caught.value.problems
    assert problem.where == f"s.toml:{where}"
    assert message in problem.what


def test_toml_yaml_and_python_say_the_same(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text(
        "models = ['story']\nlayers = 'all'\nseeds = [1, 2]\n[prompts]\ntexts = ['a', 'b']\n"
        "[decoding]\nmax_new_tokens = [4, 8]\n[[measures]]\nmeasure = 'attention_entropy'\noptions = {unit = 'bits'}\n"
    )
    (tmp_path / "s.yml").write_text(
        "models: story\nlayers: all\nseeds: [1, 2]\nprompts: [a, b]\n"
        "decoding: {max_new_tokens: [4, 8]}\nmeasures: [{measure: attention_entropy, options: {unit: bits}}]\n"
    )
    made = Spec(
        models=(ModelSpec(name="story"),),
        prompts=PromptsSpec(texts=("a", "b")),
        seeds=(1, 2),
        decoding={"max_new_tokens": [4, 8]},  # pyright: ignore[reportArgumentType]
        measures=[{"measure": attention_entropy.__name__, "options": {"unit": "bits"}}],  # pyright: ignore[reportArgumentType]
    )
    assert load_spec(tmp_path / "s.toml") == load_spec(tmp_path / "s.yml") == made
    assert parse_spec(made.model_dump(mode="json")) == made


def test_functions_stand_for_their_names() -> None:
    (measure,) = made_spec(measures=[attention_entropy]).measures
    assert measure.measure == "attention_entropy"
    (measure,) = made_spec(measures=[made_spec]).measures
    assert measure.measure == "tests.studies.made:made_spec"
    with pytest.raises(SpecError, match="put it into a module"):
        made_spec(measures=[lambda trace: 1.0])


def settings(**values: Any) -> dict[str, dict[str, Any]]:
    return {setting.name: setting.arguments for setting in made_spec(decoding=values).decoding[0].settings()}


def test_a_grid_has_every_combination_once() -> None:
    found = settings(do_sample=[False, True], temperature=[0.5, 1], max_new_tokens=[4, 8])
    assert list(found) == [
        "greedy max_new_tokens=4",
        "sample max_new_tokens=4 temperature=0.5",
        "sample max_new_tokens=4 temperature=1.0",
        "greedy max_new_tokens=8",
        "sample max_new_tokens=8 temperature=0.5",
        "sample max_new_tokens=8 temperature=1.0",
    ]
    assert found["greedy max_new_tokens=4"] == {"max_new_tokens": 4, "do_sample": False}
    assert settings(name="hot", do_sample=True, temperature=2.0) == {
        "hot": {"max_new_tokens": 40, "do_sample": True, "temperature": 2.0}
    }


def test_a_specification_is_frozen_and_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="frozen"):
        made_spec().name = "other"
    (tmp_path / "s.json").write_text("{}")
    with pytest.raises(StudyError, match="its name ends in"):
        load_spec(tmp_path / "s.json")
    (tmp_path / "s.toml").write_bytes(b"\xff")
    with pytest.raises(StudyError, match="not UTF-8"):
        load_spec(tmp_path / "s.toml")
