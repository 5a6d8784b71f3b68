"""What a trace means, in numbers: pure functions from a trace to named values with axes and units.

A measure is a function of a trace that returns a `Measure`. `measures` lists them by name, for studies; a function of
one's own can stand wherever a name can, and `register` gives it a name. Row p is token p looking back; it predicts
token p + 1: along ``query`` stands the position that looks, along ``position`` the token that was predicted.
"""

from gentrace.analysis.correlation import pooled_surprise_correlation, surprise_correlation
from gentrace.analysis.effects import cliffs_delta, cohens_d, contrast
from gentrace.analysis.errors import MeasureError
from gentrace.analysis.masses import lookback_ratio, span_mass
from gentrace.analysis.measure import Measure
from gentrace.analysis.patterns import (
    duplicate_token_mass,
    duplicate_token_score,
    induction_mass,
    induction_score,
    previous_token_mass,
    previous_token_score,
)
from gentrace.analysis.registry import MeasureFunction, evaluate, find, measures, register
from gentrace.analysis.rollout import attention_flow, attention_rollout
from gentrace.analysis.rows import attention_entropy, first_token_mass, learned_sink_mass, mean_distance, sink_mass
from gentrace.analysis.similarity import HeadClusters, cluster_heads, head_distance
from gentrace.analysis.spans import Span, find_spans, role_spans
from gentrace.analysis.statistics import Estimate, adjusted, mean_interval, summarize
from gentrace.analysis.tokens import token_entropy, token_rank, token_surprise
from gentrace.analysis.vectors import value_norms, value_weighted_attention

__all__ = [
    "Estimate",
    "HeadClusters",
    "Measure",
    "MeasureError",
    "MeasureFunction",
    "Span",
    "adjusted",
    "attention_entropy",
    "attention_flow",
    "attention_rollout",
    "cliffs_delta",
    "cluster_heads",
    "cohens_d",
    "contrast",
    "duplicate_token_mass",
    "duplicate_token_score",
    "evaluate",
    "find",
    "find_spans",
    "first_token_mass",
    "head_distance",
    "induction_mass",
    "induction_score",
    "learned_sink_mass",
    "lookback_ratio",
    "mean_distance",
    "mean_interval",
    "measures",
    "pooled_surprise_correlation",
    "previous_token_mass",
    "previous_token_score",
    "register",
    "role_spans",
    "sink_mass",
    "span_mass",
    "summarize",
    "surprise_correlation",
    "token_entropy",
    "token_rank",
    "token_surprise",
    "value_norms",
    "value_weighted_attention",
]
