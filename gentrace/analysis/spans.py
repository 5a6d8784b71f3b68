"""Parts of a text by name: a document, a question, a system message, a block of reasoning.

A span is runs of positions. It can be said in tokens, in characters of the text, by its own words, or read off a chat
template's markers; all of them end as positions here, once.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, TypeAlias

from gentrace.analysis.errors import MeasureError
from gentrace.trace.tokens import Tokens


@dataclass(frozen=True, slots=True)
class Span:
    """A named part of a text."""

    name: str
    """What it is called in results."""
    ranges: tuple[range, ...]
    """Runs of positions; empty for a part that is not there."""

    @property
    def positions(self) -> set[int]:
        """All its positions."""
        return {position for run in self.ranges for position in run}


SpanRequest: TypeAlias = str | Mapping[str, Any] | Sequence[Span]
"""See `find_spans`."""


def find_spans(tokens: Tokens, spans: SpanRequest) -> tuple[Span, ...]:
    """Turn what was asked for into spans.

    Args:
        tokens: The tokens that are keys.
        spans: "prompt" for the prompt and what was generated; "roles" for a chat's roles (`role_spans`); spans; or for
            each name

            * ``(start, stop)`` or a list of such: token positions;
            * ``{"tokens": …}``: the same;
            * ``{"characters": (start, stop)}`` or a list of such: offsets into ``tokens.text``;
            * ``{"text": words}``: every place where these words stand.

    Returns:
        The spans, in the order in which they were asked for.

    Raises:
        MeasureError: If a span lies outside of the text, its words do not occur, or it is not understood.
    """
    if isinstance(spans, str):
        if spans == "prompt":
            cut = tokens.prompt_length
            return Span("prompt", (range(cut),)), Span("generated", (range(cut, len(tokens)),))
        if spans == "roles":
            return role_spans(tokens)
        raise MeasureError("choosing spans", f"got {spans!r}", 'give "prompt", "roles", or spans by name')
    if isinstance(spans, Mapping):
        return tuple(_one_span(tokens, str(name), request) for name, request in spans.items())
    for span in spans:
        _check_span(span)
        for run in span.ranges:
            _check_run(span.name, "tokens", run.start, run.stop, len(tokens))
    return tuple(spans)


def character_span(tokens: Tokens, name: str, *offsets: tuple[int, int]) -> Span:
    """The tokens of a stretch of characters.

    A token belongs to the stretch that its middle falls into, so that neighbouring stretches share no token. A token
    without text (part of a character) goes with the next one that has some.

    Args:
        tokens: The tokens.
        name: The span's name.
        *offsets: First character and one past the last, counted in ``tokens.text``.

    Returns:
        The span; a stretch without characters has no tokens.

    Raises:
        MeasureError: If a stretch lies outside of the text, or within one token's half, so that it has no token.
    """
    middles = _middles(tokens)
    runs: list[range] = []
    for start, stop in offsets:
        _check_run(name, "characters", start, stop, len(tokens.text))
        inside = [position for position, middle in enumerate(middles) if start <= middle < stop]
        if stop > start and not inside:
            raise MeasureError(
                f"finding the tokens of span {name!r}",
                f"characters {start} … {stop - 1} hold no token's middle",
                "widen it, or give token positions",
            )
        runs += _runs(inside)
    return Span(name, tuple(runs))


def text_span(tokens: Tokens, name: str, words: str) -> Span:
    """The tokens of every place where these words stand in the text.

    Raises:
        MeasureError: If they do not occur.
    """
    found = [(match.start(), match.end()) for match in re.finditer(re.escape(words), tokens.text)] if words else []
    if words and not found:
        raise MeasureError(
            f"finding span {name!r}", f"the text does not contain {words[:60]!r}", "give words as they stand there"
        )
    return character_span(tokens, name, *found)


_ANY = r"(?P<content>.*?)"
_TEMPLATES = tuple(
    re.compile(pattern, re.DOTALL)
    for pattern in (
        rf"<\|im_start\|>(?P<role>[^\n]*)\n{_ANY}(?:<\|im_end\|>|\Z)",
        rf"<\|start_header_id\|>(?P<role>.*?)<\|end_header_id\|>\n\n{_ANY}(?:<\|eot_id\|>|<\|eom_id\|>|\Z)",
        rf"<\|header_start\|>(?P<role>.*?)<\|header_end\|>\n\n{_ANY}(?:<\|eot\|>|<\|eom\|>|\Z)",
        rf"<\|start_of_role\|>(?P<role>\w+).*?<\|end_of_role\|>{_ANY}(?:<\|end_of_text\|>|\Z)",
        rf"<｜(?P<role>User|Assistant)｜>{_ANY}(?=<｜(?:User|Assistant|end▁of▁sentence)｜>|\Z)",
        rf"<start_of_turn>(?P<role>[^\n]*)\n{_ANY}(?:<end_of_turn>|\Z)",
        r"<\|start\|>(?P<role>\w+)(?:[^<]*<\|channel\|>(?P<channel>\w+))?[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>"
        rf"{_ANY}(?:<\|end\|>|<\|return\|>|<\|call\|>|\Z)",
        rf"<\|(?P<role>system|user|assistant)\|>\n?{_ANY}"
        r"(?=<\|end\|>|<\|endoftext\|>|</s>|<\|(?:system|user|assistant)\|>|\Z)",
        rf"(?P<role>\[SYSTEM_PROMPT\]|\[INST\]|\[/INST\]){_ANY}(?=\[/SYSTEM_PROMPT\]|\[INST\]|\[/INST\]|</s>|\Z)",
    )
)
_ROLES = {"[SYSTEM_PROMPT]": "system", "[INST]": "user", "User": "user"}
_ROLES.update({"model": "assistant", "[/INST]": "assistant", "Assistant": "assistant"})
_REASONING = re.compile(r"<think>(?P<content>.*?)(?:</think>|\Z)", re.DOTALL)


def role_spans(tokens: Tokens, messages: Sequence[Mapping[str, str]] | None = None) -> tuple[Span, ...]:
    """The parts of a chat by role, without the template's markers; one span a role, with a run for each turn.

    Without ``messages``, roles are read off the markers in the text: of ChatML (Qwen, SmolLM, …), Llama 3 and 4,
    Granite, DeepSeek, Gemma, gpt-oss, Phi-3 and Zephyr, and Mistral. What stands in ``<think>…</think>`` in an
    assistant's turn, or in the channel "analysis", is the span "reasoning". Markers that a user wrote count as markers.

    Args:
        tokens: The tokens.
        messages: The chat as it was given to the template, each with "role" and "content". Contents are looked for in
            the text in their order, for any template that keeps their words; what was generated after the last message
            is the assistant's.

    Returns:
        Spans in the order in which roles first speak.

    Raises:
        MeasureError: If the text has no markers that are known, or a message's content is not found.
    """
    turns = _marked_turns(tokens.text) if messages is None else _message_turns(tokens, messages)
    offsets: dict[str, list[tuple[int, int]]] = {}
    for role, start, stop in turns:
        for name, first, last in _without_reasoning(tokens.text, role, start, stop):
            offsets.setdefault(name, []).append((first, last))
    middles = _middles(tokens)
    return tuple(
        Span(
            name,
            tuple(
                run
                for start, stop in pairs
                for run in _runs([place for place, middle in enumerate(middles) if start <= middle < stop])
            ),
        )
        for name, pairs in offsets.items()
    )


def _marked_turns(text: str) -> list[tuple[str, int, int]]:
    """Role, first character and one past the last, of each turn, by the first template whose markers occur."""
    for template in _TEMPLATES:
        turns: list[tuple[str, int, int]] = []
        for match in template.finditer(text):
            thinking = match.groupdict().get("channel") == "analysis"
            role = "reasoning" if thinking else _ROLES.get(match["role"], match["role"].strip())
            turns.append((role, *match.span("content")))
        if turns:
            return turns
    raise MeasureError(
        "finding the roles of a chat",
        "the text has no chat template's markers that are known",
        "give messages= to role_spans, or spans by characters or tokens",
    )


def _message_turns(tokens: Tokens, messages: Sequence[Mapping[str, str]]) -> list[tuple[str, int, int]]:
    text, place = tokens.text, 0
    turns: list[tuple[str, int, int]] = []
    for number, message in enumerate(messages):
        content = message["content"].strip()
        start = text.find(content, place)
        if start < 0:
            raise MeasureError(
                f"finding message {number} ({message['role']}) in the text",
                f"{content[:60]!r} does not occur after character {place}",
                "give the messages as they stand in the text, in their order",
            )
        place = start + len(content)
        turns.append((message["role"], start, place))
    prompt = len("".join(tokens.texts[: tokens.prompt_length]))
    if len(text) > prompt >= place:
        turns.append(("assistant", prompt, len(text)))
    return turns


def _without_reasoning(text: str, role: str, start: int, stop: int) -> list[tuple[str, int, int]]:
    """An assistant's turn, cut where it thinks; the tags belong to neither part."""
    if role != "assistant":
        return [(role, start, stop)]
    parts: list[tuple[str, int, int]] = []
    for match in _REASONING.finditer(text, start, stop):
        parts += [("assistant", start, match.start()), ("reasoning", *match.span("content"))]
        start = match.end()
    return [*(part for part in parts if part[2] > part[1]), ("assistant", start, stop)]


def _one_span(tokens: Tokens, name: str, request: Any) -> Span:
    if isinstance(request, Mapping) and len(request) == 1:
        ((how, what),) = request.items()
        if how == "characters":
            return character_span(tokens, name, *_pairs(name, what))
        if how == "text" and isinstance(what, str):
            return text_span(tokens, name, what)
        if how == "tokens":
            return _token_span(tokens, name, what)
    elif not isinstance(request, Mapping | str):
        return _token_span(tokens, name, request)
    raise MeasureError(
        f"reading span {name!r}", f"got {request!r}", 'give (start, stop), {"characters": …} or {"text": …}'
    )


def _token_span(tokens: Tokens, name: str, what: Any) -> Span:
    pairs = _pairs(name, what)
    for start, stop in pairs:
        _check_run(name, "tokens", start, stop, len(tokens))
    return Span(name, tuple(range(start, stop) for start, stop in pairs))


def _pairs(name: str, what: Any) -> list[tuple[int, int]]:
    """One pair of integers or several, as several."""
    several = [what] if _is_pair(what) else what
    if not isinstance(several, Sequence) or not all(_is_pair(pair) for pair in several):
        raise MeasureError(f"reading span {name!r}", f"got {what!r}", "give (start, stop) or a list of such")
    return [(start, stop) for start, stop in several]


def _is_pair(what: Any) -> bool:
    return isinstance(what, Sequence) and len(what) == 2 and all(isinstance(end, int) for end in what)


def _check_span(span: Any) -> None:
    if not isinstance(span, Span):
        raise MeasureError("choosing spans", f"got {span!r}", "give spans, or a mapping from names to requests")


def _check_run(name: str, what: str, start: int, stop: int, count: int) -> None:
    if not 0 <= start <= stop <= count:
        raise MeasureError(f"reading span {name!r}", f"{what} {start} … {stop} of {count}", "choose some inside")


def _middles(tokens: Tokens) -> list[float]:
    """For each token the character offset of its middle."""
    ends = list(accumulate(map(len, tokens.texts)))
    middles = [end - len(text) / 2 for end, text in zip(ends, tokens.texts, strict=True)]
    for position in reversed(range(len(middles))):
        if not tokens.texts[position]:
            after = middles[position + 1] if position + 1 < len(middles) else max(ends[-1] - 0.5, 0.0)
            middles[position] = after
    return middles


def _runs(positions: Sequence[int]) -> list[range]:
    """Ascending positions as runs."""
    runs: list[range] = []
    for position in positions:
        if runs and runs[-1].stop == position:
            runs[-1] = range(runs[-1].start, position + 1)
        else:
            runs.append(range(position, position + 1))
    return runs
