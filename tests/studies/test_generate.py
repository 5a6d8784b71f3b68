"""Every row draws for itself: what a prompt is answered does not depend on the draws of its batch mates."""

from pathlib import Path

import pytest
import torch

from gentrace.studies.generate import finish_of, generate_batch, own_draws
from gentrace.studies.models import LoadedModel, open_model
from gentrace.studies.spec import ModelSpec
from gentrace.trace.trace import Trace

TEXTS = ["Once there was a cat.", "Once there was a dog in the park.", "One day"]
HOT = {"do_sample": True, "temperature": 1.3, "max_new_tokens": 12}


@pytest.fixture(scope="module")
def story() -> LoadedModel:
    return open_model(ModelSpec(name="story"), base=Path.cwd())


def generated(story: LoadedModel, texts: list[str], draws: list[int], **more: object) -> list[Trace]:
    return generate_batch(story, texts, draws, {**HOT, **more}, layers=[0], values=False, top_k=2)


def ids(traces: list[Trace]) -> list[list[int]]:
    return [trace.tokens.ids.tolist() for trace in traces]


@pytest.mark.parametrize("more", [{}, {"num_beams": 2}])
def test_a_row_is_the_same_in_any_batch(more: dict[str, object], story: LoadedModel) -> None:
    together = ids(generated(story, TEXTS, [1, 2, 3], **more))
    assert ids(generated(story, TEXTS[::-1], [3, 2, 1], **more)) == together[::-1]
    for text, draw, expected in zip(TEXTS, [1, 2, 3], together, strict=True):
        assert ids(generated(story, [text], [draw], **more)) == [expected]
    assert ids(generated(story, TEXTS, [1, 2, 4], **more))[:2] == together[:2]
    assert ids(generated(story, TEXTS, [1, 2, 4], **more))[2] != together[2]


def test_alone_it_is_what_the_model_itself_draws(story: LoadedModel) -> None:
    (trace,) = generated(story, TEXTS[:1], [5])
    inputs = story.tokenizer(TEXTS[0], return_tensors="pt")
    torch.manual_seed(5)
    with torch.no_grad():
        expected = story.model.generate(**inputs, **HOT, pad_token_id=story.tokenizer.eos_token_id)
    assert trace.tokens.ids.tolist() == expected[0].tolist()


def test_draws_follow_the_probabilities() -> None:
    rows = torch.tensor([[0.1, 0.2, 0.7, 0.0]]).expand(4000, 4)
    with own_draws(range(4000), torch.device("cpu")):
        drawn = torch.multinomial(rows, num_samples=1)
    shares = drawn.flatten().bincount(minlength=4) / 4000
    # Four standard deviations of a share of 4,000 draws.
    assert (shares - rows[0]).abs().max() < 4 * (0.25 / 4000) ** 0.5
    assert shares[3] == 0


def test_nothing_is_left_behind(story: LoadedModel) -> None:
    original, state = torch.multinomial, torch.get_rng_state()
    generated(story, TEXTS, [1, 2, 3])
    assert torch.multinomial is original
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(RuntimeError, match="stop"), own_draws([1], torch.device("cpu")):
        raise RuntimeError("stop")
    assert torch.multinomial is original


def test_how_a_text_ended(story: LoadedModel) -> None:
    (trace,) = generated(story, TEXTS[:1], [5])
    assert finish_of(story, trace, {}) == "length"
    fifth = int(trace.tokens.ids[trace.tokens.prompt_length + 4])
    (stopped,) = generated(story, TEXTS[:1], [5], eos_token_id=fifth)
    assert len(stopped.tokens) <= trace.tokens.prompt_length + 5
    assert finish_of(story, stopped, {"eos_token_id": fifth}) == "stop"
