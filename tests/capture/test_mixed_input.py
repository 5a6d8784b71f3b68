"""Prompts that are not text alone: images, learned prefixes and vectors are positions of their own kind."""

from typing import Any

import pytest
import torch
from peft import PrefixTuningConfig, PromptTuningConfig, get_peft_model
from torch import Tensor
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedModel,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
)

import gentrace
from tests.models import COMMON, prompt, tiny
from tests.oracle import distance

IMAGE = 96


def llava(kernel: str) -> tuple[PreTrainedModel, dict[str, Tensor]]:
    """A picture of nine patches inside two prompts, the second one padded."""
    torch.manual_seed(0)
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=2, image_size=12, patch_size=4
    )
    config = LlavaConfig(vision_config=vision, text_config=LlamaConfig(**COMMON), image_token_id=IMAGE)
    model = LlavaForConditionalGeneration._from_config(config, attn_implementation=kernel).eval()
    ids = torch.randint(3, 90, (2, 20))
    ids[0, 4:13] = ids[1, 6:15] = IMAGE
    mask = torch.ones_like(ids)
    mask[1, :3] = 0
    return model, {"input_ids": ids, "attention_mask": mask, "pixel_values": torch.randn(2, 3, 12, 12)}


def qwen2_vl(kernel: str) -> tuple[PreTrainedModel, dict[str, Tensor]]:
    """A picture of sixteen patches, merged to four positions."""
    torch.manual_seed(0)
    rope = {"rope_type": "default", "mrope_section": [2, 2, 2], "rope_theta": 1e4}
    vision = {
        "depth": 2,
        "embed_dim": 32,
        "hidden_size": 48,
        "num_heads": 2,
        "patch_size": 4,
        "mlp_ratio": 2,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    }
    config = Qwen2VLConfig(
        text_config=COMMON | {"rope_parameters": rope},
        vision_config=vision,
        image_token_id=IMAGE,
        video_token_id=95,
        vision_start_token_id=94,
        vision_end_token_id=93,
    )
    model = Qwen2VLForConditionalGeneration._from_config(config, attn_implementation=kernel).eval()
    ids = torch.randint(3, 90, (1, 12))
    ids[0, 2], ids[0, 3:7], ids[0, 7] = 94, IMAGE, 93
    return model, {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": torch.randn(16, 3 * 2 * 4 * 4),
        "image_grid_thw": torch.tensor([[1, 4, 4]]),
        "mm_token_type_ids": (ids == IMAGE).int(),
    }


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize("build", [llava, qwen2_vl])
def test_pictures(build: Any, kernel: str) -> None:
    model, inputs = build(kernel)
    with gentrace.record(model) as recorder:
        out = model.generate(**inputs, max_new_tokens=5, do_sample=False)
    model.set_attn_implementation("eager")
    for entry, trace in enumerate(recorder.traces):
        mask = torch.cat([inputs["attention_mask"], torch.ones(len(out), 4, dtype=torch.long)], 1)
        given = inputs | {"input_ids": out[:, :-1], "attention_mask": mask}
        if "mm_token_type_ids" in inputs:
            given["mm_token_type_ids"] = (given["input_ids"] == IMAGE).int()
        with torch.no_grad():
            output = model(**given, output_attentions=True, use_cache=False)
        own = mask[entry].bool()
        assert len(trace.layers) == len(output.attentions)
        for index, reference in enumerate(output.attentions):
            assert distance(trace.attention(index), reference[entry][:, own][:, :, own]) <= 1e-5
        logprobs = output.logits[entry, own].log_softmax(-1).gather(-1, trace.tokens.ids[1:, None])[:, 0]
        assert distance(trace.tokens.logprobs[1:], logprobs) <= 1e-4
        kinds = ["image" if token == IMAGE else "text" for token in trace.tokens.ids.tolist()]
        assert list(trace.tokens.kinds) == kinds
        assert kinds.count("image") == (9 if build is llava else 4)
        assert all(info.name.startswith("model.language_model") for info in trace.layers)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:Position ids are not supported")
@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize("method", [PrefixTuningConfig, PromptTuningConfig])
def test_learned_prefixes(method: Any, kernel: str) -> None:
    model = get_peft_model(tiny("llama", kernel), method(task_type="CAUSAL_LM", num_virtual_tokens=4)).eval()
    with torch.no_grad():
        for parameter in model.prompt_encoder.parameters():
            parameter.normal_()
    ids, mask = prompt(9, 2), torch.ones(2, 9, dtype=torch.long)
    mask[1, :3] = 0
    with gentrace.record(model) as recorder:
        out = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=5, do_sample=False)
    inner = model.get_base_model()
    inner.set_attn_implementation("eager")
    whole = torch.cat([mask, torch.ones(2, 4, dtype=torch.long)], 1)
    cached = method is PrefixTuningConfig
    for entry, trace in enumerate(recorder.traces):
        text = out[entry, int((mask[entry] == 0).sum()) :]
        own = torch.cat([torch.ones(4, dtype=torch.bool), whole[entry].bool()])
        assert trace.tokens.ids.tolist() == [-1] * 4 + text.tolist()
        assert trace.tokens.kinds == ("virtual",) * 4 + ("text",) * len(text)
        assert trace.tokens.prompt_length == 4 + int(mask[entry].sum())
        # With a learned prompt the library counts padding as positions, with a prefix it does not.
        alone = {"input_ids": text[None, :-1], "attention_mask": torch.ones(1, len(text) - 1, dtype=torch.long)}
        padded = {"input_ids": out[entry : entry + 1, :-1], "attention_mask": whole[entry : entry + 1]}
        with torch.no_grad():
            output = model(**alone if cached else padded, output_attentions=True, use_cache=cached)
        for index, reference in enumerate(output.attentions):
            found = trace.attention(index)
            if cached:
                # The prefix looks nowhere: it is keys without queries.
                assert bool(found[:, :4].isnan().all())
                found = found[:, 4:]
            assert distance(found, reference[0] if cached else reference[0][:, own][:, :, own]) <= 1e-5


def test_a_prompt_of_vectors() -> None:
    model, ids = tiny("llama"), prompt(6)
    vectors = model.get_input_embeddings()(ids).detach()
    with gentrace.record(model) as recorder:
        out = model.generate(inputs_embeds=vectors, max_new_tokens=4, do_sample=False)
    trace = recorder.trace
    assert trace.tokens.ids.tolist() == [-1] * 6 + out[0].tolist()
    assert trace.tokens.kinds == ("embedding",) * 6 + ("text",) * 4
    with gentrace.record(model) as recorder:
        model.generate(ids, max_new_tokens=4, do_sample=False)
    for layer in range(3):
        assert distance(trace.attention(layer), recorder.trace.attention(layer)) <= 1e-6
