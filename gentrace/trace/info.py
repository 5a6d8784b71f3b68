"""What a trace says about the layers, the run and its own exactness."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["self", "cross", "encoder"]
"""Which attention of a layer; "cross" and "encoder" only inside encoder-decoder models."""


@dataclass(frozen=True, slots=True)
class LayerInfo:
    """One layer's attention."""

    index: int
    """The model's own layer number."""
    name: str
    """Module path inside the model."""
    kind: Kind
    heads: int
    """Query heads."""
    kv_heads: int
    """Key/value heads; each serves ``heads / kv_heads`` query heads."""
    head_dim: int
    """Components of a query or key vector; 0 where only scores were seen."""
    scale: float
    """Factor on query · key; 1 where only scores were seen."""
    softcap: float | None
    """Bound of the tanh on scores, if the layer has one."""
    window: int | None
    """Newest keys that a row may see, if the layer slides."""
    sinks: tuple[float, ...] | None
    """[head] logits of learned attention sinks, if the layer has them."""
    source: str
    """The tap that saw it; with "scores only" where it saw what entered softmax, but no queries and keys."""

    def tensor(self, what: str) -> str:
        """What one of its tensors is called in a store: ``layers.0.self.queries``."""
        return f"layers.{self.index}.{self.kind}.{what}"


@dataclass(frozen=True, slots=True)
class OtherLayer:
    """A layer beside the attention layers that mixes positions in another way, or none."""

    index: int
    """The model's own layer number."""
    name: str
    """Module path inside the model."""
    kind: str
    """What it is: the configuration's word for it, such as "linear_attention" or "mamba", else its class."""


@dataclass(frozen=True, slots=True)
class LayerFidelity:
    """How far softmax(q·k)·v, recomputed from the recorded rows, is from what the kernel returned."""

    error: float
    """Largest absolute difference in a checked row, divided by that row's largest absolute value; NaN if none was
    checked."""
    rows: tuple[int, ...]
    """The query rows that were checked."""


@dataclass(frozen=True, slots=True)
class Fidelity:
    """A trace's proof of itself, layer by layer."""

    layers: Mapping[int, LayerFidelity]
    """Per layer number."""
    tolerance: float
    """Error above which a ``FidelityWarning`` is given, for the dtype the model ran in."""
    cross: Mapping[int, LayerFidelity] = field(default_factory=dict)
    """Per layer number, of cross-attention."""
    encoder: Mapping[int, LayerFidelity] = field(default_factory=dict)
    """Per layer number, of the encoder."""

    @property
    def error(self) -> float:
        """Largest error of any layer; NaN if nothing was checked."""
        kinds = self.layers, self.cross, self.encoder
        errors = [layer.error for kind in kinds for layer in kind.values() if layer.rows]
        return max(errors) if errors else float("nan")


@dataclass(frozen=True, slots=True)
class Meta:
    """Where a trace comes from."""

    model: str
    """Name or folder that the model was loaded from, or its class."""
    config_hash: str
    """SHA-256 of the model's configuration."""
    generation: Mapping[str, Any]
    """Arguments of generation that differ from the defaults; empty for a plain forward."""
    kernel: str
    """Attention implementation that ran."""
    dtype: str
    """Data type of queries and keys."""
    versions: Mapping[str, str]
    """Versions of gentrace, torch and transformers."""
    time: str
    """When the recording ended, ISO 8601 in UTC."""
    complete: bool = True
    """False when the generation was cut short by an exception."""
