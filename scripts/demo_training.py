"""What the trainings of the demo models share: their optimizers, their learning rate, and the folder that is left."""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast


def make_optimizers(
    model: PreTrainedModel, blocks: list[torch.nn.Module], matrix_rate: float, vector_rate: float
) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the blocks, AdamW for embeddings and vectors."""
    matrices = [p for block in blocks for p in block.parameters() if p.ndim == 2]
    chosen = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in chosen]
    return [
        torch.optim.Muon(matrices, lr=matrix_rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=vector_rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def rate_at(step: int, steps: int) -> float:
    """Learning-rate factor: thirty steps of warm-up, then a cosine to zero."""
    return min(1.0, (step + 1) / 30) * 0.5 * (1 + math.cos(math.pi * step / steps))


def store(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, longest: int, folder: Path) -> None:
    """An ordinary Hugging Face folder: float16 on disk, float32 when loaded; `longest` is the context in tokens."""
    tokenizer.model_max_length = longest
    model.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    # safetensors writes files that only their owner may read, which an installed package must not have.
    (folder / "model.safetensors").chmod(0o644)
    config_file = folder / "config.json"
    config = json.loads(config_file.read_text())
    config["dtype"] = "float32"
    config_file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
