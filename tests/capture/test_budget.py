"""The budget: a recording that will not fit is refused before the model has computed anything."""

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

import gentrace
from tests.models import configs, prompt, tiny

NEW = 24


def kept(model: PreTrainedModel, **options: object) -> int:
    """Bytes of queries, keys and values that an unlimited recording of a generation comes to."""
    with gentrace.record(model, **options) as recorder:
        model.generate(prompt(6), max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False)
    store = recorder.trace.store
    names = [name for name in store.names() if name.endswith(("queries", "keys", "values"))]
    return sum(store.tensor(name).nbytes for name in names)


@pytest.mark.parametrize("name", ["llama", "mistral", "gpt2", "qwen3", "gemma3", "gpt_neox", "olmo2", "phi3"])
@pytest.mark.parametrize("options", [{}, {"values": True}, {"layers": [1]}])
def test_what_is_needed_is_known_to_the_byte(name: str, options: dict[str, object]) -> None:
    model = AutoModelForCausalLM.from_config(configs()[name], attn_implementation="eager").eval()
    needed = kept(model, **options)
    forwards: list[int] = []
    model.register_forward_pre_hook(lambda *_: forwards.append(1))
    with (
        pytest.raises(gentrace.CaptureBudgetError, match=f"would take {needed:,} bytes, max_bytes is {needed - 1:,}"),
        gentrace.record(model, max_bytes=needed - 1, **options),
    ):
        model.generate(prompt(6), max_new_tokens=NEW, do_sample=False)
    assert not sum(forwards[1:])
    with gentrace.record(model, max_bytes=needed, **options) as recorder:
        model.generate(prompt(6), max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False)
    assert recorder.trace.length == 6 + NEW - 1


def test_an_unknown_configuration_is_refused_by_its_first_layer() -> None:
    model = tiny("deepseek_v3")
    needed = kept(model)
    finished: list[int] = []
    model.model.layers[0].register_forward_hook(lambda *_: finished.append(1))
    with (
        pytest.raises(gentrace.CaptureBudgetError, match=f"max_bytes is {needed // 2:,}") as caught,
        gentrace.record(model, max_bytes=needed // 2),
    ):
        model.generate(prompt(6), max_new_tokens=NEW, do_sample=False)
    assert not finished[1:]
    assert "spill_dir" in str(caught.value)
    with gentrace.record(model, max_bytes=needed) as recorder:
        model.generate(prompt(6), max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False)
    assert recorder.trace.length == 6 + NEW - 1


def test_batches_and_returned_sequences_count() -> None:
    model = tiny("llama")
    needed = kept(model)
    options = {"max_new_tokens": NEW, "do_sample": True, "num_return_sequences": 3}
    with (
        pytest.raises(gentrace.CaptureBudgetError, match=f"would take {6 * needed:,} bytes"),
        gentrace.record(model, max_bytes=needed),
    ):
        model.generate(torch.cat([prompt(6), prompt(6)]), **options)
