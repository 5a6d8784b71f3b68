"""Tokens and the probabilities that the model gave them.

Entry t describes the distribution that predicted token t, which the model computed at row t − 1. Entry 0 was predicted
by nothing and holds NaN or −1.
"""

from dataclasses import dataclass

import torch

from gentrace.axes import PerPosition, Positions, TopIds, TopLogprobs


@dataclass(frozen=True, slots=True, eq=False)
class Tokens:
    """The text of a trace, token by token. Logarithms are natural (nats)."""

    ids: Positions
    """[position] token ids; −1 where a cache was handed in and the id is unknown."""
    texts: tuple[str, ...]
    """Each token's share of the decoded text; joined they are the text. A character that spans several tokens belongs
    to the last of them, the others are empty."""
    prompt_length: int
    """Number of tokens that were given; the rest was generated."""
    logprobs: PerPosition
    """[position] log-probability of the token under the model itself."""
    sampled_logprobs: PerPosition
    """[position] log-probability under the distribution really sampled from, after processors and warpers; NaN before
    ``prompt_length`` and where nothing was sampled."""
    entropy: PerPosition
    """[position] entropy of the model's own distribution."""
    rank: Positions
    """[position] how many tokens the model held for more likely: 0 is its first choice, −1 is unknown."""
    top_ids: TopIds
    """[position, k] the model's most likely tokens, best first; −1 where unknown."""
    top_logprobs: TopLogprobs
    """[position, k] their log-probabilities under the model itself."""
    top_sampled_logprobs: TopLogprobs
    """[position, k] their log-probabilities under the distribution really sampled from; −inf where it excluded them."""
    top_texts: tuple[tuple[str, ...], ...]
    """Each alternative decoded on its own, for display."""
    kinds: tuple[str, ...]
    """What stands at each position: "text"; "image", "video" or "audio" for a placeholder of such; "virtual" for a
    learned prefix before the text; "embedding" where the model was given vectors, or a cache, and no ids."""

    @classmethod
    def unpredicted(cls, ids: Positions, texts: tuple[str, ...], kinds: tuple[str, ...]) -> "Tokens":
        """Tokens that were only read, so that nothing predicted them."""
        count = len(ids)
        unknown = torch.full((count,), torch.nan)
        return cls(
            ids=ids,
            texts=texts,
            prompt_length=count,
            logprobs=unknown,
            sampled_logprobs=unknown,
            entropy=unknown,
            rank=torch.full((count,), -1),
            top_ids=torch.zeros(count, 0, dtype=torch.int64),
            top_logprobs=torch.zeros(count, 0),
            top_sampled_logprobs=torch.zeros(count, 0),
            top_texts=((),) * count,
            kinds=kinds,
        )

    def __len__(self) -> int:
        """Number of tokens, the last sampled one included."""
        return len(self.ids)

    @property
    def text(self) -> str:
        """The whole decoded text."""
        return "".join(self.texts)
