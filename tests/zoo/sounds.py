"""What the types that hear need beyond the table of sizes: audio parts are the largest and the most particular."""

from typing import Any

from tests.zoo.sizes import HEADS, HIDDEN, LAYERS, PAD, VOCAB

CONVOLUTIONS: dict[str, Any] = {
    "conv_dim": (16, 16),
    "conv_kernel": (8, 4),
    "conv_stride": (4, 4),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 4,
    "apply_spec_augment": False,
}
TOKENIZER: dict[str, Any] = {"depths": (1, 1), "downsampling_ratios": (2,), "num_filters": 4, "hidden_size": 8}
SEAMLESS: dict[str, Any] = {
    "feature_projection_input_dim": 16,
    "speech_encoder_intermediate_size": 64,
    "adaptor_kernel_size": 4,
    "adaptor_stride": 4,
    "conv_depthwise_kernel_size": 3,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 4,
    "t2u_encoder_ffn_dim": 64,
    "t2u_decoder_ffn_dim": 64,
    "t2u_vocab_size": VOCAB,
    "t2u_max_position_embeddings": 128,
    "unit_hifi_gan_vocab_size": VOCAB,
    "unit_embed_dim": 16,
    "lang_embed_dim": 16,
    "spkr_embed_dim": 16,
    "vocoder_num_langs": 4,
    "vocoder_num_spkrs": 4,
    "upsample_initial_channel": 32,
}

SOUNDS: dict[str, dict[str, Any]] = {
    "audioflamingo3_encoder": {"max_source_positions": 32},
    "canary": {"vocab_size": VOCAB},
    "dia_decoder": {
        "num_channels": 3,
        "eos_token_id": VOCAB - 3,
        "pad_token_id": VOCAB - 2,
        "bos_token_id": VOCAB - 1,
        "cross_hidden_size": HIDDEN,
    },
    "dia": {
        "delay_pattern": [0, 1, 2],
        "eos_token_id": VOCAB - 3,
        "pad_token_id": VOCAB - 2,
        "bos_token_id": VOCAB - 1,
    },
    "fun_asr_nano": {"adaptor_config": {"intermediate_size": HIDDEN // 4, "projector_hidden_size": 64}},
    "fun_asr_nano_encoder": {"num_stacked_frames": 2, "num_timestamp_prediction_layers": 1},
    "granite_speech_encoder": {"context_size": 8, "max_pos_emb": 16, "input_dim": 16, "dim_head": 12},
    "granite_speech_plus_encoder": {"context_size": 8, "max_pos_emb": 16, "input_dim": 16, "dim_head": 12},
    "kyutai_speech_to_text": {
        "codebook_vocab_size": 33,
        "num_codebooks": 2,
        "audio_bos_token_id": 32,
        "audio_pad_token_id": VOCAB + 2 * 33,
        "frame_size": 16,
    },
    "mimi": {
        "num_filters": 4,
        "codebook_dim": 16,
        "vector_quantization_hidden_dimension": 16,
        "upsample_groups": HIDDEN,
        "num_quantizers": 2,
        "upsampling_ratios": [4, 2],
        "sampling_rate": 1600,
        "num_key_value_heads": HEADS,
    },
    "moonshine": {
        "hidden_size": 64,
        "encoder_num_key_value_heads": HEADS,
        "decoder_num_key_value_heads": HEADS,
    },
    "moonshine_streaming": {"hidden_size": 64, "num_key_value_heads": HEADS},
    "moonshine_streaming_encoder": {"hidden_size": 64, "sliding_windows": [[6, 2]] * LAYERS},
    "nemotron3_5_transcribe_word_timestamp": {"vocab_size": VOCAB, "blank_token_id": VOCAB - 1},
    "parakeet_encoder": {"subsampling_conv_channels": 8, "num_key_value_heads": HEADS},
    "pop2piano": {"composer_vocab_size": 1},
    "seamless_m4t": SEAMLESS,
    "seamless_m4t_v2": SEAMLESS
    | {
        "char_vocab_size": VOCAB,
        "t2u_variance_predictor_embed_dim": 16,
        "t2u_variance_predictor_hidden_dim": 16,
    },
    "speech_to_text": {"conv_channels": 16},
    "speecht5": CONVOLUTIONS
    | {
        "encoder_max_relative_position": 8,
        "speaker_embedding_dim": 16,
        "speech_decoder_prenet_units": 16,
        "speech_decoder_postnet_units": 16,
    },
    "vibevoice_acoustic_tokenizer": TOKENIZER,
    "vibevoice_acoustic_tokenizer_encoder": TOKENIZER,
    "voxtral_realtime": {"audio_length_per_tok": 8, "hidden_size": HIDDEN},
    "wav2vec2": CONVOLUTIONS | {"output_hidden_size": HIDDEN, "tdnn_dim": (16, 16, 16, 16, 16)},
    "whisper": {"max_source_positions": 32, "begin_suppress_tokens": None, "pad_token_id": PAD},
}
