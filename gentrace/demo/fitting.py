"""Whether a model can do what is asked of it, found out before it starts."""

from typing import Any

from gentrace.demo.errors import ModelUnfitError

LAYER_COUNTS = ("num_hidden_layers", "encoder_layers", "decoder_layers", "num_decoder_layers")
"""What configurations call their numbers of layers."""


def check_fits(network: Any, tokenizer: Any, prompt: str, added: int, layers: list[int] | None) -> None:
    """Refuse what the model cannot do.

    A prompt is continued in its own context; that of an encoder-decoder goes to the encoder, and what is written begins
    with one token in the decoder.

    Args:
        network: The model.
        tokenizer: Its tokenizer.
        prompt: The text that it gets.
        added: Tokens that are to be written.
        layers: Layers to be recorded; None for all.

    Raises:
        ModelUnfitError: If the model cannot write, a layer does not exist, or a text is longer than its context.
    """
    attempted = f"running {type(network).__name__}"
    if not hasattr(network, "generate") or not network.can_generate():
        raise ModelUnfitError(attempted, "it cannot generate text", "choose a causal language model or encoder-decoder")
    config = network.config.get_text_config()
    divided = bool(network.config.is_encoder_decoder)
    last = max(getattr(config, name, None) or 0 for name in LAYER_COUNTS) - 1
    unknown = [layer for layer in layers or () if layer > last]
    if unknown:
        raise ModelUnfitError(
            attempted, f"layers {unknown} do not exist: the model has layers 0 … {last}", "choose among them"
        )
    context = getattr(config, "max_position_embeddings", None)
    given = len(tokenizer(prompt)["input_ids"])
    if context is None:
        return
    if divided and (given > context or added >= context):
        raise ModelUnfitError(
            attempted,
            f"the prompt has {given} tokens and {added} are to be written; either is limited to the model's context of "
            f"{context}, the decoder's first token included",
            "shorten the prompt or lower --max-new-tokens",
        )
    if not divided and given + added > context:
        raise ModelUnfitError(
            attempted,
            f"the prompt has {given} tokens, which with {added} new ones is more than the model's context of {context}",
            "shorten it or lower --max-new-tokens",
        )
