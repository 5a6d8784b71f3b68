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
from jaxtyping import Bool
from torch import Tensor

from gentrace.axes import Keys, Matrices, Matrix, Queries, Values
from gentrace.errors import AttentionUnavailable
from gentrace.stitch.mask import VisibleKeys
from gentrace.stitch.scores import ScoreRule, ScoreTerms, dot_products, log_denominator, scores_from, weights_from
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

    def attention(self, layer: int, head: int | None = None, *, kind: Kind = "self") -> Matrices | Matrix:
        """Attention weights.

        Args:
            layer: The model's layer number.
            head: One query head, or None for all.
            kind: Which attention of the layer.

        Returns:
            float32 ``[head, query, key]``, or ``[query, key]`` for one head: 0 where masked, NaN in rows that were
            never seen. Keys of cross-attention are the encoder's positions; those are also the queries of "encoder".

        Raises:
            AttentionUnavailable: If the layer was not recorded or has no such head.
        """
        info = self.layer(layer, kind)
        scores = self._all_scores(info, head)
        weights = weights_from(scores, self._rule(info, head).sinks)
        weights[:, ~self._seen(info)] = torch.nan
        return weights if head is None else weights[0]

    def scores(self, layer: int, head: int | None = None, *, kind: Kind = "self") -> Matrices | Matrix:
        """Pre-softmax scores: scaled, capped and biased as the model fed them to softmax.

        Args:
            layer: The model's layer number.
            head: One query head, or None for all.
            kind: Which attention of the layer.

        Returns:
            float32 ``[head, query, key]``, or ``[query, key]`` for one head: −inf where masked, NaN in rows that were
            never seen.

        Raises:
            AttentionUnavailable: If the layer was not recorded or has no such head.
        """
        info = self.layer(layer, kind)
        scores = self._all_scores(info, head)
        scores[:, ~self._seen(info)] = torch.nan
        return scores if head is None else scores[0]

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
        if self._name(info, "values") not in set(self.store.names()):
            raise AttentionUnavailable(
                f"reading the values of layer {layer}", "they were not recorded", "record with values=True"
            )
        return self._tensor(info, "values")

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
        info = self.layer(layer, kind)
        self._check_head(info, head)
        count = self.counts(info)[0]
        if not 0 <= query < count:
            raise AttentionUnavailable(
                f"reading row {query} of layer {layer}",
                f"the trace has rows 0 … {count - 1}",
                "choose one of them",
            )
        rows = slice(query, query + 1)
        if self._scores_only(info):
            return self._terms_of_scores(info, head, query)
        queries, keys, bias = self._parts(info, head)
        rule, queries = self._rule(info, head), queries[:, rows]
        bias_row = None if bias is None else bias[:, rows]
        visible = self._visible(info, rows)
        score = scores_from(queries, keys, visible, rule, bias_row)
        return ScoreTerms(
            dot=dot_products(queries, keys)[0, 0],
            scale=rule.scale,
            bias=torch.zeros(keys.shape[1]) if bias_row is None else bias_row[0, 0].float(),
            softcap=rule.softcap,
            visible=visible[0],
            score=score[0, 0],
            sink=None if rule.sinks is None else float(rule.sinks[0]),
            logsumexp=float(log_denominator(score, rule.sinks)[0, 0]),
            weight=weights_from(score, rule.sinks)[0, 0],
        )

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

    def _name(self, info: LayerInfo, what: str) -> str:
        return f"layers.{info.index}.{info.kind}.{what}"

    def counts(self, info: LayerInfo) -> tuple[int, int]:
        """How many queries and keys a layer has: the text's positions, or the encoder's."""
        return (
            self.encoder_length if info.kind == "encoder" else self.length,
            self.length if info.kind == "self" else self.encoder_length,
        )

    def _scores_only(self, info: LayerInfo) -> bool:
        return self._name(info, "scores") in set(self.store.names())

    def _vectors(self, info: LayerInfo, what: str) -> Tensor:
        if self._scores_only(info):
            raise AttentionUnavailable(
                f"reading the {what} of layer {info.index}",
                f"{info.name} computes attention by itself, and only the scores that entered its softmax were seen",
                "use scores() or attention()",
            )
        return self._tensor(info, what)

    def _terms_of_scores(self, info: LayerInfo, head: int, query: int) -> ScoreTerms:
        """The terms of a row of which only the finished scores are known."""
        score = self.store.slab(self._name(info, "scores"), head)[query].float()
        unknown = torch.full_like(score, torch.nan)
        return ScoreTerms(
            dot=unknown,
            scale=info.scale,
            bias=unknown,
            softcap=info.softcap,
            visible=score > -torch.inf,
            score=score,
            sink=None,
            logsumexp=float(score.logsumexp(-1)),
            weight=weights_from(score[None, None])[0, 0],
        )

    def _tensor(self, info: LayerInfo, what: str) -> Tensor:
        return self.store.tensor(self._name(info, what))

    def _check_head(self, info: LayerInfo, head: int) -> None:
        if not 0 <= head < info.heads:
            raise AttentionUnavailable(
                f"reading head {head} of layer {info.index}",
                f"the layer has heads 0 … {info.heads - 1}",
                "choose one of them",
            )

    def _rule(self, info: LayerInfo, head: int | None) -> ScoreRule:
        sinks = None if info.sinks is None else torch.tensor(info.sinks)
        if sinks is not None and head is not None:
            sinks = sinks[head : head + 1]
        return ScoreRule(info.scale, info.softcap, sinks)

    def _parts(self, info: LayerInfo, head: int | None) -> tuple[Queries, Keys, Tensor | None]:
        """Queries, keys and bias of one head (each with a first axis of 1) or of all."""
        bias_name = self._name(info, "bias")
        has_bias = bias_name in set(self.store.names())
        if head is None:
            bias = self.store.tensor(bias_name) if has_bias else None
            return self._tensor(info, "queries"), self._tensor(info, "keys"), bias
        self._check_head(info, head)
        queries = self.store.slab(self._name(info, "queries"), head)[None]
        keys = self.store.slab(self._name(info, "keys"), head * info.kv_heads // info.heads)[None]
        if not has_bias:
            return queries, keys, None
        shared = self.store.shape(bias_name)[0] == 1
        return queries, keys, self.store.slab(bias_name, 0 if shared else head)[None]

    def _visible(self, info: LayerInfo, queries: slice = slice(None)) -> Tensor:
        return self._mask(info).dense(self.counts(info)[1], queries)

    def _mask(self, info: LayerInfo) -> VisibleKeys:
        prefix = f"masks.{self.masks[info.index, info.kind]}"
        return VisibleKeys(*(self.store.tensor(f"{prefix}.{part}") for part in ("start", "stop", "rows", "bits")))

    def _all_scores(self, info: LayerInfo, head: int | None) -> Matrices:
        if self._scores_only(info):
            name = self._name(info, "scores")
            if head is None:
                return self.store.tensor(name).float().clone()
            self._check_head(info, head)
            return self.store.slab(name, head)[None].float().clone()
        queries, keys, bias = self._parts(info, head)
        return scores_from(queries, keys, self._visible(info), self._rule(info, head), bias)

    def _seen(self, info: LayerInfo) -> Bool[Tensor, " query"]:
        """[query] which rows were recorded; one that was never seen has the mask run (−1, −1)."""
        return self._mask(info).start >= 0
