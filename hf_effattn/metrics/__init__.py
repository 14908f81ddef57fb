"""Metrics as `evaluate` modules, and the evaluators of `evaluate`. Scoring needs no network."""

from .evaluators import evaluator
from .loading import METRICS, load_metric


__all__ = ["METRICS", "evaluator", "load_metric"]
