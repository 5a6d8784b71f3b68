"""Log-probabilities, ranks and alternatives, reduced as they pass; full-vocabulary logits are never kept.

A generated token's logits are reduced at the step after it, when the token is known. Generation computes no logits for
the prompt but the last row's, so the prompt's final hidden states are kept instead (a few kilobytes a token) and put
through the model's own output head when somebody reads the tokens.
"""

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass, fields
from types import SimpleNamespace
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

HOOK_POINT = "fwd_hooks"
"""What tells TransformerLens' hook points, which would call the user's hooks once more."""
GROUP = 64
"""Values of which only the largest is looked at first."""
WIDE = 8192
"""Values of a row from which on that pays."""
CHUNK_BYTES = 16 * 2**20
HEAD_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3, torch.float16: 5e-2, torch.bfloat16: 3e-1}


@dataclass(frozen=True, slots=True, eq=False)
class Readout:
    """What is kept of one row's distribution per sequence, and of the token that followed."""

    chosen: Tensor
    """[batch] the token that followed."""
    logprob: Tensor
    """[batch] its log-probability."""
    entropy: Tensor
    """[batch] of the distribution, in nats."""
    rank: Tensor
    """[batch] tokens that were more likely."""
    top_ids: Tensor
    """[batch, k] most likely tokens."""
    top_logprobs: Tensor
    """[batch, k] their log-probabilities."""
    sampled_logprob: Tensor | None = None
    """[batch] the token's log-probability under the distribution really sampled from."""
    top_sampled_logprobs: Tensor | None = None
    """[batch, k] the alternatives' log-probabilities under it."""

    def each(self, change: Callable[[Tensor], Tensor]) -> "Readout":
        """The readout with every quantity changed alike."""
        columns: list[Any] = [getattr(self, field.name) for field in fields(self)]
        changed: list[Any] = [None if column is None else change(column) for column in columns]
        return Readout(*changed)


def read_out(
    logits: Float[Tensor, "batch vocab"],
    chosen: Int[Tensor, " batch"],
    top_k: int,
    sampled: Float[Tensor, "batch vocab"] | None = None,
    scratch: Tensor | None = None,
) -> Readout:
    """Reduce distributions to what is kept of them.

    Args:
        logits: ``[batch, vocab]`` of the model itself.
        chosen: ``[batch]`` the token that followed; negative where unknown.
        top_k: Alternatives to keep.
        sampled: ``[batch, vocab]`` processed scores that were sampled from; None to leave them out.
        scratch: float32 ``[2, batch, vocab]`` to compute in, for who reduces again and again. Its first half may be the
            logits themselves, which are written over then.

    Returns:
        The readout; NaN and −1 for the token where it is unknown.
    """
    logits = logits.detach().float()
    shifted, weights = torch.empty(2, *logits.shape, device=logits.device) if scratch is None else scratch
    known = chosen >= 0
    index = chosen.clamp_min(0)[:, None]
    # Before anything is rounded: neighbours among the logits may have one logarithm.
    top_ids = _top(logits, min(top_k, logits.shape[-1]))
    own, top = logits.gather(-1, index), logits.gather(-1, top_ids)
    rank = _rank(logits, own, top, weights)
    total = _weigh(logits, top[:, :1], shifted, weights)
    norm = total.log()
    entropy = norm[:, 0] - _product(weights, shifted) / total[:, 0]
    norm = norm + top[:, :1]
    sampled_own = sampled_top = None
    if sampled is not None:
        sampled = sampled.float()
        largest = sampled.amax(-1, keepdim=True)
        # What was sampled from may weigh a token by nothing at all, and then it is infinitely far below.
        below = _weigh(sampled, largest, shifted, weights).log() + largest
        sampled_own = (sampled.gather(-1, index) - below)[:, 0].masked_fill(~known, torch.nan)
        sampled_top = sampled.gather(-1, top_ids) - below
    return Readout(
        chosen,
        (own - norm)[:, 0].masked_fill(~known, torch.nan),
        entropy,
        rank.masked_fill(~known, -1),
        top_ids,
        top - norm,
        sampled_own,
        sampled_top,
    )


def _weigh(logits: Tensor, largest: Tensor, shifted: Tensor, weights: Tensor) -> Tensor:
    """``[batch, 1]`` the sum of all tokens' weights, of which the largest is 1.

    Args:
        logits: ``[batch, vocab]``.
        largest: ``[batch, 1]`` the largest of each row.
        shifted: ``[batch, vocab]`` set to the logits, less the largest.
        weights: ``[batch, vocab]`` set to the exponentials of that.
    """
    torch.sub(logits, largest, out=shifted)
    return torch.exp(shifted, out=weights).sum(-1, keepdim=True)


def _product(weights: Tensor, shifted: Tensor) -> Tensor:
    """``[batch]`` sum of the products of each row; a token that the model excludes, 0 * -inf, counts as 0.

    Both are overwritten.
    """
    if weights.device.type == "cpu":
        product = weights.mul_(shifted).sum(-1)
        if not bool(product.isnan().any()):
            return product
        torch.exp(shifted, out=weights)
    return weights.mul_(shifted.clamp_min_(-1e30)).sum(-1)


def _rank(logits: Tensor, own: Tensor, top: Tensor, scratch: Tensor) -> Tensor:
    """``[batch]`` how many logits are above the token's ``own [batch, 1]``, given the largest ``top [batch, k]``.

    All of them are among the largest, where the token is; looking there first would make a GPU wait.
    """
    if logits.device.type == "cpu" and bool((own >= top[:, -1:]).all()):
        return (top > own).sum(-1)
    # Counted as float32, which is exact up to 2**24 tokens and several times as fast on a CPU as counting booleans.
    return torch.gt(logits, own, out=scratch).sum(-1).long()


def _top(values: Tensor, count: int) -> Tensor:
    """Where the largest values of each row are, the largest first.

    On a CPU, sorting out the groups that can hold them first takes a fifth of the time that ``topk`` takes.
    """
    width = values.shape[-1]
    groups = width // GROUP
    if values.device.type != "cpu" or width < WIDE or width % GROUP or groups <= count:
        return values.topk(count, dim=-1).indices
    grouped = values.unflatten(-1, (groups, GROUP))
    holding = grouped.amax(-1).topk(count, dim=-1).indices
    candidates = grouped.gather(1, holding[..., None].expand(-1, -1, GROUP)).flatten(1)
    place = candidates.topk(count, dim=-1).indices
    return holding.gather(1, place // GROUP) * GROUP + place % GROUP


def split(readout: Readout, batch: int) -> list[Readout]:
    """Take readouts that were made together apart, ``batch`` rows each."""
    starts = range(0, len(readout.chosen), batch)
    return [readout.each(lambda column, start=start: column[start : start + batch]) for start in starts]


class OutputHead:
    """The model's own way from final hidden states to logits, whatever it is: scaled, capped, biased or tied.

    The model's forward runs on a shell of the model in which the decoder is replaced by the hidden states; the model
    itself is not touched.
    """

    def __init__(self, model: nn.Module, decoder: nn.Module) -> None:
        """Prepare the shell.

        Args:
            model: The model with its head.
            decoder: The module inside ``model`` that makes the hidden states.
        """
        path = next(name for name, module in model.named_modules() if module is decoder).split(".")
        self._stub = _Decoder(decoder)
        self._shell = inner = _shell(model)
        shells = [inner]
        for name in path[:-1]:
            inner._modules[name] = _shell(inner._modules[name])
            inner = inner._modules[name]
            shells.append(inner)
        inner._modules[path[-1]] = self._stub
        for shell in shells:
            for name, child in shell._modules.items():
                if any(hasattr(part, HOOK_POINT) for part in child.modules()) and child not in shells:
                    shell._modules[name] = _whole_shell(child)
        self._weights = [(weight, _version(weight)) for weight in self._shell.parameters()]

    def unchanged(self) -> bool:
        """Whether the head's weights are still those of the recording."""
        return all(_version(weight) == version for weight, version in self._weights)

    def logits(self, hidden: Float[Tensor, "position hidden"]) -> Float[Tensor, "position vocab"]:
        """Logits of these final hidden states."""
        self._stub.hidden = hidden[None]
        ids = torch.zeros(1, hidden.shape[0], dtype=torch.long, device=hidden.device)
        try:
            return type(self._shell).forward(self._shell, input_ids=ids, use_cache=False, return_dict=True).logits[0]
        finally:
            self._stub.hidden = None


def _version(weight: Tensor) -> int:
    """How often a weight was changed in place; tensors made in inference mode do not count, and cannot change."""
    return 0 if weight.is_inference() else weight._version


def _shell(module: nn.Module) -> Any:
    """A copy that shares the weights, but neither children, hooks nor replaced methods."""
    shell = copy.copy(module)
    # A shallow copy shares the dictionaries of hooks and children with the module, so they must be replaced.
    shell.__dict__ = {
        name: cast(Any, type(value))()
        if name.endswith(("_hooks", "_hooks_with_kwargs", "_hooks_always_called"))
        else value
        for name, value in module.__dict__.items()
        if not (callable(value) and hasattr(type(module), name))
    }
    shell.__dict__["_modules"] = dict(module._modules)
    return shell


def _whole_shell(module: Any) -> Any:
    """A copy of a module and of all that it contains."""
    shell = _shell(module)
    shell._modules = {name: None if child is None else _whole_shell(child) for name, child in module._modules.items()}
    return shell


class _Decoder(nn.Module):
    """Stands in for the decoder and hands out the hidden states that it is given."""

    hidden: Tensor | None = None

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        # Kept out of the module tree: only its settings are looked at.
        self.__dict__["_decoder"] = decoder

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_decoder"], name)

    def forward(self, *args: Any, **options: Any) -> Any:
        return _Output(last_hidden_state=self.hidden)


class _Output(SimpleNamespace):
    """A decoder's output of which only the hidden states are known."""

    def __getattr__(self, name: str) -> None:
        return None

    def __getitem__(self, index: int) -> Tensor:
        return (self.last_hidden_state,)[index]


def read_prompt(
    head: OutputHead, hidden: Float[Tensor, "position hidden"], chosen: Int[Tensor, " position"], top_k: int
) -> Readout:
    """Reduce the distributions that final hidden states lead to, in chunks.

    Args:
        head: The model's output head.
        hidden: ``[position, hidden]`` final hidden states.
        chosen: ``[position]`` the token that followed each.
        top_k: Alternatives to keep.

    Returns:
        A readout with positions in place of sequences.
    """
    parts: list[Readout] = []
    rows = 1
    start = 0
    while start < len(hidden):
        logits = head.logits(hidden[start : start + rows])
        parts.append(read_out(logits, chosen[start : start + rows], top_k))
        start += rows
        rows = max(1, CHUNK_BYTES // (4 * logits.shape[-1]))
    names = ("chosen", "logprob", "entropy", "rank", "top_ids", "top_logprobs")
    return Readout(*(torch.cat([getattr(part, name) for part in parts]) for name in names))


def agrees(head: OutputHead, hidden: Float[Tensor, "1 hidden"], top_ids: Tensor, top_logprobs: Tensor) -> bool:
    """Whether the head reproduces a distribution that the model itself computed.

    Args:
        head: The head.
        hidden: ``[1, hidden]`` the row's final hidden state.
        top_ids: ``[1, k]`` that row's most likely tokens, from the model's own logits.
        top_logprobs: ``[1, k]`` their log-probabilities.
    """
    logprobs = head.logits(hidden).float().log_softmax(-1).cpu()
    known = top_ids >= 0
    difference = (logprobs.gather(-1, top_ids.clamp_min(0)) - top_logprobs)[known].abs().max()
    return bool(difference <= HEAD_TOLERANCE.get(hidden.dtype, 1e-1))


def warn_unreadable(reason: str) -> None:
    """Say that the prompt's probabilities cannot be had."""
    warnings.warn(f"the prompt's probabilities are missing (NaN): {reason}", RuntimeWarning, stacklevel=3)
