"""Following a model through its forwards: which run each belongs to, and what is known before and after it.

Positions are counted here, on the host, from the lengths of caches and inputs. A run goes on for as long as forwards
come with its cache or inside the same ``generate``; threads are followed separately.
"""

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gentrace.capture.anatomy import Anatomy
from gentrace.capture.budget import refuse_layer, refuse_too_large, sizes_of
from gentrace.capture.caches import CacheLinks, cache_of, grows, length_of
from gentrace.capture.continuing import SteadyPath
from gentrace.capture.decoding.distributions import keep_distributions, reduce_finished, reduce_waiting, resolve
from gentrace.capture.decoding.generation import Generation
from gentrace.capture.encoders import Encoders, hidden_of
from gentrace.capture.refusals import read_input, refuse_unseen
from gentrace.capture.run import UNLIMITED, Run
from gentrace.capture.sites import Settings, Sites
from gentrace.capture.spill import Spill, refuse_beams
from gentrace.capture.steady import settle_into
from gentrace.capture.step import Step
from gentrace.capture.taps.calls import Call, VectorCall
from gentrace.errors import CaptureError, UnsupportedModel

BESIDE = ("encoder_hidden_states", "encoder_outputs", "cross_attention_states")
"""Arguments of transformers' models that cross-attention looks at."""


class Tracker(SteadyPath):
    """Turns a model's forwards into runs."""

    def __init__(
        self, anatomy: Anatomy, names: dict[int, str], settings: Settings, budget: int | None, tokenizer: Any = None
    ) -> None:
        """Prepare.

        Args:
            anatomy: The model's parts.
            names: Module paths by the modules' ids.
            settings: What to keep.
            budget: Bytes that a run's buffers may take.
            tokenizer: For texts of recordings on disk, or None.
        """
        super().__init__()
        self.runs: list[Run] = []
        self.functional: list[nn.Module] = []
        """Modules in which the functional tap saw attention."""
        self._anatomy = anatomy
        self._settings = settings
        self._budget = budget
        self._tokenizer = tokenizer
        self._sites = Sites(names, settings)
        self._sizes = None if budget is None else sizes_of(anatomy.model, settings)
        self._links = CacheLinks()
        self._encoders = Encoders(anatomy, budget)

    # Forwards

    def forward_begins(self, module: nn.Module, inputs: dict[str, Any]) -> None:
        """A forward of the model, or of a part of it that is a model, begins with these inputs."""
        thread = self._thread
        if not thread.stack:
            self.resting.wake()
            thread.missed = False
        role = self._role(module, inputs)
        if not thread.stack:
            thread.given = inputs
        thread.stack.append((module, role))
        if thread.step is not None:
            thread.step.roles[id(module)] = role
        thread.aside = thread.aside or role == "aside"
        if role == "encoder":
            thread.encoder_step = self._encoders.begin(module, inputs)
        elif role == "step":
            self._begin_step(thread.stack[0][0], inputs)

    def recover(self, module: nn.Module) -> bool:
        """Forget forwards that never ended, as Ctrl-C leaves them behind; says whether there were any.

        Args:
            module: The model whose forward is about to begin, which no forward of its own can be in the middle of.
        """
        thread = self._thread
        if all(known is not module for known, _ in thread.stack):
            return False
        thread.stack, thread.aside, thread.step, thread.encoder_step = [], False, None, None
        return True

    def forward_ends(self, module: nn.Module, output: Any) -> None:
        """It ended, with this output or, after an exception, with None."""
        thread = self._thread
        role = "inner"
        if all(begun is not module for begun, _ in thread.stack):
            # Its hooks were still resting when it began.
            return
        while thread.stack:
            top, role = thread.stack.pop()
            if top is module:
                break
        thread.aside = any(outer == "aside" for _, outer in thread.stack)
        if role == "encoder":
            self._end_encoder(output)
        elif role == "inner" and thread.step is not None and thread.encoder_step is None:
            thread.step.hidden, thread.step.decoder = hidden_of(output), module
        if not thread.stack:
            thread.given = {}
            step, thread.step = thread.step, None
            if step is not None and output is not None:
                self._end_step(step, output)

    def see_attention(self, call: Call) -> None:
        """Record one attention; the taps call this."""
        thread = self._thread
        if thread.aside or (thread.generation is not None and thread.generation.aside):
            return
        if thread.lane is not None:
            # One that calls no kernel, and so has not left itself on the steady path.
            if thread.lane.ignores(call.module):
                return
            self._take_over(thread.lane)
        step = thread.encoder_step or thread.step
        if step is None:
            if torch._C._current_graph_task_id() != -1 or thread.stack:
                # Gradient checkpointing computes a layer again while it goes backward.
                return
            if self.resting.wake():
                thread.missed = True
                warnings.warn(
                    f"a forward of a part of {type(self._anatomy.model).__name__} is not recorded, since it began in "
                    "the middle of a generation: call the model that was given to gentrace.record",
                    RuntimeWarning,
                    stacklevel=2,
                )
            if thread.missed:
                return
            raise CaptureError(
                f"recording attention of {self._sites.name(call.module)}",
                f"it ran outside a forward of {type(self._anatomy.model).__name__}",
                "call the model that was given to gentrace.record, not a part of it",
            )
        if call.source != "interface" and all(known is not call.module for known in self.functional):
            self.functional.append(call.module)
        if step.unplaced:
            self._place_step(step, call)
        if step.run.budget is not None and isinstance(call, VectorCall) and not step.run.layers:
            fragments = [call.query, call.key, *([call.value] if self._settings.values else [])]
            wanted = self._settings.layers
            alike = self._anatomy.alike(call.module) if wanted is None else len(wanted)
            refuse_layer(step.run, fragments, alike)
        step.see(call, self._sites, self._settings)

    def _role(self, module: nn.Module, inputs: dict[str, Any]) -> str:
        """What a model's forward is to the recording.

        ``step`` is recorded, ``encoder`` too, ``outer`` is a model around both, ``inner`` a part of one of them, and
        ``aside`` something else, such as a vision tower, a draft or the second forward of guidance.
        """
        thread, anatomy = self._thread, self._anatomy
        if thread.generation is not None and thread.generation.aside:
            return "aside"
        if any(role in ("aside", "encoder") for _, role in thread.stack):
            return "inner"
        if module is anatomy.encoder:
            return "encoder"
        if inputs.get("input_ids") is None and anatomy.is_foreign(module):
            vectors, step = inputs.get("inputs_embeds"), thread.step
            # Vectors of another length are not the text's.
            if vectors is None or (step is not None and vectors.shape[:2] != (step.batch, step.queries)):
                return "aside"
        if thread.step is not None:
            return "inner"
        return "outer" if anatomy.wraps_encoder(module) else "step"

    def _begin_step(self, module: nn.Module, inputs: dict[str, Any], fed: int | None = None) -> None:
        thread = self._thread
        ids, batch, queries = read_input(self._anatomy, module, inputs)
        cache = inputs.get("past_key_values")
        linked = self._links.run_of(cache)
        if fed is None and self._anatomy.tells_length:
            fed = length_of(cache, linked)
        step = Step(batch, module, queries)
        step.ids = None if ids is None else ids.detach().reshape(batch, queries).clone()
        step.cache, step.cache_grows = cache, grows(cache)
        step.all_rows = not isinstance(inputs.get("logits_to_keep"), Tensor)
        step.inputs = {name: inputs.get(name) for name in ("attention_mask", "token_type_ids")}
        if self._anatomy.encoder is not None:
            mask = thread.given.get("decoder_attention_mask", inputs.get("attention_mask"))
            step.inputs["attention_mask"] = mask
        step.crosses = self._anatomy.encoder is not None or any(inputs.get(name) is not None for name in BESIDE)
        thread.step = step
        if fed is not None:
            self._locate(step, fed, linked)

    def _place_step(self, step: Step, call: Call) -> None:
        """Find out from its first attention how many positions a model with a cache of its own had been fed."""
        newest = self._thread.newest
        fed = max(0, call.keys - step.queries)
        fits = newest is not None and newest.batch == step.batch and newest.stop == fed
        self._locate(step, fed if fits else 0, newest if fed and fits else None)

    def _locate(self, step: Step, fed: int, linked: Run | None) -> None:
        """Give a step its run and its first position."""
        thread = self._thread
        generation = thread.generation
        run = self._run_for(step.batch, linked, fed)
        step.locate(run, fed)
        thread.newest = run
        if run.encoder is None:
            newest = thread.encoder_run if generation is None else generation.encoder
            run.encoder = self._encoders.behind(thread.given, newest, generates=generation is not None)
        resolve(run, fed, step.ids, generation, self._settings.top_k)
        if generation is not None and generation.beams is not None:
            step.cache_grows, step.shuffled, step.fresh = False, True, run.stop
        first = max(fed, step.fresh)
        if step.ids is not None:
            run.ids.append((first, step.ids[:, first - fed :]))
        if generation is not None and generation.padding is not None and run.padding is None:
            run.padding = generation.padding
            run.padding_stop = max(fed + step.queries, generation.padding.shape[1])
        mask = step.inputs.get("attention_mask")
        if generation is None and isinstance(mask, Tensor) and mask.dim() == 2 and len(mask) == step.batch:
            run.padding, run.padding_stop = mask.detach().clone(), fed + step.queries
        segments = step.inputs.get("token_type_ids")
        if isinstance(segments, Tensor) and segments.dim() == 2 and not run.forwards:
            run.segments = segments.detach().clone()
        step.may_be_reordered = run.forwards > 0 and generation is None

    def _end_step(self, step: Step, output: Any) -> None:
        if step.unplaced:
            newest = self._thread.newest if self._thread.generation is not None else None
            self._locate(step, 0, newest)
        step.finish(self._settings)
        run = step.run
        run.forwards += 1
        run.stop = step.fed + step.queries
        if run.forwards == 1:
            run.prompt_stop = run.stop
            refuse_unseen(self._anatomy, self._sites, self._settings.layers, step.seen)
            if step.dropout:
                warnings.warn(
                    f"{type(self._anatomy.model).__name__} is in training mode and drops attention weights at random: "
                    "the trace holds them as they are before that; call model.eval() first",
                    UserWarning,
                    stacklevel=2,
                )
        self._links.link(cache_of(output) or step.cache, run)
        generation = self._thread.generation
        keep_distributions(self._anatomy.model, step, output, generation, self._settings.top_k)
        if run.spill is not None:
            run.spill.after_forward(self._anatomy.model)
        # Not after a part of a prompt that is read in chunks.
        if generation is not None and (run.stop >= generation.columns or (step.queries == 1 and step.number)):
            generation.lane = lane = settle_into(step, generation, self._sites, self._settings)
            if lane is not None:
                quiet = lane.quiet
                self.resting.rest([module for module in self._anatomy.models() if id(module) in quiet])
        if self.watches:
            self._show(run, step.fed, None)

    def site_names(self) -> list[str]:
        """Paths of the modules in which self-attention was seen."""
        return self._sites.names("self")

    def _end_encoder(self, output: Any) -> None:
        thread = self._thread
        step, thread.encoder_step = thread.encoder_step, None
        run = None if step is None else self._encoders.end(step, hidden_of(output), self._settings)
        if run is not None:
            thread.encoder_run = run
            if thread.generation is not None:
                thread.generation.encoder = run

    # Generations

    def generation_begins(self) -> Generation:
        """A call of generate begins on this thread."""
        if self._thread.generation is not None:
            raise CaptureError(
                "recording a generation", "generate was called inside generate", "record the outer one alone"
            )
        reduce_finished(self.runs, self._settings.top_k)
        self._thread.generation = Generation()
        return self._thread.generation

    def switch(self, generation: Generation | None) -> Generation | None:
        """Make a generation, or none, the one of this thread's forwards; returns the one before."""
        before, self._thread.generation = self._thread.generation, generation
        return before

    def generation_ends(self, generation: Generation, sequences: Tensor | None) -> None:
        """It ended, with the returned ids or, after an exception, without."""
        thread = self._thread
        if generation.lane is not None:
            self._leave(generation.lane)
        self.resting.wake()
        thread.generation, thread.step, thread.encoder_step, thread.stack, thread.aside = None, None, None, [], False
        run = generation.run
        if run is None:
            return
        if generation.prompt_stop is not None:
            run.prompt_stop = generation.prompt_stop
        run.columns = generation.columns
        run.config = generation.config
        if generation.padding is not None:
            run.padding, run.padding_stop = generation.padding, run.prompt_stop
        if sequences is not None:
            run.sequences = sequences.detach().clone()
            run.lengths = generation.lengths(sequences)
            # Fewer rows than tokens were fed if the block was left while another thread went on generating.
            run.complete = run.stop >= run.prompt_stop - run.columns + int(run.lengths.max()) - 1
            if generation.beams is not None:
                # What waits is still slot by slot, as the search's own readouts are not.
                reduce_waiting(run, self._settings.top_k)
                generation.beams.close(run)
            else:
                offset = run.prompt_stop - run.columns
                resolve(run, offset, run.sequences, generation, self._settings.top_k, whole=True)
        run.rejected = generation.rejected
        run.pending = None
        self.put_away(run)
        run.active, run.closed = False, True
        for watch in tuple(self.watches):
            watch.ended(run)

    def settle(self, run: Run) -> None:
        """Do everything that was put off."""
        reduce_waiting(run, self._settings.top_k)
        self.put_away(run)

    def put_away(self, run: Run) -> None:
        """Copy what lies in the model's own memory; the newest probabilities may wait until somebody reads them."""
        run.scratch = None
        for part in (run, *([] if run.encoder is None else [run.encoder])):
            part.flush()
            part.settle_masks()
        if run.spill is not None:
            run.spill.commit()

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
        if self._settings.spill_dir is not None:
            self._spill(run, self._settings.spill_dir)
        refuse_too_large(run, self._sizes)
        if continued is not None:
            self.settle(continued)
            run.continue_from(continued, fed)
        if generation is not None:
            generation.run = run
            run.active, run.complete = True, False
        self.runs.append(run)
        return run

    def _spill(self, run: Run, folder: Path) -> None:
        generation, settings = self._thread.generation, self._settings
        if generation is not None:
            if generation.beams is not None:
                raise refuse_beams()
            run.config = generation.config
        run.spill = Spill(folder, run, settings.top_k, self._tokenizer, goes_on=settings.goes_on)
        run.files = run.spill.files
