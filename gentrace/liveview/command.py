"""What ``gentrace run --live`` does: generate as `gentrace.generate` does, and draw it meanwhile."""

from typing import TYPE_CHECKING, Any

from gentrace.errors import ViewError

if TYPE_CHECKING:
    from gentrace.trace.trace import Trace

Shown = tuple[int | None, int | None]
"""Layer and head to draw; None for the last layer, and for the mean of its heads."""


def parse_shown(text: str) -> Shown:
    """Read ``3.5`` as layer 3, head 5; ``3`` as layer 3, the mean of its heads; nothing as the last layer.

    Raises:
        ViewError: If it is not of that form.
    """
    layer, dot, head = text.partition(".")
    if text and not (layer.isdecimal() and (head.isdecimal() or not dot)):
        raise ViewError("drawing a generation", f"--live {text!r}", "give a layer such as 3, or layer and head as 3.5")
    return int(layer) if layer else None, int(head) if head else None


def write(
    model: Any,
    tokenizer: Any,
    prompt: str,
    shown: Shown,
    *,
    layers: list[int] | None,
    alternatives: int,
    **options: Any,
) -> "Trace | list[Trace]":
    """Generate from text, drawn on standard output.

    Args:
        model: A Hugging Face model that generates.
        tokenizer: Its tokenizer.
        prompt: The text.
        shown: What to draw.
        layers: Layers to record; None for all.
        alternatives: How many of the likeliest tokens to keep per position.
        options: Arguments of ``model.generate``.

    Returns:
        The trace, or several if the model's own settings ask for them.
    """
    import torch

    from gentrace.capture.oneliners import encode
    from gentrace.capture.recorder import record
    from gentrace.liveview.live import live

    inputs = encode(tokenizer, [prompt], model)
    device = next(model.parameters()).device
    layer, head = shown
    recording = record(model, tokenizer, layers=layers, top_k=alternatives)
    with recording as recorder, live(recorder, layer=layer, head=head), torch.no_grad():
        model.generate(**{name: tensor.to(device) for name, tensor in inputs.items()}, **options)
    traces = recorder.traces
    return traces[0] if len(traces) == 1 else traces
