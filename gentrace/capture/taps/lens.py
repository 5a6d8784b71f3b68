"""The lens tap: TransformerLens' bridges, which compute attention themselves and generate in a loop of their own.

A bridge puts its own modules into a Hugging Face model and keeps that model beside its tree of modules. What its
attention computes passes between its hook points, where the functional tap sees it. Left to do are the names, which
are those of the hook points, and the loop: it is a generator, so that a stream may be abandoned or interleaved with
something else, and its steps belong to its generation only while each of them is computed.
"""

import inspect
import sys
import threading
import weakref
from collections.abc import Callable, Generator
from functools import wraps
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from gentrace.capture.decoding.generation import Generation, Watcher

PATTERN = "hook_pattern"
OPTIONS = (
    "max_new_tokens",
    "do_sample",
    "top_k",
    "top_p",
    "temperature",
    "freq_penalty",
    "repetition_penalty",
    "stop_at_eos",
    "use_past_kv_cache",
)
"""Arguments of generation that a trace tells of."""


class Switcher(Watcher, Protocol):
    """Somebody who is told of generations that are not computed in one go."""

    def switch(self, generation: Generation | None) -> Generation | None:
        """Make a generation, or none, the one of this thread's forwards; returns the one before."""
        ...


def model_of(bridge: Any) -> nn.Module | None:
    """The model inside a bridge of TransformerLens; None for anything else."""
    library = sys.modules.get("transformer_lens.model_bridge")
    if library is None or not isinstance(bridge, library.TransformerBridge):
        return None
    return bridge.original_model


def attention_names(model: nn.Module) -> dict[int, str]:
    """What a bridge calls its attention, by the ids of the modules, and of those that they may leave the work to."""
    names: dict[int, str] = {}
    for module in model.modules():
        name = getattr(getattr(module, PATTERN, None), "name", None)
        if isinstance(name, str):
            inside = getattr(module, "original_component", None)
            names |= {id(part): name.removesuffix(f".{PATTERN}") for part in (module, inside) if part is not None}
    return names


class _Loop:
    """One generation of a bridge, recorded until it is stopped."""

    def __init__(self, watcher: Switcher, generation: Generation, given: dict[str, Any], text: Tensor) -> None:
        self._watcher = watcher
        self._generation = generation
        self._given = given
        self._text = text
        """[batch, column] prompt and tokens so far."""
        self._finished = False
        self._stopped = False

    def run(self, steps: Generator[Any]) -> Generator[Any]:
        """The steps, each of them computed as the generation's own."""
        try:
            while True:
                before = self._watcher.switch(None if self._stopped else self._generation)
                try:
                    step = next(steps, None)
                finally:
                    self._watcher.switch(before)
                if step is None:
                    return
                if not self._stopped:
                    self._note(*step)
                yield step
        finally:
            steps.close()
            self.stop()

    def stop(self) -> None:
        """Record no more of it. Twice is harmless."""
        if self._stopped:
            return
        self._stopped = True
        before = self._watcher.switch(self._generation)
        try:
            self._watcher.generation_ends(self._generation, self._text)
        finally:
            self._watcher.switch(before)
        if self._generation.run is not None and not self._finished:
            self._generation.run.complete = False

    def _note(self, tokens: Tensor, logits: Tensor, finished: bool) -> None:
        scores = _sampled_from(self._given, self._text, logits)
        self._generation.samples_raw = scores is None
        self._generation.note_scores(logits if scores is None else scores)
        self._text = torch.cat([self._text, tokens.detach()[:, None]], 1)
        self._generation.note_verdict(self._text, self._given["finished_sequences"].clone())
        count = self._text.shape[1] - self._generation.columns
        self._finished = finished or count >= self._given["max_new_tokens"]


class BridgeWatch:
    """Watches a bridge's own generation until it is removed."""

    def __init__(self, bridge: nn.Module, watcher: Switcher) -> None:
        """Attach to the instance; the class is not touched.

        Args:
            bridge: The bridge.
            watcher: Who is told.
        """
        self._bridge = bridge
        self._watcher = watcher
        self._inside = threading.local()
        self._loops: list[weakref.ref[_Loop]] = []
        self._before: dict[str, Any] = {}
        for name in ("generate", "_generate_tokens", "run_with_cache"):
            self._replace(name, getattr(self, f"_{name.lstrip('_')}"))

    def remove(self) -> None:
        """Give the bridge its methods back, and record no more of streams that go on. Twice is harmless."""
        for name, before in self._before.items():
            if before is None:
                self._bridge.__dict__.pop(name, None)
            else:
                self._bridge.__dict__[name] = before
        self._before = {}
        for found in self._loops:
            loop = found()
            if loop is not None:
                loop.stop()
        self._loops = []

    def _replace(self, name: str, observed: Callable[..., Any]) -> None:
        original = getattr(self._bridge, name)
        self._before[name] = self._bridge.__dict__.get(name)

        @wraps(original)
        def call(*args: Any, **kwargs: Any) -> Any:
            return observed(original, *args, **kwargs)

        self._bridge.__dict__[name] = call

    def _generate(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._inside.loop = None
        self._inside.generate = True
        try:
            return original(*args, **kwargs)
        finally:
            # After an exception the traceback would keep the loop, and with it the generation, going.
            loop, self._inside.loop, self._inside.generate = self._inside.loop, None, False
            if loop is not None:
                loop.stop()

    def _run_with_cache(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if not getattr(self._inside, "generate", False):
            return original(*args, **kwargs)
        # The whole text once more, for the cache that `generate` was asked to return.
        aside = Generation()
        before = self._watcher.switch(aside)
        try:
            with aside.set_aside():
                return original(*args, **kwargs)
        finally:
            self._watcher.switch(before)

    def _generate_tokens(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Generator[Any]:
        given = inspect.signature(original).bind(*args, **kwargs).arguments
        generation = self._watcher.generation_begins()
        self._watcher.switch(None)
        loop = _Loop(self._watcher, generation, given, self._begin(generation, given))
        self._loops = [known for known in self._loops if known() is not None]
        self._loops.append(weakref.ref(loop))
        self._inside.loop = loop
        return loop.run(original(*args, **kwargs))

    def _begin(self, generation: Generation, given: dict[str, Any]) -> Tensor:
        """Tell the generation what is known of it; returns the ids that it appends to, ``[batch, column]``."""
        prompt: Tensor = given["input_tokens"]
        mask = given.get("initial_attention_mask")
        positions = prompt.shape[1]
        if given["is_encoder_decoder"]:
            prompt, mask = given["decoder_tokens"], None
            positions = prompt.shape[1]
        elif given["_generate_from_embeds"]:
            prompt = torch.empty(prompt.shape[0], 0, dtype=torch.long, device=prompt.device)
        elif mask is None and given["_is_batched_list"]:
            mask = self._mask_of(prompt)
        generation.columns = prompt.shape[1]
        generation.limit = positions + int(given["max_new_tokens"]) - 1
        generation.padding = None if mask is None else mask.detach().clone()
        generation.config = {name: given[name] for name in OPTIONS if _is_plain(given.get(name))}
        return prompt.detach().clone()

    def _mask_of(self, prompt: Tensor) -> Tensor | None:
        """The mask that the loop makes itself for a list of texts."""
        bridge: Any = self._bridge
        tokenizer = bridge.tokenizer
        if tokenizer is None or tokenizer.pad_token_id is None:
            return None
        prepends = getattr(bridge.cfg, "default_prepend_bos", True)
        return _utilities().get_attention_mask(tokenizer, prompt, prepend_bos=prepends, padding_side="left")


class _Drawn(TorchFunctionMode):
    """Sees what a token is drawn from."""

    scores: Tensor | None = None

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in (torch.multinomial, Tensor.multinomial):
            self.scores = args[0].log()
        elif func in (torch.argmax, Tensor.argmax):
            self.scores = args[0]
        return func(*args, **(kwargs or {}))


def _sampled_from(given: dict[str, Any], text: Tensor, logits: Tensor) -> Tensor | None:
    """``[batch, vocab]`` what a token was drawn from; None if that was the logits themselves.

    TransformerLens draws in a function without a return but the token, so it is called once more, beside the user's
    random numbers.
    """
    options = {name: given[name] for name in ("freq_penalty", "repetition_penalty")}
    options["temperature"] = given["temperature"] if given["do_sample"] else 0.0
    if given["do_sample"]:
        options |= {name: given[name] for name in ("top_k", "top_p")}
    neutral = {"freq_penalty": 0.0, "repetition_penalty": 1.0, "top_k": None, "top_p": None}
    if options["temperature"] == 0.0:
        options["freq_penalty"] = 0.0
    if options["temperature"] in (0.0, 1.0) and all(
        neutral.get(name, value) == value for name, value in options.items()
    ):
        # The loop changes logits before it yields them only for encoder-decoder models.
        return logits if given["is_encoder_decoder"] else None
    devices = [logits.device] if logits.device.type == "cuda" else []
    with torch.random.fork_rng(devices), _Drawn() as drawn:
        tokens = text if text.shape[1] else None
        _utilities().sample_logits(logits.detach().clone(), tokens=tokens, **options)
    return drawn.scores


def _utilities() -> Any:
    return sys.modules["transformer_lens.utilities"]


def _is_plain(value: Any) -> bool:
    return isinstance(value, bool | int | float | str)
