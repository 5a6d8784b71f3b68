"""Encoder-decoder models and encoders: each kind of attention equals transformers' own, whatever was padded."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AlbertConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSpeechSeq2Seq,
    BartConfig,
    BertConfig,
    BertLMHeadModel,
    DistilBertConfig,
    ElectraConfig,
    EncoderDecoderConfig,
    EncoderDecoderModel,
    MarianConfig,
    MBartConfig,
    ModernBertConfig,
    PegasusConfig,
    PreTrainedModel,
    RobertaConfig,
    T5Config,
    WhisperConfig,
)

import gentrace
from tests.oracle import distance

BART: dict[str, Any] = {
    "vocab_size": 97,
    "d_model": 48,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
    "forced_eos_token_id": None,
}
BERT: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
TRANSLATORS = {
    "bart": BartConfig(**BART),
    "marian": MarianConfig(**BART),
    "pegasus": PegasusConfig(**BART),
    "mbart": MBartConfig(**BART),
    "t5": T5Config(
        vocab_size=97, d_model=48, d_kv=12, d_ff=64, num_layers=3, num_heads=4, decoder_start_token_id=0, eos_token_id=2
    ),
    "whisper": WhisperConfig(
        **BART
        | {
            "max_source_positions": 20,
            "max_target_positions": 64,
            "num_mel_bins": 8,
            "begin_suppress_tokens": None,
            "suppress_tokens": None,
        }
    ),
}
ENCODERS = {
    "bert": BertConfig(**BERT),
    "roberta": RobertaConfig(**BERT),
    "distilbert": DistilBertConfig(vocab_size=97, dim=48, n_layers=3, n_heads=4, hidden_dim=64, pad_token_id=0),
    "modernbert": ModernBertConfig(
        **BERT | {"cls_token_id": 1, "sep_token_id": 2, "bos_token_id": 1, "eos_token_id": 2}, local_attention=6
    ),
    "albert": AlbertConfig(**BERT, embedding_size=16),
    "electra": ElectraConfig(**BERT, embedding_size=16),
}


def sharpened(model: PreTrainedModel, factor: float) -> PreTrainedModel:
    """The model with larger weights, so that attention has a shape."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(factor)
    return model.eval()


def translator(name: str, kernel: str) -> PreTrainedModel:
    torch.manual_seed(0)
    family = AutoModelForSpeechSeq2Seq if name == "whisper" else AutoModelForSeq2SeqLM
    model = family.from_config(TRANSLATORS[name], attn_implementation=kernel)
    # T5 does not scale its scores, so they would be hundreds, and float32 keeps only seven digits.
    return sharpened(model, 2.0 if name == "t5" else 4.0)


def encoder(name: str, kernel: str) -> PreTrainedModel:
    torch.manual_seed(0)
    return sharpened(AutoModelForMaskedLM.from_config(ENCODERS[name], attn_implementation=kernel), 4.0)


def source(name: str) -> dict[str, Tensor]:
    """Two inputs, the second of them shorter and padded on the right."""
    generator = torch.Generator().manual_seed(0)
    if name == "whisper":
        return {"input_features": torch.randn(2, 8, 40, generator=generator)}
    ids = torch.randint(3, 97, (2, 9), generator=generator)
    mask = torch.tensor([[1] * 9, [1] * 6 + [0] * 3])
    return {"input_ids": ids.masked_fill(mask == 0, 0), "attention_mask": mask}


def alone(inputs: dict[str, Tensor], entry: int) -> dict[str, Tensor]:
    """One of the inputs, without its padding."""
    if "input_features" in inputs:
        return {"input_features": inputs["input_features"][entry : entry + 1]}
    kept = inputs["attention_mask"][entry].bool()
    return {name: tensor[entry : entry + 1, kept] for name, tensor in inputs.items()}


def check(trace: gentrace.Trace, model: PreTrainedModel, inputs: dict[str, Tensor]) -> None:
    """Compare all three kinds with one eager forward over the trace's own text."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    with torch.no_grad():
        ids = trace.tokens.ids[None, : trace.length]
        output = model(**inputs, decoder_input_ids=ids, output_attentions=True, use_cache=False)
    model.set_attn_implementation(before)
    expected = {
        "self": output.decoder_attentions,
        "cross": output.cross_attentions,
        "encoder": output.encoder_attentions,
    }
    for kind, layers in expected.items():
        assert [info.index for info in trace.layers if info.kind == kind] == list(range(len(layers)))
        for index, reference in enumerate(layers):
            assert distance(trace.attention(index, kind=kind), reference[0]) <= 1e-5
            assert distance(trace.scores(index, 1, kind=kind).softmax(-1), reference[0, 1]) <= 1e-5
    count = min(trace.length, len(trace.tokens) - 1)
    logprobs = output.logits[0].log_softmax(-1)[:count].gather(-1, trace.tokens.ids[1:, None])
    assert distance(trace.tokens.logprobs[1:], logprobs[:, 0]) <= 1e-4
    assert trace.fidelity.error <= 1e-5
    assert set(trace.fidelity.cross) == set(trace.fidelity.layers)


@pytest.mark.usefixtures("large_or_small")
@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"use_cache": False}], ids=["greedy", "beams", "no-cache"])
@pytest.mark.parametrize("name", TRANSLATORS)
def test_encoder_decoders(name: str, options: dict[str, Any], kernel: str) -> None:
    model, inputs = translator(name, kernel), source(name)
    with gentrace.record(model) as recorder:
        model.generate(**inputs, max_new_tokens=5, min_new_tokens=5, do_sample=False, **options)
    assert len(recorder.traces) == 2
    for entry, trace in enumerate(recorder.traces):
        own = alone(inputs, entry)
        check(trace, model, own)
        assert trace.encoder_tokens is not None
        assert trace.encoder_length == len(trace.encoder_tokens)
        ids = own["input_ids"][0].tolist() if "input_ids" in own else [-1] * trace.encoder_length
        assert trace.encoder_tokens.ids.tolist() == ids
        assert trace.attention(0, kind="cross").shape == (4, trace.length, trace.encoder_length)


@torch.no_grad()
def test_one_forward_of_a_finished_translation_gives_the_same_trace() -> None:
    model, inputs = translator("bart", "sdpa"), alone(source("bart"), 0)
    with gentrace.record(model) as recorder:
        out = model.generate(**inputs, max_new_tokens=5, do_sample=False)
        model(**inputs, decoder_input_ids=out[:, :-1])
    generated, read = recorder.traces
    for kind in ("self", "cross", "encoder"):
        assert distance(read.attention(1, kind=kind), generated.attention(1, kind=kind)) <= 1e-6
    assert distance(read.tokens.logprobs[1:], generated.tokens.logprobs[1:-1]) <= 1e-5


@torch.no_grad()
def test_an_encoder_that_ran_before() -> None:
    model, inputs = translator("bart", "sdpa"), alone(source("bart"), 0)
    with gentrace.record(model) as recorder:
        states = model.get_encoder()(**inputs)
        model.generate(encoder_outputs=states, max_new_tokens=4, do_sample=False)
    check(recorder.trace, model, inputs)
    # One that ran before recording is not known, but its keys are.
    states = model.get_encoder()(**inputs)
    with gentrace.record(model) as recorder:
        model.generate(encoder_outputs=states, max_new_tokens=4, do_sample=False)
    trace = recorder.trace
    assert trace.encoder_tokens is not None
    assert trace.encoder_tokens.ids.tolist() == [-1] * 9
    assert trace.attention(0, kind="cross").shape == (4, trace.length, 9)
    with pytest.raises(gentrace.AttentionUnavailable, match="encoder attention of layer 0"):
        trace.attention(0, kind="encoder")


def test_two_models_joined() -> None:
    joined = EncoderDecoderConfig.from_encoder_decoder_configs(BertConfig(**BERT), BertConfig(**BERT))
    joined.decoder_start_token_id, joined.pad_token_id = 1, 0
    torch.manual_seed(0)
    model = sharpened(EncoderDecoderModel(config=joined), 4.0)
    inputs = alone(source("bart"), 0)
    with gentrace.record(model) as recorder:
        model.generate(**inputs, max_new_tokens=4, do_sample=False)
    check(recorder.trace, model, inputs)


@pytest.mark.usefixtures("large_or_small")
@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ENCODERS)
def test_encoders(name: str, kernel: str) -> None:
    model, inputs = encoder(name, kernel), source(name)
    with gentrace.record(model) as recorder, torch.no_grad():
        model(**inputs)
    for entry, trace in enumerate(recorder.traces):
        own = alone(inputs, entry)
        model.set_attn_implementation("eager")
        with torch.no_grad():
            expected = model(**own, output_attentions=True).attentions
        assert trace.tokens.ids.tolist() == own["input_ids"][0].tolist()
        assert [info.index for info in trace.layers] == [0, 1, 2]
        for index, reference in enumerate(expected):
            assert distance(trace.attention(index), reference[0]) <= 1e-5
        # Nothing predicts a token from the one before it.
        assert bool(trace.tokens.logprobs.isnan().all())
        assert trace.attention(0)[:, 0, -1].min() > 0
        assert trace.fidelity.error <= 1e-5


def test_a_pair_of_sentences() -> None:
    model = encoder("bert", "sdpa")
    ids, mask = source("bert")["input_ids"], source("bert")["attention_mask"]
    segments = torch.tensor([[0] * 4 + [1] * 5, [0] * 3 + [1] * 3 + [0] * 3])
    with gentrace.record(model) as recorder, torch.no_grad():
        model(input_ids=ids, attention_mask=mask, token_type_ids=segments)
    first, second = recorder.traces
    assert first.segments is not None
    assert second.segments is not None
    assert first.segments.tolist() == [0] * 4 + [1] * 5
    assert second.segments.tolist() == [0] * 3 + [1] * 3
    with gentrace.record(model) as recorder, torch.no_grad():
        model(input_ids=ids[:1])
    assert recorder.trace.segments is None


def test_files_hold_encoders_too(tmp_path: Path) -> None:
    model, inputs = translator("bart", "sdpa"), source("bart")
    with gentrace.record(model, values=True) as recorder:
        model.generate(**inputs, max_new_tokens=4, do_sample=False, num_beams=2)
    trace = recorder.traces[1]
    trace.save(tmp_path / "t.safetensors")
    loaded = gentrace.load(tmp_path / "t.safetensors")
    for kind in ("self", "cross", "encoder"):
        # Products of the same numbers at other strides may differ in the last bit.
        assert distance(loaded.attention(1, kind=kind), trace.attention(1, kind=kind)) <= 1e-6
        assert torch.equal(loaded.keys(1, kind=kind), trace.keys(1, kind=kind))
        assert torch.equal(loaded.values(0, kind=kind), trace.values(0, kind=kind))
    assert loaded.encoder_tokens is not None
    assert trace.encoder_tokens is not None
    assert loaded.encoder_tokens.ids.tolist() == trace.encoder_tokens.ids.tolist()
    assert loaded.beams == trace.beams
    assert loaded.fidelity.error == trace.fidelity.error
    loaded.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "t.safetensors").read_bytes()


def test_a_bare_encoder_model_without_a_head() -> None:
    torch.manual_seed(0)
    model = AutoModel.from_config(BertConfig(**BERT)).eval()
    with gentrace.record(model) as recorder, torch.no_grad():
        model(torch.randint(3, 97, (1, 7)))
    assert recorder.trace.attention(2).shape == (4, 7, 7)
    assert distance(recorder.trace.attention(2).sum(-1), torch.ones(4, 7)) <= 1e-5


@torch.no_grad()
@pytest.mark.parametrize("name", ["bart", "t5"])
def test_cross_attention_is_told_apart_where_lengths_are_equal(name: str) -> None:
    model = translator(name, "sdpa")
    ids = torch.randint(3, 97, (1, 6), generator=torch.Generator().manual_seed(1))
    states = model.get_encoder()(ids)
    with gentrace.record(model) as recorder:
        # The encoder ran before recording, and both texts have six tokens.
        model(encoder_outputs=states, decoder_input_ids=ids)
    trace = recorder.trace
    model.set_attn_implementation("eager")
    output = model(encoder_outputs=states, decoder_input_ids=ids, output_attentions=True)
    for index in range(3):
        assert distance(trace.attention(index), output.decoder_attentions[index][0]) <= 1e-5
        assert distance(trace.attention(index, kind="cross"), output.cross_attentions[index][0]) <= 1e-5


@torch.no_grad()
def test_a_decoder_that_is_given_states() -> None:
    torch.manual_seed(0)
    config = BertConfig(**BERT, is_decoder=True, add_cross_attention=True)
    model = sharpened(BertLMHeadModel(config), 4.0)
    ids, states = torch.randint(3, 97, (1, 5)), torch.randn(1, 5, 48)
    with gentrace.record(model) as recorder:
        model(ids, encoder_hidden_states=states)
    assert [(info.kind, info.index) for info in recorder.trace.layers] == [
        (kind, index) for kind in ("self", "cross") for index in range(3)
    ]
    model.set_attn_implementation("eager")
    output = model(ids, encoder_hidden_states=states, output_attentions=True)
    for index in range(3):
        assert distance(recorder.trace.attention(index, kind="cross"), output.cross_attentions[index][0]) <= 1e-5
