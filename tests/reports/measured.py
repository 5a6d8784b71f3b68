"""Measures of a user's own, as a study finds them by module and name."""

from gentrace.trace.trace import Trace


def letters(trace: Trace) -> float:
    """Letters of the text."""
    return float(sum(map(str.isalpha, trace.tokens.text)))


def no_cats(trace: Trace) -> float:
    """Fails on some texts.

    Raises:
        ValueError: If the text has a cat in it.
    """
    if " cat." in trace.tokens.text:
        raise ValueError("no cats please")
    return 1.0
