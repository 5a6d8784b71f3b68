"""Watching ``generate``: when it starts and ends, what it sampled from, and where each sequence ended.

The model's own methods run unchanged. While it is recorded, three of them carry an instance attribute that calls the
original and looks at what goes in and out: a processor that changes nothing is put after all others, and the stopping
criteria's verdicts are noted as they are given.
"""

import functools
import inspect
import threading
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import GenerationMixin, LogitsProcessor, LogitsProcessorList, StoppingCriteriaList

from gentrace.capture.run import Run
from gentrace.errors import UnsupportedModel

MODES = ("greedy_search", "sample")
REFUSED = {
    "assistant_model": "assisted decoding",
    "prompt_lookup_num_tokens": "prompt-lookup decoding",
    "assistant_early_exit": "early-exit decoding",
    "custom_generate": "a custom generation function",
    "penalty_alpha": "contrastive search",
    "dola_layers": "DoLa decoding",
    "constraints": "constrained beam search",
    "force_words_ids": "constrained beam search",
    "negative_prompt_ids": "classifier-free guidance",
}


class Generation:
    """One call of ``generate``."""

    def __init__(self) -> None:
        """Begin with nothing known."""
        self.columns = 0
        """Columns of the prompt ids that generate appends to."""
        self.limit: int | None = None
        """Positions that will be fed at most."""
        self.padding: Tensor | None = None
        """[batch, position] the prompt's attention mask, or None when all of it is text."""
        self.options: dict[str, Any] = {}
        self.scores: Tensor | None = None
        """[batch, vocab] the newest processed scores."""
        self.samples_raw = False
        """Whether the scores are the model's own logits, because nothing processes them."""
        self.done: list[Tensor] = []
        """[batch] per step: whether each sequence has ended."""
        self.run: Run | None = None
        """Where it is recorded, once its first forward has begun."""
        self.prompt_stop: int | None = None
        """One past the prompt's last position, known when the first token is chosen."""

    def note_scores(self, scores: Tensor) -> None:
        """Keep the scores that the next token is chosen from."""
        self.scores = scores
        if self.prompt_stop is None and self.run is not None:
            self.prompt_stop = self.run.stop

    def lengths(self, sequences: Tensor) -> Tensor:
        """Columns of the returned sequences that belong to each, its end token included, ``[batch]``."""
        columns = sequences.shape[1]
        batch = sequences.shape[0]
        steps = columns - self.columns
        if len(self.done) < steps or not steps:
            return torch.full((batch,), columns)
        # A sequence that has ended is filled with padding from the next step on, whatever the criteria say then.
        ended = torch.stack([verdict.expand(batch) for verdict in self.done[:steps]]).cpu().int().cummax(0).values
        return self.columns + torch.minimum((ended == 0).sum(0) + 1, torch.tensor(steps))


class Watcher(Protocol):
    """Somebody who is told of generations."""

    def generation_begins(self) -> Generation:
        """A call of generate begins on this thread."""
        ...

    def generation_ends(self, generation: Generation, sequences: Tensor | None) -> None:
        """It ended, with the returned ids or, after an exception, without."""
        ...


class _Tap(LogitsProcessor):
    """The last processor: keeps a reference to the scores that will be sampled from."""

    def __init__(self, generation: Generation) -> None:
        self._generation = generation

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self._generation.note_scores(scores)
        return scores


class _Criteria(StoppingCriteriaList):
    """Stopping criteria whose verdicts are noted."""

    generation: Generation

    def __call__(self, input_ids: Any, scores: Any, **options: Any) -> Any:
        verdict = super().__call__(input_ids, scores, **options)
        self.generation.done.append(verdict)
        return verdict


class GenerateWatch:
    """Watches one model's ``generate`` until it is removed."""

    def __init__(self, model: GenerationMixin, watcher: Watcher) -> None:
        """Attach to the instance; the class is not touched."""
        self._model = model
        self._watcher = watcher
        self._current: dict[int, Generation] = {}
        self._before: dict[str, Any] = {}
        for name in ("generate", "_get_logits_processor", "_get_stopping_criteria"):
            self._replace(name, getattr(self, f"_{name.lstrip('_')}"))

    def remove(self) -> None:
        """Give the model its methods back. Twice is harmless."""
        for name, before in self._before.items():
            if before is None:
                self._model.__dict__.pop(name, None)
            else:
                self._model.__dict__[name] = before
        self._before = {}

    def _replace(self, name: str, observed: Callable[..., Any]) -> None:
        original = getattr(self._model, name)
        self._before[name] = self._model.__dict__.get(name)

        @functools.wraps(original)
        def call(*args: Any, **kwargs: Any) -> Any:
            return observed(original, *args, **kwargs)

        self._model.__dict__[name] = call

    def _generate(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        for option, meaning in REFUSED.items():
            if kwargs.get(option) is not None:
                raise _refusal(meaning)
        generation = self._watcher.generation_begins()
        thread = threading.get_ident()
        self._current[thread] = generation
        sequences = None
        try:
            result = original(*args, **kwargs)
            sequences = result if isinstance(result, Tensor) else result.sequences
            return result
        finally:
            self._current.pop(thread, None)
            self._watcher.generation_ends(generation, sequences)

    def _get_logits_processor(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        generation = self._current.get(threading.get_ident())
        processors = original(*args, **kwargs)
        if generation is None:
            return processors
        given = inspect.signature(original).bind(*args, **kwargs).arguments
        config = given["generation_config"]
        mode = str(config.get_generation_mode().value)
        if mode not in MODES:
            raise _refusal(mode.replace("_", " "))
        if config.guidance_scale not in (None, 1, 1.0):
            raise _refusal("classifier-free guidance")
        if config.cache_implementation == "quantized":
            raise _refusal("a quantized cache")
        options = given.get("model_kwargs") or {}
        generation.columns = int(given["input_ids_seq_length"])
        generation.limit = None if config.max_length is None else int(config.max_length) - 1
        mask = options.get("attention_mask")
        generation.padding = None if mask is None else mask.detach().clone()
        generation.options = _plain(config.to_diff_dict())
        generation.samples_raw = not processors
        return LogitsProcessorList([*processors, _Tap(generation)])

    def _get_stopping_criteria(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        criteria = original(*args, **kwargs)
        generation = self._current.get(threading.get_ident())
        if generation is None:
            return criteria
        observed = _Criteria(criteria)
        observed.generation = generation
        return observed


def find_generators(model: nn.Module) -> list[GenerationMixin]:
    """The modules in ``model`` that can generate."""
    return [module for module in model.modules() if isinstance(module, GenerationMixin)]


def _plain(value: Any) -> Any:
    """The value as JSON holds it; what JSON cannot hold by its text."""
    if isinstance(value, dict):
        return {str(name): _plain(inner) for name, inner in value.items() if not str(name).startswith("_")}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value if isinstance(value, bool | int | float | str | None) else str(value)


def _refusal(meaning: str) -> UnsupportedModel:
    return UnsupportedModel(
        "recording a generation", f"{meaning} is not supported yet", "use greedy search or sampling without it"
    )
