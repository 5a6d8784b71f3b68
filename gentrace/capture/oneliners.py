"""One call instead of a block: generate from text, or read a text that something else has written."""

from dataclasses import replace
from typing import Any

import torch

from gentrace.capture.recorder import record
from gentrace.errors import CaptureError, UnsupportedModel
from gentrace.trace.trace import Trace


def generate(
    model: Any, tokenizer: Any, prompt: str | list[str], *, alternatives: int | None = None, **options: Any
) -> Trace | list[Trace]:
    """Generate from text and return what the model looked at.

    Args:
        model: A Hugging Face model that generates.
        tokenizer: Its tokenizer.
        prompt: A text, or a list of texts, which are generated from together.
        alternatives: How many of the likeliest tokens to keep per position: the ``top_k`` of `record`.
        options: Arguments of ``model.generate``; those of `record` (``layers``, ``values``, ``max_bytes``,
            ``spill_dir``, ``verify``) go there. Both have a ``top_k``: where tokens are sampled it is how many they are
            sampled from, as in ``model.generate``; where none are, it says the same as ``alternatives``.

    Returns:
        A trace; a list of them for a list of texts or with ``num_return_sequences`` above 1.

    Raises:
        CaptureError: If a prompt has no tokens.
    """
    recording = {name: options.pop(name) for name in RECORDING_OPTIONS & options.keys()}
    if alternatives is not None:
        recording["top_k"] = alternatives
    elif "top_k" in options and not _samples(model, options):
        recording["top_k"] = options.pop("top_k")
    texts = [prompt] if isinstance(prompt, str) else list(prompt)
    inputs = encode(tokenizer, texts, model)
    device = next(model.parameters()).device
    with record(model, tokenizer, **recording) as recorder, torch.no_grad():
        model.generate(**{name: tensor.to(device) for name, tensor in inputs.items()}, **options)
    traces = recorder.traces
    return traces[0] if isinstance(prompt, str) and len(traces) == 1 else traces


RECORDING_OPTIONS = frozenset({"layers", "values", "max_bytes", "spill_dir", "verify", "disk_full"})


def encode(tokenizer: Any, texts: list[str], model: Any) -> dict[str, torch.Tensor]:
    """Tokenize prompts and pad them, with or without a padding token: on the left of a text that will be continued.

    Args:
        tokenizer: The tokenizer.
        texts: The prompts.
        model: The model that they are for.

    Returns:
        ``input_ids`` and ``attention_mask``, each ``[batch, position]``.

    Raises:
        CaptureError: If there is no prompt, or one has no tokens, or tokens that the model does not know.
    """
    rows = [tokenizer(text)["input_ids"] for text in texts]
    empty = [index for index, row in enumerate(rows) if not row]
    if not rows or empty:
        raise CaptureError(
            "tokenizing prompts",
            f"prompt {empty[0]} has no tokens: {texts[empty[0]]!r}" if empty else "the list of prompts is empty",
            "give each prompt some text",
        )
    check_known(model, rows)
    width = max(len(row) for row in rows)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else rows[0][0]
    missing = [width - len(row) for row in rows]
    if _encodes(model):
        ids = [list(row) + [pad] * count for row, count in zip(rows, missing, strict=True)]
        mask = [[1] * len(row) + [0] * count for row, count in zip(rows, missing, strict=True)]
    else:
        ids = [[pad] * count + list(row) for row, count in zip(rows, missing, strict=True)]
        mask = [[0] * count + [1] * len(row) for row, count in zip(rows, missing, strict=True)]
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}


def read(model: Any, tokenizer: Any, prompt: str, completion: str, **recording: Any) -> Trace:
    """Read a finished text in one forward, as if the model had just written its completion.

    The trace equals that of the generation, but for what was sampled from. The completion's last token is fed too, so
    there is one more row than a generation has.

    Args:
        model: A decoder-only Hugging Face model.
        tokenizer: Its tokenizer.
        prompt: The text that was continued.
        completion: How it was continued, by a serving engine for example.
        recording: Arguments of `record`.

    Raises:
        UnsupportedModel: If the model has an encoder, which the prompt would go through.
        CaptureError: If either text has no tokens, or tokens that the model does not know.
    """
    if _encodes(model):
        raise UnsupportedModel(
            f"reading a completion with {type(model).__name__}",
            "an encoder-decoder model",
            "record model(input_ids=..., decoder_input_ids=...) yourself",
        )
    given = encode(tokenizer, [prompt], model)["input_ids"]
    added = tokenizer(completion, add_special_tokens=False)["input_ids"]
    if not added:
        raise CaptureError("reading a completion", f"it has no tokens: {completion!r}", "give it some text")
    check_known(model, [added])
    ids = torch.cat([given, torch.tensor([added])], 1).to(next(model.parameters()).device)
    with record(model, tokenizer, **recording) as recorder, torch.no_grad():
        model(ids, attention_mask=torch.ones_like(ids), use_cache=False)
    trace = recorder.trace
    tokens = replace(trace.tokens, prompt_length=given.shape[1])
    return replace(trace, read_tokens=lambda: tokens)


def _samples(model: Any, options: dict[str, Any]) -> bool:
    """Whether ``model.generate`` will draw tokens by chance."""
    settings = options.get("generation_config") or getattr(model, "generation_config", None)
    given = options.get("do_sample")
    return bool(getattr(settings, "do_sample", False) if given is None else given)


def _encodes(model: Any) -> bool:
    """Whether prompts go through an encoder and are not continued themselves."""
    return bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))


def check_known(model: Any, rows: list[list[int]]) -> None:
    """Refuse token ids that the model has no embedding for.

    Raises:
        CaptureError: If there is one; most likely the tokenizer belongs to another model.
    """
    known = model.get_input_embeddings().num_embeddings
    highest = max(max(row) for row in rows)
    if highest >= known:
        raise CaptureError(
            f"tokenizing for {type(model).__name__}",
            f"the tokenizer gives token {highest}, the model knows {known} tokens",
            "give the model's own tokenizer",
        )
