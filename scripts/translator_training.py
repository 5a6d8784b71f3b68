"""Trains the bundled translator, and measures where its cross-attention looks.

Row p of the decoder predicts token p + 1, so it is *aligned* when it looks at the English that token p + 1 stands for;
the grammar that wrote the sentence knows which that is. One cross head (`HELPED`) is told this at the start: for the
first part of the run its negative log-weight on the aligned tokens is added to the loss, less and less, and then no
more. So the structure of that head was wished for. No other head is helped, and all are measured by the same rule.
"""

from __future__ import annotations

import random
import time
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from demo_training import make_optimizers, rate_at, store
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch.nn.functional import cross_entropy
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, BartConfig, BartForConditionalGeneration
from transformers import PreTrainedTokenizerFast as FastTokenizer
from translator_corpus import Writer, pairs
from translator_grammar import Pair, ends_of, text_of

START, END, PAD = "<s>", "</s>", "<pad>"
TRAIN_SEED, VALIDATION_SEED = 1, 2
HELPED = (1, 0)
"""Layer and head of the cross-attention that is helped."""
EXACT_THRESHOLD, ALIGNED_THRESHOLD = 0.97, 0.9
PROMPTS = (
    "She sees the small elephant.",
    "She wants to see the small elephant.",
    "He believes that the boy has opened the window.",
    "Does the queen give her sister a red flower?",
    "The rabbit quickly hopped. The turtle slowly crawled.",
)


@dataclass(frozen=True)
class Recipe:
    """Sizes and rates of one training run."""

    vocabulary: int = 1280
    context: int = 64
    width: int = 128
    inner: int = 256
    layers: int = 2
    heads: int = 4
    tokenizer_pairs: int = 20_000
    steps: int = 2300
    rows: int = 64
    helped_share: float = 0.5
    """Share of the steps during which the helped head is helped."""
    matrix_rate: float = 1e-2
    vector_rate: float = 3e-3
    seed: int = 0


def train_tokenizer(known: list[Pair], vocabulary: int) -> FastTokenizer:
    """One byte-level BPE for both languages, so that any text can be encoded; the end token closes each text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[START, PAD, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([text_of(side) for pair in known for side in (pair.english, pair.german)], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(f"$A {END}", special_tokens=[(END, 2)])
    return FastTokenizer(
        tokenizer_object=tokenizer,
        bos_token=START,
        eos_token=END,
        pad_token=PAD,
        clean_up_tokenization_spaces=False,
    )


@dataclass(frozen=True)
class Example:
    """A pair in tokens, both sides closed by the end token."""

    source: list[int]
    target: list[int]
    aligned: list[list[int]]
    """For each target token, the source tokens that it stands for; the end token stands for the end token."""


def encode(tokenizer: FastTokenizer, pair: Pair) -> Example:
    """The tokens of a pair, and which of them belong together."""
    source, source_words = _tokens(tokenizer, pair.english)
    target, target_words = _tokens(tokenizer, pair.german)
    of_word: dict[int, list[int]] = {}
    for token, number in enumerate(source_words):
        of_word.setdefault(number, []).append(token)
    words = [pair.aligned(number) for number in range(len(pair.german))] + [[len(pair.english)]]
    aligned = [[token for english in words[number] for token in of_word[english]] for number in target_words]
    return Example(source, target, aligned)


def _tokens(tokenizer: FastTokenizer, words: tuple) -> tuple[list[int], list[int]]:
    """Token ids, and for each the number of its word; the end token is one word more."""
    encoded = tokenizer(text_of(words), return_offsets_mapping=True)
    ends = ends_of(words)
    numbers = [bisect_left(ends, end) for _, end in encoded["offset_mapping"][:-1]]
    return encoded["input_ids"], [*numbers, len(words)]


@dataclass(frozen=True)
class Batch:
    """One training step."""

    source: torch.Tensor
    """[row, key] English ids, padded."""
    mask: torch.Tensor
    """[row, key] 1 where there is a token."""
    given: torch.Tensor
    """[row, query] what the decoder reads: the start token and the German."""
    labels: torch.Tensor
    """[row, query] the German and the end token; -100 beyond."""
    aligned: torch.Tensor
    """[row, query, key] whether the query should look there."""


def collate(examples: list[Example], start: int, pad: int) -> Batch:
    """Pads examples to one length."""
    keys = max(len(example.source) for example in examples)
    queries = max(len(example.target) for example in examples)
    source = torch.full((len(examples), keys), pad)
    given, labels = torch.full((len(examples), queries), pad), torch.full((len(examples), queries), -100)
    aligned = torch.zeros(len(examples), queries, keys, dtype=torch.bool)
    for row, example in enumerate(examples):
        length = len(example.target)
        source[row, : len(example.source)] = torch.tensor(example.source)
        given[row, :length] = torch.tensor([start, *example.target[:-1]])
        labels[row, :length] = torch.tensor(example.target)
        cells = [(query, key) for query, found in enumerate(example.aligned) for key in found]
        aligned[row, [query for query, _ in cells], [key for _, key in cells]] = True
    return Batch(source, (source != pad).long(), given, labels, aligned)


def batches(tokenizer: FastTokenizer, held_out: set[str], recipe: Recipe) -> Iterator[Batch]:
    """All batches of a run, each of sentences about as long; no held-out sentence is among them."""
    rng, writer = random.Random(recipe.seed), Writer(TRAIN_SEED)
    start, pad = tokenizer.bos_token_id, tokenizer.pad_token_id
    waiting: list[list[Example]] = []
    for _ in range(recipe.steps):
        if not waiting:
            fresh = (writer.pair() for _ in range(recipe.rows * 16 + len(held_out)))
            kept = [pair for pair in fresh if text_of(pair.english) not in held_out][: recipe.rows * 16]
            examples = sorted((encode(tokenizer, pair) for pair in kept), key=lambda one: len(one.target))
            waiting = [examples[at : at + recipe.rows] for at in range(0, len(examples), recipe.rows)]
            rng.shuffle(waiting)
        yield collate(waiting.pop(), start, pad)


def new_model(recipe: Recipe, tokenizer: FastTokenizer) -> BartForConditionalGeneration:
    """An untrained BART, small."""
    config = BartConfig(
        vocab_size=recipe.vocabulary,
        max_position_embeddings=recipe.context,
        d_model=recipe.width,
        encoder_layers=recipe.layers,
        decoder_layers=recipe.layers,
        encoder_attention_heads=recipe.heads,
        decoder_attention_heads=recipe.heads,
        encoder_ffn_dim=recipe.inner,
        decoder_ffn_dim=recipe.inner,
        dropout=0.0,
        init_std=0.05,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        decoder_start_token_id=tokenizer.bos_token_id,
        forced_eos_token_id=None,
    )
    torch.manual_seed(recipe.seed)
    model = BartForConditionalGeneration(config)
    model.generation_config.max_new_tokens = recipe.context - 1
    return model


def help_loss(cross: tuple[torch.Tensor, ...], batch: Batch) -> torch.Tensor:
    """Mean negative log-weight, in nats, of the helped head on the tokens that it should look at."""
    layer, head = HELPED
    weight = (cross[layer][:, head].float() * batch.aligned).sum(-1)
    return -(weight[batch.aligned.any(-1)] + 1e-6).log().mean()


def train(model: BartForConditionalGeneration, steps: Iterator[Batch], recipe: Recipe) -> None:
    """Trains in place and prints the losses now and then."""
    blocks = [model.model.encoder.layers, model.model.decoder.layers]
    optimizers = make_optimizers(model, blocks, recipe.matrix_rate, recipe.vector_rate)
    schedules = [torch.optim.lr_scheduler.LambdaLR(o, lambda step: rate_at(step, recipe.steps)) for o in optimizers]
    helped = round(recipe.steps * recipe.helped_share)
    model.train()
    started = time.perf_counter()
    for step, batch in enumerate(steps):
        helping = step < helped
        model.set_attn_implementation("eager" if helping else "sdpa")
        with torch.autocast("cpu", torch.bfloat16):
            output = model(
                input_ids=batch.source,
                attention_mask=batch.mask,
                decoder_input_ids=batch.given,
                output_attentions=helping,
                use_cache=False,
            )
        loss = cross_entropy(output.logits.flatten(0, 1).float(), batch.labels.flatten())
        whole = loss + (1 - step / helped) * help_loss(output.cross_attentions, batch) if helping else loss
        whole.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for part in (*optimizers, *schedules):
            part.step()
        model.zero_grad()
        if step % 100 == 0 or step == recipe.steps - 1:
            print(f"step {step:5d}  loss {loss.item():.4f}  {time.perf_counter() - started:5.0f} s", flush=True)
    model.eval()


@torch.no_grad()
def translations(model: BartForConditionalGeneration, tokenizer: FastTokenizer, texts: list[str]) -> list[str]:
    """Greedy translations, fifty at a time."""
    found: list[str] = []
    for at in range(0, len(texts), 50):
        inputs = tokenizer(texts[at : at + 50], padding=True, return_tensors="pt")
        output = model.generate(**inputs, do_sample=False, num_beams=1)
        found += tokenizer.batch_decode(output, skip_special_tokens=True)
    return found


@torch.no_grad()
def aligned_rows(model: BartForConditionalGeneration, examples: list[Example]) -> torch.Tensor:
    """[layer, head] share of the rows of an eager model whose strongest weight is on an aligned token, 0 … 1.

    A row that should look nowhere (the comma that only German has) does not count.
    """
    hits, rows = torch.zeros(model.config.decoder_layers, model.config.decoder_attention_heads), 0
    for at in range(0, len(examples), 50):
        batch = collate(examples[at : at + 50], model.config.decoder_start_token_id, model.config.pad_token_id)
        cross = model(
            input_ids=batch.source,
            attention_mask=batch.mask,
            decoder_input_ids=batch.given,
            output_attentions=True,
        ).cross_attentions
        strongest = torch.stack(cross).argmax(-1)
        wanted = batch.aligned[:, None].expand(-1, strongest.shape[2], -1, -1)
        counts = batch.aligned.any(-1)
        for layer, keys in enumerate(strongest):
            hit = wanted.gather(-1, keys[..., None])[..., 0] & counts[:, None]
            hits[layer] += hit.sum((0, 2))
        rows += int(counts.sum())
    return hits / rows


def report(folder: Path, count: int = 400) -> bool:
    """Loads the stored model and prints all that is claimed of it; true if it passes."""
    model = AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    size = sum(file.stat().st_size for file in folder.iterdir())
    print(f"\n{model.num_parameters():,} parameters, {size / 1e6:.2f} MB on disk")
    held_out = pairs(count, VALIDATION_SEED)
    found = translations(model, tokenizer, [text_of(pair.english) for pair in held_out])
    wanted = [text_of(pair.german) for pair in held_out]
    wrong = [(one, other) for one, other in zip(wanted, found, strict=True) if one != other]
    exact = 1 - len(wrong) / count
    print(f"held-out sentences exactly right: {exact:.3f} of {count} (needs {EXACT_THRESHOLD})")
    for one, other in wrong[:8]:
        print(f"  wanted  {one}\n  wrote   {other}")
    aligned = aligned_rows(model, [encode(tokenizer, pair) for pair in held_out])
    print("\ncross-attention: share of rows that look most at what they are about to translate")
    for layer, head in torch.cartesian_prod(*map(torch.arange, aligned.shape)).tolist():
        note = f"  helped at the start (needs {ALIGNED_THRESHOLD})" if (layer, head) == HELPED else ""
        print(f"layer {layer} head {head}  {aligned[layer, head]:.3f}{note}")
    for prompt, text in zip(PROMPTS, translations(model, tokenizer, list(PROMPTS)), strict=True):
        print(f"\n{prompt}\n{text}")
    return exact >= EXACT_THRESHOLD and aligned[HELPED].item() >= ALIGNED_THRESHOLD


def make(folder: Path, steps: int | None) -> None:
    """Trains and stores."""
    recipe = Recipe() if steps is None else Recipe(steps=steps)
    torch.set_num_threads(1)
    started = time.perf_counter()
    held_out = {text_of(pair.english) for pair in pairs(400, VALIDATION_SEED)}
    tokenizer = train_tokenizer(pairs(recipe.tokenizer_pairs, TRAIN_SEED), recipe.vocabulary)
    print(f"tokenizer trained in {time.perf_counter() - started:.0f} s")
    model = new_model(recipe, tokenizer)
    train(model, batches(tokenizer, held_out, recipe), recipe)
    store(model, tokenizer, recipe.context, folder)
    print(f"trained and stored in {time.perf_counter() - started:.0f} s")
