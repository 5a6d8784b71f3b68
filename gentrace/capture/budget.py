"""What a recording will take, said before it begins.

The sizes of queries and keys follow from a model's configuration, and how far a generation may go is known when it
starts; so a recording that cannot fit is refused before the first forward, and not an hour later.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from gentrace.capture.run import Run
from gentrace.capture.sites import Settings
from gentrace.errors import CaptureBudgetError

OTHER_SHAPES = ("qk_nope_head_dim", "kv_lora_rank", "global_head_dim", "attention_chunk_size", "num_kv_shared_layers")
"""Settings of configurations whose layers do not all have the plain sizes."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """What one position takes."""

    layers: int
    """Layers that are recorded."""
    bytes_per_layer: int
    """Bytes of a position's queries, keys and, if they are kept, values in one layer and one sequence."""


def sizes_of(model: nn.Module, settings: Settings) -> Sizes | None:
    """What a position will take, as far as the model's configuration tells; None if it does not.

    Args:
        model: The model.
        settings: What is to be kept.
    """
    config: Any = getattr(model, "config", None)
    if config is None or config.is_encoder_decoder:
        return None
    text = config.get_text_config(decoder=True)
    layers, heads, width = (_number(text, name) for name in ("num_hidden_layers", "num_attention_heads", "hidden_size"))
    if not layers or not heads or not width or any(getattr(text, name, None) for name in OTHER_SHAPES):
        return None
    kinds = getattr(text, "layer_types", None) or ["full_attention"] * layers
    attending = [index for index, kind in enumerate(kinds) if kind in ("full_attention", "sliding_attention")]
    if settings.layers is not None:
        attending = [index for index in attending if index in settings.layers]
    kv_heads = _number(text, "num_key_value_heads") or heads
    dim = _number(text, "head_dim") or width // heads
    dtype = next((weight.dtype for weight in model.parameters() if weight.is_floating_point()), None)
    if dtype is None:
        return None
    return Sizes(len(attending), (heads + kv_heads * (1 + settings.values)) * dim * dtype.itemsize)


def refuse_too_large(run: Run, sizes: Sizes | None) -> None:
    """Refuse a generation whose recording will not fit.

    Args:
        run: The run that is about to begin.
        sizes: What a position takes.

    Raises:
        CaptureBudgetError: If the budget is smaller than what the run may come to.
    """
    if run.budget is None or run.spill is not None or sizes is None or not run.is_limited:
        return
    per_position = run.batch * sizes.bytes_per_layer
    total = per_position * sizes.layers * run.limit
    if total > run.budget:
        layers = run.budget // max(1, per_position * run.limit)
        positions = run.budget // max(1, per_position * sizes.layers)
        raise CaptureBudgetError(
            f"recording {run.batch} sequences of up to {run.limit:,} positions in {sizes.layers} layers",
            f"their queries and keys would take {total:,} bytes, max_bytes is {run.budget:,}",
            f"raise max_bytes, choose at most {layers} layers with layers=, let prompt and new tokens come to at most "
            f"{positions:,} positions, or stream the recording to a file with spill_dir=",
        )


def refuse_layer(run: Run, fragments: list[Tensor], alike: int) -> None:
    """Refuse a generation as soon as the first layer shows that its like will not fit.

    Args:
        run: The run.
        fragments: ``[batch, head, position, dim]`` what the layer shows: queries, keys and perhaps values.
        alike: Layers that will probably look like it.

    Raises:
        CaptureBudgetError: If the budget is smaller than what the run may come to.
    """
    row = sum(part.shape[1] * part.shape[3] * part.element_size() for part in fragments)
    refuse_too_large(run, Sizes(alike, row))


def _number(config: Any, name: str) -> int | None:
    value = getattr(config, name, None)
    return value if isinstance(value, int) and value > 0 else None
