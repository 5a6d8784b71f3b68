"""What single types need beyond the table of sizes, by the ``model_type`` of a configuration, part or whole."""

from typing import Any

from tests.zoo.sizes import HEADS, HIDDEN, LAYERS, VOCAB, WINDOW
from tests.zoo.sounds import SOUNDS

SLIDING_FULL = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]
LINEAR_FULL = ["linear_attention", "full_attention", "linear_attention", "full_attention"]
HYBRID_SLIDING = ["hybrid_sliding", "hybrid", "hybrid_sliding", "hybrid"]
LINEAR_HYBRID = ["linear_attention", "linear_attention", "hybrid", "hybrid"]

OVERRIDES: dict[str, dict[str, Any]] = {
    # Layers of one kind and of another.
    "bailing_hybrid": {"layer_group_size": 2},
    "bamba": {"attn_layer_indices": [1, 3]},
    "falcon_h1": {"mamba_d_head": 12, "mamba_n_heads": 8},
    "gemma3_text": {"layer_types": SLIDING_FULL},
    "gemma3n_text": {"layer_types": SLIDING_FULL, "num_kv_shared_layers": 2, "laurel_rank": 8},
    # Its scores are not scaled, and float32 keeps seven digits of them: heads of eight keep them small.
    "gemma4_text": {"head_dim": 8, "global_head_dim": 8},
    "gemma4_unified_text": {"head_dim": 8, "global_head_dim": 8},
    "granitemoehybrid": {"layer_types": LINEAR_FULL},
    "inkling_text": {"layer_types": HYBRID_SLIDING},
    "inkling2_text": {"layer_types": HYBRID_SLIDING},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "kimi_linear": {"layer_types": LINEAR_FULL},
    "kolibri1": {"layer_types": SLIDING_FULL},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv", "full_attention"]},
    "lfm3": {"layer_types": ["conv", "full_attention", "conv", "sliding_attention"]},
    "ministral": {"layer_types": SLIDING_FULL, "head_dim": 16},
    "nemotron_h": {
        "layers_block_type": ["linear_attention", "full_attention", "moe", "mlp", "full_attention"],
        "n_group": 1,
    },
    "recurrent_gemma": {"attention_window_size": WINDOW},
    "zamba": {"layers_block_type": LINEAR_HYBRID, "num_key_value_heads": HEADS},
    "zamba2": {"layers_block_type": LINEAR_HYBRID, "num_key_value_heads": HEADS, "n_mamba_heads": 4},
    "zaya": {"num_experts_per_tok": 1, "router_hidden_size": 16},
    # Sizes that must agree with one another.
    "blt": {"num_hidden_layers": LAYERS, "encoder_hash_byte_group_vocab": 50, "encoder_hash_byte_group_size": [3, 4]},
    "blt_local_encoder": {"hidden_size_global": HIDDEN, "num_hidden_layers": 1},
    "blt_local_decoder": {"hidden_size_global": HIDDEN, "num_hidden_layers": 2},
    "blt_global_transformer": {"num_hidden_layers": 2},
    "cohere_compass_text": {
        "layer_types": SLIDING_FULL,
        "rope_parameters": {kind: {"rope_type": "default", "rope_theta": 1e4} for kind in set(SLIDING_FULL)},
    },
    "cpmant": {"prompt_length": 2, "prompt_types": 4, "segment_types": 4},
    "dbrx": {"attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0}},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "dots3_note_text": {
        "num_key_value_heads": HEADS,
        "swa_num_attention_heads": HEADS,
        "swa_num_key_value_heads": HEADS,
        "swa_q_lora_rank": 24,
        "swa_kv_lora_rank": 16,
        "swa_head_dim": 20,
        "swa_qk_nope_head_dim": 12,
        "swa_v_head_dim": 10,
    },
    "dots3_note_vision_encoder": {
        "num_hidden_layers": 2,
        "mlp_layer_types": ["dense", "sparse"],
        "adapter_in_dim": HIDDEN,
        "adapter_out_dim": HIDDEN,
    },
    "dots3_note_audio_encoder": {
        "adapter_input_size": HIDDEN,
        "adapter_out_dim": HIDDEN,
        "downsample_hidden_size": 16,
        "feature_size": 16,
        "num_key_value_heads": HEADS,
    },
    "esm": {"vocab_size": VOCAB, "position_embedding_type": "rotary", "mask_token_id": 3},
    "esmc": {"num_key_value_heads": HEADS, "head_dim": 12},
    "encoder-decoder": {"decoder": {"is_decoder": True, "add_cross_attention": True}},
    "speech-encoder-decoder": {"decoder": {"is_decoder": True, "add_cross_attention": True}},
    "gpt_neo": {"attention_types": [[["global", "local"], LAYERS // 2]]},
    "helium": {"head_dim": 12},
    "hrm_text": {"num_hidden_layers": 2},
    "hunyuan_v1_dense": {"head_dim": 16},
    "hunyuan_v1_moe": {"head_dim": 16},
    "longcat_flash": {"head_dim": 8, "zero_expert_num": 2, "num_layers": 2},
    "mamba2": {"num_heads": 8, "head_dim": 12},
    "qwen4_exp_text": {
        "indexer_n_heads": 4,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 16,
        "indexer_budget": 4,
        "indexer_compress_ratio": 2,
        "hc_lowrank": 8,
        "ple_layer_ids": [1],
        "ngram_vocab_size_base": 50,
        "heads_per_ngram": 2,
        "split_ngram_parts": 1,
    },
    "perceiver": {
        "d_latents": HIDDEN,
        "num_latents": 8,
        "num_self_attends_per_block": 2,
        "num_self_attention_heads": HEADS,
    },
    "reformer": {
        "attn_layers": ["local", "lsh", "local", "lsh"],
        "axial_pos_shape": (8, 16),
        "axial_pos_embds_dim": (16, HIDDEN - 16),
        "local_attn_chunk_length": 4,
        "lsh_attn_chunk_length": 4,
        "num_buckets": 4,
        "hash_seed": 0,
    },
    # Without norms random weights grow to scores of 1e8, whose rounding is all that is left.
    "mobilebert": {"normalization_type": "layer_norm"},
    # Its cache drops what lies before the window, its mask does not: no window, as in the real model.
    "moshi": {"sliding_window": 128, "num_codebooks": 2},
    "musicgen_decoder": {"pad_token_id": VOCAB, "num_codebooks": 2},
    "musicgen_melody_decoder": {"pad_token_id": VOCAB, "num_codebooks": 2},
    "squeezebert": {"embedding_size": HIDDEN},
    "stablelm": {"hidden_size": 64},
    "roc_bert": {
        "pronunciation_vocab_size": 20,
        "pronunciation_embed_dim": 8,
        "shape_vocab_size": 20,
        "shape_embed_dim": 8,
    },
    "xmod": {"languages": ["en_XX", "de_DE"], "default_language": "en_XX"},
    "xlstm": {"hidden_size": 64, "embedding_dim": 64, "num_blocks": LAYERS, "qk_dim_factor": 1.0},
}

OVERRIDES |= SOUNDS

# A whole configuration as a part of another, or for one task only.
TASK_OVERRIDES: dict[tuple[str, str], dict[str, Any]] = {
    ("causal", "gemma4"): {"text_config": {"layer_types": SLIDING_FULL, "num_kv_shared_layers": 2}},
    # Block-sparse layers are for encoders only.
    ("causal", "big_bird"): {"attention_type": "original_full"},
    # transformers hashes a second time in a cached step once the prompt exceeds a chunk, and fails.
    ("causal", "reformer"): {"lsh_attn_chunk_length": 64},
}

# What generate needs to know of a type beyond its configuration.
GENERATION: dict[str, dict[str, Any]] = {
    "musicgen": {"decoder_start_token_id": VOCAB, "num_return_sequences": 1},
    "musicgen_melody": {"decoder_start_token_id": VOCAB},
    "pop2piano": {"composer_to_feature_token": {"composer1": 3}},
}

# Vectors that start at zero and would leave attention even, by the end of their name, and what is added to them.
RAISED: dict[str, tuple[str, float]] = {"zaya": (".temp", 4.0)}

DRAFT = "a drafting head: its forward refuses to run without the key-value states of another model"
TIMM = "its vision tower comes from timm, which needs the packages timm and pillow"

NOT_BUILDABLE: dict[tuple[str, str], str] = {
    ("causal", "gemma3n"): TIMM,
    ("causal", "gemma4_assistant"): DRAFT,
    ("causal", "gemma4_unified_assistant"): DRAFT,
    ("seq2seq", "vibevoice"): "generate makes speech with a noise scheduler from the package diffusers",
}
