"""One case to measure, and the two things that can be said of a way to measure it: how it goes, or why it cannot."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Case:
    """A model, a prompt and the head whose matrix is wanted."""

    name: str
    """The model's name."""
    model: Any
    """The model, on its device, under its kernel."""
    tokenizer: Any
    ids: Tensor
    """``[batch, position]`` the prompt."""
    new: int
    """Tokens to generate."""
    options: dict[str, Any]
    """What ``generate`` is called with beside the ids."""

    @property
    def layers(self) -> int:
        """How many layers the model has."""
        return self.model.config.num_hidden_layers

    @property
    def layer(self) -> int:
        """The layer whose matrix is wanted: the middle one."""
        return self.layers // 2

    @property
    def head(self) -> int:
        """The head whose matrix is wanted: the last one."""
        return self.model.config.num_attention_heads - 1

    @property
    def rows(self) -> int:
        """Positions that are fed to the model."""
        return self.ids.shape[1] + self.new - 1

    def weights(self) -> list[Tensor]:
        """The model's own tensors."""
        return [*self.model.parameters(), *self.model.buffers()]

    def plain(self) -> Tensor:
        """Nothing but the generation; the ids."""
        return self.model.generate(self.ids, **self.options)

    def twin(self, kernel: str) -> Any:
        """The same model under another kernel: modules of its own, the same weights.

        Peers leave things on the modules that they run, and must not leave them on those that plain runs use.
        """
        other = copy.deepcopy(self.model, {id(tensor): tensor for tensor in self.weights()})
        other.set_attn_implementation(kernel)
        return other


@dataclass(frozen=True)
class Variant:
    """A way to generate and have attention in hand afterwards."""

    name: str
    run: Callable[[], tuple[Tensor, Any]]
    """Generates; the ids and what is held afterwards."""
    keep: Callable[[Any], Any]
    """What of that a user keeps."""
    matrix: Callable[[Any], Tensor] | None
    """From what is held to the wanted head's ``[query, key]`` weights; None where they were not asked for."""
    judged: bool = False
    """Whether the limit holds for it."""
    source: str = ""
    """The recording's or the peer's name on the command line."""


@dataclass(frozen=True)
class Refused:
    """A way that does not go here."""

    name: str
    reason: str
    source: str = ""


def stitched(steps: Sequence[Tensor]) -> Tensor:
    """One ``[query, key]`` matrix from the rows of each step, ``[query, key]`` with as many keys as there were then."""
    length = steps[-1].shape[1]
    whole = torch.zeros(length, length)
    row = 0
    for step in steps:
        whole[row : row + step.shape[0], : step.shape[1]] = step
        row += step.shape[0]
    return whole


def short(error: BaseException) -> str:
    """An error in one line that fits a table."""
    text = " ".join(str(error).split()) or "no message"
    return f"{type(error).__name__}: {text[:160]}"
