"""What is seen of a page where no script may run: on a code host, in a notebook that is not trusted, on paper.

Such places also drop style sheets, and some of them inline styles. So the text reads as text without any colour, and
what a token's colour means stands in its tooltip too. Token text is untrusted and escaped.
"""

import html
from collections.abc import Mapping

from gentrace.trace.tokens import Tokens
from gentrace.trace.trace import Trace
from gentrace.views import theme
from gentrace.views.labels import running

MOST_TOKENS = 600
"""Tokens that are shown of a longer text."""
MOST_TRACES = 4
"""Traces that are shown of many."""
_RAMP = ", ".join(theme.LIGHT.probability)


def still(traces: Mapping[str, Trace]) -> str:
    """The texts, each token underlined in the colour of its probability, as HTML without a script.

    Args:
        traces: Finished traces by name.
    """
    shown = [_one(name, trace) for name, trace in list(traces.items())[:MOST_TRACES]]
    left = len(traces) - len(shown)
    if left > 0:
        shown.append(f"<p>… and {left} more.</p>")
    return f'<div style="max-width:60em">{"".join(shown)}</div>'


def _one(name: str, trace: Trace) -> str:
    given = trace.tokens.prompt_length
    layers = ", ".join(f"{count} of {kind}-attention" for kind, count in _layers(trace).items())
    facts = f"{given} tokens given, {len(trace.tokens) - given} written · layers: {layers}"
    source = trace.encoder_tokens
    read = "" if source is None else f"<p>read: {_words(source, 0)}</p>"
    return (
        f"<p><b>{html.escape(name)}</b> · {facts}</p>{read}<p>{_words(trace.tokens, given)}</p>"
        f'<p><small><span style="background:linear-gradient(to right, {_RAMP});padding:0 2em">&nbsp;</span> '
        "a token’s probability, 0 … 1; what was given is in italics</small></p>"
    )


def _layers(trace: Trace) -> dict[str, int]:
    kinds = [info.kind for info in trace.layers]
    return {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)}


def _words(tokens: Tokens, given: int) -> str:
    chances = tokens.logprobs.exp().tolist()
    words: list[str] = []
    for place, text in enumerate(tokens.texts[:MOST_TOKENS]):
        # A token without a text of its own has its share in the next one.
        shown = html.escape(running(text)).replace("\n", "<br>") if text else ""
        chance = chances[place]
        if chance == chance and shown:
            line = theme.mix(theme.LIGHT.probability, chance)
            shown = f'<span title="{chance:.1%}" style="border-bottom:3px solid {line}">{shown}</span>'
        words.append(f"<i>{shown}</i>" if place < given else shown)
    return "".join(words) + (" …" if len(tokens.texts) > MOST_TOKENS else "")
