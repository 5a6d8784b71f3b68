"""Decoders as people write them at home; each keeps the weights that it computed, for tests to compare with."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HEADS, DIM, VOCAB = 4, 12, 31
Attend = Callable[[Tensor, Tensor, Tensor, "Attention"], tuple[Tensor, Tensor]]


def causal(queries: int, keys: int) -> Tensor:
    """[query, key] true where visible."""
    return torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries)


class Attention(nn.Module):
    """Projections around one way to write attention, which gives output and weights."""

    def __init__(self, attend: Attend, kv_heads: int = HEADS) -> None:
        super().__init__()
        self.attend = attend
        self.kv_heads = kv_heads
        self.q = nn.Linear(HEADS * DIM, HEADS * DIM)
        self.k, self.v = (nn.Linear(HEADS * DIM, kv_heads * DIM) for _ in range(2))
        self.out = nn.Linear(HEADS * DIM, HEADS * DIM)
        self.sinks = nn.Parameter(torch.randn(HEADS))
        self.mixing = nn.Parameter(torch.randn(HEADS, HEADS))
        self.temperature = nn.Parameter(torch.rand(HEADS, 1, 1) + 0.5)
        self.register_buffer("mask", causal(64, 64)[None, None])
        self.register_buffer("root", torch.tensor(math.sqrt(DIM)))
        self.past: tuple[Tensor, Tensor] | None = None
        self.caches = False
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).unflatten(-1, (-1, DIM)).transpose(1, 2) for f in (self.q, self.k, self.v))
        if self.caches:
            if self.past is not None:
                k, v = (torch.cat(pair, 2) for pair in zip(self.past, (k, v), strict=True))
            self.past = k, v
        output, weights = self.attend(q, k, v, self)
        self.seen.append(weights.detach().clone())
        return self.out(output.transpose(1, 2).flatten(2))


class Router(nn.Module):
    """A mixture of experts whose router is a softmax over a product with weights."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.randn(HEADS * DIM, 3))
        self.experts = nn.ModuleList(nn.Linear(HEADS * DIM, HEADS * DIM) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        shares = (x @ self.gate).softmax(-1) + (x @ self.gate.t().float().t()).softmax(-1)
        shares = shares + F.linear(x, F.normalize(self.gate).t()).softmax(-1)
        return sum(share[..., None] * expert(x) for share, expert in zip(shares.unbind(-1), self.experts, strict=True))


class Decoder(nn.Module):
    """Blocks of attention and experts."""

    def __init__(self, attend: Attend, layers: int = 2, kv_heads: int = HEADS) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(VOCAB, HEADS * DIM)
        self.layers = nn.ModuleList(Attention(attend, kv_heads) for _ in range(layers))
        self.routers = nn.ModuleList(Router() for _ in range(layers))
        self.head = nn.Linear(HEADS * DIM, VOCAB)
        with torch.no_grad():
            for layer in self.layers:
                layer.q.weight.mul_(4)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        for layer, router in zip(self.layers, self.routers, strict=True):
            x = x + layer(x)
            x = x + router(x) / 4
        return self.head(x)

    def run(self, ids: Tensor) -> list[Tensor]:
        """Weights ``[batch, head, query, key]`` of each layer in one forward."""
        for layer in self.layers:
            layer.seen, layer.past = [], None
        with torch.no_grad():
            self(ids)
        return [layer.seen[-1] for layer in self.layers]


def plain(q: Tensor, k: Tensor, v: Tensor, own: Attention) -> tuple[Tensor, Tensor]:
    att = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.size(-1)))
    att = att.masked_fill(own.mask[:, :, k.shape[2] - q.shape[2] : k.shape[2], : k.shape[2]] == 0, float("-inf"))
    att = F.softmax(att, dim=-1)
    return F.dropout(att, 0.1, False) @ v, att


def fused(q: Tensor, k: Tensor, v: Tensor, own: Attention) -> tuple[Tensor, Tensor]:
    output = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    with torch.no_grad():
        return output, torch.where(causal(*q.shape[2:3], k.shape[2]), q @ k.mT / math.sqrt(DIM), -torch.inf).exp()


def in_place(q: Tensor, k: Tensor, v: Tensor, own: Attention) -> tuple[Tensor, Tensor]:
    scores = torch.einsum("bhqd,bhkd->bhqk", q, k)
    scores /= own.root
    scores.masked_fill_(~causal(q.shape[2], k.shape[2]), torch.finfo(q.dtype).min)
    weights = torch.softmax(scores, -1)
    kept = weights.clone()
    scores.zero_()
    return torch.einsum("bhqk,bhkd->bqhd", weights, v).transpose(1, 2), kept


def written_into(q: Tensor, k: Tensor, v: Tensor, own: Attention) -> tuple[Tensor, Tensor]:
    scores = (q * DIM**-0.5).matmul(k.mT)
    scores[(~causal(q.shape[2], k.shape[2])).expand_as(scores)] = -1e9
    weights = scores.softmax(dim=3)
    return weights.matmul(v), weights


def repeated(q: Tensor, k: Tensor, v: Tensor, own: Attention) -> tuple[Tensor, Tensor]:
    k, v = (tensor.repeat_interleave(HEADS // own.kv_heads, dim=1) for tensor in (k, v))
    return plain(q, k, v, own)


def grouped(q: Tensor, k: Tensor, v: Tensor, own: Attention) -> tuple[Tensor, Tensor]:
    q = q.unflatten(1, (own.kv_heads, -1))
    scores = torch.einsum("bngqd,bnkd->bngqk", q, k) / math.sqrt(DIM)
    scores = scores + torch.zeros(scores.shape[-2:]).masked_fill(~causal(*scores.shape[-2:]), -torch.inf)
    weights = scores.softmax(-1)
    return torch.einsum("bngqk,bnkd->bngqd", weights, v).flatten(1, 2), weights.flatten(1, 2)


def merged(q: Tensor, k: Tensor, v: Tensor, own: Attention) -> tuple[Tensor, Tensor]:
    shape = q.shape[:2]
    q, k, v = (tensor.flatten(0, 1) for tensor in (q, k, v))
    empty = torch.empty(q.shape[0], q.shape[1], k.shape[1])
    scores = torch.baddbmm(empty, q, k.transpose(1, 2), beta=0, alpha=DIM**-0.5)
    scores = scores + torch.full(scores.shape[1:], -1e9).masked_fill(causal(*scores.shape[1:]), 0)
    weights = torch.softmax(scores.float(), -1).type_as(scores)
    return torch.bmm(weights, v).unflatten(0, shape), weights.unflatten(0, shape)


def capped(q: Tensor, k: Tensor, v: Tensor, own: Attention) -> tuple[Tensor, Tensor]:
    scores = torch.matmul(q, k.transpose(2, 3)) * DIM**-0.5
    scores = torch.tanh(scores / 2.5) * 2.5
    weights = torch.where(own.mask[..., : q.shape[2], : k.shape[2]], scores, torch.tensor(-1e4)).softmax(-1)
    return weights @ v, weights


def alibi(q: Tensor, k: Tensor, v: Tensor, own: Attention) -> tuple[Tensor, Tensor]:
    slopes = 2.0 ** -torch.arange(1, HEADS + 1)
    bias = slopes[:, None, None] * torch.arange(k.shape[2])
    scores = torch.add(q @ k.mT, bias[None], alpha=3.0) / math.sqrt(DIM)
    weights = (scores - (1 - causal(q.shape[2], k.shape[2]).float()) * 1e10).softmax(-1)
    return weights @ v, weights


def with_sinks(q: Tensor, k: Tensor, v: Tensor, own: Attention) -> tuple[Tensor, Tensor]:
    scores = (q @ k.mT / math.sqrt(DIM)).masked_fill(~causal(q.shape[2], k.shape[2]), -torch.inf)
    sinks = own.sinks.reshape(1, -1, 1, 1).expand(len(q), -1, q.shape[2], -1)
    both = torch.cat([scores, sinks], dim=-1)
    both = both - both.max(dim=-1, keepdim=True).values
    weights = F.softmax(both, dim=-1)[..., :-1]
    return weights @ v, weights


def tempered(q: Tensor, k: Tensor, v: Tensor, own: Attention) -> tuple[Tensor, Tensor]:
    scores = (q @ k.mT) * own.temperature * math.log(k.shape[2] + 2)
    weights = scores.masked_fill(~causal(q.shape[2], k.shape[2]), -torch.inf).softmax(-1)
    return weights @ v, weights


def talking(q: Tensor, k: Tensor, v: Tensor, own: Attention) -> tuple[Tensor, Tensor]:
    """Heads exchange scores before softmax: a product with weights, which is no scale."""
    scores = torch.einsum("hg,bgqk->bhqk", own.mixing, q @ k.mT) / math.sqrt(DIM)
    weights = scores.masked_fill(~causal(q.shape[2], k.shape[2]), -torch.inf).softmax(-1)
    return weights @ v, weights


def by_keys(q: Tensor, k: Tensor, v: Tensor, own: Attention) -> tuple[Tensor, Tensor]:
    """Softmax along another axis than the last."""
    scores = (k @ q.mT / math.sqrt(DIM)).masked_fill(~causal(q.shape[2], k.shape[2]).mT, -torch.inf)
    weights = scores.softmax(-2).mT
    return weights @ v, weights


def summed(q: Tensor, k: Tensor, v: Tensor, own: Attention) -> tuple[Tensor, Tensor]:
    """The values are not mixed by a product."""
    scores = (q @ k.mT / math.sqrt(DIM)).masked_fill(~causal(q.shape[2], k.shape[2]), -torch.inf)
    weights = scores.softmax(-1)
    return (weights[..., None] * v[:, :, None]).sum(3), weights


def noisy(q: Tensor, k: Tensor, v: Tensor, own: Attention) -> tuple[Tensor, Tensor]:
    """Something unknown happens to the scores."""
    scores = torch.sin(q @ k.mT / math.sqrt(DIM)) * 3
    weights = scores.masked_fill(~causal(q.shape[2], k.shape[2]), -torch.inf).softmax(-1)
    return weights @ v, weights


class Multihead(nn.Module):
    """torch's own layer, in any of its ways."""

    def __init__(self, batch_first: bool, need_weights: bool, mask: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(VOCAB, HEADS * DIM)
        self.layers = nn.ModuleList(nn.MultiheadAttention(HEADS * DIM, HEADS, batch_first=batch_first) for _ in "ab")
        self.head = nn.Linear(HEADS * DIM, VOCAB)
        self.batch_first, self.need_weights, self.kind = batch_first, need_weights, mask
        self.seen: list[Tensor] = []
        with torch.no_grad():
            for layer in self.layers:
                layer.in_proj_weight.mul_(4)

    def forward(self, ids: Tensor, padding: Tensor | None = None) -> Tensor:
        x = self.embed(ids)
        hidden = ~causal(ids.shape[1], ids.shape[1])
        mask = hidden if self.kind == "bool" else torch.zeros(hidden.shape).masked_fill(hidden, -torch.inf)
        for layer in self.layers:
            given = x if self.batch_first else x.transpose(0, 1)
            output, weights = layer(
                given,
                given,
                given,
                attn_mask=mask,
                key_padding_mask=padding,
                need_weights=self.need_weights,
                average_attn_weights=False,
            )
            if weights is not None:
                self.seen.append(weights.detach().clone())
            x = x + (output if self.batch_first else output.transpose(0, 1))
        return self.head(x)


class Inlined(nn.Module):
    """Attention written into the block, beside the MLP, with the sublayers in another order."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(HEADS * DIM, 32), nn.GELU(), nn.Linear(32, HEADS * DIM))
        self.norm = nn.LayerNorm(HEADS * DIM)
        self.qkv = nn.Linear(HEADS * DIM, 3 * HEADS * DIM)
        self.softmax = nn.Softmax(dim=-1)
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm(x)
        q, k, v = self.qkv(normed).unflatten(-1, (3, HEADS, DIM)).permute(2, 0, 3, 1, 4)
        weights = self.softmax((q @ k.mT * 3).masked_fill(~causal(x.shape[1], x.shape[1]), -torch.inf))
        self.seen.append(weights.detach().clone())
        return x + self.mlp(normed) + (weights @ v).transpose(1, 2).flatten(2)


class Blocks(nn.Module):
    """A decoder of `Inlined` blocks."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(VOCAB, HEADS * DIM)
        self.blocks = nn.ModuleList(Inlined() for _ in "ab")
        self.head = nn.Linear(HEADS * DIM, VOCAB)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x)
        return self.head(x)
