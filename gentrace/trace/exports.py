"""A trace in the shapes that other tools take."""

from types import SimpleNamespace
from typing import TYPE_CHECKING

from einops import rearrange
from jaxtyping import Float32
from torch import Tensor

from gentrace.errors import AttentionUnavailable
from gentrace.trace.info import Kind, LayerInfo

if TYPE_CHECKING:
    from transformer_lens import ActivationCache

    from gentrace.trace.trace import Trace


def to_hf(trace: "Trace", kind: Kind = "self") -> tuple[Float32[Tensor, "one head query key"], ...]:
    """Attention as Hugging Face's ``output_attentions`` gives it for one forward over the whole text.

    Args:
        trace: The trace.
        kind: Which attention of the layers.

    Returns:
        float32 ``[1, head, query, key]`` per recorded layer, in layer order; the batch has one entry.

    Raises:
        AttentionUnavailable: If no layer of this kind was recorded.
    """
    return tuple(trace.attention(info.index, kind=kind)[None] for info in _layers_of(trace, kind, "Hugging Face"))


def to_activation_cache(trace: "Trace", *, rotary: bool = True) -> "ActivationCache":
    """Self-attention as the cache that TransformerLens' ``run_with_cache`` gives for the whole text.

    Per recorded layer, under ``blocks.{layer}.attn.``: ``hook_attn_scores`` and ``hook_pattern``
    ``[batch, head, query, key]``; ``hook_rot_q`` and ``hook_rot_k``, or ``hook_q`` and ``hook_k``, and ``hook_v`` if
    values were recorded, each ``[batch, position, head, dim]``, keys and values with their own number of heads. The
    batch has one entry. Scores are −inf where masked, as in TransformerLens' compatibility mode. Layers of which only
    scores were seen have no vectors.

    The cache has no model behind it: what needs only the activations works (``cache["pattern", 0]``, iterating,
    ``stack_activation``, slicing), and negative layers count back from the last recorded one; what needs weights, such
    as ``logit_attrs``, wants a bridge as ``cache.model`` and more activations than a trace has.

    Args:
        trace: The trace.
        rotary: Whether the model rotates queries and keys (RoPE). A trace holds them as they entered the kernel, which
            TransformerLens calls ``hook_rot_q`` and ``hook_rot_k``; its ``hook_q`` and ``hook_k`` are not rotated yet.
            False for models with learned or ALiBi positions (GPT-2, OPT, BLOOM), where the two are the same.

    Returns:
        The cache.

    Raises:
        AttentionUnavailable: If no self-attention was recorded.
    """
    layers = _layers_of(trace, "self", "TransformerLens")
    from transformer_lens import ActivationCache

    query_name, key_name = ("hook_rot_q", "hook_rot_k") if rotary else ("hook_q", "hook_k")
    stored = set(trace.store.names())
    cached: dict[str, Tensor] = {}
    for info in layers:
        prefix = f"blocks.{info.index}.attn."
        if info.tensor("queries") in stored:
            cached[prefix + query_name] = rearrange(trace.queries(info.index), "head query dim -> 1 query head dim")
            cached[prefix + key_name] = rearrange(trace.keys(info.index), "kv_head key dim -> 1 key kv_head dim")
        if info.tensor("values") in stored:
            cached[prefix + "hook_v"] = rearrange(trace.values(info.index), "kv_head key dim -> 1 key kv_head dim")
        cached[prefix + "hook_attn_scores"] = trace.scores(info.index)[None]
        cached[prefix + "hook_pattern"] = trace.attention(info.index)[None]
    # All that the cache's own look-ups ask of a model.
    model = SimpleNamespace(cfg=SimpleNamespace(n_layers=layers[-1].index + 1))
    return ActivationCache(cached, model)


def _layers_of(trace: "Trace", kind: Kind, form: str) -> list[LayerInfo]:
    """The recorded layers of a kind, in layer order; at least one."""
    layers = sorted((info for info in trace.layers if info.kind == kind), key=lambda info: info.index)
    if not layers:
        recorded = ", ".join(f"{info.index} ({info.kind})" for info in trace.layers) or "none"
        raise AttentionUnavailable(
            f"exporting {kind} attention to {form}", f"layers recorded: {recorded}", "record with layers=None"
        )
    return layers
