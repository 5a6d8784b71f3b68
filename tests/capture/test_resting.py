"""Hooks of the models inside rest while nothing depends on them; nobody may notice, in this thread or another."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import LogitsProcessor, LogitsProcessorList

import gentrace
from gentrace.capture.taps.hooks import HOOK
from tests.capture.test_generation import check
from tests.capture.test_left_alone import fingerprint
from tests.models import prompt, tiny

NEW = {"max_new_tokens": 12, "min_new_tokens": 12, "do_sample": False}


class At(LogitsProcessor):
    """Does something when a text has reached a length; scores stay as they are."""

    def __init__(self, length: int, act: Callable[[], object]) -> None:
        self.length = length
        self.act = act

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if input_ids.shape[1] == self.length:
            self.act()
        return scores


def rests(module: nn.Module) -> bool:
    return HOOK not in module._forward_hooks and HOOK not in module._forward_pre_hooks


def generate(model: Any, ids: Tensor, *processors: At, **options: Any) -> Tensor:
    return model.generate(ids, logits_processor=LogitsProcessorList(processors), **NEW | options)


@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_they_rest_in_the_middle_alone(cache: str) -> None:
    model: Any = tiny("llama")
    before, seen = fingerprint(model)["hooks"], list[tuple[bool, bool]]()
    options = {} if cache == "dynamic" else {"cache_implementation": "static", "disable_compile": True}
    note = [At(length, lambda: seen.append((rests(model), rests(model.model)))) for length in (6, 7, 12)]
    with gentrace.record(model) as recorder:
        text = generate(model, prompt(6), *note, **options)
        assert not rests(model)
        assert not rests(model.model)
        whole = model(prompt(5)).logits
    assert seen == [(False, cache == "dynamic")] * 3
    assert fingerprint(model)["hooks"] == before
    check(recorder.traces[0], model, text[0])
    # The prompt's hidden states are told by a hook that had been resting.
    logprobs = recorder.traces[1].tokens.logprobs[1:]
    expected = whole[0].log_softmax(-1)[:-1].gather(1, prompt(5)[0, 1:, None])[:, 0]
    assert (logprobs - expected).abs().max() < 1e-5


@pytest.mark.parametrize("where", ["between steps", "in a step", "in a step that leaves the path"])
def test_another_thread_gets_them_back(where: str) -> None:
    """Between two steps of the first, and in the middle of one, whose model inside has begun without hooks."""
    model: Any = tiny("llama")
    model.model.layers[1].inside = inside = tiny("gpt2")
    other, met = list[Tensor](), list[bool]()

    def work() -> None:
        thread = threading.Thread(target=lambda: other.append(generate(model, prompt(9, seed=5))))
        thread.start()
        thread.join()
        assert not rests(model.model)

    def interrupt(*_: object) -> None:
        if where != "between steps" and rests(model.model) and not met:
            met.append(True)
            if where == "in a step that leaves the path":
                inside(inputs_embeds=torch.zeros(1, 3, inside.config.n_embd))
            work()

    with gentrace.record(model) as recorder:
        # With a hook of the user's own, ours is called at the end of a forward that has begun without it.
        handles = [
            model.model.register_forward_hook(lambda *_: None),
            model.model.layers[1].register_forward_pre_hook(interrupt),
        ]
        first = generate(model, prompt(6), *([At(10, work)] if where == "between steps" else []))
        for handle in handles:
            handle.remove()
    assert len(other) == 1
    for trace, text in zip(recorder.traces, (first, other[0]), strict=True):
        check(trace, model, text[0])
        assert not trace.tokens.logprobs[1:].isnan().any()


def test_they_do_not_rest_while_another_thread_may_need_them() -> None:
    """The other one is about to read its prompt when the first comes to its steady path."""
    model: Any = tiny("llama")
    other = list[Tensor]()
    reached, goes_on = threading.Event(), threading.Event()
    thread = threading.Thread(target=lambda: other.append(generate(model, prompt(9, seed=5))))

    def wait(*_: object) -> None:
        if threading.current_thread() is thread and not reached.is_set():
            reached.set()
            assert goes_on.wait(60)

    def go_on() -> None:
        goes_on.set()
        thread.join()

    with gentrace.record(model) as recorder:
        handle = model.register_forward_pre_hook(wait)
        thread.start()
        assert reached.wait(60)
        first = generate(model, prompt(6), At(9, go_on))
        handle.remove()
    traces = sorted(recorder.traces, key=lambda trace: trace.length)
    for trace, text in zip(traces, (first, other[0]), strict=True):
        check(trace, model, text[0])
        assert not trace.tokens.logprobs[1:].isnan().any()


def test_a_part_that_another_thread_calls_meanwhile_runs_unrecorded() -> None:
    """Once, and with a warning; from then on its forwards are seen again."""
    model: Any = tiny("llama")
    states = list[Tensor]()

    def work() -> None:
        for _ in range(2):
            thread = threading.Thread(target=lambda: states.append(model.model(prompt(5)).last_hidden_state))
            thread.start()
            thread.join()

    with gentrace.record(model) as recorder, pytest.warns(RuntimeWarning, match="is not recorded") as warned:
        text = generate(model, prompt(6), At(9, work))
    assert len(warned) == 1
    assert torch.equal(*states)
    whole, part = recorder.traces
    assert part.length == 5
    check(whole, model, text[0])


def test_a_block_that_is_left_meanwhile_leaves_no_hook() -> None:
    model: Any = tiny("llama")
    before = fingerprint(model)
    reached, left = threading.Event(), threading.Event()

    def wait() -> None:
        reached.set()
        assert left.wait(60)

    thread = threading.Thread(target=generate, args=(model, prompt(6), At(9, wait)))
    with gentrace.record(model):
        thread.start()
        assert reached.wait(60)
        assert rests(model.model)
    left.set()
    thread.join()
    assert fingerprint(model) == before
