"""`evaluate` modules that ship with the package, and evaluate's evaluators, so that scoring needs no network."""

from .evaluators import evaluator
from .loading import METRICS, load_metric


__all__ = ["METRICS", "evaluator", "load_metric"]
