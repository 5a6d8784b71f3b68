"""One batch of prompts, generated and recorded, in which every row draws its own random numbers."""

import threading
import warnings
from collections.abc import Collection, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from gentrace.capture.oneliners import encode
from gentrace.capture.recorder import record
from gentrace.errors import FidelityWarning
from gentrace.studies.models import LoadedModel, quiet
from gentrace.trace.trace import Trace


def generate_batch(
    loaded: LoadedModel,
    texts: Sequence[str],
    draws: Sequence[int],
    arguments: dict[str, Any],
    *,
    layers: Collection[int] | None,
    values: bool,
    top_k: int,
) -> list[Trace]:
    """Generate from texts together.

    Args:
        loaded: The model.
        texts: The prompts, padded on the left to one length.
        draws: For each prompt the seed of its own draws.
        arguments: What generate is given.
        layers: Layers to record, None for all.
        values: Whether to record value vectors.
        top_k: Alternatives to keep per position.

    Returns:
        One trace per prompt, in their order. How exact each is, its ``fidelity`` tells; no warning is given here.

    Raises:
        Exception: Whatever generating or recording raises.
    """
    model, tokenizer = loaded.model, loaded.tokenizer
    device = next(model.parameters()).device
    inputs = {name: tensor.to(device) for name, tensor in encode(tokenizer, list(texts), model).items()}
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FidelityWarning)
        with (
            record(model, tokenizer, layers=layers, values=values, top_k=top_k) as recorder,
            torch.no_grad(),
            own_draws(draws, device),
        ):
            model.generate(**inputs, **arguments, pad_token_id=pad)
        return recorder.traces


def finish_of(loaded: LoadedModel, trace: Trace, arguments: Mapping[str, Any]) -> str:
    """How a text ended: "stop" if the model ended it itself, "length" if it was cut off."""
    ends = arguments.get("eos_token_id", loaded.model.generation_config.eos_token_id)
    ends = ends if isinstance(ends, list) else [ends]
    tokens = trace.tokens
    return "stop" if len(tokens) > tokens.prompt_length and int(tokens.ids[-1]) in ends else "length"


_patching = threading.Lock()


@contextmanager
def own_draws(seeds: Sequence[int], device: torch.device) -> Generator[None]:
    """Let each row of a batch draw from a generator of its own, so that its draws do not depend on its batch mates.

    ``generate`` draws for all rows at once from torch's global generator. In here its ``torch.multinomial`` draws row
    by row; on other threads it does what it always did. Nothing is left of this afterwards.

    Args:
        seeds: One per row.
        device: Where the probabilities are.
    """
    generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]
    thread, original = threading.get_ident(), torch.multinomial

    def by_row(probabilities: Tensor, num_samples: int, *args: Any, **kwargs: Any) -> Tensor:
        mine = threading.get_ident() == thread and probabilities.dim() == 2 and len(probabilities) == len(generators)
        if not mine or args or kwargs:
            return original(probabilities, num_samples, *args, **kwargs)
        rows = [original(row, num_samples, generator=own) for row, own in zip(probabilities, generators, strict=True)]
        return torch.stack(rows)

    with _patching:
        torch.multinomial = by_row
        try:
            yield
        finally:
            torch.multinomial = original
