"""What transformers itself says a generation looked at, without any of gentrace's code.

Two witnesses: one full forward over the whole text, without a cache; and the fragments of generate's own forwards, put
together by hand. A full forward only counts where it agrees with generate about the logits: some models treat a text
differently when it comes at once.
"""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from gentrace.trace.info import Kind

AGREES = 2e-4
Inputs = dict[str, Any]


class NoOracleError(Exception):
    """transformers does not say what the generation looked at."""


@dataclass(frozen=True, slots=True, eq=False)
class Fragment:
    """What one forward showed."""

    attentions: dict[Kind, list[Tensor]]
    """Per layer ``[batch, head, query, key]``."""
    logits: Tensor | None


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """What one sequence looked at."""

    witness: str
    matrices: dict[Kind, list[Tensor]]
    """Per layer ``[head, query, key]``, without padding."""
    logits: Tensor | None
    """``[position, vocab]``, NaN in rows that nobody computed; None where logits are not one row a position."""


@dataclass(frozen=True, slots=True, eq=False)
class Generated:
    """What ``model.generate`` was given and returned."""

    inputs: Inputs
    sequences: Tensor
    """[batch, column] prompts and what was written."""
    logits: Tensor
    """[batch, step, vocab] as the model computed them."""


def generate(model: PreTrainedModel, inputs: Inputs, new: int) -> Generated:
    """Write ``new`` tokens greedily."""
    options = {"max_new_tokens": new, "min_new_tokens": new, "do_sample": False, "num_beams": 1}
    result = model.generate(**inputs, **options, return_dict_in_generate=True, output_logits=True)
    return Generated(inputs, result.sequences, torch.stack(result.logits, 1))


def full_reference(model: PreTrainedModel, done: Generated, row: int) -> Reference | None:
    """The first full forward that agrees with generate about the logits of sequence ``row``; None if none does."""
    for witness, inputs, keep in _ways(model, done, row):
        try:
            fragment = forward(model, inputs)
        except (TypeError, ValueError, RuntimeError, IndexError):
            continue
        if fragment.logits is None or fragment.logits.dim() != 3:
            continue
        place = 0 if len(fragment.logits) == 1 else row
        logits, written = fragment.logits[place], done.logits[row]
        if logits[-len(written) :].shape == written.shape and _near(logits[-len(written) :], written):
            shown = {kind: [layer[place] for layer in layers] for kind, layers in fragment.attentions.items()}
            return Reference(witness, _cut(shown, keep, encoder_columns(done.inputs, row)), _cut_rows(logits, keep))
    return None


def stitched_reference(model: PreTrainedModel, done: Generated, new: int, row: int) -> Reference:
    """The fragments of generate's own forwards, put together.

    Raises:
        NoOracleError: If generate writes something else, or its fragments fit into no matrix.
    """
    with fragments(model) as shown:
        again = generate(model, done.inputs, new)
    same = again.logits.shape == done.logits.shape and _near(again.logits[row], done.logits[row])
    if not same:
        raise NoOracleError("generate writes another text with eager attention")
    keep = None if is_encoder_decoder(model) else text_columns(done.inputs, row, extra=len(again.logits[row]) - 1)
    matrices = {kind: stitch(shown, kind, row) for kind in kinds_of(shown)}
    count = next((layers[0].shape[-2] for kind, layers in matrices.items() if kind == "self" and layers), 0)
    written = again.logits[row]
    logits = written.new_full((count, written.shape[-1]), torch.nan) if written.dim() == 2 else None
    if logits is not None and count >= len(written):
        logits[-len(written) :] = written
        logits = _cut_rows(logits, keep)
    return Reference("fragments", _cut(matrices, keep, encoder_columns(done.inputs, row)), logits)


def plain_references(model: PreTrainedModel, inputs: Inputs) -> list[Reference]:
    """One plain forward, sequence by sequence."""
    fragment = forward(model, inputs)
    references = []
    for row in range(len(next(iter(inputs.values())))):
        keep = encoder_columns(inputs, row)
        text = None if is_encoder_decoder(model) else keep
        shown = {kind: [layer[row] for layer in layers] for kind, layers in fragment.attentions.items()}
        logits = None if fragment.logits is None else _cut_rows(fragment.logits[row], text)
        references.append(Reference("the same forward", _cut(shown, text, keep), logits))
    return references


def is_encoder_decoder(model: PreTrainedModel) -> bool:
    """Whether the model writes into a decoder of its own."""
    return bool(model.config.is_encoder_decoder)


@torch.no_grad()
def forward(model: PreTrainedModel, inputs: Inputs) -> Fragment:
    """One forward without a cache that returns attention."""
    cacheless = {"use_cache": False} if _takes(model, "use_cache") else {}
    return _read(model(**inputs, **cacheless, output_attentions=True))


@contextmanager
def fragments(model: PreTrainedModel) -> Iterator[list[Fragment]]:
    """Collect the attention of every forward of the model and of its encoder."""
    shown: list[Fragment] = []
    encoder = model.get_encoder() if is_encoder_decoder(model) else None

    def ask(module: nn.Module, args: tuple[Any, ...], kwargs: Inputs) -> tuple[tuple[Any, ...], Inputs]:
        return args, kwargs | {"output_attentions": True}

    def keep(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        fragment = _read(output)
        if module is encoder:
            fragment = Fragment({"encoder": fragment.attentions.get("self", [])}, None)
        shown.append(fragment)

    hooks = []
    for module in {id(part): part for part in (model, encoder) if isinstance(part, nn.Module)}.values():
        if _takes(module, "output_attentions"):
            hooks.append(module.register_forward_pre_hook(ask, with_kwargs=True))
            hooks.append(module.register_forward_hook(keep))
    try:
        yield shown
    finally:
        for hook in hooks:
            hook.remove()


def kinds_of(shown: list[Fragment]) -> list[Kind]:
    """The kinds of attention that any forward showed."""
    return list(dict.fromkeys(kind for fragment in shown for kind, layers in fragment.attentions.items() if layers))


def stitch(shown: list[Fragment], kind: Kind, row: int) -> list[Tensor]:
    """Put one sequence's fragments together, layer by layer ``[head, query, key]``.

    A fragment's keys are the newest ones; where it has more than there are positions, the rest is unused capacity.
    Where a layer computed fewer rows than others, the earliest are NaN.

    Raises:
        NoOracleError: If there is no such matrix.
    """
    steps = [fragment.attentions[kind] for fragment in shown if fragment.attentions.get(kind)]
    if kind == "encoder":
        return [layer[row] for layer in steps[0]]
    odd = next((block for step in steps for block in step if block.dim() != 4), None)
    if odd is not None:
        raise NoOracleError(f"attention of shape {tuple(odd.shape)}")
    counts = [max(block.shape[2] for block in step) for step in steps]
    if len(counts) > 1 and counts[1] > counts[0]:
        # A model without a cache computes every row again.
        steps, counts = steps[-1:], counts[-1:]
    matrices = []
    for layer in range(len(steps[0])):
        blocks = [step[layer][row] for step in steps]
        total = sum(counts)
        width = total if kind == "self" else blocks[0].shape[2]
        matrix = blocks[0].new_full((blocks[0].shape[0], total, width), torch.nan)
        stop = 0
        for block, count in zip(blocks, counts, strict=True):
            stop += count
            start = stop - block.shape[1]
            keys = min(block.shape[2], stop) if kind == "self" else width
            last = stop if kind == "self" else width
            matrix[:, start:stop] = 0.0
            matrix[:, start:stop, last - keys : last] = block[:, :, :keys]
        matrices.append(matrix)
    return matrices


def text_columns(inputs: Inputs, row: int, extra: int) -> Tensor | None:
    """``[column]`` which columns of a decoder-only model's text are no padding; None if all are not."""
    mask = inputs.get("attention_mask")
    if mask is None or "input_ids" not in inputs or mask.shape[1] != inputs["input_ids"].shape[1]:
        return None
    return torch.cat([mask[row], mask.new_ones(extra)]).bool()


def encoder_columns(inputs: Inputs, row: int) -> Tensor | None:
    """``[column]`` which positions of the encoder are no padding, as far as its input has one mask a position."""
    mask = inputs.get("attention_mask")
    return None if mask is None else mask[row].bool()


def _ways(model: PreTrainedModel, done: Generated, row: int) -> Iterator[tuple[str, Inputs, Tensor | None]]:
    """Ways to feed the whole text at once: a name, the inputs, and which columns are no padding."""
    given, text = done.inputs, done.sequences[:, :-1]
    if is_encoder_decoder(model):
        yield "full forward", given | {"decoder_input_ids": text.contiguous()}, None
        return
    if text.dim() != 2 or text.shape[0] != len(done.logits):
        return
    keep = text_columns(given, row, text.shape[1] - given["input_ids"].shape[1])
    keep = torch.ones(text.shape[1], dtype=torch.bool) if keep is None else keep
    alone = {name: value[row : row + 1] for name, value in given.items()}
    alone |= {
        "input_ids": text[row : row + 1, keep],
        "attention_mask": torch.ones(1, int(keep.sum()), dtype=torch.long),
    }
    yield "full forward", alone, None
    if _takes(model, "position_ids"):
        yield "full forward", alone | {"position_ids": torch.arange(int(keep.sum()))[None]}, None
    mask = torch.cat([given["attention_mask"], torch.ones_like(text[:, given["input_ids"].shape[1] :])], 1)
    padded = given | {"input_ids": text, "attention_mask": mask}
    if _takes(model, "position_ids"):
        yield "padded forward", padded | {"position_ids": (mask.cumsum(-1) - 1).clamp_min(0)}, keep
    yield "padded forward", padded, keep


def _read(output: Any) -> Fragment:
    decoder = output.get("decoder_attentions")
    found: dict[Kind, Any] = {
        "self": decoder if decoder is not None else output.get("attentions"),
        "cross": output.get("cross_attentions"),
        "encoder": output.get("encoder_attentions"),
    }
    attentions: dict[Kind, list[Tensor]] = {}
    for kind, layers in found.items():
        # Two streams come as a pair, of which the first is the text's.
        streams = [layer[0] if isinstance(layer, tuple) else layer for layer in layers or ()]
        attentions[kind] = [layer for layer in streams if isinstance(layer, Tensor)]
    return Fragment({kind: layers for kind, layers in attentions.items() if layers}, output.get("logits"))


def _takes(module: nn.Module, name: str) -> bool:
    parameters = inspect.signature(module.forward).parameters
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    return name in parameters or (open_ended and name == "output_attentions")


def _near(logits: Tensor, others: Tensor) -> bool:
    return torch.allclose(logits, others, rtol=AGREES, atol=AGREES)


def _cut(matrices: dict[Kind, list[Tensor]], text: Tensor | None, encoder: Tensor | None) -> dict[Kind, list[Tensor]]:
    """Take padding off queries and keys."""
    axes = {"self": (text, text), "cross": (text, encoder), "encoder": (encoder, encoder)}
    cut: dict[Kind, list[Tensor]] = {}
    for kind, layers in matrices.items():
        rows, columns = axes[kind]
        cut[kind] = [_cut_rows(_cut_rows(layer, rows, -2), columns, -1) for layer in layers]
    return cut


def _cut_rows(tensor: Tensor, keep: Tensor | None, dim: int = 0) -> Tensor:
    """Keep some of an axis; all of it where the columns are counted differently."""
    if keep is None or tensor.shape[dim] != len(keep):
        return tensor
    return tensor.index_select(dim, keep.nonzero().flatten())
