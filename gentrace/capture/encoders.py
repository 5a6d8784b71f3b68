"""Encoders of encoder-decoder models: each forward is a run of its own, which the decoder's runs look back at."""

import weakref
from typing import Any

from torch import Tensor, nn

from gentrace.capture.anatomy import Anatomy
from gentrace.capture.run import Run
from gentrace.capture.sites import Settings
from gentrace.capture.step import Step
from gentrace.errors import CaptureError


class Encoders:
    """The forwards of one model's encoder."""

    def __init__(self, anatomy: Anatomy, budget: int | None) -> None:
        """Begin without any.

        Args:
            anatomy: The model's parts.
            budget: Bytes that a forward's buffers may take.
        """
        self._anatomy = anatomy
        self._budget = budget
        self._encoded: list[tuple[weakref.ref[Tensor], Run]] = []

    def begin(self, module: nn.Module, inputs: dict[str, Any]) -> Step:
        """The encoder begins with these inputs.

        Raises:
            CaptureError: If there is no tensor among them.
        """
        ids, given = self._anatomy.text_of(inputs)
        first = given if given is not None else next((x for x in inputs.values() if isinstance(x, Tensor)), None)
        if first is None:
            raise CaptureError(
                f"recording a forward of the encoder {type(module).__name__}",
                f"no tensor among {sorted(inputs)}",
                "call the model with its usual inputs",
            )
        step = Step(len(first), module, 0 if given is None else given.shape[1], encoder=True)
        run = Run(len(first), 0, self._budget)
        step.locate(run, 0)
        if ids is not None:
            run.ids.append((0, ids.detach().clone()))
        run.input_kind = "text" if ids is not None else _kind_of(inputs)
        step.inputs = {"attention_mask": inputs.get("attention_mask")}
        return step

    def end(self, step: Step, states: Tensor | None, settings: Settings) -> Run | None:
        """It ended with these states ``[batch, position, hidden]``, or without any; the run that was recorded."""
        if states is None:
            return None
        step.finish(settings)
        run = step.run
        run.stop = run.prompt_stop = step.queries or states.shape[1]
        run.forwards, run.closed = 1, True
        mask = step.inputs.get("attention_mask")
        if isinstance(mask, Tensor) and mask.shape == (run.batch, run.stop):
            run.padding, run.padding_stop = mask.detach().clone(), run.stop
        self._encoded = [(seen, known) for seen, known in self._encoded if seen() is not None]
        self._encoded.append((weakref.ref(states), run))
        return run

    def behind(self, given: dict[str, Any], newest: Run | None, *, generates: bool) -> Run | None:
        """The encoder's forward that a decoder looks back at.

        Args:
            given: Arguments of the outermost forward, among which the encoder's states may be.
            newest: The forward of this generation, or of this thread.
            generates: Whether there is a generation; it copies the states of its own encoder for several beams.
        """
        if self._anatomy.encoder is None:
            return None
        states = hidden_of(given.get("encoder_outputs"))
        if states is None:
            states = given.get("encoder_hidden_states")
        for seen, run in self._encoded:
            if states is not None and seen() is states:
                return run
        return newest if generates or states is None else None


def hidden_of(output: Any) -> Tensor | None:
    """Final hidden states ``[batch, position, hidden]`` among what a model returned."""
    hidden = output[0] if isinstance(output, tuple) else getattr(output, "last_hidden_state", None)
    return hidden if isinstance(hidden, Tensor) and hidden.dim() == 3 else None


def _kind_of(inputs: dict[str, Any]) -> str:
    """What an encoder without token ids was given."""
    kinds = {"input_features": "audio", "input_values": "audio", "pixel_values": "image"}
    return next((kind for name, kind in kinds.items() if inputs.get(name) is not None), "embedding")
