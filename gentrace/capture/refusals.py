"""What of a forward cannot be recorded, and is refused instead of giving a trace that shows less than it seems to."""

from collections.abc import Collection
from typing import Any

from torch import Tensor, nn

from gentrace.capture.anatomy import Anatomy
from gentrace.capture.sites import Sites
from gentrace.errors import AttentionUnavailable, CaptureError, UnsupportedModel


def read_input(anatomy: Anatomy, module: nn.Module, inputs: dict[str, Any]) -> tuple[Tensor | None, int, int]:
    """A forward's token ids, if there are any, its sequences and its positions.

    Args:
        anatomy: The recorded model's parts.
        module: The module whose forward it is.
        inputs: What it was given.

    Raises:
        UnsupportedModel: If it was given no text, or a text of another kind than one token at each position.
        CaptureError: If the text is empty.
    """
    attempted = f"recording a forward of {type(module).__name__}"
    ids, given = anatomy.text_of(inputs)
    if given is None:
        raise UnsupportedModel(
            attempted,
            f"neither input_ids nor inputs_embeds among {sorted(inputs)}",
            "call the model with one of them; models that take no tokens are not supported",
        )
    shape = tuple(given.shape)
    batch, queries = given.shape[:2] if given.dim() > 1 else (1, given.shape[0])
    if not batch or not queries:
        raise CaptureError(attempted, f"an input of shape {shape}", "give at least one token")
    if ids is not None and ids.dim() > 2:
        raise UnsupportedModel(
            attempted,
            f"token ids of shape {tuple(ids.shape)}, several at each position",
            "models that write in codebooks are not supported",
        )
    if batch == queries > 1 and anatomy.positions_first():
        raise UnsupportedModel(
            attempted,
            f"an input of shape {shape} to a module with nn.MultiheadAttention(batch_first=False)",
            "as many sequences as positions cannot be told apart; give another number of sequences",
        )
    return ids, batch, queries


def refuse_unseen(anatomy: Anatomy, sites: Sites, wanted: Collection[int] | None, seen: int) -> None:
    """Refuse to go on after the first forward when what was asked for did not show itself.

    Args:
        anatomy: The recorded model's parts.
        sites: Its attentions, as far as they were found.
        wanted: Layers that were asked for; None for all.
        seen: Attentions that the forward showed.

    Raises:
        AttentionUnavailable: If there were none, or none of a layer that was asked for.
    """
    attempted = f"recording {type(anatomy.model).__name__}"
    if not seen:
        raise AttentionUnavailable(
            attempted,
            f"no attention was seen in its first forward; modules that look like attention: "
            f"{', '.join(anatomy.suspects()[:3]) or 'none'}",
            "a kernel that calls neither transformers' registry nor torch's softmax cannot be seen; choose sdpa or "
            "eager attention",
        )
    found = sorted(sites.numbers())
    missing = sorted(set(wanted or ()) - set(found))
    if missing:
        raise AttentionUnavailable(
            attempted,
            f"layers {missing} were asked for, attention was seen in {found}",
            "choose among those with layers=",
        )
