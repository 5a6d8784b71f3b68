"""What a generation answered and whether a head looked at the city, as measures that the runner can find by name.

They read everything off the trace's text: "In the new atlas, the capital of Germany is Madrid. The capital of
Germany is". Results are kept per generation, so that a study can be grouped by what its model answered.
"""

import re

import numpy as np

from gentrace.analysis import Measure, span_mass
from gentrace.trace.trace import Trace
from scripts.studies.capitals import CAPITALS

QUESTION = re.compile(r"The capital of (?P<country>[A-Z][\w ]*) is$")
CONTEXT = re.compile(r"the capital of [\w ]+ is (?P<city>[A-Z][\w ]*)\.")


def answers_capital(trace: Trace) -> Measure:
    """1 if the text goes on with the country's capital, else 0."""
    prompt, completion = _parts(trace)
    asked = QUESTION.search(prompt)
    return _yes_or_no("answers_capital", asked is not None and completion.startswith(CAPITALS[asked["country"]]))


def answers_context(trace: Trace) -> Measure:
    """1 if the text goes on with the city of the sentence before, else 0; NaN without such a sentence."""
    prompt, completion = _parts(trace)
    told = CONTEXT.search(prompt)
    return _yes_or_no("answers_context", None if told is None else completion.startswith(told["city"]))


def city_attention(trace: Trace) -> Measure:
    """``[layer, head]`` weight on the city in the row that predicts the answer's first token; NaN without a city."""
    told = CONTEXT.search(_parts(trace)[0])
    last = trace.tokens.prompt_length
    spans = {"city": {"characters": told.span("city")}} if told is not None else {"city": []}
    found = span_mass(trace, spans, queries=(last - 1, last), rest=None).select(span="city").mean("query")
    values = found.values if told is not None else np.full(found.values.shape, np.nan)
    return Measure("city_attention", values, found.axes, "share", found.coordinates)


def _parts(trace: Trace) -> tuple[str, str]:
    texts, cut = trace.tokens.texts, trace.tokens.prompt_length
    return "".join(texts[:cut]), "".join(texts[cut:]).strip()


def _yes_or_no(name: str, value: bool | None) -> Measure:
    return Measure(name, np.asarray(float("nan") if value is None else float(value)), (), "share", {})
