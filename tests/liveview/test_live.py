"""When the picture is drawn, what happens when it cannot be, and that it is the finished trace's either way."""

from typing import Any

import pytest
import torch

import gentrace
from gentrace.capture.glance import Glance
from gentrace.liveview.frame import Camera, Frame
from gentrace.liveview.live import Live
from tests.capture.test_encoders import source, translator
from tests.capture.test_spill import Words
from tests.models import prompt, tiny

GREEDY = {"max_new_tokens": 12, "min_new_tokens": 12, "do_sample": False}


class Wall:
    """A view that keeps what is drawn on it."""

    every_step = False

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self.said: list[str] = []
        self.closed = 0

    def draw(self, frame: Frame) -> None:
        self.frames.append(frame)

    def say(self, message: str) -> None:
        self.said.append(message)

    def close(self) -> None:
        self.closed += 1


class Clock:
    """Goes on a tenth of a second whenever somebody looks."""

    now = 0.0

    def __call__(self) -> float:
        self.now += 0.1
        return self.now


def drawn(
    model: Any, every: float = 0.0, chosen: tuple[int | None, int | None, int] = (None, None, 0), **call: Any
) -> Any:
    wall = Wall()
    with gentrace.record(model, Words()) as recorder, Live(recorder, chosen, lambda: wall, every, Clock()):
        model.generate(**{"input_ids": prompt(5), **GREEDY, **call})
    assert wall.closed == 1
    return wall, recorder.traces


def test_frames_are_the_traces_rows() -> None:
    wall, (trace,) = drawn(tiny("llama"), chosen=(1, 2, 0))
    weights = trace.attention(1, 2)
    assert len(wall.frames) == 13
    for frame in wall.frames:
        row, count = frame.position, len(frame.text.pieces)
        assert frame.title == "layer 1 · head 2"
        assert torch.tensor(frame.text.weights).allclose(weights[row, : row + 1], atol=1e-6)
        assert frame.text.pieces == trace.tokens.texts[:count]
        assert (frame.prompt_length, frame.generated) == (5, count - 5)
        assert [piece for piece, _ in frame.next] == list(trace.tokens.top_texts[row + 1][:5])
        order = weights[row].argsort(descending=True)[:5].tolist()
        assert [piece for piece, _ in frame.text.strongest] == [trace.tokens.texts[key] for key in order[: row + 1]]
        if count > 5:
            assert frame.probability == pytest.approx(float(trace.tokens.logprobs[count - 1].exp()), abs=1e-5)
    assert wall.frames[-1].finished
    assert wall.frames[0].rate is None
    assert wall.frames[-1].rate is not None


def test_steps_in_between_are_passed_over() -> None:
    few, _ = drawn(tiny("llama"), every=0.35)
    assert 2 < len(few.frames) < 9
    positions = [frame.position for frame in few.frames]
    assert positions == sorted(positions)
    assert positions[-1] == 5 + 12 - 2
    assert few.frames[-1].finished


def test_the_mean_over_heads_of_the_last_layer() -> None:
    wall, (trace,) = drawn(tiny("gpt2"))
    assert wall.frames[-1].title == "layer 2 · mean of 4 heads"
    assert torch.tensor(wall.frames[-1].text.weights).allclose(trace.attention(2).mean(0)[-1], atol=1e-6)


def test_an_encoder_decoder_shows_both() -> None:
    wall, traces = drawn(translator("bart", "sdpa"), chosen=(1, None, 1), **source("bart"))
    trace = traces[1]
    frame = wall.frames[-1]
    assert frame.source is not None
    assert frame.source.pieces == trace.encoder_tokens.texts
    assert torch.tensor(frame.source.weights).allclose(trace.attention(1, kind="cross").mean(0)[-1], atol=1e-6)
    assert torch.tensor(frame.text.weights).allclose(trace.attention(1).mean(0)[-1], atol=1e-6)


def test_what_cannot_be_drawn_is_one_line() -> None:
    for options, chosen, message in (
        ({"num_beams": 2}, (None, None, 0), "hypotheses change places"),
        ({}, (7, None, 0), "layers recorded: 0, 1, 2"),
        ({}, (0, 4, 0), "has heads 0 … 3"),
        ({}, (0, 0, 3), "choose one of them"),
    ):
        wall, traces = drawn(tiny("llama"), chosen=chosen, **options)
        assert not wall.frames
        (said,) = wall.said
        assert said.startswith("the live picture ended, the model goes on: ")
        assert message in said
        assert traces[0].length == 16


def test_ctrl_c_draws_the_last_step_and_leaves() -> None:
    model, wall, steps = tiny("llama"), Wall(), []

    def interrupt(*_: object) -> None:
        steps.append(1)
        if len(steps) == 8:
            raise KeyboardInterrupt

    handle = model.model.layers[1].register_forward_pre_hook(interrupt)
    recorder = gentrace.record(model)
    with pytest.raises(KeyboardInterrupt), recorder, Live(recorder, (0, 0, 0), lambda: wall, 3600.0, Clock()):
        model.generate(prompt(5), **GREEDY)
    handle.remove()
    first, last = wall.frames
    assert (first.position, last.position) == (4, 10)
    assert not last.finished
    assert wall.closed == 1
    weights = recorder.trace.attention(0, 0)[10, :11]
    assert torch.tensor(last.text.weights).allclose(weights, atol=1e-6)
    assert not recorder._tracker.watches


def test_a_second_generation_begins_anew() -> None:
    model, wall = tiny("llama"), Wall()
    with gentrace.record(model, Words()) as recorder, Live(recorder, (0, 0, 0), lambda: wall, 3600.0, Clock()):
        model.generate(prompt(5), **GREEDY)
        model.generate(prompt(7, seed=1), **GREEDY)
    assert [frame.finished for frame in wall.frames] == [False, True, True]
    assert wall.frames[-1].text.pieces == recorder.traces[1].tokens.texts


def test_layers_may_be_missing() -> None:
    wall = Wall()
    model = tiny("llama")
    with gentrace.record(model, layers=[]) as recorder, Live(recorder, (None, None, 0), lambda: wall, 0.0, Clock()):
        model.generate(prompt(5), **GREEDY)
    assert wall.frames[-1].title == "no layer is recorded"
    assert wall.frames[-1].text.shares == (0.0,) * 17
    assert wall.frames[-1].text.pieces[0] == f"[{int(prompt(5)[0, 0])}]"


def test_arguments_are_checked() -> None:
    recorder = gentrace.record(tiny("llama"))
    for options, message in (({"where": "sky"}, "where='sky'"), ({"every": -1}, "every=-1")):
        with pytest.raises(gentrace.ViewError, match=message):
            gentrace.live(recorder, **options)


def test_a_character_of_several_tokens_shows_once_it_is_whole() -> None:
    class Bytes:
        def decode(self, ids: list[int], **_: Any) -> str:
            return bytes(ids).decode("utf-8", errors="replace")

    text = list("aé日 👩".encode())
    camera = Camera(Bytes(), None, None, Clock())
    for count in range(1, len(text) + 1):
        pieces = camera._split(tuple(text[:count]))
        assert "".join(pieces) == bytes(text[:count]).decode("utf-8", errors="ignore")


def test_a_glance_tells_what_it_has() -> None:
    seen: list[Glance] = []
    model = tiny("llama")
    with gentrace.record(model, layers=[1]) as recorder:
        recorder.watch(seen.append)
        model.generate(prompt(5), **GREEDY)
    assert [info.index for info in seen[-1].layers] == [1]
    with pytest.raises(gentrace.AttentionUnavailable, match="layers recorded: none"):
        seen[-1].attention(1, kind="encoder")
