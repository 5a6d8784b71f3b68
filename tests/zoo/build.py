"""Builds the tiny models: a configuration of tiny sizes, random weights that make attention uneven, the same each time.

Uninitialised parameters are found by letting torch fill new memory with NaN while the model is made.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
import transformers
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from tests.zoo.overrides import GENERATION, NOT_BUILDABLE, OVERRIDES, RAISED, TASK_OVERRIDES
from tests.zoo.sizes import ALWAYS, BOS, HEADS, SIZES

TASKS = ("causal", "seq2seq", "masked")
SPEECH = "@speech"
FLOOR = 0.15


class NotBuildable(Exception):
    """transformers cannot run this type here; the message is the reason."""


def classes(task: str) -> dict[str, str]:
    """The model class of each entry; a type whose speech model is another class has a second entry, ``type@speech``."""
    if task == "causal":
        return dict(modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    if task == "masked":
        return dict(modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES)
    found = dict(modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES)
    for name, cls in modeling_auto.MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES.items():
        if found.setdefault(name, cls) != cls:
            found[name + SPEECH] = cls
    return found


def types(task: str) -> tuple[str, ...]:
    """All types of the task, sorted."""
    return tuple(sorted(classes(task)))


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with the values of ``over``, dictionary by dictionary."""
    both = dict(base)
    for key, value in over.items():
        old = both.get(key)
        both[key] = merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return both


def shrunk(cls: type[PreTrainedConfig], default: PreTrainedConfig | None = None) -> dict[str, Any]:
    """Arguments that make this configuration class tiny, those of its parts included."""
    if default is None:
        with contextlib.suppress(Exception):
            default = cls()
    arguments: dict[str, Any] = {}
    for field in dataclasses.fields(cls):
        name = field.name
        if name in cls.sub_configs:
            part = getattr(default, name, None)
            if isinstance(part, PreTrainedConfig):
                arguments[name] = shrunk(type(part), part) | {"model_type": part.model_type}
            continue
        if name in ALWAYS:
            arguments[name] = ALWAYS[name]
        elif name in SIZES:
            plain = field.default if isinstance(field.default, int) else getattr(default, name, None)
            if isinstance(plain, int) and not isinstance(plain, bool):
                arguments[name] = SIZES[name]
    if "kv_lora_rank" in arguments and "num_key_value_heads" in arguments:
        # Latent attention has one key per query head.
        arguments["num_key_value_heads"] = HEADS
    return merged(arguments, OVERRIDES.get(cls.model_type, {}))


def configuration(task: str, name: str) -> PreTrainedConfig:
    """The tiny configuration of a type."""
    plain = name.removesuffix(SPEECH)
    cls = CONFIG_MAPPING[plain]
    arguments = shrunk(cls)
    if task == "causal" and any(field.name == "is_decoder" for field in dataclasses.fields(cls)):
        arguments["is_decoder"] = True
    config = cls(**merged(arguments, TASK_OVERRIDES.get((task, name), {})))
    wanted = getattr(transformers, classes(task)[name]).config_class
    if isinstance(config, wanted):
        return config
    parts = [getattr(config, part) for part in config.sub_configs]
    return next((part for part in parts if isinstance(part, wanted)), config)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Random numbers from ``seed`` and new memory full of NaN; what was before comes back after."""
    strict = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    numbers = np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        np.random.seed(seed)
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(strict, warn_only=warn_only)
            np.random.set_state(numbers)


def roughen(model: torch.nn.Module) -> None:
    """Fills what is uninitialised or zero, widens narrow matrices, and moves every vector off its constant."""
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.is_floating_point():
                continue
            noise = torch.randn_like(parameter)
            parameter.copy_(torch.where(parameter.isfinite(), parameter, noise))
            if parameter.dim() < 2:
                parameter.add_(noise, alpha=0.1)
                continue
            spread = float(parameter.std()) if parameter.numel() > 1 else 1.0
            if spread < 1e-6:
                parameter.add_(noise, alpha=0.1)
            elif spread < FLOOR:
                parameter.mul_(FLOOR / spread)
        for buffer in model.buffers():
            if buffer.is_floating_point():
                buffer.nan_to_num_(nan=0.0, posinf=torch.inf, neginf=-torch.inf)


def build(task: str, name: str, kernel: str = "eager", *, seed: int = 0) -> PreTrainedModel:
    """A tiny random model of this type in float32, ready to run with this attention kernel."""
    reason = NOT_BUILDABLE.get((task, name))
    if reason is not None:
        raise NotBuildable(reason)
    config = configuration(task, name)
    cls = getattr(transformers, classes(task)[name])
    with seeded(seed):
        model = cls._from_config(config, attn_implementation=kernel, dtype=torch.float32)
        roughen(model)
    ending, height = RAISED.get(name, ("none", 0.0))
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key.endswith(ending):
                parameter.add_(height)
    if model.can_generate():
        for key, value in ({"decoder_start_token_id": BOS} | GENERATION.get(name, {})).items():
            setattr(model.generation_config, key, value)
    return model.float().eval()
