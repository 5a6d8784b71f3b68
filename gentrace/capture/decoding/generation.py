"""Watching ``generate``: when it starts and ends, what it sampled from, and where each sequence ended.

The model's own methods run unchanged. While it is recorded, three of them carry an instance attribute that calls the
original and looks at what goes in and out: a processor that changes nothing is put after all others, and the stopping
criteria's verdicts are noted as they are given.
"""

import functools
import inspect
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import GenerationMixin, LogitsProcessor, LogitsProcessorList, StoppingCriteriaList

from gentrace.capture.decoding.beams import Beams
from gentrace.capture.run import Rejected, Run
from gentrace.errors import UnsupportedModel

MODES = ("greedy_search", "sample", "beam_search", "beam_sample", "assisted_generation")
ASIDE = frozenset({"get_candidates", "update_candidate_strategy"})
"""Methods of candidate generators that run models of their own, or the same one for a draft."""


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
        self.config: Any = None
        """Its settings, which generate made for this call alone; a dictionary where they have no class."""
        self.scores: list[Tensor] = []
        """[batch, vocab] the newest forward's processed scores, one for each row that a token is chosen from."""
        self.drafts = False
        """Whether tokens are drafted and several checked in one forward."""
        self.rejected: list[Rejected] = []
        """Drafts that were not accepted."""
        self.beams: Beams | None = None
        """The hypotheses, in beam search."""
        self.ids: Tensor | None = None
        """[batch, column] the text so far, prompt included, as the stopping criteria were shown it."""
        self.prepared = False
        """Whether decoding has begun."""
        self.encoder: Run | None = None
        """The encoder's forward, of an encoder-decoder model."""
        self.aside = 0
        """Above 0 while forwards serve a draft or a logits processor."""
        self.samples_raw = False
        """Whether the scores are the model's own logits, because nothing processes them."""
        self.done: list[Tensor] = []
        """[batch] per step: whether each sequence has ended."""
        self.lane: Any = None
        """The steady path that its steps take, once there is one."""
        self.tries = 8
        """How often a steady path may still be begun."""
        self.run: Run | None = None
        """Where it is recorded, once its first forward has begun."""
        self.prompt_stop: int | None = None
        """One past the prompt's last position, known when the first token is chosen."""

    def note_scores(self, scores: Tensor) -> None:
        """Keep the scores that the next token is chosen from."""
        if self.aside:
            return
        self.scores = [*self.scores, scores] if self.drafts else [scores]
        if self.prompt_stop is None and self.run is not None:
            self.prompt_stop = self.columns if self.drafts else self.run.stop

    def note_verdict(self, ids: Tensor, verdict: Tensor) -> None:
        """Keep the text so far ``[batch, column]`` and which sequences have ended ``[batch]``."""
        if not self.aside:
            self.ids = ids
            self.done.append(verdict)

    def take_scores(self, rows: int) -> list[Tensor]:
        """Hand over the newest scores of ``rows`` rows; empty if there are none."""
        scores, self.scores = self.scores, []
        return scores if len(scores) == rows else []

    def sequences(self) -> Tensor | None:
        """``[sequence, column]`` the texts that were decoded, prompts included; None if no step was taken."""
        return self.ids if self.beams is None else self.beams.sequences()

    @contextmanager
    def set_aside(self) -> Generator[None]:
        """What runs in here is not the text's."""
        self.aside += 1
        try:
            yield
        finally:
            self.aside -= 1

    def lengths(self, sequences: Tensor) -> Tensor:
        """Columns of the returned sequences that belong to each, its end token included, ``[batch]``."""
        columns = sequences.shape[1]
        batch = sequences.shape[0]
        steps = columns - self.columns
        if self.beams is not None:
            return self.columns + self.beams.lengths()
        if self.drafts:
            return torch.full((batch,), columns)
        if len(self.done) < steps or not steps:
            return torch.full((batch,), columns)
        verdicts = torch.stack(self.done[:steps]).view(steps, -1).cpu()
        if not bool(verdicts[:-1].any()):
            return torch.full((batch,), columns)
        # A sequence that has ended is filled with padding from the next step on, whatever the criteria say then.
        ended = verdicts.expand(steps, batch).cummax(0).values
        return self.columns + (steps - ended.sum(0) + 1).clamp_max(steps)


class Watcher(Protocol):
    """Somebody who is told of generations."""

    def generation_begins(self) -> Generation:
        """A call of generate begins on this thread."""
        ...

    def generation_ends(self, generation: Generation, sequences: Tensor | None) -> None:
        """It ended, with the returned ids or, after an exception, without."""
        ...


class _Unchanged(LogitsProcessor):
    """Changes nothing; an empty list of processors would not be called at all."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return scores


class _Processors(LogitsProcessorList):
    """Processors whose own forwards, as guidance makes them, are not the text's."""

    def __init__(self, given: LogitsProcessorList, generation: Generation) -> None:
        """Put one that changes nothing after those that generate has made."""
        super().__init__([*given, _Unchanged()])
        self.generation = generation
        self.given = given
        # What each one takes is asked once here, and at every step there.
        self._plain = [*given] if type(given) is LogitsProcessorList and all(map(_takes_two, given)) else None

    def __call__(self, input_ids: Any, scores: Any, **options: Any) -> Any:
        generation = self.generation
        if len(self) > 1:
            generation.aside += 1
            try:
                # A processor may have been added to either list since.
                if len(self) != len(self.given) + 1:
                    scores = super().__call__(input_ids, scores, **options)
                elif self._plain == self.given:
                    for processor in self.given:
                        scores = processor(input_ids, scores)
                else:
                    scores = self.given.__call__(input_ids, scores, **options)
            finally:
                generation.aside -= 1
        generation.note_scores(scores)
        return scores


def _takes_two(processor: Any) -> bool:
    """Whether it is called with ids and scores alone."""
    if isinstance(processor, LogitsProcessor):
        return _parameters(type(processor)) <= 3
    return len(inspect.signature(processor.__call__).parameters) <= 2


@functools.lru_cache(maxsize=64)
def _parameters(kind: type[LogitsProcessor]) -> int:
    """What a kind of processor takes, itself included."""
    return len(inspect.signature(kind.__call__).parameters)


class _Criteria(StoppingCriteriaList):
    """Stopping criteria whose verdicts are noted."""

    generation: Generation

    def __call__(self, input_ids: Any, scores: Any, **options: Any) -> Any:
        verdict = super().__call__(input_ids, scores, **options)
        self.generation.note_verdict(input_ids, verdict)
        return verdict


OBSERVED = (
    "generate",
    "_get_logits_processor",
    "_get_stopping_criteria",
    "_get_candidate_generator",
    "_get_top_k_continuations",
    "_get_running_beams_for_next_iteration",
    "_update_finished_beams",
)


class GenerateWatch:
    """Watches one model's ``generate`` until it is removed."""

    def __init__(self, model: GenerationMixin, watcher: Watcher, top_k: int) -> None:
        """Attach to the instance; the class is not touched."""
        self._model = model
        self._top_k = top_k
        self._watcher = watcher
        self._current: dict[int, Generation] = {}
        self._before: dict[str, Any] = {}
        for name in OBSERVED:
            if hasattr(model, name):
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
        thread = threading.get_ident()
        outer = self._current.get(thread)
        if outer is not None and outer.aside:
            # A model that drafts for itself.
            return original(*args, **kwargs)
        if kwargs.get("cache_implementation") == "quantized":
            raise _refusal("a quantized cache")
        generation = self._watcher.generation_begins()
        self._current[thread] = generation
        sequences = None
        try:
            result = original(*args, **kwargs)
            returned = result if isinstance(result, Tensor) else getattr(result, "sequences", None)
            # Some models cut the prompt off what they return, or return something else than text.
            decoded = self._current[thread].sequences()
            sequences = returned if decoded is None else decoded
            return result
        finally:
            self._watcher.generation_ends(self._current.pop(thread), sequences)

    def _get_logits_processor(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        generation = self._current.get(threading.get_ident())
        processors = original(*args, **kwargs)
        if generation is None or generation.aside:
            return processors
        if generation.prepared:
            # One call of generate that decodes several times, as for long audio: each is a generation of its own.
            self._watcher.generation_ends(generation, generation.sequences())
            encoder, generation = generation.encoder, self._watcher.generation_begins()
            generation.encoder = encoder
            self._current[threading.get_ident()] = generation
        generation.prepared = True
        given = inspect.signature(original).bind(*args, **kwargs).arguments if args else kwargs
        config = given["generation_config"]
        mode = str(config.get_generation_mode().value)
        if mode not in MODES:
            raise _refusal(mode.replace("_", " "))
        if config.cache_implementation == "quantized":
            raise _refusal("a quantized cache")
        options = given.get("model_kwargs") or {}
        generation.columns = int(given["input_ids_seq_length"])
        generation.limit = None if config.max_length is None else int(config.max_length) - 1
        encodes = bool(getattr(getattr(self._model, "config", None), "is_encoder_decoder", False))
        mask = options.get("decoder_attention_mask" if encodes else "attention_mask")
        if mode.startswith("beam"):
            generation.beams = Beams(int(config.num_beams), int(config.num_return_sequences))
        generation.padding = None if mask is None else mask.detach().clone()
        generation.config = config
        generation.samples_raw = not processors
        return _Processors(processors, generation)

    def _get_stopping_criteria(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        criteria = original(*args, **kwargs)
        generation = self._current.get(threading.get_ident())
        if generation is None or generation.aside:
            return criteria
        observed = _Criteria(criteria)
        observed.generation = generation
        return observed

    def _get_candidate_generator(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        generation = self._current.get(threading.get_ident())
        drafter = original(*args, **kwargs)
        if generation is not None:
            generation.drafts = True
            for name in ASIDE:
                method = getattr(drafter, name)
                setattr(drafter, name, _aside(method, generation))
        return drafter

    def _get_top_k_continuations(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        generation = self._current.get(threading.get_ident())
        if generation is not None and generation.beams is not None and generation.run is not None:
            given = inspect.signature(original).bind(*args, **kwargs).arguments
            step = int(given["cur_len"]) - int(given["decoder_prompt_len"])
            scores = generation.take_scores(1)
            generation.beams.note_candidates(generation.run, result, int(given["cur_len"]), step, scores, self._top_k)
        return result

    def _get_running_beams_for_next_iteration(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        generation = self._current.get(threading.get_ident())
        if generation is not None and generation.beams is not None:
            generation.beams.note_running(result)
        return result

    def _update_finished_beams(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        generation = self._current.get(threading.get_ident())
        if generation is not None and generation.beams is not None:
            given = inspect.signature(original).bind(*args, **kwargs).arguments
            generation.beams.note_finished(given["next_token_hits_stopping_criteria"], result)
        return result


def _aside(method: Callable[..., Any], generation: Generation) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        with generation.set_aside():
            return method(*args, **kwargs)

    return call


def options_of(config: Any) -> dict[str, Any]:
    """The settings of a generation that are not the defaults."""
    return _plain(config if isinstance(config, dict) else {} if config is None else config.to_diff_dict())


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
