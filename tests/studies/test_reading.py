"""Reading a study: filters against the same selection in pandas, traces by number, and only what is finished."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import gentrace
from gentrace.errors import StudyError
from gentrace.studies import Study, open_study
from tests.studies.made import WORDS, made_spec, records, run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("read") / "study"
    run(made_spec(keep={"traces": True}, seeds=[1, 2]), out)
    return out


@pytest.fixture(scope="module")
def study(folder: Path) -> Study:
    return open_study(folder)


FILTERS: list[tuple[dict[str, Any], str]] = [
    ({"decoding": "greedy"}, "decoding == 'greedy'"),
    ({"seed": 2, "layer": [1, 3]}, "seed == 2 and layer in [1, 3]"),
    ({"size": (4, None), "head": (1, 2)}, "size >= 4 and head >= 1 and head <= 2"),
    ({"attention_entropy": (None, 0.5)}, "attention_entropy <= 0.5"),
    ({"model": "story", "decoding": ["greedy", "sample"]}, "model == 'story'"),
]


@pytest.mark.parametrize(("where", "query"), FILTERS)
def test_filters_select_what_pandas_selects(where: dict[str, Any], query: str, study: Study) -> None:
    expected = study.heads().query(query)
    found = study.heads(**where)
    assert 0 < len(found) <= len(study.heads())
    assert len(found) == len(expected)
    for column in expected.columns:
        assert found[column].astype(expected[column].dtype.name if column == "size" else object).tolist() == (
            expected[column].tolist()
        )
    columns = study.heads(["layer", "attention_entropy"], **where)
    assert list(columns.columns) == ["layer", "attention_entropy"]
    assert columns["attention_entropy"].tolist() == expected["attention_entropy"].tolist()


def test_parts_that_cannot_fit_are_not_opened(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "study"
    shutil.copytree(folder, out)
    study = open_study(out)
    for record in study.records:
        if record.ingredients["decoding"][0] == "sample":
            for file in record.files:
                if file.kind == "heads":
                    (out / file.path).write_bytes(b"x" * file.bytes)
    assert len(study.heads(decoding="greedy")) == 7 * 2 * 16
    with pytest.raises(Exception, match="Parquet"):
        study.heads(decoding="sample")


def test_a_table_piece_by_piece(study: Study) -> None:
    pieces = list(study.batches("tokens", ["generation", "id"], generated=True))
    assert len(pieces) > 1
    assert sum(map(len, pieces)) == len(study.tokens(generated=True)) == 28 * 6


def test_generations_and_their_traces(study: Study, folder: Path) -> None:
    generations = study.generations()
    assert generations.index.tolist() == list(range(28))
    # Settings, then seeds, then prompts in their own order.
    assert generations["size"].tolist() == [len(word) for word in WORDS] * 4
    assert generations["decoding"].tolist() == ["greedy"] * 14 + ["sample"] * 14
    assert generations["seed"].tolist() == ([1] * 7 + [2] * 7) * 2
    for number in (0, 9, 27):
        row = generations.loc[number]
        trace = study.trace(number)
        assert trace.tokens.text == f"Once there was a {WORDS[number % 7]}." + row["completion"]
        assert torch.equal(trace.attention(1), study.trace(row["generation"]).attention(1))
    assert study.prompts()["text"].tolist() == [f"Once there was a {word}." for word in WORDS]
    assert (study.complete, study.factors, study.spec.seeds) == (True, ("size",), (1, 2))
    assert study.manifest["versions"]["gentrace"] == gentrace.__version__
    assert list(study.generations(["completion"]).columns) == ["completion"]
    # Greedy answers do not depend on the seed; sampled ones do.
    texts = generations["completion"].tolist()
    assert texts[:7] == texts[7:14]
    assert texts[14:21] != texts[21:]


def test_chosen_heads(folder: Path, tmp_path: Path, study: Study) -> None:
    run(made_spec(keep={"heads": [[2, 3], [0, 1], [2, 0]]}, seeds=[1, 2]), tmp_path)
    few = open_study(tmp_path)
    for number in (3, 20):
        for layer, head in ((2, 3), (0, 1), (2, 0)):
            expected = study.trace(number).attention(layer, head)
            assert torch.equal(few.attention(number, layer, head), expected)
            assert torch.equal(study.attention(number, layer, head), expected)
            assert torch.equal(few.scores(number, layer, head), study.trace(number).scores(layer, head))
    with pytest.raises(StudyError, match="were kept"):
        few.attention(3, 1, 1)
    with pytest.raises(StudyError, match="use attention"):
        few.trace(3)

    def size(out: Path) -> int:
        return sum(path.stat().st_size for path in (out / "traces").iterdir())

    assert size(tmp_path) < 0.7 * size(folder)


def test_what_is_not_finished_is_not_there(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "study"
    shutil.copytree(folder, out)
    gone = sorted(records(out))[0]
    (out / "commits" / gone).unlink()
    study = open_study(out)
    assert not study.complete
    lost = study.plan()[lambda frame: frame["batch"].str.startswith(gone[:32], na=False)]
    assert len(study.generations()) == 28 - len(lost)
    with pytest.raises(StudyError, match="its batch is not finished"):
        study.trace(int(lost["number"].iloc[0]))
    assert repr(study) == "<Study study: 28 generations, 11 of 12 batches>"


def test_wrong_questions_are_answered_clearly(study: Study, tmp_path: Path) -> None:
    for ask, message in (
        (lambda: study.heads(["no"]), "there is no column 'no'"),
        (lambda: study.heads(no=1), "there is no column 'no'"),
        (lambda: study.tokens(position=(1, 2, 3)), "give .low, high."),
        (lambda: study.dataset("table"), "choose generations, tokens, heads or failures"),
        (lambda: study.trace(99), "the study has generations 0 … 27"),
        (lambda: study.trace("99"), "the study has generations 0 … 27"),
        (lambda: open_study(tmp_path), "there is no manifest.json"),
    ):
        with pytest.raises(StudyError, match=message):
            ask()


def test_refused_prompts_are_failures(tmp_path: Path) -> None:
    summary, _ = run(made_spec(prompts=["Once", "", "baby " * 3000], measures=[]), tmp_path)
    assert (summary.failed, summary.batches) == (4, 2)
    failures = open_study(tmp_path).failures()
    assert failures["stage"].tolist() == ["plan"] * 4
    assert failures["try"].tolist() == [0] * 4
    assert failures["prompt"].tolist() == ["", "baby " * 3000] * 2
    with pytest.raises(StudyError, match="it could not be tried: the prompt has no tokens"):
        open_study(tmp_path).trace(1)


def test_a_study_without_results_can_be_read(tmp_path: Path) -> None:
    run(made_spec(layers=[], measures=[]), tmp_path)
    for path in (tmp_path / "commits").iterdir():
        path.unlink()
    study = open_study(tmp_path)
    assert len(study.tokens()) == len(study.heads()) == len(study.generations()) == len(study.failures()) == 0
    assert "position" in study.tokens().columns


def test_measures_say_where_they_are_and_in_which_unit(study: Study) -> None:
    assert study.measures == {
        "token_surprise": ("tokens", "nats", False),
        "attention_entropy": ("heads", "nats", False),
    }
    assert study.measures["attention_entropy"].unit == "nats"


def test_units_of_statistics_and_of_values_step_by_step(tmp_path: Path) -> None:
    measures = [
        {"measure": "surprise_correlation", "name": "goes_with", "options": {"resamples": 20}},
        {"measure": "span_mass", "name": "mass"},
    ]
    run(made_spec(measures=measures, keep={"steps": True}, decoding=[{"max_new_tokens": 6}]), tmp_path / "study")
    found = open_study(tmp_path / "study").measures
    assert found["goes_with.correlation"] == ("heads", "correlation", False)
    assert found["goes_with.p_adjusted"].unit == ""
    assert found["goes_with.count"].unit == "values"
    assert found["mass.prompt"] == ("heads", "share", True)
    assert not any(name.endswith(".steps") for name in found)


def test_the_file_of_a_trace(study: Study, folder: Path) -> None:
    path = study.trace_path(3)
    assert path.parent == folder / "traces"
    assert gentrace.load(path).tokens.text == study.trace(3).tokens.text
    with pytest.raises(StudyError, match="generations 0 … 27"):
        study.trace_path(28)
