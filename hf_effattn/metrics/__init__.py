"""Metrics as `evaluate` modules, and the evaluators of `evaluate`. Scoring needs no network."""

from ..extras import needs_extra


with needs_extra("train"):
    from .evaluators import evaluator
    from .loading import METRICS, load_metric


__all__ = ["METRICS", "evaluator", "load_metric"]
