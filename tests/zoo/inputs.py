"""What a type's ``model(**inputs)`` and ``model.generate(**inputs)`` need, the decoder's ids left out."""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tests.zoo.sizes import VOCAB

# Types that hear: how many numbers a frame has, and how many frames or samples make one position of the encoder.
FEATURES = 16
FRAMES = {"whisper": 2, "speech_to_text": 4, "voxtral_realtime": 8}
SAMPLES = {"moonshine": 384, "moonshine_streaming": 320, "kyutai_speech_to_text": 16}


def model_inputs(task: str, model: PreTrainedModel, *, length: int, batch: int = 1, seed: int = 0) -> dict[str, Tensor]:
    """Random ids without special ones and their mask, or what the type takes instead of them."""
    generator = torch.Generator().manual_seed(seed)
    kind = model.config.model_type
    heard = task == "seq2seq" and model.main_input_name in ("input_features", "input_values", "inputs")
    if kind == "pop2piano":
        return {"input_features": torch.randn(batch, length, model.config.d_model, generator=generator)}
    if heard and (model.main_input_name == "input_features"):
        frames = 2 * model.config.max_source_positions if kind == "whisper" else FRAMES.get(kind, 8) * length
        shape = (batch, FEATURES, frames) if kind == "whisper" else (batch, frames, FEATURES)
        inputs = {"input_features": torch.randn(shape, generator=generator)}
        if kind != "whisper":
            inputs["attention_mask"] = torch.ones(batch, frames, dtype=torch.long)
        return inputs
    if heard:
        samples = SAMPLES.get(kind, FEATURES) * (length + 2)
        return {"input_values": torch.randn(batch, samples, generator=generator)}
    rows = batch
    if task == "causal" and kind.startswith("musicgen"):
        # One row per codebook.
        rows *= model.config.num_codebooks
    ids = torch.randint(3, VOCAB, (rows, length), generator=generator)
    inputs = {"input_ids": ids, "attention_mask": torch.ones(batch, length, dtype=torch.long)}
    if kind == "voxtral_realtime":
        frames = FRAMES[kind] * (length + 8)
        inputs["input_features"] = torch.randn(batch, FEATURES, frames, generator=generator)
    if kind == "kyutai_speech_to_text":
        inputs["input_values"] = torch.randn(batch, 1, SAMPLES[kind] * (length + 8), generator=generator)
    return inputs
