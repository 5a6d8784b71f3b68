"""``gentrace picture``: every view can be asked for, and what is wrong is said in one line before anything is drawn."""

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import gentrace.views
from gentrace import export
from gentrace.cli import main
from gentrace.export.command import VIEWS
from tests.views.made import random_trace

NEEDED = {
    "attention_table": ("--layer", "0", "--head", "1", "--option", "token=4"),
    "compare": ("--layer", "0"),
    "head_view": ("--layer", "0"),
    "neuron_view": ("--layer", "0", "--head", "1", "--option", "query=5"),
}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    written = tmp_path_factory.mktemp("trace") / "trace.safetensors"
    random_trace(9, 3).save(written)
    return written


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Figures that would have been drawn, and how."""
    found: list[Any] = []
    for name in ("picture", "gif", "frames", "page"):
        monkeypatch.setattr(
            export, name, lambda figure, out, name=name, **size: found.append((name, figure, out, size)), raising=False
        )
    return found


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["picture", *map(str, arguments)])


def test_every_view_that_gives_a_figure_can_be_asked_for(path: Path, drawn: list[Any]) -> None:
    of_studies = {"by_step", "contrast", "distribution", "head_map"}
    others = {"RotaryRule", "attention_frame", "mean", "replay_page"}
    assert set(VIEWS) == set(gentrace.views.__all__) - of_studies - others
    searched = call(path, "--view", "beam_tree", "--out", "a.svg")
    assert searched.exit_code == 1
    assert "no beam search" in searched.output
    drawable = [view for view in VIEWS if view != "beam_tree"]
    for view in drawable:
        others = (path,) if view == "compare" else ()
        result = call(path, *others, "--view", view, *NEEDED.get(view, ()), "--out", "a.svg")
        assert result.exit_code == 0, result.output
        assert result.stdout.strip() == str(Path("a.svg").resolve())
    assert [(name, out) for name, _, out, _ in drawn] == [("picture", Path("a.svg"))] * len(drawable)


def test_arguments_reach_the_view(path: Path, drawn: list[Any]) -> None:
    options = ("what=scores", "queries=[2,6]", "keys=prompt", "annotate=yes", "sink=keep")
    given = [part for option in options for part in ("--option", option)]
    result = call(path, "--layer", 0, "--head", 1, *given, "--out", "a.png", "--width", 700, "--scale", 3)
    assert result.exit_code == 0, result.output
    name, figure, _, size = drawn.pop()
    trace = random_trace(9, 3)
    expected = gentrace.views.attention_map(
        trace, 0, 1, what="scores", queries=(2, 6), keys="prompt", annotate=True, sink="keep"
    )
    assert (name, size) == ("picture", {"width": 700, "scale": 3.0})
    assert figure.to_json() == expected.to_json()
    assert call(path, "--view", "replay", "--head", 1, "--out", "a.gif", "--milliseconds", 90).exit_code == 0
    assert call(path, "--view", "replay", "--head", 1, "--out", "folder", "--frames").exit_code == 0
    assert [(name, size) for name, _, _, size in drawn] == [("gif", {"milliseconds": 90}), ("frames", {})]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--option", "colour=red"), "'colour=red' is not name=value of attention_map; names: layer, head, what"),
        (("--option", "annotate"), "'annotate' is not name=value"),
        (("--option", "annotate=perhaps"), "annotate='perhaps': should be a valid boolean"),
        (("--option", "what=heat"), "what='heat': should be 'weights' or 'scores'"),
        (("--option", "queries=[1,2,3]"), "queries=[1, 2, 3]: should be"),
        (("--option", "keys=[1"), "'keys=[1' cannot be read"),
        (("--layer", 0, "--option", "layer=0"), "layer of attention_map is given twice"),
        (("--layer", 7), "layer 7"),
        (("--view", "token_strip", "--layer", 0), "token_strip has no layer"),
        (("--view", "neuron_view", "--layer", 0), "neuron_view needs --head, --option query=…"),
        (("--view", "neuron_view", "--option", "rotary=1"), "neuron_view needs"),
        (("--view", "compare", "--layer", 0), "compare takes two traces"),
        (("--milliseconds", 50), "for a GIF"),
        (("--out", "a.bmp"), "ends in '.bmp'"),
        (("--out", "a.gif"), "it has no frames"),
    ],
)
def test_what_is_wrong_is_one_line(path: Path, arguments: tuple[object, ...], message: str) -> None:
    out = () if "--out" in arguments else ("--out", "a.png")
    result = call(path, *arguments, *out)
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    assert result.exit_code == 1
    assert len(lines) == 1, result.stderr
    assert message in lines[0]
    assert not Path("a.png").exists()


def test_a_page_has_the_size_of_its_window(path: Path, drawn: list[Any]) -> None:
    assert call(path, "--layer", "0", "--out", "a.html").exit_code == 0
    assert [(name, out, size) for name, _, out, size in drawn] == [("page", Path("a.html"), {})]
    refused = call(path, "--layer", "0", "--out", "a.html", "--width", "300")
    assert refused.exit_code == 1
    assert "a page takes the size" in refused.output


def test_no_such_trace(tmp_path: Path) -> None:
    result = call(tmp_path / "none", "--out", "a.png")
    assert (result.exit_code, result.stderr.strip()) == (1, f"Error: No such file or directory: {tmp_path / 'none'}")
