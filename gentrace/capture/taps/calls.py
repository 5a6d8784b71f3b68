"""What a tap hands to the recorder: one attention, in one layout, whoever computed it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn

from gentrace.capture.fidelity import Check


@dataclass(slots=True, eq=False)
class VectorCall:
    """An attention whose queries and keys are seen."""

    module: nn.Module
    """The attention module."""
    kernel: str
    """Name of the kernel that ran."""
    query: Tensor
    """[batch, head, query, dim]."""
    key: Tensor
    """[batch, kv_head, key, dim]."""
    value: Tensor
    """[batch, kv_head, key, value_dim]."""
    mask: Any
    """What the kernel was given as mask."""
    options: Mapping[str, Any]
    """The kernel's keyword arguments, named as transformers names them."""
    output: Tensor
    """[batch, query, head, value_dim] what the kernel returned."""
    source: str = "interface"
    """The tap that saw it."""

    @property
    def keys(self) -> int:
        """Key columns."""
        return self.key.shape[2]


@dataclass(slots=True, eq=False)
class ScoreCall:
    """An attention of which only the scores that entered softmax are seen."""

    module: nn.Module
    """The attention module."""
    scores: Tensor
    """Scores in the module's own layout, ``[…, query, key]``; in float32 or the model's dtype."""
    source: str = "functional"
    """The tap that saw it."""
    checks: list[Check] = field(default_factory=list)
    """Filled when the weights meet the values; rows are counted from the call's first."""

    @property
    def keys(self) -> int:
        """Key columns."""
        return self.scores.shape[-1]


Call = VectorCall | ScoreCall


Seen = tuple[nn.Module, str, Tensor, Tensor, Tensor, Any, Mapping[str, Any], Tensor]
"""What a `VectorCall` is made of, in that order, before anybody has looked at it."""


class Observer(Protocol):
    """Somebody who records some modules."""

    def following(self) -> list[Seen] | None:
        """Where to leave what is seen in a forward that so far goes on like the one before; None in any other."""
        ...

    def see_attention(self, call: Call) -> None:
        """Take note of one attention, after it was computed."""
        ...
