"""Trains a bundled model, then proves that its heads show the structure that the demos rely on.

``--model translator`` is the encoder-decoder, whose training is `translator_training`; what follows is the story model.
Most rows are stories; in the others random tokens repeat with a random period, which nothing but an induction head can
predict. What is stored is float16; every printed figure is measured on the stored model after loading it again. The
exit code is 1 if no head reaches the previous-token or the induction threshold.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import translator_training
from demo_training import make_optimizers, rate_at, store
from story_corpus import BOYS, GIRLS, stories
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
from transformers.utils import logging

END = "<|endoftext|>"
TRAIN_SEED, VALIDATION_SEED, PROBE_SEED = 1, 2, 3
PREVIOUS_TOKEN_THRESHOLD, INDUCTION_THRESHOLD = 0.5, 0.4
PROMPTS = (
    "Maia is a cute little baby who likes to explore her world!",
    "Once upon a time",
    "One sunny day, Tom and Lily went to the river.",
    "Zorbina lost her silver key.",
)


@dataclass(frozen=True)
class Stage:
    """A part of the run: rows of one length; a share of them holds repeated random tokens."""

    steps: float
    """Share of all steps."""
    rows: int
    length: int
    random_share: float


@dataclass(frozen=True)
class Recipe:
    """Sizes and rates of one training run."""

    vocabulary: int = 1536
    context: int = 512
    width: int = 128
    position_width: int = 32
    layers: int = 4
    heads: int = 4
    training_stories: int = 40_000
    validation_stories: int = 400
    steps: int = 3000
    matrix_rate: float = 1e-2
    vector_rate: float = 3e-3
    seed: int = 0
    stages: tuple[Stage, ...] = (Stage(0.15, 64, 64, 0.6), Stage(0.25, 16, 256, 0.25), Stage(0.6, 8, 512, 0.125))


def train_tokenizer(texts: list[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE: any text can be encoded and decoded without loss."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
    )
    # A name that opens a text has no space before it; it must not fall to pieces there.
    tokenizer.train_from_iterator([*texts, *(GIRLS + BOYS) * 1000], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END,
        eos_token=END,
        pad_token=END,
        clean_up_tokenization_spaces=False,
    )


def encode(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> list[list[int]]:
    """The token ids of each text, closed by the end token."""
    end = tokenizer.convert_tokens_to_ids(END)
    return [[*ids, end] for ids in tokenizer(texts)["input_ids"]]


def story_row(encoded: list[list[int]], rng: random.Random, length: int) -> list[int]:
    """Whole stories one after another, the last one cut."""
    row: list[int] = encoded[0][-1:] if rng.random() < 0.25 else []
    while len(row) < length:
        row += rng.choice(encoded)
    return row[:length]


def repeated_row(generator: torch.Generator, vocabulary: int, period: int, length: int) -> torch.Tensor:
    """[position] random ordinary tokens that start again after every `period`."""
    block = torch.randint(1, vocabulary, (period,), generator=generator)
    return block.repeat(math.ceil(length / period))[:length]


@dataclass(frozen=True)
class Batch:
    """One training step; every field is [row, position]."""

    ids: torch.Tensor
    labels: torch.Tensor
    """The ids; -100 in the first copy of random tokens, which nothing can predict."""
    positions: torch.Tensor


def batches(encoded: list[list[int]], recipe: Recipe) -> Iterator[Batch]:
    """All batches of a run; a row shorter than the context starts at a random position."""
    rng = random.Random(recipe.seed)
    generator = torch.Generator().manual_seed(recipe.seed)
    for stage in recipe.stages:
        random_rows = round(stage.rows * stage.random_share)
        for _ in range(round(recipe.steps * stage.steps)):
            rows = [torch.tensor(story_row(encoded, rng, stage.length)) for _ in range(stage.rows - random_rows)]
            labels = list(rows)
            for _ in range(random_rows):
                period = rng.randint(4, stage.length // 2)
                row = repeated_row(generator, recipe.vocabulary, period, stage.length)
                rows.append(row)
                labels.append(row.masked_fill(torch.arange(stage.length) < period, -100))
            start = torch.randint(recipe.context - stage.length + 1, (stage.rows, 1), generator=generator)
            yield Batch(torch.stack(rows), torch.stack(labels), start + torch.arange(stage.length))


def new_model(recipe: Recipe, end: int) -> GPT2LMHeadModel:
    """An untrained GPT-2 in which position and content start in dimensions of their own."""
    config = GPT2Config(
        vocab_size=recipe.vocabulary,
        n_positions=recipe.context,
        n_embd=recipe.width,
        n_layer=recipe.layers,
        n_head=recipe.heads,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        initializer_range=0.05,
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
    )
    torch.manual_seed(recipe.seed)
    model = GPT2LMHeadModel(config)
    place_positions(model, recipe)
    return model


@torch.no_grad()
def place_positions(model: GPT2LMHeadModel, recipe: Recipe) -> None:
    """Gives positions a few dimensions of their own, and lets the first head start out looking one position back.

    Positions are waves; head 0 of layer 0 has them as its keys and, turned by one step, as its queries. This start was
    chosen, not learned: without it no such head formed within 750 steps. Training is free to undo it. Everything that
    builds on it, the induction heads first, is learned.
    """
    pairs = recipe.position_width // 2
    frequency = 2.5 * 25.0 ** (-torch.arange(pairs) / pairs)
    angle = torch.arange(recipe.context)[:, None] * frequency
    tokens, positions = model.transformer.wte.weight, model.transformer.wpe.weight
    tokens.mul_(2.0)[:, : 2 * pairs] = 0.0
    positions.zero_()[:, : 2 * pairs] = 0.2 * torch.cat([angle.sin(), angle.cos()], dim=1)
    sine, cosine = frequency.sin().diag(), frequency.cos().diag()
    turn = torch.cat([torch.cat([cosine, sine], dim=1), torch.cat([-sine, cosine], dim=1)])
    query, key, _ = model.transformer.h[0].attn.c_attn.weight.split(recipe.width, dim=1)
    for part, start in ((query, turn), (key, torch.eye(2 * pairs))):
        part[:, : 2 * pairs] = 0.0
        part[: 2 * pairs, : 2 * pairs] = 1.5 * start


def train(model: GPT2LMHeadModel, encoded: list[list[int]], recipe: Recipe) -> None:
    """Trains in place and prints the losses now and then."""
    optimizers = make_optimizers(model, [model.transformer.h], recipe.matrix_rate, recipe.vector_rate)
    schedules = [torch.optim.lr_scheduler.LambdaLR(o, lambda step: rate_at(step, recipe.steps)) for o in optimizers]
    model.train()
    started = time.perf_counter()
    for step, batch in enumerate(batches(encoded, recipe)):
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(input_ids=batch.ids, position_ids=batch.positions, use_cache=False).logits
        loss = cross_entropy(logits[:, :-1].flatten(0, 1).float(), batch.labels[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for part in (*optimizers, *schedules):
            part.step()
        model.zero_grad()
        if step % 100 == 0 or step == recipe.steps - 1:
            print(f"step {step:5d}  loss {loss.item():.3f}  {time.perf_counter() - started:5.0f} s", flush=True)
    model.eval()


@torch.no_grad()
def held_out_loss(model: GPT2LMHeadModel, encoded: list[list[int]]) -> float:
    """Mean negative log-likelihood, in nats a token, of whole stories."""
    total, count = 0.0, 0
    for ids in encoded:
        row = torch.tensor([ids[: model.config.n_positions]])
        logits = model(input_ids=row).logits
        total += cross_entropy(logits[0, :-1], row[0, 1:], reduction="sum").item()
        count += row.shape[1] - 1
    return total / count


@dataclass(frozen=True)
class HeadScores:
    """What every head does; each field is [layer, head], 0 … 1."""

    previous_token: torch.Tensor
    """Mean weight on the token before, over stories."""
    induction: torch.Tensor
    """Mean weight, from the second copy of random tokens, on what followed the first copy."""
    first_token: torch.Tensor
    """Mean weight on token 0, over stories."""


@torch.no_grad()
def head_scores(model: GPT2LMHeadModel, story_rows: torch.Tensor, random_rows: torch.Tensor) -> HeadScores:
    """Measures the heads of an eager model; `random_rows` hold each token sequence exactly twice."""

    def weights(rows: torch.Tensor) -> torch.Tensor:
        attentions = model(input_ids=rows, output_attentions=True).attentions
        return torch.stack(attentions).mean(1)

    text, repeated = weights(story_rows), weights(random_rows)
    period = random_rows.shape[1] // 2
    return HeadScores(
        previous_token=text.diagonal(-1, -2, -1).mean(-1),
        induction=repeated.diagonal(1 - period, -2, -1)[..., 1:].mean(-1),
        first_token=text[..., 1:, 0].mean(-1),
    )


def probe_rows(tokenizer: PreTrainedTokenizerFast, context: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Held-out rows that fill the context: stories, and random tokens repeated once."""
    rng = random.Random(PROBE_SEED)
    encoded = encode(tokenizer, stories(40, PROBE_SEED))
    generator = torch.Generator().manual_seed(PROBE_SEED)
    text = torch.tensor([story_row(encoded, rng, context) for _ in range(4)])
    rows = [repeated_row(generator, len(tokenizer), context // 2, context) for _ in range(4)]
    return text, torch.stack(rows)


def print_scores(scores: HeadScores) -> bool:
    """Prints the table; true if both thresholds are reached."""
    print("\nlayer head  previous  induction  first token")
    for layer, head in torch.cartesian_prod(*map(torch.arange, scores.induction.shape)).tolist():
        columns = [t[layer, head].item() for t in (scores.previous_token, scores.induction, scores.first_token)]
        print(f"{layer:5d} {head:4d}  {columns[0]:8.3f}  {columns[1]:9.3f}  {columns[2]:11.3f}")
    previous, induction = scores.previous_token.max().item(), scores.induction.max().item()
    print(f"best previous-token head {previous:.3f} (needs {PREVIOUS_TOKEN_THRESHOLD})")
    print(f"best induction head      {induction:.3f} (needs {INDUCTION_THRESHOLD})")
    return previous >= PREVIOUS_TOKEN_THRESHOLD and induction >= INDUCTION_THRESHOLD


def print_samples(model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast) -> None:
    """Greedy and sampled continuations of several prompts."""
    for prompt in PROMPTS:
        inputs = tokenizer(prompt, return_tensors="pt")
        for sample in (False, True):
            torch.manual_seed(0)
            output = model.generate(**inputs, max_new_tokens=150, do_sample=sample, top_p=0.95 if sample else None)
            print(f"\n[{'sampled' if sample else 'greedy'}] {tokenizer.decode(output[0], skip_special_tokens=True)}")


def report(folder: Path) -> bool:
    """Loads the stored model and prints all that is claimed of it; true if its heads pass."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    size = sum(file.stat().st_size for file in folder.iterdir())
    print(f"\n{model.num_parameters():,} parameters, {size / 1e6:.2f} MB on disk")
    loss = held_out_loss(model, encode(tokenizer, stories(Recipe.validation_stories, VALIDATION_SEED)))
    print(f"held-out loss {loss:.4f} nats a token, perplexity {math.exp(loss):.3f}")
    passed = print_scores(head_scores(model, *probe_rows(tokenizer, model.config.n_positions)))
    print_samples(model, tokenizer)
    return passed


def make(folder: Path, steps: int | None) -> None:
    """Trains the story model and stores it."""
    recipe = Recipe() if steps is None else Recipe(steps=steps)
    torch.set_num_threads(2)
    started = time.perf_counter()
    held_out = set(stories(recipe.validation_stories, VALIDATION_SEED))
    texts = [text for text in stories(recipe.training_stories, TRAIN_SEED) if text not in held_out]
    tokenizer = train_tokenizer(texts, recipe.vocabulary)
    encoded = encode(tokenizer, texts)
    print(f"{len(texts)} stories, {sum(map(len, encoded))} tokens, {time.perf_counter() - started:.0f} s")
    model = new_model(recipe, tokenizer.convert_tokens_to_ids(END))
    train(model, encoded, recipe)
    store(model, tokenizer, recipe.context, folder)
    print(f"trained and stored in {time.perf_counter() - started:.0f} s")


MODELS = {"story": (make, report), "translator": (translator_training.make, translator_training.report)}


def main() -> int:
    """Trains, stores, reports."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=MODELS, default="story")
    parser.add_argument("--out", type=Path, help="folder for the model; by default where gentrace keeps it")
    parser.add_argument("--steps", type=int, help="fewer or more than the recipe has")
    parser.add_argument("--report-only", action="store_true", help="measure a model that is already there")
    arguments = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.use_deterministic_algorithms(True)
    make_one, report_one = MODELS[arguments.model]
    folder = arguments.out or Path(__file__).parent.parent / "gentrace" / "demo" / arguments.model
    if not arguments.report_only:
        make_one(folder, arguments.steps)
    return 0 if report_one(folder) else 1


if __name__ == "__main__":
    sys.exit(main())
