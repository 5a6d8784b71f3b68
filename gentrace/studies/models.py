"""A study's models: loaded, and told apart by what they compute and not by what they are called."""

import hashlib
import json
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gentrace.errors import GentraceError, StudyError
from gentrace.studies.spec import ModelSpec


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model that is ready to generate."""

    spec: ModelSpec
    model: Any
    tokenizer: Any
    identity: dict[str, Any]
    """What of it can change a result: digests of weights, configuration and tokenizer, dtype, kernel, device type."""

    def count(self, text: str) -> int:
        """Tokens of a prompt."""
        return len(self.tokenizer(text)["input_ids"])

    @property
    def context(self) -> int | None:
        """Positions that the model was made for, if its configuration says so."""
        found = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        return found if isinstance(found, int) else None

    @property
    def layer_count(self) -> int:
        """Its layers."""
        return int(self.model.config.get_text_config().num_hidden_layers)


def open_model(spec: ModelSpec, base: Path, device: str | None = None) -> LoadedModel:
    """Load a model of a study.

    Args:
        spec: Which one.
        base: The folder that a relative path starts from.
        device: Where it goes if the specification leaves that open.

    Raises:
        StudyError: If it cannot be loaded, or does not continue texts.
    """
    from gentrace.demo import load

    folder = base / Path(spec.name).expanduser()
    name = str(folder) if (folder / "config.json").is_file() and spec.name not in ("story", "smollm2") else spec.name
    with quiet():
        try:
            model, tokenizer = load(name, device=spec.device or device, dtype=spec.dtype)
        except GentraceError as error:
            raise StudyError(str(error)) from error
        _refuse_others(spec, model)
        if spec.kernel is not None:
            try:
                model.set_attn_implementation(spec.kernel)
            except (ValueError, ImportError) as error:
                raise StudyError(f"choosing kernel {spec.kernel!r} for {spec.name}", str(error)) from error
    return LoadedModel(spec, model, tokenizer, identify(spec, model, tokenizer))


def identify(spec: ModelSpec, model: Any, tokenizer: Any) -> dict[str, Any]:
    """What of a model can change a result."""
    config = {name: value for name, value in model.config.to_dict().items() if name != "_name_or_path"}
    backend = getattr(tokenizer, "backend_tokenizer", None)
    words = backend.to_str() if backend is not None else json.dumps(tokenizer.get_vocab(), sort_keys=True)
    return {
        "name": spec.name,
        "class": type(model).__name__,
        "weights": weights_digest(model),
        "config": _digest(json.dumps(config, sort_keys=True, default=str)),
        "generation_config": _digest(json.dumps(model.generation_config.to_dict(), sort_keys=True, default=str)),
        "tokenizer": _digest(f"{words} {tokenizer.pad_token_id} {tokenizer.eos_token_id}"),
        "dtype": str(model.dtype).removeprefix("torch."),
        "kernel": str(model.config._attn_implementation),
        "device": next(model.parameters()).device.type,
    }


def weights_digest(model: Any) -> str:
    """SHA-256 over every tensor's name, type, shape and bytes."""
    state: dict[str, Tensor] = dict(sorted(model.state_dict().items()))

    def one(item: tuple[str, Tensor]) -> str:
        name, tensor = item
        flat = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        found = hashlib.sha256(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(flat.numpy().data)
        return found.hexdigest()

    with ThreadPoolExecutor(4) as pool:
        return _digest(" ".join(pool.map(one, state.items())))


@contextmanager
def quiet() -> Generator[None]:
    """Without the logs and bars of transformers."""
    from transformers.utils import logging

    level, shown = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()


def _refuse_others(spec: ModelSpec, model: Any) -> None:
    if not hasattr(model, "generate") or not model.can_generate() or model.config.is_encoder_decoder:
        raise StudyError(
            f"loading the model {spec.name}",
            f"{type(model).__name__} does not continue a text",
            "choose a causal language model",
        )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
