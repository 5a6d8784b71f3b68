"""Beam searches and rejected drafts as plain data and as figures, held against what generate returned itself."""

import sys
from typing import Any

import numpy as np
import pytest
import torch

import gentrace
from gentrace.errors import ViewBudgetError, ViewError
from gentrace.trace.trace import Trace
from gentrace.views import beam_tree, replay
from gentrace.views.genealogy import Genealogy, genealogy
from gentrace.views.timeline import timeline
from tests.models import prompt, tiny
from tests.views.made import random_trace

BEAMS, NEW = 3, 7


@pytest.fixture(scope="module")
def searched() -> tuple[Trace, Any]:
    model = tiny("llama")
    with gentrace.record(model) as recorder:
        output = model.generate(
            prompt(5), num_beams=BEAMS, max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False,
            return_dict_in_generate=True, output_scores=True,
        )  # fmt: skip
    return recorder.trace, output


def returned(tree: Genealogy) -> list[int]:
    return [index for index, one in enumerate(tree.hypotheses) if one.returned]


def test_the_branch_that_stands_out_is_the_one_that_generate_returned(searched: tuple[Trace, Any]) -> None:
    trace, output = searched
    tree = genealogy(trace)
    path = [tree.hypotheses[index] for index in returned(tree)]
    assert [one.position for one in path] == list(range(5, 5 + NEW))
    # generate divides the sum by the length; the tree has the sum itself.
    assert path[-1].score == pytest.approx(float(output.sequences_scores[0]) * NEW, abs=1e-4)
    assert sum(one.logprob for one in path) == pytest.approx(path[-1].score, abs=1e-4)
    # Each was continued from the beam that generate says it came from.
    for one, before in zip(path[1:], path, strict=False):
        assert tree.hypotheses[one.parent or 0] is before
        assert before.beam == int(output.beam_indices[0, one.position - 5])


def test_what_is_grey_has_no_continuation_left(searched: tuple[Trace, Any]) -> None:
    tree = genealogy(searched[0])
    last = tree.positions.stop - 1
    for position in (tree.positions.start + 2, last):
        leaves = {
            index for index in tree.between(position, position + 1)
            if tree.hypotheses[index].beam is not None or tree.hypotheses[index].ended
        }  # fmt: skip
        lasting = set()
        for leaf in leaves:
            here: int | None = leaf
            while here is not None:
                lasting.add(here)
                here = tree.hypotheses[here].parent
        for index in tree.between(tree.positions.start, position + 1):
            one = tree.hypotheses[index]
            if not one.returned and not one.ended:
                assert tree.state(index, position) == ("alive" if index in lasting else "pruned"), one


def test_the_figure_holds_every_continuation_with_its_score(searched: tuple[Trace, Any]) -> None:
    trace, _ = searched
    tree, figure = genealogy(trace), beam_tree(trace)
    names = [one for one in figure.data if one.name in ("pruned", "alive", "returned")]
    shown = sum(len(one.text) for one in names)
    assert shown == len(tree.hypotheses) + 1  # and the last token before the search
    scores = [text.split(">")[2].split("<")[0] for one in names for text in one.text if "<br>" in text]
    assert sorted(scores) == sorted(f"{one.score:.2f}".replace("-", "−") for one in tree.hypotheses)


def test_a_replay_of_beams_grows_with_the_steps(searched: tuple[Trace, Any]) -> None:
    trace, _ = searched
    figure = replay(trace)
    tree = [place for place, one in enumerate(figure.data) if one.name in ("pruned", "alive", "returned")]
    drawn = []
    for frame in figure.frames:
        moved = dict(zip(frame.traces, frame.data, strict=True))
        drawn.append(sum(len(moved[place].text or ()) for place in tree))
    assert drawn[:4] == [1] * 4
    assert drawn[4] == 1 + sum(one.position == 5 for one in genealogy(trace).hypotheses)
    assert drawn == sorted(drawn)


def test_too_many_and_missing_beams_are_said(searched: tuple[Trace, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ViewError, match="num_beams"):
        beam_tree(random_trace(8, 3))
    with pytest.raises(ViewError, match="positions"):
        beam_tree(searched[0], positions=(0, 3))
    monkeypatch.setattr(sys.modules["gentrace.views.beam_tree"], "BRANCHES", 10)
    with pytest.raises(ViewBudgetError, match="positions="):
        beam_tree(searched[0])
    monkeypatch.setattr(sys.modules["gentrace.views.replay"], "FIGURE_BRANCHES", 10)
    with pytest.raises(ViewBudgetError, match="beams=False"):
        replay(searched[0])
    assert len(replay(searched[0], beams=False).frames) == 5 + NEW - 1


def test_ghosts_are_the_rejected_drafts() -> None:
    model = tiny("llama")
    ids = torch.tensor([[7, 8, 9, 10, 7, 8, 9, 11, 7, 8]])
    with gentrace.record(model) as recorder:
        model.generate(ids, max_new_tokens=12, min_new_tokens=12, do_sample=False, prompt_lookup_num_tokens=3)
    trace = recorder.trace
    assert trace.drafts
    steps = timeline(trace).steps
    ghosts = [ghost for step in steps for ghost in step.ghosts]
    assert [ghost.position for ghost in ghosts] == [draft.position for draft in trace.drafts]
    assert [ghost.probability for ghost in ghosts] == pytest.approx([np.exp(draft.logprob) for draft in trace.drafts])
    for step in steps:
        if step.ghosts:
            # They stand at the step whose token took the first one's place.
            assert step.ghosts[0].position == step.predicts
    figure = replay(trace)
    place = next(place for place, one in enumerate(figure.data) if one.name == "rejected drafts")
    for frame, step in zip(figure.frames, steps, strict=True):
        drawn = dict(zip(frame.traces, frame.data, strict=True))[place]
        assert len(drawn.text or ()) == len(step.ghosts)
    # Plotly draws bars black that appear in the middle of an animation: each frame has as many.
    bars = next(place for place, one in enumerate(figure.data) if one.name == "drafts")
    lengths = [list(dict(zip(frame.traces, frame.data, strict=True))[bars].x) for frame in figure.frames]
    assert {len(one) for one in lengths} == {4}
    for own, step in zip(lengths, steps, strict=True):
        assert own == pytest.approx([*(one.probability for one in step.ghosts), 0, 0, 0, 0][:4], abs=1e-3)
