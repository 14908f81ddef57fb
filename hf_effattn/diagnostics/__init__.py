"""Looks inside a model: measures of its layers, a callback that logs them, and a figure of its attention."""

from .collect import diagnose
from .measures import (
    attention_entropy,
    denominator_range,
    effective_rank,
    memory_cosine,
    stable_rank,
    state_norm,
    weight_sum,
)


__all__ = [
    "attention_entropy",
    "denominator_range",
    "diagnose",
    "effective_rank",
    "memory_cosine",
    "stable_rank",
    "state_norm",
    "weight_sum",
]
