"""What the model thought of each token. Entry t was predicted at row t − 1; entry 0 was predicted by nothing.

A token without probabilities is NaN: the first one, tokens whose rows were not seen, images.
"""

from typing import Literal

from gentrace.analysis.errors import MeasureError
from gentrace.analysis.measure import Array, Measure
from gentrace.analysis.registry import register
from gentrace.analysis.units import Unit, per_unit
from gentrace.trace.trace import Trace


@register
def token_surprise(trace: Trace, *, unit: Unit = "nats", under: Literal["model", "sampler"] = "model") -> Measure:
    """How unexpected each token was: −ln p of the token that came.

    Surprisal, as in Hale 2001, "A Probabilistic Earley Parser as a Psycholinguistic Model".

    Args:
        trace: The trace.
        unit: "nats" or "bits".
        under: "model" for the model's own distribution; "sampler" for the one really sampled from, after processors and
            warpers, which is known for generated tokens only.

    Returns:
        ``[position]`` in the unit.

    Raises:
        MeasureError: If the unit or the distribution does not exist.
    """
    if under not in ("model", "sampler"):
        raise MeasureError("measuring token_surprise", f"under={under!r}", 'give "model" or "sampler"')
    tokens = trace.tokens
    logprobs = tokens.logprobs if under == "model" else tokens.sampled_logprobs
    # Adding 0 turns −0 into 0.
    return _per_position("token_surprise", -logprobs.double().numpy() * per_unit(unit) + 0.0, unit)


@register
def token_entropy(trace: Trace, *, unit: Unit = "nats") -> Measure:
    """How uncertain the model was before each token: the entropy of its own distribution, −Σ p ln p.

    Shannon 1948, "A Mathematical Theory of Communication", section 6.

    Args:
        trace: The trace.
        unit: "nats" or "bits".

    Returns:
        ``[position]`` in the unit.

    Raises:
        MeasureError: If the unit does not exist.
    """
    return _per_position("token_entropy", trace.tokens.entropy.double().numpy() * per_unit(unit), unit)


@register
def token_rank(trace: Trace) -> Measure:
    """How many tokens the model held for more likely than the one that came: 0 is its first choice.

    As in Gehrmann et al. 2019, "GLTR: Statistical Detection and Visualization of Generated Text", section 3.

    Args:
        trace: The trace.

    Returns:
        ``[position]`` in places.
    """
    rank = trace.tokens.rank.double()
    return _per_position("token_rank", rank.masked_fill(rank < 0, float("nan")).numpy(), "places")


def _per_position(name: str, values: Array, unit: str) -> Measure:
    return Measure(name, values, ("position",), unit, {"position": tuple(range(len(values)))})
