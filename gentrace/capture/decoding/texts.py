"""Each token's share of the decoded text.

Decoding tokens one by one gives the wrong text: spaces vanish and a character that spans several byte-level tokens
falls apart. So the whole text is decoded once, and each token is given what its prefix adds to it.
"""

from typing import Any

WINDOW = 64
WIDE_WINDOW = 512


def split_text(tokenizer: Any, ids: list[int]) -> tuple[str, ...]:
    """Split the decoded text among its tokens.

    Args:
        tokenizer: A Hugging Face tokenizer, or None.
        ids: Token ids; negative where unknown, which decode to nothing.

    Returns:
        One piece a token; joined they are the decoded text of the known ids. A character that spans several tokens
        belongs to the last of them. Without a tokenizer each piece is the id in brackets.
    """
    if tokenizer is None:
        return tuple(f"[{token}]" for token in ids)
    known = [token for token in ids if token >= 0]
    pieces = iter(_split_known(tokenizer, known))
    return tuple(next(pieces) if token >= 0 else "" for token in ids)


def single_texts(tokenizer: Any, ids: list[list[int]]) -> tuple[tuple[str, ...], ...]:
    """Decode alternatives one by one; negative ids are left out."""
    distinct = sorted({token for row in ids for token in row if token >= 0})
    texts = {token: f"[{token}]" if tokenizer is None else _decode(tokenizer, [token]) for token in distinct}
    return tuple(tuple(texts[token] for token in row if token >= 0) for row in ids)


def _decode(tokenizer: Any, ids: list[int]) -> str:
    return tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def _split_known(tokenizer: Any, ids: list[int]) -> list[str]:
    whole = _decode(tokenizer, ids)
    pieces = _pieces(tokenizer, ids, WINDOW)
    if "".join(pieces) != whole:
        # Some tokenizers (SentencePiece's leading space, spaces between special tokens) decode differently by context.
        pieces = _pieces(tokenizer, ids, WIDE_WINDOW)
    return pieces if "".join(pieces) == whole else _cut(whole, pieces)


class Splitter:
    """Takes token after token and says what each adds to the text, seen from a few tokens back."""

    def __init__(self, tokenizer: Any, window: int = WINDOW) -> None:
        """Begin with no token.

        Args:
            tokenizer: A Hugging Face tokenizer.
            window: Tokens to look back at, at most.
        """
        self._tokenizer = tokenizer
        self._window = window
        self._ids: list[int] = []
        self._shown = ""

    def add(self, token: int, *, last: bool = False) -> str:
        """The next token's share: nothing for a part of a character, unless it is the ``last`` token."""
        self._ids.append(token)
        text = _decode(self._tokenizer, self._ids)
        if (text.endswith("\ufffd") and not last) or not text.startswith(self._shown):
            return ""
        piece, self._shown = text[len(self._shown) :], text
        if len(self._ids) >= self._window:
            # The next decode starts at this token, whose own text must then be taken off again.
            self._ids = [token]
            self._shown = _decode(self._tokenizer, self._ids)
        return piece


def _pieces(tokenizer: Any, ids: list[int], window: int) -> list[str]:
    splitter = Splitter(tokenizer, window)
    return [splitter.add(token, last=index == len(ids) - 1) for index, token in enumerate(ids)]


def _cut(whole: str, pieces: list[str]) -> list[str]:
    """Cut the text where the pieces suggest; what they do not account for goes to the last token."""
    cuts, place = [], 0
    for piece in pieces:
        found = whole.find(piece, place) if piece else place
        place = found + len(piece) if found >= 0 else place
        cuts.append(place)
    if cuts:
        cuts[-1] = len(whole)
    return [whole[start:stop] for start, stop in zip([0, *cuts[:-1]], cuts, strict=True)]
