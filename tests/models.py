"""Tiny random models of the types that gentrace names, built from their configuration classes."""

from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    DeepseekV3Config,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    GptOssConfig,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    Phi3Config,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

VOCAB = 97
PAD, BOS, EOS = 0, 1, 2
COMMON: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": PAD,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
}
ALTERNATING = ["sliding_attention", "full_attention", "sliding_attention"]


def configs() -> dict[str, PreTrainedConfig]:
    """One configuration per model type, with the type's own peculiarity switched on."""
    return {
        "llama": LlamaConfig(**COMMON),
        "mistral": MistralConfig(**COMMON, sliding_window=5),
        "qwen2": Qwen2Config(**COMMON, use_sliding_window=True, sliding_window=6, max_window_layers=1),
        "qwen3": Qwen3Config(**COMMON, head_dim=16),
        "gemma2": Gemma2Config(
            **COMMON, head_dim=16, sliding_window=4, attn_logit_softcapping=2.0, query_pre_attn_scalar=7
        ),
        "gemma3": Gemma3TextConfig(**COMMON, head_dim=16, sliding_window=5, layer_types=ALTERNATING),
        "phi3": Phi3Config(**COMMON, sliding_window=7),
        "gpt2": GPT2Config(
            vocab_size=VOCAB,
            n_embd=48,
            n_layer=3,
            n_head=4,
            n_positions=128,
            scale_attn_by_inverse_layer_idx=True,
            bos_token_id=BOS,
            eos_token_id=EOS,
            pad_token_id=PAD,
        ),
        "gpt_neox": GPTNeoXConfig(**{key: value for key, value in COMMON.items() if key != "num_key_value_heads"}),
        "olmo2": Olmo2Config(**COMMON),
        "gpt_oss": GptOssConfig(
            **COMMON, head_dim=16, sliding_window=4, num_local_experts=2, num_experts_per_tok=1, layer_types=ALTERNATING
        ),
        "deepseek_v3": DeepseekV3Config(
            **COMMON | {"num_key_value_heads": 4},
            q_lora_rank=24,
            kv_lora_rank=16,
            qk_nope_head_dim=12,
            qk_rope_head_dim=8,
            v_head_dim=10,
            n_routed_experts=4,
            n_group=2,
            topk_group=1,
            num_experts_per_tok=2,
            moe_intermediate_size=16,
            first_k_dense_replace=1,
        ),
    }


TYPES = tuple(configs())
SDPA_TYPES = tuple(name for name in TYPES if name not in ("gemma2", "gpt_oss"))


def tiny(name: str, kernel: str = "sdpa", *, seed: int = 0, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A random model of this type; its weights are large enough for attention to have a shape."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(configs()[name], attn_implementation=kernel)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(6.0)
            elif parameter.shape == (4,):
                # Learned sinks start uninitialised.
                parameter.normal_()
    return model.to(dtype).eval()


def prompt(length: int, batch: int = 1, seed: int = 0) -> torch.Tensor:
    """Random token ids without special ones, ``[batch, position]``."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, VOCAB, (batch, length), generator=generator)
