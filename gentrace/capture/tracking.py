"""Following a model through its forwards: which run each belongs to, and what is known before and after it.

Positions are counted here, on the host, from the lengths of caches and inputs. A run goes on for as long as forwards
come with its cache or inside the same ``generate``; threads are followed separately.
"""

import threading
import weakref
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import BaseQuantizedLayer, Cache, StaticLayer

from gentrace.capture.decoding import Generation
from gentrace.capture.probabilities import OutputHead, read_out, split
from gentrace.capture.run import Run, Unread
from gentrace.capture.step import Settings, Site, Step
from gentrace.errors import AttentionUnavailable, CaptureError, UnsupportedModel

UNLIMITED = 2**31
READ_TOGETHER = 400_000
"""Logits that are reduced at once: several steps of a small vocabulary, one of a large batch."""


class _Thread(threading.local):
    """What one thread is in the middle of."""

    step: Step | None = None
    generation: Generation | None = None


class Tracker:
    """Turns a model's forwards into runs."""

    def __init__(self, model: PreTrainedModel, names: dict[int, str], settings: Settings, budget: int | None) -> None:
        """Prepare.

        Args:
            model: The model whose forwards are followed.
            names: Module paths by the modules' ids.
            settings: What to keep.
            budget: Bytes that a run's buffers may take.
        """
        self.runs: list[Run] = []
        self._model = model
        self._names = names
        self._settings = settings
        self._budget = budget
        self._thread = _Thread()
        self._sites: dict[int, Site] = {}
        self._caches: dict[int, tuple[weakref.ref[Any], Run]] = {}

    # Forwards

    def forward_begins(self, module: nn.Module, inputs: dict[str, Any]) -> None:
        """A forward of the model, or of its decoder called directly, begins with these inputs."""
        if self._thread.step is not None:
            return
        ids, embeds = inputs.get("input_ids"), inputs.get("inputs_embeds")
        given = ids if ids is not None else embeds
        if given is None:
            raise CaptureError(
                f"recording a forward of {type(module).__name__}",
                f"neither input_ids nor inputs_embeds among {sorted(inputs)}",
                "call the model with one of them",
            )
        batch, queries = given.shape[:2]
        cache = inputs.get("past_key_values")
        linked = self._linked(cache)
        fed = _length(cache, linked)
        run = self._run_for(batch, linked, fed)
        if ids is not None:
            run.ids.append((fed, ids.detach().clone()))
        self._resolve(run, fed, run.ids[-1][1] if ids is not None else None)
        mask = inputs.get("attention_mask")
        if self._thread.generation is None and isinstance(mask, Tensor) and mask.dim() == 2:
            run.padding, run.padding_stop = mask.detach().clone(), fed + queries
        step = Step(run, module, fed, queries, run.forwards)
        step.cache, step.cache_grows = cache, _grows(cache)
        step.all_rows = not isinstance(inputs.get("logits_to_keep"), Tensor)
        step.may_be_reordered = run.forwards > 0 and self._thread.generation is None
        self._thread.step = step

    def forward_ends(self, module: nn.Module, output: Any) -> None:
        """It ended, with this output or, after an exception, with None."""
        step = self._thread.step
        if step is None:
            return
        if module is not step.module:
            step.hidden, step.decoder = _hidden(output), module
            return
        self._thread.step = None
        if output is None:
            return
        for call in step.calls:
            step.see(*call, self._settings)
        run = step.run
        run.forwards += 1
        run.stop = step.fed + step.queries
        if run.forwards == 1:
            run.prompt_stop = run.stop
            self._check_layers(step)
        self._link(_cache_of(output) or step.cache, run)
        self._keep_distributions(step, output)

    def see_attention(
        self,
        module: nn.Module,
        implementation: str,
        inputs: tuple[Tensor, Tensor, Tensor, Any],
        options: dict[str, Any],
        output: Tensor,
    ) -> None:
        """Record one kernel call; the interface tap calls this."""
        step = self._thread.step
        if step is None:
            if torch._C._current_graph_task_id() != -1:
                # Gradient checkpointing computes a layer again while it goes backward.
                return
            raise CaptureError(
                f"recording attention of {self._names.get(id(module), type(module).__name__)}",
                f"it ran outside a forward of {type(self._model).__name__}",
                "call the model that was given to gentrace.record, not a part of it",
            )
        site = self._sites.get(id(module))
        if site is None:
            name = self._names.get(id(module), type(module).__name__)
            site = self._sites[id(module)] = Site(module, name, len(step.sites), self._settings)
        if step.queries == 1 and step.number:
            # One row a layer is cheaper to record for all layers in one go, after the forward.
            step.calls.append((site, implementation, inputs, options, output))
        else:
            step.see(site, implementation, inputs, options, output, self._settings)

    # Generations

    def generation_begins(self) -> Generation:
        """A call of generate begins on this thread."""
        if self._thread.generation is not None:
            raise CaptureError(
                "recording a generation", "generate was called inside generate", "record the outer one alone"
            )
        self._thread.generation = Generation()
        return self._thread.generation

    def generation_ends(self, generation: Generation, sequences: Tensor | None) -> None:
        """It ended, with the returned ids or, after an exception, without."""
        self._thread.generation = None
        self._thread.step = None
        run = generation.run
        if run is None:
            return
        if generation.prompt_stop is not None:
            run.prompt_stop = generation.prompt_stop
        run.columns = generation.columns
        run.generation = generation.options
        if generation.padding is not None:
            run.padding, run.padding_stop = generation.padding, run.prompt_stop
        if sequences is not None:
            run.sequences = sequences.detach().clone()
            run.lengths = generation.lengths(sequences)
            # Fewer rows than tokens were fed if the block was left while another thread went on generating.
            run.complete = run.stop >= run.prompt_stop - run.columns + int(run.lengths.max()) - 1
            self._resolve(run, run.prompt_stop - run.columns, run.sequences, generation)
        run.pending = None
        self.settle(run)
        run.active, run.closed = False, True

    def settle(self, run: Run) -> None:
        """Reduce and copy everything that was put off."""
        self.read_out(run)
        run.flush()

    # Runs

    def _run_for(self, batch: int, linked: Run | None, fed: int) -> Run:
        generation = self._thread.generation
        if generation is not None and generation.run is not None:
            if generation.run.batch != batch:
                raise UnsupportedModel(
                    "recording a generation",
                    f"a forward of {batch} sequences after one of {generation.run.batch}",
                    "this way of generating is not supported yet",
                )
            return generation.run
        continued = linked if linked is not None and fed and linked.batch == batch and linked.stop >= fed else None
        if generation is None and continued is not None and not continued.closed:
            return continued
        limit = UNLIMITED if generation is None or generation.limit is None else generation.limit
        run = Run(batch, limit, self._budget)
        if continued is not None:
            self.settle(continued)
            run.continue_from(continued, fed)
        if generation is not None:
            generation.run = run
            run.active, run.complete = True, False
        self.runs.append(run)
        return run

    def _linked(self, cache: Any) -> Run | None:
        """The run that a cache was filled in."""
        reference, run = self._caches.get(id(cache), (None, None))
        return run if reference is not None and reference() is cache else None

    def _link(self, cache: Any, run: Run) -> None:
        if cache is not None and self._linked(cache) is not run:
            self._caches[id(cache)] = (weakref.ref(cache), run)

    def _check_layers(self, step: Step) -> None:
        """Refuse to go on after the first forward when what was asked for did not show itself."""
        wanted = self._settings.layers
        found = sorted(step.sites)
        what = f"recording {type(self._model).__name__}"
        if not found:
            seen = [
                name for name, module in self._model.named_modules() if "attention" in type(module).__name__.lower()
            ]
            raise AttentionUnavailable(
                what,
                f"none of its modules called transformers' attention registry; modules that look like attention: "
                f"{', '.join(seen[:3]) or 'none'}",
                "models with attention code of their own, or without attention, are not supported yet",
            )
        if wanted is not None and not wanted <= set(found):
            raise AttentionUnavailable(
                what,
                f"layers {sorted(wanted - set(found))} were asked for, attention was seen in {found}",
                "choose among those with layers=",
            )

    # Distributions

    def _resolve(self, run: Run, start: int, ids: Tensor | None, generation: Generation | None = None) -> None:
        """Reduce the newest logits, now that the token after them is known.

        Args:
            run: The run.
            start: Position of the first column of ``ids``.
            ids: ``[batch, column]`` tokens; None where they are unknown.
            generation: The generation that just ended, if the thread has left it.
        """
        if run.pending is None:
            return
        row, logits = run.pending
        run.pending = None
        column = row + 1 - start
        generation = generation or self._thread.generation
        if ids is not None and 0 <= column < ids.shape[1]:
            chosen = ids[:, column].to(logits.device)
        elif generation is not None and generation.run is run and ids is not None:
            # A step that generate took back after it had stopped.
            return
        else:
            chosen = torch.full((run.batch,), -1, device=logits.device)
        scores = None
        if generation is not None:
            scores, generation.scores = generation.scores, None
        sampled = scores is not None
        if generation is not None and generation.samples_raw:
            scores = None
        if run.unread and (run.unread[0].scores is None, run.unread[0].sampled) != (scores is None, sampled):
            self.read_out(run)
        run.unread.append(Unread(row + 1, logits, chosen, scores, sampled))
        if len(run.unread) * logits.numel() >= READ_TOGETHER:
            self.read_out(run)

    def read_out(self, run: Run) -> None:
        """Reduce the distributions that are waiting, together."""
        waiting, run.unread = run.unread, []
        if not waiting:
            return
        given = [one.scores for one in waiting if one.scores is not None]
        readout = read_out(
            torch.cat([one.logits for one in waiting]),
            torch.cat([one.chosen for one in waiting]),
            self._settings.top_k,
            torch.cat(given) if given else None,
        )
        if waiting[0].sampled and not given:
            readout = replace(readout, sampled_logprob=readout.logprob, top_sampled_logprobs=readout.top_logprobs)
        for one, part in zip(waiting, split(readout, run.batch), strict=True):
            run.readouts[one.position] = part

    def _keep_distributions(self, step: Step, output: Any) -> None:
        run, stop = step.run, step.fed + step.queries
        logits = self._logits(step, output)
        if step.fed and step.fed < run.covered:
            run.covered = step.fed
        if step.queries > 1 and stop - 1 > run.covered:
            self._keep_hidden(step, logits)
        run.covered = max(run.covered, stop)
        if logits is not None:
            last = logits[:, -1].detach()
            # A slice of a prompt's logits would keep all of them alive, and outside of generate they are the user's to
            # change.
            copied = logits.shape[1] > 1 or self._thread.generation is None
            run.pending = stop - 1, last.clone() if copied else last

    def _logits(self, step: Step, output: Any) -> Tensor | None:
        """``[batch, row, vocab]`` logits over tokens that end with the last row, if the output has them."""
        logits = getattr(output, "logits", None)
        if logits is None and isinstance(output, tuple) and step.module is self._model:
            logits = next((part for part in output if isinstance(part, Tensor) and part.dim() == 3), None)
        if not isinstance(logits, Tensor) or logits.dim() != 3 or not step.all_rows:
            return None
        return logits if logits.shape[-1] >= self._model.config.get_text_config().vocab_size else None

    def _keep_hidden(self, step: Step, logits: Tensor | None) -> None:
        run = step.run
        if step.hidden is not None and step.hidden.shape[1] == step.queries and logits is not None:
            first = max(step.fed, run.covered)
            run.hidden.append((first, step.hidden[:, first - step.fed :].detach().clone()))
            if run.head is None:
                run.head = OutputHead(step.module, step.decoder) if step.decoder is not None else None
        elif logits is not None and logits.shape[1] == step.queries and run.ids:
            start, ids = run.ids[-1]
            for row in range(step.queries - 1):
                run.readouts[start + row + 1] = read_out(logits[:, row], ids[:, row + 1], self._settings.top_k)


def _length(cache: Any, linked: Run | None) -> int:
    """Positions that a cache holds.

    Raises:
        UnsupportedModel: If its keys change while they are kept.
    """
    if cache is None:
        return 0
    if linked is None and any(isinstance(layer, BaseQuantizedLayer) for layer in getattr(cache, "layers", ())):
        raise UnsupportedModel(
            "recording with a quantized cache", "its keys change after they are cached", "use a dynamic or static cache"
        )
    try:
        length = cache.get_seq_length()
    except ValueError as error:
        raise UnsupportedModel(
            "recording a model's cache",
            f"{type(cache).__name__} holds no attention layer: {error}",
            "there is no attention",
        ) from error
    if isinstance(length, Tensor):
        # Reading a length off the device would wait for it; what was fed since is known here.
        on_host = length.device.type == "cpu" or linked is None
        return int(length) if on_host else linked.stop  # type: ignore[union-attr]
    return int(length)


def _hidden(output: Any) -> Tensor | None:
    hidden = output[0] if isinstance(output, tuple) else getattr(output, "last_hidden_state", None)
    return hidden if isinstance(hidden, Tensor) and hidden.dim() == 3 else None


def _grows(cache: Any) -> bool:
    """Whether a cache makes new keys at every step instead of writing into those that it has."""
    return isinstance(cache, Cache) and not any(isinstance(layer, StaticLayer) for layer in cache.layers)


def _cache_of(output: Any) -> Cache | None:
    """The cache that a forward hands back."""
    parts = output if isinstance(output, tuple) else (getattr(output, "past_key_values", None),)
    return next((part for part in parts if isinstance(part, Cache)), None)
