"""Two texts side by side: which tokens of one stand opposite which of the other.

Texts are compared word by word, and inside equal words character by character, so that two tokenizers that cut the same
text differently still meet at every place where both cut. What lies between two such places is a block. Where the texts
differ, words stand opposite words in order.

An attention matrix is brought to blocks so that its meaning stays: weights are shares of one row, so over the keys of a
block they are added up; over its queries, whose rows each add up to 1, they are averaged.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import accumulate, pairwise

import torch
from jaxtyping import Bool, Float32
from torch import Tensor

# Signs that are words of their own stand alone, so that a sentence without spaces is not one word.
_SIGNS = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_WORD = re.compile(rf"\s*(?:[{_SIGNS}]|[^\W{_SIGNS}]+|[^\w\s]+)|\s+")


@dataclass(frozen=True, slots=True)
class Block:
    """Tokens that stand opposite each other."""

    first: range
    """Positions in the first text; empty if only the second has these."""
    second: range
    """Positions in the second text; empty if only the first has these."""
    same: bool
    """Whether both sides are the same text."""

    @property
    def paired(self) -> bool:
        """Whether both texts have something here."""
        return bool(self.first) and bool(self.second)

    @property
    def merged(self) -> bool:
        """Whether several tokens of either text stand here as one."""
        return len(self.first) > 1 or len(self.second) > 1


@dataclass(frozen=True, slots=True)
class Alignment:
    """Two texts as a row of blocks; every token of each is in exactly one, in order."""

    blocks: tuple[Block, ...]

    @property
    def is_trivial(self) -> bool:
        """Whether every token stands opposite one of the same text."""
        return all(block.same and not block.merged for block in self.blocks)

    def clipped(self, first: int, second: int) -> "Alignment":
        """Without positions from ``first`` on in the first text, and from ``second`` on in the second."""
        cut = [(_below(block.first, first), _below(block.second, second), block.same) for block in self.blocks]
        return Alignment(tuple(Block(one, two, same and bool(one and two)) for one, two, same in cut if one or two))

    def around(self, first: range, count: int) -> "Alignment":
        """The blocks from those that hold a range of the first text.

        Args:
            first: Positions in the first text, at least one.
            count: Positions in the whole first text; if the range reaches its end, blocks after that stay.
        """
        held = [
            place
            for place, block in enumerate(self.blocks)
            if max(block.first.start, first.start) < min(block.first.stop, first.stop)
        ]
        stop = len(self.blocks) if first.stop >= count else held[-1] + 1
        start = 0 if first.start == 0 else held[0]
        return Alignment(self.blocks[start:stop])

    def spans(self, which: int) -> list[range]:
        """The blocks' positions in the first (0) or the second (1) text."""
        return [block.second if which else block.first for block in self.blocks]


def align(first: Sequence[str], second: Sequence[str]) -> Alignment:
    """Put two texts side by side.

    Args:
        first: The tokens' texts; joined they are the text. A token without text belongs to the one after it.
        second: The same of the other text.

    Returns:
        Blocks in order. Tokens that are equal one by one are blocks of one; where the same text is cut differently, a
        block reaches to the next place where both cut. Where texts differ, words stand opposite words in order, and
        what is left over of the longer stands alone; of two such words, tokens stand one by one if they are as many,
        and else as far as they are equal.
    """
    return Alignment(tuple(_split(first, second, _cuts(first, second))))


def merge_keys(weights: Float32[Tensor, "query key"], spans: Sequence[range]) -> Float32[Tensor, "query block"]:
    """Weights of each block of keys: the sum over its keys; NaN for an empty block.

    Args:
        weights: ``[query, key]`` of keys that begin with the first of the spans.
        spans: The keys of each block, in order.
    """
    merged = torch.full((weights.shape[0], len(spans)), torch.nan)
    for place, span in _inside(spans):
        merged[:, place] = weights[:, span].sum(-1)
    return merged


def merge_queries(rows: Float32[Tensor, "query block"], spans: Sequence[range]) -> Float32[Tensor, "blocks block"]:
    """Rows of each block of queries: the mean over its queries that were seen; NaN if there is none.

    Args:
        rows: ``[query, block]`` of queries that begin with the first of the spans; NaN where there is nothing.
        spans: The queries of each block, in order.
    """
    merged = torch.full((len(spans), rows.shape[1]), torch.nan)
    for place, span in _inside(spans):
        merged[place] = rows[span].nanmean(0)
    return merged


def merge_seen(visible: Bool[Tensor, "query key"], queries: Sequence[range], keys: Sequence[range]) -> Tensor:
    """``[block, block]`` whether any query of a block could look at any key of another.

    Args:
        visible: ``[query, key]`` where each query could look.
        queries: The queries of each block.
        keys: The keys of each block.
    """
    some = merge_keys(visible.float(), keys)
    return merge_queries(some, queries).nan_to_num() > 0


def _inside(spans: Sequence[range]) -> Iterator[tuple[int, slice]]:
    """Where each span that is not empty lies in a matrix that begins with the first of them."""
    start = min((span.start for span in spans if span), default=0)
    for place, span in enumerate(spans):
        if span:
            yield place, slice(span.start - start, span.stop - start)


def _below(positions: range, stop: int) -> range:
    return range(positions.start, max(positions.start, min(positions.stop, stop)))


def _cuts(first: Sequence[str], second: Sequence[str]) -> list[tuple[int, int]]:
    """Token boundaries that both texts have at one place, from (0, 0) to both ends."""
    places = [_boundaries(texts) for texts in (first, second)]
    cuts = [(0, 0)]
    for one, other in _places("".join(first), "".join(second)):
        cut = places[0].get(one), places[1].get(other)
        if cut[0] is None or cut[1] is None:
            continue
        if cut[0] >= cuts[-1][0] and cut[1] >= cuts[-1][1] and cut != cuts[-1]:
            cuts.append((cut[0], cut[1]))
    if cuts[-1] != (len(first), len(second)):
        cuts.append((len(first), len(second)))
    return cuts


def _boundaries(texts: Sequence[str]) -> dict[int, int]:
    """The token that begins at each offset; of those without text, the first."""
    found: dict[int, int] = {}
    for token, offset in enumerate(accumulate(map(len, texts), initial=0)):
        found.setdefault(offset, token)
    return found


def _places(first: str, second: str) -> Iterator[tuple[int, int]]:
    """Offsets in two texts that mean the same place, in order."""
    if first == second:
        yield from zip(range(len(first) + 1), range(len(first) + 1), strict=True)
        return
    words = [[match.span() for match in _WORD.finditer(text)] for text in (first, second)]
    cores = [
        [text[start:stop].strip() for start, stop in spans] for text, spans in zip((first, second), words, strict=True)
    ]
    matcher = SequenceMatcher(None, cores[0], cores[1], autojunk=False)
    for what, start, stop, other, other_stop in matcher.get_opcodes():
        for place in range(max(stop - start, other_stop - other)):
            one = words[0][min(start + place, stop - 1)] if stop > start else None
            two = words[1][min(other + place, other_stop - 1)] if other_stop > other else None
            if what == "equal" and one is not None and two is not None:
                inner = len(cores[0][start + place])
                yield from zip(range(one[1] - inner, one[1]), range(two[1] - inner, two[1]), strict=True)
            ends = one[1] if one else words[0][start - 1][1] if start else 0
            yield ends, two[1] if two else words[1][other - 1][1] if other else 0


def _split(first: Sequence[str], second: Sequence[str], cuts: Sequence[tuple[int, int]]) -> Iterator[Block]:
    """The blocks between cuts; those that fall apart into single tokens, apart."""
    for (start, other), (stop, other_stop) in pairwise(cuts):
        one, two = first[start:stop], second[other:other_stop]
        if not one or not two or list(one) == list(two):
            yield from _singles(first, second, range(start, stop), range(other, other_stop))
        elif "".join(one) == "".join(two):
            yield Block(range(start, stop), range(other, other_stop), True)
        elif len(one) == len(two):
            yield from _singles(first, second, range(start, stop), range(other, other_stop))
        else:
            yield from _unlike(first, second, range(start, stop), range(other, other_stop))


def _unlike(first: Sequence[str], second: Sequence[str], mine: range, theirs: range) -> Iterator[Block]:
    """The blocks of two words that differ: equal tokens one by one, and what lies between them."""
    matcher = SequenceMatcher(None, [first[at] for at in mine], [second[at] for at in theirs], autojunk=False)
    for what, start, stop, other, other_stop in matcher.get_opcodes():
        one, two = mine[start:stop], theirs[other:other_stop]
        if what == "replace" and len(one) != len(two):
            yield Block(one, two, _joined(first, one) == _joined(second, two))
        else:
            yield from _singles(first, second, one, two)


def _singles(first: Sequence[str], second: Sequence[str], mine: range, theirs: range) -> Iterator[Block]:
    """One token opposite one, of two ranges of the same length; or one opposite none."""
    for place in range(max(len(mine), len(theirs))):
        one, two = mine[place : place + 1], theirs[place : place + 1]
        yield Block(one, two, bool(one) and bool(two) and first[one.start] == second[two.start])


def _joined(texts: Sequence[str], positions: range) -> str:
    return "".join(texts[positions.start : positions.stop])
