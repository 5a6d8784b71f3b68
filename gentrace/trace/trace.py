"""The trace: what one sequence's generation looked at, as an object to measure.

It holds queries and keys, not matrices. Attention and scores are derived when they are asked for, so a trace grows
with the length of the text and not with its square.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gentrace.axes import Keys, Matrices, Matrix, Queries, Values
from gentrace.errors import AttentionUnavailable
from gentrace.stitch.scores import ScoreTerms
from gentrace.trace import derive
from gentrace.trace.decoding import Beams, Draft
from gentrace.trace.info import Fidelity, Kind, LayerInfo, Meta, OtherLayer
from gentrace.trace.store import Store
from gentrace.trace.tokens import Tokens

if TYPE_CHECKING:
    import pandas as pd
    from transformer_lens import ActivationCache


@dataclass(frozen=True, eq=False, repr=False)
class Trace:
    """One sequence's generation: its tokens, and every layer's queries and keys.

    Queries and keys are numbered in the sequence's own unpadded positions. Row p is token p looking back at keys
    0 … p; it predicts token p + 1.
    """

    layers: tuple[LayerInfo, ...]
    """The layers that were recorded."""
    length: int
    """N, positions that were fed to the model; the last sampled token never was."""
    fidelity: Fidelity
    """How exactly the recorded rows reproduce what the model's kernel returned."""
    meta: Meta
    """Where the trace comes from."""
    masks: Mapping[tuple[int, Kind], int]
    """Which stored mask each layer uses."""
    store: Store
    """The tensors."""
    read_tokens: Callable[[], Tokens]
    """Makes the tokens; called once, when they are first asked for."""
    encoder_length: int = 0
    """Positions of the encoder that cross-attention looks at; 0 for a model without one."""
    read_encoder_tokens: Callable[[], Tokens] | None = None
    """Makes the encoder's tokens."""
    other_layers: tuple[OtherLayer, ...] = ()
    """The model's layers without softmax attention."""
    beams: Beams | None = None
    """Every hypothesis of the beam search that the sequence came out of; None if beams were not searched."""
    drafts: tuple[Draft, ...] = ()
    """Drafted tokens that the model rejected, in that order, when generation was assisted."""

    def __repr__(self) -> str:
        state = "" if self.meta.complete else ", cut short"
        return f"<Trace of {self.meta.model}: {self.length} positions, {len(self.layers)} layers{state}>"

    @cached_property
    def tokens(self) -> Tokens:
        """The text with its probabilities; ``[position]`` runs over all T tokens, the last sampled one included.

        The prompt's probabilities are computed here, once, from the hidden states that recording kept.
        """
        return self.read_tokens()

    @cached_property
    def encoder_tokens(self) -> Tokens | None:
        """The encoder's input, whose probabilities are unknown (NaN); None for a model without an encoder.

        Ids are −1 where the encoder's positions are no tokens, such as frames of audio.
        """
        return None if self.read_encoder_tokens is None else self.read_encoder_tokens()

    @cached_property
    def segments(self) -> Tensor | None:
        """``[position]`` the sentence that each token belongs to, if ``token_type_ids`` were given."""
        return self.store.tensor("segments") if "segments" in set(self.store.names()) else None

    def attention(
        self,
        layer: int,
        head: int | None = None,
        *,
        kind: Kind = "self",
        queries: slice | range | None = None,
        keys: slice | range | None = None,
        device: torch.device | str | None = None,
    ) -> Matrices | Matrix:
        """Attention weights, all or a window of them.

        Args:
            layer: The model's layer number.
            head: One query head, or None for all.
            kind: Which attention of the layer.
            queries: Rows of the window, as a slice or range without gaps; None for all. Only these are computed, so
                one row of a long text takes milliseconds.
            keys: Columns of the window, in the same way. Weights are shares of a row's whole attention also then.
            device: Where to compute, such as "cuda"; the result is on the CPU.

        Returns:
            float32 ``[head, query, key]``, or ``[query, key]`` for one head: 0 where masked, NaN in rows that were
            never seen. Keys of cross-attention are the encoder's positions; those are also the queries of "encoder".

        Raises:
            AttentionUnavailable: If the layer was not recorded or has no such head, or the window has gaps.
        """
        return derive.window(self, self.layer(layer, kind), head, "weights", queries, keys, device)

    def scores(
        self,
        layer: int,
        head: int | None = None,
        *,
        kind: Kind = "self",
        queries: slice | range | None = None,
        keys: slice | range | None = None,
        device: torch.device | str | None = None,
    ) -> Matrices | Matrix:
        """Pre-softmax scores: scaled, capped and biased as the model fed them to softmax; all or a window of them.

        Args:
            layer: The model's layer number.
            head: One query head, or None for all.
            kind: Which attention of the layer.
            queries: Rows of the window, as a slice or range without gaps; None for all.
            keys: Columns of the window, in the same way.
            device: Where to compute, such as "cuda"; the result is on the CPU.

        Returns:
            float32 ``[head, query, key]``, or ``[query, key]`` for one head: −inf where masked, NaN in rows that were
            never seen.

        Raises:
            AttentionUnavailable: If the layer was not recorded or has no such head, or the window has gaps.
        """
        return derive.window(self, self.layer(layer, kind), head, "scores", queries, keys, device)

    def overview(
        self,
        layer: int,
        head: int,
        size: int = 512,
        *,
        kind: Kind = "self",
        what: derive.What = "weights",
        device: torch.device | str | None = None,
    ) -> derive.Overview:
        """One head's matrix made small: the largest entry of each block, so that no single strong look is lost.

        Args:
            layer: The model's layer number.
            head: Query head.
            size: Blocks along each side; an axis with fewer positions keeps them all.
            kind: Which attention of the layer.
            what: "weights", or "scores" for what went into softmax.
            device: Where to compute, such as "cuda"; the result is on the CPU.

        Returns:
            float32 ``[query_block, key_block]`` with the edges of the blocks, which are as equal as possible.

        Raises:
            AttentionUnavailable: If the layer was not recorded or has no such head, or ``size`` is below 1.
        """
        return derive.overview(self, self.layer(layer, kind), head, size, what, device)

    def queries(self, layer: int, *, kind: Kind = "self") -> Queries:
        """Queries as they entered the kernel, ``[head, query, dim]`` in the model's dtype.

        Raises:
            AttentionUnavailable: If the layer was not recorded, or only its scores were seen.
        """
        return self._vectors(self.layer(layer, kind), "queries")

    def keys(self, layer: int, *, kind: Kind = "self") -> Keys:
        """Keys as they entered the kernel, ``[kv_head, key, dim]`` in the model's dtype.

        Raises:
            AttentionUnavailable: If the layer was not recorded, or only its scores were seen.
        """
        return self._vectors(self.layer(layer, kind), "keys")

    def values(self, layer: int, *, kind: Kind = "self") -> Values:
        """Values as they entered the kernel, ``[kv_head, key, value_dim]`` in the model's dtype.

        Raises:
            AttentionUnavailable: If the recording was made without ``values=True``.
        """
        info = self.layer(layer, kind)
        self._vectors(info, "keys")
        if not derive.has(self, info, "values"):
            raise AttentionUnavailable(
                f"reading the values of layer {layer}", "they were not recorded", "record with values=True"
            )
        return self.store.tensor(info.tensor("values"))

    def score_terms(self, layer: int, head: int, query: int, *, kind: Kind = "self") -> ScoreTerms:
        """One query row of one head, term by term.

        Args:
            layer: The model's layer number.
            head: Query head.
            query: Position that looks.
            kind: Which attention of the layer.

        Returns:
            Dot products, scale, bias, softcap, mask, scores, sink, log-sum-exp and weights, each over ``[key]``.

        Raises:
            AttentionUnavailable: If the layer, head or row was not recorded.
        """
        return derive.terms(self, self.layer(layer, kind), head, query)

    def layer(self, index: int, kind: Kind = "self") -> LayerInfo:
        """The description of one layer.

        Raises:
            AttentionUnavailable: If it was not recorded.
        """
        for info in self.layers:
            if info.index == index and info.kind == kind:
                return info
        for other in self.other_layers:
            if other.index == index and kind == "self":
                raise AttentionUnavailable(
                    f"reading attention of layer {index}",
                    f"{other.name} is a layer of kind {other.kind}, without softmax attention",
                    f"choose among layers {[info.index for info in self.layers if info.kind == kind]}",
                )
        recorded = ", ".join(str(info.index) for info in self.layers if info.kind == kind) or "none"
        raise AttentionUnavailable(
            f"reading {kind} attention of layer {index}", f"layers recorded: {recorded}", "choose one of them"
        )

    def to_pandas(self) -> "pd.DataFrame":
        """One row a token: position, id, text, generated, logprob, sampled_logprob, entropy (nats) and rank."""
        import pandas as pd

        tokens = self.tokens
        return pd.DataFrame(
            {
                "position": range(len(tokens)),
                "id": tokens.ids.tolist(),
                "text": list(tokens.texts),
                "generated": [position >= tokens.prompt_length for position in range(len(tokens))],
                "logprob": tokens.logprobs.tolist(),
                "sampled_logprob": tokens.sampled_logprobs.tolist(),
                "entropy": tokens.entropy.tolist(),
                "rank": tokens.rank.tolist(),
            }
        )

    def to_hf(self, kind: Kind = "self") -> tuple[Tensor, ...]:
        """Attention as Hugging Face's ``output_attentions`` gives it: per layer ``[1, head, query, key]``.

        Raises:
            AttentionUnavailable: If no layer of this kind was recorded.
        """
        from gentrace.trace.exports import to_hf

        return to_hf(self, kind)

    def to_activation_cache(self, *, rotary: bool = True) -> "ActivationCache":
        """The trace under TransformerLens' names, such as ``blocks.0.attn.hook_pattern``.

        Args:
            rotary: Whether the model rotates queries and keys; they are recorded after that, so they go by
                ``hook_rot_q`` and ``hook_rot_k`` then, and by ``hook_q`` and ``hook_k`` otherwise.
        """
        from gentrace.trace.exports import to_activation_cache

        return to_activation_cache(self, rotary=rotary)

    def save(self, path: str | PathLike[str]) -> None:
        """Write the trace to one ``.safetensors`` file; an existing file is replaced only by a whole one.

        Raises:
            OSError: If the file cannot be written; nothing is left under the name.
        """
        from gentrace.trace.file import save_trace

        save_trace(self, path)

    def counts(self, info: LayerInfo) -> tuple[int, int]:
        """How many queries and keys a layer has: the text's positions, or the encoder's."""
        return (
            self.encoder_length if info.kind == "encoder" else self.length,
            self.length if info.kind == "self" else self.encoder_length,
        )

    def _vectors(self, info: LayerInfo, what: str) -> Tensor:
        if derive.has(self, info, "scores"):
            raise AttentionUnavailable(
                f"reading the {what} of layer {info.index}",
                f"{info.name} computes attention by itself, and only the scores that entered its softmax were seen",
                "use scores() or attention()",
            )
        return self.store.tensor(info.tensor(what))
